"""Parquet files to records: which files, which rows, and whether they can be used at all.

Records are read in units: row ranges of one file that are a pure function of the file's own metadata, so the
work can be spread over any number of processes and still give the same records in the same order.

    files = list_files(data.uri)         # names, sizes, fingerprints
    survey = survey_records(data, files) # reads everything once; raises DataError for what cannot be used
    for texts in read_unit(data, survey.units[0]): ...
"""

# pyarrow.compute makes its functions when it is imported, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from runner.config import DataConfig
from runner.data.shards import unpublished
from runner.errors import DataError, RunnerError, StorageError
from runner.storage import LocalFolder, arrow_filesystem, open_folder

ROWS_PER_UNIT = 262_144
ROWS_PER_BATCH = 8_192
READERS = 8
"""Files looked at at the same time: reading waits for storage, and pyarrow works outside the GIL."""

Result = TypeVar("Result")
Item = TypeVar("Item")


@dataclass(frozen=True)
class SourceFile:
    """A Parquet file under `data.uri`. `fingerprint` changes when its content does."""

    name: str
    size: int
    fingerprint: str


@dataclass(frozen=True)
class Unit:
    """Rows `start` to `stop` of a file; `first_row` counts over all files in order."""

    file: str
    start: int
    stop: int
    first_row: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a Ray Data row."""
        return asdict(self)


@dataclass(frozen=True)
class Survey:
    """What one reading of all records found. `characters` counts those of the kept records.

    `alphabet` holds every character that occurs, in code point order.
    """

    units: tuple[Unit, ...]
    rows: int
    null_rows: int
    characters: int
    longest: int
    alphabet: str

    @property
    def records(self) -> int:
        """Rows that hold a record."""
        return self.rows - self.null_rows


def list_files(uri: str) -> tuple[SourceFile, ...]:
    """The Parquet files below a folder, sorted by name, but for those that an import has not published.

    The fingerprint is the SHA-256 of a local file's content, and S3's own ETag and size elsewhere.

    Raises:
        DataError: there is no such folder, or no Parquet file in it.
        StorageError: storage cannot be reached.
    """
    folder = open_folder(uri, patient=False)
    listed = folder.list()
    hidden = unpublished(folder, listed)
    entries = [entry for entry in listed if _is_parquet(entry.name) and entry.name not in hidden]
    if not entries:
        raise DataError(f"{uri}: no Parquet files (*.parquet) here; `runner import` makes them from CSV, JSON or text")
    if isinstance(folder, LocalFolder):
        digests = _in_parallel(lambda entry: _file_sha256(str(folder.local_path(entry.name))), entries)
    else:
        digests = [entry.tag or str(entry.size) for entry in entries]
    return tuple(SourceFile(entry.name, entry.size, digest) for entry, digest in zip(entries, digests, strict=True))


def survey_records(data: DataConfig, files: tuple[SourceFile, ...]) -> Survey:
    """Read every record once and count; what cannot be trained on is found here, before any work.

    Raises:
        DataError: naming the file, for a corrupt file, a missing or non-text column, invalid UTF-8, a field that
            holds the delimiter; or when no row holds a record.
    """
    units = plan_units(data, files)
    parts = _in_parallel(lambda unit: _survey_unit(data, unit), units)
    survey = Survey(
        units=units,
        rows=sum(unit.stop - unit.start for unit in units),
        null_rows=sum(part[0] for part in parts),
        characters=sum(part[1] for part in parts),
        longest=max((part[2] for part in parts), default=0),
        alphabet="".join(sorted(set().union(*(part[3] for part in parts)))),
    )
    if survey.records == 0:
        found = f"all {survey.rows} rows are null in {_columns(data)}" if survey.rows else "the files have no rows"
        raise DataError(f"{data.uri}: no records: {found}")
    return survey


def plan_units(data: DataConfig, files: tuple[SourceFile, ...]) -> tuple[Unit, ...]:
    """Cut the files into units by their footers alone; checks each file's columns on the way.

    Small row groups are read together and large ones in parts, at most `ROWS_PER_UNIT` rows a unit.
    """
    filesystem, root = arrow_filesystem(data.uri)

    def rows_of(file: SourceFile) -> int:
        with _open_parquet(filesystem, root, data, file.name) as parquet:
            _check_columns(data, file.name, parquet.schema_arrow)
            return parquet.metadata.num_rows

    counts = _in_parallel(rows_of, files)
    units: list[Unit] = []
    first_row = 0
    for file, count in zip(files, counts, strict=True):
        if data.max_records is not None:
            count = min(count, data.max_records - first_row)
        for start in range(0, count, ROWS_PER_UNIT):
            stop = min(start + ROWS_PER_UNIT, count)
            units.append(Unit(file.name, start, stop, first_row + start))
        first_row += count
    return tuple(units)


def read_unit(data: DataConfig, unit: Unit) -> Iterator[pa.Array]:
    """The unit's records in row order, `ROWS_PER_BATCH` rows at a time, as string arrays; nulls stay in place.

    With `data.columns`, a row's fields are joined by the delimiter, an empty field for a null; a row whose
    fields are all null is null.
    """
    filesystem, root = arrow_filesystem(data.uri)
    columns = [data.text_column] if data.columns is None else list(data.columns)
    with _open_parquet(filesystem, root, data, unit.file) as parquet:
        groups, skipped = _row_groups(parquet.metadata, unit)
        row = skipped
        batches = parquet.iter_batches(ROWS_PER_BATCH, row_groups=groups, columns=columns, use_threads=False)
        try:
            for batch in batches:
                begin, end = max(unit.start - row, 0), min(unit.stop - row, batch.num_rows)
                row += batch.num_rows
                if begin < end:
                    yield _texts(data, unit.file, batch.slice(begin, end - begin))
                if row >= unit.stop:
                    return
        except (pa.ArrowException, OSError) as error:
            raise _read_error(f"{_where(data, unit.file)}: corrupt Parquet near row {row}", error) from error


def _survey_unit(data: DataConfig, unit: Unit) -> tuple[int, int, int, set[str]]:
    """Nulls, characters, the longest record and the alphabet of a unit."""
    nulls = characters = longest = 0
    occurs = np.zeros(sys.maxunicode + 1, bool)
    row = unit.start
    for texts in read_unit(data, unit):
        try:
            texts.validate(full=True)
        except pa.ArrowInvalid:
            bad = row + _first_invalid(texts)
            raise DataError(f"{_where(data, unit.file)}: row {bad} of {_columns(data)} is not valid UTF-8") from None
        lengths = pc.utf8_length(texts)
        nulls += texts.null_count
        characters += pc.sum(lengths).as_py() or 0
        longest = max(longest, pc.max(lengths).as_py() or 0)
        text = "".join(texts.drop_null().to_pylist())
        occurs[np.frombuffer(text.encode("utf-32-le"), np.uint32)] = True
        row += len(texts)
    return nulls, characters, longest, set(map(chr, np.flatnonzero(occurs)))


def _texts(data: DataConfig, file: str, batch: pa.RecordBatch) -> pa.Array:
    """A batch's records as one string array."""
    if data.columns is None:
        return batch.column(0).cast(pa.large_string())
    delimiter = data.field_delimiter
    fields = [batch.column(batch.schema.get_field_index(name)).cast(pa.large_string()) for name in data.columns]
    for name, field in zip(data.columns, fields, strict=True):
        if pc.any(pc.match_substring(field, delimiter)).as_py():
            raise DataError(
                f"{_where(data, file)}: column {name} holds the field_delimiter {delimiter!r} itself; "
                "choose another delimiter"
            )
    joined = pc.binary_join_element_wise(
        *fields, pa.scalar(delimiter, pa.large_string()), null_handling="replace", null_replacement=""
    )
    empty = fields[0].is_null()
    for field in fields[1:]:
        empty = pc.and_(empty, field.is_null())
    return pc.if_else(empty, pa.scalar(None, pa.large_string()), joined)


