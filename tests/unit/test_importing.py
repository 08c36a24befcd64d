"""`runner import` keeps every field as it is, or writes nothing and says which line is wrong."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.data import importing, shards
from runner.data.importing import ImportSummary, Join, import_records
from runner.errors import DataError, StorageError
from runner.storage import LocalFolder


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    def write_source(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_source


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "records of ä"


def imported(source: Path, target: Path, **options: Any) -> list[dict[str, str | None]]:
    summary = import_records(source, str(target), **options)
    files = sorted(target.glob("*.parquet"))
    tables = [pq.read_table(path) for path in files]
    rows = [row for table in tables for row in table.to_pylist()]
    assert all(column.type == pa.string() for table in tables for column in table.schema)
    size = sum(path.stat().st_size for path in files)
    assert replace(summary, notes=()) == ImportSummary(len(files), len(rows), tuple(tables[0].column_names), size)
    return rows


def assert_refused(source: Path, target: Path, *words: str, **options: Any) -> None:
    with pytest.raises(DataError) as caught:
        import_records(source, str(target), **options)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    assert not target.exists()


def test_csv_fields_stay_the_strings_they_are(write: Any, target: Path) -> None:
    source = write("a.csv", 'id,note\r\n007,"a, ""b""\nc"\r\n1.10,\r\n')
    assert imported(source, target) == [{"id": "007", "note": 'a, "b"\nc'}, {"id": "1.10", "note": ""}]


def test_byte_order_mark_and_blank_lines_are_no_part_of_the_records(write: Any, target: Path) -> None:
    assert imported(write("a.csv", "\ufeffid\n1\n\n2\n"), target) == [{"id": "1"}, {"id": "2"}]


def test_tsv_is_split_at_tabs_and_another_delimiter_is_an_option(write: Any, target: Path) -> None:
    assert imported(write("a.tsv", "a\tb\n1,5\t2\n"), target) == [{"a": "1,5", "b": "2"}]
    semicolons = write("b.csv", "a;b\n1,5;2\n")
    assert imported(semicolons, target / "b", csv_delimiter=";") == [{"a": "1,5", "b": "2"}]


def test_csv_without_header_gets_numbered_columns(write: Any, target: Path) -> None:
    assert imported(write("a.csv", "1,2\n"), target, header=False) == [{"column_1": "1", "column_2": "2"}]
    assert imported(write("b.csv", "1\n"), target / "b", header=False) == [{"text": "1"}]


def test_field_longer_than_pythons_own_limit_is_kept(write: Any, target: Path) -> None:
    assert imported(write("a.csv", f"a\n{'x' * 200_000}\n"), target) == [{"a": "x" * 200_000}]


def test_json_values_that_are_no_strings_become_json_text(write: Any, target: Path) -> None:
    source = write("a.jsonl", '{"a": "é", "b": {"c": [1, "ü"]}}\n\n{"a": 1.5, "d": true, "b": null}\n')
    assert imported(source, target) == [
        {"a": "é", "b": '{"c": [1, "ü"]}', "d": None},
        {"a": "1.5", "b": None, "d": "true"},
    ]


def test_an_array_of_objects_is_its_objects(write: Any, target: Path) -> None:
    source = write("a.json", '[\n  {"a": 0.10, "b": {"x": 1e999}},\n  {"c": "é"}\n]\n')
    assert imported(source, target) == [{"a": "0.10", "b": '{"x": 1e999}', "c": None}, {"a": None, "b": None, "c": "é"}]


def test_parquet_is_imported_as_text(write: Any, target: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1, None], "b": ["x", ""], "c": [[1], [2]]}), tmp_path / "a.parquet")
    assert imported(tmp_path / "a.parquet", target, join=Join(("b", "a"), "|")) == [{"text": "x|1"}, {"text": "|"}]


def test_a_file_that_changes_between_the_two_readings_is_refused(
    write: Any, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write("a.txt", "1\n2\n")
    whole_check = importing._check

    def check_and_change(*arguments: Any) -> Any:
        found = whole_check(*arguments)
        write("a.txt", "1\n2\n3\n")
        return found

    monkeypatch.setattr(importing, "_check", check_and_change)
    with pytest.raises(DataError, match=r"a\.txt: changed while it was read: it had 2 records, then "):
        import_records(source, str(target))
    assert not list(target.glob("*.parquet"))


def test_text_lines_are_records_in_the_named_column(write: Any, target: Path) -> None:
    rows = imported(write("a.txt", ' a \r\n\nb,"c'), target, text_column="line")
    assert rows == [{"line": " a "}, {"line": 'b,"c'}]


def test_gzipped_input_is_read_whatever_its_name_is(write: Any, target: Path) -> None:
    assert imported(write("a.csv.gz", gzip.compress(b"a\n1\n", mtime=0)), target) == [{"a": "1"}]
    assert imported(write("b.csv", gzip.compress(b"a\n1\n", mtime=0)), target / "b") == [{"a": "1"}]


def test_columns_are_joined_without_quoting(write: Any, target: Path) -> None:
    source = write("a.csv", 'a,b,c\n1,"say ""x""",3\n')
    assert imported(source, target, join=Join(("c", "b"), "|")) == [{"text": '3|say "x"'}]


