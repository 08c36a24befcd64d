"""A recording of private runs and its replay on a neighbour: Re:cord-play (Cebere et al. 2026, arXiv:2602.17454).

    with record(runs) as first: ...                     # on the records
    with record(runs, frozen=first) as second: ...      # the same calls, on records of which one is emptied

Both have the same randomness: keys, names of branches, and a clock that goes by the size of the batches. Of the first
is kept what goes into each primitive (the clipped sums of a step, the exact counts of a release) and what comes out. In
the second, what came out of the first comes out again. So whatever else differs between the two depends on the record
in a way that no noise hides.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import re
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import _lru_cache_wrapper
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from runner.privacy import budget, noise, releases
from runner.privacy.file_marks import MARK
from runner.privacy.grid import Grid
from runner.storage.local import LocalFolder
from runner.train import feed, loop, private_run, step, worker
from runner.train.heartbeat import LogFile
from tests.mutants.branch_conditions import without
from tests.runs import ROOT

NOT_COVERED = re.compile(
    r"\.cache/.*"  # The records themselves, as tokens.
    r"|[^/]+/(history\.csv|files\.json|checkpoints/[^/]+/(state|manifest)\.json)"  # Exact losses; marks of files.
)
"""Files whose content epsilon does not cover, as docs/privacy.md lists them. How often they are written is compared."""
BY_TIME = re.compile(r"[^/]+/(status\.json|writer|logs/.*|events/.*)")
"""Files that are written as time goes by."""
SECRET = re.compile(r"(.*/)?(private|secret|\.cache)/.*")
"""Files that may tell which files of records there were."""

PACKAGE = f"{ROOT / 'runner'}/"
FREE = re.compile(
    r"submit/(follow\.py:_wait|local\.py:<lambda>)"  # The main thread waits for the run's.
    r"|train/devices\.py:(rounding_environment|<dictcomp>)"  # By how many variables there are.
    r"|privacy/(wide|discrete)_gaussian\.py:.*"  # They draw noise, and know of nothing else.
    r"|train/facade\.py:make_tokens"  # Says in the log how many records were cut.
    r"|model/(kernels\.py:.*|objective\.py:scale_rows)"  # A turn for each position of the longest record.
    r"|privacy/(products|grams)\.py:.*"  # The quicker way, and the exact one where positions cancel.
    r"|data/schema/slots\.py:(places|<listcomp>|<genexpr>)"  # A turn for each record that is counted.
    r"|privacy/releases\.py:(_noisy|<genexpr>)"  # By how many values occur, before noise: what goes in is compared.
    r"|privacy/(accountant|group_privacy)\.py:.*"  # Of public figures; what they answer is kept for the next run.
)
"""Functions, by module and name, whose lines are not compared, and why."""
KEPT = ("noise", "gaussian", "grams", "accountant", "group_privacy")
"""Modules that keep results which are none of the records, and dear."""
BY_TIME_THREADS = ("heartbeat", "signs-of-life", "stop-watch", "warm-up", "import-ray-train")


@dataclass(frozen=True)
class Release:
    """What went into a release of counts and came out."""

    name: str
    exact: dict[str, releases.Counts]
    noisy: dict[str, releases.Counts]


@dataclass
class Step:
    """What a replica added up in a private step (d,), the noise that it got, and what it gave to the optimizer."""

    sums: NDArray[np.float64]
    noise: NDArray[np.integer]
    released: NDArray[np.float64]
    grid: Grid

    @property
    def rounded(self) -> NDArray[np.float64]:
        """The sum on the grid, in its spacings."""
        return self.released / self.grid.spacing - (self.noise if self.noise.size else 0)


@dataclass
class Recording:
    """What can be seen of the runs."""

    steps: dict[int, list[Step]] = field(default_factory=lambda: defaultdict(list))
    """By replica."""
    positions: list[tuple[int, ...]] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    """Of each step: the records of its batch, and what it goes by."""
    releases: list[Release] = field(default_factory=list)
    lines: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    """How often each line of `runner` was come to: thread, module, line."""
    writes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """How often a file was written so: how, name, content."""
    plain: list[tuple[str, bytes]] = field(default_factory=list)
    """All that was written where it is no secret: name, content."""
    outcomes: list[str] = field(default_factory=list)
    """What the runs said in the end."""
    problems: list[str] = field(default_factory=list)
    """What may not be in any recording."""
    clock: float = 1e6

    def drawn(self, position: int) -> list[bool]:
        """Whether a record was in each of the steps."""
        return [position in positions for positions in self.positions]


@contextlib.contextmanager
def record(runs: Path, frozen: Recording | None = None) -> Iterator[Recording]:
    """Record what runs under a folder do; `frozen`: what comes out of primitives instead of what went in and noise."""
    found = Recording()
    noise.draw_noise(bytes(32), 0, 1e6, 1)  # It keeps tables, which the first would make.
    _forget_results()
    with pytest.MonkeyPatch.context() as patch, _same_environment(), _untraced():
        _fix_randomness(patch)
        _fix_clock(patch, found)
        _watch_steps(patch, found, frozen)
        _watch_releases(patch, found, frozen)
        _watch_writes(patch, found, runs)
        _leave_logs_out(patch)
        with _watched_lines(found.lines):
            yield found


def _forget_results() -> None:
    """What functions keep for the next call with the same arguments."""
    for name, module in list(sys.modules.items()):
        if name.startswith("runner."):
            found = list(vars(module).values())
            for each in found + [method for kind in found if isinstance(kind, type) for method in vars(kind).values()]:
                if isinstance(each, _lru_cache_wrapper) and not each.__module__.endswith(KEPT):
                    each.cache_clear()


@contextlib.contextmanager
def _same_environment() -> Iterator[None]:
    """The variables that a run sets are gone before the next one."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _untraced() -> Iterator[None]:
    """TensorFlow's functions as Python, line by line: to make graphs of them takes longer than all steps of a run."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def _fix_randomness(patch: pytest.MonkeyPatch) -> None:
    """The same keys in the same order; and the tokens' name, which is made of the records, is in no key."""
    count = iter(range(10**6))

    def token_hex(size: int = 32) -> str:
        return hashlib.sha256(f"secret {next(count)}".encode()).hexdigest()[: 2 * size]

    fingerprint = noise.fingerprint
    patch.setattr("secrets.token_hex", token_hex)
    patch.setattr(private_run, "uuid", SimpleNamespace(uuid4=lambda: SimpleNamespace(hex=token_hex(16))))
    patch.setattr(worker, "fingerprint", lambda conditions: fingerprint(without(conditions, "workers.tokens")))


