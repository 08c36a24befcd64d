r"""What a person sees: on a terminal, a control character is shown and not obeyed; data in a pipe is exact.

What is printed can come from records, from names of columns and files, or from another program's log. A terminal would
take `ESC [ 2 J` in it for an order, and a library that strips such sequences from a pipe changes the records.

>>> visible("red: \x1b[31m, back: \r, tab: \t.")
'red: \\x1b[31m, back: \\r, tab: \t.'
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Sequence
from typing import NamedTuple, TextIO

from runner.errors import ConfigError

GAP = "  "
MOST_CELLS = 48
"""Longer values are cut where a table is shown."""

_INVISIBLE = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f"  # control characters, but for tab and line feed
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # they change the order in which others are shown
    "\u2028\u2029\ufeff\ud800-\udfff]"  # line ends, a byte order mark, bytes of file names that are no text
)


def visible(text: str) -> str:
    """The text with its control characters as Python would write them; tabs and line feeds stay."""
    return _INVISIBLE.sub(lambda found: ascii(found[0])[1:-1], text)


def show(text: str) -> None:
    """Print an answer: as it is, or visibly on a terminal."""
    if sys.stdout.isatty():
        _print_visibly(text, sys.stdout)
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape") + b"\n")
    sys.stdout.buffer.flush()


def show_records(texts: Sequence[str]) -> None:
    """Print records, a line each.

    Raises:
        ConfigError: a record holds a line break, and standard output is no terminal: its lines would not be records.
    """
    if sys.stdout.isatty():
        texts = [text.replace("\n", "\\n") for text in texts]
    else:
        for number, text in enumerate(texts, 1):
            if "\n" in text or "\r" in text:
                raise ConfigError(
                    f"record {number} holds a line break, so lines would not be records: "
                    "write a file with -o, or take --json"
                )
    show("\n".join(texts))


class Json(NamedTuple):
    """A value of an answer that is JSON already: its numbers have all digits, which Python's floats may not hold."""

    text: str


class Column(NamedTuple):
    """A column of a table as it is shown; numbers are at the right."""

    name: str
    values: Sequence[str]
    is_number: bool = False


def side_by_side(columns: Sequence[Column], width: int | None = None, most: int | None = MOST_CELLS) -> str:
    """A table for a terminal that is `width` cells wide: where that is too narrow, in parts below one another; None: as
    wide as it gets. Values of more than `most` cells are cut; None: none is.

    >>> print(side_by_side([Column("age", ["9", "41"], True), Column("sex", ["m", ""])], 80))
    age  sex
      9  m
     41
    """
    from rich.cells import cell_len  # A moment, which --help does not need.

    parts: list[list[list[str]]] = [[]]
    used = 0
    for column in columns:
        aligned = _aligned(column, most)
        if width is not None and parts[-1] and used + len(GAP) + cell_len(aligned[0]) > width:
            parts.append([])
            used = 0
        used += (len(GAP) if parts[-1] else 0) + cell_len(aligned[0])
        parts[-1].append(aligned)
    return "\n\n".join("\n".join(GAP.join(line).rstrip() for line in zip(*part, strict=True)) for part in parts)


def _aligned(column: Column, most: int | None) -> list[str]:
    """The name and the values, all of the same width in cells."""
    from rich.cells import cell_len, set_cell_size

    texts = [visible(text).replace("\n", "\\n").replace("\t", "\\t") for text in (column.name, *column.values)]
    widest = max(map(cell_len, texts))
    widest = widest if most is None else min(most, widest)
    texts = [text if cell_len(text) <= widest else f"{set_cell_size(text, widest - 1)}…" for text in texts]
    return [
        " " * (widest - cell_len(text)) + text if column.is_number else text + " " * (widest - cell_len(text))
        for text in texts
    ]


def tell(text: str) -> None:
    """Print a line for people beside the answer, on standard error."""
    _print_visibly(text, sys.stderr)


def _print_visibly(text: str, stream: TextIO) -> None:
    shown = visible(text).encode(stream.encoding or "utf-8", "backslashreplace")
    print(shown.decode(stream.encoding or "utf-8"), file=stream, flush=True)


class VisibleFormatter(logging.Formatter):
    """A log's lines as they may be shown on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))
