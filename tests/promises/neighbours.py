"""What may differ between private runs on neighbours, and what may not: see `tests.promises.scenes`."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from runner.errors import PrivacyError
from runner.privacy.grid import FLOAT_MARGIN, FLOAT_MARGIN_OF_RECORD
from runner.run_directory import RunDirectory
from runner.storage import open_folder
from runner.train import agreement, worker
from tests.promises.private_runs import report_of
from tests.promises.recording import Recording, Release, record

BATCH, CLIP = 12, 0.02

Play = Callable[[Path, Path], Iterable[Path]]
"""Trains on the records of a folder and leaves runs in another one; the directories of those that are private."""


@dataclass(frozen=True)
class Scene:
    """Records, and what is done with them. `write(folder, emptied)` leaves out the content of one of them."""

    write: Callable[[Path, int | None], None]
    play: Play
    begins_at: int = 0
    """The row that is the first example of the run whose batches have the record."""
    asks_another_worker: bool = False

    def record(self, place: Path, emptied: int | None = None, frozen: Recording | None = None) -> Recording:
        """Always at the same place, which is in what runs write."""
        data, runs = place / "data", place / "runs"
        for folder in (data, runs):
            shutil.rmtree(folder, ignore_errors=True)
        data.mkdir(parents=True)
        self.write(data, emptied)
        with record(runs, frozen) as found, watched_worker() as chief:
            try:
                directories = list(self.play(data, runs))
            except PrivacyError as error:  # Any other is a fault.
                found.outcomes.append(f"{type(error).__name__}: {error}")
                return found
        found.outcomes += [f"{run.name}: {report_of(run)}" for run in directories]
        found.problems = [*_reused_noise(found), *_uncounted(found, directories), *_named_files(found, data)]
        if self.asks_another_worker:
            found.problems += _another_worker(found, chief)
        found.problems += [f"others may read {path}" for path in _open_secrets(runs)]
        return found

    def differences(self, place: Path, emptied: int, first: Recording) -> list[str]:
        """What differs between a recording and one without the content of a record; empty where all is well."""
        return [*first.problems, *compare(first, self.record(place, emptied, first), emptied - self.begins_at)]


# What may not be


def compare(one: Recording, other: Recording, emptied: int) -> Iterator[str]:
    """All that differs between recordings on neighbours and is no sum before noise."""
    yield from other.problems
    if one.outcomes != other.outcomes:
        yield f"outcomes: {one.outcomes} {other.outcomes}"
    if one.positions != other.positions:
        yield "the batches"
    for name in ("lines", "writes"):
        yield from (f"{name}: {what}" for what in _unlike(getattr(one, name), getattr(other, name)))
    yield from _compare_releases(one.releases, other.releases)
    if {replica: len(steps) for replica, steps in one.steps.items()} != {r: len(s) for r, s in other.steps.items()}:
        yield "the number of steps"
        return
    for number, drawn in enumerate(one.drawn(emptied)[: len(one.steps[0])] if one.steps else []):
        yield from (f"step {number}: {what}" for what in _compare_step(one, other, number, drawn=drawn))


def _unlike(one: Counter[Any], other: Counter[Any]) -> Iterator[str]:
    for key in sorted(one.keys() | other.keys()):
        if one[key] != other[key]:
            yield f"{key} {one[key]} times, and {other[key]} times"


def _compare_step(one: Recording, other: Recording, number: int, *, drawn: bool) -> Iterator[str]:
    pairs = [(one.steps[replica][number], other.steps[replica][number]) for replica in sorted(one.steps)]
    if not all(np.array_equal(left.noise, right.noise) for left, right in pairs):
        yield "the noise"
    moved = float(np.linalg.norm(np.sum([left.sums - right.sums for left, right in pairs], axis=0)))
    if moved > (CLIP * (1 + FLOAT_MARGIN + BATCH * FLOAT_MARGIN_OF_RECORD) if drawn else 0):
        yield f"the clipped sum moves by {moved / CLIP} clips, and the record is {'' if drawn else 'not '}in it"
    grid = pairs[0][0].grid
    rounded = float(np.linalg.norm(np.sum([left.rounded - right.rounded for left, right in pairs], axis=0)))
    if rounded > grid.sigma:  # Whose noise multiplier is 1: the sensitivity that is accounted for.
        yield f"the rounded sum moves by {rounded / grid.sigma} of what is accounted for"


def _compare_releases(one: list[Release], other: list[Release]) -> Iterator[str]:
    if [release.name for release in one] != [release.name for release in other]:
        yield "the releases"
        return
    for left, right in zip(one, other, strict=True):
        if left.exact.keys() != right.exact.keys():
            yield f"the histograms of {left.name}"
            continue
        for name in left.exact:
            cells = [Counter(_cells(release.exact[name])) for release in (left, right)]
            moved = sum(((cells[0] - cells[1]) + (cells[1] - cells[0])).values())
            if moved > 1:
                yield f"{name} of {left.name} moves by {moved} records"


def _cells(counts: Any) -> dict[Any, int]:
    names = counts.values or range(counts.counts.size)
    return dict(zip(names, counts.counts.ravel().tolist(), strict=True))


def _reused_noise(found: Recording) -> Iterator[str]:
    """Steps of one noise and several sums: the difference of what they release tells the sums'."""
    sums: dict[bytes, bytes] = {}
    for number, each in enumerate(found.steps.get(0, [])):
        if sums.setdefault(each.noise.tobytes(), each.sums.tobytes()) != each.sums.tobytes():
            yield f"step {number} has the noise of another step, whose sum is another"


