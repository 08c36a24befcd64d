"""Summaries of columns: the same whatever the order and the split, and right by pandas."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.config.fields import CategoryField, DateField, FieldConfig, IntegerField
from runner.data.schema import found
from runner.data.schema.found import ENDS, ColumnSummary
from runner.data.schema.reading import from_numbers, is_numeric, places_of, plain_type, to_numbers, written_types
from runner.data.texts import to_texts
from runner.errors import DataError

DAY = datetime.date(2024, 2, 29)
MOMENT = datetime.datetime(2024, 2, 29, 23, 59, 58)
COLUMNS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "integer": (pa.int16(), st.integers(-3, 40)),
    "wide": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "float": (pa.float64(), st.floats(width=16)),
    "decimal": (pa.decimal128(9, 2), st.decimals(-9, 9, places=2, allow_nan=False)),
    "date": (pa.date32(), st.dates(DAY)),
    "moment": (pa.timestamp("ms", "Europe/Berlin"), st.sampled_from([MOMENT, MOMENT.replace(second=0)])),
    "text": (pa.string(), st.text(max_size=2)),
    "written": (pa.string(), st.integers(-9, 99).map(str)),
    "gaps": (pa.string(), st.sampled_from(["", "NA", "7", "8.50", "9.25", "10", "3.0", " 4", "1e-05"])),
    "imported": (pa.string(), st.sampled_from(["", "2001-01-01", "2024-02-29"])),
    "category": (pa.dictionary(pa.int8(), pa.string()), st.sampled_from(["a", "b"])),
    "boolean": (pa.bool_(), st.booleans()),
    "bytes": (pa.binary(), st.sampled_from([b"x", b"yz"])),
    "null": (pa.null(), st.none()),
}


def summary(column: pa.Array, *cuts: int, field: FieldConfig | None = None) -> ColumnSummary:
    """Of a column that is cut at these rows, each part by itself, and added up from the last to the first."""
    parts = []
    for start, stop in zip([0, *cuts], [*cuts, len(column)], strict=True):
        parts.append(ColumnSummary.of("x", field, column.type).add(column.slice(start, stop - start), start))
    total = ColumnSummary.of("x", field, column.type)
    for part in reversed(parts):
        total = total + part
    return total


def plain(summary: ColumnSummary) -> Any:
    """All that a summary says."""
    counts = summary.counts()
    ends = {str(kind): (e.least.tolist(), e.largest.tolist(), e.places.tolist()) for kind, e in summary.ends.items()}
    sample = summary.sample.trimmed()
    return (
        (summary.rows, summary.nulls, summary.not_numbers, summary.empty, summary.longest),
        (summary.outside, summary.outside_examples),
        ends if summary.filled else None,
        None if counts is None else (counts[0].to_pylist(), counts[1].tolist()),
        (sample.keys.tolist(), sample.values.to_pylist()),
    )


@pytest.mark.parametrize("kind", COLUMNS)
@settings(max_examples=20)
@given(data=st.data())
def test_sums_are_the_same_whatever_the_order_and_the_split(kind: str, data: st.DataObject) -> None:
    arrow, values = COLUMNS[kind]
    column = pa.array(data.draw(st.lists(st.none() | values, max_size=40)), arrow)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(column)), max_size=4)))
    with pytest.MonkeyPatch.context() as patch:  # So that few rows reach the bounds of the memory.
        patch.setattr(found, "MOST_VALUES", 12)
        patch.setattr(found, "SAMPLE_ROWS", 6)
        patch.setattr(found, "ENDS", 3)
        assert plain(summary(column, *cuts)) == plain(summary(column))
        one_by_one = ColumnSummary.of("x", None, arrow)
        for start, stop in zip([0, *cuts], [*cuts, len(column)], strict=True):
            one_by_one = one_by_one.add(column.slice(start, stop - start), start)
        assert plain(one_by_one) == plain(summary(column))


@settings(max_examples=50)
@given(st.lists(st.none() | st.integers(-50, 50), min_size=1, max_size=300))
def test_counts_and_ends_are_those_of_pandas(values: list[int | None]) -> None:
    whole = summary(pa.array(values, pa.int64()), len(values) // 2)
    series = pd.Series(values, dtype="Int64")
    counts = whole.counts()
    assert counts is not None
    expected = series.value_counts().sort_index()
    assert dict(zip(counts[0].to_pylist(), counts[1].tolist(), strict=True)) == expected.to_dict()
    assert (whole.rows, whole.nulls, whole.values) == (len(series), series.isna().sum(), series.count())
    if whole.values:
        ends = whole.ends[pa.int64()]
        assert ends.least.tolist() == series.dropna().nsmallest(ENDS).tolist()
        assert ends.largest.tolist() == series.dropna().nlargest(ENDS).tolist()[::-1]


def test_beyond_the_bounds_of_memory_the_sample_stands_for_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of 50,000 rows are zero, the others all differ."""
    monkeypatch.setattr(found, "MOST_VALUES", 1_000)
    monkeypatch.setattr(found, "SAMPLE_ROWS", 4_000)
    numbers = np.where(np.arange(50_000) % 5 == 0, 0, np.random.default_rng(1).permutation(50_000) + 1)
    whole = summary(pa.array(numbers), *range(8_192, 50_000, 8_192))
    assert whole.counts() is None
    values, counts = whole.sampled()
    assert counts.sum() == 4_000
    assert counts[values.index(0).as_py()] / 4_000 == pytest.approx(0.2, abs=0.025)  # Four standard deviations.
    sampled = np.repeat(values.to_numpy(), counts)
    for share in (0.3, 0.5, 0.9):
        assert (numbers <= np.quantile(sampled, share)).mean() == pytest.approx(share, abs=0.035)


