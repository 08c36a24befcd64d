"""Tables are read as they are written, whoever wrote them, and what is broken is told where it is."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.data import json_table
from runner.data.table import Table
from runner.data.tables import open_table, read_columns
from runner.errors import ConfigError, DataError
from runner.storage import LocalFolder

TEXTS = st.text(
    st.one_of(st.sampled_from('ab,;|"\n\r\t \ufeff\u2028\x85\0\x1b\\é'), st.characters(exclude_categories=["Cs"])),
    max_size=6,
)
NAMES = st.text(st.sampled_from('abé,;| "\n\r'), min_size=1, max_size=4)
NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,4})?", fullmatch=True)

Write = Callable[[str, str | bytes], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write_file


def rows_of(uri: str, **options: Any) -> list[dict[str, str | None]]:
    return [dict(row) for _, row in open_table(uri, **options).rows()]


def notes_of(uri: str, **options: Any) -> list[str]:
    table = open_table(uri, **options)
    assert list(table.rows())
    return table.notes


def assert_refused(uri: str, *words: str, **options: Any) -> None:
    with pytest.raises(DataError) as caught:
        rows_of(uri, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(uri)
    assert all(word in message for word in words), message


# CSV


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), width=st.integers(1, 3))
def test_csv_of_any_dialect_has_the_rows_it_was_written_with(data: st.DataObject, width: int, write: Write) -> None:
    names = data.draw(st.lists(NAMES, min_size=width, max_size=width, unique=True))
    rows = data.draw(st.lists(st.lists(TEXTS, min_size=width, max_size=width), min_size=1, max_size=5))
    delimiter = data.draw(st.sampled_from(",;\t|"))
    line_end = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    # Python's own writer leaves line ends other than its own outside quotes, unless it quotes all; and spaces.
    needs_quotes = any("\r" in field or "\n" in field for row in (names, *rows) for field in row)
    needs_quotes |= any(name != name.strip() for name in names)
    quoting = csv.QUOTE_ALL if needs_quotes or data.draw(st.booleans()) else csv.QUOTE_MINIMAL
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=line_end, quoting=quoting).writerows([names, *rows])
    content = (data.draw(st.sampled_from(["", "\ufeff"])) + text.getvalue()).encode()
    if data.draw(st.booleans()):
        content = gzip.compress(content, mtime=0)
    expected = [dict(zip(names, row, strict=True)) for row in rows]
    assert rows_of(write("a.csv", content), csv_delimiter=delimiter) == expected


def test_lines_may_end_at_a_carriage_return_alone_where_the_first_one_does(write: Write) -> None:
    expected = [{"a": "1", "b": "x\ny"}, {"a": "2", "b": "z"}]
    assert rows_of(write("mac.csv", 'a,b\r1,"x\ny"\r2,z\r')) == expected
    assert rows_of(write("twice.csv", 'a,b\r\r\n1,"x\ny"\r\r\n2,z\r\r\n')) == expected
    assert rows_of(write("mixed.csv", 'a,b\r\n1,"x\ny"\n2,z\r\n')) == expected
    assert_refused(write("stray.csv", "a\n1\nx\ry\n"), "line 3", "carriage return outside quotes")
    assert rows_of(write("mac.txt", "a\rb\r")) == [{"text": "a"}, {"text": "b"}]
    assert rows_of(write("unix.txt", "a\rb\nc\r\n")) == [{"text": "a\rb"}, {"text": "c"}]


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("a;b\n1,5;2\n3,0;4\n", ["--csv-delimiter ';'"]),
        ('a\tb\n1\t2\n"3"\t4\n', ["--csv-delimiter '\\t'"]),
        ("a|b|c\n1|2|3\n", ["--csv-delimiter '|'"]),
        ("a;b|c\n1;2|3\n", ["--csv-delimiter ';'", "--csv-delimiter '|'"]),
    ],
)
def test_another_separator_is_refused_with_the_option_that_reads_it(
    content: str, options: list[str], write: Write
) -> None:
    assert_refused(write("a.csv", content), "not by ','", *options, may_guess=False)


def test_another_separator_is_taken_with_a_note_where_nobody_can_be_asked(write: Write) -> None:
    semicolons = write("a.csv", "a;b\n1,5;2\n3,0;4\n")
    assert rows_of(semicolons) == [{"a": "1,5", "b": "2"}, {"a": "3,0", "b": "4"}]
    assert notes_of(semicolons) == ["separated by ';', it seems"]
    asked = write("b.csv", "a;b\n1;2\n")
    assert rows_of(asked, csv_delimiter=",") == [{"a;b": "1;2"}]
    assert notes_of(asked, csv_delimiter=",") == ["separated by ';', it seems, but read as separated by ','"]
    assert rows_of(write("c.tsv", "a,b\tc\n1,2\t3\n"), may_guess=False) == [{"a,b": "1,2", "c": "3"}]


def test_the_separator_that_a_file_tells_excel_is_its_separator(write: Write) -> None:
    told = write("a.csv", "\ufeffsep=;\r\na;b\r\n1;2\r\n")
    assert rows_of(told, may_guess=False) == [{"a": "1", "b": "2"}]
    assert notes_of(told) == ["separated by ';', as the first line says"]
    assert_refused(write("b.csv", "sep=;\na;b\n1;2;3\n"), "line 3: 3 fields")


def test_one_column_of_prose_is_one_column(write: Write) -> None:
    prose = 'note\n"Hello, world; and | all"\nplain\n"a, b; c"\n'
    rows = [{"note": "Hello, world; and | all"}, {"note": "plain"}, {"note": "a, b; c"}]
    assert rows_of(write("a.csv", prose), may_guess=False) == rows
    assert notes_of(write("a.csv", prose), may_guess=False) == []
    assert rows_of(write("b.csv", "note\nx;y\nz\n"), may_guess=False) == [{"note": "x;y"}, {"note": "z"}]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('a,b\n1,2\n"5 inch,3\n' + "4,5\n" * 50, ["line 3: the quote that opens here is never closed"]),
        ('a,b\n1,"2\n3"\n"x\n\n4","5\n6,7\n', ["line 6: the quote that opens here is never closed"]),
        ('a,b\n1,"x ""y""\n' + "4,5\n" * 5, ["line 2: the quote that opens here is never closed"]),
        ('a,b\n1,2\n"5 inch,3\n4,5\n6,"7"\n', ["line 5: not valid CSV", "the quote opens in line 3"]),
        ('a,b\n1,2\n"5 inch,3\n4,5",6,7\n', ["lines 3-4: 3 fields, but 2 columns"]),
        ("a,b\n1,2,3\n", ["line 2: 3 fields, but 2 columns; found '1', '2', '3'", "in quotes"]),
        ("a\nHello, world\n", ["line 2: 2 fields, but 1 columns; found 'Hello', ' world'", "in quotes"]),
        ("Report of 2024\na,b\n1,2\n", ["line 2: 2 fields, but 1 columns; found 'a', 'b'"]),
        ("a,b\n1\n", ["line 2: 1 fields, but 2 columns; found '1'"]),
        ("a,b\n" + "x" * 30 + ",2,3,4,5\n", [f"found '{'x' * 20}...', '2', '3', '4', ..."]),
        ("a,column_3,\n1,2,3\n", ["the header names column 'column_3' twice"]),
    ],
)
def test_broken_csv_is_told_where_it_broke_and_what_was_found(content: str, words: list[str], write: Write) -> None:
    assert_refused(write("a.csv", content), *words)


def test_names_that_are_missing_or_have_spaces_are_told(write: Write) -> None:
    path = write("a.csv", 'id, age,,sex ,"kept ", \n1,2,3,4,5,6\n')
    assert rows_of(path) == [{"id": "1", "age": "2", "column_3": "3", "sex": "4", "kept ": "5", "column_6": "6"}]
    assert notes_of(path) == [
        "without a name in the header: column_3, column_6",
        "spaces around names are left out: ' age', 'sex '",
    ]
    with pytest.raises(DataError, match=r"no column 'kept': it has id, age, column_3, sex, 'kept ', column_6"):
        read_columns(open_table(path), ["kept"])
    assert_refused(write("b.csv", "a, a\n1,2\n"), "the header names column 'a' twice")


def test_blank_lines_that_may_have_been_records_are_counted(write: Write) -> None:
    assert notes_of(write("a.csv", 'a\n\n1\n""\n\n')) == ["2 blank lines were passed over"]
    assert notes_of(write("a.txt", "a\n\nb\n")) == ["1 blank lines were passed over"]
    assert notes_of(write("b.csv", "a,b\n\n1,2\n")) == []


# JSON


def layouts(objects: list[str], data: st.DataObject) -> str:
    """Objects as a file: a line each, or an array of some shape."""
    space = st.sampled_from(["", " ", "\n", "\r\n\t", "\r"])
    match data.draw(st.sampled_from(["lines", "array"])):
        case "lines":
            return "".join(each + data.draw(st.sampled_from(["\n", "\r\n", "\n\n"])) for each in objects)
        case _:
            parts = [data.draw(space) + each + data.draw(space) for each in objects]
            return data.draw(space) + "[" + ",".join(parts) + "]" + data.draw(space)


@st.composite
def json_objects(draw: st.DrawFn) -> tuple[str, dict[str, str | None]]:
    """An object as it is written, and the row that it is."""
    to_text = st.sampled_from([json.dumps, lambda text: json.dumps(text, ensure_ascii=False)])
    plain = st.one_of(NUMBERS, st.sampled_from(["true", "false", "null"]), TEXTS.map(json.dumps))
    nested = st.one_of(
        plain,
        st.lists(plain, max_size=2).map(lambda values: "[" + ",  ".join(values) + "]"),
        st.lists(plain, max_size=2).map(lambda values: '{"x" :[' + ",".join(values) + '\n] ,"y":{}}'),
    )
    names = draw(st.lists(TEXTS.filter(bool), unique=True, max_size=3))
    written: list[str] = []
    row: dict[str, str | None] = {}
    for name in names:
        if draw(st.booleans()):
            row[name] = draw(TEXTS)
            value = draw(to_text)(row[name])
        else:
            value = draw(nested)
            row[name] = None if value == "null" else json.loads(value) if value.startswith('"') else value
        written.append(f"{draw(to_text)(name)}:{value}")
    return "{" + " , ".join(written) + "}", row


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(objects=st.lists(json_objects(), min_size=1, max_size=3), data=st.data())
def test_json_keeps_every_value_as_it_is_written(
    objects: list[tuple[str, dict[str, str | None]]], data: st.DataObject, write: Write
) -> None:
    path = write("a.json", layouts([written for written, _ in objects], data))
    # Blocks that end anywhere: within a name, a number, an escape.
    with patch.object(json_table, "BLOCK_CHARACTERS", data.draw(st.sampled_from([1, 3, 7, 1 << 20]))):
        assert rows_of(path) == [row for _, row in objects]


@pytest.mark.parametrize("number", ["0.10", "12345678901234567890.123456789", "1e999", "-0", "1E5", "9" * 5000])
def test_numbers_keep_their_digits_inside_and_out(number: str, write: Write) -> None:
    expected = {"n": number, "inside": f'{{"x": [{number}]}}'}
    written = f'{{"n": {number}, "inside": {{"x": [{number}]}}}}'
    assert rows_of(write("a.jsonl", written + "\n")) == [expected]
    assert rows_of(write("a.json", f"[{written}]")) == [expected]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"a": 1}\n{"a": 1, "b": 2, "a": 1}\n', ["line 2", "the name 'a' is twice"]),
        ('{"a": 1}\n{"b": [{"a": 1, "a": 2}]}\n', ["line 2", "the name 'a' is twice"]),
        ('[\n{"a": NaN}]', ["line 2", "NaN is not valid JSON"]),
        ('{"a": [-Infinity]}', ["line 1", "-Infinity is not valid JSON"]),
        ('{"a": 1}\n{"a": 1\n{"a": 2}\n', ["line 2", "not valid JSON", "','"]),
        ('{"a": 1}\n{"a": "x\n{"a": 2}\n', ["line 2", "not valid JSON", "control character"]),
        ('{"a": 01}', ["line 1", "not valid JSON"]),
        ("{'a': 1}", ["line 1", "not valid JSON"]),
        ('\n\r{"a": tru', ["line 3", "not valid JSON"]),
        ('{"a": "never closed', ["line 1", "Unterminated string"]),
        ('{"a": ' + "[" * 100_000, ["line 1", "nested too deeply"]),
        ('{"a": "\\ud800"}', ["line 1", "surrogate"]),
        ('{"a": 1}\n{"": 1}', ["line 2", "a name is empty"]),
        ('{"\\ud800": 1}', ["line 1", "surrogate"]),
        ('{"a": 1},\n{"a": 2}\n', ["line 1", "a comma between objects"]),
        ('[{"a": 1},\n3]', ["line 2", "a number", "one object per line, or one array of objects"]),
        ("[[1]]", ["line 1", "an array", "one array of objects"]),
        ('"a"', ["line 1", "a text"]),
        ("null", ["line 1", "null"]),
        ('[{"a": 1}\n{"a": 2}]', ["line 2", "comma or the array's end is missing"]),
        ('[{"a": 1}', ["line 1", "comma or the array's end is missing"]),
        ('[{"a": 1},]', ["line 1", "no object after the comma"]),
        ('[{"a": 1}]\n[]', ["line 2", "something follows the array"]),
        ("a,b\n1,2\n", ["line 1", "not JSON"]),
    ],
)
def test_what_is_no_json_of_objects_is_told_with_its_line(content: str, words: list[str], write: Write) -> None:
    assert_refused(write("a.json", content), *words)


def test_half_a_character_may_stay_an_escape_in_json_text(write: Write) -> None:
    assert rows_of(write("a.json", '[{"a": ["\\ud800"]}]')) == [{"a": '["\\ud800"]'}]


def test_a_file_that_is_one_object_is_one_record_and_says_so(write: Write) -> None:
    path = write("a.json", '{\n  "n": 1.0,\n  "rows": [{"a": 1}]\n}\n')
    assert rows_of(path) == [{"n": "1.0", "rows": '[{"a": 1}]'}]
    assert notes_of(path) == ["the whole file is one object, so it is one record"]
    assert notes_of(write("b.json", '{"a": 1}')) == []


# Parquet


def test_parquet_is_read_by_column_and_only_those_asked_for(write: Write, tmp_path: Path) -> None:
    columns = {"a": ["x", None], "a.b": [1, 2], "nested": [[1], [2]]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    table = open_table(str(tmp_path / "a.parquet"))
    assert read_columns(table, ["a"]) == {"a": ["x", None]}
    assert read_columns(table, ["a.b", "a"]) == {"a.b": ["1", "2"], "a": ["x", None]}
    assert_refused(str(tmp_path / "a.parquet"), "column nested is list", "cannot be written as text")
    pq.write_table(pa.table({"a": [{"b": 1}], "a.b": [4915112345678.0]}), tmp_path / "e.parquet")
    assert read_columns(open_table(str(tmp_path / "e.parquet")), ["a.b"]) == {"a.b": ["4915112345678"]}
    with pytest.raises(DataError, match=r"no column 'c': it has a, a\.b, nested"):
        read_columns(table, ["c"])
    pq.write_table(pa.Table.from_arrays([pa.array(["x"])] * 2, names=["a", "a"]), tmp_path / "b.parquet")
    assert_refused(str(tmp_path / "b.parquet"), "column 'a' twice")
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    pq.write_table(pa.table({"a": bad}), tmp_path / "c.parquet")
    assert_refused(str(tmp_path / "c.parquet"), "not valid UTF-8")
    assert_refused(write("d.parquet", b"PAR1"), "not a readable Parquet file")


# Files


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a,b\n1,2\n".encode("utf-16"), ["line 1", "UTF-16", "save the file as UTF-8"]),
        ("a,b\n1,2\n".encode("utf-16-le"), ["line 1", "UTF-16", "save the file as UTF-8"]),
        ("a,b\n1,2\n".encode("utf-16-be"), ["line 1", "UTF-16", "save the file as UTF-8"]),
        (b"a,b\r\n1,2\r\n3,\xe9\r\n", ["line 3, byte 3", "save the file as UTF-8"]),
        (b"a,b\r1,2\r3,\xe9\r", ["line 3, byte 3", "save the file as UTF-8"]),
        (gzip.compress(b"[" + b"\n" * 5000, mtime=0)[:-9], ["damaged or incomplete gzip"]),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "txt"])
def test_a_file_that_is_no_utf_8_is_told_where(suffix: str, content: bytes, words: list[str], write: Write) -> None:
    if suffix == "jsonl" and b"\xe9" in content:
        content = content.replace(b"a,b", b"{}").replace(b"1,2", b"{}")
    assert_refused(write(f"a.{suffix}", content), *words)


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    for uri, words in [
        (str(tmp_path / "none.csv"), "no such file"),
        (str(tmp_path), "a directory"),
        (f"{tmp_path}/", "names no file"),
        ("..", "names no file"),
        ("/dev/null", "not a regular file"),
        (str(tmp_path / ".tmp-a.csv"), "temporary"),
    ]:
        with pytest.raises((ConfigError, DataError), match=words):
            open_table(uri, format="csv")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json", "txt", "parquet", "csv.gz"])
def test_a_file_larger_than_memory_is_read_a_part_at_a_time(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, value = 4000, "x" * 5000
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        values = pa.array([f"{number}{value}" for number in range(count)])
        pq.write_table(pa.table({"text": values}), path, row_group_size=100, compression="none", use_dictionary=False)
    else:
        line = {"json": '{"text": "%s"},', "jsonl": '{"text": "%s"}\n'}.get(suffix, "%s\n") % value
        content = ("text\n" if "csv" in suffix else "") + line * count
        content = f"[{content[:-1]}]" if suffix == "json" else content
        path.write_bytes(gzip.compress(content.encode(), 1) if suffix.endswith("gz") else content.encode())
    monkeypatch.setattr(LocalFolder, "read", None)
    tracemalloc.start()
    try:
        found = sum(len(row["text"] or "") // 5000 for _, row in open_table(str(path)).rows())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == count
    assert peak < count * 5000 / 2


def test_a_table_may_be_read_again(write: Write) -> None:
    def twice(table: Table) -> tuple[object, ...]:
        first = list(table.rows())
        return first, list(table.rows()), table.notes

    rows = [(2, {"a": "1", "b": "2"})]
    note = "spaces around names are left out: 'b '"
    assert twice(open_table(write("a.csv", "a,b \n1,2\n"))) == (rows, rows, [note])
