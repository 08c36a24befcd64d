"""The fields that are proposed for a table, and what a job left open, found in it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from runner.config.fields import CategoryField, DateField, DatetimeField, FieldConfig, IntegerField, NumberField
from runner.data.schema import found
from runner.data.schema.completion import complete, complete_field
from runner.data.schema.found import ColumnSummary
from runner.data.schema.proposal import Proposal, propose, propose_unseen
from runner.data.schema.reading import MISSING
from runner.data.schema.schema import make_codec
from runner.errors import DataError
from tests.unit.test_found import COLUMNS, summary

FIELD: TypeAdapter[Any] = TypeAdapter(FieldConfig)
ROWS = 600
MOSTLY_A = ["a"] * 500 + [f"b{row % 11}" for row in range(99)]
DAYS = ["2001-01-01", "2024-02-29"]
CONTINUOUS = {"bins": 24, "exact": False, "outside": "clip"}
ORDER = np.random.default_rng(0).permutation(ROWS)


def summaries(table: pa.Table, fields: Mapping[str, FieldConfig] | None = None) -> dict[str, ColumnSummary]:
    return {
        column.name: ColumnSummary.of(column.name, (fields or {}).get(column.name), column.type).add(
            table[column.name].combine_chunks(), 0
        )
        for column in table.schema
    }


def proposed(values: Any, kind: pa.DataType | None = None, name: str = "x") -> Proposal:
    table = pa.table({name: pa.array(values, kind)})
    return propose(table.schema, summaries(table))[name]


def repeated(*values: Any) -> list[Any]:
    """`ROWS` of these in turn."""
    return [values[row % len(values)] for row in range(ROWS)]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (repeated("a", "b"), None, {"kind": "category", "values": ["a", "b"]}),
        (repeated("same"), None, {"kind": "category", "values": ["same"]}),
        (repeated(True, False), None, {"kind": "boolean"}),
        (repeated(7, 9), pa.int8(), {"kind": "integer", "range": [7, 9]}),
        (repeated(7.0, 9.0), None, {"kind": "integer", "range": [7, 9]}),
        (repeated(0), None, {"kind": "integer", "range": [0, 0]}),
        (repeated(0.25, 9.5), None, {"kind": "number", "range": [0.25, 9.5], "decimals": 2}),
        (repeated(Decimal("0.25"), Decimal("9.50")), None, {"kind": "number", "range": [0.25, 9.5], "decimals": 2}),
        (repeated(date(2001, 1, 1), date(2024, 2, 29)), None, {"kind": "date", "range": DAYS}),
        (repeated(datetime(2001, 1, 1), datetime(2024, 2, 29)), pa.timestamp("ns"), {"kind": "date", "range": DAYS}),
        (
            repeated(datetime(2001, 1, 1, 7, 30), datetime(2024, 2, 29)),
            pa.timestamp("us", "UTC"),
            {"kind": "datetime", "range": ["2001-01-01T07:30:00", "2024-02-29T00:00:00"], "resolution": "minute"},
        ),
        (repeated(time(7), time(8)), pa.time32("s"), {"kind": "category", "values": ["07:00:00", "08:00:00"]}),
        (
            ["a"] * 500 + [f"b{row % 11}" for row in range(99)],
            None,
            {"kind": "category", "values": ["a"], "outside": "rare"},
        ),
        # What is no text cannot be learned letter by letter.
        ([time(row // 60, row % 60) for row in ORDER], None, {"kind": "id"}),
        ((ORDER.astype(np.uint64) // 2 + 1) << 53, None, {"kind": "id"}),
        (ORDER // 2 * 10**18 / 7, None, {"kind": "id"}),
        # Texts are numbers where all are written so, in one way or several.
        (repeated("1", "2"), None, {"kind": "integer", "range": [1, 2]}),
        (repeated("1.0", "2.0"), None, {"kind": "integer", "range": [1, 2]}),
        (repeated("1.0", "2.25", "3.50"), None, {"kind": "number", "range": [1.0, 3.5], "decimals": 2}),
        (repeated("01", "02"), None, {"kind": "category", "values": ["01", "02"]}),
        (repeated(*DAYS), None, {"kind": "date", "range": DAYS}),
        ([str(row // 6) for row in ORDER], None, {"kind": "integer", "range": [1, 98], "bins": 24, "outside": "clip"}),
        ([f"{row // 10:03d}" for row in ORDER], None, {"kind": "category"}),
        ([f"{row // 6:03d}" for row in ORDER], None, {"kind": "text", "max_tokens": 10}),
        ([f"visit {row}" for row in ORDER], None, {"kind": "text", "max_tokens": 10}),
        # Numbers that all differ are keys where chance would have repeated some.
        (ORDER, None, {"kind": "id", "made": "sequence"}),
        (
            ORDER * 10**6,
            None,
            {"kind": "integer", "range": [9_000_000, 590_000_000], "bins": 24, "exact": False, "outside": "clip"},
        ),
        (ORDER / 1, None, {"kind": "integer", "range": [9, 590], "bins": 24, "exact": False, "outside": "clip"}),
        ([f"K-{row}" for row in ORDER], None, {"kind": "id", "made": "sequence"}),
        ([f"00010203-0405-0607-0809-{row:012x}" for row in ORDER], None, {"kind": "id", "made": "uuid"}),
        ([row.to_bytes(16, "big") for row in ORDER.tolist()], pa.uuid(), {"kind": "id", "made": "uuid"}),
        ((ORDER.astype(np.uint64) + 1) << 53, None, {"kind": "id", "made": "sequence"}),
    ],
)
def test_a_column_gets_the_kind_of_its_type_and_values(
    values: Any, kind: pa.DataType | None, expected: dict[str, Any]
) -> None:
    entry = proposed(values, kind).values
    assert list(entry.items()) == [*expected.items(), *([] if expected["kind"] == "id" else [("nullable", False)])]


def test_empty_texts_among_numbers_are_nulls() -> None:
    entry = proposed([*(str(row // 6) for row in ORDER), "", "", ""])
    assert entry.values == {"kind": "integer", "range": [1, 98], "bins": 24, "outside": "clip", "nullable": True}
    assert entry.note == (
        "101 distinct, 12 rows beyond the range, taken as its ends, 3 rows empty or of no value, taken as null"
    )
    for missing in MISSING:
        assert proposed(repeated("1", "2", missing)).values == {"kind": "integer", "range": [1, 2], "nullable": True}
    assert proposed(repeated("a", "NA", "")).values["values"] == ["", "NA", "a"]
    assert proposed([""] * ROWS).values == {"kind": "category", "values": [""], "nullable": False}
    told = summary(pa.array(["7", "", "12"]), 2, field=IntegerField(kind="integer", range=(0, 9)))
    assert (told.outside_examples, told.empty, [str(kind) for kind in told.ends]) == (("12",), 1, ["int64", "double"])
    field = IntegerField(kind="integer", range=(0, 12), nullable=False)
    with pytest.raises(DataError, match=r"1 of 3 values are empty, but fields\.x\.nullable is false"):
        complete({"x": field}, {"x": summary(pa.array(["7", "", "12"]), field=field)})


def test_nulls_are_said() -> None:
    for values in (["a", None], [True, None], [7.0, None], [date(2024, 2, 29), None]):
        assert proposed(repeated(*values)).values["nullable"] is True
    assert proposed([None] * ROWS, pa.float32()).values == {"kind": "category", "nullable": True}
    assert proposed([float("nan")] * ROWS).note == "no number in any row"


def test_a_name_says_that_numbers_are_keys() -> None:
    numbers = ORDER * 10**6
    assert [proposed(numbers, name=name).values["kind"] for name in ("customer_id", "CustomerID", "paid", "amid")] == [
        "id",
        "id",
        "integer",
        "integer",
    ]


def test_what_fewer_than_ten_rows_have_is_counted_and_not_named() -> None:
    entry = proposed(["often"] * 300 + ["secret"] * 9 + ["just"] * 10)
    assert entry.values == {"kind": "category", "values": ["just", "often"], "outside": "rare", "nullable": False}
    assert entry.note == "3 distinct, 9 rows with values of fewer than 10 rows, which are never generated"
    numbers = proposed([*range(5, 300), *[10**6] * 9, None, float("nan")], pa.float64())
    assert numbers.values["range"] == [14, 299]
    assert numbers.note == (
        "296 distinct, 18 rows beyond the range, taken as its ends, 1 row null, "
        "1 row not a number or infinite, taken as null"
    )


def test_floats_near_zero_are_numbers() -> None:
    assert proposed(ORDER * 1e-300).values["kind"] == "number"


def test_many_categories_are_left_to_be_found() -> None:
    entry = proposed(repeated(*(f"v{number}" for number in range(60))))
    assert entry.values == {"kind": "category", "nullable": False}
    assert entry.note == "60 distinct"


def test_a_million_distinct_texts_are_no_category(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(found, "MOST_VALUES", 100)
    several_words = proposed([f"visit {number // 2}" for number in ORDER])
    assert several_words.values["kind"] == "text"
    assert several_words.note.startswith("over 100,000 distinct")
    told = summary(pa.array([f"c{number}" for number in ORDER]))
    with pytest.raises(DataError, match=r"^column x has over 65,536 distinct values, too many .*; make it kind text"):
        complete_field(CategoryField(kind="category"), told)


@pytest.mark.parametrize("kind", COLUMNS)
@settings(max_examples=15)
@given(data=st.data())
def test_every_proposal_can_be_declared(kind: str, data: st.DataObject) -> None:
    arrow, values = COLUMNS[kind]
    some = data.draw(st.lists(st.none() | values, max_size=12))
    table = pa.table({"x": pa.array(some * data.draw(st.integers(1, 12)), arrow)})
    for entry in (propose(table.schema, summaries(table))["x"], propose_unseen(table.schema)["x"]):
        assert FIELD.validate_python(entry.values) == entry.field


def test_a_private_proposal_is_the_same_whatever_the_values() -> None:
    """By the types alone; of a dictionary, the values are no part of its type."""
    table = pa.table(
        {
            "flag": pa.array([True]),
            "small": pa.array([7], pa.int8()),
            "age": pa.array([49], pa.int64()),
            "paid": pa.array([Decimal("1.50")]),
            "sex": pa.array(["secret"]).dictionary_encode(),
        }
    )
    schema = table.schema.set(2, table.schema.field(2).with_nullable(False))
    entries = propose_unseen(schema)
    assert [entry.values for entry in entries.values()] == [
        {"kind": "boolean"},
        {"kind": "integer", "range": [-128, 127]},
        {"kind": "integer", "nullable": False},
        {"kind": "number", "decimals": 2},
        {"kind": "category"},
    ]
    assert "values: [A, B]" in entries["sex"].note


@settings(max_examples=30)
@given(st.lists(st.sampled_from("aabbbccd") | st.none(), max_size=80), st.integers(1, 12))
def test_values_that_come_through_are_those_of_min_count_records(values: list[str | None], min_count: int) -> None:
    counts = Counter(value for value in values if value is not None)
    kept = sorted(value for value, count in counts.items() if count >= min_count)
    field = CategoryField(kind="category", min_count=min_count)
    told = summary(pa.array(values, pa.string()))
    if counts and not kept and None not in values:
        with pytest.raises(DataError, match=r"none of its .* values is in .* records or more"):
            complete_field(field, told)
        return
    whole = complete_field(field, told)
    assert isinstance(whole.field, CategoryField)
    assert whole.field.values == tuple(kept)
    assert whole.rare_records == sum(counts.values()) - sum(counts[value] for value in kept)
    assert (whole.rare, whole.field.nullable) == (whole.rare_records > 0, None in values)


@settings(max_examples=30)
@given(st.lists(st.integers(-500, 500), min_size=20, max_size=200))
def test_a_range_that_was_found_gives_no_record_away(values: list[int]) -> None:
    whole = complete_field(IntegerField(kind="integer"), summary(pa.array(values, pa.int32())))
    assert isinstance(whole.field, IntegerField)
    assert whole.field.range is not None
    low, high = whole.field.range
    series = pd.Series(values)
    assert min((series <= low).sum(), (series >= high).sum()) >= 10
    assert whole.clipped == ((series < low) | (series > high)).sum()
    assert whole.field.outside == "clip"
    assert whole.values is not None
    assert whole.counts is not None
    clipped = series.clip(low, high).value_counts().sort_index()
    assert dict(zip(whole.values.tolist(), whole.counts.tolist(), strict=True)) == clipped.to_dict()
    often = clipped[(clipped >= 10) & (clipped >= 0.005 * len(series))]
    assert list(whole.frequent) == often.index.tolist()


@pytest.mark.parametrize(
    ("field", "values"),
    [
        (IntegerField(kind="integer"), pa.array(1_000_003 + 4_789 * np.arange(500))),
        (NumberField(kind="number"), pa.array(np.arange(500) * 7.13 + 0.11)),
        (NumberField(kind="number"), pa.array([f"{cents / 100:.2f}" for cents in range(10_007, 900_000, 1_779)])),
        (DatetimeField(kind="datetime"), pa.array(pd.date_range("2001-02-03 04:05:06.7", periods=500, freq="377min"))),
    ],
)
def test_a_bound_that_was_found_is_no_single_records_value(field: FieldConfig, values: pa.Array) -> None:
    whole = complete_field(field, summary(values))
    low, high = (str(bound).removesuffix(".0") for bound in whole.field.range)  # pyright: ignore
    texts = set(map(str, values.to_pylist()))
    assert not texts & {low, high}
    read = values.cast(pa.float64()) if pa.types.is_string(values.type) else values
    numbers = pd.Series(read.to_pandas())
    bounds = whole.field.range  # pyright: ignore
    assert whole.clipped == ((numbers < bounds[0]) | (numbers > bounds[1])).sum()
    assert 18 <= whole.clipped <= 22


@pytest.mark.parametrize(("sigma", "decimals"), [(1, None), (2.5, None), (2.5, 2), (4, None)])
def test_of_skewed_numbers_few_are_clipped_and_few_lose_their_digits(sigma: float, decimals: int | None) -> None:
    values = np.exp(np.random.default_rng(0).normal(3, sigma, 3_000))
    values = values if decimals is None else values.round(decimals)
    whole = complete_field(NumberField(kind="number"), summary(pa.array(values)))
    assert whole.clipped <= 45
    kept = values.round(whole.field.decimals)  # pyright: ignore
    middle = values > np.quantile(values, 0.25)
    assert (np.abs(kept - values) <= 0.01 * values)[middle].all()


def test_a_bound_that_ten_records_have_stays() -> None:
    field = complete_field(IntegerField(kind="integer"), summary(pa.array([3] * 10 + [99_999] * 10 + [10**6]))).field
    assert field.range == (3, 99_999)  # pyright: ignore


def test_numbers_are_counted_in_units_of_their_decimals() -> None:
    values = pa.array([0.1 + 0.2, 0.3, 1.25, 2.5] * 10)
    whole = complete_field(NumberField(kind="number"), summary(values))
    assert (whole.field.decimals, whole.field.range) == (2, (0.3, 2.5))  # pyright: ignore
    assert whole.values is not None
    assert whole.values.tolist() == [30, 125, 250]
    fewer = complete_field(NumberField(kind="number", decimals=1, range=(0, 5)), summary(values))
    assert fewer.values is not None
    assert (fewer.values.tolist(), fewer.rounded) == ([3, 12, 25], 10)
    thirds = complete_field(NumberField(kind="number"), summary(pa.array(np.arange(60) / 3)))
    assert (thirds.field.decimals, thirds.rounded) == (5, 40)  # pyright: ignore


def test_prices_of_a_list_are_values_of_their_own_and_lengths_are_not() -> None:
    prices = np.random.default_rng(0).choice(10**6, 900, replace=False)
    listed = complete_field(IntegerField(kind="integer"), summary(pa.array(np.repeat(prices, 12))))
    assert set(listed.frequent) == set(prices.tolist())
    lengths = complete_field(IntegerField(kind="integer"), summary(pa.array(np.repeat(np.arange(900), 12))))
    assert lengths.frequent == ()
    single = complete_field(IntegerField(kind="integer"), summary(pa.array(np.repeat(prices, 9))))
    assert single.frequent == ()


def test_moments_are_found_down_to_their_resolution() -> None:
    moments = pd.Series(pd.date_range("2024-02-29 07:00", periods=40, freq="90min"))
    whole = complete_field(DatetimeField(kind="datetime"), summary(pa.array(moments)))
    assert isinstance(whole.field, DatetimeField)
    assert whole.field.range == (moments[9], moments[30])
    assert (whole.field.resolution, whole.clipped) == ("minute", 18)
    hours = DatetimeField(kind="datetime", resolution="hour")
    assert complete_field(hours, summary(pa.array(moments))).rounded == 20


@pytest.mark.parametrize(
    ("field", "values", "words"),
    [
        (IntegerField(kind="integer"), ["a", "7"], "column x is string, and not each of its values is an integer"),
        (IntegerField(kind="integer"), [0.5] * 40, "column x is double, and not each of its values is an integer"),
        (NumberField(kind="number"), [True] * 40, "column x is bool, and not each of its values is a number"),
        (DateField(kind="date"), [7] * 40, "column x is int64, and not each of its values is a date"),
        (IntegerField(kind="integer"), [7] * 19, "column x has 19 values, too few to find a range"),
        (NumberField(kind="number", decimals=18), [99.0] * 40, "column x: numbers of more than 18 digits"),
    ],
)
def test_values_that_are_not_of_the_kind_are_refused(field: FieldConfig, values: list[Any], words: str) -> None:
    with pytest.raises(DataError) as caught:
        complete({"x": field}, {"x": summary(pa.array(values))})
    assert str(caught.value).startswith(words)
    assert len(str(caught.value).splitlines()) == 1


def test_what_fields_take_for_null_needs_no_quotes() -> None:
    told = {"kind": "integer", "range": [0, 1], "outside": None}
    assert IntegerField.model_validate(told) == IntegerField(kind="integer", range=(0, 1), outside="null")


def test_texts_that_nobody_looked_at_may_be_numbers_or_dates() -> None:
    entry = propose_unseen(pa.schema([("x", pa.string())]))["x"]
    for text in re.findall(r"\{.*?\}", entry.note):
        FIELD.validate_python(yaml.safe_load(text))
    assert [text.split(",")[0] for text in re.findall(r"kind: \w+", entry.note)] == [
        "kind: integer",
        "kind: number",
        "kind: date",
    ]
    assert entry.values == {"kind": "category"}


@pytest.mark.parametrize("years", [30, 83])
def test_the_bound_of_days_that_was_found_is_rounded_from_27_years_on(years: int) -> None:
    days = np.arange(3, 365 * years, 7)
    column = pa.array(days, pa.int32()).cast(pa.date32())
    field = complete_field(DateField(kind="date"), summary(column)).field
    assert isinstance(field, DateField)
    assert field.range is not None
    bounds = [(bound - date(1970, 1, 1)).days for bound in field.range]
    assert all(bound % 10 == 0 for bound in bounds)
    assert days[9] <= bounds[0] < days[9] + 10
    assert days[-10] - 10 < bounds[1] <= days[-10]


def test_whole_numbers_that_pandas_wrote_with_a_point_are_read_where_they_are_declared() -> None:
    codec = make_codec(IntegerField(kind="integer", range=(1956, 2013), outside="clip"), pa.field("x", pa.string()))
    read = codec.read(pa.array(["2010.0", "2011", "", "1.5", "-7.00"]))
    assert read.null.tolist() == [False, False, True, True, False]
    assert read.values[[0, 1, 4]].tolist() == [2010, 2011, 1956]
