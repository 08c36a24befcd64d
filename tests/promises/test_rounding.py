"""Promise 6, to the last bit: by its rounding, what a step leaves in the optimizer does not tell what noise hid.

The judges are attacks (Mironov, CCS 2012) on Adam's first moment, which holds the noisy sum: of two sums, which could
have become these numbers? On noise in floating point each finds the right one nearly always, with noise that leaves
an honest guess at a little over one half.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from scipy.special import erfc

from runner.data.batches import Batch
from runner.model.network import Network
from runner.privacy import noise as noise_module
from runner.privacy.accountant import Mechanism, epsilon
from runner.privacy.clipping import clipped_sum
from runner.privacy.grid import grid_of
from runner.train.step import TrainingStep

VOCAB, WIDTH, ROWS = 259, 12, 16
MECHANISM = Mechanism(ROWS, ROWS, noise_multiplier=20.0, l2_norm_clip=0.1)
TRIALS, CHANCE = 40, 29
"""A coin is right in more than 29 of 40 trials once in 900 times."""
KEPT = np.float32(1 - 0.9)
"""Of a gradient, in Adam's first moment."""


class Released:
    """A step from the same weights again and again; what it leaves in Adam's first moment."""

    def __init__(self) -> None:
        self.network = Network(vocab_size=VOCAB, embedding_dim=32, rnn_units=64, layers=1, dropout_rate=0, seed=0)
        self.optimizer = keras.optimizers.Adam(0.01)
        self.optimizer.build(self.network.trainable_variables)
        self.weights = self.network.weights_dict()
        self.count = sum(value.size for value in self.weights.values())
        self.grid = grid_of(MECHANISM, self.count)
        self.step = TrainingStep(
            self.network, self.optimizer, tf.distribute.get_strategy(), mechanism=MECHANISM, seq_length=WIDTH
        )
        draw = np.random.default_rng(1)
        ids = draw.integers(0, VOCAB, (ROWS, WIDTH + 1)).astype(np.int32)
        weights = np.ones((2, ROWS, WIDTH), np.float32)
        weights[1, 5] = 0
        keys = np.zeros((ROWS, WIDTH), np.uint32)
        self.batches = [Batch(np.where(w > 0, ids[:, :-1], 0), ids[:, 1:], w, keys) for w in weights]
        summed = tf.function(
            lambda *batch: clipped_sum(self.network, *batch, None, clip=0.1, scale=1 / WIDTH).gradients,
            [tf.TensorSpec((None, None), dtype) for dtype in (tf.int32, tf.int32, tf.float32)],
            autograph=False,
        )
        self.sums = [
            np.concatenate([np.asarray(g).ravel() for g in summed(b.inputs, b.targets, b.weights)])
            for b in self.batches
        ]

    def moment(self, which: int, key: bytes) -> NDArray[np.float32]:
        """After a step on the batch with the record (0) or with it emptied (1)."""
        self.network.load_weights_dict(self.weights)
        for variable in self.optimizer.variables:
            if variable.path.partition("/")[2] != "learning_rate":
                variable.assign(np.zeros(variable.shape, variable.dtype))
        noise = noise_module.draw_noise(key, 0, self.grid.sigma, self.count)
        self.step.train([self.batches[which]], ROWS * WIDTH, noise=noise)
        moments = [variable for variable in self.optimizer.variables if "momentum" in variable.path]
        return np.concatenate([np.asarray(variable).ravel() for variable in moments])


@pytest.fixture(scope="module")
def released() -> Released:
    return Released()


def made_by_a_ziggurat(released: Released, moment: NDArray[np.float32], total: NDArray[np.float32]) -> float:
    """Of the numbers with little noise: how many could a float32 ziggurat have made of this sum?

    Its noise is r w for one of 256 numbers w and an integer r below 2^23.
    """
    edge = 3.6541528853610087963519472518
    area = edge * math.exp(-edge * edge / 2) + math.sqrt(math.pi / 2) * erfc(edge / math.sqrt(2))
    x = [0.0] * 256
    x[255], x[0] = edge, area / math.exp(-edge * edge / 2)
    for i in range(254, 0, -1):
        x[i] = math.sqrt(-2 * math.log(area / x[i + 1] + math.exp(-(x[i + 1] ** 2) / 2)))
    deviation = np.float32(released.grid.sigma * released.grid.spacing * ROWS)
    z = (moment.astype(np.float64) / KEPT * ROWS - total) / deviation
    near = np.flatnonzero(np.abs(z) < 3e-3)
    sums, signs, hits = total[near], np.sign(z[near]).astype(np.float32), np.zeros(near.size, bool)
    for w in np.float32(np.array(x) / 2**23):
        for off in (-2, -1, 0, 1, 2):
            r = np.maximum(np.rint(np.abs(z[near]) / w) + off, 0).astype(np.float32)
            hits |= (sums + deviation * (r * w * signs)) / np.float32(ROWS) * KEPT == moment[near]
    return float(hits.mean())


def made_by_integers(released: Released, moment: NDArray[np.float32], total: NDArray[np.float32]) -> float:
    """How many could have been made of this sum, not rounded, by integers on the grid?"""
    spacing = released.grid.spacing
    counts = total.astype(np.float64) / (ROWS * spacing)
    z = np.rint(moment.astype(np.float64) / KEPT / spacing - counts)
    hits = np.zeros(moment.size, bool)
    for off in (-1, 0, 1):
        hits |= ((counts + z + off) * spacing).astype(np.float32) * KEPT == moment
    return float(hits.mean())


@pytest.mark.parametrize("possible", [made_by_a_ziggurat, made_by_integers])
def test_06_the_rounding_of_a_noisy_sum_does_not_tell_whether_a_record_was_in_it(
    released: Released, possible: Callable[[Released, NDArray[np.float32], NDArray[np.float32]], float]
) -> None:
    assert epsilon([(MECHANISM, 1)], 1e-5) < 0.2, "an honest guess is right in less than 55 of 100"
    coins = np.random.default_rng(2).integers(0, 2, (TRIALS, 2))
    right = 0
    for trial, (which, coin) in enumerate(coins.tolist()):
        key = noise_module.RunKey(f"{trial:064x}").for_noise(0, "attack")
        moment = released.moment(which, key)
        emptied_wins = possible(released, moment, released.sums[1]) - possible(released, moment, released.sums[0])
        guess = coin if emptied_wins == 0 else int(emptied_wins > 0)
        right += guess == which
    assert TRIALS - CHANCE <= right <= CHANCE
