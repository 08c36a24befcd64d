"""Which files hold records: by their names, wherever they lie; what is not read is told."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest

from runner.config import DataConfig
from runner.data.files import NOTES, list_files, partition_columns, passed_over
from runner.errors import DataError, StorageError
from tests.unit.parquet_files import read_all, refusal, survey, texts, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "records of ä"
    path.mkdir()
    return path


def names(folder: Path) -> list[str]:
    return [file.name for file in list_files(str(folder))]


def test_a_missing_and_an_empty_folder_have_no_records(folder: Path) -> None:
    for uri in (str(folder), str(folder / "nowhere")):
        with pytest.raises(DataError, match="no Parquet files") as caught:
            list_files(uri)
        assert str(caught.value).startswith(uri)
        assert "runner import" in str(caught.value)


def test_a_folder_without_parquet_says_what_it_holds_instead(folder: Path) -> None:
    (folder / "a.csv").write_text("a\n")
    (folder / "b.parquet.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(DataError) as caught:
        list_files(str(folder))
    assert "passed over: 1 file (not named *.parquet, *.parq or *.pq): a.csv" in str(caught.value)
    assert "b.parquet.gz" in str(caught.value)


def test_a_file_in_place_of_a_folder_is_refused_in_one_line(folder: Path) -> None:
    path = write(folder / "a.parquet", texts(["x"]))
    with pytest.raises((DataError, StorageError)) as caught:
        list_files(str(path))
    assert "a.parquet" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_files_come_sorted_by_name_from_all_depths(folder: Path) -> None:
    found = ["10.parquet", "9.parquet", "B.parquet", "a.parquet", "b.parquet", "year=2024/c.parquet"]
    for name in reversed(found):
        write(folder / name, texts([name]))
    assert names(folder) == found
    assert read_all(DataConfig(uri=str(folder))) == found


def test_every_usual_suffix_counts_in_either_case_and_below_a_folder_of_such_a_name(folder: Path) -> None:
    found = ["A.PARQUET", "b.pq", "c.parq", "d.Parquet", "spark.parquet/part-0.snappy.parquet"]
    for name in found:
        write(folder / name, texts([name]))
    (folder / "spark.parquet" / "_SUCCESS").touch()
    assert names(folder) == found
    assert read_all(DataConfig(uri=str(folder))) == found


def test_other_tools_notes_are_not_records(folder: Path) -> None:
    write(folder / "a.parquet", texts(["x"]))
    for name in ("_SUCCESS", "_metadata.parquet", ".hidden.parquet", "notes.txt", "_temporary/b.parquet",
                 ".spark/c.parquet", "a.parquet.crc"):  # fmt: skip
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"not Parquet")
    assert names(folder) == ["a.parquet"]


def test_what_is_not_read_is_told_by_reason_and_name(folder: Path) -> None:
    write(folder / "a.parquet", texts(["x"]))
    for name in ("_SUCCESS", "b.parquet.gz", "1.csv", "2.csv", "3.csv", "4.csv", "5.csv"):
        (folder / name).write_bytes(b"")
    (folder / "gone.parquet").symlink_to(folder / "nowhere.parquet")
    (folder / "linked.parquet").symlink_to(folder / "a.parquet")
    os.mkfifo(folder / "pipe.parquet")
    assert names(folder) == ["a.parquet", "linked.parquet"]
    told = {group.why: group for group in passed_over(str(folder))}
    assert told[NOTES].names == ("_SUCCESS",)
    assert told["links to nothing"].names == ("gone.parquet",)
    assert told["no regular file"].names == ("pipe.parquet",)
    assert "unpack" in next(why for why, group in told.items() if group.names == ("b.parquet.gz",))
    assert str(told["not named *.parquet, *.parq or *.pq"]).endswith("1.csv, 2.csv, 3.csv and 2 more")
    assert sum(group.files for group in told.values()) == 9


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


# Folders that are columns


def test_a_folder_is_a_column_as_another_library_writes_it(folder: Path) -> None:
    """Written by pyarrow's dataset writer, which percent-encodes and names nulls as Hive does."""
    from pyarrow import dataset

    years, cities = texts(["2024", "2024", "01", None]), texts(["São Paulo/SP", "a=b", "100%", "x"])
    table = pa.table({"text": texts(["t0", "t1", "t2", "t3"]), "year": years, "city": cities})
    partitioning = dataset.partitioning(pa.schema([("year", pa.string()), ("city", pa.string())]), flavor="hive")
    dataset.write_dataset(table, str(folder), format="parquet", partitioning=partitioning)
    data = DataConfig(uri=str(folder), columns=("year", "text", "city"), field_delimiter="|")
    expected = ["2024|t0|São Paulo/SP", "2024|t1|a=b", "01|t2|100%", "|t3|x"]
    assert sorted(map(str, read_all(data))) == sorted(expected)
    assert survey(data).found.null_fields == 1


def test_a_folder_can_be_the_text_column_and_a_null_one_holds_no_records(folder: Path) -> None:
    write(folder / "kind=a" / "a.parquet", pa.array([1, 2]), column="number")
    write(folder / "kind=__HIVE_DEFAULT_PARTITION__" / "a.parquet", pa.array([3]), column="number")
    data = DataConfig(uri=str(folder), text_column="kind")
    assert read_all(data) == [None, "a", "a"]


def test_a_column_in_the_file_goes_before_a_folder_s(folder: Path) -> None:
    write(folder / "text=outside" / "a.parquet", texts(["inside"]))
    assert read_all(DataConfig(uri=str(folder))) == ["inside"]


def test_a_file_outside_the_folders_lacks_their_column(folder: Path) -> None:
    write(folder / "year=2024" / "a.parquet", texts(["x"]))
    write(folder / "b.parquet", texts(["y"]))
    data = DataConfig(uri=str(folder), columns=("year", "text"), field_delimiter=",")
    assert refusal(data) == f"{folder}/b.parquet: no column year; found: text (string)"
    assert refusal(DataConfig(uri=str(folder), text_column="month")).endswith("found: text (string)")


def test_only_a_name_and_a_value_make_a_column() -> None:
    assert partition_columns("a/=b/c=/d.parquet") == {"c": ""}
    assert partition_columns("year=2024.parquet") == {}
