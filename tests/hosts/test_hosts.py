"""Runs on a cluster of several hosts: none without the token, and none ends otherwise because a host was lost.

The resume contract is bit for bit, so each run is held against one of as many workers that ran here, undisturbed.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.run_directory import RunDirectory
from runner.storage import open_folder
from runner.train.checkpoint import newest_checkpoint
from tests.hosts.hosts import Host, Hosts, hosts
from tests.ray.cluster import AUTH
from tests.runs import (
    history_of,
    run_runner,
    small_job,
    start_runner,
    status_of,
    wait_for,
    weights_of,
    write_job,
    write_records,
)

EPOCHS = 4
TRAINING = {
    "epochs": EPOCHS,
    "checkpoint_every_s": 1.0,
    "callbacks": ["tests.hosts.pace:paced_steps", "tests.slow.pace:plateau"],
}
SLOW_S, FAST_S = "5", "0"
STRIKE_AFTER_STEPS = 3
WITHIN_S = 600.0
pytestmark = pytest.mark.timeout(1800)

WRONG_TOKENS = ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 32}, {})


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_records(tmp_path_factory.mktemp("records"), count=600)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One storage folder for all runs, so that tokens are prepared once."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def unharmed(runs: Path, records: Path) -> dict[int, Path]:
    """Runs that nothing happened to, on this machine, by their number of workers."""
    for workers in (1, 2):
        job = write_job(runs / "job.yaml", job_of(f"unharmed-{workers}", records, runs, workers))
        run_runner("submit", job, timeout_s=WITHIN_S)
    return {workers: runs / f"unharmed-{workers}" for workers in (1, 2)}


@pytest.fixture(scope="module")
def pace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that says how slowly runs on the hosts train."""
    return tmp_path_factory.mktemp("pace") / "seconds"


@pytest.fixture(scope="module")
def all_hosts(unharmed: dict[int, Path], pace: Path) -> Iterator[Hosts]:
    """A head and three workers, after the runs that need a Ray of their own."""
    with hosts(workers=3, TEST_PACE_FILE=str(pace)) as cluster:
        yield cluster


@pytest.fixture
def cluster(all_hosts: Hosts, pace: Path) -> Iterator[Hosts]:
    """All hosts alive, whatever the test before did to them."""
    pace.write_text(SLOW_S)
    all_hosts.restore()
    yield all_hosts
    if all_hosts.head.pids_of("runner.driver"):  # What a test that failed left goes with its cluster.
        all_hosts.kill_host(all_hosts.head)


def job_of(name: str, records: Path, runs: Path, workers: int) -> dict[str, Any]:
    return small_job(name, records, runs, **TRAINING) | {"resources": {"workers": workers, "cpus_per_worker": 1}}


def test_a_call_of_the_jobs_api_without_the_token_is_refused(cluster: Hosts, tmp_path: Path) -> None:
    job = json.dumps({"entrypoint": f"touch {tmp_path}/was-here"}).encode()
    for method, body in (("GET", None), ("POST", job)):
        for headers in ({}, {"Authorization": f"Bearer {'f' * 32}"}):
            request = urllib.request.Request(
                f"{cluster.address}/api/jobs/", body, headers | {"Content-Type": "application/json"}, method=method
            )
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request, timeout=30)
            assert refused.value.code in (401, 403)
    assert cluster.get("/api/jobs/") == [], "the token opens it, and no job got in"
    assert not (tmp_path / "was-here").exists()


@pytest.mark.parametrize("token", WRONG_TOKENS, ids=["wrong token", "no token"])
def test_submit_without_the_token_is_one_line_and_nothing_is_written(
    cluster: Hosts, records: Path, tmp_path: Path, token: dict[str, str]
) -> None:
    job = write_job(tmp_path / "job.yaml", small_job("refused", records, tmp_path / "runs"))
    done = run_runner("submit", job, "--on", "ray", "--address", cluster.address, expect=3, **token)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {cluster.address}: the cluster refused the token")
    assert not (tmp_path / "runs").exists()


def test_a_run_over_the_bridge_ends_as_one_on_one_machine(
    cluster: Hosts, records: Path, runs: Path, pace: Path, unharmed: dict[int, Path]
) -> None:
    process, run = submit_and_wait_for_a_checkpoint(cluster, job_of("bridge", records, runs, 2))
    chief, other = hosts_at_work(cluster, run, 2)
    assert chief.address != other.address
    assert {chief.address, other.address} <= cluster.live_nodes().keys()
    end(process, pace)
    assert_same_end(run, unharmed[2])
    assert continued_from(run) == []


