"""The training objective: summed cross-entropy of the next token, and how many tokens were predicted right.

Sums, not means: replicas and microbatches add up, and whoever knows the logical batch divides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf


class Softmax(NamedTuple):
    """Of logits (N, V), unnormalized: `exponentials` (N, V) of logits - row maximum, and their `row_sums` (N).

    `losses` (N): cross-entropies of the targets. `right` (N): 1 where the target has the largest logit, else 0; a tie
    counts as right.
    """

    exponentials: tf.Tensor
    row_sums: tf.Tensor
    losses: tf.Tensor
    right: tf.Tensor


def softmax(hidden: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, targets: tf.Tensor) -> Softmax:
    """hidden (N, H), kernel (H, V), bias (V), targets (N) int32."""
    logits = tf.matmul(hidden, kernel) + bias
    largest = tf.reduce_max(logits, axis=1)  # vectorised on the CPU, where an argmax is not
    of_targets = tf.gather(logits, targets, batch_dims=1)
    with tf.control_dependencies([of_targets]):  # so that the logits can become the exponentials where they lie
        exponentials = tf.exp(logits - largest[:, tf.newaxis])
    row_sums = tf.reduce_sum(exponentials, axis=1)
    right = tf.cast(of_targets >= largest, logits.dtype)
    return Softmax(exponentials, row_sums, tf.math.log(row_sums) + largest - of_targets, right)


@tf.custom_gradient
def loss_sums(hidden: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor) -> Any:
    """Sums over positions of weight x cross-entropy, and of weight x (the target has the largest logit).

    Logits are hidden kernel + bias; the gradient passes over (N, V) fewer times than that of separate operations.

    weights (N); the rest as for `softmax`. With its exponentials E, row sums s and one-hot targets Y, the gradient of
    the loss is

        dlogits = diag(w) (diag(1/s) E - Y)
        dkernel = (diag(w/s) hidden)^T E - (diag(w) hidden)^T Y
        dhidden = diag(w/s) E kernel^T - diag(w) Y kernel^T

    so that weights and normalization go to the narrow matrices, and the products with Y are a segment sum and
    a gather. dlogits itself is never made.
    """
    exponentials, row_sums, losses, right = softmax(hidden, kernel, bias, targets)

    def gradient(dloss: tf.Tensor, dright: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
        del dright  # a count has no gradient
        w = dloss * weights  # (N)
        w_normal = w / row_sums  # (N)
        classes = kernel.shape[1]
        kernel_rows = tf.transpose(kernel)  # (V, H)
        dhidden = scale_rows(tf.matmul(exponentials, kernel_rows), w_normal)
        dhidden -= scale_rows(tf.gather(kernel_rows, targets), w)
        dkernel = tf.matmul(scale_rows(hidden, w_normal), exponentials, transpose_a=True)
        dkernel -= tf.transpose(tf.math.unsorted_segment_sum(scale_rows(hidden, w), targets, classes))
        dbias = tf.linalg.matvec(exponentials, w_normal, transpose_a=True)
        dbias -= tf.math.unsorted_segment_sum(w, targets, classes)
        return dhidden, dkernel, dbias, None, None

    return (tf.reduce_sum(losses * weights), tf.reduce_sum(right * weights)), gradient


class SlotRows(NamedTuple):
    """The positions whose targets are of one slot of n ids, and what their softmax takes.

    `rows` (N'): which of the N positions. `hidden` (N', H); `targets` (N'), counted from the slot's first id; `kernel`
    (H, n) and `bias` (n), the slot's part.
    """

    rows: tf.Tensor
    hidden: tf.Tensor
    kernel: tf.Tensor
    bias: tf.Tensor
    targets: tf.Tensor


def split_by_slot(
    sizes: Sequence[int], hidden: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, targets: tf.Tensor
) -> list[SlotRows]:
    """For each slot its positions; `sizes`: the ids of every slot, V together. The rest as for `softmax`.

    A softmax over all V with the other slots' logits left out is the same, and takes V products where n are needed.
    """
    slots = tf.gather(tf.constant(np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)), targets)
    targets -= tf.gather(tf.constant(np.cumsum([0, *sizes[:-1]]).astype(np.int32)), slots)
    parts = zip(
        tf.dynamic_partition(tf.range(tf.size(targets)), slots, len(sizes)),
        tf.dynamic_partition(hidden, slots, len(sizes)),
        tf.split(kernel, sizes, axis=1),
        tf.split(bias, sizes),
        tf.dynamic_partition(targets, slots, len(sizes)),
        strict=True,
    )
    return [SlotRows(*part) for part in parts]


def loss_sums_by_slot(
    sizes: Sequence[int],
    hidden: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    targets: tf.Tensor,
    weights: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """`loss_sums` of a table: a position chooses among the ids of its target's slot, see `split_by_slot`."""
    sums = [
        loss_sums(part.hidden, part.kernel, part.bias, part.targets, tf.gather(weights, part.rows))
        for part in split_by_slot(sizes, hidden, kernel, bias, targets)
    ]
    losses, right = zip(*sums, strict=True)
    return tf.add_n(losses), tf.add_n(right)


def scale_rows(matrix: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Row n of a matrix (N, m) times factor n."""
    return matrix * factors[:, tf.newaxis]
