"""The clipped sum: every record's gradient cut to a norm of at most C, and added up, in one forward and one backward.

No record's gradient is ever made. Each weight W of the network multiplies inputs a_t at every position t, so with
delta_t the gradient of the product, a record's gradient of W and its squared norm are

    g = sum_t a_t^T delta_t           |g|^2 = sum_{t,s} (a_t . a_s) (delta_t . delta_s)

from two Gram matrices (T, T) of the record ("ghost norm": Li et al. 2021, arXiv:2110.05679). The clip
factors c_b = min(1, C / |g_b|) are then folded into the inputs, and the sum over records is the one matrix product
that an ordinary step has too ("book-keeping": Bu et al. 2022, arXiv:2210.00038).

A record's loss is the sum of its positions' cross-entropies, each times `scale`, a public constant. Everything is
time-major, as in `runner.model.kernels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from runner.model import kernels
from runner.model.dropout import dropout_mask
from runner.model.network import Network
from runner.model.objective import scale_rows, softmax
from runner.privacy.grams import gram_matrices

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

    Each is multiplied by weights of its own, and `delta` (T, B, n), times `scale` (T, B) of its position, is the
    gradient of their sum. `h` is None where nothing recurs.
    """

    inputs: tf.Tensor
    h: tf.Tensor | None
    delta: tf.Tensor
    scale: tf.Tensor

    def is_narrow(self) -> tf.Tensor:
        """Whether a record's gradient takes fewer multiplications than its Gram matrices."""
        m, n = width(self.inputs) + 1 + (0 if self.h is None else width(self.h)), width(self.delta)
        return m * n <= tf.shape(self.delta)[0] * (m + n)

    def grams(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Of what is multiplied, and of the gradients of the products: (B, T, T) each."""
        inputs = gram_matrices(self.inputs) + 1
        if self.h is not None:
            inputs += tf.pad(gram_matrices(self.h)[:, :-1, :-1], [[0, 0], [1, 0], [1, 0]])
        scale = tf.transpose(self.scale)
        return inputs, gram_matrices(self.delta) * scale[:, :, tf.newaxis] * scale[:, tf.newaxis]

    def square(self, b: tf.Tensor) -> tf.Tensor:
        """Squared norm of record b's gradient, from the gradient."""
        x = [self.inputs[:, b], tf.ones_like(self.inputs[:, b, :1])]
        if self.h is not None:
            x.append(kernels.shift(self.h[:, b]))
        x = scale_rows(tf.concat(x, axis=1), self.scale[:, b])
        lengths = tf.norm(x, axis=1) * tf.norm(self.delta[:, b], axis=1)
        return _with_margin(tf.matmul(x, self.delta[:, b], transpose_a=True), lengths)

    def weighted_sums(self, factors: tf.Tensor) -> list[tf.Tensor]:
        """Sum over records of factor x gradient, for every weight of the layer; factors (B)."""
        factors = factors * self.scale  # (T, B)

        def product(x: tf.Tensor, delta: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
            rows = scale_rows(kernels.flatten_time(x), tf.reshape(factors, [-1]))
            return tf.matmul(rows, kernels.flatten_time(delta), transpose_a=True)

        recurrent = [] if self.h is None else [product(self.h[:-1], self.delta[1:], factors[1:])]
        bias = tf.linalg.matvec(kernels.flatten_time(self.delta), tf.reshape(factors, [-1]), transpose_a=True)
        return [product(self.inputs, self.delta, factors), *recurrent, bias]


class Table(NamedTuple):
    """Embeddings that are added up: of table k with `sizes[k]` rows, rows `ids[k]` (T, B) were taken.

    `delta` (T, B, d) is the gradient of the rows, the same for all tables. As a layer, they multiply one-hot vectors.
    """

    ids: tuple[tf.Tensor, ...]
    delta: tf.Tensor
    sizes: tuple[int, ...]

    def is_narrow(self) -> tf.Tensor:
        return tf.constant(False)

    def grams(self) -> tuple[tf.Tensor, tf.Tensor]:
        rows = [tf.transpose(ids) for ids in self.ids]
        same = [tf.cast(ids[:, :, tf.newaxis] == ids[:, tf.newaxis], self.delta.dtype) for ids in rows]
        return tf.add_n(same), gram_matrices(self.delta)

    def square(self, b: tf.Tensor) -> tf.Tensor:
        delta = self.delta[:, b]
        rows = [tf.math.unsorted_segment_sum(delta, tf.unique(ids[:, b]).idx, tf.size(ids[:, b])) for ids in self.ids]
        return _with_margin(tf.concat(rows, axis=0), len(self.ids) ** 0.5 * tf.norm(delta, axis=1))

    def weighted_sums(self, factors: tf.Tensor) -> list[tf.Tensor]:
        delta = kernels.flatten_time(self.delta * factors[:, tf.newaxis])
        return [
            tf.math.unsorted_segment_sum(delta, tf.reshape(ids, [-1]), size)
            for ids, size in zip(self.ids, self.sizes, strict=True)
        ]


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

    x = drop(network.embed(ids, targets), 0)
    forwards = []
    for index, lstm in enumerate(network.lstms, start=1):
        kernel, recurrent, bias = lstm.tensors()
        h, cache = kernels.forward(x, kernel, recurrent, bias)
        forwards.append((x, h, kernel, cache))
        x = drop(h, index)

    kernel, bias = tf.convert_to_tensor(network.dense.kernel), tf.convert_to_tensor(network.dense.bias)
    flat_targets = tf.reshape(targets, [-1])
    slots = None if network.slots is None else network.slots_of_tokens()
    exponentials, row_sums, losses, right = softmax(kernels.flatten_time(x), kernel, bias, flat_targets, slots)
    # The gradient of a position's loss, times its row sum: weight and row sum are left to narrower operands.
    positions = tf.stack([tf.range(tf.size(targets)), flat_targets], axis=1)
    # Where the exponentials lie: tf.tensor_scatter_nd_sub would copy them.
    delta = tf.raw_ops.ScatterNdNonAliasingAdd(input=exponentials, indices=positions, updates=-row_sums)  # (T*B, V)
    scales = tf.reshape(weights, [-1]) * scale / row_sums
    dx = tf.reshape(scale_rows(tf.matmul(delta, kernel, transpose_b=True), scales), tf.shape(x))
    shape = tf.shape(ids)
    delta = tf.reshape(delta, tf.concat([shape, [network.vocab_size]], axis=0))
    products: list[Layer | Table] = [Layer(x, None, delta, tf.reshape(scales, shape))]
    for index, (x, h, kernel, cache) in reversed(list(enumerate(forwards, start=1))):
        delta = kernels.backward(cache, drop(dx, index))
        products.append(Layer(x, h, delta, tf.ones_like(weights)))
        dx = tf.reshape(tf.matmul(kernels.flatten_time(delta), kernel, transpose_b=True), tf.shape(x))
    tables, sizes = (ids,), (network.vocab_size,)
    if network.slots is not None and network.next_slot is not None:
        tables, sizes = (ids, tf.gather(slots, targets)), (network.vocab_size, len(network.slots))
    products.append(Table(tables, drop(dx, 0), sizes))

    squares = tf.add_n([_squared_norms(product) for product in products])
    norms = tf.sqrt(tf.maximum(squares, 0))
    factors = tf.where(tf.math.is_finite(squares), tf.minimum(clip / tf.maximum(norms, 1e-30), 1), 0)
    products = _without_non_finite(products, squares)
    gradients = [gradient for product in reversed(products) for gradient in product.weighted_sums(factors)]
    flat_weights = tf.reshape(weights, [-1])
    sums = tf.stack([tf.reduce_sum(losses * flat_weights), tf.reduce_sum(right * flat_weights)])
    return ClippedSum(gradients, sums, norms)


def _squared_norms(product: Layer | Table) -> tf.Tensor:
    """Squared norm of each record's gradient of the product's weights (B).

    By Gram matrices, unless they take more multiplications than the gradient, or the record's positions cancel: then
    rounding may hide what is left of them. With |p_t| the norms of the positions' gradients, the rounding error is of
    the order of (sum |p_t|)^2 times the machine's precision; positions that do not cancel have
    (sum |p_t|)^2 <= T |sum p_t|^2, or near it.
    """
    steps, rows = tf.unstack(tf.shape(product.delta)[:2])

    def by_grams() -> tuple[tf.Tensor, tf.Tensor]:
        inputs, deltas = product.grams()
        squares = tf.reduce_sum(inputs * deltas, axis=(1, 2))
        lengths = tf.sqrt(tf.linalg.diag_part(inputs) * tf.linalg.diag_part(deltas))  # |p_t|
        bound = CANCELLATION * tf.cast(steps, squares.dtype) * squares
        return squares, tf.reduce_sum(lengths, axis=1) ** 2 > bound

    def none() -> tuple[tf.Tensor, tf.Tensor]:
        return tf.zeros([rows], product.delta.dtype), tf.fill([rows], True)

    squares, unsure = tf.cond(product.is_narrow(), none, by_grams)
    records = tf.cast(tf.where(unsure), tf.int32)  # (number of them, 1)
    exact = tf.map_fn(lambda b: product.square(b[0]), records, fn_output_signature=squares.dtype, parallel_iterations=4)
    return tf.tensor_scatter_nd_update(squares, records, exact)


def _with_margin(gradient: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    """Squared norm of a gradient, with room for the rounding of its sum over positions, which may differ elsewhere."""
    precision = float(np.finfo(gradient.dtype.name).eps)
    return (tf.norm(gradient) + MARGIN * precision * tf.reduce_sum(lengths)) ** 2


def _without_non_finite(products: Sequence[Layer | Table], squares: tf.Tensor) -> list[Layer | Table]:
    """The products with zeros for every record whose norm is not finite: a factor of 0 would leave 0 x inf."""
    finite = tf.math.is_finite(squares)  # (B)
    all_finite = tf.reduce_all(finite)

    def cleaned(x: object) -> object:
        if not isinstance(x, tf.Tensor) or not x.dtype.is_floating:
            return x
        kept = finite[:, tf.newaxis] if x.shape.rank == 3 else finite
        return tf.cond(all_finite, lambda: x, lambda: tf.where(kept, x, tf.zeros_like(x)))

    return [product._make(cleaned(x) for x in product) for product in products]


def width(x: tf.Tensor) -> int:
    """The last dimension, which is always known."""
    size = x.shape[-1]
    assert size is not None
    return size
