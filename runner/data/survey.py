"""One reading of all records before any work: what there is, and whether it can be used at all.

files = list_files(data.uri)         # names, sizes, fingerprints
survey = survey_records(data, files) # reads everything once; raises DataError for what cannot be used
survey = survey_table(data, files, fields)   # of a table: what its columns hold, too, and the schema that follows
"""

# pyarrow.compute makes its functions when it is imported, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from runner.config import DataConfig, FieldConfig, undeclared
from runner.data.files import READERS, SourceFile
from runner.data.persons import count_persons, mark_persons
from runner.data.records import most_records, read_with_persons
from runner.data.schema import Schema
from runner.data.schema.completion import complete, declared
from runner.data.schema.found import ColumnSummary
from runner.data.schema.refusals import check_declared, check_lookups
from runner.data.texts import find_invalid, is_text, to_texts
from runner.data.token_lengths import Certainty, LengthCount, TokenLengths
from runner.data.units import Unit, plan_table, plan_units, text_columns, text_columns_in_words, where
from runner.errors import DataError, NothingNewError

_SURVEY_KEY = secrets.token_bytes(32)
"""Of the marks that this process counts persons by."""


@dataclass(frozen=True)
class Found:
    """What reading some rows found. `characters` counts those of the kept records, `occurs` the distinct ones.

    `null_fields` and `empty_fields` are those of kept rows that `data.columns` joins: the text does not tell them
    apart. `windows`: how many examples the tokens fill as a stream. Of a table, only rows and `columns` are counted.
    Where records have a person, `nobodys` are rows without one, and `marks` (n, 16) tell those of the records apart.
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
    nobodys: int = 0
    marks: tuple[NDArray[np.uint8], ...] = ()
    columns: Mapping[str, ColumnSummary] = field(default_factory=dict[str, ColumnSummary])

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
            nobodys=self.nobodys + other.nobodys,
            marks=self.marks + other.marks,
            columns={**other.columns, **{name: mine + other.columns[name] for name, mine in self.columns.items()}},
        )


@dataclass(frozen=True)
class Survey:
    """What one reading of the records found, and the units that hold them.

    `stops`: the files with records of the job, and the row where `max_records` ends in one; None for their ends.
    `empty_files` have no rows. `certainty`: what the counts of tokens are worth, where there are any. Of a table there
    are its `schema`, and the columns of the files that `fields` says nothing of, which are `left_out`. `persons`: how
    many have how many records; None where records have none.
    """

    units: tuple[Unit, ...]
    found: Found
    stops: dict[str, int | None]
    empty_files: tuple[str, ...] = ()
    certainty: Certainty | None = None
    schema: Schema | None = None
    left_out: tuple[str, ...] = ()
    persons: Mapping[int, int] | None = None

    @property
    def records(self) -> int:
        """Rows that hold a record."""
        return self.found.records

    @property
    def alphabet(self) -> str:
        """Every character that occurs, in code point order."""
        return "".join(sorted(self.found.alphabet))


def survey_records(
    data: DataConfig,
    files: tuple[SourceFile, ...],
    lengths: TokenLengths | None = None,
    person: str | None = None,
) -> Survey:
    """Read every record once and count; what cannot be trained on is found here, before any work.

    Reading ends with the last of `max_records`. `lengths`: counts tokens on the way. `person`: the column that tells
    whose a record is.

    Raises:
        DataError: naming the file, for a corrupt file, a missing column or one that is not text, invalid UTF-8, a field
            that the delimiter would not give back; or when no row holds a record.
        NothingNewError: no row does, of the files that `data.since` leaves.
    """
    look = partial(_look_at_texts, data, lengths)
    survey = _with_persons(_survey(data, files, plan_units(data, files, person), look), person)
    if why := _why_no_records(data, survey.found, person):
        raise _no_records(data, why)
    return replace(survey, certainty=lengths.certainty if lengths else None)


def survey_table(
    data: DataConfig,
    files: tuple[SourceFile, ...],
    fields: Mapping[str, FieldConfig],
    known: Schema | None = None,
    *,
    is_private: bool = False,
    person: str | None = None,
) -> Survey:
    """Read every row of a table once: count by column, and find what `fields` leaves open.

    known: the schema of an earlier run, which these records must fit, too. is_private: nothing of the records may be in
    the schema; there is none yet where `fields` leaves something open. person: the column that tells whose a row is.

    Raises:
        DataError: naming the file, for a corrupt one, a missing column, one of another type or invalid UTF-8; naming
            the column, for values outside the schema where that refuses them; or when there are no rows.
        NothingNewError: there are none in the files that `data.since` leaves.
    """
    plan = plan_table(data, files, columns_read(fields), person)
    schema = plan.schema if known is None else known.arrow
    empty = {column.name: ColumnSummary.of(column.name, fields[column.name], column.type) for column in schema}
    look = partial(_look_at_rows, data, schema, empty, known)
    survey = _with_persons(_survey(data, files, plan.units, look), person)
    columns = survey.found.columns
    if not survey.found.records:
        raise _no_records(
            data, f"no row has a value in column {person}" if survey.found.rows else "the files have no rows"
        )
    if all(column.nulls == column.rows for name, column in columns.items() if fields[name].kind != "id"):
        raise _no_records(data, f"all {survey.found.rows} rows are null in all columns of fields")
    if known is None and is_private:
        check_declared(fields, columns, is_private=True)
        if any(undeclared(field) for field in fields.values()):
            check_lookups({name: fields[name] for name in schema.names}, schema)
        else:
            known = Schema.of(fields, schema, declared(fields))
    elif known is None:
        known = Schema.of(fields, schema, complete({name: fields[name] for name in schema.names}, columns))
    left_out = tuple(name for name in plan.left_out if name not in fields)
    return replace(survey, schema=known, left_out=left_out)


def count_rows(data: DataConfig, files: tuple[SourceFile, ...], schema: pa.Schema, person: str | None = None) -> Survey:
    """The rows of a table's records, by the footers of its files alone, unless records need a `person`."""

    def read(unit: Unit, most: int | None) -> Found:
        return sum((_owners(*part) for part in read_with_persons(data, unit, schema, most)), Found())

    if person is not None:
        planned = plan_table(data, files, schema.names, person).units
        return _with_persons(_survey(data, files, planned, read), person)

    def count(unit: Unit, most: int | None) -> Found:
        rows = unit.stop - unit.start
        return Found(rows=rows if most is None else min(rows, most))

    return _survey(data, files, plan_table(data, files, schema.names).units, count)


