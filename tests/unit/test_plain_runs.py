"""A run without privacy is told of by the statements of private runs on the same files that come later."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from runner.config import JobConfig, parse_job
from runner.data.files import list_files
from runner.errors import JobFailedError, PrivacyError
from runner.privacy.ledger import RunLedger
from runner.run_directory import RunDirectory
from runner.train import facade, private_run
from tests.unit.parquet_files import texts, write


@pytest.fixture
def records(tmp_path: Path) -> Path:
    write(tmp_path / "records" / "a.parquet", texts([f"record {number}" for number in range(400)]))
    return tmp_path / "records"


def job(name: str, records: Path, **sections: Any) -> JobConfig:
    document = {
        "name": name,
        "data": {"uri": str(records)},
        "tokenizer": {"kind": "byte"},
        "training": {"batch_size": 20, "epochs": 1},
        "storage": {"uri": str(records.parent / "runs")},
    }
    return parse_job(document | sections, environment={})


PRIVATE = {"enabled": True, "noise_multiplier": 2.0}


def drive(config: JobConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run up to where its tokens would be made."""

    def ends(*_: Any, **__: Any) -> None:
        raise JobFailedError("far enough")

    monkeypatch.setattr(facade, "_warm_up", lambda: None)
    monkeypatch.setattr(facade, "make_tokens", ends)
    directory = RunDirectory.of(config)
    directory.claim(config, "local")
    with pytest.raises(JobFailedError, match="far enough"):
        facade.drive_run(directory.uri, threading.Event())


def settled(config: JobConfig, ending: str) -> dict[str, Any]:
    """The statement of a private run of eight steps."""
    files = list_files(config.data.uri)
    budget = private_run.check_privacy(config, 400, files)
    directory = RunDirectory.of(config)
    private_run.open_ledger(config, directory, "tokens", files, budget)
    ledger = RunLedger.open(directory.folder, writes=True)
    ledger.begin("here", None)
    ledger.reserve(0, 8)
    ledger.settle(8)
    private_run.settle(config, directory, ending)
    return json.loads(directory.folder.read("privacy.json"))


def test_the_next_statement_says_that_a_run_without_privacy_was_made(
    records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = settled(job("before", records, privacy=PRIVATE), "all epochs done")
    assert before["epsilon_with_earlier_runs"] == before["epsilon"]
    assert "earlier runs without privacy" not in before["also_touched_the_records"]
    drive(job("plain", records), monkeypatch)
    after = settled(job("after", records, privacy=PRIVATE), "stopped")
    assert after["epsilon_with_earlier_runs"] == "infinite"
    assert after["also_touched_the_records"]["earlier runs without privacy"].startswith("1, on the same files")
    assert after["epsilon"] == before["epsilon"], "the run's own"
    assert (before["ended"], before["steps_depend_on_time"]) == ("all epochs done", False)
    assert (after["ended"], after["steps_depend_on_time"]) == ("stopped", True)
    with pytest.raises(PrivacyError, match="took epsilon infinite"):
        settled(job("limited", records, privacy=PRIVATE | {"max_epsilon": 9.0}), "stopped")


def test_nothing_in_the_storage_tells_which_files_were_used(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file,) = list_files(str(records))
    drive(job("plain", records), monkeypatch)
    settled(job("private", records, privacy=PRIVATE), "stopped")
    holders = [
        path.relative_to(records.parent / "runs").parts[1:]
        for path in (records.parent / "runs").rglob("*")
        if path.is_file() and file.fingerprint.encode() in path.read_bytes()
    ]
    assert holders == [("private", "ledger.json")], "beside the key, where only the user may look"


def test_a_private_job_with_a_time_limit_is_refused_before_anything_is_written(records: Path) -> None:
    config = job("timed", records, privacy=PRIVATE, training={"batch_size": 20, "max_training_time_s": 60})
    with pytest.raises(PrivacyError, match="max_training_time_s"):
        facade.check_job(config)
    assert not (records.parent / "runs").exists()
