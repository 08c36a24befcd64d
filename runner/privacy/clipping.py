"""The clipped sum: every record's gradient cut to a norm of at most C, and added up, in one forward and one backward.

No record's gradient is ever made. Each weight W of the network multiplies inputs a_t at every position t, so with
delta_t the gradient of the product, a record's gradient of W and its squared norm are

    g = sum_t a_t^T delta_t           |g|^2 = sum_{t,s} (a_t . a_s) (delta_t . delta_s) = <delta, K delta>

with the Gram matrix K = a a^T (T, T) of the record ("ghost norm": Li et al. 2021, arXiv:2110.05679). The clip
factors c_b = min(1, C / |g_b|) are then folded into the inputs, and the sum over records is the one matrix product
that an ordinary step has too ("book-keeping": Bu et al. 2022, arXiv:2210.00038).

A record's loss is the sum of its positions' cross-entropies, each times `scale`, a public constant. Everything is
time-major, as in `runner.model.kernels`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from runner.model import kernels
from runner.model.dropout import dropout_mask
from runner.model.network import Network
from runner.model.objective import count_right, scale_rows

CANCELLATION = 4.0
"""Above so many times what positions without cancellation give, a norm is computed from the gradient itself."""
MARGIN = 2.0
"""Rounding errors of a sum over positions that a norm makes room for, in units of the machine's precision."""


class ClippedSum(NamedTuple):
    """Of a physical batch of B records.

    `gradients`: one for each of `network.trainable_variables`. `sums`: [cross-entropy, right predictions] over the
    real positions, unclipped. `norms` (B): the records' gradient norms before clipping.
    """

    gradients: list[tf.Tensor]
    sums: tf.Tensor
    norms: tf.Tensor


class Layer(NamedTuple):
    """A layer's products: `inputs` (T, B, m), the layer's own outputs `h` (T, B, H) of the step before, and a 1.

    Each is multiplied by weights of its own, and `delta` (T, B, n) is the gradient of their sum. `h` is None where
    nothing recurs. `scale` (T, B): what each position's delta is still to be multiplied with.
    """

    inputs: tf.Tensor
    h: tf.Tensor | None
    delta: tf.Tensor
    scale: tf.Tensor | None = None


def clipped_sum(
    network: Network,
    ids: tf.Tensor,
    targets: tf.Tensor,
    weights: tf.Tensor,
    dropout_keys: tf.Tensor | None,
    *,
    clip: float,
    scale: float,
) -> ClippedSum:
    """Sum of the records' clipped gradients.

    ids, targets (B, T) int32; weights (B, T): 1 on real positions and 0 on padding; dropout_keys (B, T) uint32, None
    for no dropout. clip: C. A record whose gradient is not finite adds nothing, so that the sum changes by at most C
    when any one record is emptied, whatever it held.
    """
    ids, targets, weights = tf.transpose(ids), tf.transpose(targets), tf.transpose(weights)  # (T, B)
    keys = None if dropout_keys is None else tf.transpose(dropout_keys)

    def drop(x: tf.Tensor, layer: int) -> tf.Tensor:
        if keys is None or network.dropout_rate == 0:
            return x
        return x * dropout_mask(keys, layer, width(x), network.dropout_rate, x.dtype)

    x = drop(kernels.embed(tf.convert_to_tensor(network.embedding.embeddings), ids), 0)
    forwards = []
    for index, lstm in enumerate(network.lstms, start=1):
        kernel, recurrent, bias = lstm.tensors()
        h, cache = kernels.forward(x, kernel, recurrent, bias)
        forwards.append((x, h, kernel, cache))
        x = drop(h, index)

    dense, bias = tf.convert_to_tensor(network.dense.kernel), tf.convert_to_tensor(network.dense.bias)
    flat_targets, flat_weights = tf.reshape(targets, [-1]), tf.reshape(weights, [-1])
    logits = tf.matmul(kernels.flatten_time(x), dense) + bias
    right = count_right(logits, flat_targets, flat_weights, tf.reduce_max(logits, axis=1))
    losses, delta = tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(features=logits, labels=flat_targets)
    # The position's weight is left to the narrow operands of every product with delta (T*B, V).
    layers = [
        Layer(
            x,
            None,
            tf.reshape(delta, tf.concat([tf.shape(ids), [network.vocab_size]], axis=0)),
            scale=weights * scale,
        )
    ]
    dx = scale_rows(tf.matmul(delta, dense, transpose_b=True), flat_weights * scale)
    dx = tf.reshape(dx, tf.shape(x))
    for index, (x, h, kernel, cache) in reversed(list(enumerate(forwards, start=1))):
        delta = kernels.backward(cache, drop(dx, index))
        layers.append(Layer(x, h, delta))
        dx = tf.reshape(tf.matmul(kernels.flatten_time(delta), kernel, transpose_b=True), tf.shape(x))
    embedded = drop(dx, 0)

    squares = _squared_norms(layers, embedded, ids)
    norms = tf.sqrt(tf.maximum(squares, 0))
    factors = tf.where(tf.math.is_finite(squares), tf.minimum(clip / tf.maximum(norms, 1e-30), 1), 0)
    layers, embedded = _without_non_finite(layers, embedded, squares)
    gradients = _weighted_sums(layers, embedded, ids, factors, network.vocab_size)
    return ClippedSum(gradients, tf.stack([tf.reduce_sum(losses * flat_weights), right]), norms)


