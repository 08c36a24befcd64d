"""What a sweep's driver and its trials make of other attempts at the sweep, and of trials that were cut off."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any

import pytest

from runner.config import JobConfig, parse_job
from runner.errors import JobCrashedError, OvertakenError
from runner.run_directory import RunDirectory
from runner.sweep import driver, trial
from runner.sweep.table import Trial, trial_directory


@pytest.fixture
def sweep(tmp_path: Path) -> JobConfig:
    document: dict[str, Any] = {"name": "demo", "data": {"uri": "r"}, "storage": {"uri": str(tmp_path / "runs")}}
    document["sweep"] = {"trials": 2, "parameters": {"model.layers": {"choice": [1, 2]}}}
    config = parse_job(document, environment={})
    RunDirectory.of(config).claim(config, "local")
    return config


def test_a_sweep_whose_trials_were_all_cut_off_is_worth_another_try(
    sweep: JobConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off = Trial(0, "demo-000", "lost", {"model.layers": 1}, None, 0, 0.0)
    monkeypatch.setattr(driver, "connected_ray", lambda local: contextlib.nullcontext())
    monkeypatch.setattr(driver, "_prepare_tokens", lambda *_, **__: None)
    monkeypatch.setattr(driver, "_run_trials", lambda *_, **__: [])
    monkeypatch.setattr(driver, "read_trials", lambda config: [cut_off])
    with pytest.raises(JobCrashedError, match="demo-000: cut off") as error:
        driver.drive_sweep(RunDirectory.of(sweep).uri, threading.Event())
    assert error.value.may_pass


def test_a_trial_of_an_earlier_attempt_does_not_begin(sweep: JobConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = RunDirectory.of(sweep)
    term = directory.enter().term
    config = {"sweep_uri": directory.uri, "term": term, "number": 0, "values": {"model.layers": 1}, "cores": 1}
    directory.begin_again("local")
    actor = object.__new__(trial.TrialRunner)
    monkeypatch.setattr(actor, "_directory", trial_directory(sweep, 0), raising=False)
    with pytest.raises(OvertakenError):
        actor._run(directory, sweep, config | {"local": True})
    assert not trial_directory(sweep, 0).exists()
