"""Generated records come back from every format as they are, whoever reads them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runner.data.importing import import_records
from runner.generation.output import to_csv, to_jsonl, write_records
from runner.generation.records import Generated
from runner.generation.rows import text_table
from runner.report.synthetic import read_records

SPECIAL = '",;\t|\n\r \ufeff\u2028\u2029\x85\0\x1a\x1b\x0b\x0c\x1c\x7f\\/é\u00a0😀\uffff'
VALUES = st.text(st.one_of(st.sampled_from(SPECIAL), st.characters(exclude_categories=["Cs"])), max_size=5)
TABLES = st.integers(1, 2).flatmap(lambda width: st.lists(st.tuples(*[VALUES] * width), min_size=1, max_size=4))
Rows = Sequence[tuple[str, ...]]


def names_of(rows: Rows) -> tuple[str, ...]:
    return ("one", "two")[: len(rows[0])]


def read_csv_with_python(path: Path, names: Sequence[str]) -> Any:
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file, strict=True)
    assert header == list(names)
    return rows


def read_csv_with_pandas(path: Path, names: Sequence[str]) -> Any:
    return pd.read_csv(path, dtype=str, keep_default_na=False)[list(names)].to_numpy().tolist()


def read_csv_with_pandas_in_python(path: Path, names: Sequence[str]) -> Any:
    # This engine takes an only field that is empty for a blank line, even in quotes.
    table = pd.read_csv(path, dtype=str, keep_default_na=False, engine="python", skip_blank_lines=False)
    return table[list(names)].to_numpy().tolist()


def read_csv_with_pyarrow(path: Path, names: Sequence[str]) -> Any:
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    convert = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    return values_of(pyarrow.csv.read_csv(path, parse_options=parse, convert_options=convert))


def read_jsonl_with_pandas(path: Path, names: Sequence[str]) -> Any:
    return pd.read_json(path, lines=True, dtype=False)[list(names)].to_numpy().tolist()


def read_jsonl_with_pyarrow(path: Path, names: Sequence[str]) -> Any:
    schema = pa.schema([(name, pa.string()) for name in names])  # else texts that look like times become times
    return values_of(pyarrow.json.read_json(path, parse_options=pyarrow.json.ParseOptions(explicit_schema=schema)))


def read_parquet_with_pandas(path: Path, names: Sequence[str]) -> Any:
    return pd.read_parquet(path)[list(names)].to_numpy().tolist()


def read_parquet_with_pyarrow(path: Path, _names: Sequence[str]) -> Any:
    return values_of(pq.read_table(path))


def read_with_import(path: Path, _names: Sequence[str]) -> Any:
    target = path.parent / "imported"
    import_records(path, str(target), overwrite=True)
    return values_of(pa.concat_tables([pq.read_table(part) for part in sorted(target.glob("*.parquet"))]))


def read_with_report(path: Path, names: Sequence[str]) -> Any:
    return [text.split("<>") for text in read_records(str(path), names, "<>").texts]


def values_of(table: pa.Table) -> list[list[str]]:
    return [list(row.values()) for row in table.to_pylist()]


READERS: dict[str, list[Callable[[Path, Sequence[str]], Any]]] = {
    "csv": [read_csv_with_python, read_csv_with_pandas, read_csv_with_pandas_in_python, read_csv_with_pyarrow],
    "jsonl": [read_jsonl_with_pandas, read_jsonl_with_pyarrow],
    "parquet": [read_parquet_with_pandas, read_parquet_with_pyarrow],
}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=TABLES)
@example(rows=[("a\rb", "1"), ("c\nd", "2"), ('q"q', ""), ("", "")])
@example(rows=[("",), ("\r",), (" ",), ("\ufeff",)])
@example(rows=[("a;b",), ("c;d",)])
def test_every_reader_finds_the_records_that_were_written(
    suffix: str, rows: list[tuple[str, ...]], tmp_path: Path
) -> None:
    path = tmp_path / f"a.{suffix}"
    write_records(str(path), Generated(text_table(names_of(rows), rows), {}), overwrite=True)
    for read in [*READERS[suffix], read_with_import, read_with_report]:
        assert read(path, names_of(rows)) == [list(row) for row in rows], read.__name__


@pytest.mark.parametrize(
    ("rows", "content"),
    [
        ([("a\rb", "\n"), ("\r\n", "x")], b'one,two\n"a\rb","\n"\n"\r\n",x\n'),
        ([(" a", "a "), ("\ufeffa", "\0")], '" a","a "\n"\ufeffa","\0"\n'.encode()),
        ([("a b", ""), ("", "")], b"a b,\n,\n"),
        ([('"', "a,b")], b'"""","a,b"\n'),
        ([("",), ("a",)], b'one\n""\na\n'),
    ],
)
def test_csv_quotes_what_a_reader_would_take_for_something_else(rows: Rows, content: bytes) -> None:
    """By the bytes: what Python's own writer would do depends on its version."""
    assert to_csv(text_table(names_of(rows), rows)).endswith(content)


def test_a_first_line_of_csv_is_never_an_order_to_excel() -> None:
    assert to_csv(pa.table({"sep=;": ["a"]})) == b'"sep=;"\na\n'


def test_lines_of_json_are_lines_to_every_reader() -> None:
    rows = [("a\u2028b\x85c\u2029d\x0b\x1c\r\n", "1")]
    written = to_jsonl(text_table(names_of(rows), rows)).decode()
    assert len(written.splitlines()) == 1
    assert len(io.StringIO(written, newline=None).readlines()) == 1
