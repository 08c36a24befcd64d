"""The CPU kernels compute what Keras's LSTM layer computes, for every shape with one trace."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from runner.model import kernels

SHAPES = [(7, 3, 5, 4), (1, 1, 3, 2), (1, 4, 6, 5), (9, 1, 4, 7), (12, 6, 16, 33)]
"""(T, B, d, H)"""
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


def relative_error(found, expected) -> float:
    found, expected = np.asarray(found), np.asarray(expected)
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-30))


def random_layer(shape: tuple[int, int, int, int], dtype: str) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
    """Inputs (T, B, d), the three weights, and output gradients (T, B, H)."""
    steps, rows, width, units = shape
    random = np.random.default_rng(sum(shape))

    def normal(*sizes: int) -> tf.Tensor:
        return tf.constant(random.normal(size=sizes), dtype)

    kernel, recurrent = normal(width, 4 * units) / width**0.5, normal(units, 4 * units) / units**0.5
    return normal(steps, rows, width), [kernel, recurrent, normal(4 * units)], normal(steps, rows, units)


def keras_outputs_and_gradients(x, weights, dh):
    layer = keras.layers.LSTM(weights[1].shape[0], return_sequences=True, dtype=x.dtype.name)
    layer.build((None, None, x.shape[-1]))
    layer.set_weights([w.numpy() for w in weights])
    with tf.GradientTape() as tape:
        tape.watch(x)
        h = tf.transpose(layer(tf.transpose(x, (1, 0, 2))), (1, 0, 2))
    return [h, *tape.gradient(h, [x, *[v.value for v in layer.trainable_variables]], output_gradients=dh)]


def outputs_and_gradients(x, weights, dh):
    with tf.GradientTape() as tape:
        tape.watch([x, *weights])
        h = kernels.lstm(x, *weights)
    return [h, *tape.gradient(h, [x, *weights], output_gradients=dh)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_gradients_equal_keras_lstm(shape, dtype):
    arguments = random_layer(shape, dtype)
    names = ["h", "dx", "dkernel", "drecurrent", "dbias"]
    found, expected = tf.function(outputs_and_gradients)(*arguments), keras_outputs_and_gradients(*arguments)
    errors = {name: relative_error(*pair) for name, *pair in zip(names, found, expected, strict=True)}
    assert max(errors.values()) < TOLERANCE[dtype], errors


def test_one_trace_serves_every_batch_shape():
    _, weights, _ = random_layer((1, 1, 5, 4), "float32")
    traces = []

    @tf.function(input_signature=[tf.TensorSpec((None, None, 5))])
    def gradient(x):
        traces.append(x.shape)
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(kernels.lstm(x, *weights) ** 2)
        return tape.gradient(loss, x)

    for shape in [(1, 1, 5), (8, 2, 5), (3, 9, 5)]:
        assert gradient(tf.ones(shape)).shape == shape
    assert len(traces) == 1


def test_delta_is_the_gradient_of_each_pre_activation():
    """With the identity as input kernel, x is added to the pre-activations, so dL/dx is delta."""
    x, (_, recurrent, bias), dh = random_layer((5, 3, 16, 4), "float64")
    kernel = tf.eye(16, dtype=tf.float64)
    _, cache = kernels.forward(x, kernel, recurrent, bias)
    _, dx, *_ = keras_outputs_and_gradients(x, [kernel, recurrent, bias], dh)
    assert relative_error(kernels.backward(cache, dh), dx) < 1e-10


def test_cell_repeated_equals_the_layer():
    x, weights, _ = random_layer((5, 3, 4, 6), "float64")
    kernel, recurrent, bias = weights
    h = c = tf.zeros((3, 6), tf.float64)
    outputs = []
    for x_t in x:
        h, c = kernels.cell(x_t @ kernel + bias, h, c, recurrent)
        outputs.append(h)
    assert relative_error(tf.stack(outputs), kernels.lstm(x, *weights)) < 1e-14


def test_embedding_gradient_adds_repeated_tokens():
    table = tf.constant(np.random.default_rng(0).normal(size=(5, 3)))
    ids = tf.constant([[1, 4, 1], [1, 0, 4]])
    rows = tf.constant(np.random.default_rng(1).normal(size=(2, 3, 3)))
    with tf.GradientTape() as tape:
        tape.watch(table)
        embedded = kernels.embed(table, ids)
    expected = np.zeros(table.shape)
    np.add.at(expected, ids.numpy(), rows.numpy())
    assert relative_error(embedded, table.numpy()[ids.numpy()]) == 0
    assert relative_error(tape.gradient(embedded, table, output_gradients=rows), expected) < 1e-15
