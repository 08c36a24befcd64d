"""Values to texts: nothing of a value is lost, whatever its type; fields come back out of a joined record."""

from __future__ import annotations

import json
import math
import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runner.data.texts import NoTextError, find_unsplittable, is_text, join_fields, to_texts

UUID = uuid.UUID("12345678-1234-5678-9abc-def012345678")


def text_of(value: Any, kind: pa.DataType) -> str:
    (text, null) = to_texts(pa.array([value, None], kind)).to_pylist()
    assert null is None
    return text


def extension(kind: Any, values: list[Any]) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))


# Numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (4915112345678.0, "4915112345678"),
        (1e10, "10000000000"),
        (-1.5e10, "-15000000000"),
        (123456789012.25, "123456789012.25"),
        (2.0**53, "9007199254740992"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (3.0, "3"),
        (-0.0, "-0"),
        (0.1, "0.1"),
        (1e-6, "0.000001"),
        (1e-7, "1e-7"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_floats_are_written_in_plain_digits(value: float, text: str) -> None:
    assert text_of(value, pa.float64()) == text
    assert to_texts(pa.array([value]).dictionary_encode()).to_pylist() == [text]


@given(st.floats(allow_nan=False))
@example(5e-324)
@example(1.7976931348623157e308)
def test_a_float_comes_back_from_the_fewest_digits(value: float) -> None:
    text = text_of(value, pa.float64())
    assert float(text) == value
    assert math.copysign(1, float(text)) == math.copysign(1, value)
    if math.isfinite(value):
        assert Decimal(text) == Decimal(repr(value)), "Python's own shortest digits"
        assert ("e+" in text) == (abs(value) >= 1e21)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_a_single_float_comes_back_from_its_own_fewest_digits(value: float) -> None:
    text = text_of(value, pa.float32())
    assert np.float32(text) == np.float32(value)
    assert Decimal(text) == Decimal(str(np.float32(value)))


@given(st.floats(allow_nan=False, allow_infinity=False, width=16))
def test_a_half_float_comes_back(value: float) -> None:
    assert float(text_of(np.float16(value), pa.float16())) == value


@given(st.lists(st.none() | st.integers(-(2**53), 2**53), min_size=1))
def test_whole_numbers_that_pandas_made_floats_for_a_null_stay_whole(values: list[int | None]) -> None:
    floats = pa.array([None if value is None else float(value) for value in values], pa.float64())
    assert to_texts(floats).to_pylist() == [None if value is None else str(value) for value in values]


@given(st.decimals(allow_nan=False, allow_infinity=False, places=10, min_value=-(10**9), max_value=10**9))
def test_a_decimal_keeps_the_digits_of_its_scale(value: Decimal) -> None:
    text = text_of(value, pa.decimal128(20, 10))
    assert text == format(value.copy_abs() if value == 0 else value, "f")
    assert "E" not in text


@pytest.mark.parametrize("kind", [pa.decimal32(9, 9), pa.decimal64(18, 9), pa.decimal128(38, 9), pa.decimal256(76, 9)])
def test_a_small_decimal_has_no_exponent(kind: pa.DataType) -> None:
    assert text_of(Decimal("0.000000015"), kind) == "0.000000015"


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()], ids=str
)
def test_whole_numbers_are_their_digits(kind: pa.DataType) -> None:
    unsigned = pa.types.is_unsigned_integer(kind)
    for value in (0, 2 ** (kind.bit_width - (not unsigned)) - 1, 0 if unsigned else -(2 ** (kind.bit_width - 1))):
        assert text_of(value, kind) == str(value)


# Dates and times

ZONES = ["UTC", "Europe/Berlin", "Europe/Amsterdam", "America/New_York", "+05:30", "-01:00"]


@given(st.datetimes(min_value=datetime(1800, 1, 1), max_value=datetime(2400, 1, 1)), st.sampled_from(ZONES))
@example(datetime(1880, 1, 2, 3, 4, 5), "Europe/Amsterdam")
@example(datetime(2024, 10, 27, 0, 30), "Europe/Berlin")
@example(datetime(2024, 10, 27, 1, 30), "Europe/Berlin")
@settings(max_examples=60)
def test_a_time_with_a_zone_is_the_same_moment(moment: datetime, zone: str) -> None:
    text = text_of(moment.replace(tzinfo=UTC), pa.timestamp("us", zone))
    assert datetime.fromisoformat(text) == moment.replace(tzinfo=UTC)
    if "/" in zone and not text.endswith("Z") and moment.year < 2037:  # Later, Arrow knows no summer time.
        local = moment.replace(tzinfo=UTC).astimezone(ZoneInfo(zone))
        assert text.startswith(local.strftime("%Y-%m-%d %H:%M:%S"))


