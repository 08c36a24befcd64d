"""The image's real pods on a real kubelet: a whole training on S3, and one whose pods are killed in mid-run."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.run_directory import RunDirectory, Status
from tests.kubernetes.test_submit import Team, job_status
from tests.pods.conftest import BUCKET, EPOCHS, SECRET, Storage, training
from tests.pods.image import IMAGE
from tests.pods.node import NodeCluster
from tests.runs import history_of, run_runner, status_of, wait_for, weights_of, write_job

pytestmark = pytest.mark.timeout(7200)

HEAD, WORKER = "ray.io/node-type=head", "ray.io/node-type=worker"
STEPS_OF_AN_EPOCH = 75
PATIENCE_S = 900.0  # Ray starts slowly where others use the cores too.


class Watch:
    """Says what happened after how many seconds."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def say(self, what: str) -> None:
        print(f"{time.monotonic() - self._began:6.0f} s  {what}", flush=True)


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def job(tmp_path: Path, storage: Storage) -> Callable[[str], Path]:
    """Writes the job file of a run of that name."""

    def write(name: str) -> Path:
        document = training(name, f"s3://{BUCKET}/records", f"s3://{BUCKET}/runs")
        document["kubernetes"] = {
            "image": IMAGE,
            "image_pull_policy": "Never",
            "service_account": "runner",
            "secrets": [SECRET],
            "environment": storage.settings,
            "head": {"cpus": 0.75, "memory_gib": 3},
            "worker": {"memory_gib": 3},
            "keep_cluster_s": 0,
        }
        return write_job(tmp_path / f"{name}.yaml", document)

    return write


def uri(run: str) -> str:
    return f"s3://{BUCKET}/runs/{run}"


def status(run: str) -> Status:
    return RunDirectory.find(uri(run)).current_status()


def the_pod(team: Team, kind: str) -> dict[str, Any]:
    """The one pod of that kind that is not on its way out."""
    [pod] = wait_for(
        lambda: [pod for pod in team.list("pods", kind) if "deletionTimestamp" not in pod["metadata"]], PATIENCE_S
    )
    return pod


