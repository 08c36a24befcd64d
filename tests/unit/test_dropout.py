"""Dropout masks are fair, independent of each other, and functions of the key alone."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from runner.model.dropout import dropout_mask, mix_bits, mix_bits_tensor

RATE = 0.2
UNITS = 256


def random_keys(*shape: int, seed: int = 0) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).integers(0, 2**32, shape, dtype=np.uint32))


def dropped(keys: tf.Tensor, layer: int = 0, units: int = UNITS, rate: float = RATE) -> np.ndarray:
    """1 where the mask drops, flattened to (positions, units)."""
    return (dropout_mask(keys, layer, units, rate).numpy() == 0).astype(np.float64).reshape(-1, units)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@pytest.mark.parametrize("rate", [0.001, 0.2, 0.5, 0.9])
def test_rate_and_mean_are_as_asked(rate):
    mask = dropout_mask(random_keys(100, 64), 1, UNITS, rate).numpy()
    n = mask.size
    assert abs((mask == 0).mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / n) + 2**-16
    assert abs(mask.mean() - 1) < 5 * np.sqrt(rate / (1 - rate) / n)
    assert np.unique(mask).size == 2


@pytest.mark.parametrize("rate", [0.999, 0.999999, float(np.nextafter(1, 0))])
def test_some_activations_are_kept_at_every_rate_below_1(rate):
    mask = dropout_mask(random_keys(1000, 64), 1, UNITS, rate).numpy()
    assert np.isfinite(mask).all()
    assert 0 < (mask != 0).mean() < 2 * (1 - 0.999)
    assert abs(mask.mean() - 1) < 5 * np.sqrt(mask.max() / mask.size)


def test_every_unit_and_every_position_is_dropped_at_the_rate():
    drops = dropped(random_keys(100, 64))
    positions, units = drops.shape
    for means, n in ((drops.mean(axis=0), positions), (drops.mean(axis=1), units)):
        standard = (means - RATE) / np.sqrt(RATE * (1 - RATE) / n)
        assert abs(standard.std() - 1) < 5 / np.sqrt(2 * means.size)
        assert abs(standard).max() < 6


@pytest.mark.parametrize("consecutive", [False, True])
def test_units_are_pairwise_uncorrelated_even_for_consecutive_keys(consecutive):
    drops = dropped(tf.constant(np.arange(6400, dtype=np.uint32)) if consecutive else random_keys(6400))
    correlations = np.corrcoef(drops, rowvar=False)[np.triu_indices(UNITS, k=1)] * np.sqrt(drops.shape[0])
    assert abs(correlations.std() - 1) < 0.03
    assert abs(correlations).max() < 6


def test_positions_are_pairwise_uncorrelated():
    drops = dropped(random_keys(400), units=4096)
    correlations = np.corrcoef(drops)[np.triu_indices(400, k=1)] * np.sqrt(4096)
    assert abs(correlations.std() - 1) < 0.03
    assert abs(correlations).max() < 6


def test_layers_and_neighbouring_keys_are_uncorrelated():
    keys = random_keys(100, 64)
    drops = dropped(keys)
    bound = 5 / np.sqrt(drops.size)
    assert abs(correlation(drops, dropped(keys, layer=1))) < bound
    assert abs(correlation(dropped(keys, layer=1), dropped(keys, layer=2))) < bound
    for bit in (0, 1, 15, 16, 31):
        flipped = tf.bitwise.bitwise_xor(keys, tf.constant(1 << bit, tf.uint32))
        assert abs(correlation(drops, dropped(flipped))) < bound


def test_triples_of_units_are_independent():
    """A linear hash passes every pairwise test; products of three units show it."""
    drops = (dropped(random_keys(100, 64)) - RATE).astype(np.float32)
    columns = np.random.default_rng(1).integers(0, UNITS, (3, 2000))
    columns = columns[:, [len(set(triple)) == 3 for triple in columns.T]]
    products = (drops[:, columns[0]] * drops[:, columns[1]] * drops[:, columns[2]]).mean(axis=0)
    standard = products / np.sqrt((RATE * (1 - RATE)) ** 3 / drops.shape[0])
    assert abs(standard.std() - 1) < 0.06
    assert abs(standard).max() < 7


def test_mask_depends_only_on_the_key_of_its_position():
    keys = random_keys(6, 5)
    whole = dropout_mask(keys, 2, 7, RATE).numpy()
    assert (dropout_mask(keys[2:5, 1:3], 2, 7, RATE).numpy() == whole[2:5, 1:3]).all()
    assert (dropout_mask(tf.transpose(keys), 2, 7, RATE).numpy() == whole.swapaxes(0, 1)).all()


def test_mask_is_the_same_for_ever():
    """Resumed runs draw these again: a change of the hash is a change of every run."""
    mask = dropout_mask(tf.constant([1, 2**32 - 1], tf.uint32), 0, 9, 0.5).numpy()
    assert (mask != 0).astype(int).tolist() == [[1, 1, 1, 1, 0, 1, 1, 0, 1], [0, 1, 0, 1, 1, 0, 0, 0, 1]]


def test_host_and_tensor_hashes_agree_with_the_published_one():
    values = np.array([0, 1, 0xDEADBEEF, 2**32 - 1], np.uint32)
    assert (mix_bits(values) == mix_bits_tensor(tf.constant(values)).numpy()).all()
    x = 1  # lowbias32 in Python integers
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> shift)) * factor) % 2**32
    assert int(mix_bits(values)[1]) == x ^ (x >> 16)
