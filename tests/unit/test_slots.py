"""A table's network chooses among the tokens of one slot: in its loss, its gradients and a private step's sum."""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from runner.model.network import Network
from tests.unit.test_clipping import (
    Records,
    assert_same_sum,
    compiled,
    flat,
    float64,
    make_network,
    reference_gradients,
    reference_sum,
)

__all__ = ["float64"]

SLOTS = (1, 4, 2, 1, 9)
OF_TOKENS = np.repeat(np.arange(len(SLOTS)), SLOTS)
VOCAB = sum(SLOTS)
LAST = [*range(VOCAB - SLOTS[-1], VOCAB)]


def draw_rows(rows: int = 7, text: int = 3, seed: int = 3) -> Records:
    """Records of a table: a token of each slot, of the last up to `text`, then the end; the last record is empty."""
    draw = np.random.default_rng(seed)
    first = [draw.integers(1, 5, rows), draw.integers(5, 7, rows), np.full(rows, 7)]
    tokens = np.zeros((rows, 5 + text), np.int32)
    tokens[:, 1:4] = np.stack(first, axis=1)
    lengths = draw.integers(0, text + 1, rows)
    lengths[0] = text
    for row, length in enumerate(lengths):
        tokens[row, 4 : 4 + length] = draw.choice(LAST, length)
    weights = (np.arange(4 + text) < 4 + lengths[:, None]).astype(keras.config.floatx())
    weights[-1] = 0
    keys = draw.integers(0, 2**32, weights.shape, np.uint32)
    return Records(np.where(weights > 0, tokens[:, :-1], 0).astype(np.int32), tokens[:, 1:], weights, keys)


def table_network(layers: int = 1, dropout_rate: float = 0.0, *, any_order: bool = False, **sizes: int) -> Network:
    return make_network(layers, dropout_rate, vocab_size=VOCAB, slots=SLOTS, any_order=any_order, **sizes)


def plain_gradients(network: Network, records: Records) -> tuple[list[float], NDArray[Any]]:
    arguments = [tf.constant(a) for a in (records.ids, records.targets, records.weights, records.keys)]
    with tf.GradientTape() as tape:
        loss, right = network.loss_sums(*arguments)
    gradients = tape.gradient(loss, network.trainable_variables)
    return [float(loss), float(right)], flat([tf.convert_to_tensor(gradient) for gradient in gradients])


@pytest.mark.parametrize(("layers", "dropout_rate", "any_order"), [(1, 0.0, False), (2, 0.4, True)])
@pytest.mark.usefixtures("float64")
def test_gradients_and_clipped_sums_are_those_of_keras_with_masked_logits(
    layers: int, dropout_rate: float, any_order: bool
) -> None:
    network, records = table_network(layers, dropout_rate, any_order=any_order), draw_rows()
    expected = reference_gradients(network, records, scale=1.0).sum(axis=0)
    _, found = plain_gradients(network, records)
    assert np.abs(found - expected).max() < 1e-10 * np.abs(expected).max()
    assert_same_sum(network, records, 1e-10)


@pytest.mark.parametrize("text", [1, 12])
@pytest.mark.parametrize("units", [1, 6, 24])
@pytest.mark.usefixtures("float64")
def test_norms_are_exact_where_a_record_takes_a_slot_often_and_where_it_takes_each_once(text: int, units: int) -> None:
    assert_same_sum(table_network(any_order=True, rnn_units=units), draw_rows(text=text), 1e-10)


def test_clipped_sums_hold_in_float32() -> None:
    assert_same_sum(table_network(2, 0.4, any_order=True), draw_rows(), 1e-5)


def test_other_slots_have_no_part_in_loss_and_gradient() -> None:
    """Even where their logits are infinite, or no number at all."""
    network, records = table_network(), draw_rows(text=0)  # no token of the last slot
    sums, expected = plain_gradients(network, records)
    run = compiled(network, 0.1)
    clipped = run(records)
    for value in (1e30, np.inf, np.nan):
        bias = np.array(network.dense.bias)
        bias[LAST] = value
        network.dense.bias.assign(bias)
        found_sums, found = plain_gradients(network, records)
        assert found_sums == sums
        assert found.tolist() == expected.tolist()
        assert run(records).norms.numpy().tolist() == clipped.norms.numpy().tolist()
    of_bias = expected[-VOCAB:]
    assert not of_bias[LAST].any()
    assert of_bias[1:7].all()
    assert not of_bias[[0, 7]].any(), "in a slot of one token there is nothing to learn"


def test_a_network_with_one_slot_has_the_loss_of_one_without() -> None:
    records = draw_rows()
    one, none = (make_network(2, 0.4, vocab_size=VOCAB, slots=slots) for slots in ((VOCAB,), None))
    (losses, found), (expected_losses, expected) = plain_gradients(one, records), plain_gradients(none, records)
    assert losses == pytest.approx(expected_losses, rel=1e-6)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_right_predictions_are_the_largest_of_their_slot() -> None:
    network, records = table_network(), draw_rows()
    logits = np.asarray(network(records.ids))
    inside = OF_TOKENS[records.targets][..., None] == OF_TOKENS
    right = np.where(inside, logits, -np.inf).argmax(axis=-1) == records.targets
    assert plain_gradients(network, records)[0][1] == (right * records.weights).sum()


@pytest.mark.usefixtures("float64")
def test_microbatches_of_table_rows_add_up_and_empty_records_add_nothing() -> None:
    records, run = draw_rows(rows=6), compiled(table_network(2, 0.4, any_order=True), clip=0.1)
    whole = flat(run(records).gradients)
    parts = [flat(run(records.take(slice(start, start + 2))).gradients) for start in (0, 2, 4)]
    assert np.abs(sum(parts) - whole).max() < 1e-12
    assert not flat(run(records.take(slice(5, 6))).gradients).any()
    assert np.abs(flat(run(records.take(slice(0, 5))).gradients) - whole).max() < 1e-12


