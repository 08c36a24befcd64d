"""Which values a field's declaration rules out.

>>> from runner.config.fields import IntegerField
>>> declared = Declared.of(IntegerField(kind="integer", range=(0, 9)), pa.int64())
>>> declared.outside(pa.array([5, 12])).tolist()
[False, True]
"""

# pyarrow.compute makes its functions when it is imported, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types

from runner.config.fields import (
    BooleanField,
    CategoryField,
    DateField,
    DatetimeField,
    FieldConfig,
    IntegerField,
    NumberField,
)
from runner.data.schema.moment_texts import plain_moments
from runner.data.schema.reading import (
    TEXT,
    UNITS_A_SECOND,
    from_numbers,
    is_missing,
    is_numeric,
    plain_type,
    to_numbers,
)
from runner.data.texts import to_texts

BOOLEANS = ("false", "true")
STEPS = {"hour": 3_600_000_000, "minute": 60_000_000, "second": 1_000_000, "millisecond": 1_000}
"""Of a resolution, in microseconds."""
SLACK = 1e-6
"""Of a unit, for bounds that are whole units but for the last bit of a float."""


@dataclass(frozen=True)
class Declared:
    """Of a column of type `kind`: the texts there may be, or the bounds of its numbers; None where all may be.

    `decimals`: numbers are rounded to them. `step`: moments are cut down to multiples of it, in microseconds. `format`:
    of texts.
    """

    kind: pa.DataType
    texts: tuple[str, ...] | None = None
    reading: pa.DataType | None = None
    bounds: tuple[float, float] | None = None
    decimals: int | None = None
    step: int | None = None
    format: str | None = None

    @classmethod
    def of(cls, field: FieldConfig | None, kind: pa.DataType) -> Declared:
        """What a job says of a column."""
        plain = plain_type(kind)
        match field:
            case CategoryField():
                return cls(plain, texts=field.values)
            case BooleanField():
                return cls(plain, texts=BOOLEANS)
            case IntegerField() | NumberField() if field.range is not None:
                decimals = field.decimals if isinstance(field, NumberField) else None
                return cls(plain, reading=pa.float64(), bounds=field.range, decimals=decimals)
            case DateField() if field.range is not None:
                first, last = field.range
                ends = datetime.combine(first, time.min), datetime.combine(last, time.max)
                bounds = _microseconds(ends[0]), _microseconds(ends[1])
                return cls(plain, reading=pa.timestamp("us"), bounds=bounds, format=field.format)
            case DatetimeField() if field.range is not None:
                bounds = _microseconds(field.range[0]), _microseconds(field.range[1])
                step = STEPS.get(field.resolution) if field.resolution is not None else None
                return cls(plain, reading=pa.timestamp("us"), bounds=bounds, step=step, format=field.format)
            case _:
                return cls(plain)

    def outside(self, distinct: pa.Array) -> NDArray[np.bool_]:
        """(n,): which of these counted values (see `ColumnSummary.counted_type`) are ruled out."""
        if self.texts is not None:
            listed = pc.is_in(self.to_texts(distinct), pa.array(self.texts, TEXT))
            return ~listed.to_numpy(zero_copy_only=False)
        if self.bounds is None:
            return np.zeros(len(distinct), np.bool_)
        numbers: NDArray[Any] = self.numbers(distinct)
        low, high = self.bounds
        if self.decimals is not None:
            unit = 10.0**self.decimals
            numbers, low, high = np.rint(numbers * unit), np.ceil(low * unit - SLACK), np.floor(high * unit + SLACK)
        elif self.step is not None:
            numbers, low, high = numbers // self.step, low // self.step, high // self.step
        outside = ~((numbers >= low) & (numbers <= high))  # Those that are no number, too.
        if not is_numeric(self.kind):
            outside &= ~is_missing(distinct)  # They are null.
        return outside

    def to_texts(self, distinct: pa.Array) -> pa.Array:
        """Counted values as the texts that a job lists."""
        return to_texts(from_numbers(distinct, self.kind)) if is_numeric(self.kind) else distinct

    def numbers(self, distinct: pa.Array) -> NDArray[np.float64]:
        """In what the bounds are in: plain numbers, or microseconds since 1970."""
        assert self.reading is not None
        kind, values = self.kind, distinct
        if not is_numeric(kind):
            plain = plain_moments(pc.utf8_trim_whitespace(distinct), self.format)
            values, kind = _parsed(plain, self.reading), self.reading
        numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        if types.is_decimal(kind):
            return numbers / 10.0**kind.scale
        if types.is_date(kind):
            return numbers * 86_400e6
        if types.is_timestamp(kind):
            return numbers * (1e6 / UNITS_A_SECOND[kind.unit])
        return numbers


def _parsed(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Numbers of texts; null for those that are not of the type."""
    try:
        return to_numbers(texts.cast(kind))
    except pa.ArrowException:
        return pa.array([_one(text, kind) for text in texts], pa.float64())


def _one(text: pa.Scalar, kind: pa.DataType) -> float | None:
    try:
        return to_numbers(pa.array([text.as_py()], TEXT).cast(kind))[0].as_py()
    except pa.ArrowException:
        return None


def _microseconds(moment: date) -> float:
    assert isinstance(moment, datetime)
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e6
