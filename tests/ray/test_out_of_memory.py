"""A step that does not fit the device: half as many examples at once, the same batches, once in a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner.config import parse_job
from runner.errors import OutOfMemoryError
from runner.privacy.ledger import RunLedger
from runner.run_directory import RunDirectory
from runner.storage import open_folder
from runner.submit.launch import Launch
from runner.submit.start import start_run
from runner.train.checkpoint import newest_checkpoint
from runner.train.step import TrainingStep
from runner.train.worker import _hold_less
from tests.runs import ROOT, small_job, status_of, weights_of, write_job, write_records
from tests.table_records import DECLARED, table_job, write_table


def start(job: dict[str, Any]) -> Path:
    start_run(parse_job(job, environment={}), Launch(quiet=True))
    return Path(job["storage"]["uri"]) / job["name"]


def test_a_batch_that_does_not_fit_is_trained_on_in_halves(tmp_path: Path) -> None:
    """TensorFlow itself is refused the memory: a step of all takes more than 600 MiB, and one of half less than 450."""
    records = write_records(tmp_path / "records", 1300)
    job = small_job("large", records, tmp_path / "runs", batch_size=1024, epochs=1, validation_split=False)
    job["training"]["early_stopping"] = {"metric": "loss"}
    job["model"] = {"embedding_dim": 64, "rnn_units": 512, "layers": 2}
    file = write_job(tmp_path / "job.yaml", job)
    command = [sys.executable, "-m", "tests.ray.out_of_memory", str(file), "520"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    run = tmp_path / "runs" / "large"
    assert done.returncode == 0, done.stderr[-2000:]
    assert (run / "microbatch").read_text() == "512"
    assert (
        "out of memory in a step that holds 1024 examples at once; going on"
        in next((run / "logs").glob("*driver.log")).read_text()
    )
    job["name"] = "halves"
    job["training"]["microbatch_size"] = 512
    assert weights_of(start(job)) == weights_of(run)


def test_the_records_of_a_person_are_not_divided(tmp_path: Path) -> None:
    directory = RunDirectory(open_folder(str(tmp_path)))
    _hold_less(directory, OutOfMemoryError.of(64, fewest=32))
    assert (tmp_path / "microbatch").read_text() == "32"
    with pytest.raises(OutOfMemoryError, match=r"at once; make the model or examples\.seq_length smaller"):
        _hold_less(directory, OutOfMemoryError.of(32, fewest=32))
    (tmp_path / "microbatch").unlink()
    with pytest.raises(OutOfMemoryError, match=r"64 examples at once; make the model"):
        _hold_less(directory, OutOfMemoryError.of(64, fewest=64))


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """At these steps of the process, counted from 0: so many examples did not fit."""
    at, taken = dict[int, int](), list[int]()
    train = TrainingStep.train

    def limited(self: TrainingStep, *arguments: Any, **options: Any) -> Any:
        taken.append(0)
        if (rows := at.get(len(taken) - 1)) is not None:
            raise OutOfMemoryError.of(rows)
        return train(self, *arguments, **options)

    monkeypatch.setattr(TrainingStep, "train", limited)
    return at


def test_a_private_run_goes_on_in_another_branch(records: Path, tmp_path: Path, full: dict[int, int]) -> None:
    full[3] = 32
    job = small_job("private", records, tmp_path / "runs")
    job["tokenizer"] = {"kind": "byte"}
    job["privacy"] = {"enabled": True, "target_epsilon": 8.0, "delta": 1e-4, "l2_norm_clip": 1.0}
    run = start(job)
    ledger = RunLedger.open(open_folder(str(run))).state
    first, second = ledger.branches
    assert first.conditions != second.conditions
    statement = json.loads((run / "privacy.json").read_text())
    assert statement["epsilon"] <= 8.0
    assert status_of(run)["state"] == "done"


def test_a_private_table_with_texts_holds_less_in_both_its_parts(tmp_path: Path, full: dict[int, int]) -> None:
    full[1] = 128
    job = table_job("texts", write_table(tmp_path / "people"), tmp_path / "runs")
    job |= {"fields": DECLARED, "privacy": {"enabled": True, "target_epsilon": 8.0, "delta": 1e-4, "draws": 1000}}
    run = start(job)
    assert (run / "microbatch").read_text() == "64"
    checkpoint = newest_checkpoint(open_folder(str(run / "columns" / "checkpoints")))
    assert checkpoint is not None
    assert checkpoint.state["microbatch_size"] == 64


def test_the_second_time_the_job_fails_and_says_what_to_set(
    records: Path, tmp_path: Path, full: dict[int, int]
) -> None:
    full |= {1: 32, 2: 16}
    with pytest.raises(OutOfMemoryError, match=r"16 examples at once; set training\.microbatch_size below 16"):
        start(small_job("twice", records, tmp_path / "runs"))
    assert status_of(tmp_path / "runs" / "twice")["state"] == "failed"


def test_a_single_example_that_does_not_fit_is_told(records: Path, tmp_path: Path, full: dict[int, int]) -> None:
    full[0] = 1
    with pytest.raises(OutOfMemoryError, match=r"at once; make the model or examples\.seq_length smaller"):
        start(small_job("single", records, tmp_path / "runs"))
