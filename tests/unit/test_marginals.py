"""Marginals count every training record once, and an emptied record leaves exactly its own cells."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.data.examples import Examples
from runner.data.schema import Slots
from runner.privacy.marginals import count_marginals

SLOTS = Slots(sizes=(1, 3, 2, 4), fields=(-1, 0, 1, 1))
GROUPS = {"one": (1,), "two": (1, 3), "three": (3, 2, 1)}


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


@settings(max_examples=50)
@given(st.lists(RECORD, min_size=1, max_size=12), st.data())
def test_marginals_count_records_by_their_tokens(records: list[list[int]], data: st.DataObject) -> None:
    positions = np.array(data.draw(st.lists(st.sampled_from(range(len(records))), unique=True, min_size=1)))
    found = count_marginals(examples_of(records), GROUPS, positions)
    for name, group in GROUPS.items():
        expected = np.zeros([SLOTS.sizes[slot] + 1 for slot in group], np.int64)
        for position in positions.tolist():
            tokens = [records[position][slot - 1] for slot in group]
            if any(token >= 0 for token in tokens):
                expected[tuple(tokens)] += 1  # -1 is the last cell
        assert found[name].counts.tolist() == expected.tolist()


@settings(max_examples=50)
@given(st.lists(RECORD, min_size=1, max_size=8), st.data())
def test_emptying_a_record_takes_one_from_one_cell_of_each_marginal(
    records: list[list[int]], data: st.DataObject
) -> None:
    emptied = data.draw(st.sampled_from(range(len(records))))
    positions = np.arange(len(records))
    whole = count_marginals(examples_of(records), GROUPS, positions)
    left = count_marginals(
        examples_of([[-1] * 3 if i == emptied else each for i, each in enumerate(records)]), GROUPS, positions
    )
    for name in GROUPS:
        difference = whole[name].counts - left[name].counts
        assert difference[difference != 0].tolist() in ([], [1])


def test_a_marginal_of_too_many_cells_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.privacy.marginals.MOST_CELLS", 10)
    with pytest.raises(ValueError, match="the marginal two has more than 10 cells"):
        count_marginals(examples_of([[0, 0, 0]]), GROUPS, np.array([0]))
