"""Private runs on neighbours, with the same randomness.

python -m tests.promises.neighbours REPLICAS      # what differs on so many
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.errors import PrivacyError, RunnerError
from runner.privacy.grid import FLOAT_MARGIN, FLOAT_MARGIN_OF_RECORD
from runner.run_directory import RunDirectory
from runner.storage import open_folder
from runner.submit.launch import Launch
from runner.submit.start import resume_run, start_run
from runner.sweep.privacy import sweep_statement
from runner.sweep.space import draw_values, sweep_of, trial_job
from runner.sweep.table import best_trial, read_trials
from runner.train import agreement, step, worker
from tests.promises import observers
from tests.promises.private_runs import config_of, private_job, report_of, resume, start, without_ray
from tests.promises.recording import Recording, Release, record

RECORDS, BATCH, CLIP, STEPS = 60, 12, 0.02, 4
FIRST, LAST = 0, RECORDS - 1
FIELDS: dict[str, Any] = {
    "sex": {"kind": "category", "values": ["f", "m"]},
    "job": {"kind": "category", "values": ["clerk", "cook"], "outside": "rare"},
    "wage": {"kind": "integer", "range": [0, 5000], "exact": False},
}
ODD_BYTE = 0xC2
"""The first byte of a character that the last record alone has."""

Play = Callable[[Path, Path], Iterable[Path]]
"""Trains on the records of a folder and leaves runs in another one; the directories of those that are private."""


@dataclass(frozen=True)
class Scene:
    """Records, and what is done with them. `write(folder, emptied)` leaves out the content of one of them."""

    write: Callable[[Path, int | None], None]
    play: Play
    begins_at: int = 0
    """The row that is the first example of the run whose batches have the record."""

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
        if chief.task is not None and chief.task.workers == 1 and self.play is killed:
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


# Records of text


def write_texts(folder: Path, emptied: int | None) -> None:
    """Two files. The first record is the longest, and the last one has a character that no other has."""
    draw = np.random.default_rng(1)
    texts = [f"{draw.integers(100)},{'ab'[row % 2]}" for row in range(RECORDS)]
    texts[FIRST], texts[LAST] = "a,very,long,one,12345", "b,\u00a7"
    if emptied is not None:
        texts[emptied] = ""
    for part in range(2):
        half = texts[part * RECORDS // 2 : (part + 1) * RECORDS // 2]
        pq.write_table(pa.table({"text": half}), folder / f"part-{part}.parquet")


def small(name: str, data: Path, runs: Path, **training: Any) -> dict[str, Any]:
    """The smallest job: `STEPS` steps an epoch."""
    privacy = {"noise_multiplier": 1.0, "l2_norm_clip": CLIP, "delta": 1e-3, "accountant": "rdp"}
    job = private_job(name, data, runs, privacy, **{"epochs": 1, "batch_size": BATCH} | training)
    return job | {"model": {"embedding_dim": 4, "rnn_units": 6, "layers": 1}}


@contextlib.contextmanager
def a_record_that_is_not_finite() -> Iterator[None]:
    """The odd byte's embedding makes the loss of the record that has it NaN, and its gradient."""
    build = worker.build_network

    def build_network(*arguments: Any) -> Any:
        network = build(*arguments)
        weights = network.weights_dict()
        embedding = np.array(weights["embedding"])
        embedding[ODD_BYTE + 1] = 3e38
        network.load_weights_dict(weights | {"embedding": embedding})
        return network

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "build_network", build_network)
        yield


def killed(data: Path, runs: Path) -> Iterator[Path]:
    """A run of bytes that dies in its second epoch and is resumed."""
    with a_record_that_is_not_finite():
        run = start(small("bytes", data, runs, epochs=2), die=STEPS + 2)
        resume(run)
    yield run


def whole(data: Path, runs: Path) -> Iterator[Path]:
    """On as many replicas as there are devices."""
    job = small("replicas", data, runs) | {"resources": {"strategy": "mirrored"}}
    with a_record_that_is_not_finite():
        yield start(job)


def limited(data: Path, runs: Path) -> Iterator[Path]:
    """A run with a time limit, by a clock that goes by the size of batches."""
    yield start(small("limited", data, runs, epochs=2, max_training_time_s=LIMIT_S))


LIMIT_S = 6


