"""Records, a storage folder, and runs that several promises look at."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from runner.privacy.accountant import Mechanism, epsilon
from runner.privacy.noise import RunKey
from tests.promises.private_runs import (
    BATCH,
    CLIP,
    NOISE,
    RECORDS,
    TRAINED,
    Seen,
    private_job,
    releases,
    resume,
    start,
    watched_batches,
    without_ray,
)
from tests.runs import write_records

MECHANISM = Mechanism(TRAINED, BATCH, NOISE, CLIP)
PAID_STEPS = 5


@pytest.fixture(scope="session", autouse=True)
def in_this_process() -> Iterator[None]:
    with without_ray():
        yield


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_records(tmp_path_factory.mktemp("records"), RECORDS)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@dataclass
class Watched:
    """A run, the batches it saw, and the releases of each of its processes."""

    run: Path
    seen: Seen
    attempts: list[list[NDArray[np.float32]]] = field(default_factory=list)


@pytest.fixture(scope="session")
def whole(records: Path, runs: Path) -> Watched:
    """A run that nothing disturbed."""
    with watched_batches() as seen, fixed_key():
        return Watched(start(private_job("whole", records, runs)), seen, [releases()])


@pytest.fixture(scope="session")
def killed(records: Path, runs: Path) -> Watched:
    """The same, killed in its second epoch and resumed as it was."""
    with watched_batches() as seen, fixed_key():
        watched = Watched(start(private_job("killed", records, runs), die=12), seen, [releases()])
        resume(watched.run)
        watched.attempts.append(releases())
    return watched


@pytest.fixture(scope="session")
def moved(records: Path, runs: Path) -> Watched:
    """The same, killed in its second epoch and resumed on another machine."""
    from runner.train import worker

    with watched_batches() as seen, fixed_key():
        watched = Watched(start(private_job("moved", records, runs), die=12), seen, [releases()])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(worker, "machine", lambda: ["another processor"])
            resume(watched.run)
        watched.attempts.append(releases())
    return watched


@pytest.fixture(scope="session")
def limited(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """A run whose budget ends in its first epoch of three."""
    limit = {"max_epsilon": epsilon([(MECHANISM, PAID_STEPS)], 0.003, "rdp"), "accountant": "rdp", "delta": 0.003}
    with watched_batches() as seen:
        run = start(private_job("limited", records, tmp_path_factory.mktemp("limited runs"), limit))
        return Watched(run, seen, [releases()])


@contextlib.contextmanager
def fixed_key() -> Iterator[None]:
    """The same secret for runs that are compared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunKey, "new", classmethod(lambda cls: cls("5e" * 32)))
        yield