@given(st.datetimes(), st.sampled_from(["s", "ms", "us", "ns"]))
def test_a_time_without_a_zone_is_as_the_clock_says(moment: datetime, unit: str) -> None:
    if unit == "ns" and not 1700 < moment.year < 2200:
        return
    moment = moment.replace(microsecond=0 if unit == "s" else moment.microsecond // 1000 * 1000)
    assert datetime.fromisoformat(text_of(moment, pa.timestamp(unit))) == moment


def test_nanoseconds_stay() -> None:
    assert text_of(1_700_000_000_123_456_789, pa.timestamp("ns")) == "2023-11-14 22:13:20.123456789"


@given(st.dates(), st.times(), st.sampled_from([pa.date32(), pa.date64()]))
def test_dates_and_times_of_day_are_iso(day: date, clock: time, kind: pa.DataType) -> None:
    assert text_of(day, kind) == day.isoformat()
    assert text_of(clock, pa.time64("us")) == clock.isoformat("microseconds")


@given(st.timedeltas(min_value=timedelta(days=-100_000), max_value=timedelta(days=100_000)))
def test_a_duration_is_its_seconds_in_every_unit(duration: timedelta) -> None:
    text = text_of(duration, pa.duration("us"))
    assert Decimal(text) * 1_000_000 == duration // timedelta(microseconds=1)
    assert "E" not in text
    assert not text.endswith(".")
    seconds = duration // timedelta(seconds=1)
    assert {text_of(timedelta(seconds=seconds), pa.duration(unit)) for unit in ("s", "ms", "us", "ns")} == {
        str(seconds)
    }


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (pa.array([2**62], pa.timestamp("us")), "no calendar or clock"),
        (pa.array([2**62], pa.timestamp("s", "Europe/Berlin")), "no calendar or clock"),
        (pa.array([86_400_000_001], pa.time64("us")), "no calendar or clock"),
        (pa.array([0], pa.timestamp("us", "Mars/Olympus")), "Mars/Olympus"),
    ],
    ids=str,
)
def test_what_no_calendar_has_is_refused_and_not_put_into_words(array: pa.Array, reason: str) -> None:
    with pytest.raises(NoTextError, match=reason):
        to_texts(array)


# Other types


@pytest.mark.parametrize(
    ("array", "expected", "is_a_text"),
    [
        (pa.array([True, False, None]), ["true", "false", None], False),
        (extension(pa.bool8(), [1, 0, None]), ["true", "false", None], False),
        (extension(pa.uuid(), [UUID.bytes, None]), [str(UUID), None], True),
        (extension(pa.json_(), ['{"a": 1}', None]), ['{"a": 1}', None], True),
        (extension(pa.opaque(pa.int64(), "money", "somebody"), [7]), ["7"], False),
        (pa.nulls(2), [None, None], True),
        (pa.array(["é", "", None]), ["é", "", None], True),
        (pa.array(["é", None], pa.large_string()), ["é", None], True),
        (pa.array(["é", None], pa.string_view()), ["é", None], True),
        (pa.array(["é".encode(), None], pa.binary()), ["é", None], True),
        (pa.array(["é".encode(), None], pa.large_binary()), ["é", None], True),
        (pa.array(["é".encode(), None], pa.binary_view()), ["é", None], True),
        (pa.array(["é".encode(), None], pa.binary(2)), ["é", None], True),
        (pa.array(["é", None, "é"]).dictionary_encode(), ["é", None, "é"], True),
        (pa.array([b"a", None]).dictionary_encode(), ["a", None], True),
        (pa.array([7, None]).dictionary_encode(), ["7", None], False),
        (pa.DictionaryArray.from_arrays([0, 1, None], pa.array(["a", None])), ["a", None, None], True),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_every_type_has_its_text(array: pa.Array, expected: list[str | None], is_a_text: bool) -> None:
    found = to_texts(array)
    assert (found.type, found.to_pylist()) == (pa.large_string(), expected)
    assert to_texts(array.slice(1)).to_pylist() == expected[1:]
    assert to_texts(array.slice(0, 0)).to_pylist() == []
    assert is_text(array.type) == is_a_text


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.string()),
        pa.large_list(pa.string()),
        pa.list_(pa.string(), 2),
        pa.list_view(pa.string()),
        pa.struct([("a", pa.string())]),
        pa.map_(pa.string(), pa.string()),
        pa.fixed_shape_tensor(pa.int32(), [2]),
        pa.month_day_nano_interval(),
    ],
    ids=str,
)
def test_what_has_no_one_text_is_refused_by_its_type(kind: pa.DataType) -> None:
    with pytest.raises(NoTextError, match="cannot be written as text"):
        to_texts(pa.nulls(1, kind))
    assert not is_text(kind)


