"""Runs on a real MLflow server, which runs in an environment of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import pytest
from mlflow import MlflowClient

from runner.privacy.isolated import find_uv
from runner.train.history import from_csv
from tests.runs import run_runner, small_job, wait_for, write_job, write_records


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [find_uv(), "tool", "run", "--from", f"mlflow=={version('mlflow-skinny')}", "mlflow", "server"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--artifacts-destination", str(tmp_path)]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # ten processes that nobody needs here
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=tmp_path, env=environment, start_new_session=True
        )

    def answers() -> bool:
        assert process.poll() is None, (tmp_path / "server.log").read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    try:
        wait_for(answers, timeout_s=400)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # the server's own workers too
        process.wait()


@pytest.mark.timeout(900)
def test_a_run_and_its_resume_are_one_run_on_the_server(server: str, tmp_path: Path) -> None:
    job = small_job("tracked", write_records(tmp_path / "records"), tmp_path / "runs", epochs=2)
    run_runner("submit", write_job(tmp_path / "job.yaml", job), MLFLOW_TRACKING_URI=server)
    raising = "training.epoch_callback=tests.ray.observers:complain"
    job["name"] = "raising"
    run_runner("submit", write_job(tmp_path / "job.yaml", job), "--set", raising, expect=1, MLFLOW_TRACKING_URI=server)
    run_runner("resume", tmp_path / "runs" / "tracked", "--set", "training.epochs=4", MLFLOW_TRACKING_URI=server)
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("runner")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert runs.pop("raising").info.status == "FAILED"
    (run,) = runs.values()
    assert run.info.run_name == "tracked"
    assert run.info.status == "FINISHED"
    assert run.data.params["training.batch_size"] == "32"
    rows, _ = from_csv((tmp_path / "runs" / "tracked" / "history.csv").read_bytes())
    history = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "val_loss")}
    assert history == {row.epoch: row.val_loss for row in rows}
    assert len(client.get_metric_history(run.info.run_id, "val_loss")) == 4