def test_long_texts_are_not_counted_beyond_the_bounds_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(found, "MOST_BYTES", 1_000)
    assert summary(pa.array(["a" * 250, "b" * 250, "c" * 250, "d" * 250])).counts() is not None
    assert summary(pa.array(["a" * 250, "b" * 250, "c" * 250, "d" * 251])).counts() is None


def test_what_a_declaration_rules_out_is_counted_and_shown() -> None:
    category = CategoryField(kind="category", values=("a", "b"))
    told = summary(pa.array(["a", "z", "y", "z", None]), 2, field=category)
    assert (told.outside, told.outside_examples, told.nulls) == (3, ("y", "z"), 1)
    texts = summary(pa.array(["7", "12", "many"]), field=IntegerField(kind="integer", range=(0, 9)))
    assert (texts.outside, texts.outside_examples) == (2, ("12", "many"))
    days = DateField(kind="date", range=(DAY, DAY))
    nanoseconds = pa.array([MOMENT, MOMENT + datetime.timedelta(seconds=2)], pa.timestamp("ns"))
    assert summary(nanoseconds, field=days).outside_examples == ("2024-03-01 00:00:00.000000000",)
    cents = pa.array([decimal.Decimal("9.00"), decimal.Decimal("9.01")])
    assert summary(cents, field=IntegerField(kind="integer", range=(0, 9))).outside == 1


def test_what_is_no_number_is_counted_apart_from_nulls() -> None:
    told = summary(pa.array([1.5, float("nan"), float("-inf"), None, -0.0, 0.0]))
    assert (told.rows, told.nulls, told.not_numbers, told.values) == (6, 1, 2, 3)
    counts = told.counts()
    assert counts is not None
    assert (counts[0].to_pylist(), counts[1].tolist()) == ([0.0, 1.5], [2, 1])


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array([[1]]), "column x is list<item: int64>, which no field can hold"),
        (pa.array([{"a": 1}]), "column x is struct<a: int64>, which no field can hold"),
        (pa.array([b"\xff"]), "column x holds bytes that are not valid UTF-8"),
        (pa.array([decimal.Decimal(10) ** 30]), "column x is decimal128(31, 0) and holds a number of more than 18"),
    ],
)
def test_what_no_field_can_hold_is_refused_in_a_line(column: pa.Array, words: str) -> None:
    with pytest.raises(DataError) as caught:
        summary(column)
    assert str(caught.value).startswith(words)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", [name for name, (arrow, _) in COLUMNS.items() if is_numeric(plain_type(arrow))])
@settings(max_examples=30)
@given(data=st.data())
def test_numbers_read_back_as_the_values(kind: str, data: st.DataObject) -> None:
    arrow, values = COLUMNS[kind]
    column = pa.array(data.draw(st.lists(values)), arrow)
    numbers = to_numbers(column)
    back = from_numbers(numbers, arrow)
    assert back.filter(numbers.is_valid()).equals(column.filter(numbers.is_valid()))


@settings(max_examples=40)
@given(st.lists(st.integers(-(10**9), 10**9).map(str) | st.decimals(-99, 99, places=2).map(str) | st.text(max_size=4)))
def test_texts_are_numbers_only_where_they_read_back(values: list[str]) -> None:
    """All but floats to the letter; floats by their values, as Python reads them."""
    texts = pa.array(values, pa.large_string())
    for kind, numbers in written_types(texts).items():
        if kind == pa.float64():
            assert numbers.to_pylist() == [float(value) for value in values]
        else:
            assert to_texts(from_numbers(numbers, kind)).equals(texts)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("007", []),
        ("", []),
        ("1e3", ["double"]),
        ("1e999", []),
        ("0x10", []),
        ("+1", []),
        (" 39 ", ["double"]),
        ("3 9", []),
        ("1,5", []),
        ("3.", []),
        ("-0", ["double"]),
        ("-7", ["int64", "double"]),
        ("85.40", ["decimal128(18, 2)", "double"]),
        ("85.4", ["decimal128(18, 1)", "double"]),
        ("2024-02-29", ["date32[day]"]),
        ("2024-02-30", []),
        ("2024-02-29 23:59:58", ["timestamp[s]"]),
    ],
)
def test_a_text_is_what_it_is_written_as(text: str, kinds: list[str]) -> None:
    assert [str(kind) for kind in written_types(pa.array([text], pa.large_string()))] == kinds


@settings(max_examples=100)
@given(st.floats(-1e6, 1e6))
def test_decimals_of_a_float_are_those_that_it_is_written_with(number: float) -> None:
    """Python writes the fewest digits that read back; a few units in the last place may be put aside."""
    written = -int(decimal.Decimal(repr(number)).normalize().as_tuple().exponent)
    place = int(places_of(np.array([number]), pa.float64())[0])
    assert place <= max(written, 0) or written > 18 or abs(number) * 10**written >= 2**53
    if place <= 18:
        assert abs(round(number, place) - number) <= 4 * np.spacing(abs(number))


def test_places_of_moments_and_decimals() -> None:
    day, hour = 86_400 * 10**9, 3_600 * 10**9
    moments = np.array([day, hour, 60 * 10**9, 10**9, 10**6, 10**3, 1, 0])
    assert places_of(moments, pa.timestamp("ns")).tolist() == [0, 1, 2, 3, 4, 5, 6, 0]
    assert places_of(np.array([150, 155, 200]), pa.decimal128(9, 2)).tolist() == [1, 2, 0]
    assert places_of(np.array([0.1 + 0.2, 1e20]), pa.float64()).tolist() == [1, 0]
