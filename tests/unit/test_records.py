"""Parquet to records: all of them, once, in order; what cannot be used is named by file and row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.config import DataConfig
from runner.data import records
from runner.data.records import Survey, list_files, plan_units, read_unit, survey_records
from runner.errors import DataError, StorageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "records of ä"
    path.mkdir()
    return path


def write(path: Path, rows: Any, *, column: str = "text", **options: Any) -> Path:
    """A Parquet file of one column, or of a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = rows if isinstance(rows, pa.Table) else pa.table({column: rows})
    pq.write_table(table, path, **options)
    return path


def texts(values: Sequence[str | None]) -> pa.Array:
    return pa.array(values, pa.string())


def bytes_as_text(values: Sequence[bytes]) -> pa.Array:
    """A string array that may hold what is not UTF-8, as some writers leave it."""
    binary = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(binary), binary.buffers())


def survey(data: DataConfig) -> Survey:
    return survey_records(data, list_files(data.uri))


def read_all(data: DataConfig) -> list[str | None]:
    """All rows by way of the units, which must follow one another without a gap."""
    found: list[str | None] = []
    for unit in plan_units(data, list_files(data.uri)):
        assert unit.first_row == len(found)
        rows = [text for array in read_unit(data, unit) for text in array.to_pylist()]
        assert len(rows) == unit.stop - unit.start <= records.ROWS_PER_UNIT
        found += rows
    return found


def refusal(data: DataConfig) -> str:
    with pytest.raises(DataError) as caught:
        survey(data)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert caught.value.exit_code == 2
    return message


# Which files


def test_a_missing_and_an_empty_folder_have_no_records(folder: Path) -> None:
    for uri in (str(folder), str(folder / "nowhere")):
        with pytest.raises(DataError, match="no Parquet files") as caught:
            list_files(uri)
        assert str(caught.value).startswith(uri)
        assert "runner import" in str(caught.value)


def test_a_file_in_place_of_a_folder_is_refused_in_one_line(folder: Path) -> None:
    path = write(folder / "a.parquet", texts(["x"]))
    with pytest.raises((DataError, StorageError)) as caught:
        list_files(str(path))
    assert "a.parquet" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_files_come_sorted_by_name_from_all_depths(folder: Path) -> None:
    for name in ("b.parquet", "a.parquet", "year=2024/c.parquet", "B.parquet", "10.parquet", "9.parquet"):
        write(folder / name, texts([name]))
    names = [file.name for file in list_files(str(folder))]
    assert names == ["10.parquet", "9.parquet", "B.parquet", "a.parquet", "b.parquet", "year=2024/c.parquet"]
    assert read_all(DataConfig(uri=str(folder))) == names


def test_other_tools_notes_are_not_records(folder: Path) -> None:
    write(folder / "a.parquet", texts(["x"]))
    for name in ("_SUCCESS", "_metadata.parquet", ".hidden.parquet", "notes.txt", "_temporary/b.parquet",
                 ".spark/c.parquet", "a.parquet.crc"):  # fmt: skip
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"not Parquet")
    assert [file.name for file in list_files(str(folder))] == ["a.parquet"]


def test_a_fingerprint_follows_the_content_and_nothing_else(folder: Path) -> None:
    path = write(folder / "a.parquet", texts(["x", "y"]))
    (before,) = list_files(str(folder))
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    assert list_files(str(folder)) == (before,)
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    path.write_bytes(bytes(changed))
    (after,) = list_files(str(folder))
    assert (after.name, after.size) == (before.name, before.size)
    assert after.fingerprint != before.fingerprint


# What cannot be used


def test_a_missing_column_is_answered_with_those_that_were_found(folder: Path) -> None:
    write(folder / "a.parquet", pa.table({"id": [1], "note": ["x"]}))
    message = refusal(DataConfig(uri=str(folder)))
    assert message == f"{folder}/a.parquet: no column text; found: id (int64), note (string)"


def test_a_column_missing_in_one_file_of_many_names_that_file(folder: Path) -> None:
    for name in "abcd":
        write(folder / f"{name}.parquet", texts(["x"]), column="other" if name == "c" else "text")
    assert refusal(DataConfig(uri=str(folder))).startswith(f"{folder}/c.parquet: no column text")


@pytest.mark.parametrize(
    "array",
    [
        pa.array([1]),
        pa.array([1.5]),
        pa.array([b"x"]),
        pa.array([["x"]]),
        pa.array([{"a": "x"}]),
        pa.array([1]).dictionary_encode(),
        pa.array([True]),
        pa.array([None]),
    ],
    ids=str,
)
def test_a_column_that_is_not_text_is_refused_by_its_type(folder: Path, array: pa.Array) -> None:
    write(folder / "a.parquet", array)
    message = refusal(DataConfig(uri=str(folder)))
    assert message.startswith(f"{folder}/a.parquet: column text is ")
    assert "not text" in message


