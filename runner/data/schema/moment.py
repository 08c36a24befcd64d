"""Dates and moments: year, month, day, hour, minute, second, and groups of three digits after it.

>>> first, last = (count_steps(day, "day") for day in (date(1950, 1, 1), date(2010, 6, 30)))
>>> codec = MomentCodec("born", pa.date32(), first, last, nullable=False)
>>> codec.slots, codec.encode(pa.array([date(2000, 2, 29)])).tolist()
((61, 12, 31), [[50, 1, 28]])

The automaton knows the calendar and the range: no 31 April, and no day after the last. Columns with a time zone are
taken in UTC, in which every moment is there once.
"""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import calendar
import math
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import types

from runner.data.schema.codec import (
    DONE,
    UNUSED,
    Codec,
    Mask,
    Read,
    State,
    Tokens,
    decoded_type,
    null_mask,
    read_as,
    reading_type,
    trace_states,
    type_of,
    type_text,
    typed,
    with_room,
)
from runner.data.schema.moment_texts import formatted_moments
from runner.data.schema.reading import UNITS_A_SECOND
from runner.data.texts import is_text, to_texts
from runner.errors import DataError

STEPS_A_DAY = {
    "day": 1,
    "hour": 24,
    "minute": 1440,
    "second": 86_400,
    "millisecond": 86_400 * 10**3,
    "microsecond": 86_400 * 10**6,
    "nanosecond": 86_400 * 10**9,
}
"""How many of each resolution a day has."""
PARTS = (
    ("hour", 24),
    ("minute", 60),
    ("second", 60),
    ("millisecond", 1000),
    ("microsecond", 1000),
    ("nanosecond", 1000),
)
"""Of a day, with the number of each in the one before."""
FINEST_OF_FORMATS = {
    3: ("day",),
    5: ("hour", "minute"),
    6: ("hour", "minute", "second"),
    7: tuple(STEPS_A_DAY)[1:],
}
"""The resolutions that a format of so many parts can write."""
MONTH, DAY, HOUR = 1, 2, 3
"""Slots."""


