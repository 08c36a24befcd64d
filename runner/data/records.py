"""Parquet files to records: which rows, and whether they can be used at all.

Records are read in units: row ranges of one file that are a pure function of the files and the settings, so the
work can be spread over any number of processes and still give the same records in the same order.

    files = list_files(data.uri)         # names, sizes, fingerprints
    survey = survey_records(data, files) # reads everything once; raises DataError for what cannot be used
    for texts in read_unit(data, survey.units[0]): ...
    for texts in read_records(data, files): ...   # all of them, here and now
"""

# pyarrow.compute makes its functions when it is imported, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from runner.config import DataConfig
from runner.data.files import READERS, READING_VERSION, SourceFile, in_parallel, partition_columns
from runner.data.texts import NoTextError, find_unsplittable, is_text, join_fields, to_texts
from runner.data.token_lengths import Certainty, LengthCount, TokenLengths
from runner.errors import DataError, NothingNewError, RunnerError, StorageError
from runner.storage import arrow_filesystem

ROWS_PER_UNIT = 262_144
ROWS_PER_BATCH = 8_192
MOST_COLUMNS_NAMED = 20

ENCRYPTED = ("Cannot decrypt", "encrypted metadata", "encrypted parquet", "no decryption found")
"""What Arrow says of files that are encrypted, with the footer or by column."""

UNSUPPORTED = ("not supported", "ot yet implemented")
"""What it says of healthy files, with the type of error that corrupt ones have, too."""


