"""What must be so on a GPU: `make test-gpu` on a machine with one. Without it, the same on the CPU tries the tests.

RUNNER_TEST_DEVICE=GPU makes a machine on which TensorFlow sees no GPU fail, where it would compute on the CPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import keras
import numpy as np
import pytest
import tensorflow as tf

from runner.data.batches import Batch
from runner.model.network import Network
from runner.privacy.accountant import Mechanism
from runner.privacy.clipping import clipped_sum
from runner.privacy.grid import grid_of
from runner.privacy.noise import RunKey, draw_noise
from runner.train.step import TrainingStep

DEVICE = os.environ.get("RUNNER_TEST_DEVICE", "CPU")
V, WIDTH, T, B = 300, 128, 48, 16
CLIP = 0.01
# With TF32 a product's factors have 10 bits after the point: 2^-11 each.
TOLERANCE = {False: 1e-4, True: 5e-3}


@pytest.fixture(params=[False, True], ids=["float32", "TF32"])
def tf32(request: pytest.FixtureRequest) -> Iterator[bool]:
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(request.param)
    yield request.param
    tf.config.experimental.enable_tensor_float_32_execution(before)


@pytest.fixture
def exact() -> Iterator[None]:
    """As `set_up_devices` does for private steps."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    yield
    tf.config.experimental.enable_tensor_float_32_execution(before)


def network(use_kernels: bool, dropout_rate: float = 0.0, seed: int = 0) -> Network:
    return Network(
        vocab_size=V,
        embedding_dim=WIDTH,
        rnn_units=WIDTH,
        layers=2,
        dropout_rate=dropout_rate,
        seed=seed,
        use_kernels=use_kernels,
    )


def batch(seed: int = 0, rows: int = B) -> Batch:
    random = np.random.default_rng(seed)
    lengths = random.integers(1, T + 1, rows)
    return Batch(
        inputs=random.integers(0, V, (rows, T)).astype(np.int32),
        targets=random.integers(0, V, (rows, T)).astype(np.int32),
        weights=(np.arange(T) < lengths[:, None]).astype(np.float32),
        dropout_keys=random.integers(0, 2**32, (rows, T), dtype=np.uint32),
    )


def loss_and_gradients(made: Network, own: Batch) -> list[np.ndarray]:
    with tf.GradientTape() as tape:
        loss, _ = made.loss_sums(*(tf.constant(each) for each in (own.inputs, own.targets, own.weights)))
    found = tape.gradient(loss, [variable.value for variable in made.trainable_variables])
    return [np.asarray(loss), *(np.asarray(tf.convert_to_tensor(each)) for each in found)]


def largest_error(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(found, expected, strict=True))


def test_tensorflow_sees_the_device() -> None:
    assert tf.config.list_logical_devices(DEVICE), f"TensorFlow sees no {DEVICE}"
    assert f"{DEVICE}:0" in tf.matmul(tf.ones((4, 4)), tf.ones((4, 4))).device


@pytest.mark.parametrize("use_kernels", [True, False], ids=["kernels", "keras"])
def test_loss_and_gradients_are_those_of_the_cpu(tf32: bool, use_kernels: bool) -> None:
    found = loss_and_gradients(network(use_kernels), batch())
    with tf.device("CPU:0"):
        expected = loss_and_gradients(network(True), batch())
    assert largest_error(found, expected) < TOLERANCE[tf32]


@pytest.mark.usefixtures("exact")
def test_no_record_adds_more_than_the_clip() -> None:
    """In float64, of records of any length: the promise that noise is made for."""
    made, worst = network(True), 0.0
    for seed in range(8):
        own = batch(seed, rows=1)
        arrays = (tf.constant(each) for each in (own.inputs, own.targets, own.weights))
        gradients = clipped_sum(made, *arrays, None, clip=CLIP, scale=1 / T).gradients
        squares = sum(float(np.sum(np.asarray(tf.convert_to_tensor(each), np.float64) ** 2)) for each in gradients)
        worst = max(worst, squares**0.5 / CLIP)
    assert 0.999 < worst <= 1 + 1e-6


@pytest.mark.usefixtures("exact")
def test_the_clipped_sum_is_that_of_single_gradients_on_the_cpu() -> None:
    own = batch()
    arrays = [tf.constant(each) for each in (own.inputs, own.targets, own.weights)]
    found = clipped_sum(network(True), *arrays, None, clip=CLIP, scale=1 / T).gradients
    with tf.device("CPU:0"):
        made = network(True)
        variables = [variable.value for variable in made.trainable_variables]
        expected = [np.zeros(variable.shape) for variable in variables]
        for row in range(B):
            with tf.GradientTape() as tape:
                loss, _ = made.loss_sums(*(each[row : row + 1] for each in arrays))
                loss /= T
            single = [np.asarray(tf.convert_to_tensor(g), np.float64) for g in tape.gradient(loss, variables)]
            factor = min(1.0, CLIP / np.sqrt(sum(np.sum(g**2) for g in single)))
            expected = [total + factor * g for total, g in zip(expected, single, strict=True)]
    assert largest_error([np.asarray(tf.convert_to_tensor(each)) for each in found], expected) < 1e-4


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
def test_steps_that_are_taken_again_end_with_the_same_bits(private: bool) -> None:
    """What a resume relies on, and a private run's promise that a step that is repeated releases nothing new."""
    tf.config.experimental.enable_op_determinism()
    try:
        ends = [steps_from_the_start(private) for _ in range(2)]
    finally:
        from tensorflow.python.framework import config  # There is no public way back.

        config.disable_op_determinism()
    assert ends[0] == ends[1]


def steps_from_the_start(private: bool) -> bytes:
    """The weights after five steps."""
    keras.utils.set_random_seed(0)
    made = network(use_kernels=private or DEVICE == "CPU", dropout_rate=0.2)
    optimizer = keras.optimizers.Adam(0.01)
    optimizer.build(made.trainable_variables)
    mechanism = Mechanism(examples=1000, batch_size=B, noise_multiplier=1.0) if private else None
    step = TrainingStep(made, optimizer, tf.distribute.get_strategy(), mechanism=mechanism, seq_length=T)
    count = made.count_params()
    key = RunKey("0" * 64).for_noise(0, "test")
    for number in range(5):
        noise = None
        if mechanism is not None:
            noise = draw_noise(key, number, grid_of(mechanism, count).sigma, count)
        own = batch(number)
        step.train([own], int(own.weights.sum()), noise=noise)
    return b"".join(weight.tobytes() for weight in made.weights_dict().values())