def series(data: Path, runs: Path) -> Iterator[Path]:
    """A run of characters that goes on from another one's model; it dies, and its machine's environment and the model
    that it began with change before its first checkpoint, and by this its sums."""
    new = data / "part-1.parquet"
    moved = new.rename(data.with_name("unpublished"))
    tokenizer = {"tokenizer": {"kind": "char", "alphabet": "0123456789abelnorvgy,"}}
    before = start(small("before", data, runs) | tokenizer)
    moved.rename(new)
    job = small("after", data, runs, validation_split=False) | tokenizer
    job["data"] |= {"since": "before"}
    after = start(job, die=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_WAIT_POLICY", "passive")
        _round_otherwise(patch, 1e-3)
        observers.forget(die=2)
        with contextlib.suppress(RunnerError):
            resume_run(RunDirectory.find(str(after)), (), Launch(quiet=True))
        first_weights = worker.first_weights

        def trained_on(*arguments: Any) -> Any:
            weights = first_weights(*arguments)
            return weights and {name: value * np.float32(1.01) for name, value in weights.items()}

        patch.setattr(worker, "first_weights", trained_on)
        resume(after)
    yield from (before, after)


def _round_otherwise(patch: pytest.MonkeyPatch, by: float) -> None:
    clipped_sum = step.clipped_sum

    def rounds_otherwise(*arguments: Any, **options: Any) -> Any:
        return clipped_sum(*arguments, **options | {"clip": options["clip"] * (1 - by)})

    patch.setattr(step, "clipped_sum", rounds_otherwise)


# Tables


def write_rows(folder: Path, emptied: int | None, rows: int = RECORDS) -> None:
    """One file. The last row has a job that no other has."""
    draw = np.random.default_rng(3)
    jobs = draw.choice(["clerk", "cook"], rows).tolist()
    jobs[LAST] = "emperor"
    columns = {
        "sex": draw.choice(["f", "m"], rows).tolist(),
        "job": jobs,
        "wage": draw.integers(0, 5000, rows).tolist(),
    }
    for column in columns.values():
        if emptied is not None:
            column[emptied] = None
    types = {"sex": pa.string(), "job": pa.string(), "wage": pa.int64()}
    pq.write_table(pa.table({n: pa.array(v, types[n]) for n, v in columns.items()}), folder / "part-0.parquet")


def write_many_rows(folder: Path, emptied: int | None) -> None:
    write_rows(folder, emptied, 10 * RECORDS)


@contextlib.contextmanager
def rows_of_nulls_are_empty() -> Iterator[None]:
    """A row is a record even where all of it is null: the neighbour is one without a token."""
    encode = FieldTokenizer.encode_batch

    def encode_batch(self: Any, records: Any) -> Any:
        tokens, lengths = encode(self, records)
        is_empty = np.logical_and.reduce([np.asarray(column.is_null()) for column in records.flatten()])
        return tokens[~np.repeat(is_empty, lengths)], np.where(is_empty, 0, lengths)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FieldTokenizer, "encode_batch", encode_batch)
        yield


def table(name: str, data: Path, runs: Path, fields: dict[str, Any], **training: Any) -> dict[str, Any]:
    job = small(name, data, runs, **training)
    del job["tokenizer"], job["examples"]
    return job | {"fields": fields, "data": {"uri": str(data)}}


def sweep(data: Path, runs: Path) -> Iterator[Path]:
    """Two trials of a table by noisy steps, one after the other without Ray, and the statement of the sweep."""
    job = table("sweep", data, runs, FIELDS)
    rates = {"training.optimizer.learning_rate": {"choice": [0.01, 0.02]}}
    config = config_of(job | {"sweep": {"trials": 2, "parameters": rates}})
    with rows_of_nulls_are_empty():
        for number in range(2):
            start_run(trial_job(config, number, draw_values(sweep_of(config), number)), Launch(quiet=True))
            yield runs / f"sweep-{number:03d}"
    trials = read_trials(config)
    best = best_trial(config, trials)
    assert best is not None
    statement = sweep_statement(config, best, trials)
    (runs / "sweep").mkdir()
    for name, content in statement.items():
        (runs / "sweep" / name).write_bytes(content)


def draws(data: Path, runs: Path) -> Iterator[Path]:
    """A table by draws from noisy counts, whose jobs are looked up."""
    job = table("draws", data, runs, FIELDS | {"job": {"kind": "category"}}, batch_size=100, callbacks=[])
    job["privacy"] = {"enabled": True, "target_epsilon": 30, "delta": 1e-4, "draws": 1000, "accountant": "rdp"}
    job["training"] |= {"early_stopping": {"enabled": False}, "save_best": False}
    with rows_of_nulls_are_empty():
        yield start(job)


SCENES = {
    "killed": Scene(write_texts, killed),
    "limited": Scene(write_texts, limited),
    "series": Scene(write_texts, series, begins_at=RECORDS // 2),
    "sweep": Scene(write_rows, sweep),
    "draws": Scene(write_many_rows, draws),
}


# Replicas


def main(replicas: int) -> None:
    """Print what differs on so many replicas, and how many there were."""
    from tests.mutants.mutants import apply_from_environment

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * replicas
    )
    apply_from_environment()
    scene = Scene(write_texts, whole)
    with tempfile.TemporaryDirectory() as folder, without_ray():
        first = scene.record(Path(folder))
        told = scene.differences(Path(folder), LAST, first)
    print(json.dumps({"replicas": sorted(first.steps), "differences": told}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
