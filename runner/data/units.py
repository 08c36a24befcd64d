"""Parquet files to units of rows: what their footers say, and the rows themselves.

    units = plan_units(data, files)                 # of records that are texts
    plan = plan_table(data, files, ["age", "sex"])  # of a table: units, the columns' types, columns that it leaves out
    for batch in read_rows(data, units[0], parquet, columns): ...

A unit is a range of rows of one file. Units are a pure function of the files and the settings, so the work can be
spread over any number of processes and still give the same records in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from runner.config import DataConfig
from runner.data.files import READING_VERSION, SourceFile, in_parallel, partition_columns
from runner.data.persons import person_family
from runner.data.texts import is_string
from runner.errors import DataError, RunnerError, StorageError
from runner.storage import arrow_filesystem

ROWS_PER_UNIT = 262_144
ROWS_PER_BATCH = 8_192
MOST_COLUMNS_NAMED = 20

ENCRYPTED = ("Cannot decrypt", "encrypted metadata", "encrypted parquet", "no decryption found")
"""What Arrow says of files that are encrypted, with the footer or by column."""

UNSUPPORTED = ("not supported", "ot yet implemented")
"""What it says of healthy files, with the type of error that corrupt ones have, too."""

Looked = TypeVar("Looked")


@dataclass(frozen=True)
class Unit:
    """Rows `start` to `stop` of a file; `first_row` counts over all files in order. `version`: see `SourceFile`.

    `person`: the column that tells whose a record is; rows without a value there are no records. None: all are.
    """

    file: str
    start: int
    stop: int
    first_row: int
    version: int = READING_VERSION
    person: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a Ray Data row."""
        return asdict(self)


@dataclass(frozen=True)
class TablePlan:
    """The units of a table and the schema of its records; `left_out`: columns of the files that are not in it."""

    units: tuple[Unit, ...]
    schema: pa.Schema
    left_out: tuple[str, ...]


def plan_units(data: DataConfig, files: tuple[SourceFile, ...], person: str | None = None) -> tuple[Unit, ...]:
    """Cut the files into units by their footers alone; checks each file's columns on the way, `person` among them.

    Small row groups are read together and large ones in parts, at most `ROWS_PER_UNIT` rows a unit. Files without rows
    have no unit, and may be without columns. Only reading tells which unit holds the last of `max_records`.
    """
    if person is None:
        counts = _read_footers(data, files, text_columns(data), lambda _, parquet: parquet.metadata.num_rows)
        return _cut(data, files, [count or 0 for count in counts])
    footers = _read_footers(data, files, [*text_columns(data), person], _Footer.of)
    _check_persons(data, files, footers, person)
    return _cut(data, files, [footer.rows if footer else 0 for footer in footers], person)


def plan_table(
    data: DataConfig,
    files: tuple[SourceFile, ...],
    columns: Sequence[str] | None = None,
    person: str | None = None,
) -> TablePlan:
    """Cut the files of a table into units, and find the one type that each of its columns has in all files.

    A column that holds nothing but nulls in a file counts as one of any type, where the footer says so. Texts of all
    widths are one type, and so are dictionaries of the same values; columns that come from folders are texts.

    columns: those of the records; None for all that a field can hold. person: the column that tells whose a row is.

    Raises:
        DataError: naming the file that lacks a column, has it twice, holds lists or structs in it, or has it of another
            type than a file before.
    """
    asked = columns if columns is None or person is None else [*columns, person]
    footers = _read_footers(data, files, asked, _Footer.of)
    _check_persons(data, files, footers, person)
    there = dict.fromkeys(name for footer in footers if footer for name in footer.kinds)
    if columns is None:
        nested = {name for footer in footers if footer for name, kind in footer.kinds.items() if types.is_nested(kind)}
        columns = [name for name in there if name not in nested]
    kinds: dict[str, pa.DataType] = {}
    nulls: dict[str, pa.DataType] = {}
    required = set(columns)
    for file, footer in zip(files, footers, strict=True):
        if footer is None:
            continue
        for name in columns:
            place = f"{where(data, file.name)}: column {name}"
            kind = footer.kinds.get(name)
            if kind is None:
                raise DataError(f"{place} is missing, which other files have; leave it out of fields, or write it anew")
            if types.is_null(kind):
                continue
            if name in footer.empty:
                nulls[name] = kind if nulls.get(name, kind) == kind else pa.null()
                continue
            if types.is_nested(kind):
                raise DataError(f"{place} is {kind}, which no kind of field can hold; leave it out of fields")
            common = common_type(kinds.get(name, kind), kind)
            if common is None:
                raise DataError(f"{place} is {kind}, but {kinds[name]} in files before it; give it one type in all")
            kinds[name] = common
        required -= footer.nullable
    # Nulls in all files keep the type that all give them.
    kinds = nulls | kinds
    schema = pa.schema([pa.field(name, kinds.get(name, pa.null()), name not in required) for name in columns])
    units = _cut(data, files, [footer.rows if footer else 0 for footer in footers], person)
    return TablePlan(units, schema, tuple(name for name in there if name not in schema.names and name != person))


