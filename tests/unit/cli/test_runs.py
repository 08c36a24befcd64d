"""Resuming a run, reading it, stopping it."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.cli import watch
from runner.submit import start
from runner.submit.follow import describe, duration
from tests.unit.cli.commands import Result, Run, one_line, take_run, tree


def test_a_resume_changes_nothing_that_the_weights_depend_on(run: Run, here: Path) -> None:
    take_run(here, state="stopped")
    before = tree(here)
    for override in (
        "training.batch_size=8",
        "model.layers=3",
        "data.uri=x",
        "training.seed=1",
        "name=other",
    ):
        line = one_line(run("resume", "demo", "--set", override), 2)
        assert line.startswith(f"--set {override.partition('=')[0]}: a resume cannot change this")
    assert tree(here) == before


@pytest.mark.parametrize("override", ["training.epochs=30", "resources.workers=2", "data.cache_gib=0"])
def test_a_resume_may_change_how_long_and_where(run: Run, here: Path, override: str) -> None:
    take_run(here, state="stopped")
    before = tree(here)
    plan = run("resume", "demo", "--set", override, "--dry-run", "--json").answer
    section, name = override.partition("=")[0].split(".")
    assert plan["job"][section][name] == int(override.partition("=")[2])
    assert tree(here) == before


def test_a_finished_run_has_nothing_to_resume(run: Run, here: Path) -> None:
    take_run(here, state="done", message="all epochs done")
    before = tree(here)
    result = run("resume", "demo")
    assert (result.code, result.out.splitlines()[0]) == (0, f"all epochs done: {here}/runs/demo")
    assert tree(here) == before


def test_a_run_that_is_alive_is_not_resumed(
    run: Run, here: Path, another_process: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "KILLED_RUN_ENDS_WITHIN_S", 0)
    take_run(here, state="training", pid=another_process)
    before = tree(here)
    assert "this run is training, last seen" in one_line(run("resume", "demo"), 2)
    assert tree(here) == before


PROGRESS = {
    "epoch": 2,
    "epochs": 15,
    "step": 30,
    "steps": 120,
    "loss": 1.23456,
    "accuracy": 0.5678,
    "tokens_per_second": 12345.6,
    "eta_s": 3725.0,
}
LINE = "demo: epoch 3/15  step 30/120  loss 1.2346  12,346 tokens/s  ETA 1:02:05"


def test_status_shows_how_far_a_run_is(run: Run, here: Path, another_process: int) -> None:
    directory = take_run(here, state="training", progress=PROGRESS, pid=another_process)
    assert run("status", "demo") == Result(0, LINE + "\n", "")
    assert run("status", directory.uri).out == LINE + "\n"
    answer = run("status", "demo", "--json").answer
    assert (answer["run"], answer["state"], answer["progress"]) == (directory.uri, "training", PROGRESS)


@pytest.mark.parametrize(
    ("status", "line"),
    [
        ({"state": "done", "message": "early stopping"}, "demo: done - early stopping"),
        ({"state": "failed", "error": "the disk is full"}, "demo: failed - the disk is full"),
        ({"state": "stopped"}, "demo: stopped"),
        (
            {"state": "preparing", "message": "tokenized 3 of 7 parts"},
            "demo: preparing - tokenized 3 of 7 parts",
        ),
        (
            {"state": "training", "message": "compiling the first step"},
            "demo: training - compiling the first step",
        ),
    ],
)
def test_status_says_what_a_run_does_in_one_line(run: Run, here: Path, status: dict[str, Any], line: str) -> None:
    take_run(here, **status)
    assert run("status", "demo").out == line + "\n"


def test_a_killed_run_is_shown_as_lost(run: Run, here: Path) -> None:
    take_run(here, state="training", heartbeat=time.time() - 3600, host="gone")
    assert run("status", "demo").out.startswith("demo: lost - no sign of life for 36")


def test_list_shows_the_runs_of_a_folder(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("list") == Result(0, "no runs in runs/\n", "")
    take_run(here, "b", state="done", message="all epochs done")
    take_run(here, "a", state="failed", error="too little memory")
    text = "a: failed - too little memory\nb: done - all epochs done\n"
    assert run("list").out == run("list", "runs").out == text
    answer = run("list", "runs", "--json").answer
    assert [(row["name"], row["state"]) for row in answer["runs"]] == [("a", "failed"), ("b", "done")]
    monkeypatch.chdir("/")
    monkeypatch.setenv("RUNNER_STORAGE__URI", str(here / "runs"))
    assert run("list").out == text
    assert run("status", "b").out == "b: done - all epochs done\n"


def test_logs_prints_what_every_process_wrote(run: Run, here: Path) -> None:
    directory = take_run(here, state="done")
    assert run("logs", "demo") == Result(0, "", "")
    directory.folder.write("logs/1-driver.log", "first\nsecond ä\n".encode())
    directory.folder.write("logs/2-worker-0.log", b"not utf-8 \xff\n")
    assert run("logs", "demo").out == "1-driver | first\n1-driver | second ä\n2-worker-0 | not utf-8 \ufffd\n"
    assert run("logs", "demo", "--json").answer == {
        "1-driver.log": "first\nsecond ä\n",
        "2-worker-0.log": "not utf-8 \ufffd\n",
    }


def test_followed_logs_end_with_the_run_and_repeat_nothing(
    run: Run, here: Path, another_process: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = take_run(here, state="training", pid=another_process)
    directory.folder.write("logs/1-driver.log", b"first\n")
    moments = iter(
        [
            lambda: directory.folder.write("logs/1-driver.log", b"first\nsecond\n"),
            lambda: (
                directory.folder.write("logs/1-driver.log", b"first\nsecond\nlast\n"),
                directory.update_status(state="done"),
            ),
        ]
    )
    monkeypatch.setattr(watch, "time", SimpleNamespace(sleep=lambda _: next(moments)()))
    result = run("logs", "-f", "demo")
    assert (result.code, result.out) == (0, "1-driver | first\n1-driver | second\n1-driver | last\n")


def test_stop_asks_a_run_that_is_alive(run: Run, here: Path, another_process: int) -> None:
    directory = take_run(here, state="training", pid=another_process)
    result = run("stop", "demo")
    assert (result.code, directory.stop_requested()) == (0, True)
    assert "stops at its next step; `runner resume" in result.out
    assert run("stop", "demo", "--json").answer["state"] == "training"


def test_stop_has_nothing_to_do_for_a_run_that_has_ended(run: Run, here: Path) -> None:
    directory = take_run(here, state="done")
    assert "nothing to stop, the run is done" in run("stop", "demo").out
    assert not directory.stop_requested()


def test_a_duration_reads_like_a_clock() -> None:
    assert [duration(seconds) for seconds in (0, 59.4, 59.6, 3599.6, 86_400)] == [
        "0:00",
        "0:59",
        "1:00",
        "1:00:00",
        "24:00:00",
    ]


def test_describe_needs_no_progress(here: Path) -> None:
    status = take_run(here).current_status()
    assert describe(status) == "demo: pending"
    assert describe(replace(status, state="training", progress=PROGRESS)) == LINE
    assert status.host == socket.gethostname()
