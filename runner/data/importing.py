"""The work of `runner import`: CSV, JSON Lines or plain text (gzipped or not) to Parquet shards of strings.

The file is read twice, a line at a time: once to check all of it, once to write. So a wrong line anywhere
leaves nothing behind, and a file larger than memory is fine. Blank lines are skipped in every format.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from runner.data.joined import joined_schema
from runner.errors import DataError, StorageError
from runner.storage import Folder, open_folder

Row: TypeAlias = Mapping[str, str | None]
NumberedRows: TypeAlias = Iterator[tuple[int, Row]]
"""Rows with the number of the line, from 1, that they end on."""
Parse: TypeAlias = Callable[[Path], NumberedRows]

_FORMAT_OF_SUFFIX = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".txt": "text",
    ".text": "text",
}
_SHARD_CHARACTERS = 1 << 26  # a shard of long records ends early: it is built in memory
_LONGEST_FIELD = 1 << 30  # characters; Python's own limit for a CSV field is 131,072


@dataclass(frozen=True)
class ImportSummary:
    """What an import wrote: Parquet shards, the records in them, their columns, and their size."""

    files: int
    records: int
    columns: tuple[str, ...]
    bytes: int


@dataclass(frozen=True)
class Join:
    """Joins `columns` into one text by `field_delimiter`, as it is: no quotes, and a null is empty.

    A field that itself holds the delimiter could not be told apart afterwards: it is an error unless
    `allow_delimiter_in_fields`.
    """

    columns: tuple[str, ...]
    field_delimiter: str = ","
    allow_delimiter_in_fields: bool = False


def import_records(
    source: Path,
    target_uri: str,
    *,
    format: str | None = None,  # noqa: A002
    header: bool = True,
    csv_delimiter: str | None = None,
    text_column: str = "text",
    join: Join | None = None,
    rows_per_shard: int = 100_000,
    overwrite: bool = False,
) -> ImportSummary:
    """Write the records of `source` as `part-00000.parquet` … into the folder `target_uri` (local or s3://).

    `format` is csv, jsonl or text; None tells by the file's suffix. All columns are strings: CSV fields as
    they are, JSON values that are not strings as JSON text, text lines in a column `text_column`. With
    `join`, the one column written is `text_column`. Without `header` CSV columns are `column_1` …, and a
    single one `text_column`. `csv_delimiter` None is a tab for .tsv, else a comma. A shard holds at most
    `rows_per_shard` records.

    Raises DataError for input that cannot be used (naming file and line) and for a folder that already holds
    Parquet files unless `overwrite`; nothing is written then. Raises StorageError if writing fails; shards
    written until then are removed.
    """
    parse = _parser(format or _format_of(source), header, csv_delimiter, text_column)
    folder = open_folder(target_uri)
    old_shards = {entry.name for entry in folder.list() if entry.name.endswith(".parquet")}
    if old_shards and not overwrite:
        raise DataError(
            f"{target_uri} already holds Parquet files ({len(old_shards)}): choose another folder or add --overwrite"
        )
    columns = _check(source, parse, join)
    rows: Iterator[Row] = (row for _, row in parse(source))
    if join is not None:
        rows, columns = ({text_column: _joined(row, join)} for row in rows), (text_column,)
    schema = joined_schema(columns, join and join.field_delimiter)
    summary = _write_shards(folder, rows, schema, rows_per_shard)
    for name in old_shards.difference(_shard_names(summary.files)):
        folder.delete(name)
    return summary


def read_column(source: Path, column: str) -> list[str | None]:
    """The values of one column of CSV or JSON Lines, or the lines of a text file.

    Raises DataError for a file that cannot be used, and one without the column.
    """
    parse = _parser(_format_of(source), True, None, column)
    columns = _check(source, parse, None)
    if column not in columns:
        raise DataError(f"{source} has no column {column!r}: it has {', '.join(columns)}")
    return [row.get(column) for _, row in parse(source)]


def _format_of(source: Path) -> str:
    suffixes = [suffix.lower() for suffix in source.suffixes if suffix.lower() != ".gz"]
    if not suffixes or suffixes[-1] not in _FORMAT_OF_SUFFIX:
        raise DataError(f"{source}: cannot tell the format by its suffix; give it: csv, jsonl or text")
    return _FORMAT_OF_SUFFIX[suffixes[-1]]


def _parser(format: str, header: bool, csv_delimiter: str | None, text_column: str) -> Parse:  # noqa: A002
    match format:
        case "csv":
            return lambda source: _csv_rows(source, header, csv_delimiter, text_column)
        case "jsonl":
            return _json_rows
        case "text":
            return lambda source: ((number, {text_column: line}) for number, line in _lines(source) if line)
        case _:
            raise DataError(f"there is no import format {format!r}: choose csv, jsonl or text")


def _check(source: Path, parse: Parse, join: Join | None) -> tuple[str, ...]:
    """Read all of the file; return its columns in order of first appearance."""
    columns: dict[str, None] = {}
    for number, row in parse(source):
        if row.keys() - columns.keys():
            columns |= dict.fromkeys(row)
        if join is not None and not join.allow_delimiter_in_fields:
            for column in join.columns:
                if join.field_delimiter in (row.get(column) or ""):
                    raise DataError(
                        f"{source}, line {number}: column {column!r} holds the field delimiter "
                        f"{join.field_delimiter!r}: choose another, or add --allow-delimiter-in-fields"
                    )
    if not columns:
        raise DataError(f"{source} holds no records")
    for column in join.columns if join is not None else ():
        if column not in columns:
            raise DataError(f"{source} has no column {column!r}: it has {', '.join(columns)}")
    return tuple(columns)


def _joined(row: Row, join: Join) -> str:
    return join.field_delimiter.join(row.get(column) or "" for column in join.columns)


def _write_shards(folder: Folder, rows: Iterable[Row], schema: pa.Schema, rows_per_shard: int) -> ImportSummary:
    columns = schema.names
    files = records = size = 0
    try:
        for shard in _shards(rows, rows_per_shard):
            data = io.BytesIO()
            table = pa.table([[row.get(column) for row in shard] for column in columns], schema=schema)
            pq.write_table(table, data, compression="zstd")
            folder.write(_shard_name(files), data.getvalue())
            files, records, size = files + 1, records + len(shard), size + len(data.getvalue())
    except BaseException:
        for name in _shard_names(files + 1):
            with suppress(StorageError):
                folder.delete(name)
        raise
    return ImportSummary(files=files, records=records, columns=tuple(columns), bytes=size)


def _shards(rows: Iterable[Row], rows_per_shard: int) -> Iterator[list[Row]]:
    shard: list[Row] = []
    characters = 0
    for row in rows:
        shard.append(row)
        characters += sum(len(value) for value in row.values() if value)
        if len(shard) == rows_per_shard or characters >= _SHARD_CHARACTERS:
            yield shard
            shard, characters = [], 0
    if shard:
        yield shard


def _shard_name(index: int) -> str:
    return f"part-{index:05d}.parquet"


def _shard_names(files: int) -> list[str]:
    return [_shard_name(index) for index in range(files)]


def _csv_rows(source: Path, header: bool, csv_delimiter: str | None, text_column: str) -> NumberedRows:
    """Rows with the line they end on; a field in quotes may hold line breaks."""
    tabs = ".tsv" in (suffix.lower() for suffix in source.suffixes)
    delimiter = csv_delimiter or ("\t" if tabs else ",")
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader((line for _, line in _lines(source, keep_ends=True)), delimiter=delimiter, strict=True)
    columns: list[str] | None = None
    try:
        for fields in reader:
            if not fields:
                continue
            if columns is None:
                columns = _header(source, fields) if header else _numbered_columns(len(fields), text_column)
                if header:
                    continue
            if len(fields) != len(columns):
                raise DataError(f"{source}, line {reader.line_num}: {len(fields)} fields, but {len(columns)} columns")
            yield reader.line_num, dict(zip(columns, fields, strict=True))
    except csv.Error as error:
        raise DataError(f"{source}, line {reader.line_num}: not valid CSV: {error}") from None


def _header(source: Path, fields: list[str]) -> list[str]:
    columns = [name or f"column_{index}" for index, name in enumerate(fields, 1)]
    for name in columns:
        if columns.count(name) > 1:
            raise DataError(f"{source}: the header names column {name!r} twice")
    return columns


def _numbered_columns(count: int, text_column: str) -> list[str]:
    return [text_column] if count == 1 else [f"column_{index}" for index in range(1, count + 1)]


def _json_rows(source: Path) -> NumberedRows:
    for number, line in _lines(source):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{source}, line {number}: not valid JSON: {error}") from None
        if not isinstance(values, dict):
            raise DataError(
                f"{source}, line {number}: a {type(values).__name__}, but one JSON object per line is needed"
            )
        row = {name: _json_text(value) for name, value in values.items()}
        if "\\u" in line and not all(map(_is_unicode, chain(row, row.values()))):
            raise DataError(f"{source}, line {number}: an escape names half a surrogate pair: not valid Unicode")
        yield number, row


def _json_text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_unicode(text: str | None) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text or "")


def _lines(source: Path, *, keep_ends: bool = False) -> Iterator[tuple[int, str]]:
    """The file's lines with their numbers from 1, without a byte order mark; gzip is undone.

    Raises DataError if the file cannot be read, is not UTF-8, or is damaged gzip.
    """
    try:
        with _open(source) as file:
            for number, line in enumerate(file, 1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{source}, line {number}, byte {error.start + 1}: not UTF-8: save the file as UTF-8"
                    ) from None
                yield number, text if keep_ends else text.removesuffix("\n").removesuffix("\r")
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise DataError(f"{source}: damaged or incomplete gzip file") from None
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error.strerror or error}") from None


def _open(source: Path) -> io.BufferedIOBase:
    with source.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(source) if zipped else source.open("rb")
