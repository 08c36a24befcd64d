"""The network is Keras's network: same weights, outputs and gradients, however the batch is cut."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from runner.errors import ConfigError, CorruptError
from runner.model.network import Network
from runner.model.objective import loss_sums

SIZES = {"vocab_size": 23, "embedding_dim": 6, "rnn_units": 9, "layers": 2}
ARGUMENTS = {**SIZES, "dropout_rate": 0.3, "seed": 5}


def relative_error(found, expected) -> float:
    found, expected = np.asarray(found), np.asarray(expected)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def padded_batch(rows: int = 8, steps: int = 11, longest: int = 7) -> list[np.ndarray]:
    """ids, targets, weights and dropout keys, each (rows, steps); no row is longer than `longest`."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, longest + 1, rows)
    lengths[0] = longest
    weights = (np.arange(steps) < lengths[:, None]).astype(np.float32)
    ids, targets = random.integers(0, 23, (2, rows, steps), dtype=np.int32)
    return [ids, targets, weights, random.integers(0, 2**32, (rows, steps), dtype=np.uint32)]


def loss_and_gradients(network: Network, batch: list[np.ndarray]) -> tuple[float, list[np.ndarray]]:
    with tf.GradientTape() as tape:
        loss, _ = network.loss_sums(*map(tf.constant, batch))
    return float(loss), tape.gradient(loss, network.trainable_variables)


def assert_same(found, expected, tolerance: float = 1e-5) -> None:
    assert found[0] == pytest.approx(expected[0], rel=tolerance)
    assert max(map(relative_error, found[1], expected[1])) < tolerance


def plain_keras_model(network: Network) -> keras.Sequential:
    layers = [keras.layers.LSTM(9, return_sequences=True) for _ in range(2)]
    model = keras.Sequential([keras.layers.Embedding(23, 6), *layers, keras.layers.Dense(23)])
    model.build((None, None))
    model.set_weights(list(network.weights_dict().values()))
    return model


def test_weights_load_into_a_plain_keras_model_with_the_same_logits():
    network = Network(**ARGUMENTS)
    ids = padded_batch()[0]
    assert relative_error(network(ids), plain_keras_model(network)(ids)) < 1e-5
    flat = network.logits(tf.constant(ids)).numpy()
    assert relative_error(flat.reshape(11, 8, 23).swapaxes(0, 1), network(ids)) < 1e-6


def test_keras_predict_works_on_the_network():
    network, ids = Network(**ARGUMENTS), padded_batch()[0]
    assert relative_error(network.predict(ids, verbose=0), network(ids)) < 1e-6


def test_gradients_equal_plain_keras_model():
    network = Network(**{**ARGUMENTS, "dropout_rate": 0.0})
    ids, targets, weights, keys = padded_batch()
    model = plain_keras_model(network)
    with tf.GradientTape() as tape:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=model(ids))
        loss = tf.reduce_sum(losses * weights)
    gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, model.trainable_variables)]
    assert_same(loss_and_gradients(network, [ids, targets, weights, keys]), (float(loss), gradients))


def test_kernel_path_and_keras_path_agree_with_dropout():
    batch = padded_batch()
    paths = [Network(**ARGUMENTS, use_kernels=use_kernels) for use_kernels in (True, False)]
    logits = [network.logits(*map(tf.constant, (batch[0], batch[3]))) for network in paths]
    assert relative_error(*logits) < 1e-5
    assert_same(*(loss_and_gradients(network, batch) for network in paths))


def test_trimming_padding_changes_neither_loss_nor_gradient():
    network, batch = Network(**ARGUMENTS), padded_batch(longest=7)
    trimmed = loss_and_gradients(network, [a[:, :7] for a in batch])
    assert_same(trimmed, loss_and_gradients(network, batch), 1e-6)


@pytest.mark.parametrize("parts", [2, 4])
def test_gradients_of_parts_add_up_to_the_whole_with_dropout(parts):
    network, batch = Network(**ARGUMENTS), padded_batch()
    pieces = [loss_and_gradients(network, [a[k::parts] for a in batch]) for k in range(parts)]
    losses, gradients = zip(*pieces, strict=True)
    assert_same(
        (sum(losses), [sum(g) for g in zip(*gradients, strict=True)]),
        loss_and_gradients(network, batch),
        1e-6,
    )


def oracle_sums(logits: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The objective by TensorFlow's own operations."""
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=logits)
    right = tf.cast(tf.argmax(logits, axis=1, output_type=targets.dtype) == targets, weights.dtype)
    return tf.reduce_sum(losses * weights), tf.reduce_sum(right * weights)


def test_dropout_keys_change_the_loss_and_none_means_no_dropout():
    network, (ids, targets, weights, keys) = Network(**ARGUMENTS), padded_batch()
    batches = [(ids, targets, weights, keys), (ids, targets, weights, keys + 1), (ids, targets, weights)]
    losses = {float(network.loss_sums(*map(tf.constant, batch))[0]) for batch in batches}
    assert len(losses) == 3


