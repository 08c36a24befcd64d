"""The promises that hold for tables in ways of their own: slots in the clipped sum, and the order of fields."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from runner.data.batches import PoissonPlan
from runner.data.examples import Examples
from runner.train.feed import Feed
from tests.unit.test_clipping import Records, compiled, flat
from tests.unit.test_field_order import FIELDS, ROWS
from tests.unit.test_slots import LAST, VOCAB, draw_rows, table_network


def moves_of(network: Any, records: Records, clip: float) -> list[float]:
    """By how much the clipped sum changes when each of the records is emptied."""
    run = compiled(network, clip)
    whole = flat(run(records).gradients)
    return [float(np.linalg.norm(whole - flat(run(records.emptied(row)).gradients))) for row in range(len(records.ids))]


# 4. The sum's sensitivity is at most C.


def test_04_emptying_a_row_whose_tokens_share_a_slot_moves_the_sum_by_at_most_the_clip() -> None:
    """Only the dense bias is left, so that the positions of a slot add up: the norm is far from that of each alone."""
    network = table_network()
    for variable in network.trainable_variables:
        variable.assign(np.zeros(variable.shape))
    network.dense.bias.assign(np.where(np.isin(np.arange(VOCAB), LAST[:2]), 0, -50))
    targets = np.array([[LAST[0]] * 9, [LAST[1]] * 9, [LAST[0]] * 5 + [LAST[1]] * 4], np.int32)
    weights, keys = np.ones(targets.shape, np.float32), np.zeros(targets.shape, np.uint32)
    moves = moves_of(network, Records(np.zeros_like(targets), targets, weights, keys), clip=0.3)
    assert max(moves) <= 0.3 * (1 + 1e-5)
    assert max(moves) == pytest.approx(0.3, rel=1e-4), "the rows are hard enough to reach it"


def test_04_every_weight_of_a_table_s_network_is_in_the_norm() -> None:
    """The clip is far below every norm, so that each row is worth it exactly, whatever its fields' order."""
    records = draw_rows(rows=6).take(slice(0, 5))
    for move in moves_of(table_network(any_order=True), records, clip=1e-3):
        assert move == pytest.approx(1e-3, rel=1e-3)


# 3. Emptying a record changes only its own example.


def test_03_an_order_of_fields_depends_on_no_record() -> None:
    plan = PoissonPlan(len(ROWS), 20, 3, validation_split=True, key=(1, 2))

    def batches(rows: list[Any]) -> list[Any]:
        examples = SimpleNamespace(
            rows=lambda positions: [rows[position] for position in positions],
            lengths=np.array([row.size - 1 for row in rows], np.int32),
            tokens=SimpleNamespace(seq_length=8),
        )
        feed = Feed(cast(Examples, examples), plan, range(1), 1, fields=FIELDS)
        return [share.batches[0] for share in feed.training(0, 0)]

    emptied = int(plan.training_positions(0, 0)[0])
    neighbour = [np.zeros(2, np.int32) if number == emptied else row for number, row in enumerate(ROWS)]
    for step, (one, other) in enumerate(zip(batches(ROWS), batches(neighbour), strict=True)):
        others = plan.training_positions(0, step) != emptied
        width = min(one.targets.shape[1], other.targets.shape[1])
        assert np.array_equal(one.targets[others, :width], other.targets[others, :width])
        assert not other.weights[~others].any()
