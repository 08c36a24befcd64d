"""Two Ray Train workers train as one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.runs import history_of, run_runner, small_job, write_job

CURVES = ("loss", "val_loss")

# Sums in another order differ in the last bits, and training amplifies that: faster at a higher rate.
CALM = {"epochs": 3, "optimizer": {"name": "rmsprop", "learning_rate": 0.001}}


def submit(tmp_path: Path, job: dict[str, Any]) -> Path:
    run_runner("submit", write_job(tmp_path / "job.yaml", job))
    return Path(job["storage"]["uri"]) / job["name"]


def assert_same_curves(left: Path, right: Path) -> None:
    for one, other in zip(history_of(left), history_of(right), strict=True):
        for name in CURVES:
            assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-4), (name, one, other)


@pytest.fixture(scope="module")
def on_one_worker(records: Path, runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return submit(tmp_path_factory.mktemp("one"), small_job("one", records, runs, **CALM))


def test_two_workers_have_the_curves_of_one(on_one_worker: Path, records: Path, runs: Path, tmp_path: Path) -> None:
    job = small_job("two", records, runs, **CALM) | {"resources": {"workers": 2}}
    two = submit(tmp_path, job)
    assert_same_curves(two, on_one_worker)
    assert len({name.split("-")[-1] for name in map(str, (two / "logs").iterdir())}) >= 2, "each process has a log"
