"""Plans, and jobs on a cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import runner
from runner.errors import ClusterError
from runner.submit import ray_jobs
from tests.unit.cli.commands import Run, one_line, tree, write_job, write_records


def test_a_dry_run_prints_the_exact_request_and_writes_nothing(run: Run, here: Path, tmp_path: Path) -> None:
    write_job(here / "job.yaml", training={"epochs": 7})
    before = tree(tmp_path)
    result = run("submit", "job.yaml", "--dry-run")
    assert (result.code, result.err) == (0, "")
    plan = yaml.safe_load(result.out)
    assert (plan["target"], plan["run_uri"]) == ("local", str(here / "runs/demo"))
    assert plan["job"]["training"]["epochs"] == 7
    assert plan["job"]["data"]["uri"] == str(here / "records")
    arguments = ["--on", "ray", "--address", "http://head:8265", "--json"]
    plan = run("submit", "job.yaml", "--dry-run", *arguments).answer
    assert plan["address"] == "http://head:8265"
    assert plan["entrypoint"] == f"python -m runner.driver '{here}/runs/demo'"
    assert plan["runtime_env"] == {"py_modules": [str(Path(runner.__file__).parent)]}
    assert tree(tmp_path) == before


def test_the_cluster_may_be_named_by_the_environment(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_job(here / "job.yaml")
    monkeypatch.setenv("RAY_ADDRESS", "http://named:8265")
    assert run("submit", "job.yaml", "--dry-run", "--on", "ray", "--json").answer["address"] == "http://named:8265"


def test_the_users_modules_travel_to_the_cluster_and_installed_ones_do_not(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (here / "users_own_module.py").write_text("def after(state): pass\n")
    (here / "users_own_folder").mkdir()
    (here / "users_own_folder/inner.py").write_text("def make(): return []\n")
    callbacks = ["users_own_folder.inner:make", "json:dumps", "click:echo", "builtins:print"]
    write_job(here / "job.yaml", training={"epoch_callback": "users_own_module:after", "callbacks": callbacks})
    plan = run("submit", "job.yaml", "--dry-run", "--json", "--on", "ray", "--address", "http://head:8265").answer
    package, *modules = plan["runtime_env"]["py_modules"]
    assert package == str(Path(runner.__file__).parent)
    assert sorted(modules) == [str(here / "users_own_folder"), str(here / "users_own_module.py")]
    for name in [name for name in sys.modules if name.startswith("users_own")]:
        del sys.modules[name]


class FakeCluster:
    """A Jobs API that takes what it is sent, or refuses."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.stopped: list[str] = []
        self.refuses = refuses

    def submit_job(self, **job: Any) -> str:
        if self.refuses:
            raise RuntimeError("Request failed with status code 500\nno room")
        self.jobs.append(job)
        return job["submission_id"]

    def stop_job(self, submission_id: str) -> bool:
        self.stopped.append(submission_id)
        return True


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, here: Path) -> FakeCluster:
    cluster = FakeCluster()
    monkeypatch.setattr(ray_jobs, "connect", lambda _: cluster)
    write_records(here / "records")
    write_job(here / "job.yaml")
    return cluster


ON_RAY = ("--on", "ray", "--address", "http://head:8265", "--detach")


def test_a_detached_run_waits_for_its_cluster_without_this_process(run: Run, here: Path, cluster: FakeCluster) -> None:
    result = run("submit", "job.yaml", *ON_RAY, "--json")
    (job,) = cluster.jobs
    assert result.answer["id"] == job["submission_id"]
    status = run("status", "demo", "--json").answer
    assert status["state"] == "pending"
    assert status["submission"] == {"address": "http://head:8265", "id": job["submission_id"]}
    assert status["pid"] == 0  # this process may end, and the run is not lost by that


def test_a_waiting_run_is_withdrawn_from_its_cluster(run: Run, cluster: FakeCluster) -> None:
    run("submit", "job.yaml", *ON_RAY)
    assert "withdrawn before it began" in run("stop", "demo").out
    assert cluster.stopped == [cluster.jobs[0]["submission_id"]]
    assert run("status", "demo", "--json").answer["state"] == "stopped"


def test_a_job_that_the_cluster_refuses_has_failed(run: Run, cluster: FakeCluster) -> None:
    cluster.refuses = True
    line = one_line(run("submit", "job.yaml", *ON_RAY), 3)
    assert line == "http://head:8265: RuntimeError: no room"
    status = run("status", "demo", "--json").answer
    assert (status["state"], status["error"]) == ("failed", line)


def test_a_refused_token_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(ClusterError, match="refused the token; set RAY_AUTH_MODE=token"),
        ray_jobs._in_one_line("a"),
    ):
        raise RuntimeError("Request failed with status code 401: Unauthorized")