def _squared_norms(layers: Sequence[Layer], embedded: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    """Squared norm of each record's gradient over all weights (B); `embedded` (T, B, d): the embeddings' gradient.

    Record by record: one record's matrices stay in a core's cache, and need not be put in batch order.
    """
    rows = tf.shape(ids)[1]

    def add_record(b: tf.Tensor, squares: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        each = [_squared_norm(layer, b) for layer in layers]
        return b + 1, squares.write(b, tf.add_n([*each, _squared_embedding_norm(embedded[:, b], ids[:, b])]))

    squares = tf.TensorArray(embedded.dtype, rows, element_shape=())
    return tf.while_loop(lambda b, _: b < rows, add_record, (0, squares), parallel_iterations=4)[1].stack()


def _squared_norm(layer: Layer, b: tf.Tensor) -> tf.Tensor:
    """Squared norm of record b's gradient of a layer's weights, by whichever way multiplies less."""
    delta = layer.delta[:, b]  # (T, n)
    inputs = [layer.inputs[:, b], tf.ones_like(delta[:, :1])]
    if layer.h is not None:
        inputs.append(kernels.shift(layer.h[:, b]))
    x = tf.concat(inputs, axis=1)  # (T, m)
    if layer.scale is not None:
        x = scale_rows(x, layer.scale[:, b])
    steps, m, n = tf.shape(delta)[0], width(x), width(delta)
    lengths = tf.norm(x, axis=1) * tf.norm(delta, axis=1)  # (T)

    def by_gram() -> tf.Tensor:
        """<delta, K delta> from the upper half of K, in two blocks of rows: K is symmetric."""
        half = steps // 2
        upper = tf.matmul(x[:half], x, transpose_b=True)
        twice = tf.cast(tf.range(steps) >= half, x.dtype) + 1  # right of its diagonal block, for the mirror image
        lower = tf.matmul(x[half:], x[half:], transpose_b=True)
        return tf.reduce_sum(delta[:half] * tf.matmul(upper * twice, delta)) + tf.reduce_sum(
            delta[half:] * tf.matmul(lower, delta[half:])
        )

    def directly() -> tf.Tensor:
        return _with_margin(tf.matmul(x, delta, transpose_a=True), lengths)

    return tf.cond(m * n <= steps * (m + n), directly, lambda: _unless_cancelling(by_gram(), lengths, directly))


def _squared_embedding_norm(dx: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    """Squared norm of a record's gradient of the embedding: a token's positions (T, d) add up."""
    lengths = tf.norm(dx, axis=1)
    same_token = tf.cast(ids[:, tf.newaxis] == ids, dx.dtype)
    added = tf.matmul(same_token, dx)  # at each position, the sum over all positions of its token

    def directly() -> tf.Tensor:
        first = tf.cast(tf.argmax(same_token, axis=1, output_type=tf.int32) == tf.range(tf.size(ids)), dx.dtype)
        return _with_margin(scale_rows(added, first), lengths)

    return _unless_cancelling(tf.reduce_sum(dx * added), lengths, directly)


def _unless_cancelling(square: tf.Tensor, lengths: tf.Tensor, directly: Callable[[], tf.Tensor]) -> tf.Tensor:
    """The square of a Gram matrix's way, unless the positions cancel: then rounding may hide what is left of them.

    lengths (T): norms of the positions' gradients p_t. Its rounding error is of the order of (sum |p_t|)^2 times
    the machine's precision; positions that do not cancel have (sum |p_t|)^2 <= T |sum p_t|^2, or near it.
    """
    steps = tf.cast(tf.size(lengths), lengths.dtype)
    return tf.cond(tf.reduce_sum(lengths) ** 2 > CANCELLATION * steps * square, directly, lambda: square)


def _with_margin(gradient: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    """Squared norm of a gradient, with room for the rounding of its sum over positions, which may differ elsewhere."""
    precision = float(np.finfo(gradient.dtype.name).eps)
    return (tf.norm(gradient) + MARGIN * precision * tf.reduce_sum(lengths)) ** 2


def _weighted_sums(
    layers: Sequence[Layer], embedded: tf.Tensor, ids: tf.Tensor, factors: tf.Tensor, vocab_size: int
) -> list[tf.Tensor]:
    """Sum over records of factor x gradient, for every weight in the network's order."""
    dx = kernels.flatten_time(embedded * factors[:, tf.newaxis])
    gradients = [tf.math.unsorted_segment_sum(dx, tf.reshape(ids, [-1]), vocab_size)]
    for inputs, h, delta, scale in reversed(layers):
        factor = tf.broadcast_to(factors, tf.shape(ids)) if scale is None else factors * scale  # (T, B)

        def product(x: tf.Tensor, delta: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
            rows = scale_rows(kernels.flatten_time(x), tf.reshape(factor, [-1]))
            return tf.matmul(rows, kernels.flatten_time(delta), transpose_a=True)

        gradients.append(product(inputs, delta, factor))
        if h is not None:
            gradients.append(product(h[:-1], delta[1:], factor[1:]))
        gradients.append(tf.linalg.matvec(kernels.flatten_time(delta), tf.reshape(factor, [-1]), transpose_a=True))
    return gradients


def _without_non_finite(
    layers: Sequence[Layer], embedded: tf.Tensor, squares: tf.Tensor
) -> tuple[list[Layer], tf.Tensor]:
    """All with zeros for every record whose norm is not finite: a factor of 0 would leave 0 x inf."""
    finite = tf.math.is_finite(squares)  # (B)
    all_finite = tf.reduce_all(finite)

    def cleaned(x: tf.Tensor) -> tf.Tensor:
        kept = finite[:, tf.newaxis] if x.shape.rank == 3 else finite
        return tf.cond(all_finite, lambda: x, lambda: tf.where(kept, x, tf.zeros_like(x)))

    return [
        Layer(
            cleaned(layer.inputs),
            None if layer.h is None else cleaned(layer.h),
            cleaned(layer.delta),
            None if layer.scale is None else cleaned(layer.scale),
        )
        for layer in layers
    ], cleaned(embedded)


def width(x: tf.Tensor) -> int:
    """The last dimension, which is always known."""
    size = x.shape[-1]
    assert size is not None
    return size
