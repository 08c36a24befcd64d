"""What names a row: no token at all; left out of what is generated, or made anew."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runner.data.schema.codec import Codec, Mask, Read, State, Tokens, decoded_type, draw_bits, null_mask, typed
from runner.data.schema.values import from_texts
from runner.data.texts import TEXT
from runner.errors import DataError


class IdCodec(Codec):
    """`made`: sequence (1, 2, 3 ... by the row's number), uuid, or None for no column."""

    kind = "id"
    outside = "refuse"
    nullable = True
    slots = ()

    def __init__(self, name: str, kind: pa.DataType, made: str | None) -> None:
        """Raises DataError: the type cannot hold what is made."""
        self.name, self.type, self.made = name, kind, made
        try:
            self.decode(None, np.zeros(1, np.int64))
        except (ValueError, pa.ArrowException):
            raise DataError(
                f"fields.{name}.made: a {kind} cannot hold a {made}; leave it null, which leaves the column out"
            ) from None

    def read(self, column: pa.Array) -> Read:
        return Read(np.zeros(len(column), np.int8), null_mask(column), np.zeros(len(column), bool))

    def to_tokens(self, read: Read, null: Mask) -> Tokens:  # noqa: ARG002
        return np.zeros((len(read.values), 0), np.int32)

    def decode(self, tokens: Tokens | None, rows: NDArray[np.int64], seed: int = 0) -> pa.Array:  # noqa: ARG002
        if self.made == "uuid":
            halves = np.stack([draw_bits(f"{self.name} {half}", rows, seed) for half in (0, 1)], axis=1)
            names = [str(uuid.UUID(bytes=each.tobytes(), version=4)) for each in halves]
            return typed(from_texts(pa.array(names, TEXT), decoded_type(self.type)), self.type)
        if self.made == "sequence":
            return typed(pa.array(rows + 1, pa.int64()), self.type)
        return pa.nulls(len(rows), self.type)

    def states(self) -> tuple[State, ...]:
        return ()

    def range_words(self) -> str:
        return "what names a row"

    def to_plain(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name, "made": self.made}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], kind: pa.DataType) -> IdCodec:
        return cls(plain["name"], kind, plain["made"])
