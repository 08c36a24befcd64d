"""A private step on several replicas: what it releases, and how far one record moves it.

python -m tests.promises.replicated 2

A process for each number of replicas: virtual devices are set before TensorFlow starts, and its collectives keep
the first group's size.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from runner.data.batches import Batch, dropout_keys, step_digest
from runner.errors import JobFailedError
from runner.model.network import Network
from runner.privacy.accountant import Mechanism
from runner.privacy.grid import grid_of
from runner.privacy.noise import draw_noise
from runner.train.step import StepSums, TrainingStep
from tests.runs import ROOT

VOCAB, WIDTH = 40, 12
CLIP, NOISE, BATCH = 0.05, 3.0, 10


@dataclass(frozen=True)
class Rows:
    """A logical batch (B, T)."""

    ids: NDArray[np.int32]
    targets: NDArray[np.int32]
    weights: NDArray[np.float32]

    def emptied(self, row: int) -> Rows:
        weights = self.weights.copy()
        weights[row] = 0
        return Rows(self.ids, self.targets, weights)

    def without(self, person: int, records: int) -> Rows:
        """With all records of a person emptied, where each has so many behind one another."""
        rows = self
        for row in range(person * records, (person + 1) * records):
            rows = rows.emptied(row)
        return rows

    def times(self, count: int) -> Rows:
        return Rows(*(np.concatenate([a] * count) for a in (self.ids, self.targets, self.weights)))

    def shares(self, replicas: int, together: int = 1) -> list[Batch]:
        """`together`: so many rows behind one another stay on one replica."""
        keys = dropout_keys((1, 2), len(self.ids), WIDTH)

        def share(a: NDArray[Any], replica: int) -> NDArray[Any]:
            return a.reshape(-1, together, *a.shape[1:])[replica::replicas].reshape(-1, *a.shape[1:])

        arrays = (self.ids, self.targets, self.weights, keys)
        return [Batch(*(share(a, replica) for a in arrays)) for replica in range(replicas)]


def random_rows(rows: int = BATCH, seed: int = 3) -> Rows:
    draw = np.random.default_rng(seed)
    tokens = draw.integers(0, VOCAB, (rows, WIDTH + 1)).astype(np.int32)
    lengths = draw.integers(1, WIDTH + 1, rows)
    return Rows(tokens[:, :-1], tokens[:, 1:], (np.arange(WIDTH) < lengths[:, None]).astype(np.float32))


def opposing_rows() -> Rows:
    """Token 0 twelve times and token 1 six times: with `tuned_to_two_tokens`, gradients g and -g / 2, four of each."""
    targets = np.array([[0] * WIDTH, [1] * (WIDTH // 2) + [0] * (WIDTH // 2)] * 4, np.int32)
    lengths = np.array([WIDTH, WIDTH // 2] * 4)
    return Rows(np.zeros_like(targets), targets, (np.arange(WIDTH) < lengths[:, None]).astype(np.float32))


class Replicated:
    """A private step on so many replicas; every release begins at the same weights."""

    def __init__(self, replicas: int, microbatch_size: int | None = None, records_of_person: int = 1) -> None:
        devices = [device.name for device in tf.config.list_logical_devices("CPU")]
        strategy = tf.distribute.MirroredStrategy(devices[:replicas]) if replicas > 1 else tf.distribute.get_strategy()
        self.replicas = replicas
        with strategy.scope():
            self.network = Network(vocab_size=VOCAB, embedding_dim=32, rnn_units=16, layers=1, dropout_rate=0.3, seed=1)
            optimizer = keras.optimizers.SGD(1.0)
            optimizer.build(self.network.trainable_variables)
        self.weights = self.network.weights_dict()
        self.count = sum(value.size for value in self.weights.values())
        mechanism = Mechanism(examples=100, batch_size=BATCH, noise_multiplier=NOISE, l2_norm_clip=CLIP)
        self.grid = grid_of(mechanism, self.count, replicas, records_of_person)
        self.together = records_of_person
        self._step = TrainingStep(
            self.network,
            optimizer,
            strategy,
            microbatch_size,
            replicas,
            mechanism=mechanism,
            seq_length=WIDTH,
            records_of_person=records_of_person,
        )
        self.sums = StepSums(0, 0)

    def tune_to_two_tokens(self) -> None:
        """Only the dense layer's bias is left, with tokens 0 and 1 equally likely and no other."""
        for value in self.weights.values():
            value[...] = 0
        self.weights["dense/bias"][2:] = -50

    def release(self, rows: Rows, noise: NDArray[np.int32] | None = None) -> NDArray[np.float64]:
        """What a step adds up, in one vector; without noise where there is none given."""
        self.network.load_weights_dict(self.weights)
        noise = np.zeros(self.count, self.grid.noise_dtype) if noise is None else noise
        digest = step_digest("a branch", 0, np.arange(len(rows.ids)))
        shares = rows.shares(self.replicas, self.together)
        self.sums = self._step.train(shares, int(rows.weights.sum()), noise=noise, digest=digest)
        after = self.network.weights_dict()
        return BATCH * np.concatenate([(self.weights[name] - after[name]).ravel() for name in self.weights]).astype(
            float
        )

    def disagree(self, rows: Rows) -> tuple[str, float]:
        """What is said where the last replica takes the batch for another one, and how far the weights moved."""
        self.network.load_weights_dict(self.weights)
        distribute = self._step._distribute

        def differing(fields: Mapping[str, list[Any]]) -> list[Any]:
            if "digest" in fields:
                *others, last = fields["digest"]
                fields = {"digest": [*others, last + np.float32([1] + [0] * (last.size - 1))]}
            return distribute(fields)

        self._step._distribute = differing
        told = ""
        try:
            self.release(rows)
        except JobFailedError as error:
            told = str(error)
        finally:
            self._step._distribute = distribute
        after = self.network.weights_dict()
        return told, max(float(np.abs(self.weights[name] - after[name]).max()) for name in self.weights)