@dataclass(frozen=True)
class _Footer:
    """What a file says of its columns, those of its folders included: their types, which of them hold nothing but
    nulls, and which may hold nulls."""

    rows: int
    kinds: dict[str, pa.DataType]
    empty: set[str]
    nullable: set[str]

    @classmethod
    def of(cls, file: SourceFile, parquet: pq.ParquetFile) -> _Footer:
        schema = parquet.schema_arrow
        folders = {name: pa.field(name, pa.string()) for name in partition_columns(file.name)}
        there = folders | {field.name: field for field in schema}
        return cls(
            parquet.metadata.num_rows,
            {name: field.type for name, field in there.items()},
            _columns_of_nulls(parquet.metadata),
            {name for name, field in there.items() if field.nullable},
        )


def _read_footers(
    data: DataConfig,
    files: tuple[SourceFile, ...],
    columns: Sequence[str] | None,
    look: Callable[[SourceFile, pq.ParquetFile], Looked],
) -> list[Looked | None]:
    """What `look` sees in each file, once its columns (None: all of them) are checked; None for a file without rows."""
    filesystem, root = arrow_filesystem(data.uri)

    def read(file: SourceFile) -> Looked | None:
        with open_parquet(filesystem, root, data, file.name) as parquet:
            if not parquet.metadata.num_rows:
                return None
            schema = parquet.schema_arrow
            _check_columns(data, file.name, schema, schema.names if columns is None else columns)
            return look(file, parquet)

    return in_parallel(read, files)


def _columns_of_nulls(metadata: pq.FileMetaData) -> set[str]:
    """The flat columns that, as the footer's statistics say, hold nothing but nulls."""
    nulls: dict[str, int] = {}
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for place in range(row_group.num_columns):
            column = row_group.column(place)
            statistics = column.statistics
            if statistics is not None and statistics.has_null_count:
                nulls[column.path_in_schema] = nulls.get(column.path_in_schema, 0) + statistics.null_count
    return {name for name, count in nulls.items() if count == metadata.num_rows}


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type of a column that has both; None where there is none."""
    if one == other or (is_string(one) and is_string(other)):
        return one
    if types.is_dictionary(one) and types.is_dictionary(other) and one.value_type == other.value_type:
        index = max(one.index_type, other.index_type, key=lambda kind: kind.bit_width)
        return pa.dictionary(index, one.value_type, one.ordered and other.ordered)
    return None


def _check_persons(
    data: DataConfig, files: tuple[SourceFile, ...], footers: Sequence[_Footer | None], person: str | None
) -> None:
    """Whether the values that tell whose a record is can be compared over all files.

    Raises:
        DataError: naming a file that has lists or structs there, or another type than a file before.
    """
    first: pa.DataType | None = None
    for file, footer in zip(files, footers, strict=True):
        if footer is None or person is None:
            continue
        kind = footer.kinds[person]
        place = f"{where(data, file.name)}: column {person} is {kind}"
        if types.is_nested(kind):
            raise DataError(f"{place}, which tells no privacy.unit; name a column of single values")
        if person_family(kind) is None:
            continue
        if first is not None and person_family(first) != person_family(kind):
            raise DataError(f"{place}, but {first} in files before it; privacy.unit needs one type in all")
        first = first or kind


def _cut(
    data: DataConfig, files: tuple[SourceFile, ...], counts: Sequence[int], person: str | None = None
) -> tuple[Unit, ...]:
    units: list[Unit] = []
    first_row = 0
    for file, count in zip(files, counts, strict=True):
        if file.version == 1 and data.max_records is not None:
            count = min(count, data.max_records - first_row)
        for start in range(file.start, count, ROWS_PER_UNIT):
            stop = min(start + ROWS_PER_UNIT, count)
            units.append(Unit(file.name, start, stop, first_row + start - file.start, file.version, person))
        first_row += max(count - file.start, 0)
    return tuple(units)


def read_rows(data: DataConfig, unit: Unit, parquet: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The unit's rows, `ROWS_PER_BATCH` at a time."""
    groups, row = _row_groups(parquet.metadata, unit)
    try:
        for batch in parquet.iter_batches(ROWS_PER_BATCH, row_groups=groups, columns=columns, use_threads=False):
            begin, end = max(unit.start - row, 0), min(unit.stop - row, batch.num_rows)
            row += batch.num_rows
            if begin < end:
                yield batch.slice(begin, end - begin)
            if row >= unit.stop:
                return
    except (pa.ArrowException, OSError) as error:
        raise _read_error(data, unit.file, f"corrupt Parquet near row {row}", error) from error


