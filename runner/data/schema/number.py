"""Numbers: a token for the value or the part of the range that it is in, then its digits inside that part.

>>> from runner.data.schema.intervals import plan_intervals
>>> codec = NumberCodec("age", pa.int64(), 17, 90, intervals=plan_intervals(17, 90, bins=8), nullable=False)
>>> codec.slots, codec.encode(pa.array([17, 42])).tolist()  # 0-19, 10-19, 7; and 40-49, 2
((8, 2, 10), [[0, 1, 7], [3, -1, 2]])
"""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from runner.data.schema.codec import (
    DONE,
    UNUSED,
    Codec,
    Mask,
    Read,
    State,
    Tokens,
    decoded_type,
    draw_bits,
    null_mask,
    read_as,
    reading_type,
    trace_states,
    type_of,
    type_text,
    typed,
    with_room,
)
from runner.data.schema.intervals import Intervals
from runner.data.schema.units import from_units, is_number, largest_units, most_decimals, to_units
from runner.data.texts import is_text
from runner.errors import DataError


class NumberCodec(Codec):
    """`low`, `high`: the range, in units of 10^-`decimals`. `frequent`: units that are tokens of their own. `whole`:
    numbers between two units are strange, instead of rounded. `exact`: the digits are learned.

    Slots: values, parts and null; which half; which fifth; the digits at each place, highest first.
    """

    def __init__(
        self,
        name: str,
        kind: pa.DataType,
        low: int,
        high: int,
        *,
        intervals: Intervals,
        nullable: bool,
        decimals: int = 0,
        frequent: Sequence[int] = (),
        exact: bool = True,
        whole: bool = False,
        outside: str = "refuse",
        reading: pa.DataType | None = None,
    ) -> None:
        """Raises DataError: a type without numbers, or one that does not have the range or the decimals."""
        self.kind = "integer" if whole else "number"
        self.name, self.type = name, with_room(kind, high - low + 1)
        self.nullable, self.outside = nullable, outside
        self.low, self.high, self.decimals, self.exact, self.whole = low, high, decimals, exact, whole
        self.frequent = np.array(sorted(set(frequent)), np.int64)
        self.intervals = intervals
        self.reading = reading_type(kind, reading or default_reading(decimals, whole=whole))
        check_range(name, self.reading, low, high, decimals)
        self._leads = np.array([int(str(width)[0]) for width in intervals.widths.tolist()], np.int64)
        self._places = np.array([len(str(width)) - 1 for width in intervals.widths.tolist()], np.int64)
        leads = [lead for lead in (2, 5) if exact and (self._leads == lead).any()]
        places = int(self._places.max()) if exact else 0
        self._lead_slots = {lead: 1 + number for number, lead in enumerate(leads)}
        self._place_slots = {place: 1 + len(leads) + places - 1 - place for place in range(places)}
        self.slots = (len(self.frequent) + len(intervals.starts) + nullable, *leads, *[10] * places)

    @property
    def longest(self) -> int:
        return 1 + int(((self._leads > 1) + self._places).max()) if self.exact else 1

    def read(self, column: pa.Array) -> Read:
        column, unread = read_as(column, self.reading)
        null = null_mask(column) & ~unread
        units, lost = to_units(column, self.decimals)
        lost = (lost | unread) & ~null
        if self.whole and most_decimals(column.type) > 0:
            lost = lost | ((units >= self.low) & (units <= self.high) & ~self._is_whole(column, units) & ~null)
        strange = (lost | (units < self.low) | (units > self.high)) & ~null
        # Clipping brings no text and no NaN inside.
        null = null | lost if self.outside == "clip" else null
        return Read(np.clip(units, self.low, self.high), null, strange)

    def _is_whole(self, column: pa.Array, units: NDArray[np.int64]) -> Mask:
        """Of numbers in the range, which are no others than their units."""
        kind = column.type
        wide = pa.float64() if pa.types.is_floating(kind) else pa.decimal256(76, kind.scale)  # Not all types compare.
        same = from_units(np.clip(units, self.low, self.high), self.decimals, kind).cast(wide)
        return pc.equal(same, column.cast(wide)).fill_null(True).to_numpy(zero_copy_only=False)

    def to_tokens(self, read: Read, null: Mask) -> Tokens:
        units = read.values
        tokens = np.full((len(units), len(self.slots)), UNUSED, np.int32)
        part = np.searchsorted(self.intervals.starts, units, "right") - 1
        tokens[:, 0] = len(self.frequent) + part
        inside = ~null
        if self.frequent.size:
            place = np.minimum(np.searchsorted(self.frequent, units), self.frequent.size - 1)
            is_frequent = self.frequent[place] == units
            tokens[is_frequent, 0] = place[is_frequent]
            inside &= ~is_frequent
        tokens[null, 0] = self.null_token if self.nullable else UNUSED
        if len(self.slots) == 1:
            return tokens
        left = units - self.intervals.starts[part]
        for lead, slot in self._lead_slots.items():
            tokens[:, slot] = np.where(inside & (self._leads[part] == lead), left // 10 ** self._places[part], UNUSED)
        for place, slot in self._place_slots.items():
            tokens[:, slot] = np.where(inside & (place < self._places[part]), left // 10**place % 10, UNUSED)
        return tokens

    def decode(self, tokens: Tokens | None, rows: NDArray[np.int64], seed: int = 0) -> pa.Array:
        assert tokens is not None
        main = tokens[:, 0]
        many = len(self.frequent)
        null = (main < 0) | (main >= many + len(self.intervals.starts))
        part = np.where(null | (main < many), 0, main - many)
        units = self.intervals.starts[part]
        if self.exact:
            for slot in self._lead_slots.values():
                units = units + np.maximum(tokens[:, slot], 0).astype(np.int64) * 10 ** self._places[part]
            for place, slot in self._place_slots.items():
                units = units + np.maximum(tokens[:, slot], 0).astype(np.int64) * 10**place
        else:
            first = np.maximum(units, self.low)
            last = np.minimum(units + self.intervals.widths[part] - 1, self.high)
            units = first + (draw_bits(self.name, rows, seed) % (last - first + 1).astype(np.uint64)).astype(np.int64)
        units = np.clip(units, self.low, self.high)
        if many:
            units = np.where(main < many, self.frequent[np.clip(main, 0, many - 1)], units)
        return typed(from_units(units, self.decimals, self.reading, null), self.type)

    def rewritten(self, column: pa.Array) -> pa.Array:
        return typed(read_as(column, self.reading)[0], column.type) if is_text(decoded_type(column.type)) else column

    def order(self, slot: int) -> NDArray[np.float64] | None:
        if slot:
            return None
        middles = self.intervals.starts + (self.intervals.widths - 1) / 2
        return np.concatenate([self.frequent, middles, [math.nan] * self.nullable])

    def states(self) -> tuple[State, ...]:
        return trace_states(self.slots, "value", self._follow)

    def _follow(self, key: Any) -> tuple[int, dict[int, Any]]:
        """A key inside a part: the width that is left, and the least and the largest offset that the range allows."""
        if key == "value":
            many = len(self.frequent)
            after: dict[int, Any] = dict.fromkeys(range(many), DONE)
            for number, (start, width) in enumerate(zip(*(each.tolist() for each in self.intervals), strict=True)):
                bounds = (max(self.low - start, 0), min(self.high - start, width - 1))
                after[many + number] = (width, *bounds) if self.exact and width > 1 else DONE
            if self.nullable:
                after[self.null_token] = DONE
            return 0, after
        width, low, high = key
        lead, places = int(str(width)[0]), len(str(width)) - 1
        if lead > 1:
            slot, parts, step = self._lead_slots[lead], lead, 10**places
        else:
            slot, parts, step = self._place_slots[places - 1], 10, 10 ** (places - 1)
        after = {}
        for token in range(parts):
            first = token * step
            if first <= high and first + step > low:
                rest = (step, max(low - first, 0), min(high - first, step - 1))
                after[token] = rest if step > 1 else DONE
        return slot, after

    def range_words(self) -> str:
        return self.bounds_words() + (" or no whole numbers" if self.whole else "")

    def bounds_words(self) -> str:
        """The range, as a job has it."""
        bounds = from_units(np.array([self.low, self.high]), self.decimals, pa.decimal128(38, max(self.decimals, 0)))
        low, high = bounds.to_pylist()
        return f"[{low}, {high}]"

    def to_plain(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            "range": [self.low, self.high],
            "decimals": self.decimals,
            "frequent": self.frequent.tolist(),
            "starts": self.intervals.starts.tolist(),
            "widths": self.intervals.widths.tolist(),
            "exact": self.exact,
            "nullable": self.nullable,
            "outside": self.outside,
            "reading": type_text(self.reading),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], kind: pa.DataType) -> NumberCodec:
        return cls(
            plain["name"],
            kind,
            *plain["range"],
            intervals=Intervals(np.array(plain["starts"], np.int64), np.array(plain["widths"], np.int64)),
            nullable=plain["nullable"],
            decimals=plain["decimals"],
            frequent=plain["frequent"],
            exact=plain["exact"],
            whole=plain["kind"] == "integer",
            outside=plain["outside"],
            reading=type_of(plain["reading"]),
        )


def check_range(name: str, kind: pa.DataType, low: int, high: int, decimals: int) -> None:
    """Whether a type has all numbers of a range.

    Raises:
        DataError: it has not.
    """
    if not is_number(kind):
        raise DataError(f"column {name} is {kind}, which is no number; make it kind category, text or id")
    if decimals > most_decimals(kind):
        raise DataError(f"fields.{name}.decimals: {decimals} are more than the {most_decimals(kind)} of a {kind}")
    least, most = largest_units(kind, decimals)
    if low < least or high > most:
        with_them = f" with {decimals} decimals" if decimals > 0 else ""
        raise DataError(f"fields.{name}.range: goes beyond what a {kind} holds{with_them}; make it narrower")


def default_reading(decimals: int, *, whole: bool) -> pa.DataType:
    """The type as which texts are read where nothing else was found."""
    return pa.int64() if whole else pa.decimal128(38, decimals)
