"""The clipped sum is the sum of every record's own gradient, cut to the clip.

The reference builds its own network from Keras's layers, and takes the gradient of one record at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from runner.model.dropout import dropout_mask
from runner.model.network import Network
from runner.privacy.clipping import ClippedSum, clipped_sum

SEQ_LENGTH = 9
VOCAB, EMBEDDING, UNITS = 11, 5, 6


@dataclass(frozen=True)
class Records:
    """A batch (B, T): ids and targets of records of different lengths, their weights and dropout keys."""

    ids: NDArray[np.int32]
    targets: NDArray[np.int32]
    weights: NDArray[Any]
    keys: NDArray[np.uint32]

    def take(self, rows: Any) -> Records:
        return Records(self.ids[rows], self.targets[rows], self.weights[rows], self.keys[rows])

    def emptied(self, row: int) -> Records:
        weights = self.weights.copy()
        weights[row] = 0
        return Records(self.ids, self.targets, weights, self.keys)


def draw_records(rows: int = 7, seed: int = 3, steps: int = SEQ_LENGTH, vocab: int = VOCAB) -> Records:
    """Few tokens, so that they repeat; from a record of one position to one without padding."""
    draw = np.random.default_rng(seed)
    tokens = draw.integers(0, vocab, (rows, steps + 1)).astype(np.int32)
    tokens[0] = 2  # one token all along
    lengths = draw.integers(2, steps, rows)
    lengths[:2] = (steps, 1)
    weights = (np.arange(steps) < lengths[:, None]).astype(keras.config.floatx())
    ids = np.where(weights > 0, tokens[:, :-1], 0).astype(np.int32)
    keys = draw.integers(0, 2**32, (rows, steps), np.uint32)
    return Records(ids, tokens[:, 1:], weights, keys)


def make_network(layers: int = 1, dropout_rate: float = 0.0, **sizes: Any) -> Network:
    """A network with weights large enough to matter everywhere, biases included."""
    sizes = {"vocab_size": VOCAB, "embedding_dim": EMBEDDING, "rnn_units": UNITS} | sizes
    network = Network(layers=layers, dropout_rate=dropout_rate, seed=1, **sizes)
    draw = np.random.default_rng(5)
    for variable in network.trainable_variables:
        variable.assign(draw.normal(0, 0.7, variable.shape))
    return network


def compiled(
    network: Network, clip: float, scale: float = 1 / SEQ_LENGTH, records_of_person: int = 1
) -> Callable[[Records], ClippedSum]:
    """The clipped sum as the training step runs it: one trace for batches of any shape."""
    kinds = (tf.int32, tf.int32, tf.as_dtype(keras.config.floatx()), tf.uint32)

    @tf.function(input_signature=[tf.TensorSpec((None, None), kind) for kind in kinds], autograph=False)
    def traced(ids: Any, targets: Any, weights: Any, keys: Any) -> ClippedSum:
        return clipped_sum(
            network, ids, targets, weights, keys, clip=clip, scale=scale, records_of_person=records_of_person
        )

    return lambda records: traced(records.ids, records.targets, records.weights, records.keys)


def flat(gradients: Any) -> NDArray[Any]:
    return np.concatenate([np.asarray(gradient).ravel() for gradient in gradients])


def reference_gradients(network: Network, records: Records, scale: float = 1 / SEQ_LENGTH) -> NDArray[Any]:
    """One row a record: the gradient of its own loss, through Keras's layers and a gradient tape."""
    dtype = keras.config.floatx()
    embedding = keras.layers.Embedding(network.vocab_size, network.embedding_dim)
    lstms = [keras.layers.LSTM(network.rnn_units, return_sequences=True) for _ in network.lstms]
    dense = keras.layers.Dense(network.vocab_size)
    slots = np.repeat(np.arange(len(network.slots or [])), network.slots or [])
    tables = [embedding]
    if network.next_slot is not None:
        tables.append(keras.layers.Embedding(len(network.slots or []), network.embedding_dim))
    widths = [network.embedding_dim] + [network.rnn_units] * len(lstms)
    for table in tables:
        table.build((None, None))
    for lstm, width in zip(lstms, widths, strict=False):
        lstm.build((None, None, width))
    dense.build((None, widths[-1]))
    variables = [v for layer in (*tables, *lstms, dense) for v in layer.trainable_variables]
    for mine, theirs in zip(variables, network.trainable_variables, strict=True):
        assert mine.shape == theirs.shape
        mine.assign(theirs)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)

    def drop(x: Any, keys: Any, layer: int) -> Any:
        if network.dropout_rate == 0:
            return x
        return x * dropout_mask(keys, layer, x.shape[-1], network.dropout_rate, x.dtype).numpy()

    found = []
    for row in range(len(records.ids)):
        length = int(records.weights[row].sum())
        ids, targets, keys = (a[row : row + 1, : max(length, 1)] for a in (records.ids, records.targets, records.keys))
        with tf.GradientTape() as tape:
            x = embedding(ids)
            if len(tables) > 1:
                x += tables[1](slots[targets])
            x = drop(x, tf.constant(keys), 0)
            for index, lstm in enumerate(lstms, start=1):
                x = drop(lstm(x), tf.constant(keys), index)
            logits = dense(x)
            if network.slots is not None:
                logits += np.where(slots == slots[targets][..., None], 0, -1e30)
            losses = tf.cast(loss_of(targets, logits), dtype)
            loss = tf.reduce_sum(losses) * scale * (1 if length else 0)
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        found.append(flat([tf.convert_to_tensor(gradient) for gradient in gradients]))
    return np.stack(found)