def _check_columns(data: DataConfig, file: str, schema: pa.Schema) -> None:
    for name in [data.text_column] if data.columns is None else data.columns:
        if name not in schema.names:
            found = ", ".join(f"{field.name} ({field.type})" for field in schema) or "no columns"
            raise DataError(f"{_where(data, file)}: no column {name}; found: {found}")
        kind = schema.field(name).type
        if isinstance(kind, pa.DictionaryType):
            kind = kind.value_type
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        if data.columns is None and not is_text:
            raise DataError(
                f"{_where(data, file)}: column {name} is {kind}, not text; "
                "name a text column, or list columns to join them"
            )
        if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            raise DataError(f"{_where(data, file)}: column {name} is {kind}, which cannot be joined as text")


def _open_parquet(filesystem: Any, root: str, data: DataConfig, file: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(f"{root}/{file}", filesystem=filesystem, pre_buffer=True)
    except (pa.ArrowException, OSError) as error:
        raise _read_error(f"{_where(data, file)}: not a readable Parquet file", error) from error


def _read_error(what: str, error: Exception) -> RunnerError:
    """Arrow tells of storage that is away by the same type of error as of a file that is corrupt."""
    return StorageError(f"{what}: {error}") if "AWS Error" in str(error) else DataError(f"{what}: {error}")


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


def _first_invalid(texts: pa.Array) -> int:
    """Index of the first text of an array that is not valid UTF-8."""
    for index, text in enumerate(texts.cast(pa.large_binary()).to_pylist()):
        try:
            (text or b"").decode("utf-8")
        except UnicodeDecodeError:
            return index
    return 0


def _in_parallel(function: Callable[[Item], Result], items: tuple[Item, ...] | list[Item]) -> list[Result]:
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(function, items))


def _is_parquet(name: str) -> bool:
    """Data files only: names that start with `_` or `.` are other tools' notes."""
    parts = name.split("/")
    return name.endswith(".parquet") and not any(part.startswith(("_", ".")) for part in parts)


def _file_sha256(path: str) -> str:
    with open(path, "rb") as stream:  # noqa: PTH123
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _columns(data: DataConfig) -> str:
    return f"column {data.text_column}" if data.columns is None else f"columns {', '.join(data.columns)}"


def _where(data: DataConfig, file: str) -> str:
    return f"{data.uri.rstrip('/')}/{file}"
