"""A one-node Ray cluster with token authentication, in an environment that lacks the project."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import urllib.request
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runs import wait_for

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
    sockets = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # A socket's path has at most 107 characters.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    options = {
        "port": free_port(),
        "num-cpus": 2,
        "node-ip-address": "127.0.0.1",
        "include-dashboard": "true",
        "dashboard-host": "127.0.0.1",
        "dashboard-port": port,
        "dashboard-agent-listen-port": free_port(),
        "ray-client-server-port": free_port(),
        "object-store-memory": 200_000_000,
        "temp-dir": sockets,
    }
    command = [cluster_python, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--{name}={value}" for name, value in options.items()]
    environment |= AUTH | {
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "PATH": f"{cluster_python.parent}:{os.environ['PATH']}",
    }
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
    shutil.rmtree(sockets, ignore_errors=True)
