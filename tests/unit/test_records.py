"""Parquet to records: all of them, once, in order; what cannot be used is named by file and row."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.config import DataConfig
from runner.data import records, units
from runner.data.files import list_files
from runner.data.survey import survey_records
from runner.errors import NothingNewError, StorageError
from tests.unit.parquet_files import bytes_as_text, read_all, refusal, survey, texts, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "records of ä"
    path.mkdir()
    return path


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
        pa.array([1.5, None]),
        pa.array([["x"]]),
        pa.array([{"a": "x"}]),
        pa.array([1]).dictionary_encode(),
        pa.array([True]),
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

    monkeypatch.setattr(units.pq, "ParquetFile", away)
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
    monkeypatch.setattr(units, "ROWS_PER_UNIT", 7_000)
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


@pytest.mark.parametrize("array", [pa.array([["x"]]), pa.array([{"a": 1}])], ids=str)
def test_a_column_that_cannot_be_joined_as_text_is_refused(folder: Path, array: pa.Array) -> None:
    write(folder / "a.parquet", pa.table({"a": ["x"], "b": array}))
    message = refusal(DataConfig(uri=str(folder), columns=("a", "b"), field_delimiter=","))
    assert message.startswith(f"{folder}/a.parquet: column b is ")


# What is read


def test_a_survey_counts_rows_nulls_characters_and_the_longest(folder: Path) -> None:
    write(folder / "a.parquet", texts(["né", None, "", "abc"]))
    write(folder / "b.parquet", texts([None, "日本語です"]))
    found = survey(DataConfig(uri=str(folder))).found
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
    assert survey(data).found.null_rows == 1


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
    assert survey(data).found.null_rows == 1


def test_files_may_hold_their_columns_in_any_order(folder: Path) -> None:
    write(folder / "a.parquet", pa.table({"a": ["1"], "b": ["2"]}))
    write(folder / "b.parquet", pa.table({"b": ["4"], "a": ["3"]}))
    data = DataConfig(uri=str(folder), columns=("a", "b"), field_delimiter=",")
    assert read_all(data) == ["1,2", "3,4"]


@pytest.mark.parametrize("limit", [1, 3, 4, 5, 9, 10, 11, 1_000])
def test_max_records_takes_the_first_records(folder: Path, limit: int) -> None:
    write(folder / "a.parquet", texts(["a0", "a1", "a2", "a3"]))
    write(folder / "b.parquet", texts([]))
    write(folder / "c.parquet", texts([f"c{number}" for number in range(6)]))
    everything = read_all(DataConfig(uri=str(folder)))
    data = DataConfig(uri=str(folder), max_records=limit)
    assert read_all(data) == everything[:limit]
    assert survey(data).found.rows == min(limit, 10)


def test_max_records_counts_records_and_not_nulls(folder: Path) -> None:
    write(folder / "a.parquet", texts([None] * 5 + ["x"] * 50))
    assert survey(DataConfig(uri=str(folder), max_records=5)).records == 5
    found = survey(DataConfig(uri=str(folder), max_records=30))
    assert (found.records, found.found.null_rows, found.stops) == (30, 5, {"a.parquet": 35})


def test_what_comes_after_max_records_is_not_looked_at(folder: Path) -> None:
    write(folder / "a.parquet", pa.table({"a": texts(["x", "y|z"]), "b": texts(["1", "2"])}))
    assert read_all(DataConfig(uri=str(folder), columns=("a", "b"), field_delimiter="|", max_records=1)) == ["x|1"]


def test_a_survey_says_which_files_hold_the_records_and_where_it_ended(folder: Path) -> None:
    for name in "abc":
        write(folder / f"{name}.parquet", texts([name] * 30))
    write(folder / "b0.parquet", pa.table({}))
    assert survey(DataConfig(uri=str(folder), max_records=30)).stops == {"a.parquet": None}
    found = survey(DataConfig(uri=str(folder), max_records=40))
    assert found.stops == {"a.parquet": None, "b.parquet": 10}
    assert found.empty_files == ("b0.parquet",)
    assert survey(DataConfig(uri=str(folder))).stops == {f"{name}.parquet": None for name in "abc"}


def test_a_run_of_version_1_keeps_its_rows_and_their_texts(folder: Path) -> None:
    """It counted rows, and wrote numbers as Arrow casts them."""
    write(folder / "a.parquet", pa.table({"n": [None, 4915112345678.0, 2.0], "t": [None, "x", "y"]}))
    data = DataConfig(uri=str(folder), columns=("n", "t"), field_delimiter="|", max_records=2)
    files = tuple(replace(file, version=1) for file in list_files(data.uri))
    rows = [text for array in records.read_records(data, files) for text in array.to_pylist()]
    assert rows == [None, "4.915112345678e+12|x"]
    assert [unit.version for unit in survey_records(data, files).units] == [1]
    assert read_all(data) == [None, "4915112345678|x", "2|y"]


@pytest.mark.parametrize("rows_per_unit", [1, 3, 4, 5, 100])
@pytest.mark.parametrize("row_group_size", [1, 4, 100])
def test_row_groups_of_any_size_make_units_of_at_most_the_set_size(
    folder: Path, monkeypatch: pytest.MonkeyPatch, rows_per_unit: int, row_group_size: int
) -> None:
    monkeypatch.setattr(units, "ROWS_PER_UNIT", rows_per_unit)
    monkeypatch.setattr(units, "ROWS_PER_BATCH", 2)
    expected = [f"row {number}" for number in range(13)]
    write(folder / "a.parquet", texts(expected), row_group_size=row_group_size)
    assert read_all(DataConfig(uri=str(folder))) == expected
    assert len(survey(DataConfig(uri=str(folder))).units) == -(-13 // rows_per_unit)


def test_a_unit_reads_only_the_row_groups_it_needs(folder: Path) -> None:
    path = write(folder / "a.parquet", texts(["x"] * 40), row_group_size=10)
    metadata = pq.read_metadata(path)
    found = [units._row_groups(metadata, units.Unit("a.parquet", start, start + 10, start)) for start in (0, 10, 15)]
    assert found == [([0], 0), ([1], 10), ([1, 2], 10)]


# Files that other programs left


def test_a_file_without_rows_is_passed_over_whatever_its_columns(folder: Path) -> None:
    """As pandas writes an empty table: columns of type null, another type, or none at all."""
    write(folder / "a.parquet", texts(["x"]))
    for number, table in enumerate(
        (pa.table({}), pa.table({"text": pa.nulls(0)}), pa.table({"text": pa.array([], pa.float64())}))
    ):
        write(folder / f"b{number}.parquet", table)
    data = DataConfig(uri=str(folder))
    assert read_all(data) == ["x"]
    assert survey(data).empty_files == ("b0.parquet", "b1.parquet", "b2.parquet")


@pytest.mark.parametrize("kind", [pa.null(), pa.float64(), pa.int32(), pa.string()], ids=str)
def test_a_text_column_of_nothing_but_nulls_may_have_any_type(folder: Path, kind: pa.DataType) -> None:
    """pandas makes numbers, or nothing, of a column without any text."""
    write(folder / "a.parquet", texts(["x"]))
    write(folder / "b.parquet", pa.nulls(3, kind))
    assert read_all(DataConfig(uri=str(folder))) == ["x", None, None, None]


def test_texts_stored_as_bytes_are_read_and_named_where_they_are_none(folder: Path) -> None:
    write(folder / "a.parquet", pa.array(["né".encode(), None]))
    data = DataConfig(uri=str(folder))
    assert read_all(data) == ["né", None]
    write(folder / "b.parquet", pa.array([b"x", b"\xff\x00"], pa.binary_view()))
    assert refusal(data) == f"{folder}/b.parquet: row 1 of column text is not valid UTF-8"


def test_a_uuid_is_its_usual_text_also_without_arrow_s_own_schema(folder: Path) -> None:
    column = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(range(16)), None], pa.binary(16)))
    expected = ["00010203-0405-0607-0809-0a0b0c0d0e0f", None]
    for store_schema in (True, False):
        write(folder / "a.parquet", column, store_schema=store_schema)
        assert read_all(DataConfig(uri=str(folder))) == expected


@pytest.mark.parametrize("count", [1, 3])
def test_records_without_any_text_are_no_data_set(folder: Path, count: int) -> None:
    write(folder / "a.parquet", pa.table({"text": texts(["", None, ""]), "b": texts([None, None, ""])}))
    assert refusal(DataConfig(uri=str(folder))) == f"{folder}: no records: all 2 records are empty in column text"
    columns = ("text", "b", "text")[:count]
    data = DataConfig.model_construct(
        uri=str(folder), columns=columns, field_delimiter=",", max_records=None, since=None
    )
    assert "all 2 records are empty in columns text" in refusal(data)


@pytest.mark.parametrize("array", [texts([]), texts([None]), texts([""])], ids=["no rows", "null", "empty"])
def test_new_files_without_records_are_nothing_new(folder: Path, array: pa.Array) -> None:
    write(folder / "a.parquet", array)
    with pytest.raises(NothingNewError, match="no records that run claims did not have"):
        survey(DataConfig(uri=str(folder), since="claims"))


def test_a_column_twice_is_refused_only_where_it_is_asked_for(folder: Path) -> None:
    table = pa.table([texts(["x"]), texts(["y"]), texts(["z"])], names=["a", "a", "text"])
    write(folder / "a.parquet", table)
    assert read_all(DataConfig(uri=str(folder))) == ["z"]
    for data in (
        DataConfig(uri=str(folder), text_column="a"),
        DataConfig(uri=str(folder), columns=("text", "a"), field_delimiter=","),
    ):
        assert refusal(data) == f"{folder}/a.parquet: has 2 columns named a; rename all but one"


def test_a_column_with_a_dot_is_not_a_struct_s_child(folder: Path) -> None:
    table = pa.table([pa.array([{"b": "nested"}]), texts(["flat"]), texts(["a b"])], names=["a", "a.b", "A b"])
    write(folder / "a.parquet", table)
    assert read_all(DataConfig(uri=str(folder), text_column="a.b")) == ["flat"]
    assert read_all(DataConfig(uri=str(folder), text_column="A b")) == ["a b"]
    assert refusal(DataConfig(uri=str(folder), text_column="a")).startswith(f"{folder}/a.parquet: column a is struct<")
    write(folder / "a.parquet", table.select(["a"]))
    assert "no column a.b; found: a (struct<" in refusal(DataConfig(uri=str(folder), text_column="a.b"))


def test_of_many_columns_the_first_are_named(folder: Path) -> None:
    write(folder / "a.parquet", pa.table({f"c{number}": [1] for number in range(500)}))
    assert refusal(DataConfig(uri=str(folder))).endswith("c19 (int64) and 480 more")


def test_a_field_that_runs_into_the_delimiter_is_refused(folder: Path) -> None:
    write(folder / "a.parquet", pa.table({"a": ["x|"], "b": ["1"]}))
    message = refusal(DataConfig(uri=str(folder), columns=("a", "b"), field_delimiter="||"))
    assert message.startswith(f"{folder}/a.parquet: column a ends with '|' somewhere, which runs into")
    assert read_all(DataConfig(uri=str(folder), columns=("b", "a"), field_delimiter="||")) == ["1||x|"]


def test_nulls_that_become_empty_fields_are_counted(folder: Path) -> None:
    table = pa.table({"a": texts(["x", None, "", None]), "b": texts(["", "y", "z", None])})
    write(folder / "a.parquet", table)
    found = survey(DataConfig(uri=str(folder), columns=("a", "b"), field_delimiter=",")).found
    assert (found.records, found.null_rows, found.null_fields, found.empty_fields) == (3, 1, 1, 2)


@pytest.mark.parametrize("plaintext_footer", [True, False])
def test_an_encrypted_file_is_said_to_be_encrypted(folder: Path, plaintext_footer: bool) -> None:
    from pyarrow.parquet import encryption

    class Keys(encryption.KmsClient):
        """Wraps a key by writing it down."""

        def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
            return base64.b64encode(key_bytes + master_key_identifier.encode())

    table = pa.table({"text": ["x"] * 500, "open": ["y"] * 500})
    properties = encryption.CryptoFactory(lambda _: Keys()).file_encryption_properties(
        encryption.KmsConnectionConfig(),
        encryption.EncryptionConfiguration(
            "footer", column_keys={"column": ["text"]}, plaintext_footer=plaintext_footer
        ),
    )
    with pq.ParquetWriter(folder / "a.parquet", table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    assert refusal(DataConfig(uri=str(folder))).startswith(f"{folder}/a.parquet: is encrypted Parquet")
    if plaintext_footer:
        assert len(read_all(DataConfig(uri=str(folder), text_column="open"))) == 500


def test_a_codec_that_arrow_lacks_is_no_damage(folder: Path) -> None:
    """The codec's number in the footer of a healthy file, changed to LZO's."""
    path = write(folder / "a.parquet", texts(["x" * 100] * 50), compression="lz4", use_dictionary=False)
    content = path.read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    assert content[footer:].count(b"\x15\x0e\x16") == 1, "codec LZ4_RAW (7, zigzag), then a field of type i64"
    path.write_bytes(content[:footer] + content[footer:].replace(b"\x15\x0e\x16", b"\x15\x06\x16"))
    message = refusal(DataConfig(uri=str(folder)))
    assert "written in a way that Arrow cannot read" in message
    assert "lzo" in message.lower()
