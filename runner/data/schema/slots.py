"""Slots: the places of a record that have token ids of their own.

>>> slots = Slots(sizes=(1, 3, 2), fields=(-1, 0, 1))
>>> slots.vocab_size, slots.of_tokens().tolist()
(6, [0, 1, 1, 1, 2, 2])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Slots:
    """Token ids are laid out slot by slot. Slot 0 is the end of a record, one id.

    `sizes`: the ids of each slot. `fields`: the number of the field that each slot belongs to, -1 for the end.
    """

    sizes: tuple[int, ...]
    fields: tuple[int, ...]

    @property
    def vocab_size(self) -> int:
        """All ids together."""
        return sum(self.sizes)

    def of_tokens(self) -> NDArray[np.int32]:
        """(V,): the slot of every id."""
        return np.repeat(np.arange(len(self.sizes), dtype=np.int32), self.sizes)

    def fields_of_tokens(self) -> NDArray[np.int32]:
        """(V,): the field of every id, -1 for the end."""
        return np.repeat(np.array(self.fields, np.int32), self.sizes)

    def places(self, records: Sequence[Sequence[int] | NDArray[Any]], slots: Sequence[int]) -> NDArray[np.int64]:
        """(slots, records): each record's token at each of some slots, counted from the slot's first; the slot's size
        for none. Of a slot that a record fills twice, its last token is it.

        >>> Slots((1, 3, 2), (-1, 0, 1)).places([[0, 2, 5, 0], [0, 1, 0]], [1, 2]).tolist()
        [[1, 0], [1, 2]]
        """
        ids = np.concatenate([np.zeros(0, np.int64), *(np.asarray(each, np.int64) for each in records)])
        record = np.repeat(np.arange(len(records)), [len(each) for each in records])
        index = np.full(len(self.sizes), -1)
        index[list(slots)] = np.arange(len(slots))
        slot = self.of_tokens()[ids]
        here = index[slot] >= 0
        first = np.cumsum((0, *self.sizes))[:-1]
        places = np.repeat(np.array([self.sizes[each] for each in slots], np.int64)[:, None], len(records), axis=1)
        places[index[slot[here]], record[here]] = ids[here] - first[slot[here]]
        return places