def delete(team: Team, kind: str) -> str:
    """Take a pod away at once, as when its node is drained without patience; its uid."""
    pod = the_pod(team, kind)
    team.cluster.kubectl("-n", team.namespace, "delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
    return pod["metadata"]["uid"]


def is_replaced(team: Team, kind: str, deleted: str) -> bool:
    """Whether there is a pod of that kind that runs, and is not the deleted one."""
    return any(
        pod["metadata"]["uid"] != deleted and pod["status"]["phase"] == "Running" for pod in team.list("pods", kind)
    )


def restarts(team: Team, kind: str) -> int:
    return sum(each["restartCount"] for each in the_pod(team, kind)["status"].get("containerStatuses", ()))


def train_past(run: str, step: int | None = None) -> int:
    """Wait until a run that is struck in between has trained more steps than that, or than until now; how many."""
    least = status(run).progress["total_steps"] if step is None else step

    def trained() -> int:
        seen = status(run)
        assert seen.state != "done", "it was over too early to be struck"
        return seen.progress.get("total_steps", 0)

    return wait_for(lambda: (now := trained()) > least and now, PATIENCE_S, every_s=0.5)


def assert_same(run: Path, other: Path) -> None:
    assert status_of(run)["state"] == status_of(other)["state"] == "done"
    assert weights_of(run) == weights_of(other)
    assert history_of(run) == history_of(other)
    assert [row["epoch"] for row in history_of(run)] == [str(epoch) for epoch in range(EPOCHS)]


@contextmanager
def submitted(team: Team, job: Path, *options: str) -> Generator[subprocess.Popen[str]]:
    """`runner submit` for the length of the block; when that fails, what the pods wrote."""
    submitting = team.submit(job, *options)
    try:
        wait_for(lambda: submitting.poll() is not None or team.list("rayjobs"), PATIENCE_S)
        yield submitting
    except BaseException:
        assert isinstance(team.cluster, NodeCluster)
        for what in (("pods,rayjobs,rayclusters,jobs", "-o", "wide"), ("events", "--sort-by=.lastTimestamp")):
            print(team.cluster.kubectl("-n", team.namespace, "get", *what)[-8000:])
        print(team.cluster.container_logs(team.namespace)[-40_000:])
        print(run_runner("logs", uri(job.stem), expect=None).stdout[-20_000:])
        team.cluster.kubectl("-n", team.namespace, "delete", "rayjobs", "--all")  # The node has room for one.
        raise
    finally:
        submitting.kill()
        submitting.wait()


def test_a_whole_training_in_admitted_pods(
    team: Team, job: Callable[[str], Path], storage: Storage, at_home: Path, tmp_path: Path, watch: Watch
) -> None:
    with submitted(team, job("whole")) as submitting:
        wait_for(lambda: len(team.list("pods", "ray.io/is-ray-node=yes")) == 2, PATIENCE_S)
        watch.say("pods of head and worker are made")
        train_past("whole", 0)
        watch.say("the first step is trained")
        out, err = submitting.communicate(timeout=PATIENCE_S)
        watch.say("runner submit has ended")
        assert submitting.returncode == 0, err
        assert f"all epochs done: {uri('whole')}" in out
        wait_for(lambda: job_status(team).get("jobDeploymentStatus") == "Complete", PATIENCE_S)
        assert job_status(team)["jobStatus"] == "SUCCEEDED"
        wait_for(lambda: not team.list("rayclusters") and not team.list("pods", "ray.io/is-ray-node=yes"), PATIENCE_S)
        watch.say("its cluster is gone")
        run = storage.download("whole", tmp_path)
        assert_same(run, at_home)
        assert "all epochs done" in "".join(file.read_text() for file in (run / "logs").iterdir())
        assert "whole: done" in team.run("status", uri("whole")).stdout
        assert "removed runner-whole-" in team.run("stop", uri("whole")).stdout
        wait_for(team.is_empty, PATIENCE_S)


def test_workers_and_head_are_killed_and_the_run_ends_the_same(
    team: Team,
    node: NodeCluster,
    job: Callable[[str], Path],
    storage: Storage,
    at_home: Path,
    tmp_path: Path,
    watch: Watch,
) -> None:
    """In turn: a worker without notice, a worker's pod, and the head's pod, both with the shortest notice."""
    with submitted(team, job("struck")) as submitting:
        seen = train_past("struck", 5)
        watch.say(f"step {seen}: the processes in the worker's pod are killed")
        node.crash(the_pod(team, WORKER))
        wait_for(lambda: restarts(team, WORKER) > 0, PATIENCE_S)
        seen = train_past("struck")
        assert status("struck").attempt == 1

        watch.say(f"step {seen}: trained on by Ray Train's new worker; now its pod is deleted by force")
        deleted = delete(team, WORKER)
        wait_for(lambda: is_replaced(team, WORKER, deleted), PATIENCE_S)
        seen = train_past("struck")

        attempt = status("struck").attempt
        watch.say(f"step {seen}: trained on in another pod, attempt {attempt}; now the head's pod is deleted by force")
        deleted = delete(team, HEAD)
        wait_for(lambda: is_replaced(team, HEAD, deleted), PATIENCE_S)
        wait_for(lambda: status("struck").attempt > attempt, PATIENCE_S)
        seen = train_past("struck")
        watch.say(f"step {seen}: trained on by another head's driver, attempt {status('struck').attempt}")

        out, err = submitting.communicate(timeout=PATIENCE_S)
        watch.say("runner submit has ended")
        assert submitting.returncode == 0, err
        assert f"all epochs done: {uri('struck')}" in out
        assert_same(storage.download("struck", tmp_path), at_home)
        wait_for(lambda: job_status(team).get("jobDeploymentStatus") == "Complete", PATIENCE_S)
        team.run("stop", uri("struck"))
        wait_for(team.is_empty, PATIENCE_S)
        watch.say("nothing is left")


def test_stop_in_mid_run_leaves_a_model_and_no_pods(
    team: Team, job: Callable[[str], Path], storage: Storage, tmp_path: Path, watch: Watch
) -> None:
    with submitted(team, job("stopped"), "--detach") as submitting:
        assert submitting.wait(PATIENCE_S) == 0
        seen = train_past("stopped", STEPS_OF_AN_EPOCH)  # There is no model before.
        watch.say(f"runner stop at step {seen}")
        team.run("stop", uri("stopped"))
        watch.say("it has ended")
        wait_for(team.is_empty, PATIENCE_S)
        watch.say("nothing is left")
        run = storage.download("stopped", tmp_path)
        assert status_of(run)["state"] == "stopped"
        assert weights_of(run)


def test_what_stays_wrong_is_not_tried_again_on_another_cluster(
    team: Team, job: Callable[[str], Path], watch: Watch
) -> None:
    file = job("wrong")
    document = yaml.safe_load(file.read_text())
    document["training"]["epoch_callback"] = "builtins:len"
    with submitted(team, write_job(file, document)) as submitting:
        _, err = submitting.communicate(timeout=PATIENCE_S)
        watch.say("runner submit has ended")
        assert submitting.returncode == 1
        assert "training.epoch_callback raised TypeError" in err.splitlines()[-1]
        assert (job_status(team)["jobDeploymentStatus"], job_status(team)["jobStatus"]) == ("Complete", "STOPPED")
        assert status("wrong").attempt == 1
        team.run("stop", uri("wrong"))
        wait_for(team.is_empty, PATIENCE_S)