def test_a_run_goes_on_on_a_spare_host_when_one_is_killed(
    cluster: Hosts, records: Path, runs: Path, pace: Path, unharmed: dict[int, Path]
) -> None:
    process, run = submit_and_wait_for_a_checkpoint(cluster, job_of("host-killed", records, runs, 2))
    chief, other = hosts_at_work(cluster, run, 2)
    (spare,) = [host for host in cluster.workers if host not in (chief, other)]
    cluster.kill_host(other)
    least = newest_step(run)
    wait_for(lambda: len(continued_from(run)) == 1, WITHIN_S)
    assert spare in hosts_at_work(cluster, run, 2)
    end(process, pace)
    assert continued_from(run)[0] >= least
    assert_same_end(run, unharmed[2])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_goes_on_elsewhere_when_a_link_is_cut_and_what_is_cut_off_writes_no_more(
    cluster: Hosts, records: Path, runs: Path, pace: Path, unharmed: dict[int, Path], workers: int
) -> None:
    """The host that is cut off still sees the disk; a worker alone even goes on training there."""
    process, run = submit_and_wait_for_a_checkpoint(cluster, job_of(f"cut-{workers}", records, runs, workers))
    chief, *_ = hosts_at_work(cluster, run, workers)
    stale = chief.pids_of("RayTrainWorker")
    cluster.cut_link(chief)
    least = newest_step(run)
    wait_for(lambda: len(continued_from(run)) == 1, WITHIN_S)
    assert continued_from(run)[0] >= least
    assert set(chief.pids_of("RayTrainWorker")) & set(stale), "it ended too early to do harm"
    seen = set()
    pause_until = time.monotonic() + 6  # Three of its heartbeats.
    while time.monotonic() < pause_until:
        seen.add(status_of(run)["host"])
        time.sleep(0.1)
    assert chief.name not in seen, "the worker that was cut off writes beside the new one"
    end(process, pace)
    assert_same_end(run, unharmed[workers])
    left = contents(run)
    cluster.mend_link(chief)
    wait_for(lambda: not chief.pids_of("RayTrainWorker"), WITHIN_S)
    assert contents(run) == left


def test_a_run_whose_head_was_killed_is_resumed_on_a_new_cluster(
    cluster: Hosts, records: Path, runs: Path, pace: Path, unharmed: dict[int, Path]
) -> None:
    process, run = submit_and_wait_for_a_checkpoint(cluster, job_of("head-killed", records, runs, 2))
    cluster.kill_host(cluster.head)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 3, said
    assert said.splitlines()[-1].startswith(f"error: {cluster.address}: no Ray cluster answers here")
    cluster.restore()
    wait_for(lambda: RunDirectory(open_folder(str(run))).current_status().state == "lost", WITHIN_S)
    least = newest_step(run)
    pace.write_text(FAST_S)
    run_runner("resume", run, "--on", "ray", "--address", cluster.address, **AUTH)
    assert continued_from(run) == [least]
    assert_same_end(run, unharmed[2])


def submit_and_wait_for_a_checkpoint(cluster: Hosts, job: dict[str, Any]) -> tuple[subprocess.Popen[str], Path]:
    """A run in its middle: some steps are done, one of its checkpoints is published."""
    runs = Path(job["storage"]["uri"])
    file = write_job(runs / "job.yaml", job)
    process = start_runner("submit", file, "--on", "ray", "--address", cluster.address, **AUTH)
    run = runs / job["name"]

    def is_in_its_middle() -> bool:
        assert process.poll() is None, process.communicate()
        return status_of(run).get("progress", {}).get("total_steps", 0) >= STRIKE_AFTER_STEPS and newest_step(run) > 0

    wait_for(is_in_its_middle, WITHIN_S)
    return process, run


def hosts_at_work(cluster: Hosts, run: Path, workers: int) -> list[Host]:
    """The hosts that have a worker of the run in their namespace, the chief's first."""
    chief = status_of(run)["host"]
    at_work = [host for host in cluster.workers if host.pids_of("RayTrainWorker")]
    at_work.sort(key=lambda host: host.name != chief)
    assert at_work[0].name == chief
    assert len(at_work) >= workers
    return at_work[:workers]


def end(process: subprocess.Popen[str], pace: Path) -> None:
    """Let the run come to its end at full speed."""
    pace.write_text(FAST_S)
    out, err = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0, f"{out}\n{err}"


def newest_step(run: Path) -> int:
    """The step of the newest whole checkpoint, 0 where there is none."""
    checkpoint = newest_checkpoint(open_folder(str(run / "checkpoints")))
    return 0 if checkpoint is None else checkpoint.step


def continued_from(run: Path) -> list[int]:
    """The steps that chiefs have gone on from, as their logs say."""
    logs = sorted((run / "logs").glob("*-worker-0.log"))
    return [int(step) for log in logs for step in re.findall(r"continuing from step (\d+)", log.read_text())]


def contents(run: Path) -> dict[str, bytes]:
    """All files but the logs, which are each process's own."""
    files = [path for path in run.rglob("*") if path.is_file() and path.parent.name != "logs"]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def assert_same_end(run: Path, unharmed: Path) -> None:
    assert status_of(run)["state"] == "done"
    assert weights_of(run) == weights_of(unharmed)
    assert history_of(run) == history_of(unharmed)
    assert [row["epoch"] for row in history_of(run)] == [str(epoch) for epoch in range(EPOCHS)]
