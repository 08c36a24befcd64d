"""Tables that a user names: CSV, JSON, Parquet or lines of text, local or on S3, gzipped or not. The one reader of all.

    table = open_table("claims.csv")
    for number, row in table.rows():     # line 2, {"age": "49", "code": "C30"}
        ...
    table.notes                          # what the reader had to decide, in words

Values are texts. CSV has no others; of JSON, what is no string stays as it is written (`0.10`, `[1, 2]`), and a null is
None, as is a name that an object does not have. A file is read a part at a time, and as often as `rows` is called.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from runner.data.csv_table import CsvTable
from runner.data.json_table import JsonTable
from runner.data.parquet_table import ParquetTable
from runner.data.sources import Source, find_source
from runner.data.table import NumberedRows, Table
from runner.errors import DataError

FORMAT_OF_SUFFIX = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".parq": "parquet",
    ".pq": "parquet",
    ".txt": "text",
    ".text": "text",
}
HEAD_CHARACTERS = 1 << 16


def open_table(
    uri: str,
    *,
    format: str | None = None,  # noqa: A002
    header: bool = True,
    csv_delimiter: str | None = None,
    may_guess: bool = True,
    text_column: str = "text",
    patient: bool = True,
) -> Table:
    """The table at a local path or s3://; nothing but its size is read yet.

    format: csv, jsonl (JSON Lines, or one array), parquet or text; None tells by the file's suffix. csv_delimiter: None
    is a tab for .tsv, else a comma; where another one fits, that is a guess. Without a header CSV columns are
    `column_1` ..., and a single one `text_column`, as is the column of lines of text.

    Raises:
        DataError: there is no such file, or its format is not known.
        StorageError: storage cannot be reached.
    """
    source = find_source(uri, patient=patient)
    suffixes = [suffix.lower() for suffix in PurePosixPath(source.name).suffixes]
    match format or _format_of(uri, suffixes):
        case "csv":
            usual = "\t" if ".tsv" in suffixes else ","
            return CsvTable(
                source,
                header=header,
                delimiter=csv_delimiter,
                usual=usual,
                may_guess=may_guess,
                text_column=text_column,
            )
        case "jsonl":
            return JsonTable(source)
        case "parquet":
            return ParquetTable(source)
        case "text":
            return TextTable(source, text_column)
        case other:
            raise DataError(f"there is no format {other!r}: choose csv, jsonl, parquet or text")


def read_columns(table: Table, wanted: Iterable[str]) -> dict[str, list[str | None]]:
    """All values of some columns.

    Raises:
        DataError: the table cannot be read, holds no records, or lacks a column.
    """
    values: dict[str, list[str | None]] = {name: [] for name in wanted}
    columns: dict[str, None] = {}
    for _, row in table.rows(tuple(values)):
        columns.update(dict.fromkeys(row))
        for name, found in values.items():
            found.append(row.get(name))
    table.check_columns(values, columns)
    return values


class TextTable(Table):
    """A record a line; blank lines are none."""

    def __init__(self, source: Source, column: str) -> None:
        super().__init__(source)
        self._column = column

    def rows(self, columns: Iterable[str] | None = None) -> NumberedRows:  # noqa: ARG002 (there is one)
        blank = 0
        with self.source.open_text() as file:
            head = file.read(HEAD_CHARACTERS)
        # A lone carriage return ends a line only in files that have no other line end: old Macs'.
        newline = "" if "\r" in head and "\n" not in head else "\n"
        with self.source.open_text(newline) as file:
            for number, line in enumerate(file, 1):
                text = line.removesuffix("\n").removesuffix("\r")
                blank += not text
                if text:
                    yield number, {self._column: text}
        self.note_blank_lines(blank)


def _format_of(uri: str, suffixes: list[str]) -> str:
    suffixes = [suffix for suffix in suffixes if suffix != ".gz"]
    if not suffixes or suffixes[-1] not in FORMAT_OF_SUFFIX:
        raise DataError(f"{uri}: cannot tell the format by its suffix; give it: csv, jsonl, parquet or text")
    return FORMAT_OF_SUFFIX[suffixes[-1]]
