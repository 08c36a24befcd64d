"""CSV files as tables: which separator, which names, and where the file is broken.

Lines end at a line feed, with or without a carriage return before it; where the first record ends at a lone carriage
return (old Macs), so do the others. Fields may be in double quotes, and a quote inside is doubled.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

from runner.data.sources import Source
from runner.data.table import NumberedRows, Table, list_names
from runner.errors import DataError

SEPARATORS = (",", ";", "\t", "|")
HEAD_LINES = 200
_SPACE = " \t\u00a0\ufeff"
LONGEST_FIELD = 1 << 30  # characters; Python's own limit is 131,072
_NAMED_SEPARATOR = re.compile(r'sep=([^"\r\n])[\r\n]*')
"""How a file tells Excel its separator, in a line before all others."""


class CsvTable(Table):
    """One CSV file.

    header: whether the first record names the columns. text_column: the name of a single column without a header.
    delimiter: None is the one that the file itself names, else the `usual` one. Where the first lines do not fit that
    one, but another, the file is refused, or read by the other with a note when the reader `may_guess`.
    """

    def __init__(
        self, source: Source, *, header: bool, delimiter: str | None, usual: str, may_guess: bool, text_column: str
    ) -> None:
        super().__init__(source)
        self._header = header
        self._given = delimiter
        self._usual = usual
        self._may_guess = may_guess
        self._text_column = text_column

    def rows(self, columns: Iterable[str] | None = None) -> NumberedRows:  # noqa: ARG002 (all are read anyway)
        self.notes = []
        with self.source.open_text() as file:
            head = list(islice(file, HEAD_LINES))
            delimiter = self._choose_delimiter(head)
            lines = _Lines(chain(head, file))
            if self._named_separator(head) is not None:
                next(iter(lines))
            yield from self._parse(lines, delimiter, head)

    def _parse(self, lines: _Lines, delimiter: str, head: Sequence[str]) -> NumberedRows:
        csv.field_size_limit(LONGEST_FIELD)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        names: Sequence[str] | None = None
        lone_carriage_returns = False
        blank = 0
        begun = lines.number + 1
        try:
            for fields in reader:
                first, begun = begun, lines.number + 1
                if not fields:
                    blank += 1
                    continue
                if lines.last.endswith("\r") and not lone_carriage_returns:
                    if names is not None:
                        raise DataError(
                            f"{self.where(lines.number)}: a carriage return outside quotes, though the lines before "
                            "end with a line feed: put the field in quotes"
                        )
                    lone_carriage_returns = True
                if names is None:
                    names = self._name_columns(fields, "".join(head[: lines.number]))
                    if self._header:
                        continue
                if len(fields) != len(names):
                    is_longer = len(fields) > len(names)
                    advice = f"put a field that holds {delimiter!r} in quotes" if is_longer else "add the missing ones"
                    raise DataError(
                        f"{self._where(first, lines.number)}: {len(fields)} fields, but {len(names)} columns; "
                        f"found {_shown(fields)}: {advice}"
                    )
                yield first, dict(zip(names, fields, strict=True))
        except csv.Error as error:
            raise self._not_csv(error, begun, lines.number, delimiter) from None
        if names is not None and len(names) == 1:
            self.note_blank_lines(blank)

    def _name_columns(self, fields: Sequence[str], written: str) -> Sequence[str]:
        """Names for the columns. fields: of the first record. written: how the file writes it.

        Space around a name is no part of it, unless it was put in quotes with it.
        """
        if not self._header:
            return [self._text_column] if len(fields) == 1 else [f"column_{at}" for at in range(1, len(fields) + 1)]
        quoted = ['"' + field.replace('"', '""') + '"' in written for field in fields]
        bare = [field if kept else field.strip(_SPACE) for field, kept in zip(fields, quoted, strict=True)]
        names = [name or f"column_{at}" for at, name in enumerate(bare, 1)]
        for name in names:
            if names.count(name) > 1:
                raise DataError(f"{self.source.uri}: the header names column {name!r} twice")
        if unnamed := [name for name, field in zip(names, bare, strict=True) if not field]:
            self.notes.append(f"without a name in the header: {list_names(unnamed)}")
        if spaced := [field for name, field in zip(bare, fields, strict=True) if name and name != field]:
            self.notes.append(f"spaces around names are left out: {list_names(spaced)}")
        return names

    def _choose_delimiter(self, head: Sequence[str]) -> str:
        named = self._named_separator(head)
        if self._given is None and named is not None:
            self.notes.append(f"separated by {named!r}, as the first line says")
            return named
        asked = self._given or self._usual
        others = [each for each in SEPARATORS if each != asked and _fits(head, each)]
        if not others or _fits(head, asked):
            return asked
        seems = f"separated by {' or '.join(map(repr, others))}, it seems"
        if self._given is not None:
            self.notes.append(f"{seems}, but read as separated by {asked!r}")
            return asked
        if self._may_guess:
            self.notes.append(seems)
            return others[0]
        options = " or ".join(f"--csv-delimiter {_for_a_shell(each)}" for each in others)
        raise DataError(
            f"{self.source.uri}: {seems}, not by {asked!r}: add {options} (or --csv-delimiter {_for_a_shell(asked)} "
            "to read it so all the same)"
        )

    def _named_separator(self, head: Sequence[str]) -> str | None:
        named = _NAMED_SEPARATOR.fullmatch(head[0]) if head else None
        return named[1] if named else None

    def _where(self, first: int, last: int) -> str:
        return self.where(first) if first >= last else f"{self.source.uri}, lines {first}-{last}"

    def _not_csv(self, error: csv.Error, first: int, last: int, delimiter: str) -> DataError:
        with self.source.open_text() as file:
            opened, is_open = _last_quote(islice(file, first - 1, last), first, delimiter)
        if is_open:
            return DataError(
                f"{self.where(opened)}: the quote that opens here is never closed: close it, or write it twice where "
                "it is part of the text"
            )
        beside = "" if opened == last else f" (the quote opens in line {opened})"
        return DataError(f"{self.where(last)}: not valid CSV: {error}{beside}")


class _Lines:
    """Lines for a CSV reader, and which of them it has seen."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.number = 0
        self.last = ""
        self._lines = iter(lines)

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.number += 1
            self.last = line
            yield line