def test_network_loss_and_gradient_equal_those_of_its_logits():
    network, batch = Network(**ARGUMENTS), padded_batch()
    ids, targets, weights, keys = map(tf.constant, batch)
    with tf.GradientTape() as tape:
        flat = [tf.reshape(tf.transpose(a), [-1]) for a in (targets, weights)]
        loss, right = oracle_sums(network.logits(ids, keys), *flat)
        tripled = 3 * loss
    gradients = tape.gradient(tripled, network.trainable_variables)
    with tf.GradientTape() as tape:
        fused, fused_right = network.loss_sums(ids, targets, weights, keys)
        tripled = 3 * fused
    fused_gradients = tape.gradient(tripled, network.trainable_variables)
    assert_same((float(fused), fused_gradients), (float(loss), gradients))
    assert float(right) == float(fused_right)


def test_accuracy_counts_targets_with_the_largest_logit_and_no_padding():
    logits = tf.constant([[1.0, 3.0, 2.0], [5.0, 0.0, 0.0], [0.0, 0.0, 9.0], [0.0, 9.0, 0.0]])
    targets, weights = tf.constant([1, 2, 2, 1]), tf.constant([1.0, 1.0, 1.0, 0.0])
    loss, right = loss_sums(logits, tf.eye(3), tf.zeros(3), targets, weights)
    losses = [np.log(np.exp(row - row[t]).sum()) for row, t in zip(logits.numpy(), targets.numpy(), strict=True)]
    assert float(right) == 2
    assert float(loss) == pytest.approx(sum(losses[:3]))


def test_large_logits_give_a_finite_loss():
    network = Network(**ARGUMENTS)
    network.dense.kernel.assign(1e4 * network.dense.kernel)
    loss, gradients = loss_and_gradients(network, padded_batch())
    assert np.isfinite(loss)
    assert all(np.isfinite(g).all() for g in gradients)


def test_batch_of_padding_alone_gives_zero_loss_and_gradient():
    ids, targets, weights, keys = padded_batch()
    loss, gradients = loss_and_gradients(Network(**ARGUMENTS), [ids, targets, 0 * weights, keys])
    assert loss == 0
    assert all((np.asarray(g) == 0).all() for g in gradients)


@pytest.mark.parametrize("looks_up", [False, True])
def test_step_by_step_logits_equal_those_of_the_whole_sequence(looks_up):
    network, ids = Network(**ARGUMENTS), padded_batch()[0]
    token_inputs = network.token_inputs() if looks_up else None
    state, logits = network.initial_state(len(ids)), []
    for column in ids.T:
        step_logits, state = network.step(tf.constant(column), state, token_inputs)
        logits.append(step_logits)
    assert relative_error(tf.stack(logits, axis=1), network(ids)) < 1e-5


def test_initial_weights_are_a_pure_function_of_the_seed():
    first, again, other = (Network(**{**ARGUMENTS, "seed": seed}).weights_dict() for seed in (5, 5, 6))
    tf.random.set_seed(99)
    later = Network(**ARGUMENTS).weights_dict()
    assert all((first[name] == again[name]).all() and (first[name] == later[name]).all() for name in first)
    random = [name for name in first if not name.endswith("bias")]
    assert all((first[name] != other[name]).any() for name in random)
    assert (first["lstm_0/recurrent_kernel"] != first["lstm_1/recurrent_kernel"]).any()


def test_rnn_initializer_sets_the_input_kernels_and_only_them():
    default, zeros = Network(**ARGUMENTS), Network(**ARGUMENTS, rnn_initializer="zeros")
    changed = {n for n, w in zeros.weights_dict().items() if (w != default.weights_dict()[n]).any()}
    assert changed == {"lstm_0/kernel", "lstm_1/kernel"}
    assert not zeros.weights_dict()["lstm_0/kernel"].any()


def test_unknown_initializer_is_a_config_error():
    with pytest.raises(ConfigError, match="rnn_initializer"):
        Network(**ARGUMENTS, rnn_initializer="no_such")


def test_config_round_trips_through_json():
    network = Network(**ARGUMENTS, rnn_initializer="he_normal")
    copy = Network.from_config_dict(json.loads(json.dumps(network.config())))
    assert copy.config() == network.config()
    weights = copy.weights_dict()
    assert all((weights[name] == value).all() for name, value in network.weights_dict().items())


def test_saved_weights_load_into_another_network():
    source, target = Network(**ARGUMENTS), Network(**{**ARGUMENTS, "seed": 1})
    target.load_weights_dict(source.weights_dict())
    assert all((target.weights_dict()[name] == value).all() for name, value in source.weights_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("lstm_1/bias"), "lstm_1/bias missing or unknown"),
        (lambda w: w.update(extra=w["embedding"]), "extra missing or unknown"),
        (lambda w: w.update(embedding=w["embedding"][:5]), r"embedding should be float32 \(23, 6\)"),
        (lambda w: w.update(embedding=w["embedding"].astype("float64")), "found float64"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_nothing_is_set(change, message):
    network = Network(**ARGUMENTS)
    before = network.weights_dict()
    weights = {name: value + 1 for name, value in before.items()}
    change(weights)
    with pytest.raises(CorruptError, match=message):
        network.load_weights_dict(weights)
    assert all((network.weights_dict()[name] == value).all() for name, value in before.items())
