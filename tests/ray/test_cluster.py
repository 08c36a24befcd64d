"""A job on a cluster that was started with `ray start`, through the Jobs API with token authentication."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import urllib.request
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runs import (
    history_of,
    run_runner,
    small_job,
    start_runner,
    status_of,
    wait_for,
    weights_of,
    write_job,
)

TOKEN = "0123456789abcdef0123456789abcdef"
AUTH = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def cluster_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with all that the project needs and without the project: the package has to travel."""
    folder = tmp_path_factory.mktemp("cluster-environment")
    venv.create(folder, with_pip=False, symlinks=True)
    packages = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    # A path from a .pth file brings its packages along, but not its own .pth files, as an editable install is one.
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def cluster(cluster_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A one-node cluster on loopback, stopped by its own process; the Jobs API's address."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    options = {
        "port": free_port(),
        "num-cpus": 2,
        "node-ip-address": "127.0.0.1",
        "include-dashboard": "true",
        "dashboard-host": "127.0.0.1",
        "dashboard-port": port,
        "ray-client-server-port": free_port(),
        "object-store-memory": 200_000_000,
        "temp-dir": tmp_path_factory.mktemp("r"),
    }
    command = [cluster_python, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--{name}={value}" for name, value in options.items()]
    environment |= AUTH | {"PATH": f"{cluster_python.parent}:{os.environ['PATH']}"}
    log = (elsewhere / "ray.log").open("w")
    process = subprocess.Popen(command, cwd=elsewhere, env=environment, stdout=log, stderr=log, start_new_session=True)

    def answers() -> bool:
        assert process.poll() is None, (elsewhere / "ray.log").read_text()
        request = urllib.request.Request(f"{address}/api/version", headers={"Authorization": f"Bearer {TOKEN}"})
        try:
            return urllib.request.urlopen(request, timeout=5).status == 200
        except OSError:
            return False

    wait_for(answers, timeout_s=120, every_s=0.5)
    yield address
    process.send_signal(signal.SIGTERM)
    process.wait(60)


def test_the_cluster_lacks_the_package(cluster_python: Path, tmp_path: Path) -> None:
    """Else the tests below would not show that it travels."""
    done = subprocess.run([cluster_python, "-c", "import ray, runner"], cwd=tmp_path, capture_output=True, text=True)
    assert "No module named 'runner'" in done.stderr


def test_a_job_on_a_cluster_trains_to_a_model_and_status_and_logs_outlive_it(
    cluster: str, records: Path, runs: Path, tmp_path: Path
) -> None:
    job = write_job(tmp_path / "job.yaml", small_job("remote", records, runs, epochs=2))
    done = run_runner("submit", job, "--on", "ray", "--address", cluster, "--json", **AUTH)
    answer = json.loads(done.stdout)
    assert answer["state"] == "done"
    run = runs / "remote"
    assert weights_of(run)
    assert len(history_of(run)) == 2
    assert "done" in run_runner("status", run).stdout
    assert "all epochs done" in run_runner("logs", run).stdout
    assert "remote: done" in run_runner("list", runs).stdout


def test_a_callback_of_the_user_s_travels_with_the_job(cluster: str, records: Path, runs: Path, tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    (tmp_path / "my_callbacks.py").write_text(
        f"def listen(state):\n    open({str(heard)!r}, 'a').write(f'{{state.epoch}} ')\n"
    )
    job = small_job("travelled", records, runs, epochs=2, epoch_callback="my_callbacks:listen")
    run_runner("submit", write_job(tmp_path / "job.yaml", job), "--on", "ray", "--address", cluster, **AUTH)
    assert heard.read_text() == "0 1 "


def test_a_detached_job_can_be_stopped_by_its_run_directory_and_resumed_here(
    cluster: str, records: Path, runs: Path, tmp_path: Path
) -> None:
    callbacks = ["tests.slow.pace:slow_steps"]
    job = small_job("detached", records, runs, epochs=3, callbacks=callbacks)
    process = start_runner("submit", write_job(tmp_path / "job.yaml", job), "--on", "ray", "--address", cluster, **AUTH)
    run = runs / "detached"
    wait_for(lambda: process.poll() is not None or status_of(run).get("progress", {}).get("total_steps", 0) > 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "detached" in out
    assert "runner logs -f" in out
    assert status_of(run)["state"] == "training"
    run_runner("stop", run)
    wait_for(lambda: status_of(run)["state"] == "stopped", timeout_s=60)
    run_runner("resume", run, TEST_STEP_PAUSE_S="0")
    assert len(history_of(run)) == 3


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 32}, "refused the token"),
        ({}, "refused the token"),
    ],
    ids=["wrong token", "no token"],
)
def test_a_cluster_that_refuses_the_token_is_one_line_and_nothing_is_written(
    cluster: str, records: Path, tmp_path: Path, environment: dict[str, str], says: str
) -> None:
    job = write_job(tmp_path / "job.yaml", small_job("refused", records, tmp_path / "runs"))
    done = run_runner("submit", job, "--on", "ray", "--address", cluster, expect=3, **environment)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert not (tmp_path / "runs").exists()