def _uncounted(found: Recording, directories: Iterable[Path]) -> Iterator[str]:
    """More different noises than steps were counted."""
    counted = sum(report_of(run)["steps"] for run in directories)
    noises = len({each.noise.tobytes() for each in found.steps.get(0, [])})
    if noises > counted:
        yield f"{noises} steps were taken, and {counted} are counted"


def _named_files(found: Recording, data: Path) -> Iterator[str]:
    """What is written about the files of records that whoever has a guess at one can check."""
    for file in data.glob("*.parquet"):
        digests = [getattr(hashlib, kind)(file.read_bytes()).digest() for kind in ("sha256", "sha1", "md5", "blake2b")]
        for digest in digests:
            for name, content in found.plain:
                if digest.hex().encode() in content or digest in content:
                    yield f"{name} has a plain digest of {file.name}"


@dataclass
class Chief:
    """The latest first worker: its task, and what it decided for all."""

    task: worker.WorkerTask | None = None
    decided: str = ""


@contextlib.contextmanager
def watched_worker() -> Iterator[Chief]:
    chief, train, gather = Chief(), worker._train, agreement.gather

    def training(task: Any, *rest: Any) -> Any:
        chief.task = task
        return train(task, *rest)

    def gathering(strategy: Any, rank: int, workers: int, text: str) -> list[str]:
        chief.decided = text
        return gather(strategy, rank, workers, text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "_train", training)
        patch.setattr(agreement, "gather", gathering)
        yield chief


def _another_worker(found: Recording, chief: Chief) -> list[str]:
    """A second worker, on another machine, is told what the first one decided: which batches it takes."""
    digests: list[bytes] = []

    def run(loop: Any) -> str:
        digests.extend(share.digest.tobytes() for share in loop.feed.training(0, 0))
        return "all epochs done"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreement, "gather", lambda *_arguments: [chief.decided] * 2)
        patch.setattr(worker, "make_strategy", lambda _resources: tf.distribute.get_strategy())
        patch.setattr(worker, "local_replicas", lambda *_arguments: range(1))
        patch.setattr(worker, "machine", lambda: ["another processor"])
        patch.setattr(worker.TrainingLoop, "run", run)
        assert chief.task is not None
        task = replace(chief.task, rank=1, workers=2)
        heartbeat: Any = SimpleNamespace(report=lambda *_arguments, **_options: None)
        worker._train(task, RunDirectory(open_folder(task.run_uri)), heartbeat)
    return [] if digests == found.digests[: len(digests)] else ["a second worker takes other batches than the first"]


def _open_secrets(runs: Path) -> list[str]:
    files = [*runs.glob("*/private/*"), *runs.glob("*/private")]
    return [path.name for path in files if path.stat().st_mode & 0o077]