class MomentCodec(Codec):
    """`low`, `high`: the range, both included, in steps of the resolution since 1970: see `count_steps`. `written`: the
    format of a column of texts, where it has another than `runner.data.texts`."""

    def __init__(
        self,
        name: str,
        kind: pa.DataType,
        low: int,
        high: int,
        *,
        nullable: bool,
        resolution: str = "day",
        outside: str = "refuse",
        reading: pa.DataType | None = None,
        written: str | None = None,
    ) -> None:
        """Raises DataError: a type without dates, or one that does not have the range, the resolution or the format."""
        self.name, self.type = name, with_room(kind, high - low + 1)
        self.nullable, self.outside = nullable, outside
        self.reading = reading_type(kind, reading or default_reading(resolution))
        if not (types.is_date(self.reading) or types.is_timestamp(self.reading)):
            raise DataError(f"column {name} is {kind}, which is no date or moment; make it kind category, text or id")
        self.written = written
        if written is not None and not is_text(decoded_type(kind)):
            raise DataError(f"fields.{name}.format: it is for texts, but the column is {kind}; leave it out")
        if written is not None and resolution not in FINEST_OF_FORMATS[written.count("%")]:
            raise DataError(f"fields.{name}.format: {written} does not write each {resolution}; add what it lacks")
        self.resolution = resolution
        self.kind = "date" if self.resolution == "day" else "datetime"
        ticks_a_day = _ticks_a_day(self.reading)
        if STEPS_A_DAY[self.resolution] > ticks_a_day:
            raise DataError(f"fields.{name}.resolution: {resolution} is finer than a {self.reading} is")
        self.low, self.high = low, high
        self._step = ticks_a_day // STEPS_A_DAY[self.resolution]  # In units of the type.
        if not all(abs(each * self._step) < 2**63 for each in (low, high)):
            raise DataError(f"fields.{name}.range: goes beyond what a {self.reading} holds; make it narrower")
        names = list(STEPS_A_DAY)[1:]
        self._sizes = [size for part, size in PARTS if names.index(part) < list(STEPS_A_DAY).index(self.resolution)]
        ends = self._parts(np.array([self.low, self.high]))
        self._first_year = int(ends[0, 0])
        ends[:, 0] -= self._first_year
        self._low_parts, self._high_parts = ends.tolist()
        self.slots = (self._high_parts[0] + 1 + nullable, 12, 31, *self._sizes)

    def read(self, column: pa.Array) -> Read:
        column, unread = read_as(column, self.reading, self.written)
        null = null_mask(column) & ~unread
        steps = _ticks(column) // self._step
        strange = (unread | (steps < self.low) | (steps > self.high)) & ~null
        if self.outside == "clip":
            null = null | unread
        return Read(np.clip(steps, self.low, self.high), null, strange)

    def to_tokens(self, read: Read, null: Mask) -> Tokens:
        tokens = self._parts(read.values).astype(np.int32)
        tokens[:, 0] -= self._first_year
        tokens[null] = UNUSED
        if self.nullable:
            tokens[null, 0] = self.null_token
        return tokens

    def decode(self, tokens: Tokens | None, rows: NDArray[np.int64], seed: int = 0) -> pa.Array:  # noqa: ARG002
        assert tokens is not None
        null = (tokens[:, 0] < 0) | (tokens[:, 0] > self._high_parts[0])
        parts = np.where(null[:, None], 0, np.maximum(tokens, 0)).astype(np.int64)
        months = (parts[:, 0] + self._first_year - 1970) * 12 + parts[:, MONTH]
        first = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
        steps = first + parts[:, DAY]
        for slot, size in enumerate(self._sizes, DAY + 1):
            steps = steps * size + parts[:, slot]
        steps = np.clip(steps, self.low, self.high)
        moments = _from_ticks(steps * self._step, self.reading, null)
        if self.written is not None:
            return typed(formatted_moments(to_texts(moments), self.written), self.type)
        return typed(moments, self.type)

    def rewritten(self, column: pa.Array) -> pa.Array:
        if not is_text(decoded_type(column.type)):
            return column
        values = read_as(column, self.reading, self.written)[0]
        return typed(values if self.written is None else formatted_moments(to_texts(values), self.written), column.type)

    @property
    def coarse_slots(self) -> tuple[int, ...]:
        return tuple(slot for slot in (0, MONTH, HOUR) if slot < len(self.slots))

    def slot_name(self, slot: int) -> str:
        return f"{self.name}.{('year', 'month', 'day', *(part for part, _ in PARTS))[slot]}"

    def order(self, slot: int) -> NDArray[np.float64] | None:
        order = np.arange(self.slots[slot], dtype=np.float64)
        if slot == 0 and self.nullable:
            order[-1] = math.nan
        return order

    def states(self) -> tuple[State, ...]:
        return trace_states(self.slots, (0, True, True, None), self._follow)

    def _follow(self, key: Any) -> tuple[int, dict[int, Any]]:
        """A key: the slot, whether all before is as in the first moment and in the last, and what the slot before says:
        the year behind month, the number of days behind day."""
        slot, at_low, at_high, context = key
        least = self._low_parts[slot] if at_low else 0
        size = context if slot == DAY else self._high_parts[0] + 1 if slot == 0 else self.slots[slot]
        most = self._high_parts[slot] if at_high else size - 1
        after: dict[int, Any] = {}
        for token in range(least, min(most, size - 1) + 1):
            rest: Any = None
            if slot == 0:
                rest = calendar.isleap(token + self._first_year)
            elif slot == MONTH:
                rest = calendar.monthrange(2000 if context else 2001, token + 1)[1]
            bounds = (at_low and token == least, at_high and token == most)
            after[token] = DONE if slot + 1 == len(self.slots) else (slot + 1, *bounds, rest)
        if slot == 0 and self.nullable:
            after[self.null_token] = DONE
        return slot, after

    def range_words(self) -> str:
        bounds = _from_ticks(np.array([self.low, self.high]) * self._step, self.reading)
        low, high = to_texts(bounds.cast(pa.date32()) if self.kind == "date" else bounds).to_pylist()
        return f"[{low}, {high}]"

    def to_plain(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            "range": [self.low, self.high],
            "resolution": self.resolution,
            "nullable": self.nullable,
            "outside": self.outside,
            "reading": type_text(self.reading),
            **({} if self.written is None else {"format": self.written}),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], kind: pa.DataType) -> MomentCodec:
        return cls(
            plain["name"],
            kind,
            *plain["range"],
            nullable=plain["nullable"],
            resolution=plain["resolution"],
            outside=plain["outside"],
            reading=type_of(plain["reading"]),
            written=plain.get("format"),
        )

    def _parts(self, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """Year, and the others counted from 0: (n, parts)."""
        left = steps % STEPS_A_DAY[self.resolution]
        parts: list[NDArray[np.int64]] = []
        for size in reversed(self._sizes):
            parts.append(left % size)
            left = left // size
        days = (steps // STEPS_A_DAY[self.resolution]).astype("datetime64[D]")
        months = days.astype("datetime64[M]")
        number = months.astype(np.int64)
        day = (days - months.astype("datetime64[D]")).astype(np.int64)
        return np.stack([number // 12 + 1970, number % 12, day, *reversed(parts)], axis=1)


def count_steps(moment: date, resolution: str) -> int:
    """Whole steps of a resolution from 1970 to a moment, which is in UTC where it says nothing else.

    >>> count_steps(date(1970, 1, 3), "hour")
    48
    """
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    passed = moment - datetime(1970, 1, 1, tzinfo=UTC)
    microseconds = (passed.days * 86_400 + passed.seconds) * 10**6 + passed.microseconds
    return microseconds * STEPS_A_DAY[resolution] // (86_400 * 10**6)


def default_reading(resolution: str) -> pa.DataType:
    """The type as which texts are read where nothing else was found."""
    units = {"day": None, "millisecond": "ms", "microsecond": "us", "nanosecond": "ns"}
    unit = units.get(resolution, "s")
    return pa.date32() if unit is None else pa.timestamp(unit)


def finest_resolution(kind: pa.DataType) -> str:
    """That of a type of moments."""
    return {"s": "second", "ms": "millisecond", "us": "microsecond", "ns": "nanosecond"}[kind.unit]


def _ticks_a_day(kind: pa.DataType) -> int:
    """Of the type's own unit."""
    if types.is_date(kind):
        return 1 if types.is_date32(kind) else 86_400 * 10**3
    return 86_400 * UNITS_A_SECOND[kind.unit]


def _ticks(column: pa.Array) -> NDArray[np.int64]:
    """(n,) since 1970, 0 for null; of moments with a time zone in UTC."""
    counts = column.cast(pa.int32()) if types.is_date32(column.type) else column
    return counts.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)


def _from_ticks(ticks: NDArray[np.int64], kind: pa.DataType, null: Mask | None = None) -> pa.Array:
    counts = pa.array(ticks, pa.int64(), mask=null)
    return counts.cast(pa.int32()).cast(kind) if types.is_date32(kind) else counts.cast(kind)
