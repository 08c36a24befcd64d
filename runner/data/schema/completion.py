"""What a job left open of a table's schema, found in its records, such that no single record's value leaves.

    summaries = {name: ColumnSummary.of(name, field, kind) + ... for all records}
    complete(fields, summaries)["age"].field.range   # (17, 90)

Values that fewer than `min_count` records have become one rare value. A range goes from the tenth smallest value to
the tenth largest, each rounded inward where fewer than ten records have it; what is beyond is clipped to the range.
"""

# pyarrow.compute makes its functions when it is imported, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import types

from runner.config.fields import (
    LARGEST_UNITS,
    MOST_VALUES,
    CategoryField,
    DateField,
    DatetimeField,
    FieldConfig,
    IdField,
    IntegerField,
    NumberField,
    Resolution,
    TextField,
)
from runner.data.schema.found import ENDS, ColumnSummary, Counts, Ends
from runner.data.schema.outside import Declared
from runner.data.schema.reading import FINER, UNITS_A_SECOND, is_missing, is_numeric, plain_type, written_types
from runner.data.schema.refusals import check_declared, count_missing, reading_of
from runner.errors import DataError

FREQUENT = 0.005
"""A number that this share of the records has is a value of its own."""
FEW_VALUES = 1_024
"""So many numbers far apart are values of their own where many records have each: prices of a list, not lengths."""
COVERED = 0.95
"""Of the records, by such values."""
KEPT_DECIMALS = 6
"""Numbers that need more places after the point are rounded to `STEPS` steps of their range."""
STEPS = 10**6
MIDDLE = 10
"""Or of the part that half of the records are in, as often as wide: few far numbers leave the others their decimals."""
PARTS = 1_000
"""What a bound is rounded to is at most such a part of the range, and passes at most such a part of the records, or
as few as `ENDS`: of skewed numbers most are near one end."""
MOST = 0.999
"""Of the records: where so many need few decimals, the others are rounded to these."""

RESOLUTIONS: tuple[Resolution, ...] = ("hour", "minute", "second", "millisecond", "microsecond", "nanosecond")
EPOCH = datetime(1970, 1, 1)
"""In local time, or in UTC where the column has a zone."""

Measured: TypeAlias = IntegerField | NumberField


@dataclass(frozen=True)
class CompleteField:
    """A field of which nothing is open, and what else its codec is made of.

    `reading`: of numbers, dates and moments, the type as which the column's values, or its texts, are taken. `rare`:
    there is a rare value. `values` and `counts`, of integers and numbers: the distinct values in units of
    10^-decimals, within the range, and their weights; `frequent`: those that are values of their own. With `edges`,
    which bound parts of the range (one more than `counts`), these are the weights of the parts instead. `texts`: of a
    text, a sample to train its tokenizer on. `rare_records`, `clipped` and `rounded` count the records that do not come
    back as they were.
    """

    field: FieldConfig
    reading: pa.DataType | None = None
    rare: bool = False
    values: NDArray[np.int64] | None = None
    counts: NDArray[np.int64] | None = None
    edges: NDArray[np.int64] | None = None
    frequent: tuple[int, ...] = ()
    texts: pa.Array | None = None
    rare_records: int = 0
    clipped: int = 0
    rounded: int = 0


def declared(fields: Mapping[str, FieldConfig]) -> dict[str, CompleteField]:
    """Every field as a private job declares it: nothing of the records is in it."""
    return {
        name: CompleteField(field, rare=isinstance(field, CategoryField) and field.outside == "rare")
        for name, field in fields.items()
    }


def complete(fields: Mapping[str, FieldConfig], summaries: Mapping[str, ColumnSummary]) -> dict[str, CompleteField]:
    """Every field with what was found in all the records.

    Raises:
        DataError: a column's values are not what its field says, or do not tell what is open.
    """
    check_declared(fields, summaries)
    found: dict[str, CompleteField] = {}
    mistakes: list[str] = []
    for name, field in fields.items():
        if name not in summaries:  # What names a row and is left out is not read.
            found[name] = CompleteField(field)
            continue
        try:
            found[name] = complete_field(field, summaries[name])
        except DataError as error:
            mistakes.append(str(error))
    if mistakes:
        raise DataError(*mistakes)
    return found


