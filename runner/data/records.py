"""Parquet files to records, a batch at a time.

A record is a text, of one column or of several that are joined; or, with the schema of a table (see
`runner.data.units.plan_table`), a row of a struct array whose columns have the types of the schema. A row of a table is
always a record, even where all of it is null. A row without a text is none, and neither is one that is nobody's, where
the units say which column tells whose a record is.

    for texts in read_unit(data, unit): ...
    for texts in read_records(data, files): ...            # all of them, here and now
    for rows in read_records(data, files, schema): ...     # pa.StructArray
"""

# pyarrow.compute makes its functions when it is imported, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from runner.config import DataConfig
from runner.data.files import SourceFile, partition_columns
from runner.data.persons import person_texts
from runner.data.texts import NoTextError, find_unsplittable, is_text, join_fields, to_texts
from runner.data.units import Unit, common_type, open_parquet, plan_table, plan_units, read_rows, text_columns, where
from runner.errors import DataError
from runner.storage import arrow_filesystem


def read_unit(data: DataConfig, unit: Unit, schema: pa.Schema | None = None) -> Iterator[pa.Array]:
    """The unit's records in row order, `ROWS_PER_BATCH` rows at a time; nulls stay in place.

    With `data.columns`, a row's fields are joined by the delimiter, an empty field for a null; a row whose
    fields are all null is null.
    """
    yield from (records for records, _ in read_with_fields(data, unit, schema))


def read_records(
    data: DataConfig, files: tuple[SourceFile, ...], schema: pa.Schema | None = None, person: str | None = None
) -> Iterator[pa.Array]:
    """All rows that a survey keeps, in order, as `read_unit` gives them. person: see `Unit`."""
    yield from (records for records, _ in read_owned(data, files, schema, person))


def read_owned(
    data: DataConfig, files: tuple[SourceFile, ...], schema: pa.Schema | None = None, person: str | None = None
) -> Iterator[tuple[pa.Array, pa.Array | None]]:
    """As `read_records`, each batch with whose its rows are: see `read_with_persons`."""
    units = plan_units(data, files, person) if schema is None else plan_table(data, files, schema.names, person).units
    left = most_records(data, units[0]) if units else None
    for unit in units:
        for records, _, persons in read_with_persons(data, unit, schema, left):
            yield records, persons
            if left is not None:
                left -= len(records) - records.null_count
        if left == 0:
            return


def most_records(data: DataConfig, unit: Unit) -> int | None:
    """`max_records` where it counts records; see `READING_VERSION`."""
    return None if unit.version == 1 else data.max_records


def read_with_fields(
    data: DataConfig, unit: Unit, schema: pa.Schema | None = None, most: int | None = None
) -> Iterator[tuple[pa.Array, list[pa.Array]]]:
    """The unit's records and the columns that they are made of, a batch at a time, up to its record number `most`."""
    yield from ((records, columns) for records, columns, _ in read_with_persons(data, unit, schema, most))


def read_with_persons(
    data: DataConfig, unit: Unit, schema: pa.Schema | None = None, most: int | None = None
) -> Iterator[tuple[pa.Array, list[pa.Array], pa.Array | None]]:
    """As `read_with_fields`, with a text for each row that tells whose it is, null where it is nobody's; None where the
    unit does not ask. A row that is nobody's is a null record."""
    for columns, persons in _read_columns(data, unit, schema):
        mask = None if persons is None or not persons.null_count else persons.is_null()
        if schema is not None:
            records = pa.StructArray.from_arrays(columns, fields=list(schema), mask=mask)
        else:
            if mask is not None:
                columns = [pc.if_else(mask, pa.scalar(None, column.type), column) for column in columns]
            records = _join(data, columns)
        if most is not None:
            rows = _rows_with(records, most)
            records, columns = records.slice(0, rows), [column.slice(0, rows) for column in columns]
            persons = None if persons is None else persons.slice(0, rows)
            most -= rows - records.null_count
        if schema is None:
            _check_splits(data, unit, columns)
        yield records, columns, persons
        if most == 0:
            return


