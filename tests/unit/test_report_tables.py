"""Rows of a table in the report: columns by the schema, copies by their values, files with the types back."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.config import JobConfig, parse_job
from runner.config.fields import DatetimeField
from runner.data.files import list_files
from runner.data.schema import Schema
from runner.data.schema.completion import declared
from runner.data.schema.schema import make_codec
from runner.data.survey import survey_table
from runner.errors import DataError
from runner.generation.output import to_csv, to_jsonl, to_parquet
from runner.generation.records import hash_texts
from runner.generation.training_records import hash_records
from runner.report.compare import choose_layout, compare_records
from runner.report.real import RealRecords, find_copies, read_real_records, texts_of
from runner.report.synthetic import SyntheticRecords, read_table
from runner.report.table import TableLayout
from tests.table_records import LEARNED, MADE, table_job, table_rows, write_table


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("records"), count=400, files=3)


@pytest.fixture(scope="module")
def config(folder: Path) -> JobConfig:
    return parse_job(table_job("demo", folder, "runs"), environment={})


@pytest.fixture(scope="module")
def schema(folder: Path, config: JobConfig) -> Schema:
    assert config.fields is not None
    found = survey_table(config.data, list_files(str(folder)), config.fields).schema
    assert found is not None
    return found


@pytest.fixture(scope="module")
def real(folder: Path, config: JobConfig, schema: Schema) -> RealRecords:
    return read_real_records(config, list_files(str(folder)), None, schema)


def test_training_and_holdout_rows_are_all_rows_once(folder: Path, real: RealRecords) -> None:
    assert isinstance(real.training, pa.Table)
    assert isinstance(real.holdout, pa.Table)
    assert (real.training.num_rows, real.holdout.num_rows) == (real.training_records, real.holdout_records)
    together = [tuple(row.values()) for part in (real.training, real.holdout) for row in part.to_pylist()]
    rows = [tuple(row.values()) for row in pq.read_table(folder, columns=LEARNED).to_pylist()]
    assert sorted(together, key=str) == sorted(rows, key=str)


def test_copies_of_training_rows_are_found_whatever_their_id(config: JobConfig, real: RealRecords) -> None:
    assert isinstance(real.training, pa.Table)
    assert find_copies(config, real, texts_of(real.training)).all()
    places = real.training.column_names.index("price"), real.training.schema.field("price")
    changed = real.training.set_column(*places, pa.array([Decimal("77.77")] * real.training.num_rows, places[1].type))
    assert not find_copies(config, real, texts_of(changed)).any()


def test_columns_have_the_kinds_of_their_fields_and_moments_are_days(schema: Schema) -> None:
    layout = TableLayout.of(schema)
    assert {column.name: column.kind for column in layout.columns} == {
        **dict.fromkeys(("age", "price", "seen", "joined"), "number"),
        **dict.fromkeys(("active", "plan"), "category"),
        "note": "text",
    }
    days = {column.name: column for column in layout.columns}
    rows = table_rows(3).set_column(4, MADE.field("joined"), pa.array([date(1970, 1, 3), None, date(2000, 1, 1)]))
    values = [row[layout.names.index("joined")] for row in layout.split(rows.select(LEARNED))]
    assert np.array_equal(days["joined"].numbers(values), [2.0, np.nan, 10957.0], equal_nan=True)
    assert days["joined"].show(10957) == "2000-01-01"
    assert days["seen"].show(10957.5) == str(np.datetime64(datetime(2000, 1, 1, 12), "m"))


def test_texts_of_any_form_are_days() -> None:
    field = declared({"seen": DatetimeField(kind="datetime", range=(datetime(1970, 1, 1), datetime(1980, 1, 1)))})[
        "seen"
    ]
    field = replace(field, field=field.field.model_copy(update={"resolution": "hour", "format": "%Y-%m-%dT%H:%MZ"}))
    layout = TableLayout.of(Schema((make_codec(field.field, pa.field("seen", pa.string()), field),), (True,)))
    texts = pa.table({"seen": ["1970-01-02T12:00Z", None, ""]})
    assert [row[0] for row in layout.split(texts)] == ["1.5", "", ""]


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_files_come_back_with_the_schema_s_types(suffix: str, schema: Schema, tmp_path: Path) -> None:
    rows = table_rows(50).select(MADE.names)
    if suffix == "csv":
        rows = rows.set_column(7, "note", pa.array(["x", None] * 25))  # CSV has one empty field for two.
    encode = {"parquet": to_parquet, "csv": to_csv, "jsonl": to_jsonl}[suffix]
    (tmp_path / f"a.{suffix}").write_bytes(encode(rows))
    table = read_table(str(tmp_path / f"a.{suffix}"), schema).table
    assert table is not None
    assert table.schema.types == [MADE.field(name).type for name in LEARNED]
    assert table.to_pylist() == rows.select(LEARNED).to_pylist()


def test_a_file_with_other_columns_or_values_is_one_line(schema: Schema, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(to_csv(table_rows(3).select(LEARNED[1:])))
    with pytest.raises(DataError, match="the run's records have age, price"):
        read_table(str(tmp_path / "a.csv"), schema)
    odd = table_rows(2).select(LEARNED).set_column(0, "age", pa.array(["old", "9"]))
    (tmp_path / "b.csv").write_bytes(to_csv(odd))
    with pytest.raises(DataError, match="column age is not int8") as caught:
        read_table(str(tmp_path / "b.csv"), schema)
    assert len(str(caught.value).splitlines()) == 1


def test_the_same_rows_are_at_no_distance(config: JobConfig, real: RealRecords) -> None:
    assert isinstance(real.training, pa.Table)
    synthetic = SyntheticRecords((), "a copy", table=real.training)
    quality = compare_records(config, real, synthetic, choose_layout(config, real, None), None)
    assert [column.distance for column in quality.columns] == [0.0] * len(LEARNED)
    assert quality.synthetic_copies == 1.0
    assert quality.fields_share is None
    assert quality.fields == len(LEARNED)


def test_copies_are_found_however_numbers_and_days_are_written(tmp_path: Path) -> None:
    numbers, days = ["0.0", "0", " 1.50", "", "NA"] * 12, ["02.01.2024", "03.01.2024", "", "04.01.2024", "?"] * 12
    (tmp_path / "records").mkdir()
    rows = pa.table({"paid": numbers, "day": days, "code": ["0.0", "0", "", "", "x"] * 12})
    pq.write_table(rows, tmp_path / "records" / "a.parquet")
    fields = {
        "paid": {"kind": "number", "range": [0, 2], "decimals": 1},
        "day": {"kind": "date", "range": ["2024-01-01", "2024-12-31"], "format": "%d.%m.%Y"},
        "code": {"kind": "category"},
    }
    job = {"name": "x", "data": {"uri": str(tmp_path / "records")}, "fields": fields}
    config = parse_job(job | {"training": {"batch_size": 5}}, environment={})
    files = list_files(config.data.uri)
    assert config.fields is not None
    schema = survey_table(config.data, files, config.fields).schema
    assert schema is not None
    written = [("0", "02.01.2024", "0.0"), ("0", "03.01.2024", "0"), ("1.5", None, ""), (None, None, "x")]
    made = pa.table([pa.array(column) for column in zip(*written, strict=True)], schema.learned)
    real = read_real_records(config, files, None, schema)
    assert set(texts_of(made)) <= {*texts_of(real.training), *texts_of(real.holdout)}
    assert find_copies(config, real, texts_of(made)).all()
    hashes = hash_records(config.data, schema=schema)
    assert np.isin(hash_texts(list(texts_of(made))), hashes).all()
    (tmp_path / "a.csv").write_text("paid,day,code\n0.00,02.01.2024,0.0\n1.50,,x\n")
    table = read_table(str(tmp_path / "a.csv"), schema).table
    assert table is not None
    assert table.to_pylist()[0] == {"paid": "0", "day": "02.01.2024", "code": "0.0"}
