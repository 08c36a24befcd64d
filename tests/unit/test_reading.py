"""Any table comes out as records as a slow reading of it row by row says, however it was cut."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.config import DataConfig
from runner.data import units
from tests.unit.parquet_files import read_all, refusal, survey, texts, write

WORDS = st.text(st.characters(exclude_characters="|", exclude_categories=["Cs"]), max_size=4)


def plain(value: Any) -> str:
    return format(Decimal(repr(value)), "f").removesuffix(".0")


COLUMNS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any], Any]] = {
    "text": (pa.string(), WORDS, str),
    "view": (pa.string_view(), WORDS, str),
    "dictionary": (pa.dictionary(pa.int32(), pa.string()), WORDS, str),
    "bytes": (pa.binary(), WORDS.map(str.encode), bytes.decode),
    "whole": (pa.int64(), st.integers(-(2**63), 2**63 - 1), str),
    "float": (pa.float64(), st.floats(-1e15, 1e15).filter(lambda value: abs(value) > 1e-5), plain),
    "decimal": (pa.decimal128(12, 3), st.decimals(-(10**8), 10**8, places=3), lambda value: f"{value + 0:.3f}"),
    "yes": (pa.bool_(), st.booleans(), lambda value: "true" if value else "false"),
    "day": (pa.date32(), st.dates(), date.isoformat),
    "moment": (
        pa.timestamp("us", "UTC"),
        st.datetimes(timezones=st.just(UTC)),
        lambda value: datetime.isoformat(value, " ", "microseconds").replace("+00:00", "Z"),
    ),
    "id": (pa.uuid(), st.uuids(), str),
    "nothing": (pa.null(), st.none(), str),
}
"""Of each type: its values, and what Python calls one."""


def array_of(kind: pa.DataType, values: list[Any]) -> pa.Array:
    if kind == pa.uuid():
        storage = pa.array([value and value.bytes for value in values], kind.storage_type)
        return pa.ExtensionArray.from_storage(kind, storage)
    return pa.array(values, kind)


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_table_is_read_as_row_by_row(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("records")
    names = data.draw(st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, max_size=4, unique=True))
    row = st.tuples(*(st.none() | COLUMNS[name][1] for name in names))
    expected: list[str | None] = []
    for number, rows in enumerate(data.draw(st.lists(st.lists(row, max_size=8), min_size=1, max_size=3))):
        columns = {name: array_of(COLUMNS[name][0], [row[at] for row in rows]) for at, name in enumerate(names)}
        order = data.draw(st.permutations(names))
        group = data.draw(st.integers(1, 5))
        write(folder / f"{number}.parquet", pa.table({name: columns[name] for name in order}), row_group_size=group)
        for row_ in rows:
            fields = [
                None if value is None else COLUMNS[name][2](value) for name, value in zip(names, row_, strict=True)
            ]
            expected.append(None if set(fields) == {None} else "|".join(field or "" for field in fields))
    limit = data.draw(st.none() | st.integers(1, 10))
    job = DataConfig(uri=str(folder), columns=tuple(names), field_delimiter="|", max_records=limit)
    check(job, expected, limit, data.draw(st.integers(1, 6)), data.draw(st.integers(1, 4)), len(names))


@given(
    st.lists(
        st.tuples(st.lists(st.text(max_size=4) | st.none(), max_size=12), st.integers(1, 7)), min_size=1, max_size=3
    ),
    st.integers(1, 15),
    st.integers(1, 6),
    st.none() | st.integers(1, 30),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_units_hold_every_row_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[tuple[list[str | None], int]],
    rows_per_unit: int,
    rows_per_batch: int,
    limit: int | None,
) -> None:
    folder = tmp_path_factory.mktemp("records")
    expected: list[str | None] = []
    for number, (rows, group) in enumerate(files):
        write(folder / f"{number}.parquet", texts(rows), row_group_size=group)
        expected += rows
    check(DataConfig(uri=str(folder), max_records=limit), expected, limit, rows_per_unit, rows_per_batch, 1)


def check(
    job: DataConfig, expected: list[str | None], limit: int | None, rows_per_unit: int, rows_per_batch: int, width: int
) -> None:
    """The records are the first `limit` of the expected ones, in units of any size, and counted as they are."""
    places = [place for place, text in enumerate(expected) if text is not None]
    if limit is not None and len(places) >= limit:
        expected = expected[: places[limit - 1] + 1]
    kept = [text for text in expected if text is not None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "ROWS_PER_UNIT", rows_per_unit)
        patch.setattr(units, "ROWS_PER_BATCH", rows_per_batch)
        if all(set(text) <= {"|"} and len(text) < width for text in kept):
            assert "no records" in refusal(job)
            return
        assert read_all(job) == expected
        found = survey(job).found
        assert (found.rows, found.records) == (len(expected), len(kept))
        assert (found.characters, found.longest) == (sum(map(len, kept)), max(map(len, kept)))
        assert found.alphabet == set("".join(kept))


def test_the_table_s_types_are_those_that_parquet_gives_back() -> None:
    """Else the property would hold for other columns than it says."""
    sink = pa.BufferOutputStream()
    table = pa.table({name: array_of(kind, [None]) for name, (kind, _, _) in COLUMNS.items()})
    pq.write_table(table, sink)
    assert pq.read_table(sink.getvalue()).schema.types == table.schema.types
