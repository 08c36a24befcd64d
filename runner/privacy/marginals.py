"""Marginals of token ids: how many training records have each combination of tokens at some slots.

    groups = {"sex": (1,), "sex, job": (1, 3)}                       # slots, by the name of the histogram
    counted = count_marginals(examples, groups, positions)           # exact: may only be noised
    noisy = released_once(folder, release, lambda: counted)

A marginal of slots of sizes (a, b) has (a + 1, b + 1) cells: the last one of each axis counts records without a token
there, such as those of a null field's further slots. A record with none of the tokens is in no cell. So an emptied
record leaves the one cell that it was in, and comes into no other: sensitivity 1.

Counted are the records that are trained on. Those for validation stay unseen, as a holdout has to; the fewer counts
cost a little accuracy, and n and the split are public.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from runner.data.examples import Examples
from runner.data.schema import Slots
from runner.privacy.releases import Counts

ROWS_AT_ONCE = 1 << 16
MOST_CELLS = 1 << 26


def count_marginals(
    examples: Examples, groups: Mapping[str, Sequence[int]], positions: NDArray[np.int64]
) -> dict[str, Counts]:
    """The exact marginals of the examples at `positions`. Of a slot that a record fills twice, its last token is it."""
    slots = examples.tokens.slots
    assert slots is not None
    wanted = sorted({slot for group in groups.values() for slot in group})
    shapes = {name: [slots.sizes[slot] + 1 for slot in group] for name, group in groups.items()}
    for name, shape in shapes.items():
        if np.prod(shape, dtype=np.float64) > MOST_CELLS:
            raise ValueError(f"the marginal {name} has more than {MOST_CELLS:,} cells")
    cells = {name: np.zeros(int(np.prod(shape)), np.int64) for name, shape in shapes.items()}
    for start in range(0, len(positions), ROWS_AT_ONCE):
        places = dict(
            zip(wanted, _places(examples, slots, wanted, positions[start : start + ROWS_AT_ONCE]), strict=True)
        )
        for name, group in groups.items():
            at = np.ravel_multi_index([places[slot] for slot in group], shapes[name])
            cells[name] += np.bincount(at, minlength=cells[name].size)
    for counts in cells.values():
        counts[-1] = 0  # Without any of the tokens: where an emptied record would be.
    return {name: Counts(counts.reshape(shapes[name])) for name, counts in cells.items()}


def _places(examples: Examples, slots: Slots, wanted: Sequence[int], positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """(slots, rows): each row's token in each wanted slot, counted from the slot's first; the slot's size for none."""
    rows = examples.rows(positions)
    ids = np.concatenate(rows)
    row = np.repeat(np.arange(len(rows)), [len(each) for each in rows])
    index = np.full(len(slots.sizes), -1)
    index[list(wanted)] = np.arange(len(wanted))
    slot = slots.of_tokens()[ids]
    here = index[slot] >= 0
    first = np.cumsum((0, *slots.sizes))[:-1]
    places = np.repeat(np.array([slots.sizes[each] for each in wanted], np.int64)[:, None], len(rows), axis=1)
    places[index[slot[here]], row[here]] = ids[here] - first[slot[here]]
    return places
