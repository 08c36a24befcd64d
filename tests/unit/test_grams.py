"""Gram matrices are the same by BLAS and by TensorFlow, and do not depend on the number of threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from runner.privacy import grams


def draw(steps: int, rows: int, width: int, dtype: Any) -> NDArray[Any]:
    return np.random.default_rng(steps + rows).normal(size=(steps, rows, width)).astype(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-4), (np.float64, 1e-12)])
@pytest.mark.parametrize(("steps", "rows", "width"), [(1, 1, 1), (5, 0, 3), (7, 1, 30), (30, 5, 4), (100, 13, 257)])
def test_both_ways_give_the_dot_products_of_every_record(
    steps: int, rows: int, width: int, dtype: Any, tolerance: float
) -> None:
    x = draw(steps, rows, width, dtype)
    expected = np.einsum("tbn,sbn->bts", x.astype(np.float64), x.astype(np.float64))
    for found in (grams.by_blas(x), grams.by_tensorflow(tf.constant(x)).numpy()):
        assert found.dtype == dtype
        assert found.shape == (rows, steps, steps)
        assert np.abs(found - expected).max(initial=0) <= tolerance * max(1, width)


@pytest.mark.parametrize("lag", [1, 3])
@pytest.mark.parametrize(("steps", "rows"), [(1, 2), (3, 9), (20, 17)])
def test_what_was_before_is_added_where_it_is_read(steps: int, rows: int, lag: int) -> None:
    x, before = draw(steps, rows, 4, np.float64), draw(steps, rows, 7, np.float64)
    moved = np.concatenate([np.zeros_like(before[:lag]), before])[:steps]
    expected = np.einsum("tbn,sbn->bts", x, x) + np.einsum("tbn,sbn->bts", moved, moved)
    tensors = tf.constant(x), tf.constant(before)
    for found in (grams.by_blas(x, before, lag), grams.by_tensorflow(*tensors, lag)):
        assert np.allclose(found, expected, atol=1e-12)
    assert np.allclose(grams.gram_matrices(*tensors, lag), expected, atol=1e-12)


def test_the_number_of_threads_does_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    x = draw(100, 13, 257, np.float32)
    expected = grams.by_blas(x, x[..., :30]).tobytes()
    for count in (1, 3, 20):
        with ThreadPoolExecutor(count) as threads:
            monkeypatch.setattr(grams, "_threads", lambda threads=threads: threads)
            assert grams.by_blas(x, x[..., :30]).tobytes() == expected


def test_one_trace_takes_batches_of_any_shape() -> None:
    traced = tf.function(
        grams.gram_matrices, input_signature=[tf.TensorSpec((None, None, 4), tf.float32)], autograph=False
    )
    for steps, rows in ((3, 2), (5, 0), (1, 6)):
        x = draw(steps, rows, 4, np.float32)
        assert np.allclose(traced(x), grams.by_tensorflow(tf.constant(x)), atol=1e-5)


def test_what_is_not_finite_stays_in_its_record() -> None:
    x = draw(4, 3, 5, np.float32)
    expected = grams.by_blas(x)
    x[2, 1, 0] = np.inf
    found = grams.by_blas(x)
    assert not np.isfinite(found[1]).all()
    assert found[[0, 2]].tobytes() == expected[[0, 2]].tobytes()