def columns_read(fields: Mapping[str, FieldConfig]) -> list[str]:
    """The columns of a table's records: all but those that name a row and are left out of what is generated."""
    return [name for name, field in fields.items() if not (field.kind == "id" and field.made is None)]


def _owners(records: pa.Array, _columns: list[pa.Array], persons: pa.Array | None) -> Found:
    """Rows, those that are no records, and whose the others are."""
    if persons is None:
        return Found(rows=len(records), null_rows=records.null_count)
    marks = mark_persons(persons.filter(records.is_valid()), _SURVEY_KEY)
    return Found(rows=len(records), null_rows=records.null_count, nobodys=persons.null_count, marks=(marks,))


def _with_persons(survey: Survey, person: str | None) -> Survey:
    """With how many persons have how many records, instead of their marks."""
    if person is None:
        return survey
    counts = count_persons(survey.found.marks)
    return replace(survey, found=replace(survey.found, marks=()), persons=counts)


def _survey(
    data: DataConfig,
    files: tuple[SourceFile, ...],
    planned: tuple[Unit, ...],
    look: Callable[[Unit, int | None], Found],
) -> Survey:
    """What `look` sees in the units, each up to a number of records, until `max_records` are found."""
    kept = list(_survey_units(data, planned, look))
    ends = {unit.file: unit.stop for unit in planned}
    return Survey(
        units=tuple(unit for unit, _ in kept),
        found=sum((part for _, part in kept), Found()),
        stops={unit.file: None if unit.stop == ends[unit.file] else unit.stop for unit, _ in kept},
        empty_files=tuple(file.name for file in files if file.name not in ends),
    )