# Fields


def test_a_null_field_is_empty_and_a_row_of_nulls_is_null() -> None:
    fields = [to_texts(pa.array(values)) for values in (["a", None, None, ""], [None, "b", None, ""])]
    assert join_fields(fields, "||").to_pylist() == ["a||", "||b", None, "||"]


@given(
    st.text("|ab", min_size=1, max_size=4),
    st.lists(st.lists(st.none() | st.text("|abx", max_size=4), min_size=3, max_size=3), min_size=1, max_size=4),
    st.integers(1, 3),
)
@example("||", [["x|", "1", ""]], 2)
@example("||", [["x", "|1", ""]], 2)
@example("aba", [["xab", "1", ""]], 2)
@settings(max_examples=150)
def test_a_record_is_taken_only_where_python_splits_it_into_the_same_fields(
    delimiter: str, rows: list[list[str | None]], width: int
) -> None:
    rows = [row[:width] for row in rows]
    fields = [to_texts(pa.array([row[column] for row in rows], pa.string())) for column in range(width)]
    joined = [delimiter.join(field or "" for field in row) for row in rows]
    comes_back = [width == 1 or joined[at].split(delimiter) == [x or "" for x in row] for at, row in enumerate(rows)]
    assert (find_unsplittable(fields, delimiter) is None) == all(comes_back)
    kept = [text for text, row in zip(joined, rows, strict=True) if any(field is not None for field in row)]
    assert join_fields(fields, delimiter).drop_null().to_pylist() == kept


def test_the_field_that_breaks_a_record_is_named() -> None:
    fields = [to_texts(pa.array(values)) for values in (["a", "b"], ["x", "y|"], ["1", "2|"])]
    assert find_unsplittable(fields, "||") == (1, "ends with '|' somewhere, which runs into the field_delimiter '||'")
    assert find_unsplittable(fields, "|") == (1, "holds the field_delimiter '|' itself")
    assert find_unsplittable(fields, ",") is None


PAGE = Path(__file__).parents[2] / "docs" / "own-data.md"
SHOWN = {
    "text": pa.array(["Ann"]),
    "binary": pa.array([b"Ann"]),
    "UUID": extension(pa.uuid(), [bytes(range(16))]),
    "dictionary": pa.array(["Ann"]).dictionary_encode(),
    "whole numbers": pa.array([-42]),
    "double": pa.array([4915112345678.0, 3.0, 0.1, 1e-7]),
    "not a number": pa.array([math.nan]),
    "decimal": pa.array([Decimal("1.50")]),
    "boolean": pa.array([True]),
    "date": pa.array([date(2024, 2, 29)]),
    "time of day": pa.array([time(23, 59, 59)], pa.time32("ms")),
    "timestamp without": pa.array([datetime(2024, 2, 29, 23, 59, 59)], pa.timestamp("ms")),
    "timestamp with one": pa.array(
        [datetime(2024, 2, 29, 22, 59, 59, tzinfo=UTC)], pa.timestamp("ms", "Europe/Berlin")
    ),
    "duration": pa.array([timedelta(days=1, milliseconds=500)]),
}


@pytest.mark.parametrize("name", SHOWN)
def test_the_page_on_own_data_shows_what_is_written(name: str) -> None:
    (row,) = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| {name}")]
    shown = ", ".join(f"`{text}`" for text in to_texts(SHOWN[name]).to_pylist())
    assert row.rstrip(" |").endswith(shown)


def test_json_numbers_read_back_as_they_were() -> None:
    values = [4915112345678.0, 0.1, 3.0, 1e300]
    assert [json.loads(text) for text in to_texts(pa.array(values)).to_pylist()] == values
