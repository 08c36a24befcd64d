"""Gram matrices: the dot products of a record's positions with one another, for every record of a batch.

On a processor by NumPy's BLAS, which takes a record out of a time-major batch where it lies and runs near the
processor's peak; TensorFlow's batched product copies it first and reaches a third of that. A record is computed by
one thread, so that its result does not depend on how many there are.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

RECORDS_AT_ONCE = 8
"""A thread takes so many, whose matrices stay in its cache while they are added up."""


def gram_matrices(x: tf.Tensor, before: tf.Tensor | None = None, lag: int = 1) -> tf.Tensor:
    """x x^T of each record: (T, B, n) -> (B, T, T).

    `before` (T, B, m): plus y y^T, with y the rows of `before` that are `lag` positions back, and zeros where none are.
    """
    if tf.config.list_logical_devices("GPU"):
        return by_tensorflow(x, before, lag)
    grams = tf.numpy_function(by_blas, [x] if before is None else [x, before, lag], x.dtype, stateful=False)
    return tf.ensure_shape(grams, (x.shape[1], x.shape[0], x.shape[0]))


def by_tensorflow(x: tf.Tensor, before: tf.Tensor | None = None, lag: int = 1) -> tf.Tensor:
    grams = tf.einsum("tbn,sbn->bts", x, x)
    if before is None:
        return grams
    return grams + tf.pad(by_tensorflow(before[:-lag]), [[0, 0], [lag, 0], [lag, 0]])


def by_blas(x: NDArray[Any], before: NDArray[Any] | None = None, lag: int = 1) -> NDArray[Any]:
    steps, rows, _ = x.shape
    grams = np.empty((rows, steps, steps), x.dtype)

    def fill(start: int) -> None:
        part = slice(start, start + RECORDS_AT_ONCE)
        with np.errstate(all="ignore"):  # what is not finite is for the caller
            _multiply(x[:, part], grams[part])
            if before is not None:
                grams[part, lag:, lag:] += _multiply(before[:-lag, part])

    list(_threads().map(fill, range(0, rows, RECORDS_AT_ONCE)))
    return grams


def _multiply(x: NDArray[Any], out: NDArray[Any] | None = None) -> NDArray[Any]:
    """By a view of each record where it lies."""
    records = x.swapaxes(0, 1)
    return np.matmul(records, records.swapaxes(1, 2), out=out)


@cache
def _threads() -> ThreadPoolExecutor:
    """As many as TensorFlow has. BLAS's own are laid off: they would wait for each other."""
    threadpool_limits(1, "blas")
    return ThreadPoolExecutor(tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count(), "gram")
