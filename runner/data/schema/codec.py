"""What every kind of field offers: its values to tokens of its own, and back.

A codec's tokens are local: they count from 0, slot by slot. `FieldTokenizer` puts the codecs' tokens side by side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

DONE = -1
"""Where a token leads that ends its field."""


class Encoded(NamedTuple):
    """Of n values: `tokens` (n, width) int32, of which row i has the first `lengths[i]`; the others are 0."""

    tokens: NDArray[np.int32]
    lengths: NDArray[np.int32]


@dataclass(frozen=True)
class State:
    """A place inside a field: which of a slot's tokens may follow, and where each leads.

    `slot`: local number. `allowed` (size of the slot,) bool. `following` (size of the slot,): the number of the
    field's state that a token leads to, DONE where the field is whole.
    """

    slot: int
    allowed: NDArray[np.bool_]
    following: NDArray[np.int32]


class Codec(ABC):
    """One field. `slots`: the sizes of its slots; none for a field that is not learned."""

    kind: ClassVar[str]
    name: str
    slots: tuple[int, ...]

    @abstractmethod
    def encode(self, column: pa.Array) -> Encoded:
        """Raises DataError for the first value that is outside the schema, where the schema refuses those."""

    @abstractmethod
    def decode(self, encoded: Encoded, rows: NDArray[np.int64]) -> pa.Array:
        """Values of the column's own type. `rows` (n,): numbers of the rows, the seed of what is not learned."""

    @abstractmethod
    def states(self) -> tuple[State, ...]:
        """The field's part of the automaton; it begins in the first."""

    @abstractmethod
    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON, with `kind` and `name`."""

    @classmethod
    @abstractmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Codec:
        """What `to_plain` wrote."""
