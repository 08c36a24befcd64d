"""What the driver of a RayJob makes of a run, wherever that is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from runner import scheduled
from runner.config import JobConfig
from runner.errors import ConfigError, JobStoppedError, OvertakenError
from runner.run_directory import RunDirectory, Status

Bring = Callable[..., Status | None]
HERE = {"namespace": "team", "id": "demo-1"}


@pytest.fixture
def driven(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that were driven, each at once to its end."""
    seen: list[str] = []

    def drive(run_uri: str, stop: threading.Event, *, local: bool) -> Status:
        assert not local
        directory = RunDirectory(scheduled.RunDirectory.find(run_uri).folder)
        seen.append(f"{directory.current_status().state} {run_uri.rpartition('/')[2]}")
        directory.folder.write("model/manifest.json", b"{}")
        return directory.update_status(state="done")

    monkeypatch.setattr(scheduled, "drive", drive)
    return seen


@pytest.fixture
def bring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bring:
    """Runs the driver of a job in a RayJob's pod."""
    (tmp_path / "records").mkdir()
    table = pa.table({"text": [f"record {number}" for number in range(300)]})
    pq.write_table(table, tmp_path / "records/a.parquet")
    monkeypatch.setenv("RUNNER_NAMESPACE", HERE["namespace"])
    monkeypatch.setattr(scheduled, "LOST_AFTER_S", -19.5)  # a moment

    def run(attempt: str = "x7f2q", job_id: str = HERE["id"], **sections: Any) -> Status | None:
        monkeypatch.setenv("RAY_CLUSTER_NAME", f"{job_id}-{attempt}")
        document = {
            "name": "demo",
            "data": {"uri": str(tmp_path / "records")},
            "storage": {"uri": str(tmp_path / "runs")},
        }
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(document | sections))
        return scheduled.bring_about(str(tmp_path / "job.yaml"), threading.Event())

    return run


def change(tmp_path: Path, **changes: Any) -> RunDirectory:
    directory = RunDirectory.find("demo", str(tmp_path / "runs"))
    directory.write_status(replace(directory.current_status(), **changes))
    return directory


def test_a_run_that_is_not_there_is_begun_and_one_that_is_done_is_left_alone(
    bring: Bring, driven: list[str], tmp_path: Path
) -> None:
    status = bring()
    assert status is not None
    assert (status.state, status.submission) == ("done", HERE)
    bring("aaaaa")
    assert driven == ["pending demo"]


def test_a_run_that_was_killed_goes_on(bring: Bring, driven: list[str], tmp_path: Path) -> None:
    bring()
    sent = HERE | {"server": "https://1.2.3.4"}
    change(tmp_path, state="training", host="elsewhere", heartbeat=time.time() - 1000, submission=sent)
    status = bring("aaaaa")
    assert status is not None
    assert (status.attempt, status.submission) == (2, sent)
    assert driven == ["pending demo", "pending demo"]


@pytest.mark.parametrize("server", [{}, {"server": "https://from-outside"}], ids=["in a pod", "outside"])
def test_a_run_that_a_submitter_claimed_is_begun(
    bring: Bring, driven: list[str], tmp_path: Path, server: dict[str, str]
) -> None:
    bring()
    change(tmp_path, state="pending", submission=HERE | server, pid=0)
    status = bring()
    assert status is not None
    assert status.attempt == 1
    assert driven == ["pending demo", "pending demo"]


def test_more_epochs_go_on_and_another_model_is_refused(bring: Bring, driven: list[str]) -> None:
    bring()
    bring(training={"epochs": 30})
    assert driven == ["pending demo", "pending demo"]
    with pytest.raises(ConfigError, match=r"model\.layers: a resume cannot change this"):
        bring(training={"epochs": 30}, model={"layers": 3})


def test_a_job_whose_run_was_continued_since_comes_too_late(bring: Bring, driven: list[str], tmp_path: Path) -> None:
    bring()
    bring(job_id="demo-2", training={"epochs": 30})
    change(tmp_path, state="training", host="elsewhere", heartbeat=time.time() - 1000)
    with pytest.raises(OvertakenError, match="continued by demo-2 after demo-1 had it; `runner resume"):
        bring("aaaaa")
    bring("aaaaa", job_id="demo-2", training={"epochs": 30})
    directory = change(tmp_path, state="failed")
    directory.begin_again("local")
    change(tmp_path, state="failed")
    with pytest.raises(OvertakenError, match="the run was continued elsewhere after demo-2 had it"):
        bring("bbbbb", job_id="demo-2", training={"epochs": 30})
    assert len(driven) == 3
    assert directory.read_config().training.epochs == 30


def test_what_a_user_stopped_stays_stopped(
    bring: Bring, driven: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring()
    directory = change(tmp_path, state="training", host="elsewhere", heartbeat=time.time() - 1000)
    directory.request_stop()
    status = bring("aaaaa")
    assert status is not None
    assert status.state == "stopped"
    assert driven == ["pending demo"]


@pytest.mark.parametrize("is_asked_to", [True, False])
def test_a_stop_fails_the_job_only_when_nobody_asked_for_it(
    bring: Bring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_asked_to: bool
) -> None:
    """A job that has failed is started again: right after a preemption, wrong after `runner stop`."""

    def drive(run_uri: str, stop: threading.Event, *, local: bool) -> Status:
        directory = RunDirectory.find(run_uri)
        if is_asked_to:
            directory.request_stop()
        directory.update_status(state="stopped")
        raise JobStoppedError("stopped")

    monkeypatch.setattr(scheduled, "drive", drive)
    if is_asked_to:
        status = bring()
        assert status is not None
        assert status.state == "stopped"
    else:
        with pytest.raises(JobStoppedError):
            bring()


def test_a_scheduled_job_trains_on_what_is_new_and_its_retry_is_the_same_run(
    bring: Bring, driven: list[str], tmp_path: Path
) -> None:
    since = {"data": {"uri": str(tmp_path / "records"), "since": "last"}}
    bring(job_id="demo-1", **since)
    (tmp_path / "runs/demo/files.json").write_text('{"before": [], "own": []}')
    bring("aaaaa", job_id="demo-1", **since)
    assert driven == ["pending demo"]


def test_nothing_new_is_no_failure(bring: Bring, driven: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def check(config: JobConfig) -> None:
        raise scheduled.NothingNewError("no files")

    monkeypatch.setattr(scheduled, "check", check)
    assert bring() is None
    assert driven == []