def complete_field(field: FieldConfig, summary: ColumnSummary) -> CompleteField:
    """One of them."""
    if isinstance(field, IdField):
        return CompleteField(field)
    is_open = field.nullable is None
    if is_open:
        field = field.model_copy(update={"nullable": count_missing(field, summary) > 0})
    found = _complete(field, summary)
    if is_open and getattr(found.field, "outside", None) == "null":
        lost = summary.outside + found.clipped + found.rare_records
        found = replace(found, field=found.field.model_copy(update={"nullable": found.field.nullable or lost > 0}))
    if summary.not_numbers and not found.rare and getattr(found.field, "outside", None) == "refuse":
        return replace(found, field=found.field.model_copy(update={"outside": "null"}))
    return found


def _complete(field: FieldConfig, summary: ColumnSummary) -> CompleteField:
    match field:
        case CategoryField():
            return _category(field, summary)
        case IntegerField() | NumberField():
            return _measured(field, summary)
        case DateField():
            return _date(field, summary)
        case DatetimeField():
            return _moment(field, summary)
        case TextField():
            return CompleteField(field, texts=summary.sample.trimmed().values)
        case _:
            return CompleteField(field)


def decimals_of(ends: Ends, width: float, largest: float = 0.0) -> int:
    """How many places after the point are kept of numbers whose range is so wide.

    `largest`: of floats, the largest one: they tell only 2^53 units apart; 0 for other numbers.
    """
    most = int(53 * np.log10(2) - np.log10(largest)) if largest > 0 else FINER
    places = np.flatnonzero(ends.places)
    needed = int(places[-1]) if places.size else 0
    if needed <= KEPT_DECIMALS:
        return min(needed, max(most, 0))
    by_most = int(np.searchsorted(np.cumsum(ends.places), MOST * ends.places.sum()))
    if by_most <= KEPT_DECIMALS:
        return min(by_most, max(most, 0))
    steps = int(np.ceil(np.log10(STEPS / width))) if width > 0 else KEPT_DECIMALS
    return min(max(steps, 0), max(most, 0), FINER - 1)


def _category(field: CategoryField, summary: ColumnSummary) -> CompleteField:
    if field.values is not None:
        return CompleteField(field, rare=field.outside == "rare")
    counted = summary.counts()
    kept = None if counted is None else counted[1] >= field.min_count
    if counted is None or kept is None or kept.sum() > MOST_VALUES:
        raise DataError(
            f"column {summary.name} has over {MOST_VALUES:,} distinct values, too many for a category; "
            "make it kind text or id, or an integer or number"
        )
    values, counts = counted
    if summary.values and not kept.any() and not field.nullable:
        raise DataError(
            f"column {summary.name}: none of its {len(values):,} values is in {field.min_count} records or more "
            "(min_count), so none could be generated; list its values, lower min_count, or make it kind text or id"
        )
    texts = Declared.of(field, summary.kind).to_texts(values.filter(pa.array(kept)))
    rare = int(counts[~kept].sum())
    update = {"values": tuple(texts.to_pylist())}
    return CompleteField(field.model_copy(update=update), rare=rare > 0, rare_records=rare)