def test_null_fields_are_joined_as_empty(write: Any, target: Path) -> None:
    source = write("a.jsonl", '{"a": null, "b": "x"}\n{"a": "y"}\n')
    assert imported(source, target, join=Join(("a", "b"))) == [{"text": ",x"}, {"text": "y,"}]


def test_field_that_holds_the_delimiter_is_refused_with_its_line_unless_allowed(write: Any, target: Path) -> None:
    source = write("a.csv", 'a,b\n1,2\n3,"4,5"\n')
    assert_refused(source, target, "line 3", "'b'", "','", join=Join(("a", "b")))
    rows = imported(source, target, join=Join(("a", "b"), allow_delimiter_in_fields=True))
    assert rows == [{"text": "1,2"}, {"text": "3,4,5"}]


def test_records_are_cut_into_shards_in_order(write: Any, target: Path) -> None:
    rows = imported(write("a.txt", "\n".join(map(str, range(10)))), target, rows_per_shard=4)
    assert [row["text"] for row in rows] == list(map(str, range(10)))
    assert sorted(path.name for path in target.glob("*.parquet")) == [f"part-{index:05d}.parquet" for index in range(3)]


def test_shard_of_long_records_ends_early(write: Any, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_SHARD_CHARACTERS", 10)
    imported(write("a.txt", "123456\n" * 4), target)
    assert len(list(target.glob("*.parquet"))) == 2


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "", ["no records"]),
        ("a.csv", "a,b\n", ["no records"]),
        ("a.txt", "\n\n", ["no records"]),
        ("a.csv", "a,b\n1,2\n1\n", ["line 3", "1 fields", "2 columns"]),
        ("a.csv", 'a,b\n"x\ny",2\n1,2,3\n', ["line 4", "3 fields"]),
        ("a.csv", 'a\n"x"y\n', ["line 2", "not valid CSV"]),
        ("a.csv", "a,a\n1,2\n", ["header", "'a' twice"]),
        ("a.csv", b"a\nok\nx\xff\n", ["line 3, byte 2", "UTF-8"]),
        ("a.txt", "é".encode("utf-16"), ["line 1", "UTF-8"]),
        ("a.jsonl", '{"a": 1}\n{"a"\n', ["line 2", "not valid JSON"]),
        ("a.jsonl", "[1]\n", ["line 1", "object per line"]),
        ("a.jsonl", '{"a": "\\ud800"}\n', ["line 1", "surrogate"]),
        ("a.txt.gz", gzip.compress(b"abc" * 99, mtime=0)[:-9], ["gzip"]),
        ("a.bin", "x", ["csv, jsonl, parquet or text"]),
    ],
)
def test_bad_input_is_one_line_and_nothing_written(
    name: str, content: str | bytes, words: list[str], write: Any, target: Path
) -> None:
    assert_refused(write(name, content), target, name, *words, rows_per_shard=1)


def test_missing_file_and_folder_as_file_are_refused(tmp_path: Path, target: Path) -> None:
    assert_refused(tmp_path / "none.csv", target, "none.csv", "no such file")
    assert_refused(tmp_path, target, "directory", format="csv")


def test_missing_column_names_those_there_are(write: Any, target: Path) -> None:
    assert_refused(write("a.csv", "a,b\n1,2\n"), target, "'c'", "a, b", join=Join(("a", "c")))


def test_folder_with_records_is_kept_unless_overwritten(write: Any, target: Path) -> None:
    imported(write("a.txt", "1\n2\n3\n"), target, rows_per_shard=1)
    with pytest.raises(DataError, match=r"already holds Parquet files \(3\): .* --overwrite"):
        import_records(write("b.txt", "4\n"), str(target))
    assert len(list(target.glob("*.parquet"))) == 3
    assert imported(write("b.txt", "4\n"), target, overwrite=True) == [{"text": "4"}]


def test_bad_input_leaves_the_records_it_should_overwrite(write: Any, target: Path) -> None:
    imported(write("a.txt", "1\n"), target)
    before = (target / "part-00000.parquet").read_bytes()
    with pytest.raises(DataError):
        import_records(write("b.txt", b"2\n\xff\n"), str(target), overwrite=True, rows_per_shard=1)
    assert (target / "part-00000.parquet").read_bytes() == before


def test_failed_write_removes_the_shards_before_it(write: Any, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = LocalFolder.create

    def full_disk(self: LocalFolder, name: str, data: bytes) -> bool:
        if name == "part-00002.parquet":
            raise StorageError("disk full")
        return create(self, name, data)

    monkeypatch.setattr(LocalFolder, "create", full_disk)
    with pytest.raises(StorageError, match="disk full"):
        import_records(write("a.txt", "1\n2\n3\n4\n"), str(target), rows_per_shard=1)
    assert list(target.iterdir()) == []
