"""The clipped sum: every record's gradient cut to a norm of at most C, and added up, in one forward and one backward.

No record's gradient is ever made. Each weight W of the network multiplies inputs a_t at every position t, so with
delta_t the gradient of the product, a record's gradient of W and its squared norm are

    g = sum_t a_t^T delta_t           |g|^2 = sum_{t,s} (a_t . a_s) (delta_t . delta_s)

from two Gram matrices (T, T) of the record ("ghost norm": Li et al. 2021, arXiv:2110.05679). The clip
factors c_b = min(1, C / |g_b|) are then folded into the inputs, and the sum over records is the one matrix product
that an ordinary step has too ("book-keeping": Bu et al. 2022, arXiv:2210.00038).

A record's loss is the sum of its positions' cross-entropies, each times `scale`, a public constant. Everything is
time-major, as in `runner.model.kernels`.

Where privacy is for all records of a person, "record" above is a person: his loss is the sum of his records', and his
positions are theirs, K T of them. The network runs over records (T, K P); the products are told of positions (K T, P).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from runner.model import kernels
from runner.model.dropout import dropout_mask
from runner.model.network import Network
from runner.model.objective import scale_rows, softmax, split_by_slot
from runner.privacy.products import Layer, Product, Slotted, Table, width


class ClippedSum(NamedTuple):
    """Of a physical batch of B records, or persons.

    `gradients`: one for each of `network.trainable_variables`. `sums`: [cross-entropy, right predictions] over the
    real positions, unclipped. `norms` (B): the records' gradient norms before clipping.
    """

    gradients: list[tf.Tensor]
    sums: tf.Tensor
    norms: tf.Tensor


def clipped_sum(
    network: Network,
    ids: tf.Tensor,
    targets: tf.Tensor,
    weights: tf.Tensor,
    dropout_keys: tf.Tensor | None,
    *,
    clip: float,
    scale: float,
    records_of_person: int = 1,
) -> ClippedSum:
    """Sum of the records' clipped gradients.

    ids, targets (B, T) int32; weights (B, T): 1 on real positions and 0 on padding; dropout_keys (B, T) uint32, None
    for no dropout. clip: C. A record whose gradient is not finite adds nothing, so that the sum changes by at most C
    when any one record is emptied, whatever it held.

    records_of_person: K, where rows are those of persons, K behind one another for each: then the gradient that is cut
    is that of all K together. B is a multiple of K.
    """

    def time_major(x: tf.Tensor) -> tf.Tensor:
        if records_of_person == 1:
            return tf.transpose(x)  # (T, B)
        steps = tf.shape(x)[1]
        x = tf.transpose(tf.reshape(x, (-1, records_of_person, steps)), (2, 1, 0))  # (T, K, P)
        return tf.reshape(x, (steps, -1))

    def by_person(x: tf.Tensor) -> tf.Tensor:
        """(T, K P, ...) -> (T K, P, ...), without a copy."""
        if records_of_person == 1:
            return x
        steps, rows, *rest = tf.unstack(tf.shape(x))
        shape = [steps * records_of_person, rows // records_of_person, *rest]
        return tf.ensure_shape(tf.reshape(x, shape), [None, None, *x.shape[2:]])

    ids, targets, weights = time_major(ids), time_major(targets), time_major(weights)
    keys = None if dropout_keys is None else time_major(dropout_keys)

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

    output, flat_dx, sums = _backward_from_loss(network, x, targets, weights, scale)
    dx = tf.reshape(flat_dx, tf.shape(x))
    products: list[Product] = [output.regrouped(by_person)]
    for index, (x, h, kernel, cache) in reversed(list(enumerate(forwards, start=1))):
        delta = kernels.backward(cache, drop(dx, index))
        parts = [by_person(each) for each in (x, h, delta, tf.ones_like(weights))]
        products.append(Layer(*parts, lag=records_of_person))
        dx = tf.reshape(tf.matmul(kernels.flatten_time(delta), kernel, transpose_b=True), tf.shape(x))
    tables, sizes = (ids,), (network.vocab_size,)
    if network.slots is not None and network.next_slot is not None:
        tables, sizes = (ids, tf.gather(network.slots_of_tokens(), targets)), (network.vocab_size, len(network.slots))
    products.append(Table(tuple(map(by_person, tables)), by_person(drop(dx, 0)), sizes))

    squares = tf.add_n([product.squares() for product in products])
    norms = tf.sqrt(tf.maximum(squares, 0))
    factors = tf.where(tf.math.is_finite(squares), tf.minimum(clip / tf.maximum(norms, 1e-30), 1), 0)
    products = _without_non_finite(products, squares)
    gradients = [gradient for product in reversed(products) for gradient in product.weighted_sums(factors)]
    return ClippedSum(gradients, sums, norms)


class _Output(NamedTuple):
    """Of N positions with n logits each: `delta` (N, n), which times `scales` (N) is the gradient of the logits; the
    gradient `dhidden` (N, H) of what the logits were made of; and `sums`, see `ClippedSum`."""

    delta: tf.Tensor
    scales: tf.Tensor
    dhidden: tf.Tensor
    sums: tf.Tensor


def _output(
    hidden: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor, scale: float
) -> _Output:
    """hidden (N, H), kernel (H, n), bias (n), targets and weights (N)."""
    exponentials, row_sums, losses, right = softmax(hidden, kernel, bias, targets)
    # The gradient of a position's loss, times its row sum: weight and row sum are left to narrower operands.
    positions = tf.stack([tf.range(tf.size(targets)), targets], axis=1)
    # Where the exponentials lie: tf.tensor_scatter_nd_sub would copy them.
    delta = tf.raw_ops.ScatterNdNonAliasingAdd(input=exponentials, indices=positions, updates=-row_sums)
    scales = weights * scale / row_sums
    dhidden = scale_rows(tf.matmul(delta, kernel, transpose_b=True), scales)
    sums = tf.stack([tf.reduce_sum(losses * weights), tf.reduce_sum(right * weights)])
    return _Output(delta, scales, dhidden, sums)


def _backward_from_loss(
    network: Network, x: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor, scale: float
) -> tuple[Layer | Slotted, tf.Tensor, tf.Tensor]:
    """The dense layer's product, the gradient (T*B, H) of its inputs x (T, B, H), and the sums of `ClippedSum`."""
    kernel, bias = tf.convert_to_tensor(network.dense.kernel), tf.convert_to_tensor(network.dense.bias)
    flat, flat_targets, flat_weights = kernels.flatten_time(x), tf.reshape(targets, [-1]), tf.reshape(weights, [-1])
    if network.slots is None:
        output = _output(flat, kernel, bias, flat_targets, flat_weights, scale)
        delta = tf.reshape(output.delta, tf.concat([tf.shape(targets), [network.vocab_size]], axis=0))
        layer = Layer(x, None, delta, tf.reshape(output.scales, tf.shape(targets)))
        return layer, output.dhidden, output.sums
    parts = split_by_slot(network.slots, flat, kernel, bias, flat_targets)
    outputs = [
        _output(part.hidden, part.kernel, part.bias, part.targets, tf.gather(flat_weights, part.rows), scale)
        for part in parts
    ]
    rows, hidden = tuple(part.rows for part in parts), tuple(part.hidden for part in parts)
    deltas, scales, dhidden, sums = zip(*outputs, strict=True)
    return Slotted(x, rows, hidden, deltas, scales), tf.dynamic_stitch(list(rows), list(dhidden)), tf.add_n(sums)


def _without_non_finite(products: Sequence[Product], squares: tf.Tensor) -> list[Product]:
    """The products with zeros for every record whose norm is not finite: a factor of 0 would leave 0 x inf."""
    return [product.of_records(tf.math.is_finite(squares)) for product in products]
