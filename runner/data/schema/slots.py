"""Slots: the places of a record that have token ids of their own.

>>> slots = Slots(sizes=(1, 3, 2), fields=(-1, 0, 1))
>>> slots.vocab_size, slots.of_tokens().tolist()
(6, [0, 1, 1, 1, 2, 2])
"""

from __future__ import annotations

from dataclasses import dataclass

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
