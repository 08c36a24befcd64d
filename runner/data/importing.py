"""The work of `runner import`: CSV, JSON, Parquet or plain text (gzipped or not) to Parquet shards of strings.

The file is read twice, a part at a time: once to check all of it, once to write. So a wrong line anywhere leaves
nothing behind, and a file larger than memory is fine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.data.fields import join_fields, splits_back
from runner.data.joined import joined_schema
from runner.data.shards import Target
from runner.data.table import Row, Table
from runner.data.tables import open_table
from runner.errors import DataError


@dataclass(frozen=True)
class ImportSummary:
    """What an import wrote: Parquet shards, the records in them, their columns, and their size.

    `notes`: what had to be decided about the file, and what its records do not keep of it, a line each.
    """

    files: int
    records: int
    columns: tuple[str, ...]
    bytes: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Join:
    """Joins `columns` into one text by `field_delimiter`, as they are: no quotes, and a null is empty.

    Where splitting the text would not give the fields back, that is an error, unless `allow_delimiter_in_fields`. A row
    of nulls alone is a null.
    """

    columns: tuple[str, ...]
    field_delimiter: str = ","
    allow_delimiter_in_fields: bool = False

    def fields(self, row: Row) -> list[str | None]:
        """The fields of a row's record."""
        return [row.get(column) for column in self.columns]

    def text(self, row: Row) -> str | None:
        """A row's record."""
        fields = self.fields(row)
        return join_fields(fields, self.field_delimiter) if _any_value(fields) else None


def import_records(
    source: str | Path,
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
    """Write the records of `source` as `part-00000.parquet` … into the folder `target_uri` (both local or s3://).

    `format` is csv, jsonl, parquet or text; None tells by the file's suffix. All columns are strings: CSV fields as
    they are, JSON values that are not strings as they are written, text lines in a column `text_column`. With `join`,
    the one column written is `text_column`. Without `header` CSV columns are `column_1` …, and a single one
    `text_column`. `csv_delimiter` None is a tab for .tsv, else a comma, unless the file names another; a file that
    seems to have another is refused. A shard holds at most `rows_per_shard` records.

    Raises DataError for input that cannot be used (naming file and line) and for a folder that already holds
    Parquet files; those of an import before are replaced with `overwrite`. Nothing is written then. Raises
    StorageError if writing fails; shards written until then are removed (see `runner.data.shards`).
    """
    table = open_table(
        str(source),
        format=format,
        header=header,
        csv_delimiter=csv_delimiter,
        may_guess=False,
        text_column=text_column,
    )
    target = Target.open(target_uri, overwrite=overwrite)
    wanted = None if join is None else join.columns
    checked = _check(table, join)
    rows = _unchanged_rows(table, wanted, checked.records)
    columns = checked.columns
    if join is not None:
        rows, columns = ({text_column: join.text(row)} for row in rows), (text_column,)
    delimiter = join.field_delimiter if join is not None and len(join.columns) > 1 else None
    counts = target.write(rows, joined_schema(columns, delimiter), rows_per_shard)
    return ImportSummary(columns=columns, notes=checked.notes, **counts)


@dataclass(frozen=True)
class _Checked:
    """What the first reading found: how many records, and their columns in order of first appearance."""

    records: int
    columns: tuple[str, ...]
    notes: tuple[str, ...]


def _check(table: Table, join: Join | None) -> _Checked:
    """Read all of the file."""
    columns: dict[str, None] = {}
    records = with_nulls = unsplittable = 0
    for number, row in table.rows(None if join is None else join.columns):
        records += 1
        if row.keys() - columns.keys():
            columns |= dict.fromkeys(row)
        if join is None:
            continue
        fields = join.fields(row)
        with_nulls += None in fields and _any_value(fields)
        if not splits_back(fields, join.field_delimiter):
            unsplittable += 1
            if not join.allow_delimiter_in_fields:
                raise DataError(f"{table.where(number)}: {_why_it_does_not_split(join, fields)}")
    table.check_columns(() if join is None else join.columns, columns)
    notes = list(table.notes)
    if with_nulls:
        notes.append(f"{with_nulls:,} records have null fields, which are empty in them: the two are not told apart")
    if unsplittable:
        notes.append(f"{unsplittable:,} records do not split back into their fields, which hold the delimiter")
    return _Checked(records, tuple(columns), tuple(notes))


def _any_value(fields: Sequence[str | None]) -> bool:
    return any(field is not None for field in fields)


def _why_it_does_not_split(join: Join, fields: Sequence[str | None]) -> str:
    otherwise = "choose another, or add --allow-delimiter-in-fields"
    for column, field in zip(join.columns, fields, strict=True):
        if join.field_delimiter in (field or ""):
            return f"column {column!r} holds the field delimiter {join.field_delimiter!r}: {otherwise}"
    found = join_fields(fields, join.field_delimiter).split(join.field_delimiter)
    column, field, other = next(each for each in zip(join.columns, fields, found, strict=False) if each[1] != each[2])
    return (
        f"column {column!r} ends with the beginning of the field delimiter {join.field_delimiter!r}: "
        f"{field!r} would be split as {other!r}: {otherwise}"
    )


def _unchanged_rows(table: Table, columns: Sequence[str] | None, records: int) -> Iterator[Row]:
    """The rows, which were `records` at the first reading.

    Raises:
        DataError: there are more or fewer now.
    """
    count = 0
    for _, row in table.rows(columns):
        count += 1
        yield row
    if count != records:
        raise DataError(f"{table.source.uri}: changed while it was read: it had {records:,} records, then {count:,}")