def reference_sum(gradients: NDArray[Any], clip: float) -> NDArray[Any]:
    norms = np.linalg.norm(gradients, axis=1)
    return (gradients * np.minimum(1, clip / np.maximum(norms, 1e-30))[:, None]).sum(axis=0)


@pytest.fixture
def float64() -> Iterator[None]:
    for set_type in (keras.config.set_floatx, keras.config.set_dtype_policy):
        set_type("float64")
    yield
    for set_type in (keras.config.set_floatx, keras.config.set_dtype_policy):
        set_type("float32")


def assert_same_sum(network: Network, records: Records, tolerance: float) -> None:
    gradients = reference_gradients(network, records)
    norms = np.linalg.norm(gradients, axis=1)
    clip = float(np.median(norms))
    assert 0 < (norms > clip).sum() < len(norms), "some records are clipped and some are not"
    found = compiled(network, clip)(records)
    expected = reference_sum(gradients, clip)
    assert np.abs(found.norms - norms).max() < tolerance * norms.max()
    assert np.abs(flat(found.gradients) - expected).max() < tolerance * np.abs(expected).max()


@pytest.mark.parametrize("dropout_rate", [0.0, 0.4])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.usefixtures("float64")
def test_the_clipped_sum_is_that_of_single_record_gradients_in_float64(layers: int, dropout_rate: float) -> None:
    assert_same_sum(make_network(layers, dropout_rate), draw_records(), 1e-10)


@pytest.mark.parametrize("layers", [1, 3])
def test_the_clipped_sum_is_that_of_single_record_gradients_in_float32(layers: int) -> None:
    assert_same_sum(make_network(layers, 0.4), draw_records(), 1e-5)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("sizes", "ways"),
    [
        ({"vocab_size": 40, "embedding_dim": 24, "rnn_units": 24}, {"by Gram"}),
        ({"vocab_size": 3, "embedding_dim": 2, "rnn_units": 1}, {"directly"}),
        ({"vocab_size": 3, "embedding_dim": 9, "rnn_units": 10}, {"by Gram", "directly"}),
    ],
)
def test_both_ways_to_a_norm_are_taken_and_agree_with_the_reference(sizes: dict[str, int], ways: set[str]) -> None:
    products = [(sizes["rnn_units"] + 1, sizes["vocab_size"])]
    products += [(sizes["embedding_dim"] + sizes["rnn_units"] + 1, 4 * sizes["rnn_units"])]
    assert {"directly" if m * n <= SEQ_LENGTH * (m + n) else "by Gram" for m, n in products} == ways
    assert_same_sum(make_network(1, 0.3, **sizes), draw_records(vocab=sizes["vocab_size"]), 1e-10)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("steps", [1, 2, 3, 8])
