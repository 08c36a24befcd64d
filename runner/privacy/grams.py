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


def gram_matrices(x: tf.Tensor) -> tf.Tensor:
    """x x^T of each record: (T, B, n) -> (B, T, T)."""
    if tf.config.list_logical_devices("GPU"):
        return by_tensorflow(x)
    grams = tf.numpy_function(by_blas, [x], x.dtype, stateful=False)
    return tf.ensure_shape(grams, (x.shape[1], x.shape[0], x.shape[0]))


def by_tensorflow(x: tf.Tensor) -> tf.Tensor:
    return tf.einsum("tbn,sbn->bts", x, x)


def by_blas(x: NDArray[Any]) -> NDArray[Any]:
    steps, rows, _ = x.shape
    records = x.swapaxes(0, 1)
    grams = np.empty((rows, steps, steps), x.dtype)
    threads, count = _threads()

    def fill(part: slice) -> None:
        with np.errstate(all="ignore"):  # what is not finite is for the caller
            np.matmul(records[part], records[part].swapaxes(1, 2), out=grams[part])

    list(threads.map(fill, [slice(rows * i // count, rows * (i + 1) // count) for i in range(count)]))
    return grams


@cache
def _threads() -> tuple[ThreadPoolExecutor, int]:
    """As many as TensorFlow has, and their number. BLAS's own are laid off: they would wait for each other."""
    threadpool_limits(1, "blas")
    count = tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count() or 1
    return ThreadPoolExecutor(count, "gram"), count