def _rows_with(texts: pa.Array, records: int) -> int:
    """How many rows of a batch hold its first so many records; all where it has fewer."""
    places = np.flatnonzero(texts.is_valid().to_numpy(zero_copy_only=False))
    return len(texts) if places.size < records else int(places[records - 1]) + 1


def _join(data: DataConfig, fields: list[pa.Array]) -> pa.Array:
    if data.columns is None:
        return fields[0]
    assert data.field_delimiter is not None
    return join_fields(fields, data.field_delimiter)


def _read_columns(
    data: DataConfig, unit: Unit, schema: pa.Schema | None
) -> Iterator[tuple[list[pa.Array], pa.Array | None]]:
    """The columns of a unit's rows, a batch at a time, and whose they are: the job's as texts, or those of a table in
    the types of its schema."""
    names = text_columns(data) if schema is None else schema.names
    for arrays in _read_arrays(data, unit, [*names, *([] if unit.person is None else [unit.person])]):
        persons = None if unit.person is None else _person_column(data, unit, unit.person, arrays.pop())
        if schema is None:
            yield [_text_column(data, unit, *column) for column in zip(names, arrays, strict=True)], persons
        else:
            yield [_typed_column(data, unit, *column) for column in zip(schema, arrays, strict=True)], persons


def _person_column(data: DataConfig, unit: Unit, name: str, column: pa.Array) -> pa.Array:
    try:
        return person_texts(column)
    except NoTextError as error:
        raise DataError(f"{where(data, unit.file)}: column {name} {error}; privacy.unit needs single values") from None


def _read_arrays(data: DataConfig, unit: Unit, names: Sequence[str]) -> Iterator[list[pa.Array]]:
    """Columns of a unit's rows as they are, a batch at a time; those that its folders give it are texts."""
    filesystem, root = arrow_filesystem(data.uri)
    folders = partition_columns(unit.file)
    with open_parquet(filesystem, root, data, unit.file) as parquet:
        there = set(parquet.schema_arrow.names)  # Made anew by each look.
        for batch in read_rows(data, unit, parquet, [name for name in dict.fromkeys(names) if name in there]):
            yield [
                # By name: for `a.b` Arrow reads the child b of a struct a, too.
                batch.column(batch.schema.get_field_index(name))
                if name in there
                else pa.repeat(pa.scalar(folders[name], pa.string()), batch.num_rows)
                for name in names
            ]


def _typed_column(data: DataConfig, unit: Unit, field: pa.Field, column: pa.Array) -> pa.Array:
    """A column in a table's type of it: texts of another width, a dictionary of other indices, whole numbers of more
    bits, nothing but nulls."""
    if column.type == field.type:
        return column
    if column.null_count == len(column):
        return pa.nulls(len(column), field.type)
    is_wider = types.is_integer(column.type) and types.is_integer(field.type)
    if common_type(column.type, field.type) is None and not is_wider:
        raise DataError(f"{where(data, unit.file)}: column {field.name} is {column.type} and not {field.type}")
    return column.cast(field.type)


def _text_column(data: DataConfig, unit: Unit, name: str, column: pa.Array) -> pa.Array:
    """A column's values as texts."""
    if unit.version == 1:
        return column.cast(pa.large_string())
    place = f"{where(data, unit.file)}: column {name}"
    # pandas makes numbers of a text column without any text.
    if data.columns is None and not is_text(column.type) and column.null_count < len(column):
        raise DataError(f"{place} is {column.type}, not text; name a text column, or list columns to join them")
    try:
        return to_texts(column)
    except NoTextError as error:
        raise DataError(f"{place} {error}; leave it out of columns, or store it as text") from None


def _check_splits(data: DataConfig, unit: Unit, fields: list[pa.Array]) -> None:
    if data.columns is None or unit.version == 1:
        return
    assert data.field_delimiter is not None
    if found := find_unsplittable(fields, data.field_delimiter):
        number, how = found
        raise DataError(f"{where(data, unit.file)}: column {data.columns[number]} {how}; choose another delimiter")