def test_the_norms_of_short_and_of_odd_records_are_exact(steps: int) -> None:
    network, records = make_network(1, 0.3, vocab_size=40, embedding_dim=24, rnn_units=24), draw_records()
    records = Records(*(a[:, :steps] for a in (records.ids, records.targets, records.weights, records.keys)))
    expected = np.linalg.norm(reference_gradients(network, records), axis=1)
    assert np.abs(compiled(network, 1.0)(records).norms - expected).max() < 1e-10 * expected.max()


@pytest.mark.usefixtures("float64")
def test_microbatches_add_up() -> None:
    records, run = draw_records(), compiled(make_network(2, 0.4), clip=0.1)
    whole = flat(run(records).gradients)
    for size in (1, 2, 3):
        parts = [records.take(slice(start, start + size)) for start in range(0, len(records.ids), size)]
        summed = sum(flat(run(part).gradients) for part in parts)
        assert np.abs(summed - whole).max() < 1e-12


def test_loss_and_right_predictions_are_those_of_the_network() -> None:
    network, records = make_network(2, 0.4), draw_records()
    expected = network.loss_sums(records.ids, records.targets, records.weights, records.keys)
    assert np.allclose(compiled(network, 0.1)(records).sums, np.array(expected), rtol=1e-5)


def test_padding_and_emptied_records_add_nothing() -> None:
    records, run = draw_records(), compiled(make_network(2, 0.4), clip=0.1)
    expected = flat(run(records.take([0, 1, 2, 4, 5, 6])).gradients)
    emptied = run(records.emptied(3))
    assert emptied.norms[3] == 0
    assert np.abs(flat(emptied.gradients) - expected).max() < 1e-6
    wider = Records(
        *(np.pad(a, ((0, 0), (0, 4))) for a in (records.ids, records.targets, records.weights, records.keys))
    )
    assert np.abs(flat(run(wider).gradients) - flat(run(records).gradients)).max() < 1e-6
    assert not flat(run(records.take(slice(0, 1)).emptied(0)).gradients).any()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e38])
@pytest.mark.parametrize("where", [0, -2])
def test_a_record_whose_gradient_is_not_finite_adds_nothing_and_leaves_the_others_alone(
    value: float, where: int
) -> None:
    """A token that only record 3 has is poisoned, in the embedding or in what the dense layer makes of it."""
    network = make_network(2)
    records = draw_records(vocab=VOCAB - 1)
    run = compiled(network, clip=0.1)
    others = [0, 1, 2, 4, 5, 6]
    if where == 0:
        records.ids[3, 0] = VOCAB - 1
        table = np.array(network.trainable_variables[0])
        table[VOCAB - 1] = value
        network.trainable_variables[0].assign(table)
        spoiled = run(records)
        assert not np.isfinite(spoiled.norms[3]) or value == 1e38
    else:
        spoiled = run(Records(records.ids, records.targets, poisoned(records.weights, value), records.keys))
        assert not np.isfinite(spoiled.norms[3])
    assert np.isfinite(np.array(spoiled.norms)[others]).all()
    expected = flat(run(records.emptied(3)).gradients)
    if np.isfinite(np.array(spoiled.norms)[3]):  # a huge embedding saturates the gates: finite, and clipped
        assert np.linalg.norm(flat(spoiled.gradients) - expected) <= 0.1 * (1 + 1e-5)
    else:
        assert flat(spoiled.gradients).tolist() == expected.tolist()


def poisoned(weights: NDArray[Any], value: float) -> NDArray[Any]:
    found = weights.copy()
    found[3, 0] = value
    return found


# Sensitivity, by records that were made for it


def bias_only(network: Network, logits: NDArray[Any]) -> None:
    """Only the dense layer's bias is left: a record's gradient is the sum of (softmax - target) over positions."""
    for variable in network.trainable_variables:
        variable.assign(np.zeros(variable.shape))
    network.trainable_variables[-1].assign(logits)


