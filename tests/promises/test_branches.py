"""Promise 6 where it is hardest to keep: a step taken again releases the same bytes, or has noise of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runner.train import cluster, step, worker
from tests.promises.private_runs import STEPS, private_job, releases, report_of, resume, start
from tests.promises.replicated import measured
from tests.runs import ROOT, status_of


def assert_not_alike(one: Sequence[NDArray[np.float32]], other: Sequence[NDArray[np.float32]]) -> None:
    """Steps of two processes have no noise in common."""
    for left, right in zip(one, other, strict=False):
        assert abs(float(np.corrcoef(left, right)[0, 1])) < 5 / np.sqrt(left.size)


def test_other_first_weights_open_a_branch(records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model that a run goes on from changes, while the run is killed before its first checkpoint."""
    found: dict[str, Any] = {}
    build = worker.build_network

    def build_network(*arguments: Any) -> Any:
        network = build(*arguments)
        found["weights"] = {name: value.copy() for name, value in network.weights_dict().items()}
        return network

    monkeypatch.setattr(worker, "build_network", build_network)
    monkeypatch.setattr(worker, "first_weights", lambda *_: found["weights"])
    run = start(private_job("series", records, tmp_path, epochs=1), die=5)
    first = releases()
    monkeypatch.setattr(
        worker, "first_weights", lambda *_: {name: value * 1.01 for name, value in found["weights"].items()}
    )
    resume(run)
    assert_not_alike(first, releases())
    assert len(report_of(run)["steps_of_branches"]) == 2
    assert report_of(run)["steps"] >= 5 + STEPS


def test_a_step_that_gives_something_else_when_it_is_taken_again_has_noise_of_its_own(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that rounds otherwise and says nothing of it. The newest checkpoint was released, and is lost."""
    run = start(private_job("rounded", records, tmp_path, epochs=2))
    first = releases()
    (run / "checkpoints" / f"step-{2 * STEPS:012d}" / "manifest.json").unlink()
    clipped_sum = step.clipped_sum

    def rounds_otherwise(*arguments: Any, **options: Any) -> Any:
        return clipped_sum(*arguments, **options | {"scale": options["scale"] * (1 + 1e-6)})

    monkeypatch.setattr(step, "clipped_sum", rounds_otherwise)
    resume(run, "training.epochs=3")
    second = releases()
    assert len(second) == 2 * STEPS, "the steps of the old branch were thrown away before anything was told of them"
    assert_not_alike(first[STEPS:], second)
    assert report_of(run)["steps_of_branches"] == [2 * STEPS, 2 * STEPS]
    assert status_of(run)["state"] == "done"


def test_replicas_that_take_different_batches_make_no_update() -> None:
    *_, found = measured(2).values()
    assert "the workers do not agree on the batch" in found["disagreement"]
    assert found["moved"] == 0


# Several workers


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def test_workers_on_different_machines_are_in_one_branch(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes with processors and memory of their own: the same logical batches, each record in one share."""
    run = start(private_job("mixed", records, tmp_path, epochs=1, callbacks=[]))

    def seen(rank: int) -> str:
        return str(tmp_path / f"seen-{rank}.json")

    def fit(config: Any, directory: Any, tokens_uri: str, *, local: bool) -> None:
        addresses = [f"localhost:{free_port()}" for _ in range(2)]
        places = (directory.uri, tokens_uri, directory.term)
        workers = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.promises.one_of_two", str(rank), *addresses, *places, seen(rank)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(2)
        ]
        try:
            told = [process.communicate(timeout=300)[0] for process in workers]
        finally:
            for process in workers:
                process.kill()
        assert [process.returncode for process in workers] == [0, 0], told

    monkeypatch.setattr(cluster, "fit_on_cluster", fit)
    # The first time both open a branch; the second time there is one, of which each has to say whether it is its own.
    for epochs in (2, 3):
        resume(run, "resources.workers=2", f"training.epochs={epochs}")
        one, other = (json.loads(Path(seen(rank)).read_text()) for rank in range(2))
        assert [step["all"] for step in one] == [step["all"] for step in other]
        assert len(one) == STEPS
        for left, right in zip(one, other, strict=True):
            assert not set(left["own"]) & set(right["own"])
            assert sorted(left["own"] + right["own"]) == left["all"]
    assert report_of(run)["steps_of_branches"] == [STEPS, 2 * STEPS]