def _fix_clock(patch: pytest.MonkeyPatch, found: Recording) -> None:
    """A clock by which a step takes as long as its batch is large: as in truth, and the same for the same batches."""
    train, step_digest = step.TrainingStep.train, feed.step_digest
    batches: dict[bytes, tuple[int, ...]] = {}

    def named(branch: str, total_step: int, positions: Any) -> Any:
        digest = step_digest(branch, total_step, positions)
        batches[digest.tobytes()] = tuple(positions.ravel().tolist())  # Of persons: those of their records.
        return digest

    def timed(self: Any, shares: Any, *arguments: Any, **options: Any) -> Any:
        found.clock += sum(share.targets.size for share in shares) / 100
        if options["digest"] is not None:
            found.digests.append(options["digest"].tobytes())
            found.positions.append(batches[found.digests[-1]])
        return train(self, shares, *arguments, **options)

    patch.setattr(step.TrainingStep, "train", timed)
    patch.setattr(feed, "step_digest", named)
    clock = SimpleNamespace(time=lambda: 1e9, monotonic=lambda: found.clock, perf_counter=lambda: found.clock)
    patch.setattr(loop, "time", clock)
    patch.setattr(private_run, "time", clock)
    patch.setattr(budget, "time", clock)
    patch.setattr(feed, "_ahead", map)  # How far a thread loads ahead goes by time.


def _watch_steps(patch: pytest.MonkeyPatch, found: Recording, frozen: Recording | None) -> None:
    privatized = step._privatized

    def watched(gradients: Any, noise: Any, grid: Any) -> list[Any]:
        released = privatized(gradients, noise, grid)

        def exchange(replica: Any, sums: Any, noise: Any, released: Any) -> Any:
            steps = found.steps[int(replica)]
            there = frozen.steps[int(replica)] if frozen is not None else []
            steps.append(Step(sums, noise, released, grid))
            return there[len(steps) - 1].released if len(steps) <= len(there) else released

        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        flat = tf.numpy_function(exchange, [replica, _flat(gradients), noise, _flat(released)], tf.float64)
        parts = tf.split(flat, [part.shape.num_elements() for part in released])
        return [tf.reshape(part, like.shape) for part, like in zip(parts, released, strict=True)]

    patch.setattr(step, "_privatized", watched)


