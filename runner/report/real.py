"""The run's own records, as its split has them: those it was trained on, and the holdout it has not seen.

Statistics look at a sample; whether a record is a copy is looked up among all training records.
"""

# pyarrow.compute makes its functions when it is imported, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from runner.config import JobConfig
from runner.data.batches import BatchPlan
from runner.data.files import SourceFile
from runner.data.persons import Persons, mark_persons
from runner.data.prepare import is_made_from
from runner.data.records import read_owned, read_records
from runner.data.schema import Schema
from runner.data.survey import count_rows, survey_records
from runner.data.texts import row_texts, without_views
from runner.errors import DataError
from runner.report.table import Records

MOST_RECORDS = 20_000
"""Of training and of holdout records, each; of more, evenly spaced ones are looked at."""


@dataclass(frozen=True)
class RealRecords:
    """Samples of the training and of the holdout records, and what there is in all: texts, or rows of a table without
    the columns that name a row.

    `holdout` is empty without a validation split, and of a stream: its windows do not hold whole records. `longest` and
    `mean_length` are in characters of texts, None of a table.
    """

    training: Records
    holdout: Records
    training_records: int
    holdout_records: int
    null_rows: int
    files: tuple[SourceFile, ...]
    bytes: int
    longest: int | None
    mean_length: float | None
    schema: Schema | None = None


def read_real_records(
    config: JobConfig, files: tuple[SourceFile, ...], tokens_key: str | None, schema: Schema | None = None
) -> RealRecords:
    """Read the run's records twice, to count and to sample them (those of a table once); only the sample is held.

    files: those of the run. tokens_key: of its checkpoint; None where there is none. schema: of a table.

    Raises:
        DataError: the records are gone, cannot be read, or are not those the run was trained on.
    """
    if tokens_key is not None and not is_made_from(tokens_key, config, files):
        raise DataError(f"{config.data.uri}: the records or the tokenizer are not those that the run was trained on")
    columns = _columns(schema)
    if columns is None:
        survey = survey_records(config.data, files, person=config.unit)
    else:
        survey = count_rows(config.data, files, columns, config.unit)
    files = tuple(file for file in files if file.name in survey.stops)
    records = survey.records
    held_out = holdout_mask(config, records, _persons(config, files, schema))
    sampled = _sampled(held_out)
    parts: dict[bool, list[pa.Array]] = {True: [], False: []}
    for batch, here in _with_places(config, files, schema):
        for kind, chosen in parts.items():
            chosen.append(batch.filter(pa.array(sampled[here] & (held_out[here] == kind))))
    return RealRecords(
        training=_together(parts[False], columns),
        holdout=_together(parts[True], columns),
        training_records=int((~held_out).sum()),
        holdout_records=int(held_out.sum()),
        null_rows=survey.found.null_rows,
        files=files,
        bytes=sum(file.size for file in files),
        longest=survey.found.longest if schema is None else None,
        mean_length=survey.found.characters / records if schema is None else None,
        schema=schema,
    )


def _columns(schema: Schema | None) -> pa.Schema | None:
    """Of a table, the columns that are compared."""
    return None if schema is None else without_views(schema.learned.empty_table()).schema


def _together(parts: Sequence[pa.Array], columns: pa.Schema | None) -> Records:
    if columns is None:
        return tuple(text for part in parts for text in part.to_pylist())
    return pa.concat_tables([columns.empty_table(), *(pa.Table.from_struct_array(part) for part in parts)])


def find_copies(config: JobConfig, real: RealRecords, texts: Sequence[str]) -> NDArray[np.bool_]:
    """(texts,): which texts equal one of all the records trained on, letter for letter; see `texts_of`."""
    records = real.training_records + real.holdout_records
    held_out = holdout_mask(config, records, _persons(config, real.files, real.schema))
    asked = pa.array(texts, pa.large_string())
    found = np.zeros(len(texts), bool)
    for batch, here in _with_places(config, real.files, real.schema):
        trained = batch.filter(pa.array(~held_out[here]))
        if real.schema is not None:
            trained = row_texts(trained.flatten())
        found |= pc.is_in(asked, value_set=trained).to_numpy(zero_copy_only=False)
    return found


def texts_of(records: Records) -> Sequence[str]:
    """A text for each record that no other record has."""
    return row_texts(records.columns).to_pylist() if isinstance(records, pa.Table) else records


def holdout_mask(config: JobConfig, records: int, persons: Persons | None = None) -> NDArray[np.bool_]:
    """(records,): which records the run keeps for validation; none where records are not examples. persons: whose they
    are, where all records of one are on the same side."""
    settings = config.training
    mask = np.zeros(records if persons is None else persons.count, bool)
    if config.examples.packing == "records":
        plan = BatchPlan(mask.size, settings.batch_size, settings.seed, settings.validation_split)
        for step in range(plan.validation_steps):
            mask[plan.validation_positions(step)] = True
    return mask if persons is None else mask[persons.numbers]


def _persons(config: JobConfig, files: tuple[SourceFile, ...], schema: Schema | None) -> Persons | None:
    """Whose the records are, by their places; None where the run does not ask."""
    if config.unit is None:
        return None
    key = secrets.token_bytes(32)
    parts = [
        mark_persons(persons.filter(records.is_valid()), key)
        for records, persons in read_owned(config.data, files, _columns(schema), config.unit)
        if persons is not None
    ]
    return Persons.of(np.concatenate(parts))


def _sampled(held_out: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(records,): up to `MOST_RECORDS` evenly spaced ones of either kind."""
    mask = np.zeros(held_out.size, bool)
    for positions in (np.flatnonzero(held_out), np.flatnonzero(~held_out)):
        if positions.size:
            chosen = np.linspace(0, positions.size - 1, min(positions.size, MOST_RECORDS)).round().astype(np.int64)
            mask[positions[chosen]] = True
    return mask


def _with_places(
    config: JobConfig, files: tuple[SourceFile, ...], schema: Schema | None
) -> Iterator[tuple[pa.Array, slice]]:
    """All records in order, and which places they have among them; those of a table written as generated ones are."""
    start = 0
    for rows in read_records(config.data, files, _columns(schema), config.unit):
        records = rows.drop_null()
        if schema is not None:
            records = schema.rewritten(records)
        yield records, slice(start, start + len(records))
        start += len(records)
