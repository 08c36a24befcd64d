"""What every kind of table promises; `tables.py` opens one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TypeAlias

from runner.data.sources import Source
from runner.errors import DataError

Row: TypeAlias = Mapping[str, str | None]
NumberedRows: TypeAlias = Iterator[tuple[int, Row]]
"""Rows with the number, from 1, of the line that they begin on; those of Parquet with their own."""


class Table(ABC):
    """A file of rows with named columns.

    `notes`: after `rows` has ended, what the reader had to decide, a line each. `counted_in`: what rows are counted in.
    """

    counted_in = "line"

    def __init__(self, source: Source) -> None:
        self.source = source
        self.notes: list[str] = []

    @abstractmethod
    def rows(self, columns: Iterable[str] | None = None) -> NumberedRows:
        """All rows in order. columns: the only ones that are needed, where there are others.

        Raises:
            DataError: the file cannot be used; the message names it and the line.
            StorageError: storage cannot be reached.
        """

    def where(self, number: int) -> str:
        """A row's place, for messages."""
        return f"{self.source.uri}, {self.counted_in} {number}"

    def check_columns(self, wanted: Iterable[str], found: Collection[str]) -> None:
        """Raise DataError where there are no columns, as of a table without rows, or one of those wanted is missing."""
        if not found:
            raise DataError(f"{self.source.uri} holds no records")
        for name in wanted:
            if name not in found:
                raise DataError(f"{self.source.uri} has no column {name!r}: it has {list_names(found)}")

    def note_blank_lines(self, count: int) -> None:
        """Note how many lines were passed over, if any."""
        if count:
            self.notes.append(f"{count:,} blank lines were passed over")


def list_names(names: Collection[str]) -> str:
    """Names of columns as a person would write them, in quotes where that shows what would be overlooked.

    >>> list_names(["age", " code", "", "a,b"])
    "age, ' code', '', 'a,b'"
    """
    plain = (name and name.isprintable() and name == name.strip() and "," not in name for name in names)
    return ", ".join(name if is_plain else repr(name) for name, is_plain in zip(names, plain, strict=True))
