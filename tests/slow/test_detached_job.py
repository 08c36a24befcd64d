"""Leaving a cluster's job alone and coming back to it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ray.cluster import AUTH, cluster, cluster_python
from tests.runs import history_of, run_runner, small_job, start_runner, status_of, wait_for, write_job, write_records

__all__ = ["cluster", "cluster_python"]

EPOCHS = 3
SLOW_S = "5"
"""After each step: the job is found in its middle, however long the commands of the test take."""


@pytest.fixture(scope="module", autouse=True)
def pace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cluster's processes, which start after this, train slowly."""
    file = tmp_path_factory.mktemp("pace") / "seconds"
    file.write_text(SLOW_S)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_PACE_FILE", str(file))
        yield file


def test_a_detached_job_can_be_stopped_by_its_run_directory_and_resumed_here(
    pace: Path, cluster: str, tmp_path: Path
) -> None:
    records, runs = write_records(tmp_path / "records"), tmp_path / "runs"
    callbacks = ["tests.hosts.pace:paced_steps"]
    job = small_job("left", records, runs, epochs=EPOCHS, callbacks=callbacks)
    process = start_runner("submit", write_job(tmp_path / "job.yaml", job), "--on", "ray", "--address", cluster, **AUTH)
    run = runs / "left"
    wait_for(lambda: process.poll() is not None or status_of(run).get("progress", {}).get("total_steps", 0) > 0)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.startswith("detached; the job goes on")
    assert "runner logs -f" in out
    assert status_of(run)["state"] == "training"
    run_runner("stop", run)
    wait_for(lambda: status_of(run)["state"] == "stopped")
    pace.write_text("0")
    run_runner("resume", run)
    assert len(history_of(run)) == EPOCHS