def _check_columns(data: DataConfig, file: str, schema: pa.Schema, columns: Sequence[str]) -> None:
    folders = partition_columns(file)
    for name in columns:
        count = schema.names.count(name)
        if count > 1:
            raise DataError(f"{where(data, file)}: has {count} columns named {name}; rename all but one")
        if not count and name not in folders:
            found = [f"{field.name} ({field.type})" for field in schema] + [f"{key} (folder)" for key in folders]
            more = len(found) - MOST_COLUMNS_NAMED
            listed = ", ".join(found[:MOST_COLUMNS_NAMED]) + (f" and {more} more" if more > 0 else "")
            raise DataError(f"{where(data, file)}: no column {name}; found: {listed or 'no columns'}")


def open_parquet(filesystem: Any, root: str, data: DataConfig, file: str) -> pq.ParquetFile:
    """Open a file; raises DataError, or StorageError where storage is away."""
    try:
        return pq.ParquetFile(f"{root}/{file}", filesystem=filesystem, pre_buffer=True, arrow_extensions_enabled=True)
    except (pa.ArrowException, OSError) as error:
        raise _read_error(data, file, "not a readable Parquet file", error) from error


def _read_error(data: DataConfig, file: str, what: str, error: Exception) -> RunnerError:
    """Arrow tells of storage that is away by the same type of error as of a file that is corrupt or encrypted."""
    place, reason = where(data, file), " ".join(str(error).split())
    if "AWS Error" in reason:
        return StorageError(f"{place}: {what}: {reason}")
    if any(words in reason for words in ENCRYPTED):
        return DataError(f"{place}: is encrypted Parquet; store it decrypted, or without this column's encryption")
    if isinstance(error, pa.ArrowNotImplementedError) or any(words in reason for words in UNSUPPORTED):
        return DataError(f"{place}: is written in a way that Arrow cannot read; write it anew: {reason}")
    return DataError(f"{place}: {what}: {reason}")


def _row_groups(metadata: pq.FileMetaData, unit: Unit) -> tuple[list[int], int]:
    """The row groups that hold a unit's rows, and how many rows of the file come before them."""
    groups: list[int] = []
    skipped = row = 0
    for group in range(metadata.num_row_groups):
        stop = row + metadata.row_group(group).num_rows
        if stop <= unit.start:
            skipped = stop
        elif row < unit.stop:
            groups.append(group)
        row = stop
    return groups, skipped


def text_columns(data: DataConfig) -> tuple[str, ...]:
    """The columns whose texts are records, or are joined to them."""
    return (data.text_column,) if data.columns is None else data.columns


def text_columns_in_words(data: DataConfig) -> str:
    """The same for messages."""
    return f"column {data.text_column}" if data.columns is None else f"columns {', '.join(data.columns)}"


def where(data: DataConfig, file: str) -> str:
    """A file's place, for messages."""
    return f"{data.uri.rstrip('/')}/{file}"
