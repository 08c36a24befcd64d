"""The fields that are proposed for a table, and what a job left open, found in it."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from runner.config.fields import CategoryField, DateField, DatetimeField, FieldConfig, IntegerField, NumberField
from runner.data.schema import found
from runner.data.schema.completion import complete, complete_field
from runner.data.schema.found import ColumnSummary
from runner.data.schema.proposal import Proposal, propose, propose_unseen
from runner.errors import DataError
from tests.unit.test_found import summary

FIELD: TypeAdapter[Any] = TypeAdapter(FieldConfig)
ROWS = 600
NUMBERS = np.random.default_rng(0).permutation(ROWS)


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
        (repeated("a", "b"), None, {"kind": "category", "values": ["a", "b"], "nullable": False}),
        (repeated(True, None), None, {"kind": "boolean", "nullable": True}),
        (repeated(7, 9), pa.int8(), {"kind": "integer", "range": [7, 9], "nullable": False}),
        (repeated(7.0, 9.0, None), None, {"kind": "integer", "range": [7, 9], "nullable": True}),
        (repeated(0.25, 9.5), None, {"kind": "number", "range": [0.25, 9.5], "decimals": 2, "nullable": False}),
        (
            repeated(Decimal("0.25"), Decimal("9.50")),
            None,
            {"kind": "number", "range": [0.25, 9.5], "decimals": 2, "nullable": False},
        ),
        (
            repeated(datetime.date(2001, 1, 1), datetime.date(2024, 2, 29)),
            None,
            {"kind": "date", "range": ["2001-01-01", "2024-02-29"], "nullable": False},
        ),
        (
            repeated(datetime.datetime(2001, 1, 1), datetime.datetime(2024, 2, 29)),
            pa.timestamp("ns"),
            {"kind": "date", "range": ["2001-01-01", "2024-02-29"], "nullable": False},
        ),
        (
            repeated(datetime.datetime(2001, 1, 1, 7, 30), datetime.datetime(2024, 2, 29)),
            pa.timestamp("us", "UTC"),
            {
                "kind": "datetime",
                "range": ["2001-01-01T07:30:00", "2024-02-29T00:00:00"],
                "resolution": "minute",
                "nullable": False,
            },
        ),
        (repeated(datetime.time(7), datetime.time(8)), None, {"kind": "category", "values": ["07:00:00.000000", "08:00:00.000000"], "nullable": False}),
        ([None] * ROWS, pa.float32(), {"kind": "category", "nullable": True}),
        (repeated("same"), None, {"kind": "category", "values": ["same"], "nullable": False}),
        (repeated(0), None, {"kind": "integer", "range": [0, 0], "nullable": False}),
        # Codes stay texts, as do numbers that are written in another way; others are numbers.
        (repeated("1", "2"), None, {"kind": "category", "values": ["1", "2"], "nullable": False}),
        (repeated("2024-02-29", "2001-01-01"), None, {"kind": "date", "range": ["2001-01-01", "2024-02-29"], "nullable": False}),
        ([str(number // 6) for number in NUMBERS], None, {"kind": "integer", "range": [1, 98], "outside": "clip", "nullable": False}),
        ([f"{number // 6:03d}" for number in NUMBERS], None, {"kind": "text", "max_tokens": 10, "nullable": False}),
        # Keys: no two rows are the same, though chance would have repeated some.
        (NUMBERS, None, {"kind": "id", "made": "sequence"}),
        ([f"K-{number}" for number in NUMBERS], None, {"kind": "id", "made": "sequence"}),
        ([f"00010203-0405-0607-0809-{number:012x}" for number in NUMBERS], None, {"kind": "id", "made": "uuid"}),
        ([number.to_bytes(16, "big") for number in NUMBERS.tolist()], pa.uuid(), {"kind": "id", "made": "uuid"}),
        ([f"row {number}" for number in NUMBERS], None, {"kind": "text", "max_tokens": 10, "nullable": False}),
        (NUMBERS * 10**6, None, {"kind": "integer", "range": [9_000_000, 590_000_000], "outside": "clip", "nullable": False}),
        (NUMBERS / 1, None, {"kind": "integer", "range": [9, 590], "outside": "clip", "nullable": False}),
    ],
)  # fmt: skip
def test_a_column_gets_the_kind_of_its_type_and_values(
    values: Any, kind: pa.DataType | None, expected: dict[str, Any]
) -> None:
    entry = proposed(values, kind).values
    assert entry == expected
    assert list(entry)[-1] == list(expected)[-1]


def test_a_name_says_that_numbers_are_keys() -> None:
    numbers = NUMBERS * 10**6
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


def test_many_categories_are_left_to_be_found() -> None:
    entry = proposed(repeated(*(f"v{number}" for number in range(60))))
    assert entry.values == {"kind": "category", "nullable": False}
    assert entry.note == "60 distinct"


def test_a_million_distinct_texts_are_no_category(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(found, "MOST_VALUES", 100)
    several_words = proposed([f"visit {number // 2}" for number in NUMBERS])
    assert several_words.values["kind"] == "text"
    assert several_words.note.startswith("over 100 distinct")
    told = summary(pa.array([f"c{number}" for number in NUMBERS]))
    with pytest.raises(DataError, match=r"^column x has over 100 distinct values, too many .*; list its values, or"):
        complete_field(CategoryField(kind="category"), told)


@settings(max_examples=25)
@given(
    st.fixed_dictionaries(
        {
            "a": st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=30, max_size=30),
            "b": st.lists(st.none() | st.floats(width=32), min_size=30, max_size=30),
            "c": st.lists(st.none() | st.text("ab", max_size=2), min_size=30, max_size=30),
            "d": st.lists(st.none() | st.dates(), min_size=30, max_size=30),
            "e": st.lists(st.none() | st.datetimes(), min_size=30, max_size=30),
            "f": st.lists(st.none() | st.booleans(), min_size=30, max_size=30),
            "g": st.lists(st.none() | st.decimals(-9, 9, places=3), min_size=30, max_size=30),
        }
    )
)
def test_every_proposal_can_be_declared(values: dict[str, list[Any]]) -> None:
    kinds = [
        pa.int64(),
        pa.float32(),
        pa.string(),
        pa.date32(),
        pa.timestamp("us"),
        pa.bool_(),
        pa.decimal128(9, 3),
    ]
    table = pa.table({name: pa.array(values[name], kind) for name, kind in zip(values, kinds, strict=True)})
    for entry in propose(table.schema, summaries(table)).values():
        assert FIELD.validate_python(entry.values) == entry.field
    for entry in propose_unseen(table.schema).values():
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
    entries = propose_unseen(table.schema)
    assert [entry.values for entry in entries.values()] == [
        {"kind": "boolean", "nullable": True},
        {"kind": "integer", "range": [-128, 127], "nullable": True},
        {"kind": "integer", "nullable": True},
        {"kind": "number", "decimals": 2, "nullable": True},
        {"kind": "category", "nullable": True},
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
        with pytest.raises(DataError, match="none of its .* values is in .* records or more"):
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
