"""What takes minutes with two workers: another number of workers on resume, and an error in one of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.run_directory import RunDirectory
from runner.storage import open_folder
from tests.ray.test_workers import CALM, assert_same_curves, submit
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


def test_a_run_begun_on_one_worker_goes_on_on_two(tmp_path: Path) -> None:
    records, runs = write_records(tmp_path / "records"), tmp_path / "runs"
    on_one_worker = submit(tmp_path, small_job("one", records, runs, **CALM))
    run = submit(tmp_path, small_job("grown", records, runs, **(CALM | {"epochs": 2})))
    run_runner("resume", run, "--set", "training.epochs=3", "--set", "resources.workers=2")
    assert_same_curves(run, on_one_worker)


def test_a_private_run_killed_on_one_worker_counts_the_steps_that_two_repeat(tmp_path: Path) -> None:
    records, runs = write_records(tmp_path / "records"), tmp_path / "runs"
    job = small_job("moved", records, runs, epochs=2, callbacks=["tests.slow.pace:slow_steps"])
    job |= {"privacy": {"enabled": True, "noise_multiplier": 0.8}, "tokenizer": {"kind": "byte"}}
    run = runs / "moved"
    process = start_runner("submit", write_job(tmp_path / "job.yaml", job), TEST_STEP_PAUSE_S="0.2")
    wait_for(lambda: process.poll() is not None or status_of(run).get("progress", {}).get("total_steps", 0) > 5)
    process.kill()
    process.communicate()
    run_runner("resume", run, "--set", "resources.workers=2", TEST_STEP_PAUSE_S="0")
    claim = json.loads((run / "privacy.json").read_text())
    first, second = claim["steps_of_branches"]
    assert second == sum(int(row["steps"]) for row in history_of(run)), "it had no checkpoint, and took every step anew"
    assert first > 5, "the steps of the process that was killed"
    assert claim["steps"] == first + second
    (entry, *_) = sorted((runs / ".privacy").glob("*.json"), reverse=True)
    assert json.loads(entry.read_text())["steps"] == claim["steps"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_was_begun_again_elsewhere_ends_and_stays_out(tmp_path: Path, workers: int) -> None:
    """As when a cluster that was cut off comes back: Ray Train would start its workers again, three times."""
    records, runs = write_records(tmp_path / "records"), tmp_path / "runs"
    job = small_job("twice", records, runs, callbacks=["tests.slow.pace:slow_steps"])
    job["resources"] = {"workers": workers}
    run = runs / "twice"
    process = start_runner("submit", write_job(tmp_path / "job.yaml", job), TEST_STEP_PAUSE_S="0.5")
    wait_for(lambda: process.poll() is not None or status_of(run).get("progress", {}).get("total_steps", 0) > 2)
    RunDirectory(open_folder(str(run))).begin_again("ray")
    began_again = status_of(run)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 3, said
    assert [line for line in said.splitlines() if line.startswith("error:")] == [
        f"error: {run}: another process writes here now; this one ends"
    ]
    assert status_of(run) == began_again


@pytest.mark.parametrize(
    ("training", "error"),
    [
        ({"epoch_callback": "tests.ray.observers:complain"}, "training.epoch_callback"),
        (
            {"callbacks": ["tests.ray.observers:raises"]},
            "training.callbacks tests.ray.observers:raises: Raises.on_epoch_end",
        ),
    ],
    ids=["first worker", "all workers"],
)
def test_a_user_s_error_on_two_workers_ends_the_run_at_once_with_one_line(
    tmp_path: Path, training: dict[str, Any], error: str
) -> None:
    records, runs = write_records(tmp_path / "records"), tmp_path / "runs"
    job = small_job("raising2", records, runs, **training)
    job["resources"] = {"workers": 2}
    done = run_runner("submit", write_job(tmp_path / "job.yaml", job), expect=1)
    line = f"{error} raised ValueError: no more; model/ has epoch 0"
    assert [line for line in done.stderr.splitlines() if line.startswith("error:")] == [f"error: {line}"]
    run = runs / "raising2"
    assert (status_of(run)["state"], status_of(run)["error"]) == ("failed", line)
    assert len(history_of(run)) == 1
    assert weights_of(run)
    assert len(list((run / "logs").glob("*-worker-0.log"))) == 1, "the workers were started once"


def test_a_callback_that_ends_training_on_one_of_two_workers_ends_it_on_both(tmp_path: Path) -> None:
    records, runs = write_records(tmp_path / "records"), tmp_path / "runs"
    job = small_job("ended2", records, runs, callbacks=["tests.ray.observers:end_on_second_worker"])
    job["resources"] = {"workers": 2}
    run_runner("submit", write_job(tmp_path / "job.yaml", job))
    assert status_of(runs / "ended2")["message"] == "ended by a callback"
    assert [row["steps"] for row in history_of(runs / "ended2")] == ["3"]


def test_more_workers_than_this_machine_has_cores_for_are_refused(tmp_path: Path) -> None:
    job = small_job("crowd", write_records(tmp_path / "records"), tmp_path / "runs") | {"resources": {"workers": 999}}
    done = run_runner("submit", write_job(tmp_path / "job.yaml", job), expect=3)
    assert "999 workers of 1 CPUs need 999, but this machine has" in done.stderr
    assert "lower resources.workers" in done.stderr
