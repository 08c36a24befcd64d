"""A table that no job names yet: the fields that `runner init --data FOLDER` writes for it.

    look = look_at(DataConfig(uri="records/"))       # None: records that are texts, or nothing there
    look.fields["age"].values, look.fields["age"].note

The first million rows are read. Of private records none is: the fields follow from the types of the columns alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from runner.config import DataConfig
from runner.data.files import list_files
from runner.data.schema.proposal import Proposal, propose, propose_unseen
from runner.data.survey import count_by_column
from runner.data.table import list_names
from runner.data.texts import is_text
from runner.data.units import plan_table
from runner.errors import DataError

MOST_ROWS = 1_000_000


@dataclass(frozen=True)
class FirstLook:
    """Proposed fields, after `rows` of `all_rows` were read. `left_out`: the columns that no field can hold."""

    fields: dict[str, Proposal]
    rows: int
    all_rows: int
    left_out: tuple[str, ...] = ()

    def in_lines(self) -> Iterator[str]:
        """What was done, and what was not, for a person."""
        if not self.rows:
            yield f"{len(self.fields)} fields by the columns' types; no value was read: declare first what each asks for"
        elif self.rows < self.all_rows:
            yield f"{len(self.fields)} fields, by the first {self.rows:,} of {self.all_rows:,} rows"
        else:
            yield f"{len(self.fields)} fields, by all {self.rows:,} rows"
        if self.left_out:
            yield f"left out, no field can hold lists or structs: {list_names(self.left_out)}"


def look_at(data: DataConfig, columns: Sequence[str] | None = None, *, private: bool = False) -> FirstLook | None:
    """What the files of a folder are proposed to be; None where they hold one column of texts, or there are none.

    columns: those that are wanted; None for all.

    Raises:
        DataError: a file cannot be read, lacks a column or has another type in it than others, or holds what no field
            can hold in it.
        StorageError: storage cannot be reached.
    """
    try:
        files = list_files(data.uri)
    except DataError:
        return None
    plan = plan_table(data, files, columns)
    if columns is None and len(plan.schema) <= 1 and all(is_text(column.type) for column in plan.schema):
        return None
    all_rows = sum(unit.stop - unit.start for unit in plan.units)
    left_out = plan.left_out if columns is None else ()
    if private:
        return FirstLook(propose_unseen(plan.schema), 0, all_rows, left_out)
    found = count_by_column(data.model_copy(update={"max_records": MOST_ROWS}), plan)
    return FirstLook(propose(plan.schema, found.columns), found.rows, all_rows, left_out)
