"""Whole tables from a first look to tokens and back: every value that was not counted as lost comes back."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import statsmodels.api
from hypothesis import given, settings
from hypothesis import strategies as st
from vega_datasets import local_data

from runner.config import FieldConfig, parse_job
from runner.config.fields import CategoryField, TextField
from runner.data.files import list_files
from runner.data.schema import Schema
from runner.data.schema.completion import complete
from runner.data.schema.description import describe, in_lines
from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.data.schema.proposal import propose
from runner.data.schema.refusals import count_missing
from runner.data.survey import survey_table
from runner.data.texts import to_texts
from runner.errors import DataError
from runner.train.facade import _check_enough
from tests.unit.test_found import COLUMNS
from tests.unit.test_proposal import summaries

VEGA = ["airports", "cars", "seattle_weather", "stocks", "seattle_temps"]
STATSMODELS = ["anes96", "fair", "modechoice", "randhie"]


def table_named(name: str) -> pa.Table:
    """A table that came with a package."""
    if name in VEGA:
        return pa.Table.from_pandas(getattr(local_data, name)(), preserve_index=False)
    frame = getattr(statsmodels.api.datasets, name).load_pandas().data
    return pa.Table.from_pandas(frame, preserve_index=False)


def fields_of(table: pa.Table, *, is_open: bool) -> dict[str, FieldConfig]:
    """As a job file would have them; open: with nothing but their kinds, so that the rest is found."""
    entries = {name: entry.values for name, entry in propose(table.schema, summaries(table)).items()}
    if is_open:
        entries = {name: {"kind": entry["kind"]} for name, entry in entries.items()}
    fields = parse_job({"name": "x", "data": {"uri": "x"}, "fields": entries}, environment={}).fields
    assert fields is not None
    return fields


def changed(came: pa.Array, column: pa.Array) -> int:
    """Values that are not what they were. 0.30000000000000004 may come back as 0.3, and a text 8.50 as 8.5."""
    if pa.types.is_floating(column.type):
        before, after = column.to_pandas(), came.to_pandas()
        same = ((after - before).abs() <= 1e-14 * before.abs()) | (before.isna() & came.is_null().to_pandas())
        return int((~same | (before.isna() & column.is_valid().to_pandas())).sum())
    before, after = to_texts(column).to_pandas(), to_texts(came).to_pandas()
    same_numbers = pd.to_numeric(before, errors="coerce") == pd.to_numeric(after, errors="coerce")
    return int(((before != after) & ~(before.isna() & after.isna()) & ~same_numbers).sum())


def check_round_trip(table: pa.Table, *, is_open: bool) -> None:
    """As many values change as were counted."""
    fields = fields_of(table, is_open=is_open)
    told = summaries(table, fields)
    schema = Schema.of(fields, table.schema, complete(fields, told))
    tokenizer = FieldTokenizer(schema)
    flat, lengths = tokenizer.encode_batch(table.to_struct_array().combine_chunks())
    back = tokenizer.decode_batch(np.split(flat, lengths.cumsum()[:-1]))
    described = describe(fields, schema, told)
    for entry in described:
        name, field, column = entry["column"], fields[entry["column"]], table[entry["column"]].combine_chunks()
        if field.kind == "id":
            continue
        came = back.field(back.type.get_field_index(name))
        assert came.type == column.type
        lost = entry.get("rare", 0) + entry.get("clip", 0) + count_missing(field, told[name]) - told[name].nulls
        if not getattr(field, "exact", True):
            continue
        if isinstance(field, TextField):
            lost = int((column.cast(pa.binary()).to_pandas().dropna().str.len() > field.max_tokens).sum())
        assert lost <= changed(came, column) <= lost + entry.get("rounded", 0)
    assert len(list(in_lines(described))) == len(table.schema) + 1


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("name", [*VEGA, *STATSMODELS])
def test_a_table_comes_back_but_for_what_was_counted(name: str, is_open: bool) -> None:
    check_round_trip(table_named(name), is_open=is_open)


@pytest.mark.parametrize("kind", COLUMNS)
@settings(max_examples=10)
@given(data=st.data())
def test_any_column_comes_back_but_for_what_was_counted(kind: str, data: st.DataObject) -> None:
    arrow, values = COLUMNS[kind]
    some = data.draw(st.lists(st.none() | values, min_size=1, max_size=8))
    rows = pa.array(some * data.draw(st.integers(10, 12)), arrow)
    check_round_trip(pa.table({"x": rows, "y": pa.array(["a"] * len(rows))}), is_open=False)


def surveyed(folder: Path, column: pa.Array, entry: dict[str, Any], **sections: Any) -> FieldTokenizer | None:
    """What a job makes of a file of one column; None where something is to be bought first."""
    pq.write_table(pa.table({"x": column}), folder / "a.parquet")
    job = parse_job({"name": "x", "data": {"uri": str(folder)}, "fields": {"x": entry}} | sections, environment={})
    assert job.fields is not None
    files = list_files(job.data.uri)
    schema = survey_table(job.data, files, job.fields, is_private=job.privacy.enabled).schema
    return None if schema is None else FieldTokenizer(schema)


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "integer", "range": [0, 9], "outside": "null"},
        {"kind": "integer", "outside": "null"},
        {"kind": "category", "values": ["1"], "outside": "null"},
        {"kind": "category", "outside": "null"},
    ],
)
def test_values_that_become_null_make_a_field_nullable(tmp_path: Path, entry: dict[str, Any]) -> None:
    column = pa.array([*range(40)] + [1] * 20)
    tokenizer = surveyed(tmp_path, column, entry)
    assert tokenizer is not None
    flat, lengths = tokenizer.encode_batch(pa.table({"x": column}).to_struct_array().combine_chunks())
    back = tokenizer.decode_batch(np.split(flat, lengths.cumsum()[:-1])).field(0)
    assert 0 < back.null_count < len(column)


PRIVATE: dict[str, Any] = {"enabled": True, "target_epsilon": 8.0}


@pytest.mark.parametrize(
    ("column", "entry", "line"),
    [
        (["01046", "17"], {"kind": "integer", "range": [0, 99999]}, "not each of its values is an integer"),
        ([1.5, 2.0], {"kind": "integer", "range": [0, 9], "outside": "clip"}, "not each of its values is an integer"),
        ([datetime(2020, 1, 1, 5)], {"kind": "date", "range": ["2020-01-01", "2020-12-31"]}, "is a date"),
        ([0.5], {"kind": "datetime", "range": ["2020-01-01", "2020-12-31"]}, "not each of its values is a datetime"),
        ([True], {"kind": "datetime", "range": ["2020-01-01", "2020-12-31"], "outside": "clip"}, "cannot be looked up"),
        (["1.5"], {"kind": "number", "range": [0, 9]}, "its decimals cannot be looked up"),
        ([1.5], {"kind": "text", "tokenizer": "char", "alphabet": "ab"}, "which is no text"),
    ],
)
def test_private_columns_that_are_not_what_they_are_declared_are_refused_before_anything_is_bought(
    tmp_path: Path, column: list[Any], entry: dict[str, Any], line: str
) -> None:
    with pytest.raises(DataError, match=line):
        surveyed(tmp_path, pa.array(column * 40), entry, privacy=PRIVATE)


def test_a_column_without_values_can_be_a_text() -> None:
    schema = Schema.of({"x": TextField(kind="text")}, pa.schema([("x", pa.null())]))
    tokenizer = FieldTokenizer(schema)
    flat, _ = tokenizer.encode_batch(pa.table({"x": pa.nulls(1)}).to_struct_array().combine_chunks())
    assert tokenizer.decode_batch([flat]).field(0).equals(pa.nulls(1))
    with pytest.raises(DataError, match="null in every row, by its type: 'a' is no value of it"):
        Schema.of({"x": CategoryField(kind="category", values=("a",))}, schema.arrow)


def test_a_text_of_characters_is_made_of_texts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="column x is int64, which is no text"):
        surveyed(tmp_path, pa.array(range(40)), {"kind": "text", "tokenizer": "char"})


def test_a_refused_value_of_any_type_is_shown() -> None:
    schema = Schema.of({"x": CategoryField(kind="category", values=("a",))}, pa.schema([("x", pa.string_view())]))
    with pytest.raises(DataError, match="such as 'b'"):
        schema.codecs[0].encode(pa.array(["a", "b"], pa.string_view()))


@pytest.mark.parametrize("batch_size", [1, 64])
def test_a_table_of_one_row_is_said_to_be_one(batch_size: int) -> None:
    job = {"name": "one", "data": {"uri": "r/"}, "fields": {"a": {"kind": "boolean"}}}
    config = parse_job(job | {"training": {"batch_size": batch_size}}, environment={})
    with pytest.raises(DataError, match=r"r/: the table has one row, which cannot be for training and for validation;"):
        _check_enough(config, 1, "records")
