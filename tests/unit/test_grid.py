"""The grid costs next to nothing, its noise pays for the rounding, and sums on it are exact."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.model.network import Network
from runner.privacy.accountant import Mechanism
from runner.privacy.clipping import clipped_sum
from runner.privacy.grid import FLOAT_MARGIN, FLOAT_MARGIN_OF_RECORD, Grid, grid_of
from runner.train.step import _privatized

SIZES = st.tuples(st.integers(1, 10**8), st.integers(1, 64), st.integers(1, 10**5), st.floats(1e-4, 1e3))


def mechanism(batch_size: int = 10, clip: float = 1.0, noise: float = 1.0) -> Mechanism:
    return Mechanism(examples=10**6, batch_size=batch_size, noise_multiplier=noise, l2_norm_clip=clip)


@given(SIZES, st.floats(0.05, 100), st.sampled_from([1, 1, 20]))
def test_the_noise_is_the_multiplier_times_what_a_record_moves_the_integers(
    sizes: tuple[int, int, int, float], noise: float, records: int
) -> None:
    weights, replicas, batch_size, clip = sizes
    grid = grid_of(mechanism(batch_size, clip, noise), weights, replicas, records)
    assert math.frexp(grid.spacing)[0] == 0.5, "a power of two"
    rounded = replicas * math.sqrt(weights) * grid.spacing * batch_size / clip
    assert 2**-11.001 < rounded <= 2**-10 * (1 + 1e-9), "under a thousandth of the clip"
    moved = 1 + FLOAT_MARGIN + FLOAT_MARGIN_OF_RECORD * batch_size * records + rounded
    continuous = math.sqrt(grid.sigma**2 - 9) * grid.spacing * batch_size / clip
    assert continuous / moved == pytest.approx(noise, rel=1e-9), "which is what is accounted for"


def test_no_noise_is_none() -> None:
    assert grid_of(mechanism(noise=0.0), 1000).sigma == 0


@given(st.integers(1, 300), st.integers(0, 2**32), st.floats(-3, 3))
@settings(max_examples=30, deadline=None)
def test_rounding_adds_at_most_a_spacing_to_each_weight_s_move(weights: int, seed: int, scale: float) -> None:
    draw = np.random.default_rng(seed)
    grid = grid_of(mechanism(), weights)
    one = (draw.standard_normal(weights) * 10**scale).astype(np.float32)
    move = draw.standard_normal(weights)
    other = (one + move / np.linalg.norm(move)).astype(np.float32)
    nothing = tf.zeros(0, tf.int32)
    counts = [np.asarray(_privatized([tf.constant(v)], nothing, grid)[0]) / grid.spacing for v in (one, other)]
    assert all(np.array_equal(v, np.round(v)) for v in counts), "integers"
    moved = np.linalg.norm(other.astype(np.float64) - one) / grid.batch_size / grid.spacing
    assert np.linalg.norm(counts[1] - counts[0]) <= moved + math.sqrt(weights)


def test_the_sum_over_replicas_is_exact_in_any_order() -> None:
    """Noise on the first share; float64 holds every partial sum, and float32 does not."""
    weights, replicas = 5000, 8
    grid = grid_of(mechanism(clip=0.1), weights, replicas)
    draw = np.random.default_rng(0)
    noise = np.rint(draw.standard_normal(weights) * grid.sigma).astype(grid.noise_dtype)
    shares = [draw.standard_normal(weights).astype(np.float32) * np.float32(10.0 ** -(r % 4)) for r in range(replicas)]
    released = [
        np.asarray(_privatized([tf.constant(v)], tf.constant(noise if r == 0 else noise[:0]), grid)[0])
        for r, v in enumerate(shares)
    ]
    assert {v.dtype.name for v in released} == {"float64"}
    expected = [sum(map(int, counts)) for counts in zip(*(v / grid.spacing for v in released), strict=True)]
    unnoised = np.asarray(_privatized([tf.constant(shares[0])], tf.constant(noise[:0]), grid)[0])
    assert np.array_equal((released[0] - unnoised) / grid.spacing, noise)
    for order in (range(replicas), reversed(range(replicas)), draw.permutation(replicas)):
        total = np.zeros(weights)
        for r in order:
            total = total + released[r]
        assert (total / grid.spacing).astype(int).tolist() == expected
    narrow = np.sum([v.astype(np.float32) for v in released], axis=0, dtype=np.float32)
    assert not np.array_equal(narrow.astype(np.float64), total)


@pytest.mark.parametrize(("rows", "records"), [(64, 1), (512, 1), (512, 8)])
def test_float32_moves_a_sum_by_less_than_what_the_noise_has_room_for(rows: int, records: int) -> None:
    """The worst case that was found: equal records, whose gradients add up, and one of them longer, which is emptied.

    So all sums are computed in another shape. A sum added up position by position is off by fifty times as much.
    """
    network = Network(vocab_size=259, embedding_dim=16, rnn_units=32, layers=1, dropout_rate=0, seed=0)
    summed = tf.function(
        lambda *batch: clipped_sum(network, *batch, None, clip=0.1, scale=1 / 16, records_of_person=records).gradients,
        [tf.TensorSpec((None, None), dtype) for dtype in (tf.int32, tf.int32, tf.float32)],
        autograph=False,
    )
    tokens = np.repeat(np.random.default_rng(0).integers(0, 259, (1, 21)).astype(np.int32), rows, axis=0)
    weights = np.ones((rows, 20), np.float32)
    weights[:, 16:] = 0

    def sums(width: int) -> np.ndarray:
        parts = (tokens[:, :width], tokens[:, 1 : width + 1], weights[:, :width])
        return np.concatenate([np.asarray(g, np.float64).ravel() for g in summed(*parts)])

    whole = sums(20)
    weights[:records] = 0
    moved = np.linalg.norm(whole - sums(16)) / 0.1
    assert 0.99 < moved <= 1 + FLOAT_MARGIN + FLOAT_MARGIN_OF_RECORD * rows


def test_a_grid_holds_large_noise() -> None:
    assert Grid(2.0**-20, 1e6, 1).noise_dtype == np.int32
    assert Grid(2.0**-20, 1e10, 1).noise_dtype == np.int64
