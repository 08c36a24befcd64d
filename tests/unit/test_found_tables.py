"""Whole tables from a first look to tokens and back: every value that was not counted as lost comes back."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import statsmodels.api
from hypothesis import given, settings
from hypothesis import strategies as st
from vega_datasets import local_data

from runner.config import FieldConfig, parse_job
from runner.config.fields import TextField
from runner.data.schema import Schema
from runner.data.schema.completion import complete
from runner.data.schema.description import describe, in_lines
from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.data.schema.proposal import propose
from runner.data.schema.refusals import count_missing
from runner.data.texts import to_texts
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
