"""Rows of a table as records: every row is one, with the types of its columns, however the files were cut."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from runner.config import DataConfig
from runner.data import units
from runner.data.files import list_files
from runner.data.records import read_records, read_unit
from runner.data.units import TablePlan, plan_table
from runner.errors import DataError
from tests.unit.parquet_files import texts, write

TYPES: dict[str, pa.Array] = {
    "small": pa.array([1, None, -3, 4, 5], pa.int8()),
    "price": pa.array([Decimal("1.50"), None, Decimal("0.01"), Decimal("9.99"), None], pa.decimal128(9, 2)),
    "seen": pa.array([datetime(2024, 1, day) for day in range(1, 6)], pa.timestamp("us", "Europe/Berlin")),
    "naive": pa.array([datetime(2024, 1, day) for day in range(1, 6)], pa.timestamp("ns")),
    "day": pa.array([date(2024, 1, day) for day in range(1, 6)]),
    "yes": pa.array([True, False, None, True, True]),
    "share": pa.array([0.5, None, 1.5, 2.5, -0.0], pa.float32()),
    "kind": pa.array(["a", "b", None, "a", "c"]).dictionary_encode(),
    "level": pa.DictionaryArray.from_arrays(pa.array([0, 1, 0, 1, 1], pa.int8()), ["low", "high"], ordered=True),
    "note": pa.array(["x", "", None, "y z", "é"], pa.large_string()),
    "a.b": pa.array(["1", "2", "3", "4", "5"]),
    "nothing": pa.nulls(5),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "records of ä"
    path.mkdir()
    return path


def plan(folder: Path, *columns: str) -> TablePlan:
    return plan_table(DataConfig(uri=str(folder)), list_files(str(folder)), columns or None)


def read(folder: Path, *columns: str, most: int | None = None) -> pa.Table:
    data, files = DataConfig(uri=str(folder), max_records=most), list_files(str(folder))
    schema = plan(folder, *columns).schema
    return pa.Table.from_batches([pa.RecordBatch.from_struct_array(rows) for rows in read_records(data, files, schema)])


def refusal(folder: Path, *columns: str) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, *columns)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_name_that_two_columns_have_is_refused_where_all_are_taken(folder: Path) -> None:
    write(folder / "a.parquet", pa.Table.from_arrays([pa.array(["x"]), pa.array([1])], names=["twice", "twice"]))
    with pytest.raises(DataError, match=r"/a.parquet: has 2 columns named twice; rename all but one"):
        plan(folder)


@pytest.mark.parametrize(("rows_per_unit", "rows_per_batch", "group"), [(100, 100, 100), (2, 3, 4), (1, 1, 1)])
def test_columns_come_with_their_own_types_and_values(
    folder: Path, monkeypatch: pytest.MonkeyPatch, rows_per_unit: int, rows_per_batch: int, group: int
) -> None:
    """As Arrow itself reads the files."""
    monkeypatch.setattr(units, "ROWS_PER_UNIT", rows_per_unit)
    monkeypatch.setattr(units, "ROWS_PER_BATCH", rows_per_batch)
    table = pa.table(TYPES)
    write(folder / "a.parquet", table, row_group_size=group)
    write(folder / "b.parquet", table.slice(1, 3), row_group_size=group)
    expected = pq.ParquetDataset(folder).read()
    found = read(folder)
    assert found.schema == expected.schema
    assert found.to_pylist() == expected.to_pylist()
    data = DataConfig(uri=str(folder))
    parts = [rows for unit in plan(folder).units for rows in read_unit(data, unit, plan(folder).schema)]
    assert [row for rows in parts for row in rows.to_pylist()] == expected.to_pylist()


def test_records_have_the_columns_asked_for_in_that_order_and_the_others_are_told(folder: Path) -> None:
    write(folder / "a.parquet", pa.table({"a": [{"b": 1}], "b": [1], "a.b": ["flat"], "c": [2]}))
    write(folder / "b.parquet", pa.table({"c": [4], "d": [9], "a.b": ["too"], "b": [3]}))
    assert read(folder, "c", "a.b").to_pylist() == [{"c": 2, "a.b": "flat"}, {"c": 4, "a.b": "too"}]
    assert plan(folder, "c", "a.b").left_out == ("a", "b", "d")


def test_columns_that_folders_give_are_texts(folder: Path) -> None:
    write(folder / "year=2024" / "a.parquet", pa.table({"n": [1, 2]}))
    write(folder / "year=__HIVE_DEFAULT_PARTITION__" / "a.parquet", pa.table({"n": [3]}))
    expected = pa.dataset.dataset(folder, partitioning=pa.dataset.partitioning(flavor="hive")).to_table()
    years = [None if year is None else str(year) for year in expected.column("year").to_pylist()]
    assert sorted(read(folder, "year", "n").column("year").to_pylist(), key=str) == sorted(years, key=str)
    assert read(folder, "year", "n").schema.field("year").type == pa.string()


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("empty", [pa.nulls(2), pa.nulls(2, pa.float64()), pa.nulls(2, pa.string())], ids=str)
def test_a_column_of_nothing_but_nulls_counts_as_one_of_any_type(folder: Path, empty: pa.Array, first: bool) -> None:
    write(folder / ("a.parquet" if first else "c.parquet"), pa.table({"n": empty}))
    write(folder / "b.parquet", pa.table({"n": pa.array([7, None], pa.int16())}))
    assert read(folder).schema.field("n").type == pa.int16()
    rows = [None, None, 7, None] if first else [7, None, None, None]
    assert read(folder).column("n").to_pylist() == rows


@pytest.mark.parametrize(
    ("kinds", "kind"),
    [
        ([pa.int32()], pa.int32()),
        ([pa.string(), pa.null(), pa.string()], pa.string()),
        ([pa.null()], pa.null()),
        ([pa.int32(), pa.string()], pa.null()),
    ],
)
def test_nulls_in_all_files_keep_the_type_that_all_give_them(
    folder: Path, kinds: list[pa.DataType], kind: pa.DataType
) -> None:
    for number, each in enumerate(kinds):
        write(folder / f"{number}.parquet", pa.table({"n": pa.nulls(3, each), "m": [1, 2, 3]}))
    assert plan(folder, "n", "m").schema.field("n").type == kind
    assert read(folder, "n", "m").column("n").null_count == 3 * len(kinds)


def test_whole_numbers_come_in_a_wider_type_that_a_schema_has(folder: Path) -> None:
    write(folder / "a.parquet", pa.table({"n": pa.array([7, None], pa.int8())}))
    data, wider = DataConfig(uri=str(folder)), pa.schema([("n", pa.int32())])
    (rows,) = read_records(data, list_files(str(folder)), wider)
    assert rows.field("n").equals(pa.array([7, None], pa.int32()))


def test_another_type_in_one_file_is_one_line_that_names_it(folder: Path) -> None:
    write(folder / "a.parquet", pa.table({"n": [1]}))
    write(folder / "b.parquet", pa.table({"n": ["1"]}))
    assert refusal(folder) == (
        f"{folder}/b.parquet: column n is string, but int64 in files before it; give it one type in all"
    )


def test_dictionaries_of_the_same_values_and_texts_of_any_width_are_one_type(folder: Path) -> None:
    small = pa.array(["a", None]).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string()))
    large = pa.array(["b", "a"]).dictionary_encode().cast(pa.dictionary(pa.int16(), pa.string()))
    write(folder / "a.parquet", pa.table({"kind": small, "note": texts(["x", "y"])}))
    write(folder / "b.parquet", pa.table({"kind": large, "note": pa.array(["z", None], pa.large_string())}))
    table = read(folder)
    assert table.schema.types == [pa.dictionary(pa.int16(), pa.string()), pa.string()]
    assert table.to_pydict() == {"kind": ["a", None, "b", "a"], "note": ["x", "y", "z", None]}


def test_a_column_that_a_file_lacks_or_that_holds_lists_is_one_line(folder: Path) -> None:
    write(folder / "a.parquet", pa.table({"n": [1], "l": [[1]]}))
    write(folder / "b.parquet", pa.table({"l": [[2]]}))
    assert refusal(folder, "n") == f"{folder}/b.parquet: no column n; found: l (list<element: int64>)"
    assert "column n is missing" in refusal(folder)
    assert f"{folder}/a.parquet: column l is list<" in refusal(folder, "l")


def test_a_row_of_nothing_but_nulls_is_a_record_and_counts(folder: Path) -> None:
    write(folder / "a.parquet", pa.table({"a": pa.array([None, 1, None, 2]), "b": texts([None, None, None, "x"])}))
    assert [read(folder, most=most).num_rows for most in (1, 2, 4, 9)] == [1, 2, 4, 4]
    assert all(rows.null_count == 0 for rows in read_records(*_inputs(folder)))


def test_required_columns_stay_required(folder: Path) -> None:
    schema = pa.schema([pa.field("a", pa.int64(), nullable=False), pa.field("b", pa.int64())])
    write(folder / "a.parquet", pa.table({"a": [1], "b": [2]}, schema=schema))
    assert plan(folder).schema == schema
    write(folder / "b.parquet", pa.table({"a": [1], "b": [2]}))
    assert plan(folder).schema == pa.schema([("a", pa.int64()), ("b", pa.int64())])


def test_rows_before_the_start_of_a_file_were_an_earlier_run_s(folder: Path) -> None:
    write(folder / "a.parquet", pa.table({"a": [1, 2, 3]}))
    data, files, schema = _inputs(folder)
    later = tuple(replace(file, start=2) for file in files)
    assert [row for rows in read_records(data, later, schema) for row in rows.to_pylist()] == [{"a": 3}]


def _inputs(folder: Path) -> tuple[DataConfig, tuple, pa.Schema]:
    return DataConfig(uri=str(folder)), list_files(str(folder)), plan(folder).schema