def _measured(field: Measured, summary: ColumnSummary) -> CompleteField:
    kind = reading_of(field, summary)
    ends = summary.ends.get(kind)
    found = field.range is None
    if found:
        _check_enough(summary)
    scale = kind.scale if types.is_decimal(kind) else 0
    if field.range is not None:
        low, high = field.range
    elif ends is not None and summary.filled:
        low, high = (_plain(end, scale) for end in (ends.least[-1], ends.largest[0]))
    else:
        low = high = 0
    numbers, counts = _numbers(summary, kind)
    decimals, rounded = 0, 0
    if isinstance(field, NumberField):
        decimals = field.decimals
        if decimals is None:
            width = min(float(high - low), _middle(numbers, counts) / 10**scale or math.inf)
            decimals = decimals_of(ends, width, _largest(ends, kind)) if ends is not None else 0
        rounded = int(ends.places[decimals + 1 :].sum()) if ends is not None else 0
    units = _units(numbers, scale, decimals, summary.name)
    bounds = _units(np.asarray([low, high]), 0, decimals, summary.name)
    if found and ends is not None and summary.filled:
        bounds = _units(np.asarray([ends.least[-1], ends.largest[0]]), scale, decimals, summary.name)
        span = int(bounds[1]) - int(bounds[0])
        bounds = _rounded_inward(bounds, units, counts, [10**power for power in range(18, 0, -1)], span)
        low, high = (_plain(end, decimals) for end in bounds.tolist())
    clipped = _count_beyond(bounds, units, counts, summary) if found else 0
    if not found and field.outside != "clip":
        inside = (units >= bounds[0]) & (units <= bounds[1])
        units, counts = units[inside], counts[inside]
    values, places = np.unique(np.clip(units, *bounds), return_inverse=True)
    weights = np.bincount(places, counts, len(values)).astype(np.int64)
    several = weights >= ENDS
    is_list = 2 * len(values) < bounds[1] + 1 - bounds[0] and several.sum() <= FEW_VALUES
    least = 0 if is_list and weights[several].sum() >= COVERED * weights.sum() else FREQUENT * weights.sum()
    often = several & (weights >= least)
    update: dict[str, Any] = {"range": (low, high)}
    if isinstance(field, NumberField):
        update["decimals"] = decimals
    if found and field.outside == "refuse":
        update["outside"] = "clip"
    return CompleteField(
        field.model_copy(update=update),
        kind,
        values=values,
        counts=weights,
        frequent=tuple(values[often].tolist()),
        clipped=clipped,
        rounded=rounded,
    )


def _date(field: DateField, summary: ColumnSummary) -> CompleteField:
    kind = reading_of(field, summary)
    field = field.model_copy(update={"format": _format(field, summary)})
    if field.range is not None:
        return CompleteField(field, kind)
    first, last, clipped = _found_moments(kind, summary)
    update = {"range": (first.date(), last.date())} | _clipping(field)
    return CompleteField(field.model_copy(update=update), kind, clipped=clipped)


def _moment(field: DatetimeField, summary: ColumnSummary) -> CompleteField:
    kind = reading_of(field, summary)
    ends = summary.ends.get(kind)
    update: dict[str, Any] = {"format": _format(field, summary)}
    clipped = rounded = 0
    places = np.zeros(FINER + 1, np.int64) if ends is None or types.is_date(kind) else ends.places
    if field.resolution is None:
        update["resolution"] = RESOLUTIONS[max(int(np.flatnonzero(places)[-1]) - 1, 0) if places.any() else 0]
    else:
        rounded = int(places[RESOLUTIONS.index(field.resolution) + 2 :].sum())
    if field.range is None:
        first, last, clipped = _found_moments(kind, summary)
        update |= {"range": (first, last)} | _clipping(field)
    return CompleteField(field.model_copy(update=update), kind, clipped=clipped, rounded=rounded)


