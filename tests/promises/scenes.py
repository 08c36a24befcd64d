"""What is done with private records on neighbours: resumes, a series, a sweep, draws; on one replica and on several.

python -m tests.promises.scenes REPLICAS      # what differs on so many
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sentencepiece
import tensorflow as tf

from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.submit.launch import Launch
from runner.submit.start import start_run
from runner.sweep.privacy import sweep_statement
from runner.sweep.space import draw_values, sweep_of, trial_job
from runner.sweep.table import best_trial, read_trials
from runner.train import step, worker
from tests.promises.neighbours import BATCH, CLIP, Scene
from tests.promises.private_runs import config_of, private_job, resume, start, without_ray

RECORDS, STEPS = 60, 4
FIRST, LAST = 0, RECORDS - 1
TRAINED_ON = 52
"""A record of a person who is not held out for validation."""
FIELDS: dict[str, Any] = {
    "sex": {"kind": "category", "values": ["f", "m"]},
    "job": {"kind": "category", "values": ["clerk", "cook"], "outside": "rare"},
    "wage": {"kind": "integer", "range": [0, 5000], "exact": False},
}
ODD_BYTE = 0xC2
"""The first byte of a character that the last record alone has."""


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


def limited(data: Path, runs: Path) -> Iterator[Path]:
    """A run with a time limit, by a clock that goes by the size of batches."""
    yield start(small("limited", data, runs, epochs=2, max_training_time_s=LIMIT_S))


LIMIT_S = 6


def write_public_model(path: Path) -> Path:
    """Subwords of texts that are nobody's."""
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([f"{number},{'ab'[number % 2]} very long one" for number in range(100)]),
            model_writer=file,
            vocab_size=40,
            byte_fallback=False,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    return path


def write_people(folder: Path, emptied: int | None) -> None:
    """One file, of persons with two records each; those of the person who has the row `emptied` are left out."""
    draw = np.random.default_rng(5)
    owners = [f"C{row // 2}" for row in range(RECORDS)]
    texts = [f"{draw.integers(100)},{'ab'[row % 2]}" for row in range(RECORDS)]
    texts[TRAINED_ON] = "b,very,long,one,12345"
    if emptied is not None:
        texts = ["" if owner == owners[emptied] else text for owner, text in zip(owners, texts, strict=True)]
    pq.write_table(pa.table({"text": texts, "customer": owners}), folder / "part-0.parquet")


def persons(data: Path, runs: Path) -> Iterator[Path]:
    """A run of subwords, whose model is public, that protects persons, each with all of their records."""
    job = small("persons", data, runs, epochs=3)
    job["tokenizer"] = {"kind": "sentencepiece", "uri": str(write_public_model(data.with_name("public.model")))}
    job["privacy"] |= {"vocabulary": "public", "unit": "customer", "max_records_per_unit": 2}
    yield start(job)


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
        resume(after, die=2)
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
    """Two trials of a table whose fields are learned in any order, one after the other, and the sweep's statement."""
    job = table("sweep", data, runs, FIELDS)
    job["examples"] = {"field_order": "random"}
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
    "killed": Scene(write_texts, killed, asks_another_worker=True),
    "limited": Scene(write_texts, limited),
    "persons": Scene(write_people, persons),
    "series": Scene(write_texts, series, begins_at=RECORDS // 2),
    "sweep": Scene(write_rows, sweep),
    "draws": Scene(write_many_rows, draws),
}


# Replicas


def main(replicas: int) -> None:
    """Print what differs, and how many replicas there were. Virtual devices are set before TensorFlow starts, and its
    collectives keep the first group's size: a process for each number."""
    from tests.mutants.mutants import apply_from_environment

    devices = [tf.config.LogicalDeviceConfiguration()] * replicas
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
    apply_from_environment()
    scene = Scene(write_texts, killed)
    with tempfile.TemporaryDirectory() as folder, without_ray():
        first = scene.record(Path(folder))
        told = scene.differences(Path(folder), LAST, first)
    print(json.dumps({"replicas": sorted(first.steps), "differences": told}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