def two_token_records(counts: list[tuple[int, int]]) -> Records:
    """Records of tokens 0 and 1 only: so many of each."""
    rows = [[0] * zeros + [1] * ones for zeros, ones in counts]
    targets = np.array([row + [0] * (SEQ_LENGTH - len(row)) for row in rows], np.int32)
    weights = (np.arange(SEQ_LENGTH) < np.array([len(row) for row in rows])[:, None]).astype("float32")
    return Records(np.zeros_like(targets), targets, weights, np.zeros(targets.shape, np.uint32))


@pytest.mark.parametrize("clip", [1e-3, 0.1, 0.3])
@pytest.mark.parametrize(
    "counts",
    [
        [(9, 0), (0, 4)],  # opposite, one twice as long as the other
        [(9, 0), (0, 9)],  # opposite, and cancelling
        [(9, 0)] * 5,  # all one way
        [(9, 0), (5, 4), (4, 5), (0, 9), (1, 0)],  # and some that cancel in themselves
    ],
)
def test_emptying_a_record_moves_the_sum_by_at_most_the_clip(counts: list[tuple[int, int]], clip: float) -> None:
    network = make_network()
    bias_only(network, np.array([0, 0] + [-50] * (VOCAB - 2)))
    run, records = compiled(network, clip), two_token_records(counts)
    whole = flat(run(records).gradients)
    moves = [np.linalg.norm(whole - flat(run(records.emptied(row)).gradients)) for row in range(len(counts))]
    assert max(moves) <= clip * (1 + 1e-5)
    longest = max(abs(zeros - ones) for zeros, ones in counts) * 0.5 * 2**0.5 / SEQ_LENGTH
    assert max(moves) == pytest.approx(min(clip, longest), rel=1e-4), "the bound is reached: the records are hard"


@pytest.mark.parametrize("share", [1 - 1e-6, 1.0, 1 + 1e-6])
def test_a_record_close_to_the_clip_moves_the_sum_by_at_most_the_clip(share: float) -> None:
    network = make_network()
    bias_only(network, np.array([0, 0] + [-50] * (VOCAB - 2)))
    records = two_token_records([(9, 0)])
    clip = 0.5 * 2**0.5 * share
    moved = np.linalg.norm(flat(compiled(network, clip)(records).gradients))
    assert moved <= clip * (1 + 1e-6)


@pytest.mark.parametrize(("clip", "steepness"), [(1.0, 100), (1e-3, 10)])
def test_a_record_whose_positions_all_but_cancel_moves_the_sum_by_at_most_the_clip(clip: float, steepness: int) -> None:
    """Large gradients of single positions that cancel in the record's own leave a norm that rounding could hide.

    Of the LSTM only the cell gate's input kernel is not zero, so the embedding's gradient is one direction times a
    number that the dense layer's bias tunes: through zero, past a norm far below the positions' own.
    """
    network = make_network(vocab_size=40, embedding_dim=24, rnn_units=24)
    for variable in network.trainable_variables:
        variable.assign(np.zeros(variable.shape))
    _, kernel, _, _, dense, bias = network.trainable_variables
    cell_gate = np.random.default_rng(0).normal(0, steepness, (24, 24))
    kernel.assign(np.concatenate([np.zeros((24, 48)), cell_gate, np.zeros((24, 24))], axis=1))
    dense.assign(steepness * np.array([1, -1] + [0] * 38) * np.ones((24, 1)))
    run, records = compiled(network, clip), two_token_records([(5, 4)])

    def at(logit: float) -> tuple[float, float]:
        """The norm before clipping, and the record's part in the sum."""
        bias.assign(np.array([logit, 0] + [-50] * 38))
        found = run(records)
        return float(found.norms[0]), float(np.linalg.norm(flat(found.gradients)))

    center, moves, norms = 0.0, [], []
    for width in (2, 0.05, 0.005, 5e-4):
        logits = np.linspace(center - width, center + width, 41)
        found = [at(logit) for logit in logits]
        norms += [norm for norm, _ in found]
        moves += [move for _, move in found]
        center = float(logits[np.argmin([norm for norm, _ in found])])
    assert min(norms) < 0.05 * max(norms), "the positions do cancel"
    assert max(moves) <= clip * (1 + 1e-4)
