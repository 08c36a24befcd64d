"""A table that no job names yet: the fields that `runner init --data FOLDER` writes for it.

    look = look_at(DataConfig(uri="records/"))       # None: records that are texts, or nothing there
    look.fields["age"].values, look.fields["age"].note

The first million rows are read. Of private records none is: the fields follow from the types of the columns alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from runner.config import DataConfig
from runner.config.fields import IdField
from runner.data.files import in_parallel, list_files
from runner.data.records import read_with_fields
from runner.data.schema.found import ColumnSummary
from runner.data.schema.proposal import Proposal, propose, propose_unseen
from runner.data.table import list_names
from runner.data.texts import is_text
from runner.data.units import TablePlan, Unit, plan_table
from runner.errors import DataError

MOST_ROWS = 1_000_000


@dataclass(frozen=True)
class FirstLook:
    """Proposed fields, after `rows` of `all_rows` were read. `left_out`: the columns that no field can hold, by their
    types. `unreadable`: why others are proposed to be left out, a line each.
    """

    fields: dict[str, Proposal]
    rows: int
    all_rows: int
    left_out: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()

    def in_lines(self) -> Iterator[str]:
        """What was done, and what was not, for a person."""
        if not self.rows:
            yield f"{len(self.fields)} fields, by types alone: no value was read; declare first what they ask for"
        elif self.rows < self.all_rows:
            yield f"{len(self.fields)} fields, by the first {self.rows:,} of {self.all_rows:,} rows"
        else:
            yield f"{len(self.fields)} fields, by all {self.rows:,} rows"
        if self.left_out:
            yield f"left out, no field can hold lists or structs: {list_names(self.left_out)}"
        yield from (f"left out: {line}" for line in self.unreadable)


def look_at(data: DataConfig, columns: Sequence[str] | None = None, *, private: bool = False) -> FirstLook | None:
    """What the files of a folder are proposed to be; None where they hold one column of texts, or there are none.

    columns: those that are wanted; None for all.

    Raises:
        DataError: a file cannot be read, lacks a column or has another type in it than others.
        StorageError: storage cannot be reached.
    """
    try:
        files = list_files(data.uri)
    except DataError:
        return None
    plan = plan_table(data, files, columns)
    if "" in plan.schema.names:
        raise DataError(f"{data.uri}: a column has no name; give it one in the files, or list the others by --columns")
    if not plan.schema.names and plan.left_out:
        raise DataError(f"{data.uri}: all columns are lists or structs: {list_names(plan.left_out)}; store them flat")
    if columns is None and len(plan.schema) <= 1 and all(is_text(column.type) for column in plan.schema):
        return None
    all_rows = sum(unit.stop - unit.start for unit in plan.units)
    left_out = plan.left_out if columns is None else ()
    if private:
        return FirstLook(propose_unseen(plan.schema), 0, all_rows, left_out)
    counted = _count(data, plan)
    summaries = {name: found for name, found in counted.items() if isinstance(found, ColumnSummary)}
    proposed = propose(pa.schema([column for column in plan.schema if column.name in summaries]), summaries)
    for name, found in counted.items():
        if not isinstance(found, ColumnSummary):
            proposed[name] = Proposal(IdField(kind="id"), "left out: " + found.removeprefix(f"column {name} "))
    fields = {name: proposed[name] for name in plan.schema.names}
    unreadable = tuple(found for found in counted.values() if not isinstance(found, ColumnSummary))
    return FirstLook(fields, min(all_rows, MOST_ROWS), all_rows, left_out, unreadable)


def _count(data: DataConfig, plan: TablePlan) -> dict[str, ColumnSummary | str]:
    """What is in each column, of the first `MOST_ROWS` rows; a line for one with values that no field can hold."""
    empty = {column.name: ColumnSummary.of(column.name, None, column.type) for column in plan.schema}

    def look(unit: Unit) -> dict[str, ColumnSummary | str]:
        found: dict[str, ColumnSummary | str] = dict(empty)
        row = unit.first_row
        for _, columns in read_with_fields(data, unit, plan.schema):
            for name, column in zip(plan.schema.names, columns, strict=True):
                if isinstance(summary := found[name], ColumnSummary):
                    try:
                        found[name] = summary.add(column, row)
                    except DataError as error:
                        found[name] = str(error).partition(";")[0]
            row += len(columns[0])
        return found

    units = [
        replace(unit, stop=min(unit.stop, unit.start + MOST_ROWS - unit.first_row))
        for unit in plan.units
        if unit.first_row < MOST_ROWS
    ]
    parts = list(in_parallel(look, units))
    counted: dict[str, ColumnSummary | str] = {}
    for name, summary in empty.items():
        found = [part[name] for part in parts]
        line = next((each for each in found if isinstance(each, str)), None)
        counted[name] = line or sum((each for each in found if isinstance(each, ColumnSummary)), summary)
    return counted