def measure_persons(replicas: int, microbatch_size: int | None, records: int = 2) -> dict[str, Any]:
    """The noiseless sum, and how far each person moves the sum of opposing records, of which each has two."""
    step = Replicated(replicas, microbatch_size, records)
    noiseless = step.release(random_rows())
    step.tune_to_two_tokens()
    opposing = opposing_rows()
    # All of a person's records point the same way, so that a clip for each of them would let double through.
    order = np.argsort(np.tile([0, 1], len(opposing.ids) // 2), kind="stable")
    rows = Rows(*(a[order] for a in (opposing.ids, opposing.targets, opposing.weights)))
    whole = step.release(rows)
    persons = range(len(rows.ids) // records)
    moves = [float(np.linalg.norm(whole - step.release(rows.without(person, records)))) for person in persons]
    return {"sum": noiseless.tolist(), "moves": moves}


def measure(replicas: int, microbatch_sizes: Sequence[int | None] = (None, 2)) -> dict[str, Any]:
    """The noiseless sum, the noise in a noisy one, and how far each of the opposing records moves the sum."""
    found: dict[str, Any] = {}
    persons = {str(size): measure_persons(replicas, size) for size in ((None, 1) if replicas == 1 else (1,))}
    for size in microbatch_sizes:
        step = Replicated(replicas, size)
        noiseless = step.release(random_rows())
        noisy = step.release(random_rows(), draw_noise(bytes(32), 0, step.grid.sigma, step.count))
        step.tune_to_two_tokens()
        rows = opposing_rows()
        whole = step.release(rows)
        moves = [float(np.linalg.norm(whole - step.release(rows.emptied(row)))) for row in range(len(rows.ids))]
        found[str(size)] = {
            "sum": noiseless.tolist(),
            "noise": (noisy - noiseless).tolist(),
            "moves": moves,
        }
        if size == microbatch_sizes[-1] and replicas > 1:  # The last: a step that failed may be the process's end.
            told, moved = step.disagree(random_rows())
            found[str(size)] |= {"disagreement": told, "moved": moved}
    for each in found.values():
        each["persons"] = persons
    return found


@cache
def measured(replicas: int) -> dict[str, Any]:
    """`measure`, in this process for one replica and in another for more."""
    if replicas == 1:
        return measure(1, (None, 1, 3))
    done = subprocess.run(
        [sys.executable, "-m", "tests.promises.replicated", str(replicas)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    from tests.mutants.mutants import apply_from_environment

    wanted = int(sys.argv[1])
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * wanted
    )
    apply_from_environment()
    print(json.dumps(measure(wanted)))
