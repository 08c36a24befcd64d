"""Records of token ids from rows of groups: which token of its group a record has, walked along the automaton.

ids = draw_records(rows, columns, shares, automaton, slots, generator)      # (N, T), -1 behind a record's end
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runner.data.automaton import Automaton
from runner.data.schema import Slots
from runner.model.loglinear import draw_evenly

END = -1


@dataclass(frozen=True)
class GroupedSlot:
    """A slot whose tokens are in groups: `place`: its column among the rows; `groups` (tokens,)."""

    place: int
    groups: NDArray[np.int64]


def draw_records(
    rows: NDArray[np.integer],
    grouped: Mapping[int, GroupedSlot],
    shares: Sequence[NDArray[np.float64]],
    automaton: Automaton,
    slots: Slots,
    generator: np.random.Generator,
) -> NDArray[np.int32]:
    """rows (N, C): groups. grouped: by slot. shares: of each slot, its tokens'. Returns ids without the records' ends.

    A token is drawn by its share among those that the automaton allows and that are in the row's group, and where none
    is in it, among those allowed. The tokens of one group are drawn together, so that they have their shares nearly
    exactly.
    """
    starts = np.cumsum((0, *slots.sizes))
    assert automaton.slots is not None
    states = np.full(len(rows), automaton.start)
    steps: list[NDArray[np.int32]] = []
    over = automaton.allowed[:, 0]
    while (open_rows := np.flatnonzero(~over[states])).size:
        drawn = np.full(len(rows), END, np.int32)
        for state in np.unique(states[open_rows]).tolist():
            here = open_rows[states[open_rows] == state]
            slot = int(automaton.slots[state])
            allowed = automaton.allowed[state, starts[slot] : starts[slot + 1]]
            place = grouped.get(slot)
            of_rows = np.zeros(len(here), np.int64) if place is None else rows[here, place.place].astype(np.int64)
            for group in np.unique(of_rows).tolist():
                chosen = here[of_rows == group]
                weights = shares[slot] * allowed
                if place is not None and (inside := weights * (place.groups == group)).any():
                    weights = inside
                tokens = draw_evenly(weights, len(chosen), generator)
                drawn[chosen] = starts[slot] + generator.permutation(tokens)
        states[open_rows] = automaton.following[states[open_rows], drawn[open_rows]]
        steps.append(drawn)
    return np.stack(steps, axis=1) if steps else np.zeros((len(rows), 0), np.int32)
