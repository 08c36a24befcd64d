"""What becomes of a RayJob when the API server, the network or the user does not play along."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.config import parse_job
from runner.errors import ClusterError
from runner.run_directory import RunDirectory, Status
from runner.storage import open_folder
from runner.submit import kuberay, start
from runner.submit.kuberay import Api
from tests.unit.api_server import ApiServer

KUBECONFIG = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
ON_S3: dict[str, Any] = {"name": "demo", "data": {"uri": "s3://b/records"}, "storage": {"uri": "s3://b/runs"}}
JOB = parse_job(ON_S3, environment={})
MINE = {"namespace": "team", "id": "demo-1"}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[ApiServer]:
    """An API server, which the current context names."""
    running = ApiServer()
    monkeypatch.setattr(KUBECONFIG, str(running.write_kubeconfig(tmp_path / "kubeconfig")))
    monkeypatch.setattr(kuberay, "CHECK_EVERY_S", 0.0)
    yield running
    running.stop()


@pytest.fixture
def api(server: ApiServer) -> Api:
    return kuberay.connect(None)


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    """A run that waits for its RayJob."""
    found = RunDirectory(open_folder(str(tmp_path / "runs/demo")))
    found.folder.create("job.yaml", JOB.to_yaml().encode())
    found.write_status(Status("demo", "pending", "kubernetes", submission=MINE))
    return found


def status_of(directory: RunDirectory) -> Status:
    status = directory.status()
    assert status is not None
    return status


# Which cluster it is


@pytest.mark.parametrize("text", ["clusters: [", "words", "clusters: 3\ncurrent-context: a", "\x00", None])
def test_what_is_no_kubeconfig_is_said_in_one_line(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kubeconfig"
    path.mkdir() if text is None else path.write_text(text)
    monkeypatch.setattr(KUBECONFIG, str(path))
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(ClusterError) as error:
        kuberay.connect(None)
    assert str(error.value).startswith(f"{path}: not a kubeconfig: ")
    assert "\n" not in str(error.value)


def test_a_job_of_another_cluster_is_not_looked_for_in_this_one(server: ApiServer, api: Api) -> None:
    kuberay.connect("team", server=api.server)
    with pytest.raises(ClusterError, match=rf"sent to https://other, but the current context is that of {server.url}"):
        kuberay.connect("team", server="https://other")


def test_a_run_knows_its_server_unless_a_pod_has_sent_it(server: ApiServer, api: Api) -> None:
    assert api.submission("demo-1") == MINE | {"server": server.url}
    assert replace(api, is_inside=True).submission("demo-1") == MINE


# Following


def put(server: ApiServer, state: str, **status: Any) -> None:
    """Let the RayJob have this state."""
    server.objects["rayjobs/demo-1"] = {
        "metadata": {"name": "demo-1", "namespace": "team"},
        "status": {"jobDeploymentStatus": state, **status},
    }


# Stopping, and starting again


def test_a_stop_says_what_it_removed_and_what_was_not_there(server: ApiServer, directory: RunDirectory) -> None:
    put(server, "Failed")
    directory.update_status(state="failed")
    removed = start.stop_run(directory, status_of(directory))
    assert removed.endswith("nothing to stop, the run is failed; removed demo-1 from the cluster")
    assert server.objects == {}
    again = start.stop_run(directory, status_of(directory))
    assert again.endswith(f"; RayJob demo-1 was not there: namespace team of {server.url}")


def test_a_stop_refuses_another_cluster(server: ApiServer, directory: RunDirectory) -> None:
    put(server, "Running")
    directory.update_status(state="failed", submission=MINE | {"server": "https://other"})
    with pytest.raises(ClusterError, match="the job was sent to https://other"):
        start.stop_run(directory, status_of(directory))
    assert "rayjobs/demo-1" in server.objects
