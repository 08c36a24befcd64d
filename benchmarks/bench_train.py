"""Time one optimizer step: the project's, a keras.layers.LSTM step, and the reference kernels where they are.

    .venv/bin/python benchmarks/bench_train.py [--rounds 20]
    .venv/bin/python benchmarks/bench_train.py --slots 2,5,40,150 [--any-order]     # a table

All run plain SGD on the same batch in one process, in turns; figures are medians. The last line is one JSON
object. The project's step also computes the accuracy and takes any batch shape; the other two do neither.

With --slots, the records are rows of a table, a token of each slot and the end, and the project's step is timed against
the same step of a network that is told of no slots: one softmax over all ids.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from runner.data.batches import Batch
from runner.model.network import Network
from runner.train.step import TrainingStep

REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "reference" / "dp_lstm_reference.py"
LEARNING_RATE = 0.01
Step = Callable[[int], float]
"""Takes the round, runs one step and returns its loss."""


def main() -> None:
    sizes = parse_arguments(__doc__)
    batch = make_batch(sizes)
    ids, targets = tf.constant(batch.inputs), tf.constant(batch.targets)
    steps = {"step": project_step(sizes, batch), "one_softmax": None, "keras": None, "reference": None}
    if sizes.slots:
        steps["one_softmax"] = project_step(without_slots(sizes), batch)
    else:
        steps |= {"keras": keras_step(sizes, ids, targets), "reference": reference_step(sizes, ids, targets)}
    times = measure({name: step for name, step in steps.items() if step}, sizes.rounds)
    medians = {name: statistics.median(values) * 1e3 for name, values in times.items()}
    result: dict[str, Any] = {f"{name}_ms": round(medians[name], 1) if name in medians else None for name in steps}
    for name in ("one_softmax", "keras", "reference"):
        result[f"vs_{name}"] = round(medians[name] / medians["step"], 3) if name in medians else None
    result["min_ms"] = {name: round(min(values) * 1e3, 1) for name, values in times.items()}
    print(json.dumps({**result, **vars(sizes), "cpus": os.cpu_count(), "load": os.getloadavg()[0]}))


def parse_arguments(description: str | None, alone: Sequence[str] = ()) -> argparse.Namespace:
    """The sizes; `alone`: sides that a benchmark runs in a process of their own, for their memory."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="timed steps of each side")
    parser.add_argument("--vocab", type=int, default=2000)
    parser.add_argument("--embedding", type=int, default=256)
    parser.add_argument("--units", type=int, default=256)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--length", type=int, default=100, help="positions per example")
    parser.add_argument("--batch", type=int, default=64, help="examples per step")
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--slots", help="sizes of a table's slots: 2,5,150, or 100x10 for ten of a hundred ids")
    parser.add_argument("--any-order", action="store_true", help="with --slots: the network reads the next slot")
    if alone:
        parser.add_argument("--alone", choices=alone, help=argparse.SUPPRESS)
    sizes = parser.parse_args()
    if sizes.slots:
        parts = [[int(number) for number in part.split("x")] for part in sizes.slots.split(",")]
        sizes.slots = [1, *(part[0] for part in parts for _ in range(part[1] if len(part) > 1 else 1))]
        sizes.vocab, sizes.length = sum(sizes.slots), len(sizes.slots)
    return sizes


def without_slots(sizes: argparse.Namespace) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(sizes), "slots": None, "any_order": False})


def make_rows(sizes: argparse.Namespace) -> Batch:
    """A logical batch of a table's records: a random id of each slot, and the end."""
    random = np.random.default_rng(0)
    firsts = np.cumsum([0, *sizes.slots[:-1]])
    ids = firsts + random.integers(0, sizes.slots, (sizes.batch, sizes.length))
    return Batch(
        inputs=ids.astype(np.int32),
        targets=np.roll(ids, -1, axis=1).astype(np.int32),
        weights=np.ones(ids.shape, np.float32),
        dropout_keys=random.integers(0, 2**32, ids.shape, dtype=np.uint32),
    )


