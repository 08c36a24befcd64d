"""One run, one directory: who may take it, and what a reader sees of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.config import JobConfig, parse_job
from runner.errors import (
    DataError,
    JobFailedError,
    OvertakenError,
    ResourceError,
    RunExistsError,
    RunnerError,
    RunNotFoundError,
)
from runner.run_directory import LOST_AFTER_S, RunDirectory, Status, list_runs

RACE = """
import sys, time
from runner.config import parse_job
from runner.errors import RunExistsError
from runner.run_directory import RunDirectory

config = parse_job({"name": "demo", "data": {"uri": "r"}, "storage": {"uri": sys.argv[1]}}, environment={})
print("ready", flush=True)
sys.stdin.readline()
try:
    RunDirectory.of(config).claim(config, "local")
    print("mine", flush=True)
    sys.stdin.readline()
except RunExistsError as error:
    print(error, flush=True)
"""


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return tmp_path / "runs of ä"


def job(storage: Path, name: str = "demo", *, overwrite: bool = False) -> JobConfig:
    document: dict[str, Any] = {"name": name, "data": {"uri": "records/"}}
    return parse_job(document | {"storage": {"uri": str(storage), "overwrite": overwrite}}, environment={})


def claimed(storage: Path, name: str = "demo", **status: Any) -> RunDirectory:
    """A run directory with a status of the given kind."""
    config = job(storage, name)
    directory = RunDirectory.of(config)
    directory.claim(config, "local")
    if status:
        found = directory.status()
        assert found is not None
        directory.write_status(replace(found, **status))
    return directory


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def other_process() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


# Claiming


def test_a_claimed_directory_holds_the_job_and_a_first_status(storage: Path) -> None:
    directory = claimed(storage)
    assert directory.read_config() == job(storage)
    status = directory.current_status()
    assert (status.name, status.state, status.attempt) == ("demo", "pending", 1)
    assert (status.pid, status.host) == (os.getpid(), socket.gethostname())
    assert time.time() - 60 < status.created == status.heartbeat <= time.time()


def test_of_racing_processes_exactly_one_gets_the_directory(storage: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(storage)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    said = [racer.stdout.readline().strip() for racer in racers if racer.stdout]
    for racer in racers:
        racer.communicate("\n", timeout=30)
    assert sorted(line == "mine" for line in said) == [False, False, False, True]
    assert all(str(storage) in line for line in said if line != "mine")


def test_a_run_that_exists_is_kept(storage: Path) -> None:
    directory = claimed(storage, state="done")
    before = directory.folder.read("job.yaml")
    with pytest.raises(RunExistsError, match=r"this run exists; `runner resume` .* storage.overwrite=true"):
        RunDirectory.of(job(storage)).claim(job(storage), "local")
    assert directory.folder.read("job.yaml") == before


@pytest.mark.parametrize("state", ["done", "stopped", "failed"])
def test_overwriting_leaves_nothing_of_the_run_before(storage: Path, state: str) -> None:
    directory = claimed(storage, state=state, progress={"epoch": 4})
    directory.folder.write("checkpoints/step-000000000001/manifest.json", b"{}")
    directory.folder.write("stop", b"")
    config = job(storage, overwrite=True)
    RunDirectory.of(config).claim(config, "local")
    assert [entry.name for entry in directory.folder.list()] == ["job.yaml", "status.json", "writer"]
    assert directory.current_status().progress == {}


def test_what_an_earlier_attempt_started_can_write_no_more(storage: Path, dead_pid: int) -> None:
    driver = claimed(storage).enter()
    driver.update_status(state="training", pid=dead_pid)
    worker = driver.take_over(driver.term)
    RunDirectory.of(job(storage)).begin_again("local")
    for earlier in (driver, worker):
        with pytest.raises(OvertakenError):
            earlier.update_status(state="failed")
        with pytest.raises(OvertakenError):
            earlier.check_mine()
    with pytest.raises(OvertakenError):
        RunDirectory.of(job(storage)).take_over(driver.term)
    now = RunDirectory.of(job(storage)).enter()
    now.take_over(now.term).update_status(state="training")
    assert now.current_status().attempt == 2


def test_a_status_that_an_earlier_attempt_wrote_late_does_not_bring_it_back(storage: Path) -> None:
    driver = claimed(storage, state="failed").enter()
    late = driver.current_status()
    RunDirectory.of(job(storage)).begin_again("local")
    RunDirectory.of(job(storage)).write_status(late)
    now = RunDirectory.of(job(storage)).enter()
    now.update_status(state="failed")
    with pytest.raises(OvertakenError):
        driver.check_mine()
    assert RunDirectory.of(job(storage)).begin_again("local").attempt == 3
    with pytest.raises(OvertakenError):
        now.check_mine()


def test_a_run_that_was_killed_before_its_first_status_can_be_begun_again(storage: Path) -> None:
    directory = claimed(storage)
    directory.folder.delete("status.json")
    for attempt in (2, 3):
        assert directory.begin_again("local").attempt == attempt
        directory.enter().update_status(state="failed")


def test_a_run_is_overwritten_though_the_clock_before_was_ahead(storage: Path) -> None:
    before = claimed(storage, state="done", created=time.time() + 1000).enter()
    RunDirectory.of(job(storage)).claim(job(storage, overwrite=True), "local")
    with pytest.raises(OvertakenError):
        before.check_mine()


@pytest.mark.parametrize("error", [JobFailedError("a"), ResourceError("b"), DataError("c")])
def test_an_error_comes_back_as_what_it_means(storage: Path, error: RunnerError) -> None:
    told = claimed(storage).write_failure(error).to_error()
    assert (str(told), told.exit_code, told.may_pass) == (str(error), error.exit_code, error.may_pass)


def test_what_worked_on_a_run_that_was_overwritten_can_write_no_more(storage: Path) -> None:
    before = claimed(storage, state="done").enter()
    RunDirectory.of(job(storage)).claim(job(storage, overwrite=True), "local")
    with pytest.raises(OvertakenError):
        before.update_status(state="failed")
    assert RunDirectory.of(job(storage)).current_status().state == "pending"


@pytest.mark.parametrize("state", ["pending", "preparing", "training"])
def test_a_run_that_is_alive_cannot_be_taken_even_to_overwrite(
    storage: Path, state: str, other_process: subprocess.Popen[bytes]
) -> None:
    directory = claimed(storage, state=state, pid=other_process.pid)
    for overwrite in (False, True):
        with pytest.raises(RunExistsError, match=f"this run is {state}; `runner stop .*demo` ends it"):
            RunDirectory.of(job(storage)).claim(job(storage, overwrite=overwrite), "local")
    assert directory.current_status().state == state


def test_a_killed_run_can_be_overwritten_at_once(storage: Path, dead_pid: int) -> None:
    claimed(storage, state="training", pid=dead_pid)
    config = job(storage, overwrite=True)
    RunDirectory.of(config).claim(config, "local")
    with pytest.raises(RunExistsError, match="this run is pending"):
        RunDirectory.of(config).claim(config, "local")


# What a reader sees


def test_a_run_whose_process_is_gone_is_lost(storage: Path, dead_pid: int) -> None:
    directory = claimed(storage, state="training", pid=dead_pid)
    status = directory.current_status()
    assert status.state == "lost"
    assert not status.is_active
    assert status.message.startswith("no sign of life for ")
    found = directory.status()
    assert found is not None
    assert found.state == "training"  # reading changes nothing


def test_a_zombie_is_not_alive(storage: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert claimed(storage, state="training", pid=process.pid).current_status().state == "lost"
    process.wait()


def test_a_process_elsewhere_counts_by_its_heartbeat_alone(storage: Path, dead_pid: int) -> None:
    now = time.time()
    directory = claimed(storage, state="training", pid=dead_pid, host="another", heartbeat=now)
    assert directory.current_status().state == "training"
    directory.update_status(heartbeat=now - LOST_AFTER_S - 1, host="another", pid=dead_pid)
    assert directory.current_status().state == "lost"


def test_a_living_process_that_is_silent_for_a_minute_is_lost(storage: Path) -> None:
    status = Status("demo", "training", "local", host=socket.gethostname(), pid=os.getpid(), heartbeat=time.time())
    assert status.is_active
    assert not replace(status, heartbeat=time.time() - LOST_AFTER_S - 1).is_active


def test_a_job_that_waits_for_its_cluster_is_not_lost() -> None:
    submission = {"address": "http://head:8265", "id": "runner-demo"}
    waiting = Status("demo", "pending", "ray", heartbeat=time.time() - 10 * LOST_AFTER_S, submission=submission)
    assert waiting.is_active
    assert not replace(waiting, submission={}).is_active
    assert not replace(waiting, state="training").is_active


@pytest.mark.parametrize("state", ["done", "stopped", "failed"])
def test_a_run_that_has_ended_is_never_lost(state: Any, dead_pid: int) -> None:
    status = Status("demo", state, "local", host=socket.gethostname(), pid=dead_pid)
    assert status.seen_now() == status
    assert not status.is_active


def test_a_directory_without_a_status_is_seen_as_lost(storage: Path) -> None:
    directory = claimed(storage)
    directory.folder.delete("status.json")
    assert directory.status() is None
    assert (directory.current_status().name, directory.current_status().state) == ("demo", "lost")


def test_a_status_reads_back_equal(storage: Path) -> None:
    directory = claimed(storage)
    status = Status("demo", "training", "ray", 3, "ä", "e", "h", 7, 1.5, 0.1 + 0.2, {"loss": 0.1}, {"id": "x"})
    directory.write_status(status)
    assert directory.status() == status


def test_an_update_keeps_what_it_does_not_change_and_gives_a_sign_of_life(storage: Path) -> None:
    directory = claimed(storage, state="training", progress={"epoch": 1}, heartbeat=0.0, pid=1, host="another")
    directory.update_status(message="hello")
    status = directory.status()
    assert status is not None
    assert (status.state, status.progress, status.message) == ("training", {"epoch": 1}, "hello")
    assert (status.pid, status.host) == (os.getpid(), socket.gethostname())
    assert status.heartbeat > time.time() - 60


def test_a_stop_is_asked_for_and_forgotten(storage: Path) -> None:
    directory = claimed(storage)
    assert not directory.stop_requested()
    directory.request_stop()
    directory.request_stop()
    assert directory.stop_requested()
    directory.clear_stop()
    directory.clear_stop()
    assert not directory.stop_requested()


def test_logs_are_told_by_process(storage: Path) -> None:
    directory = claimed(storage)
    assert directory.logs() == {}
    directory.folder.write("logs/1-driver.log", b"one\n")
    directory.folder.write("logs/1-worker-0.log", b"two\n")
    assert directory.logs() == {"1-driver.log": b"one\n", "1-worker-0.log": b"two\n"}


# Waiting for a killed run


def test_a_resume_waits_until_the_run_is_left(storage: Path, other_process: subprocess.Popen[bytes]) -> None:
    directory = claimed(storage, state="training", pid=other_process.pid)

    def end() -> None:
        other_process.kill()
        other_process.wait()

    timer = threading.Timer(0.3, end)
    timer.start()
    started = time.monotonic()
    directory.wait_until_left(20)
    assert 0.25 < time.monotonic() - started < 15
    timer.join()


def test_a_resume_of_a_living_run_is_refused(storage: Path, other_process: subprocess.Popen[bytes]) -> None:
    directory = claimed(storage, state="training", pid=other_process.pid)
    with pytest.raises(RunExistsError, match=r"this run is training, last seen \d+ s ago on .*`runner stop") as caught:
        directory.wait_until_left(0)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("state", ["done", "stopped", "failed"])
def test_a_resume_of_an_ended_run_does_not_wait(storage: Path, state: str) -> None:
    claimed(storage, state=state).wait_until_left(0)


# Finding runs


def test_a_run_is_found_by_path_by_name_and_by_name_in_the_folder(
    storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = claimed(storage).uri
    assert RunDirectory.find(uri).uri == uri
    assert RunDirectory.find(uri + "/").uri.rstrip("/") == uri
    assert RunDirectory.find("demo", str(storage)).uri == uri
    assert RunDirectory.find("demo", f"{storage}/").uri == uri
    monkeypatch.chdir(storage)
    assert RunDirectory.find("demo").uri == uri
    monkeypatch.chdir(storage.parent)
    assert RunDirectory.find(f"{storage.name}/demo").uri == uri


def test_a_folder_of_the_runs_name_does_not_hide_the_run(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = claimed(storage).uri
    (storage.parent / "demo").mkdir()
    monkeypatch.chdir(storage.parent)
    assert RunDirectory.find("demo", str(storage)).uri == uri


@pytest.mark.parametrize("run", ["other", "a/b", "./other"])
def test_no_run_is_said_in_one_line(storage: Path, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    claimed(storage)
    monkeypatch.chdir(storage.parent)
    with pytest.raises(RunNotFoundError, match=r"no run here; `runner list` shows the runs of a folder") as caught:
        RunDirectory.find(run, str(storage))
    assert run in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_runs_of_a_folder_are_listed_by_name_with_their_state(storage: Path, dead_pid: int) -> None:
    claimed(storage, "b", state="done")
    claimed(storage, "a", state="training", pid=dead_pid)
    claimed(storage, "c")
    (storage / ".cache/tokens").mkdir(parents=True)
    (storage / "notes.txt").write_text("x")
    (storage / "empty").mkdir()
    found = [(directory.uri, status.name, status.state) for directory, status in list_runs(str(storage))]
    assert found == [
        (f"{storage}/a", "a", "lost"),
        (f"{storage}/b", "b", "done"),
        (f"{storage}/c", "c", "pending"),
    ]


def test_a_folder_that_is_not_there_has_no_runs(storage: Path) -> None:
    assert list_runs(str(storage)) == []


def test_the_job_is_read_without_this_machines_variables(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = claimed(storage)
    monkeypatch.setenv("RUNNER_TRAINING__EPOCHS", "99")
    assert directory.read_config().training.epochs == 15


def test_status_and_job_are_plain_text(storage: Path) -> None:
    directory = claimed(storage)
    assert json.loads(directory.folder.read("status.json"))["state"] == "pending"
    assert directory.folder.read("job.yaml").startswith(b"name: demo\n")


def test_a_sweep_s_model_is_that_of_the_best_trial_s_job(storage: Path) -> None:
    """Which records it was validated with depends on the values: a report asks for them."""
    sweep = {"parameters": {"training.batch_size": {"choice": [8, 32]}}}
    config = parse_job(job(storage).model_dump(mode="json") | {"sweep": sweep}, environment={})
    directory = RunDirectory.of(config)
    directory.claim(config, "local")
    assert directory.read_model_config() == directory.read_config(), "no trial is over"
    trials = [{"run": f"demo-00{number}", "values": {"training.batch_size": 8 * number}} for number in (1, 4)]
    directory.folder.write("sweep.json", json.dumps({"best": "demo-004", "trials": trials}).encode())
    found = directory.read_model_config()
    assert (found.name, found.sweep, found.training.batch_size) == ("demo", None, 32)
