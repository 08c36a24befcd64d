"""Leaving a cluster's job alone and coming back to it."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.ray.cluster import AUTH, cluster, cluster_python
from tests.runs import history_of, run_runner, small_job, start_runner, status_of, wait_for, write_job, write_records

__all__ = ["cluster", "cluster_python"]

EPOCHS = 30
"""Half a minute: the job is to be found in its middle."""


def test_a_detached_job_can_be_stopped_by_its_run_directory_and_resumed_here(cluster: str, tmp_path: Path) -> None:
    records, runs = write_records(tmp_path / "records"), tmp_path / "runs"
    callbacks = ["tests.slow.pace:slow_steps"]
    job = small_job("detached", records, runs, epochs=EPOCHS, callbacks=callbacks)
    process = start_runner("submit", write_job(tmp_path / "job.yaml", job), "--on", "ray", "--address", cluster, **AUTH)
    run = runs / "detached"
    wait_for(lambda: process.poll() is not None or status_of(run).get("progress", {}).get("total_steps", 0) > 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "detached" in out
    assert "runner logs -f" in out
    assert status_of(run)["state"] == "training"
    run_runner("stop", run)
    wait_for(lambda: status_of(run)["state"] == "stopped", timeout_s=60)
    run_runner("resume", run, TEST_STEP_PAUSE_S="0")
    assert len(history_of(run)) == EPOCHS
