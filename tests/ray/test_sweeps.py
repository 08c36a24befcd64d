"""Sweeps under Ray Tune: real runs, ranked; failures, early ends and stops; what a private one costs."""

from __future__ import annotations

import csv
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from runner.config import parse_job
from runner.driver import drive
from runner.errors import ConfigError, JobFailedError, JobStoppedError, RunExistsError
from runner.model.artifact import load_model
from runner.privacy.accountant import epsilon
from runner.privacy.ledger import RunLedger
from runner.run_directory import RunDirectory
from runner.storage import open_folder
from runner.submit.launch import Launch
from runner.submit.start import resume_run, start_run
from tests.runs import history_of, names_of_no_run, small_job, status_of

UNITS = {"model.rnn_units": {"choice": [8, 12]}}


def sweep_job(name: str, records: Path, runs: Path, sweep: dict[str, Any], **sections: Any) -> dict[str, Any]:
    return small_job(name, records, runs) | {"sweep": sweep} | sections


def run_sweep(job: dict[str, Any]) -> Path:
    start_run(parse_job(job, environment={}), Launch(quiet=True))
    return Path(job["storage"]["uri"]) / job["name"]


def resume(run: Path, *overrides: str) -> None:
    directory = RunDirectory.find(str(run))
    resume_run(directory, overrides, Launch(quiet=True))


