"""The resume contract: killed with -9 anywhere and resumed, a run ends as if it had never been killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.runs import (
    descendants,
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
from tests.table_records import DECLARED, FIELDS, table_job, write_table

TRAINING = {
    "epochs": 6,
    "checkpoint_every_s": 0.4,
    "callbacks": ["tests.slow.pace:slow_steps", "tests.slow.pace:plateau"],
}
KEY = "3e" * 32
"""Of all private runs here, and their branches: else no two are alike."""
PACE = {"TEST_STEP_PAUSE_S": "0.15", "TEST_RUN_KEY": KEY}
"""The variables of the run that will be killed."""
KILLS = 10
FEWER_KILLS = 5
PRIVATE = {"privacy": {"enabled": True, "noise_multiplier": 0.8}}
ANY_ORDER = {"examples": {"field_order": "random"}}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "private": PRIVATE | {"tokenizer": {"kind": "byte"}},
    "table": ANY_ORDER | {"fields": FIELDS},
    "private table": PRIVATE | ANY_ORDER | {"fields": DECLARED},
}


@dataclass(frozen=True)
class Place:
    """Records, and one storage folder for all runs on them, so that tokens are prepared once."""

    folder: Path

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def write_job(self, name: str, kind: str, workers: int = 1, **training: Any) -> Path:
        """The file of a job with these settings."""
        settings = SETTINGS[kind]
        make, data = (table_job, "table") if "fields" in settings else (small_job, "records")
        job = make(name, self.folder / data, self.runs, **(TRAINING | training)) | settings
        return write_job(self.folder / f"{name}.yaml", job | {"resources": {"workers": workers}})

    def unharmed(self, kind: str, workers: int = 1) -> Path:
        """The run of these settings that is never killed; trained once."""
        run = self.runs / f"unharmed-{kind.replace(' ', '-')}-{workers}"
        if not run.exists():
            job = self.write_job(run.name, kind, workers)
            run_runner("submit", job, TEST_STEP_PAUSE_S="0", TEST_RUN_KEY=KEY)
        return run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("killed")
    write_records(folder / "records", count=1000)
    write_table(folder / "table", count=1000)
    return Place(folder)


def total_steps(run: Path) -> int:
    return status_of(run).get("progress", {}).get("total_steps", 0)


def assert_same_end(killed: Path, unharmed: Path) -> None:
    assert status_of(killed)["state"] == "done"
    assert weights_of(killed) == weights_of(unharmed)
    assert history_of(killed) == history_of(unharmed)
    assert [row["epoch"] for row in history_of(killed)] == [str(epoch) for epoch in range(TRAINING["epochs"])]
    if (unharmed / "privacy.json").exists():
        claims = [json.loads((run / "privacy.json").read_text()) for run in (killed, unharmed)]
        assert claims[0]["steps"] == claims[1]["steps"] == sum(int(row["steps"]) for row in history_of(killed))
        assert claims[0]["epsilon"] == claims[1]["epsilon"] == float(history_of(killed)[-1]["epsilon"])


@pytest.mark.parametrize("kind", ["plain", "private", "table"])
@pytest.mark.timeout(1500)
def test_a_run_killed_again_and_again_at_random_ends_with_the_same_weights_and_history(place: Place, kind: str) -> None:
    unharmed = place.unharmed(kind)
    run = place.runs / f"killed-{kind}"
    draw = random.Random(2026)
    kills = KILLS if kind == "plain" else FEWER_KILLS
    seen: list[int] = []
    process = start_runner("submit", place.write_job(run.name, kind), **PACE)
    for kill in range(kills):
        if kill % 5 == 4:  # somewhere in the start, before the first step
            with pytest.raises(TimeoutError):
                wait_or_end(process, draw.uniform(0.5, 6))
        else:
            before = total_steps(run)
            wait_for(lambda: process.poll() is not None or total_steps(run) > before)
            assert process.poll() is None, f"the run ended before kill {kill}: {process.communicate()}"
            with pytest.raises(TimeoutError):
                wait_or_end(process, draw.uniform(0, 2.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen.append(total_steps(run))
        process = start_runner("resume", run, **PACE)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, f"{out}\n{err}"
    assert len(set(seen)) > kills // 2, f"the kills did not spread over the run: {seen}"
    assert_same_end(run, unharmed)


@pytest.mark.parametrize("kind", ["plain", "private table"])
@pytest.mark.timeout(1500)
def test_two_workers_killed_one_by_one_and_with_their_driver_end_with_the_same_weights_and_history(
    place: Place, kind: str
) -> None:
    unharmed = place.unharmed(kind, workers=2)
    run = place.runs / f"struck-{kind.replace(' ', '-')}"
    process = start_runner("submit", place.write_job(run.name, kind, workers=2), **PACE)
    for victim in ("chief", "other", "driver"):
        before = total_steps(run)
        wait_for(lambda: process.poll() is not None or total_steps(run) > before)
        assert process.poll() is None, process.communicate()
        chief = status_of(run)["pid"]
        workers = [pid for pid, command in descendants(process.pid) if "RayTrainWorker" in command]
        assert chief in workers
        assert len(workers) == 2
        pid = {"chief": chief, "other": next(pid for pid in workers if pid != chief), "driver": process.pid}[victim]
        kill(pid)
        if victim == "driver":
            process.wait()
            process = start_runner("resume", run, **PACE | {"TEST_STEP_PAUSE_S": "0.02"})
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, f"{out}\n{err}"
    assert_same_end(run, unharmed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.timeout(600)
def test_a_signal_stops_at_the_next_step_and_resume_ends_the_same(place: Place, number: signal.Signals) -> None:
    unharmed = place.unharmed("plain")
    run = place.runs / f"stopped-{number.name}"
    process = start_runner("submit", place.write_job(run.name, "plain", checkpoint_every_s=3600), **PACE)
    wait_for(lambda: process.poll() is not None or status_of(run).get("progress", {}).get("epoch", 0) >= 1)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "runner resume" in err
    assert status_of(run)["state"] == "stopped"
    assert len(history_of(run)) >= 1, "an interrupted run leaves the epochs it finished"
    assert weights_of(run)
    run_runner("resume", run, TEST_STEP_PAUSE_S="0")
    assert_same_end(run, unharmed)


@pytest.mark.timeout(600)
def test_sigterm_to_a_ray_worker_leaves_a_checkpoint_and_a_run_that_resumes(place: Place) -> None:
    unharmed = place.unharmed("plain", workers=2)
    run = place.runs / "preempted"
    job = place.write_job(run.name, "plain", workers=2, checkpoint_every_s=3600)
    process = start_runner("submit", job, **PACE)
    wait_for(lambda: process.poll() is not None or total_steps(run) > 3)
    workers = [pid for pid, command in descendants(process.pid) if "RayTrainWorker" in command]
    kill(next(pid for pid in workers if pid != status_of(run)["pid"]), signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert status_of(run)["state"] == "stopped"
    assert list((run / "checkpoints").iterdir())
    run_runner("resume", run, TEST_STEP_PAUSE_S="0")
    assert_same_end(run, unharmed)


def wait_or_end(process: subprocess.Popen[str], seconds: float) -> None:
    """TimeoutError when the process is still there after so long."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        raise TimeoutError from None


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    os.kill(pid, number)