@dataclass(frozen=True)
class Unit:
    """Rows `start` to `stop` of a file; `first_row` counts over all files in order. `version`: see `SourceFile`."""

    file: str
    start: int
    stop: int
    first_row: int
    version: int = READING_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a Ray Data row."""
        return asdict(self)


@dataclass(frozen=True)
class Found:
    """What reading some rows found. `characters` counts those of the kept records, `occurs` the distinct ones.

    `null_fields` and `empty_fields` are those of kept rows that `data.columns` joins: the text does not tell them
    apart. `windows`: how many examples the tokens fill as a stream.
    """

    rows: int = 0
    null_rows: int = 0
    null_fields: int = 0
    empty_fields: int = 0
    characters: int = 0
    longest: int = 0
    lengths: LengthCount = field(default_factory=LengthCount)
    windows: int = 0
    alphabet: frozenset[str] = frozenset()

    @property
    def records(self) -> int:
        """Rows that hold a record."""
        return self.rows - self.null_rows

    def __add__(self, other: Found) -> Found:
        return Found(
            rows=self.rows + other.rows,
            null_rows=self.null_rows + other.null_rows,
            null_fields=self.null_fields + other.null_fields,
            empty_fields=self.empty_fields + other.empty_fields,
            characters=self.characters + other.characters,
            longest=max(self.longest, other.longest),
            lengths=self.lengths + other.lengths,
            windows=self.windows + other.windows,
            alphabet=self.alphabet | other.alphabet,
        )


@dataclass(frozen=True)
class Survey:
    """What one reading of the records found, and the units that hold them.

    `stops`: the files with records of the job, and the row where `max_records` ends in one; None for their ends.
    `empty_files` have no rows. `certainty`: what the counts of tokens are worth, where there are any.
    """

    units: tuple[Unit, ...]
    found: Found
    stops: dict[str, int | None]
    empty_files: tuple[str, ...] = ()
    certainty: Certainty | None = None

    @property
    def records(self) -> int:
        """Rows that hold a record."""
        return self.found.records

    @property
    def alphabet(self) -> str:
        """Every character that occurs, in code point order."""
        return "".join(sorted(self.found.alphabet))


def survey_records(data: DataConfig, files: tuple[SourceFile, ...], lengths: TokenLengths | None = None) -> Survey:
    """Read every record once and count; what cannot be trained on is found here, before any work.

    Reading ends with the last of `max_records`. `lengths`: counts tokens on the way.

    Raises:
        DataError: naming the file, for a corrupt file, a missing column or one that is not text, invalid UTF-8, a field
            that the delimiter would not give back; or when no row holds a record.
        NothingNewError: no row does, of the files that `data.since` leaves.
    """
    planned = plan_units(data, files)
    kept = list(_survey_units(data, planned, lengths))
    found = sum((part for _, part in kept), Found())
    if why := _why_no_records(data, found):
        if data.since is not None:
            raise NothingNewError(f"{data.uri}: no records that run {data.since} did not have: {why}")
        raise DataError(f"{data.uri}: no records: {why}")
    units = tuple(unit for unit, _ in kept)
    ends = {unit.file: unit.stop for unit in planned}
    return Survey(
        units=units,
        found=found,
        stops={unit.file: None if unit.stop == ends[unit.file] else unit.stop for unit in units},
        empty_files=tuple(file.name for file in files if file.name not in ends),
        certainty=lengths.certainty if lengths else None,
    )


def plan_units(data: DataConfig, files: tuple[SourceFile, ...]) -> tuple[Unit, ...]:
    """Cut the files into units by their footers alone; checks each file's columns on the way.

    Small row groups are read together and large ones in parts, at most `ROWS_PER_UNIT` rows a unit. Files without rows
    have no unit, and may be without columns. Only reading tells which unit holds the last of `max_records`.
    """
    filesystem, root = arrow_filesystem(data.uri)

    def rows_of(file: SourceFile) -> int:
        with _open_parquet(filesystem, root, data, file.name) as parquet:
            if parquet.metadata.num_rows:
                _check_columns(data, file.name, parquet.schema_arrow)
            return parquet.metadata.num_rows

    counts = in_parallel(rows_of, files)
    units: list[Unit] = []
    first_row = 0
    for file, count in zip(files, counts, strict=True):
        if file.version == 1 and data.max_records is not None:
            count = min(count, data.max_records - first_row)
        for start in range(file.start, count, ROWS_PER_UNIT):
            stop = min(start + ROWS_PER_UNIT, count)
            units.append(Unit(file.name, start, stop, first_row + start - file.start, file.version))
        first_row += max(count - file.start, 0)
    return tuple(units)


def read_unit(data: DataConfig, unit: Unit) -> Iterator[pa.Array]:
    """The unit's records in row order, `ROWS_PER_BATCH` rows at a time, as string arrays; nulls stay in place.

    With `data.columns`, a row's fields are joined by the delimiter, an empty field for a null; a row whose
    fields are all null is null.
    """
    yield from (texts for texts, _ in _read(data, unit))


def read_records(data: DataConfig, files: tuple[SourceFile, ...]) -> Iterator[pa.Array]:
    """All rows that a survey keeps, in order, as `read_unit` gives them."""
    units = plan_units(data, files)
    left = _most_records(data, units[0]) if units else None
    for unit in units:
        for texts, _ in _read(data, unit, left):
            yield texts
            if left is not None:
                left -= len(texts) - texts.null_count
        if left == 0:
            return


def _survey_units(
    data: DataConfig, units: tuple[Unit, ...], lengths: TokenLengths | None
) -> Iterator[tuple[Unit, Found]]:
    """The units in order, until they hold `max_records`; the last one ends behind the last record."""
    most = _most_records(data, units[0]) if units else None
    left = most
    with ThreadPoolExecutor(READERS) as pool:
        for unit, found in zip(
            units, pool.map(lambda unit: _survey_unit(data, unit, most, lengths), units), strict=True
        ):
            if left is not None and most is not None and left < most and found.records >= left:
                found = _survey_unit(data, unit, left, lengths)
            yield replace(unit, stop=unit.start + found.rows), found
            if left is not None:
                left -= found.records
            if left == 0:
                pool.shutdown(cancel_futures=True)
                return


def _survey_unit(data: DataConfig, unit: Unit, most: int | None, lengths: TokenLengths | None) -> Found:
    """What is in a unit, up to its record number `most`."""
    total = Found()
    occurs = np.zeros(sys.maxunicode + 1, bool)
    for texts, fields in _read(data, unit, most):
        try:
            texts.validate(full=True)
        except pa.ArrowInvalid:
            bad = unit.start + total.rows + _first_invalid(texts)
            raise DataError(f"{_where(data, unit.file)}: row {bad} of {_columns(data)} is not valid UTF-8") from None
        kept = texts.drop_null()
        characters = pc.utf8_length(kept)
        occurs[np.frombuffer("".join(kept.to_pylist()).encode("utf-32-le"), np.uint32)] = True
        total += Found(
            rows=len(texts),
            null_rows=texts.null_count,
            null_fields=sum(field.null_count for field in fields) - len(fields) * texts.null_count,
            empty_fields=sum(pc.sum(pc.equal(pc.binary_length(field), 0)).as_py() or 0 for field in fields),
            characters=pc.sum(characters).as_py() or 0,
            longest=pc.max(characters).as_py() or 0,
            lengths=lengths.count(kept) if lengths else LengthCount(),
        )
    windows = -(-total.lengths.targets // lengths.seq_length) if lengths else 0
    return replace(total, windows=windows, alphabet=frozenset(map(chr, np.flatnonzero(occurs))))


def _why_no_records(data: DataConfig, found: Found) -> str | None:
    if not found.rows:
        return "the files have no rows"
    if not found.records:
        return f"all {found.rows} rows are null in {_columns(data)}"
    if found.null_fields + found.empty_fields == found.records * len(_names(data)):
        return f"all {found.records} records are empty in {_columns(data)}"
    return None


def _most_records(data: DataConfig, unit: Unit) -> int | None:
    """`max_records` where it counts records; see `READING_VERSION`."""
    return None if unit.version == 1 else data.max_records


def _read(data: DataConfig, unit: Unit, most: int | None = None) -> Iterator[tuple[pa.Array, list[pa.Array]]]:
    """The unit's records and the fields that they are joined of, a batch at a time, up to its record number `most`."""
    for fields in _read_fields(data, unit):
        texts = _records(data, fields)
        if most is not None:
            rows = _rows_with(texts, most)
            texts, fields = texts.slice(0, rows), [field.slice(0, rows) for field in fields]
            most -= rows - texts.null_count
        _check_splits(data, unit, fields)
        yield texts, fields
        if most == 0:
            return