def _fits(head: Sequence[str], separator: str) -> bool:
    """Whether a file's first lines are records of at least two fields, all of the same number."""
    counts: list[int] = []
    try:
        for fields in csv.reader(head, delimiter=separator, strict=True):
            if fields:
                counts.append(len(fields))
    except csv.Error:
        if len(head) < HEAD_LINES:
            return False
    return len(counts) > 1 and counts[0] > 1 and len(set(counts)) == 1


def _last_quote(lines: Iterable[str], number: int, delimiter: str) -> tuple[int, bool]:
    """The line, counted from `number`, in which the last quote of broken CSV opens, and whether it is still open."""
    opened, is_open = number, False
    for at_line, line in enumerate(lines, number):
        at = 0
        while at < len(line):
            if not is_open and line[at] == '"':
                opened, is_open, at = at_line, True, at + 1
            if is_open:
                end = line.find('"', at)
                if end < 0:
                    break
                at = end + 1
                if line.startswith('"', at):
                    at += 1
                    continue
                is_open = False
                if line[at : at + 1] not in ("", "\r", "\n", delimiter):
                    return opened, False
            at = line.find(delimiter, at) + 1 or len(line)
    return opened, is_open


def _shown(fields: Sequence[str]) -> str:
    """The first fields for a message, cut short."""
    shown = [repr(field if len(field) <= 20 else f"{field[:20]}...") for field in fields[:4]]
    return ", ".join([*shown, "..."] if len(fields) > 4 else shown)


def _for_a_shell(separator: str) -> str:
    return "'\\t'" if separator == "\t" else f"'{separator}'"