def _flat(parts: Any) -> tf.Tensor:
    return tf.concat([tf.reshape(tf.cast(part, tf.float64), [-1]) for part in parts], axis=0)


def _watch_releases(patch: pytest.MonkeyPatch, found: Recording, frozen: Recording | None) -> None:
    noisy_histograms = releases.noisy_histograms

    def watched(exact: Any, release: Any, *rest: Any) -> Any:
        noisy = noisy_histograms(exact, release, *rest)
        found.releases.append(Release(release.name, dict(exact), noisy))
        there = frozen.releases if frozen is not None else []
        return there[len(found.releases) - 1].noisy if len(found.releases) <= len(there) else noisy

    patch.setattr(releases, "noisy_histograms", watched)


def _watch_writes(patch: pytest.MonkeyPatch, found: Recording, runs: Path) -> None:
    def watch(how: str) -> None:
        there = getattr(LocalFolder, how)

        def watched(self: LocalFolder, name: str, data: bytes = b"", **options: Any) -> Any:
            path = self.local_path(name)
            done = there(self, name, *([data] if how != "delete" else []), **options)
            if path.is_relative_to(runs):
                relative = path.relative_to(runs).as_posix()
                if how != "delete" and not SECRET.fullmatch(relative):
                    found.plain.append((relative, data))
                if not BY_TIME.fullmatch(relative):
                    content = "" if NOT_COVERED.fullmatch(relative) else hashlib.md5(_masked(data)).hexdigest()
                    found.writes[how, re.sub(r"[0-9a-f]{32,}(-[0-9a-f]+)?", "KEY", relative), content] += 1
            return done

        patch.setattr(LocalFolder, how, watched)

    for how in ("write", "create", "delete"):
        watch(how)


def _masked(data: bytes) -> bytes:
    """Without marks of files, and digests of what they are in."""
    data = re.sub(MARK.pattern.encode(), b"MARK", data)
    return re.sub(rb"(?<![0-9a-f])([0-9a-f]{64}|[0-9a-f]{32})(?![0-9a-f])", b"DIGEST", data)


_counted: list[Counter[tuple[str, str, int]]] = []
"""Where lines are counted now: threads of pools outlive a recording, and keep the function that they began with."""


@contextlib.contextmanager
def _watched_lines(lines: Counter[tuple[str, str, int]]) -> Iterator[None]:
    """Count the lines of `runner`, but for those of threads that go by time."""
    before = sys.gettrace()
    _counted[:] = [lines]
    threading.settrace(_of_call)
    sys.settrace(_of_call)
    try:
        yield
    finally:
        sys.settrace(before)
        threading.settrace(before)  # type: ignore[arg-type]
        _counted.clear()


def _leave_logs_out(patch: pytest.MonkeyPatch) -> None:
    """Whether a log has grown since the last beat goes by time, and with it all that is done to copy it."""
    copy = LogFile.copy

    def unwatched(self: LogFile) -> None:
        trace = sys.gettrace()
        sys.settrace(None)
        try:
            copy(self)
        finally:
            sys.settrace(trace)

    patch.setattr(LogFile, "copy", unwatched)


def _of_call(frame: FrameType, _event: str, _argument: Any) -> Any:
    file = frame.f_code.co_filename
    if not file.startswith(PACKAGE) or not frame.f_code.co_flags & inspect.CO_OPTIMIZED:  # Functions alone.
        return None
    name, module = threading.current_thread().name, file.removeprefix(PACKAGE)
    if name.startswith(BY_TIME_THREADS) or FREE.fullmatch(f"{module}:{frame.f_code.co_name}"):
        return None
    thread = re.split("[-_]", name)[0]

    def of_line(frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line" and _counted:
            _counted[0][thread, module, frame.f_lineno] += 1
        return of_line

    return of_line
