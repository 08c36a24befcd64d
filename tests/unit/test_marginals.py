"""Marginals count every training record once, and an emptied record leaves exactly its own cells."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.data.examples import Examples
from runner.data.schema import Slots
from runner.privacy.marginals import Axis, choose_pairs, count_dependence, count_marginals

SLOTS = Slots(sizes=(1, 3, 2, 4), fields=(-1, 0, 1, 1))
ONE, TWO, THREE = (Axis(slot, np.arange(SLOTS.sizes[slot] + 1)) for slot in (1, 2, 3))
GROUPED = Axis(3, np.array([0, 1, 1, 0, 2]))
MARGINALS = {"one": (ONE,), "two": (ONE, THREE), "three": (GROUPED, TWO, ONE)}


def examples_of(records: list[list[int]]) -> Examples:
    """Of records as tokens counted within the slots 1, 2, 3; -1 for none."""
    first = np.cumsum((0, *SLOTS.sizes))
    ids = [
        np.array([0, *(int(first[slot]) + token for slot, token in enumerate(record, 1) if token >= 0), 0])
        for record in records
    ]
    fake = SimpleNamespace(
        tokens=SimpleNamespace(slots=SLOTS), rows=lambda positions: [ids[position] for position in positions]
    )
    return cast(Any, fake)


RECORD = st.tuples(st.integers(-1, 2), st.integers(-1, 1), st.integers(-1, 3)).map(list)


def test_marginals_are_those_of_pandas() -> None:
    generator = np.random.default_rng(0)
    records = np.stack([generator.integers(-1, size, 300) for size in (3, 2, 4)], axis=1)
    positions = generator.permutation(300)[:200]
    found = count_marginals(examples_of(records.tolist()), MARGINALS, positions)
    table = pd.DataFrame(records[positions], columns=[1, 2, 3])
    table = table[(table >= 0).any(axis=1)]
    for name, axes in MARGINALS.items():
        cells = pd.DataFrame({axis.slot: axis.cells[table[axis.slot]] for axis in axes})
        expected = dict(cells.value_counts().items())
        counts = found[name].counts
        assert {tuple(at): int(counts[tuple(at)]) for at in np.argwhere(counts).tolist()} == expected


@settings(max_examples=50)
@given(st.lists(RECORD, min_size=1, max_size=8), st.data())
def test_emptying_a_record_takes_one_from_one_cell_of_each_marginal(
    records: list[list[int]], data: st.DataObject
) -> None:
    emptied = data.draw(st.sampled_from(range(len(records))))
    positions = np.arange(len(records))
    whole = count_marginals(examples_of(records), MARGINALS, positions)
    left = count_marginals(
        examples_of([[-1] * 3 if i == emptied else each for i, each in enumerate(records)]), MARGINALS, positions
    )
    for name in MARGINALS:
        difference = whole[name].counts - left[name].counts
        assert difference[difference != 0].tolist() in ([], [1])


SHARES = st.lists(st.floats(0.01, 1), min_size=3, max_size=3).map(lambda each: np.array(each) / sum(each))


@settings(max_examples=200)
@given(st.lists(st.integers(0, 30), min_size=9, max_size=9), st.integers(0, 8), SHARES, SHARES, st.integers(1, 300))
def test_emptying_a_record_changes_a_pairs_score_by_one_at_most(
    cells: list[int], emptied: int, one: Any, other: Any, records: int
) -> None:
    counted = np.array(cells).reshape(3, 3)
    left = counted.copy()
    left.ravel()[emptied] += 1
    scores = [int(count_dependence(each, one, other, records).counts[0]) for each in (counted, left)]
    assert abs(scores[0] - scores[1]) <= 1


def test_pairs_that_depend_on_each_other_are_chosen() -> None:
    shares = [np.full(2, 0.5)] * 4
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    tables = {pair: np.array([[25, 25], [25, 25]]) for pair in pairs} | {
        (0, 3): np.array([[50, 0], [0, 50]]),
        (1, 2): np.array([[10, 40], [40, 10]]),
    }
    scores = np.concatenate([count_dependence(tables[pair], shares[0], shares[0], 100).counts for pair in pairs])
    assert choose_pairs(scores, shares, pairs, 100, 1.0, 2) == [(0, 3), (1, 2)]


def test_names_of_histograms_differ() -> None:
    from runner.privacy.marginals import distinct

    assert distinct(["a", "a", "a (2)", "b"]) == ["a", "a (2)", "a (2) (2)", "b"]


def test_a_record_without_tokens_is_in_no_cell() -> None:
    counted = count_marginals(examples_of([[-1, -1, -1], [0, 1, 2]]), MARGINALS, np.arange(2))
    assert [each.counts.sum() for each in counted.values()] == [1, 1, 1]
    assert counted["three"].counts[1, 1, 0] == pytest.approx(1)
