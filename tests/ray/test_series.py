"""Batch retraining: a run on the files that were added, from the model of the run before."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load

from runner.config import parse_job
from runner.errors import ConfigError, DataError, RunExistsError
from runner.privacy.accountant import epsilon
from runner.privacy.budget import SpendingLedger
from runner.run_directory import RunDirectory
from runner.storage import open_folder
from runner.submit.launch import Launch
from runner.submit.start import resume_run, start_run
from tests.ray import observers
from tests.runs import history_of, small_job, status_of, write_records


def submit(job: dict[str, Any], **data: Any) -> dict[str, Any]:
    config = parse_job(job | {"data": job["data"] | data}, environment={})
    return start_run(config, Launch(quiet=True))[0]


def add_shard(records: Path, name: str, count: int = 200) -> None:
    pq.write_table(
        pa.table({"text": [f"{name},{number % 7},yes" for number in range(count)]}), records / f"{name}.parquet"
    )


def files_of(run: Path) -> list[str]:
    return [file["name"] for file in json.loads((run / "files.json").read_text())["own"]]


def test_each_run_trains_on_the_files_that_are_new_and_from_the_last_model(tmp_path: Path) -> None:
    records, runs = write_records(tmp_path / "records"), tmp_path / "runs"
    job = small_job("claims", records, runs, epochs=1, callbacks=["tests.ray.observers:see_weights"])
    assert submit(job, since="last")["run"].endswith("/claims"), "the first trains on all"
    assert files_of(runs / "claims") == [f"part-{number}.parquet" for number in range(3)]

    nothing = submit(job, since="last")
    assert nothing["state"] == "nothing new"
    assert not (runs / "claims.002").exists()

    for number, name in ((2, "anna"), (3, "emil")):
        add_shard(records, name)
        last = max(runs.glob("claims*"), key=lambda path: path.name)
        observers.seen_weights.clear()
        slow = job | {"training": job["training"] | {"optimizer": {"name": "sgd", "learning_rate": 1e-9}}}
        submit(slow, since="last")
        run = runs / f"claims.{number:03d}"
        assert status_of(run)["state"] == "done"
        assert files_of(run) == [f"{name}.parquet"]
        assert RunDirectory(open_folder(str(run))).read_config().data.since == last.name
        assert (run / "tokenizer" / "tokenizer.json").read_bytes() == (
            last / "tokenizer" / "tokenizer.json"
        ).read_bytes()
        before = load((last / "model" / "weights.safetensors").read_bytes())
        for key, weights in observers.seen_weights[0].items():
            assert abs(weights - before[key]).max() < 1e-6, "hardly a step away from the last run's model"


def test_a_resume_trains_on_the_files_that_the_run_began_with(tmp_path: Path) -> None:
    records, runs = write_records(tmp_path / "records"), tmp_path / "runs"
    (records / "notes.txt").write_text("not a record")
    submit(small_job("growing", records, runs, epochs=1))
    add_shard(records, "dora")
    directory = RunDirectory.find(str(runs / "growing"))
    resume_run(directory, ["training.epochs=2"], Launch(quiet=True))
    assert len(history_of(runs / "growing")) == 2
    assert "dora.parquet" not in files_of(runs / "growing")
    logs = "".join(path.read_text() for path in (runs / "growing" / "logs").iterdir())
    assert logs.count("notes.txt") == 1, "what is not read is said once"


def test_what_cannot_go_on_is_refused_in_one_line_and_writes_nothing(tmp_path: Path) -> None:
    records, runs = write_records(tmp_path / "records"), tmp_path / "runs"
    job = small_job("first", records, runs, epochs=1)
    submit(job)
    add_shard(records, "dora")
    before = sorted(path.name for path in runs.iterdir())
    wider = job | {"model": job["model"] | {"rnn_units": 20}}
    private = job | {"privacy": {"enabled": True, "noise_multiplier": 1.0, "vocabulary": "private"}}
    for changed, message in (
        (wider, "model differs from run first"),
        (private, "was trained without privacy; a model that starts from it can claim none"),
    ):
        with pytest.raises(ConfigError, match=message):
            submit(changed, since="last")
    status = RunDirectory(open_folder(str(runs / "first"))).current_status()
    RunDirectory(open_folder(str(runs / "first"))).update_status(state="training", pid=os.getpid())
    with pytest.raises(RunExistsError, match="first is training on the files that are new; wait for its end"):
        submit(job, since="last")
    RunDirectory(open_folder(str(runs / "first"))).write_status(status)
    add_shard(records, "part-1", count=300)
    with pytest.raises(DataError, match=r"part-1\.parquet has changed since run first trained on it"):
        submit(job, since="last")
    assert sorted(path.name for path in runs.iterdir()) == before


def test_a_private_series_costs_each_record_its_own_file_s_runs(tmp_path: Path) -> None:
    records, runs = write_records(tmp_path / "records"), tmp_path / "runs"
    private = {"privacy": {"enabled": True, "noise_multiplier": 1.0}, "tokenizer": {"kind": "byte"}}
    job = small_job("claims", records, runs, epochs=1) | private
    submit(job, since="last", max_records=600)
    assert files_of(runs / "claims") == ["part-0.parquet", "part-1.parquet"], "it came to no more"
    add_shard(records, "anna")
    submit(job, since="last")
    assert files_of(runs / "claims.002") == ["anna.parquet", "part-2.parquet"]
    statement = json.loads((runs / "claims.002" / "privacy.json").read_text())
    assert statement["earlier_runs"] == [], "these files were in no run before"
    assert statement["epsilon_with_earlier_runs"] == statement["epsilon_of_run"]
    (link,) = statement["chain"]
    assert link["epsilon"] == json.loads((runs / "claims" / "model" / "privacy.json").read_text())["epsilon"]
    assert statement["epsilon"] == max(link["epsilon"], statement["epsilon_of_run"])
    assert "run claims;" in statement["also_touched_the_records"]["first weights"]
    first, second = {entry.run_id: entry for entry in SpendingLedger(open_folder(str(runs))).read()}.values()
    assert not set(first.files) & set(second.files)
    spent = [(second.mechanism, second.steps)]
    assert statement["epsilon_of_run"] == pytest.approx(epsilon(spent, statement["delta_of_run"]))
