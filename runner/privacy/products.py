"""Where the network multiplies its weights: a record's gradient of them has a norm, and a weighted sum over records.

See `runner.privacy.clipping`, which says why neither needs the gradient itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from runner.model import kernels
from runner.model.objective import scale_rows
from runner.privacy.grams import gram_matrices

CANCELLATION = 4.0
"""Above so many times what positions without cancellation give, a norm is computed from the gradient itself."""
MARGIN = 2.0
"""Rounding errors of a sum over positions that a norm makes room for, in units of the machine's precision."""


class Layer(NamedTuple):
    """A layer's products: `inputs` (T, B, m), the layer's own outputs `h` (T, B, H) of the step before, and a 1.

    Each is multiplied by weights of its own, and `delta` (T, B, n), times `scale` (T, B) of its position, is the
    gradient of their sum. `h` is None where nothing recurs. `slots` (T, B): each slot has weights of its own, of which
    only a norm is asked for; None: all positions have the same. `lag`: how many positions before a position its step
    before is, the number of sequences that are interleaved.
    """

    inputs: tf.Tensor
    h: tf.Tensor | None
    delta: tf.Tensor
    scale: tf.Tensor
    slots: tf.Tensor | None = None
    lag: int = 1

    def regrouped(self, regroup: Callable[[tf.Tensor], tf.Tensor]) -> Layer:
        """With all its tensors regrouped, where nothing recurs."""
        return self._replace(inputs=regroup(self.inputs), delta=regroup(self.delta), scale=regroup(self.scale))

    def squares(self) -> tf.Tensor:
        """Squared norm of each record's gradient (B)."""
        return squared_norms(self)

    def of_records(self, kept: tf.Tensor) -> Layer:
        """With zeros for the records that are not kept (B)."""
        return self._make(_of_records(x, kept) for x in self)

    def is_narrow(self) -> tf.Tensor:
        """Whether a record's gradient takes fewer multiplications than its Gram matrices."""
        if self.slots is not None:
            return tf.constant(False)
        m, n = width(self.inputs) + 1 + (0 if self.h is None else width(self.h)), width(self.delta)
        return m * n <= tf.shape(self.delta)[0] * (m + n)

    def grams(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Of what is multiplied, and of the gradients of the products: (B, T, T) each."""
        inputs = gram_matrices(self.inputs) + 1
        if self.h is not None:
            lag = self.lag
            inputs += tf.pad(gram_matrices(self.h)[:, :-lag, :-lag], [[0, 0], [lag, 0], [lag, 0]])
        scale = tf.transpose(self.scale)
        deltas = gram_matrices(self.delta) * scale[:, :, tf.newaxis] * scale[:, tf.newaxis]
        return inputs, deltas if self.slots is None else tf.where(_same(self.slots), deltas, 0)

    def square(self, b: tf.Tensor) -> tf.Tensor:
        """Squared norm of record b's gradient, from the gradient."""
        x = [self.inputs[:, b], tf.ones_like(self.inputs[:, b, :1])]
        if self.h is not None:
            x.append(tf.pad(self.h[: -self.lag, b], [[self.lag, 0], [0, 0]]))
        x = scale_rows(tf.concat(x, axis=1), self.scale[:, b])
        delta = self.delta[:, b]
        lengths = tf.norm(x, axis=1) * tf.norm(delta, axis=1)
        if self.slots is not None:  # side by side: the columns of each slot that the record has
            places = tf.unique(self.slots[:, b]).idx
            columns = tf.one_hot(places, tf.reduce_max(places) + 1, dtype=delta.dtype)[:, :, tf.newaxis]
            delta = tf.reshape(columns * delta[:, tf.newaxis], [tf.shape(delta)[0], -1])
        return _with_margin(tf.matmul(x, delta, transpose_a=True), lengths)

    def weighted_sums(self, factors: tf.Tensor) -> list[tf.Tensor]:
        """Sum over records of factor x gradient, for every weight of the layer; factors (B)."""
        factors = factors * self.scale  # (T, B)

        def product(x: tf.Tensor, delta: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
            rows = scale_rows(kernels.flatten_time(x), tf.reshape(factors, [-1]))
            return tf.matmul(rows, kernels.flatten_time(delta), transpose_a=True)

        recurrent = (
            [] if self.h is None else [product(self.h[: -self.lag], self.delta[self.lag :], factors[self.lag :])]
        )
        bias = weighted_sum(kernels.flatten_time(self.delta), tf.reshape(factors, [-1]))
        return [product(self.inputs, self.delta, factors), *recurrent, bias]


class Table(NamedTuple):
    """Embeddings that are added up: of table k with `sizes[k]` rows, rows `ids[k]` (T, B) were taken.

    `delta` (T, B, d) is the gradient of the rows, the same for all tables. As a layer, they multiply one-hot vectors.
    """

    ids: tuple[tf.Tensor, ...]
    delta: tf.Tensor
    sizes: tuple[int, ...]

    def squares(self) -> tf.Tensor:
        """Squared norm of each record's gradient (B)."""
        return squared_norms(self)

    def of_records(self, kept: tf.Tensor) -> Table:
        """With zeros for the records that are not kept (B)."""
        return self._make(_of_records(x, kept) for x in self)

    def is_narrow(self) -> tf.Tensor:
        return tf.constant(False)

    def grams(self) -> tuple[tf.Tensor, tf.Tensor]:
        same = [tf.cast(_same(ids), self.delta.dtype) for ids in self.ids]
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


class Slotted(NamedTuple):
    """The logits of a table: `inputs` (T, B, H), multiplied at each position by the weights of one slot alone.

    For every slot: `rows`, its positions among the T*B; their inputs `hidden` (N', H); `deltas` (N', n), and `scales`
    (N'). See `Layer` and `runner.model.objective.SlotRows`.
    """

    inputs: tf.Tensor
    rows: tuple[tf.Tensor, ...]
    hidden: tuple[tf.Tensor, ...]
    deltas: tuple[tf.Tensor, ...]
    scales: tuple[tf.Tensor, ...]

    def regrouped(self, regroup: Callable[[tf.Tensor], tf.Tensor]) -> Slotted:
        """With its inputs regrouped such that positions keep their order, and so `rows` their meaning."""
        return self._replace(inputs=regroup(self.inputs))

    def squares(self) -> tf.Tensor:
        """Squared norm of each record's gradient (B): the sum over positions, unless a record has some of one slot."""
        shape = tf.shape(self.inputs)[:2]
        squares = [
            tf.reduce_sum(delta**2, axis=1) * scale**2 for delta, scale in zip(self.deltas, self.scales, strict=True)
        ]
        squares = self._by_position(squares) * (tf.reduce_sum(self.inputs**2, axis=2) + 1)
        slots = self._by_position([tf.fill(tf.shape(rows), number) for number, rows in enumerate(self.rows)])
        places = tf.reshape(slots * shape[1] + tf.range(shape[1]), [-1])  # of each pair of slot and record
        counted = tf.cast(tf.reshape(squares > 0, [-1]), tf.int32)
        counts = tf.math.unsorted_segment_sum(counted, places, len(self.rows) * shape[1])
        return tf.cond(
            tf.reduce_any(counts > 1),
            lambda: squared_norms(
                Layer(self.inputs, None, self._side_by_side(), self._by_position(self.scales), slots)
            ),
            lambda: tf.reduce_sum(squares, axis=0),
        )

    def of_records(self, kept: tf.Tensor) -> Slotted:
        """With zeros for the records that are not kept (B)."""
        tensors = [*self.hidden, *self.deltas, *self.scales]
        of_rows = 3 * [tf.gather(kept, tf.math.floormod(rows, tf.shape(self.inputs)[1])) for rows in self.rows]
        cleaned = tf.cond(
            tf.reduce_all(kept),
            lambda: tensors,
            lambda: [
                tf.where(keep if x.shape.rank == 1 else keep[:, tf.newaxis], x, tf.zeros_like(x))
                for x, keep in zip(tensors, of_rows, strict=True)
            ],
        )
        count = len(self.rows)
        parts = (tuple(cleaned[start : start + count]) for start in range(0, 3 * count, count))
        return Slotted(self.inputs, self.rows, *parts)

    def weighted_sums(self, factors: tf.Tensor) -> list[tf.Tensor]:
        """Sum over records of factor x gradient, for every weight; factors (B)."""
        weights, biases = [], []
        for rows, hidden, delta, scale in zip(*self[1:], strict=True):
            factor = tf.gather(factors, tf.math.floormod(rows, tf.shape(self.inputs)[1])) * scale
            weights.append(tf.matmul(scale_rows(hidden, factor), delta, transpose_a=True))
            biases.append(weighted_sum(delta, factor))
        return [tf.concat(weights, axis=1), tf.concat(biases, axis=0)]

    def _by_position(self, values: Sequence[tf.Tensor]) -> tf.Tensor:
        """What every slot has for its rows, (N', ...), as (T, B, ...)."""
        stitched = tf.dynamic_stitch(list(self.rows), list(values))
        return tf.reshape(stitched, tf.concat([tf.shape(self.inputs)[:2], tf.shape(stitched)[1:]], axis=0))

    def _side_by_side(self) -> tf.Tensor:
        """The deltas (T, B, n) of the largest slot's n: in the columns behind a smaller slot's are zeros."""
        widest = max(map(width, self.deltas))
        padded = self._by_position([tf.pad(delta, [[0, 0], [0, widest - width(delta)]]) for delta in self.deltas])
        return tf.ensure_shape(padded, [None, None, widest])


def squared_norms(product: Layer | Table) -> tf.Tensor:
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


def weighted_sum(rows: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Sum of factor x row: (N, n), (N) -> (n).

    By a product with two rows. One with a single row is added up position by position, and of many positions its
    rounding error, which changes with the shape of the batch, can be larger than a record's clipped gradient.
    """
    return tf.matmul(tf.stack([factors, tf.zeros_like(factors)]), rows)[0]


def _with_margin(gradient: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    """Squared norm of a gradient, with room for the rounding of its sum over positions, which may differ elsewhere."""
    precision = float(np.finfo(gradient.dtype.name).eps)
    return (tf.norm(gradient) + MARGIN * precision * tf.reduce_sum(lengths)) ** 2


def _of_records(x: object, kept: tf.Tensor) -> object:
    """A number of each position, (T, B) or (T, B, n), with zeros for the records that are not kept (B)."""
    if not isinstance(x, tf.Tensor) or not x.dtype.is_floating:
        return x
    return tf.cond(
        tf.reduce_all(kept),
        lambda: x,
        lambda: tf.where(kept[:, tf.newaxis] if x.shape.rank == 3 else kept, x, tf.zeros_like(x)),
    )


def _same(numbers: tf.Tensor) -> tf.Tensor:
    """Which positions of a record have the same number: (T, B) -> (B, T, T)."""
    numbers = tf.transpose(numbers)
    return numbers[:, :, tf.newaxis] == numbers[:, tf.newaxis]


def width(x: tf.Tensor) -> int:
    """The last dimension, which is always known."""
    size = x.shape[-1]
    assert size is not None
    return size


Product = Layer | Slotted | Table