def table_of(sweep: Path) -> list[dict[str, str]]:
    with (sweep / "sweep.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def swept(records: Path, runs: Path) -> Path:
    """Two good trials, and one whose batches no records fill."""
    sweep = {"parameters": {"training.batch_size": {"choice": [32, 100_000, 64]}}, "search": "grid"}
    return run_sweep(sweep_job("swept", records, runs, sweep))


def test_every_trial_is_a_run_and_the_table_ranks_them(swept: Path) -> None:
    rows = table_of(swept)
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert [row["state"] for row in rows] == ["done", "done", "failed"]
    assert float(rows[0]["val_loss"]) <= float(rows[1]["val_loss"])
    for row in rows[:2]:
        run = swept.parent / row["run"]
        assert status_of(run)["state"] == "done"
        kept = next(each for each in history_of(run) if each["best"] == "1")
        assert float(row["val_loss"]) == float(kept["val_loss"])
        assert RunDirectory.find(str(run)).read_config().training.batch_size == int(row["training.batch_size"])
    assert status_of(swept)["state"] == "done"
    assert json.loads((swept / "sweep.json").read_text())["best"] == rows[0]["run"]


def test_a_failing_trial_is_in_the_table_with_its_error_and_ends_nothing(swept: Path) -> None:
    failed = table_of(swept)[2]
    assert failed["training.batch_size"] == "100000"
    assert "lower training.batch_size" in failed["error"]
    assert status_of(swept.parent / failed["run"])["state"] == "failed"
    assert "1 failed" in status_of(swept)["message"]


def test_the_best_trial_s_model_is_the_sweep_s(swept: Path) -> None:
    best = swept.parent / table_of(swept)[0]["run"]
    for name in ("weights.safetensors", "model.json"):
        assert (swept / "model" / name).read_bytes() == (best / "model" / name).read_bytes()
    load_model(open_folder(str(swept)).child("model"))


def test_tokens_are_made_once_and_outside_the_trials(swept: Path, records: Path, tmp_path: Path) -> None:
    run = run_sweep(sweep_job("shared", records, tmp_path, {"parameters": UNITS, "search": "grid"}))
    tokens = list((tmp_path / ".cache" / "tokens").iterdir())
    assert len(tokens) == 1
    manifest = (tokens[0] / "manifest.json").stat().st_mtime
    for row in table_of(run):
        assert manifest < json.loads((tmp_path / row["run"] / "status.json").read_text())["created"]


def test_a_resume_leaves_trials_that_are_over_alone_and_can_add_more(records: Path, tmp_path: Path) -> None:
    run = run_sweep(sweep_job("more", records, tmp_path, {"parameters": UNITS, "trials": 1}))
    before = (tmp_path / "more-000" / "status.json").read_bytes()
    resume(run, "sweep.trials=3")
    assert [row["state"] for row in table_of(run)] == ["done"] * 3
    assert (tmp_path / "more-000" / "status.json").read_bytes() == before
    with pytest.raises(ConfigError, match="a resume cannot change this"):
        resume(run, "sweep.seed=3")
    (tmp_path / "more-003").mkdir()
    (tmp_path / "more-003" / "job.yaml").write_text("name: more-003")
    with pytest.raises(RunExistsError, match=r"more-003: not empty and no run: it holds job\.yaml"):
        resume(run, "sweep.trials=4")
    assert len(table_of(run)) == 3


def test_asha_ends_trials_that_are_behind_and_leaves_no_cpu_taken(records: Path, tmp_path: Path) -> None:
    sweep = {
        "parameters": {"training.optimizer.learning_rate": {"choice": [0.02, 1e-6, 2e-6, 3e-6]}},
        "search": "grid",
        "scheduler": "asha",
        "max_concurrent": 1,
    }
    job = sweep_job("asha", records, tmp_path, sweep)
    job["training"] |= {"epochs": 9, "early_stopping": {"enabled": False}}
    config = parse_job(job, environment={})
    RunDirectory.of(config).claim(config, "local")
    drive(str(tmp_path / "asha"), threading.Event())
    all_cpus, deadline = ray.cluster_resources()["CPU"], time.monotonic() + 30
    while ray.available_resources().get("CPU") != all_cpus and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ray.available_resources().get("CPU") == all_cpus
    assert all(group["state"] == "REMOVED" for group in ray.util.placement_group_table().values())
    rows = {float(row["training.optimizer.learning_rate"]): row for row in table_of(tmp_path / "asha")}
    assert rows[0.02]["state"] == "done"
    assert rows[0.02]["epochs"] == "9"
    behind = [row for rate, row in rows.items() if rate < 1e-3]
    assert {row["state"] for row in behind} == {"behind"}
    assert all(int(row["epochs"]) < 9 for row in behind)


def test_optuna_searches_and_goes_on_where_it_was(records: Path, tmp_path: Path) -> None:
    sweep = {"parameters": {"model.dropout_rate": {"uniform": [0, 0.5]}} | UNITS, "trials": 2, "search": "optuna"}
    run = run_sweep(sweep_job("optuna", records, tmp_path, sweep))
    first = {row["run"]: row["model.dropout_rate"] for row in table_of(run)}
    resume(run, "sweep.trials=3")
    rows = table_of(run)
    assert {row["state"] for row in rows} == {"done"}
    assert len({row["model.dropout_rate"] for row in rows}) == 3
    assert {row["run"]: row["model.dropout_rate"] for row in rows if row["run"] in first} == first


def test_a_private_sweep_costs_all_its_trials_together(records: Path, tmp_path: Path) -> None:
    sweep = {"parameters": {"privacy.noise_multiplier": {"choice": [1.0, 2.0]}}, "search": "grid", "metric": "val_loss"}
    private = {"privacy": {"enabled": True, "noise_multiplier": 1.0}, "tokenizer": {"kind": "byte"}}
    run = run_sweep(sweep_job("private", records, tmp_path, sweep, **private))
    statement = json.loads((run / "privacy.json").read_text())
    states = [RunLedger.open(open_folder(str(tmp_path / f"private-00{number}"))).state for number in (0, 1)]
    together = [(state.mechanism, state.reserved_steps) for state in states]
    assert all(steps > 0 for _, steps in together)
    assert statement["epsilon"] == pytest.approx(epsilon(together, statement["delta"]), rel=1e-9)
    assert statement["epsilon"] > max(epsilon([each], statement["delta"]) for each in together)
    assert statement["epsilon_with_earlier_runs"] == statement["epsilon"], "its own trials are not counted twice"
    assert "2 trials" in statement["also_touched_the_records"]["sweep"]
    assert (run / "model" / "privacy.json").read_bytes() == (run / "privacy.json").read_bytes()


@pytest.mark.parametrize("at_a_time", [1, None], ids=["one at a time", "as many as fit, and one in Tune's queue"])
def test_a_sweep_that_is_stopped_stops_its_trials_and_goes_on(
    records: Path, tmp_path: Path, at_a_time: int | None
) -> None:
    sweep = {"parameters": UNITS, "trials": 4, "max_concurrent": at_a_time}
    job = sweep_job("stopped", records, tmp_path, sweep)
    job["training"] |= {"epochs": 40, "early_stopping": {"enabled": False}}
    config = parse_job(job, environment={})
    RunDirectory.of(config).claim(config, "local")
    stop = threading.Event()

    def stop_in_training() -> None:
        while not (tmp_path / "stopped-000" / "history.csv").exists():
            time.sleep(0.05)
        stop.set()

    threading.Thread(target=stop_in_training).start()
    with pytest.raises(JobStoppedError):
        drive(str(tmp_path / "stopped"), stop)
    assert status_of(tmp_path / "stopped-000")["state"] == "stopped"
    assert {status_of(run)["state"] for run in tmp_path.glob("stopped-*")} == {"stopped"}, "none trained to its end"
    assert at_a_time is None or not (tmp_path / "stopped-002").exists()
    epochs = len(history_of(tmp_path / "stopped-000"))
    assert 1 <= epochs < 40
    # The trial that goes on and the new ones share an actor, and a TensorFlow, with the threads that are asked for now.
    resume(tmp_path / "stopped", *(["resources.cpus_per_worker=2"] if at_a_time else []))
    assert [row["state"] for row in table_of(tmp_path / "stopped")] == ["done"] * 4
    assert len(history_of(tmp_path / "stopped-000")) == 40


def test_a_vocabulary_that_is_too_small_is_its_own_trial_s_failure(records: Path, tmp_path: Path) -> None:
    """Found only while the tokenizer trains: the alphabet alone does not say how much of it a share needs."""
    sweep = {"parameters": {"tokenizer.vocab_size": {"choice": [100, 400]}}, "search": "grid"}
    tokenizer = {"kind": "sentencepiece", "vocab_size": 400, "character_coverage": 0.999}
    run = run_sweep(sweep_job("vocabulary", records, tmp_path, sweep, tokenizer=tokenizer))
    good, bad = table_of(run)
    assert (good["state"], good["tokenizer.vocab_size"]) == ("done", "400")
    assert (bad["state"], bad["tokenizer.vocab_size"]) == ("failed", "100")
    assert "tokenizer.vocab_size 100 is too small" in bad["error"]
    assert status_of(tmp_path / bad["run"])["error"] == bad["error"]
    assert status_of(tmp_path / bad["run"])["exit_code"] == 2


def test_a_sweep_without_a_model_has_failed(records: Path, tmp_path: Path) -> None:
    sweep = {"parameters": {"training.batch_size": {"choice": [50_000, 60_000]}}, "search": "grid"}
    with pytest.raises(JobFailedError, match=r"no trial left a model; .*sweep\.csv says why"):
        run_sweep(sweep_job("hopeless", records, tmp_path, sweep))
    assert status_of(tmp_path / "hopeless")["state"] == "failed"


def test_a_trial_s_name_that_is_taken_is_refused_before_anything_is_written(records: Path, tmp_path: Path) -> None:
    other = parse_job(small_job("taken-001", records, tmp_path), environment={})
    RunDirectory.of(other).claim(other, "local")
    RunDirectory.of(other).update_status(state="failed")
    (tmp_path / "taken-001" / "notes.txt").write_text("mine")
    job = sweep_job("taken", records, tmp_path, {"parameters": UNITS, "trials": 2})
    with pytest.raises(RunExistsError, match="taken-001"):
        run_sweep(job)
    assert not (tmp_path / "taken").exists()
    job["storage"]["overwrite"] = True
    sweep = run_sweep(job)
    assert [row["state"] for row in table_of(sweep)] == ["done"] * 2
    assert (tmp_path / "taken-001" / "notes.txt").read_text() == "mine"
    assert names_of_no_run(sweep) == []
    assert names_of_no_run(tmp_path / "taken-001") == ["notes.txt"]