def _found_moments(kind: pa.DataType, summary: ColumnSummary) -> tuple[datetime, datetime, int]:
    """The range of a column of dates or moments, cut down to microseconds at its ends, and how many are beyond it."""
    _check_enough(summary)
    ends = summary.ends.get(kind)
    if ends is None or not summary.filled:
        return EPOCH, EPOCH, 0
    numbers, counts = _numbers(summary, kind)
    bounds = np.array([ends.least[-1], ends.largest[0]], np.int64)
    day = 1 if types.is_date(kind) else 86_400 * UNITS_A_SECOND[kind.unit]
    steps = [10 * day, *(day // part for part in (1, 24, 1_440, 86_400) if part <= day)]
    bounds = _rounded_inward(bounds, numbers, counts, steps, int(bounds[1]) - int(bounds[0]))
    clipped = _count_beyond(bounds, numbers, counts, summary)
    first = -(-int(bounds[0]) * 86_400 * 10**6 // day)
    last = int(bounds[1]) * 86_400 * 10**6 // day
    try:
        return EPOCH + timedelta(microseconds=first), EPOCH + timedelta(microseconds=max(first, last)), clipped
    except OverflowError:
        raise DataError(f"column {summary.name} holds days beyond the years 1 to 9999; make them null") from None


def _format(field: DateField | DatetimeField, summary: ColumnSummary) -> str | None:
    """That of a column of texts."""
    return summary.format if field.format is None and any(map(types.is_temporal, summary.ends)) else field.format


def _clipping(field: DateField | DatetimeField) -> dict[str, str]:
    return {"outside": "clip"} if field.outside == "refuse" else {}


def _check_enough(summary: ColumnSummary) -> None:
    """Whether the tenth smallest and the tenth largest value are a range."""
    if 0 < summary.filled < 2 * ENDS:
        raise DataError(
            f"column {summary.name} has {summary.filled} values, too few to find a range that gives none of them away; "
            f"declare fields.{summary.name}.range"
        )


def _rounded_inward(
    bounds: NDArray[np.int64], numbers: NDArray[Any], counts: NDArray[np.int64], steps: Sequence[int], span: int
) -> NDArray[np.int64]:
    """The bounds of a range, each a multiple of the first of the steps that passes few records (see `PARTS`), which is
    no record's own value; as it is where `ENDS` records have it.

    numbers, counts: the distinct values and how many records have each. steps: descending.
    """
    few = max(2 * ENDS, ENDS + int(counts.sum()) // PARTS)
    low, high = bounds.tolist()
    lows, highs = ([low], [high])
    for step in (step for step in reversed(steps) if step * PARTS <= span):
        lows.append(-(-low // step) * step)
        highs.append(high // step * step)
    if counts[numbers == low].sum() < ENDS:
        low = next(bound for bound in reversed(lows) if bound == low or counts[numbers < bound].sum() <= few)
    if counts[numbers == high].sum() < ENDS:
        high = next(bound for bound in reversed(highs) if bound == high or counts[numbers > bound].sum() <= few)
    return np.array([low, high], np.int64)


def _count_beyond(
    bounds: NDArray[np.int64], numbers: NDArray[Any], counts: NDArray[np.int64], summary: ColumnSummary
) -> int:
    """How many records are beyond a range; by the share of a sample where the values are too many to count."""
    if not counts.sum():
        return 0
    beyond = counts[(numbers < bounds[0]) | (numbers > bounds[1])].sum()
    return round(summary.filled * float(beyond / counts.sum()))


def _middle(numbers: NDArray[Any], counts: NDArray[np.int64]) -> float:
    """`MIDDLE` times the width of the part that the middle half of the records is in."""
    if not counts.sum():
        return 0.0
    order = np.argsort(numbers)
    below = np.cumsum(counts[order])
    first, last = numbers[order][np.searchsorted(below, below[-1] * np.array([0.25, 0.75]))]
    return MIDDLE * float(last - first)


def _largest(ends: Ends, kind: pa.DataType) -> float:
    """The largest of floats, without its sign; 0 for other numbers."""
    return float(np.abs(np.concatenate([ends.least, ends.largest])).max(initial=0)) if types.is_floating(kind) else 0.0


def _numbers(summary: ColumnSummary, kind: pa.DataType) -> Counts:
    """The distinct numbers, in units of the type, and their weights."""
    values, counts = summary.counts() or summary.sampled()
    if is_numeric(plain_type(summary.kind)):
        return values.to_numpy(), counts
    filled = ~is_missing(values)
    read = written_types(values.filter(pa.array(filled))).get(kind)
    return (np.zeros(0, np.int64), counts[:0]) if read is None else (read.to_numpy(), counts[filled])


def _units(numbers: NDArray[Any], scale: int, decimals: int, name: str) -> NDArray[np.int64]:
    """Numbers in units of 10^-scale (floats: of one) in units of 10^-decimals."""
    if numbers.dtype == np.int64 and decimals >= scale:
        factor = 10 ** (decimals - scale)
        if numbers.size and int(np.abs(numbers).max()) * factor > LARGEST_UNITS:
            raise DataError(f"column {name}: numbers of more than 18 digits with {decimals} decimals; keep fewer")
        return numbers * factor
    units = np.round(numbers * 10.0 ** (decimals - scale))
    if units.size and np.abs(units).max() > LARGEST_UNITS:
        raise DataError(f"column {name}: numbers of more than 18 digits with {decimals} decimals; keep fewer")
    return units.astype(np.int64)


def _plain(number: Any, decimals: int) -> Any:
    """An int or a float, of a number in units of 10^-decimals."""
    number = number.item() if isinstance(number, np.generic) else number
    return number / 10**decimals if decimals else int(number) if float(number).is_integer() else number
