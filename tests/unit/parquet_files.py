"""Parquet files for tests, and the records that are read from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.config import DataConfig
from runner.data import units
from runner.data.files import list_files
from runner.data.records import read_records, read_unit
from runner.data.survey import Survey, survey_records
from runner.errors import DataError


def write(path: Path, rows: Any, *, column: str = "text", **options: Any) -> Path:
    """A Parquet file of one column, or of a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = rows if isinstance(rows, pa.Table) else pa.table({column: rows})
    pq.write_table(table, path, **options)
    return path


def texts(values: Sequence[str | None]) -> pa.Array:
    return pa.array(values, pa.string())


def bytes_as_text(values: Sequence[bytes]) -> pa.Array:
    """A string array that may hold what is not UTF-8, as some writers leave it."""
    binary = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(binary), binary.buffers())


def survey(data: DataConfig) -> Survey:
    return survey_records(data, list_files(data.uri))


def read_all(data: DataConfig) -> list[str | None]:
    """All rows by way of the units, which must follow one another without a gap, and in one go."""
    found: list[str | None] = []
    for unit in survey(data).units:
        assert unit.first_row == len(found)
        rows = [text for array in read_unit(data, unit) for text in array.to_pylist()]
        assert len(rows) == unit.stop - unit.start <= units.ROWS_PER_UNIT
        found += rows
    assert [text for array in read_records(data, list_files(data.uri)) for text in array.to_pylist()] == found
    return found


def refusal(data: DataConfig) -> str:
    with pytest.raises(DataError) as caught:
        survey(data)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert caught.value.exit_code == 2
    return message
