"""The LSTM layer on the CPU: one GEMM for all inputs, then a loop over time with as little in it as possible.

Everything is time-major: T steps, B rows, d inputs, H units. Weights and gate order are Keras's: `kernel` (d,
4H), `recurrent` (H, 4H) and `bias` (4H), with the gates i, f, c, o side by side. A step computes

    [z_i z_f z_c z_o] = x_t kernel + bias + h_{t-1} recurrent
    i, f, o = sigmoid(z_i, z_f, z_o)      g = tanh(z_c)
    c_t = f c_{t-1} + i g                 h_t = o tanh(c_t)

`forward` and `backward` are the two halves of the layer. `backward` returns the gradients of the
pre-activations, `delta`, from which every weight gradient is one GEMM (`lstm` does that). A private step
takes the halves directly, because the norm of one record's gradient also follows from `delta`.

Why it is fast: x_t kernel leaves the loop. The recurrent product is cut by gate into four, so that each core
runs whole products where in one large product the cores would wait for each other. What `backward` needs
stays in tensor lists, which hold references where stacking would copy.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf


class Cache(NamedTuple):
    """What `backward` needs of a `forward`."""

    saved: list[tf.TensorArray]
    """i, f, g, o, c_{t-1} and tanh(c_t), each with one (B, H) entry per step."""
    recurrent: tf.Tensor


def forward(x: tf.Tensor, kernel: tf.Tensor, recurrent: tf.Tensor, bias: tf.Tensor) -> tuple[tf.Tensor, Cache]:
    """Run the layer from a zero state.

    x (T, B, d), kernel (d, 4H), recurrent (H, 4H), bias (4H); T and B may be unknown while tracing.
    Returns h (T, B, H) and the cache for `backward`.
    """
    units = recurrent.shape[0]
    steps, rows = tf.unstack(tf.shape(x)[:2])
    flat = flatten_time(x)
    inputs = [  # x kernel + bias, per gate: 4 of (T, B, H)
        tf.reshape(tf.matmul(flat, k) + b, (steps, rows, units))
        for k, b in zip(tf.split(kernel, 4, axis=1), tf.split(bias, 4), strict=True)
    ]
    recurrents = tf.split(recurrent, 4, axis=1)

    def tensor_list() -> tf.TensorArray:
        return tf.TensorArray(x.dtype, steps, element_shape=(None, units))

    def step(t, h, c, outputs, saved):
        z_i, z_f, z_c, z_o = (z[t] + tf.matmul(h, r) for z, r in zip(inputs, recurrents, strict=True))
        i, f, o = tf.sigmoid(z_i), tf.sigmoid(z_f), tf.sigmoid(z_o)
        g = tf.tanh(z_c)
        c_next = f * c + i * g
        c_tanh = tf.tanh(c_next)
        h = o * c_tanh
        saved = [a.write(t, value) for a, value in zip(saved, (i, f, g, o, c, c_tanh), strict=True)]
        return t + 1, h, c_next, outputs.write(t, h), saved

    zero = tf.zeros((rows, units), x.dtype)
    *_, outputs, saved = tf.while_loop(
        lambda t, *_: t < steps,
        step,
        (0, zero, zero, tensor_list(), [tensor_list() for _ in range(6)]),
        maximum_iterations=steps,
    )
    return outputs.stack(), Cache(saved, recurrent)


def backward(cache: Cache, dh: tf.Tensor) -> tf.Tensor:
    """Gradients of the pre-activations z, from the gradients of the outputs.

    dh (T, B, H): dL/dh_t through everything but the layer's own recurrence.
    Returns delta (T, B, 4H): dL/dz_t, gates in the order i, f, c, o.

        dh_t += delta_{t+1} recurrent^T
        dc_t  = dh_t o (1 - tanh(c_t)^2) + dc_{t+1} f_{t+1}
        delta_t = [dc_t g i(1-i), dc_t c_{t-1} f(1-f), dc_t i (1-g^2), dh_t tanh(c_t) o(1-o)]
    """
    units, all_gates = cache.recurrent.shape
    steps, rows = tf.unstack(tf.shape(dh)[:2])
    recurrents = tf.split(tf.transpose(cache.recurrent), 4)  # transposed once: 4 of (H, H), one per gate

    def step(t, dh_next, dc, deltas):
        i, f, g, o, c_before, c_tanh = (a.read(t) for a in cache.saved)
        dh_t = dh[t] + dh_next
        dc = dc + _tanh_grad(c_tanh, dh_t * o)
        delta = [
            _sigmoid_grad(i, dc * g),
            _sigmoid_grad(f, dc * c_before),
            _tanh_grad(g, dc * i),
            _sigmoid_grad(o, dh_t * c_tanh),
        ]
        dh_next = tf.add_n([tf.matmul(d, r) for d, r in zip(delta, recurrents, strict=True)])
        return t - 1, dh_next, dc * f, deltas.write(t, tf.concat(delta, axis=1))

    zero = tf.zeros((rows, units), dh.dtype)
    deltas = tf.TensorArray(dh.dtype, steps, element_shape=(None, all_gates))
    *_, deltas = tf.while_loop(lambda t, *_: t >= 0, step, (steps - 1, zero, zero, deltas), maximum_iterations=steps)
    return deltas.stack()


@tf.custom_gradient
def lstm(x: tf.Tensor, kernel: tf.Tensor, recurrent: tf.Tensor, bias: tf.Tensor) -> Any:
    """The layer as a differentiable operation: h (T, B, H); arguments as for `forward`."""
    h, cache = forward(x, kernel, recurrent, bias)

    def gradient(dh: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        delta = flatten_time(backward(cache, dh))  # (T*B, 4H)
        dx = tf.reshape(tf.matmul(delta, kernel, transpose_b=True), tf.shape(x))
        dkernel = tf.matmul(flatten_time(x), delta, transpose_a=True)
        drecurrent = tf.matmul(flatten_time(shift(h)), delta, transpose_a=True)
        return dx, dkernel, drecurrent, tf.reduce_sum(delta, axis=0)

    return h, gradient


def cell(inputs: tf.Tensor, h: tf.Tensor, c: tf.Tensor, recurrent: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """One step: inputs x kernel + bias (B, 4H), state h and c (B, H). Returns the next h and c."""
    i, f, z_c, o = tf.split(inputs + tf.matmul(h, recurrent), 4, axis=1)
    c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(z_c)
    return tf.sigmoid(o) * tf.tanh(c), c


@tf.custom_gradient
def embed(table: tf.Tensor, ids: tf.Tensor) -> Any:
    """Rows of table (V, d) for ids of any shape; the gradient is dense and adds rows in a fixed order."""

    def gradient(drows: tf.Tensor) -> tuple[tf.Tensor, None]:
        drows = tf.reshape(drows, (-1, table.shape[1]))
        return tf.math.unsorted_segment_sum(drows, tf.reshape(ids, [-1]), table.shape[0]), None

    return tf.gather(table, ids), gradient


def shift(h: tf.Tensor) -> tf.Tensor:
    """h_{t-1} for every t, with zeros before the first step: (T, B, H) -> (T, B, H)."""
    return tf.concat([tf.zeros_like(h[:1]), h[:-1]], axis=0)


def flatten_time(x: tf.Tensor) -> tf.Tensor:
    """(T, B, n) -> (T*B, n), without a copy."""
    return tf.reshape(x, (-1, x.shape[-1]))


def _sigmoid_grad(y: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
    """dy y (1 - y), for y = sigmoid(z), in one operation."""
    return tf.raw_ops.SigmoidGrad(y=y, dy=dy)


def _tanh_grad(y: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
    """dy (1 - y^2), for y = tanh(z), in one operation."""
    return tf.raw_ops.TanhGrad(y=y, dy=dy)