def _rows_with(texts: pa.Array, records: int) -> int:
    """How many rows of a batch hold its first so many records; all where it has fewer."""
    places = np.flatnonzero(texts.is_valid().to_numpy(zero_copy_only=False))
    return len(texts) if places.size < records else int(places[records - 1]) + 1


def _records(data: DataConfig, fields: list[pa.Array]) -> pa.Array:
    if data.columns is None:
        return fields[0]
    assert data.field_delimiter is not None
    return join_fields(fields, data.field_delimiter)


def _read_fields(data: DataConfig, unit: Unit) -> Iterator[list[pa.Array]]:
    """The job's columns of a unit's rows as texts, a batch at a time."""
    filesystem, root = arrow_filesystem(data.uri)
    folders = partition_columns(unit.file)
    with _open_parquet(filesystem, root, data, unit.file) as parquet:
        there = set(parquet.schema_arrow.names)  # Made anew by each look.
        inside = [name for name in _names(data) if name in there]
        for batch in _read_rows(data, unit, parquet, inside):
            fields: list[pa.Array] = []
            for name in _names(data):
                if name in inside:
                    # By name: for `a.b` Arrow reads the child b of a struct a, too.
                    fields.append(_field(data, unit, name, batch.column(batch.schema.get_field_index(name))))
                else:
                    fields.append(pa.repeat(pa.scalar(folders[name], pa.large_string()), batch.num_rows))
            yield fields


def _read_rows(data: DataConfig, unit: Unit, parquet: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
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


def _field(data: DataConfig, unit: Unit, name: str, column: pa.Array) -> pa.Array:
    """A column's values as texts."""
    if unit.version == 1:
        return column.cast(pa.large_string())
    where = f"{_where(data, unit.file)}: column {name}"
    # pandas makes numbers of a text column without any text.
    if data.columns is None and not is_text(column.type) and column.null_count < len(column):
        raise DataError(f"{where} is {column.type}, not text; name a text column, or list columns to join them")
    try:
        return to_texts(column)
    except NoTextError as error:
        raise DataError(f"{where} {error}; leave it out of columns, or store it as text") from None


def _check_splits(data: DataConfig, unit: Unit, fields: list[pa.Array]) -> None:
    if data.columns is None or unit.version == 1:
        return
    assert data.field_delimiter is not None
    if found := find_unsplittable(fields, data.field_delimiter):
        number, how = found
        raise DataError(f"{_where(data, unit.file)}: column {data.columns[number]} {how}; choose another delimiter")


def _check_columns(data: DataConfig, file: str, schema: pa.Schema) -> None:
    folders = partition_columns(file)
    for name in _names(data):
        count = schema.names.count(name)
        if count > 1:
            raise DataError(f"{_where(data, file)}: has {count} columns named {name}; rename all but one")
        if not count and name not in folders:
            found = [f"{field.name} ({field.type})" for field in schema] + [f"{key} (folder)" for key in folders]
            more = len(found) - MOST_COLUMNS_NAMED
            listed = ", ".join(found[:MOST_COLUMNS_NAMED]) + (f" and {more} more" if more > 0 else "")
            raise DataError(f"{_where(data, file)}: no column {name}; found: {listed or 'no columns'}")


def _open_parquet(filesystem: Any, root: str, data: DataConfig, file: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(f"{root}/{file}", filesystem=filesystem, pre_buffer=True, arrow_extensions_enabled=True)
    except (pa.ArrowException, OSError) as error:
        raise _read_error(data, file, "not a readable Parquet file", error) from error


def _read_error(data: DataConfig, file: str, what: str, error: Exception) -> RunnerError:
    """Arrow tells of storage that is away by the same type of error as of a file that is corrupt or encrypted."""
    where, reason = _where(data, file), " ".join(str(error).split())
    if "AWS Error" in reason:
        return StorageError(f"{where}: {what}: {reason}")
    if any(words in reason for words in ENCRYPTED):
        return DataError(f"{where}: is encrypted Parquet; store it decrypted, or without this column's encryption")
    if isinstance(error, pa.ArrowNotImplementedError) or any(words in reason for words in UNSUPPORTED):
        return DataError(f"{where}: is written in a way that Arrow cannot read; write it anew: {reason}")
    return DataError(f"{where}: {what}: {reason}")


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


def _names(data: DataConfig) -> tuple[str, ...]:
    return (data.text_column,) if data.columns is None else data.columns


def _columns(data: DataConfig) -> str:
    return f"column {data.text_column}" if data.columns is None else f"columns {', '.join(data.columns)}"


def _where(data: DataConfig, file: str) -> str:
    return f"{data.uri.rstrip('/')}/{file}"
