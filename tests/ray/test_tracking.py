"""TensorBoard's events, and the figures that Ray exports for Prometheus."""

from __future__ import annotations

import itertools
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import ray
import tensorflow as tf

from runner.config import parse_job
from runner.driver import drive
from runner.errors import JobStoppedError
from runner.run_directory import RunDirectory
from runner.submit.launch import Launch
from runner.submit.start import start_run
from runner.train.background import run_in_thread
from runner.train.history import EpochRow, from_csv
from runner.train.tracking import EVENT_FILE, event_file
from tests.runs import small_job


def scalars(path: Path) -> dict[tuple[str, int], float]:
    found: dict[tuple[str, int], float] = {}
    for event in tf.compat.v1.train.summary_iterator(str(path)):
        for value in event.summary.value:
            assert (value.tag, event.step) not in found, "no epoch twice"
            found[value.tag, event.step] = value.simple_value
    return found


@pytest.fixture(scope="module")
def run(records: Path, runs: Path) -> Path:
    config = parse_job(small_job("tracked", records, runs, epochs=3), environment={})
    start_run(config, Launch(quiet=True))
    return runs / "tracked"


def test_the_events_say_what_the_history_says(run: Path) -> None:
    rows, _ = from_csv((run / "history.csv").read_bytes())
    found = scalars(run / EVENT_FILE)
    assert len(rows) == 3
    for row in rows:
        for name in ("loss", "accuracy", "val_loss", "val_accuracy", "tokens_per_second"):
            assert found[name, row.epoch] == pytest.approx(getattr(row, name), rel=1e-6)
    assert {tag for tag, _ in found} == {"loss", "accuracy", "val_loss", "val_accuracy", "tokens_per_second"}


def test_the_events_of_more_epochs_begin_with_those_of_fewer() -> None:
    """A reader that is in the middle of the file, as TensorBoard is, goes on from there."""
    rows = [EpochRow(epoch, 1.5, 0.5, None, None, 10, 2.5, 100.0, epsilon=0.1) for epoch in range(4)]
    files = [event_file(rows[:count], began=1e9) for count in range(5)]
    for fewer, more in itertools.pairwise(files):
        assert more.startswith(fewer)
        assert len(more) > len(fewer)


def test_ray_exports_the_running_figures_for_prometheus(
    records: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray collects every ten seconds what was set since, so the run has to last until it is seen."""
    monkeypatch.setenv("TEST_STEP_PAUSE_S", "0.2")
    job = small_job("watched", records, runs, epochs=100, callbacks=["tests.slow.pace:slow_steps"])
    config = parse_job(job, environment={})
    RunDirectory.of(config).claim(config, "local")
    stop = threading.Event()
    thread, errors = run_in_thread(lambda: drive(str(runs / "watched"), stop))
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    wanted = ("ray_runner_loss{", "ray_runner_total_steps{", "ray_runner_tokens_per_second{")
    seen: set[str] = set()
    deadline = time.monotonic() + 120
    while len(seen) < len(wanted) and thread.is_alive() and time.monotonic() < deadline:
        with urllib.request.urlopen(address, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        seen |= {name for name in wanted for line in lines if line.startswith(name) and 'run="watched"' in line}
        time.sleep(1)
    stop.set()
    thread.join()
    assert [type(error) for error in errors] == [JobStoppedError]
    assert seen == set(wanted)


def test_an_unreachable_mlflow_server_does_not_end_a_run(
    records: Path, runs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    config = parse_job(small_job("untracked", records, runs, epochs=1), environment={})
    answer: tuple[dict[str, Any], str] = start_run(config, Launch(quiet=True))
    assert answer[0]["state"] == "done"
    assert "MLflow is not told of this run" in caplog.text