def make_batch(sizes: argparse.Namespace) -> Batch:
    """A logical batch of full-length examples of random ids, with some repeated often."""
    if sizes.slots:
        return make_rows(sizes)
    random = np.random.default_rng(0)
    shape = (sizes.batch, sizes.length)
    return Batch(
        inputs=(random.zipf(1.3, shape) % sizes.vocab).astype(np.int32),
        targets=random.integers(0, sizes.vocab, shape, dtype=np.int32),
        weights=np.ones(shape, np.float32),
        dropout_keys=random.integers(0, 2**32, shape, dtype=np.uint32),
    )


def make_network(sizes: argparse.Namespace) -> Network:
    return Network(
        vocab_size=sizes.vocab,
        embedding_dim=sizes.embedding,
        rnn_units=sizes.units,
        layers=sizes.layers,
        dropout_rate=sizes.dropout,
        slots=sizes.slots,
        any_order=sizes.any_order,
    )


def measure(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds per step of each side, taken in turns after two warm-up steps."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(-2, rounds):
        for name in sorted(steps, reverse=turn % 2 == 1):
            start = time.perf_counter()
            steps[name](turn)
            if turn >= 0:
                times[name].append(time.perf_counter() - start)
    return times


def project_step(sizes: argparse.Namespace, batch: Batch) -> Step:
    network = make_network(sizes)
    optimizer = keras.optimizers.SGD(LEARNING_RATE)
    optimizer.build(network.trainable_variables)
    step = TrainingStep(network, optimizer, tf.distribute.get_strategy())
    return lambda _: step.train([batch], batch.inputs.size).loss


def keras_step(sizes: argparse.Namespace, ids: tf.Tensor, targets: tf.Tensor) -> Step:
    layers: list[keras.layers.Layer] = [keras.layers.Embedding(sizes.vocab, sizes.embedding)]
    for _ in range(sizes.layers):
        layers += [keras.layers.Dropout(sizes.dropout), keras.layers.LSTM(sizes.units, return_sequences=True)]
    layers += [keras.layers.Dropout(sizes.dropout), keras.layers.Dense(sizes.vocab)]
    model = keras.Sequential(layers)
    model.build(ids.shape)
    optimizer = keras.optimizers.SGD(LEARNING_RATE)
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(ids: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = model(ids, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=logits)
            loss = tf.reduce_mean(losses)
        optimizer.apply(tape.gradient(loss, model.trainable_variables))
        return loss

    return lambda _: float(step(ids, targets))


def reference_step(sizes: argparse.Namespace, ids: tf.Tensor, targets: tf.Tensor) -> Step | None:
    """The reference's non-private step with its while-loop kernels; None where the reference is not there."""
    if not REFERENCE.exists():
        return None
    reference = load_module(REFERENCE)
    parameters = reference.make_params(sizes.vocab, sizes.embedding, sizes.units, sizes.layers)
    widths = [sizes.embedding, *[sizes.units] * sizes.layers]
    weights = tf.fill((sizes.batch, sizes.length), 1 / (sizes.batch * sizes.length))

    def masks(seed: tf.Tensor) -> list[tf.Tensor]:
        draws = [
            tf.random.stateless_uniform((sizes.batch, sizes.length, width), seed + tf.constant([layer, 7]))
            for layer, width in enumerate(widths)
        ]
        return [tf.cast(draw >= sizes.dropout, tf.float32) / (1 - sizes.dropout) for draw in draws]

    @tf.function
    def step(ids: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        gradients, loss = reference.grads_plain(
            parameters, ids, targets, weights, masks(seed) if sizes.dropout else None, "while"
        )
        for name, gradient in gradients.items():
            parameters[name].assign_sub(LEARNING_RATE * gradient)
        return loss

    return lambda turn: float(step(ids, targets, weights, tf.constant([turn, 1])))


def load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