@pytest.mark.parametrize("content", [b"", b"not Parquet at all", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_a_file_that_is_not_parquet_is_named(folder: Path, content: bytes) -> None:
    write(folder / "a.parquet", texts(["x"]))
    (folder / "b.parquet").write_bytes(content)
    assert refusal(DataConfig(uri=str(folder))).startswith(f"{folder}/b.parquet: not a readable Parquet file")


def test_a_torn_file_is_named(folder: Path) -> None:
    path = write(folder / "a.parquet", texts(["x" * 50] * 100))
    path.write_bytes(path.read_bytes()[:-20])
    assert refusal(DataConfig(uri=str(folder))).startswith(f"{folder}/a.parquet: not a readable Parquet file")


def test_storage_that_is_away_is_no_fault_of_the_records(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow's own words, seen where nothing answered at the endpoint."""
    write(folder / "a.parquet", texts(["a"]))

    def away(*_: Any, **__: Any) -> None:
        raise OSError("When reading information for key 'a.parquet': AWS Error NETWORK_CONNECTION: curlCode: 7")

    monkeypatch.setattr(records.pq, "ParquetFile", away)
    with pytest.raises(StorageError, match="NETWORK_CONNECTION"):
        survey(DataConfig(uri=str(folder)))


def test_a_damaged_page_is_found_and_its_file_named(folder: Path) -> None:
    write(folder / "a.parquet", texts(["x"]))
    rows = texts([f"record {number}" for number in range(20_000)])
    path = write(folder / "b.parquet", rows, use_dictionary=False, compression="zstd")
    content = bytearray(path.read_bytes())
    content[2_000:2_200] = bytes(200)
    path.write_bytes(bytes(content))
    assert refusal(DataConfig(uri=str(folder))).startswith(f"{folder}/b.parquet: corrupt Parquet near row ")


@pytest.mark.parametrize("bad", [0, 1, 9_000, 19_999])
def test_a_text_that_is_not_utf8_is_named_by_file_and_row(
    folder: Path, monkeypatch: pytest.MonkeyPatch, bad: int
) -> None:
    monkeypatch.setattr(records, "ROWS_PER_UNIT", 7_000)
    values = [b"good"] * 20_000
    values[bad] = b"caf\xe9"
    write(folder / "a.parquet", texts(["good"] * 10))
    write(folder / "b.parquet", bytes_as_text(values), use_dictionary=False, row_group_size=3_000)
    message = refusal(DataConfig(uri=str(folder)))
    assert message == f"{folder}/b.parquet: row {bad} of column text is not valid UTF-8"


def test_a_joined_field_that_is_not_utf8_is_named_too(folder: Path) -> None:
    rows = pa.table({"a": texts(["x", "x"]), "b": bytes_as_text([b"good", b"caf\xe9"])})
    write(folder / "a.parquet", rows, use_dictionary=False)
    message = refusal(DataConfig(uri=str(folder), columns=("a", "b"), field_delimiter=","))
    assert message == f"{folder}/a.parquet: row 1 of columns a, b is not valid UTF-8"


def test_nothing_but_nulls_is_no_data_set(folder: Path) -> None:
    write(folder / "a.parquet", texts([None] * 7))
    assert refusal(DataConfig(uri=str(folder))) == f"{folder}: no records: all 7 rows are null in column text"


def test_files_without_rows_are_no_data_set(folder: Path) -> None:
    write(folder / "a.parquet", texts([]))
    assert refusal(DataConfig(uri=str(folder))) == f"{folder}: no records: the files have no rows"


def test_a_field_that_holds_the_delimiter_is_refused(folder: Path) -> None:
    write(folder / "a.parquet", pa.table({"a": ["x", "Paris, Texas"], "b": [1, 2]}))
    message = refusal(DataConfig(uri=str(folder), columns=("b", "a"), field_delimiter=","))
    assert message.startswith(f"{folder}/a.parquet: column a holds the field_delimiter ',' itself")
    assert survey(DataConfig(uri=str(folder), columns=("b", "a"), field_delimiter="|")).records == 2


@pytest.mark.parametrize("array", [pa.array([["x"]]), pa.array([b"x"]), pa.array([{"a": 1}])], ids=str)
def test_a_column_that_cannot_be_joined_as_text_is_refused(folder: Path, array: pa.Array) -> None:
    write(folder / "a.parquet", pa.table({"a": ["x"], "b": array}))
    message = refusal(DataConfig(uri=str(folder), columns=("a", "b"), field_delimiter=","))
    assert message.startswith(f"{folder}/a.parquet: column b is ")


# What is read


def test_a_survey_counts_rows_nulls_characters_and_the_longest(folder: Path) -> None:
    write(folder / "a.parquet", texts(["né", None, "", "abc"]))
    write(folder / "b.parquet", texts([None, "日本語です"]))
    found = survey(DataConfig(uri=str(folder)))
    assert (found.rows, found.null_rows, found.records) == (6, 2, 4)
    assert (found.characters, found.longest) == (10, 5)


@pytest.mark.parametrize(
    "array",
    [
        texts(["a", None, "b", "a"]),
        pa.array(["a", None, "b", "a"], pa.large_string()),
        texts(["a", None, "b", "a"]).dictionary_encode(),
        pa.array(["a", None, "b", "a"], pa.string_view()),
    ],
    ids=lambda array: str(array.type),
)
def test_every_kind_of_text_column_reads_the_same(folder: Path, array: pa.Array) -> None:
    write(folder / "a.parquet", array)
    data = DataConfig(uri=str(folder))
    assert read_all(data) == ["a", None, "b", "a"]
    assert survey(data).null_rows == 1


def test_only_the_asked_column_is_read(folder: Path) -> None:
    write(folder / "a.parquet", pa.table({"text": ["x"], "a.b": ["y"], "other": [b"\xff"]}))
    assert read_all(DataConfig(uri=str(folder))) == ["x"]
    assert read_all(DataConfig(uri=str(folder), text_column="a.b")) == ["y"]


def test_joined_columns_follow_the_jobs_order_with_numbers_as_text_and_nulls_empty(folder: Path) -> None:
    table = pa.table(
        {
            "name": texts(["Ann", None, None, ""]),
            "age": pa.array([41, 7, None, None]),
            "share": pa.array([0.5, None, None, 1.0]),
            "unused": texts(["u"] * 4),
            "kind": texts(["k", "k", None, None]).dictionary_encode(),
            "well": pa.array([True, False, None, None]),
        }
    )
    write(folder / "a.parquet", table)
    data = DataConfig(uri=str(folder), columns=("age", "name", "share", "kind", "well"), field_delimiter="|")
    assert read_all(data) == ["41|Ann|0.5|k|true", "7|||k|false", None, "||1||"]
    assert survey(data).null_rows == 1


def test_files_may_hold_their_columns_in_any_order(folder: Path) -> None:
    write(folder / "a.parquet", pa.table({"a": ["1"], "b": ["2"]}))
    write(folder / "b.parquet", pa.table({"b": ["4"], "a": ["3"]}))
    data = DataConfig(uri=str(folder), columns=("a", "b"), field_delimiter=",")
    assert read_all(data) == ["1,2", "3,4"]


@pytest.mark.parametrize("limit", [1, 3, 4, 5, 9, 10, 11, 1_000])
def test_max_records_takes_the_first_rows(folder: Path, limit: int) -> None:
    write(folder / "a.parquet", texts(["a0", "a1", "a2", "a3"]))
    write(folder / "b.parquet", texts([]))
    write(folder / "c.parquet", texts([f"c{number}" for number in range(6)]))
    everything = read_all(DataConfig(uri=str(folder)))
    data = DataConfig(uri=str(folder), max_records=limit)
    assert read_all(data) == everything[:limit]
    assert survey(data).rows == min(limit, 10)


@pytest.mark.parametrize("rows_per_unit", [1, 3, 4, 5, 100])
@pytest.mark.parametrize("row_group_size", [1, 4, 100])
def test_row_groups_of_any_size_make_units_of_at_most_the_set_size(
    folder: Path, monkeypatch: pytest.MonkeyPatch, rows_per_unit: int, row_group_size: int
) -> None:
    monkeypatch.setattr(records, "ROWS_PER_UNIT", rows_per_unit)
    monkeypatch.setattr(records, "ROWS_PER_BATCH", 2)
    expected = [f"row {number}" for number in range(13)]
    write(folder / "a.parquet", texts(expected), row_group_size=row_group_size)
    assert read_all(DataConfig(uri=str(folder))) == expected
    assert len(survey(DataConfig(uri=str(folder))).units) == -(-13 // rows_per_unit)


def test_a_unit_reads_only_the_row_groups_it_needs(folder: Path) -> None:
    path = write(folder / "a.parquet", texts(["x"] * 40), row_group_size=10)
    metadata = pq.read_metadata(path)
    found = [
        records._row_groups(metadata, records.Unit("a.parquet", start, start + 10, start)) for start in (0, 10, 15)
    ]
    assert found == [([0], 0), ([1], 10), ([1, 2], 10)]


FILES = st.lists(
    st.tuples(st.lists(st.text(max_size=4) | st.none(), max_size=12), st.integers(1, 7)),
    min_size=1,
    max_size=3,
)


@given(FILES, st.integers(1, 15), st.integers(1, 6), st.none() | st.integers(1, 30))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_units_hold_every_row_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[tuple[list[str | None], int]],
    rows_per_unit: int,
    rows_per_batch: int,
    limit: int | None,
) -> None:
    folder = tmp_path_factory.mktemp("records")
    expected: list[str | None] = []
    for number, (rows, group) in enumerate(files):
        write(folder / f"{number}.parquet", texts(rows), row_group_size=group)
        expected += rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "ROWS_PER_UNIT", rows_per_unit)
        patch.setattr(records, "ROWS_PER_BATCH", rows_per_batch)
        data = DataConfig(uri=str(folder), max_records=limit)
        assert read_all(data) == expected[:limit]
        kept = [text for text in expected[:limit] if text is not None]
        if kept:
            found = survey(data)
            assert found.records == len(kept)
            assert (found.characters, found.longest) == (sum(map(len, kept)), max(map(len, kept)))
        else:
            refusal(data)
