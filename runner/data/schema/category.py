"""Categories and booleans: one token a value, one for all rare ones, one for null.

>>> codec = CategoryCodec("sex", pa.string(), ["f", "m"], nullable=True)
>>> codec.encode(pa.array(["m", None])).tolist()
[[1], [2]]
"""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types

from runner.config.fields import MOST_VALUES
from runner.config.section import find_repeat
from runner.data.schema.codec import (
    DONE,
    Codec,
    Mask,
    Read,
    State,
    Tokens,
    decoded_type,
    null_mask,
    take,
    texts_of,
    with_room,
)
from runner.data.schema.values import from_texts
from runner.data.texts import TEXT
from runner.errors import DataError


class CategoryCodec(Codec):
    """`values`: texts, as `runner.data.texts` writes them. `rare`: whether there is a token for all other values; it is
    never drawn."""

    def __init__(
        self,
        name: str,
        kind: pa.DataType,
        values: Sequence[str],
        *,
        nullable: bool,
        rare: bool = False,
        outside: str = "refuse",
        boolean: bool = False,
    ) -> None:
        """Raises DataError: values that the type does not have, or twice the same, or too many."""
        self.kind = "boolean" if boolean else "category"
        self.name, self.type, self.nullable = name, with_room(kind, len(values)), nullable
        self.rare = rare or outside == "rare"
        self.outside = "rare" if rare and outside == "refuse" else outside
        if len(values) > MOST_VALUES:
            raise DataError(
                f"column {name} has {len(values):,} values, more than the {MOST_VALUES:,} that a category may have; "
                "take kind text, integer or id, or a larger min_count"
            )
        if values and types.is_null(kind):
            raise DataError(f"column {name} is null in every row, by its type: {values[0]!r:.200} is no value of it")
        self._values = self._typed(values)
        self._texts = texts_of(self._values, name)
        self.values = tuple(self._texts.to_pylist())
        if (twice := find_repeat(self.values)) is not None:
            raise DataError(f"fields.{name}.values: {twice} is there twice, as {kind} sees it")
        self.slots = (len(values) + self.rare + nullable,)
        if self.slots == (0,):
            raise DataError(f"column {name} has no values; take kind id to leave it out")

    def _typed(self, values: Sequence[str]) -> pa.Array:
        kind = decoded_type(self.type)
        try:
            return from_texts(pa.array(values, TEXT), kind)
        except (ValueError, pa.ArrowException):
            odd = next((value for value in values if not _reads(value, kind)), "")
            raise DataError(f"fields.{self.name}.values: {odd!r:.200} is no {kind}") from None

    def read(self, column: pa.Array) -> Read:
        if types.is_dictionary(column.type):
            inner = self.read(column.dictionary)
            null = null_mask(column)
            at = column.indices.fill_null(0).to_numpy(zero_copy_only=False)
            if len(column.dictionary):
                null, at = null | inner.null[at], inner.values[at]
            return Read(at, null, (at < 0) & ~null)
        found = pc.index_in(texts_of(column, self.name), value_set=self._texts)
        null = null_mask(column)
        places = found.fill_null(-1).to_numpy(zero_copy_only=False)
        return Read(places, null, (places < 0) & ~null)

    def to_tokens(self, read: Read, null: Mask) -> Tokens:
        tokens = np.where(read.strange, len(self.values), read.values)
        return np.where(null, self.null_token, tokens).astype(np.int32)[:, None]

    def decode(self, tokens: Tokens | None, rows: NDArray[np.int64], seed: int = 0) -> pa.Array:  # noqa: ARG002
        assert tokens is not None
        places = tokens[:, 0]
        missing = (places < 0) | (places >= len(self.values))
        if types.is_dictionary(self.type):
            indices = pa.array(places, self.type.index_type, mask=missing)
            return pa.DictionaryArray.from_arrays(indices, self._values, ordered=self.type.ordered)
        return take(self._values, pa.array(places, pa.int32(), mask=missing))

    def states(self) -> tuple[State, ...]:
        allowed = np.ones(self.slots[0], bool)
        allowed[len(self.values) : len(self.values) + self.rare] = False
        return (State(0, allowed, np.full(self.slots[0], DONE, np.int32)),)

    def range_words(self) -> str:
        shown = ", ".join(map(repr, self.values[:5]))
        return f"the {len(self.values)} values {shown}, ..." if len(self.values) > 5 else f"the values {shown}"

    def to_plain(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            "values": list(self.values),
            "nullable": self.nullable,
            "rare": self.rare,
            "outside": self.outside,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], kind: pa.DataType) -> CategoryCodec:
        return cls(
            plain["name"],
            kind,
            plain["values"],
            nullable=plain["nullable"],
            rare=plain["rare"],
            outside=plain["outside"],
            boolean=plain["kind"] == "boolean",
        )


def _reads(text: str, kind: pa.DataType) -> bool:
    try:
        from_texts(pa.array([text], TEXT), kind)
    except (ValueError, pa.ArrowException):
        return False
    return True
