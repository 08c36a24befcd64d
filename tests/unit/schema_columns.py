"""Fields of all kinds with columns of values that they have, as Hypothesis draws them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from runner.config import FieldConfig
from runner.config.fields import (
    BooleanField,
    CategoryField,
    DateField,
    DatetimeField,
    IntegerField,
    NumberField,
    TextField,
)
from runner.data.texts import to_texts

Draw = Callable[[st.SearchStrategy[Any]], Any]
INTEGERS = [pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64()]
FLOATS = [pa.float16(), pa.float32(), pa.float64()]
DECIMALS = [
    pa.decimal32(7, 2),
    pa.decimal64(12, 0),
    pa.decimal128(20, 4),
    pa.decimal128(38, 18),
    pa.decimal128(10, -2),
    pa.decimal256(60, 6),
]
STRINGS = [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()]
MOMENTS = [pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC", "Europe/Berlin")]
TIMES = [pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")]
DURATIONS = [pa.duration(unit) for unit in ("s", "ms", "us", "ns")]
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
RESOLUTIONS = ["hour", "minute", "second", "millisecond", "microsecond", "nanosecond"]
OUTSIDE = st.sampled_from(["refuse", "clip"])
EPOCH = dt.datetime(1970, 1, 1)
LEAST_YEAR, LAST_YEAR = 1700, 2250


@dataclass(frozen=True)
class Drawn:
    """A field with a column that it has all values of."""

    field: FieldConfig
    column: pa.Array


def with_nulls(draw: Draw, values: list[Any]) -> tuple[bool, list[Any]]:
    """Whether the field may be null, and the values, some of them null where it may."""
    nullable = draw(st.booleans())
    return nullable, [None if nullable and draw(st.booleans()) else value for value in values]


def as_dictionary(draw: Draw, column: pa.Array) -> pa.Array:
    """The column, or one that has each value once."""
    if not draw(st.booleans()):
        return column
    index = draw(st.sampled_from([pa.int8(), pa.uint8(), pa.int32(), pa.int64()]))
    places = {value: place for place, value in reversed(list(enumerate(column.to_pylist()))) if value is not None}
    indices = pa.array([places.get(value) for value in column.to_pylist()], index)
    return pa.DictionaryArray.from_arrays(indices, column)


def listed(draw: Draw, values: st.SearchStrategy[Any], least: int = 1) -> list[Any]:
    return draw(st.lists(values, min_size=least, max_size=12))


@st.composite
def categories(draw: Draw) -> Drawn:
    kind = draw(st.sampled_from([*INTEGERS, *FLOATS, *DECIMALS, *STRINGS, *MOMENTS, *TIMES, *DURATIONS, *OTHERS]))
    nullable, values = with_nulls(draw, listed(draw, values_of(kind)))
    column = typed(values, kind)
    texts = [text for text in dict.fromkeys(to_texts(column).to_pylist()) if text is not None]
    if not texts:
        return draw(categories())
    outside = draw(st.sampled_from(["refuse", "rare"]))
    field = CategoryField(kind="category", values=tuple(texts), nullable=nullable, outside=outside)
    return Drawn(field, as_dictionary(draw, column) if not isinstance(kind, pa.BaseExtensionType) else column)


OTHERS = [pa.bool_(), pa.date32(), pa.date64(), pa.uuid(), pa.bool8(), pa.binary(2)]


def values_of(kind: pa.DataType) -> st.SearchStrategy[Any]:
    """Python values of a type, all of them told apart by their texts."""
    if pa.types.is_integer(kind):
        info = np.iinfo(kind.to_pandas_dtype())
        return st.integers(int(info.min), int(info.max))
    if pa.types.is_floating(kind):
        width = {"halffloat": 16, "float": 32, "double": 64}[str(kind)]
        return st.floats(allow_nan=False, width=width).map(lambda value: value + 0.0)
    if pa.types.is_decimal(kind):
        digits = min(kind.precision, 30)
        return st.integers(-(10**digits) + 1, 10**digits - 1).map(lambda units: Decimal(units).scaleb(-kind.scale))
    if kind in STRINGS:
        return TEXTS.map(str.encode) if "binary" in str(kind) else TEXTS
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        days = st.datetimes(dt.datetime(LEAST_YEAR, 1, 1), dt.datetime(LAST_YEAR, 1, 1))
        return (
            days.map(dt.datetime.date) if pa.types.is_date(kind) else days.map(lambda each: each.replace(microsecond=0))
        )
    if pa.types.is_time(kind):
        return st.times().map(
            lambda each: each.replace(microsecond=each.microsecond // 1000 * 1000 * (str(kind) != "time32[s]"))
        )
    if pa.types.is_duration(kind):
        return st.integers(-(10**9), 10**9).map(lambda seconds: dt.timedelta(seconds=seconds))
    if kind == pa.uuid():
        return st.uuids().map(lambda each: each.bytes)
    if kind == pa.binary(2):
        return st.text(st.characters(max_codepoint=127), min_size=2, max_size=2).map(str.encode)
    return st.booleans()


def typed(values: list[Any], kind: pa.DataType) -> pa.Array:
    if kind == pa.bool8():
        return pa.ExtensionArray.from_storage(kind, pa.array(values, pa.bool_()).cast(pa.int8()))
    if kind == pa.uuid():
        return pa.ExtensionArray.from_storage(kind, pa.array(values, pa.binary(16)))
    if pa.types.is_float16(kind):
        return pa.array([None if value is None else np.float16(value) for value in values], kind)
    return pa.array(values, kind)


@st.composite
def booleans(draw: Draw) -> Drawn:
    nullable, values = with_nulls(draw, listed(draw, st.booleans()))
    return Drawn(BooleanField(kind="boolean", nullable=nullable), pa.array(values, pa.bool_()))


@st.composite
def numbers(draw: Draw) -> Drawn:
    """Of every type of numbers, and of texts that are numbers; in units that the type tells apart."""
    kind = draw(st.sampled_from([*INTEGERS, *FLOATS, *DECIMALS, pa.string()]))
    whole = draw(st.booleans())
    most = {"halffloat": 2**9, "float": 2**22, "double": 2**51}.get(str(kind), 10**18)
    decimals = 0
    if pa.types.is_integer(kind):
        info = np.iinfo(kind.to_pandas_dtype())
        least, most = max(int(info.min), -most), min(int(info.max), most)
    else:
        finest = kind.scale if pa.types.is_decimal(kind) else 2 if pa.types.is_float16(kind) else 6
        decimals = 0 if whole else draw(st.integers(min(finest, 0), finest)) if finest >= 0 else 0
        if pa.types.is_decimal(kind):
            most = min(10 ** (kind.precision - kind.scale + decimals) - 1, most)
        least = -most
    if not whole:  # Bounds are doubles.
        least, most = max(least, -(10**13)), min(most, 10**13)
    step = 100 if kind == pa.decimal128(10, -2) else 1
    low, high = sorted(draw(st.tuples(*[st.integers(-(-least // step), most // step)] * 2)))
    if draw(st.booleans()):
        high = min(high, low + draw(st.integers(0, 500)))
    units = [each * step for each in listed(draw, st.integers(low, high))]
    exact = [Decimal(each).scaleb(-decimals) for each in units]
    nullable, values = with_nulls(draw, exact)
    bounds = tuple(Decimal(each * step).scaleb(-decimals) for each in (low, high))
    more: dict[str, Any] = {"nullable": nullable, "bins": draw(st.integers(2, 200)), "outside": draw(OUTSIDE)}
    if whole:
        field: FieldConfig = IntegerField(kind="integer", range=(int(bounds[0]), int(bounds[1])), **more)
    else:
        # Of doubles as bounds: the next ones outwards.
        ends = float(np.nextafter(float(bounds[0]), -np.inf)), float(np.nextafter(float(bounds[1]), np.inf))
        ends = tuple(float(np.clip(each, -(10**18), 10**18)) for each in ends)
        field = NumberField(kind="number", range=ends, decimals=decimals, **more)
    if pa.types.is_integer(kind):
        values = [None if each is None else int(each) for each in values]
    if pa.types.is_floating(kind):
        values = [None if each is None else float(each) for each in values]
    if kind == pa.string():
        values = [None if each is None else f"{each:f}" for each in values]
        return Drawn(field, as_dictionary(draw, pa.array(values, kind)))
    return Drawn(
        field, as_dictionary(draw, typed(values, kind)) if not pa.types.is_float16(kind) else typed(values, kind)
    )


@st.composite
def dates(draw: Draw) -> Drawn:
    kind = draw(st.sampled_from([pa.date32(), pa.date64(), pa.string()]))
    days = st.dates(dt.date(LEAST_YEAR, 1, 1), dt.date(LAST_YEAR, 12, 31))
    found = listed(draw, days)
    nullable, values = with_nulls(draw, found)
    ends = min(*found, draw(days)), max(*found, draw(days)) if draw(st.booleans()) else max(found)
    field = DateField(kind="date", range=ends, nullable=nullable, outside=draw(OUTSIDE))
    if kind == pa.string():
        values = [None if value is None else value.isoformat() for value in values]
    return Drawn(field, as_dictionary(draw, pa.array(values, kind)))


@st.composite
def moments(draw: Draw) -> Drawn:
    """At every resolution that the type has."""
    kind = draw(st.sampled_from(MOMENTS))
    place = draw(st.integers(0, {"s": 2, "ms": 3, "us": 4, "ns": 5}[kind.unit]))
    steps = {"hour": 3600, "minute": 60, "second": 1}.get(RESOLUTIONS[place])
    units = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[kind.unit]
    step = (
        steps * units
        if steps
        else units // {"millisecond": 10**3, "microsecond": 10**6, "nanosecond": 10**9}[RESOLUTIONS[place]]
    )
    first, last = (
        int((dt.datetime(year, 1, 1) - EPOCH).total_seconds()) * units // step for year in (LEAST_YEAR, LAST_YEAR)
    )
    ticks = [each * step for each in listed(draw, st.integers(first, last))]
    nullable, values = with_nulls(draw, ticks)
    # Bounds are told to the microsecond.
    low = EPOCH + dt.timedelta(microseconds=min(ticks) * 10**6 // units)
    high = EPOCH + dt.timedelta(microseconds=-(-max(ticks) * 10**6 // units))
    field = DatetimeField(
        kind="datetime", range=(low, high), resolution=RESOLUTIONS[place], nullable=nullable, outside=draw(OUTSIDE)
    )
    return Drawn(field, as_dictionary(draw, pa.array(values, pa.int64()).cast(kind)))


@st.composite
def texts(draw: Draw) -> Drawn:
    kind = draw(st.sampled_from(STRINGS))
    tokenizer = draw(st.sampled_from(["byte", "char"]))
    found = listed(draw, TEXTS)
    nullable, values = with_nulls(draw, found)
    alphabet = "".join(sorted(set("".join(found)))) or "a"
    field = TextField(
        kind="text",
        tokenizer=tokenizer,
        alphabet=alphabet if tokenizer == "char" else None,
        max_tokens=max(len(each.encode()) for each in found) + draw(st.integers(1, 3)),
        nullable=nullable,
    )
    values = [value if value is None or "binary" not in str(kind) else value.encode() for value in values]
    return Drawn(field, as_dictionary(draw, pa.array(values, kind)))


KINDS: dict[str, st.SearchStrategy[Drawn]] = {
    "category": categories(),
    "boolean": booleans(),
    "number": numbers(),
    "date": dates(),
    "datetime": moments(),
    "text": texts(),
}
ANY = st.one_of(*KINDS.values())