# Sensitivity, by records that were made for it


def opposing_records(lefts: list[int], text: int) -> Records:
    """Each holds the last slot's first token so often, and its second for the rest of `text` positions."""
    rows = [[LAST[0]] * left + [LAST[1]] * (text - left) for left in lefts]
    targets = np.array(rows, np.int32)
    weights = np.ones(targets.shape, np.float32)
    return Records(np.zeros_like(targets), targets, weights, np.zeros(targets.shape, np.uint32))


@pytest.mark.parametrize("clip", [1e-3, 0.1, 0.3])
@pytest.mark.parametrize("lefts", [[9, 0], [9, 9, 9], [9, 5, 4, 0]])
def test_emptying_a_row_moves_the_sum_by_at_most_the_clip(lefts: list[int], clip: float) -> None:
    """Of the network only the dense bias is left, so that equal tokens add up and opposite ones cancel."""
    network = table_network()
    for variable in network.trainable_variables:
        variable.assign(np.zeros(variable.shape))
    network.dense.bias.assign(np.where(np.isin(np.arange(VOCAB), LAST[:2]), 0, -50))
    run, records = compiled(network, clip), opposing_records(lefts, 9)
    whole = flat(run(records).gradients)
    moves = [np.linalg.norm(whole - flat(run(records.emptied(row)).gradients)) for row in range(len(lefts))]
    assert max(moves) <= clip * (1 + 1e-5)
    longest = max(abs(2 * left - 9) for left in lefts) * 0.5 * 2**0.5 / 9
    assert max(moves) == pytest.approx(min(clip, longest), rel=1e-4), "the bound is reached: the records are hard"


def test_a_row_that_is_not_finite_adds_nothing() -> None:
    network, records = table_network(any_order=True), draw_rows()
    weights = records.weights.copy()
    weights[3, 0] = np.inf
    run = compiled(network, 0.1)
    found = run(Records(records.ids, records.targets, weights, records.keys))
    assert not np.isfinite(found.norms[3])
    expected = run(records.emptied(3))
    assert flat(found.gradients).tolist() == flat(expected.gradients).tolist()


def test_the_clipped_sum_is_that_of_the_rows_own_gradients_at_every_clip() -> None:
    network, records = table_network(any_order=True), draw_rows(rows=12)
    gradients = reference_gradients(network, records)
    for clip in (1e-4, 0.05, 1e3):
        expected = reference_sum(gradients, clip)
        found = flat(compiled(network, clip)(records).gradients)
        assert np.abs(found - expected).max() < 2e-5 * np.abs(expected).max()


# The network itself


@pytest.mark.parametrize("looks_up", [False, True])
def test_a_network_reads_the_next_slot_step_by_step_as_in_the_whole_sequence(looks_up: bool) -> None:
    network, records = table_network(2, any_order=True), draw_rows()
    tables = (network.token_inputs(), network.slot_inputs()) if looks_up else (None, None)
    state, steps = network.initial_state(len(records.ids)), []
    for ids, targets in zip(records.ids.T, records.targets.T, strict=True):
        slots = tf.constant(OF_TOKENS[targets], tf.int32)
        logits, state = network.step(tf.constant(ids), state, tables[0], slots, tables[1])
        steps.append(logits)
    whole = network.logits(records.ids, None, records.targets)
    assert np.allclose(tf.concat(steps, axis=0), whole, rtol=1e-4, atol=1e-5)


def test_the_next_slot_makes_a_difference_and_is_read_from_what_follows_when_nothing_else_is_said() -> None:
    network, records = table_network(any_order=True), draw_rows(text=0).take(slice(0, 6))
    told = network.logits(records.ids, None, records.targets)
    assert np.allclose(tf.reshape(tf.transpose(network(records.ids), (1, 0, 2)), told.shape), told, atol=1e-5)
    other = network.logits(records.ids, None, np.zeros_like(records.targets))
    assert np.abs(other - told).max() > 0.1


@pytest.mark.parametrize("any_order", [False, True])
def test_config_and_weights_of_a_table_network_come_back(any_order: bool) -> None:
    network = table_network(any_order=any_order)
    copy = Network.from_config_dict(json.loads(json.dumps(network.config())))
    copy.load_weights_dict(network.weights_dict())
    records = draw_rows()
    assert np.array_equal(copy(records.ids), network(records.ids))
    assert ("next_slot" in network.weights_dict()) == any_order


def test_the_config_of_a_text_network_has_nothing_of_tables() -> None:
    assert not {"slots", "any_order"} & make_network().config().keys()


@pytest.mark.parametrize(("slots", "any_order"), [((1, 5), False), (None, True)])
def test_slots_that_do_not_fit_are_refused(slots: tuple[int, ...] | None, any_order: bool) -> None:
    with pytest.raises(ValueError, match="slots"):
        make_network(vocab_size=VOCAB, slots=slots, any_order=any_order)


def test_initial_weights_are_those_of_a_network_without_slots() -> None:
    sizes: dict[str, Any] = {"vocab_size": VOCAB, "embedding_dim": 3, "rnn_units": 4, "layers": 2, "dropout_rate": 0.0}
    without = Network(**sizes).weights_dict()
    for options in ({}, {"any_order": True}):
        weights = Network(**sizes, slots=SLOTS, **options).weights_dict()
        assert all(np.array_equal(weights[name], value) for name, value in without.items())