def _survey_units(
    data: DataConfig, units: tuple[Unit, ...], look: Callable[[Unit, int | None], Found]
) -> Iterator[tuple[Unit, Found]]:
    """The units in order, until they hold `max_records`; the last one ends behind the last record."""
    most = most_records(data, units[0]) if units else None
    left = most
    with ThreadPoolExecutor(READERS) as pool:
        for unit, found in zip(units, pool.map(lambda unit: look(unit, most), units), strict=True):
            if left is not None and most is not None and left < most and found.records >= left:
                found = look(unit, left)
            yield replace(unit, stop=unit.start + found.rows), found
            if left is not None:
                left -= found.records
            if left == 0:
                pool.shutdown(cancel_futures=True)
                return


def _look_at_rows(
    data: DataConfig,
    schema: pa.Schema,
    empty: Mapping[str, ColumnSummary],
    known: Schema | None,
    unit: Unit,
    most: int | None,
) -> Found:
    """What is in a table's unit, up to its record number `most`."""
    codecs = {codec.name: codec for codec in known.codecs} if known else {}
    summaries, rows, total = dict(empty), 0, Found()
    for records, columns, persons in read_with_persons(data, unit, schema, most):
        for name, column in zip(schema.names, columns, strict=True):
            if is_text(column.type) and (invalid := find_invalid(to_texts(column))).any():
                row = unit.start + rows + int(invalid.argmax())
                raise DataError(f"{where(data, unit.file)}: row {row} of column {name} is not valid UTF-8")
            summaries[name] = summaries[name].add(column, unit.first_row + rows)
            if name in codecs:
                try:
                    codecs[name].encode(column)
                except DataError as error:
                    raise DataError(f"{where(data, unit.file)}: {error}") from None
        rows += len(records)
        total += _owners(records, columns, persons)
    return replace(total, columns=summaries)


def _look_at_texts(data: DataConfig, lengths: TokenLengths | None, unit: Unit, most: int | None) -> Found:
    """What is in a unit, up to its record number `most`."""
    total = Found()
    occurs = np.zeros(sys.maxunicode + 1, bool)
    for texts, fields, persons in read_with_persons(data, unit, most=most):
        if (invalid := find_invalid(texts)).any():
            row = f"row {unit.start + total.rows + int(invalid.argmax())} of {text_columns_in_words(data)}"
            raise DataError(f"{where(data, unit.file)}: {row} is not valid UTF-8")
        kept = texts.drop_null()
        characters = pc.utf8_length(kept)
        occurs[np.frombuffer("".join(kept.to_pylist()).encode("utf-32-le"), np.uint32)] = True
        total += replace(
            _owners(texts, fields, persons),
            null_fields=sum(field.null_count for field in fields) - len(fields) * texts.null_count,
            empty_fields=sum(pc.sum(pc.equal(pc.binary_length(field), 0)).as_py() or 0 for field in fields),
            characters=pc.sum(characters).as_py() or 0,
            longest=pc.max(characters).as_py() or 0,
            lengths=lengths.count(kept) if lengths else LengthCount(),
        )
    windows = -(-total.lengths.targets // lengths.seq_length) if lengths else 0
    return replace(total, windows=windows, alphabet=frozenset(map(chr, np.flatnonzero(occurs))))


def _why_no_records(data: DataConfig, found: Found, person: str | None) -> str | None:
    if not found.rows:
        return "the files have no rows"
    if found.nobodys == found.rows:
        return f"all {found.rows} rows are null in column {person}"
    if not found.records:
        return f"all {found.rows} rows are null in {text_columns_in_words(data)}"
    if found.null_fields + found.empty_fields == found.records * len(text_columns(data)):
        return f"all {found.records} records are empty in {text_columns_in_words(data)}"
    return None


def _no_records(data: DataConfig, why: str) -> DataError | NothingNewError:
    if data.since is not None:
        return NothingNewError(f"{data.uri}: no records that run {data.since} did not have: {why}")
    return DataError(f"{data.uri}: no records: {why}")
