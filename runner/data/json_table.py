r"""JSON as a table: objects one after another (JSON Lines), or one array of objects.

Each object is a row. Texts are themselves and null is None; every other value stays as it is written, numbers to the
last digit. Python's parser would round `0.10` and `12345678901234567890.5`, keep the last of a repeated name and take
NaN; here it says where values begin and end, and what is kept is the file's text.

>>> parse_object(r'{"a": "\u00e9", "b": 0.10, "c": [1,  2E5], "d": null}', 0)
({'a': 'é', 'b': '0.10', 'c': '[1,  2E5]', 'd': None}, 53)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from json import JSONDecodeError
from typing import Any, TextIO

from runner.data.table import NumberedRows, Row, Table
from runner.errors import DataError

BLOCK_CHARACTERS = 1 << 20
LONGEST_TOKEN = 16  # characters; `-Infinity` and `\ud83d\ude00` are shorter
_SPACE = re.compile(r"[ \t\r\n]*")
_KINDS = {'"': "a text", "[": "an array", "t": "true", "f": "false", "n": "null"}


class JsonTable(Table):
    """One file of JSON objects."""

    def rows(self, columns: Iterable[str] | None = None) -> NumberedRows:  # noqa: ARG002 (all are read anyway)
        self.notes = []
        count = 0
        row: Row = {}
        with self.source.open_text() as file:
            text = _Text(file)
            closing = "]" if text.next() == "[" else ""
            text.at += len(closing)
            while (following := text.next()) != closing:
                if count and closing:
                    if following != ",":
                        raise DataError(f"{self.where(text.line())}: a comma or the array's end is missing here")
                    text.at += 1
                    text.next()
                count += 1
                line = text.line()
                row = self._take_object(text)
                yield line, row
            text.at += len(closing)
            if text.next():
                raise DataError(f"{self.where(text.line())}: something follows the array")
        if count == 1 and not closing and any((value or "").startswith(("[", "{")) for value in row.values()):
            self.notes.append("the whole file is one object, so it is one record")

    def _take_object(self, text: _Text) -> Row:
        """The object that begins here; `text` is behind it then."""
        while True:
            try:
                row, text.at = parse_object(text.text, text.at)
            except JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated string") or error.pos > len(text.text) - LONGEST_TOKEN
                if is_cut and text.read_more():
                    continue
                raise self._refuse(text, error) from None
            except (ValueError, RecursionError) as error:
                reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
                raise DataError(f"{self.where(text.line())}: {reason}") from None
            return row

    def _refuse(self, text: _Text, error: JSONDecodeError) -> DataError:
        found = text.text[text.at : text.at + 1]
        where = self.where(text.line())
        if found == ",":
            return DataError(f"{where}: a comma between objects: put all in one [...], or each on a line of its own")
        if found in ("", "]"):
            return DataError(f"{where}: no object after the comma: remove it")
        if found != "{":
            kind = _KINDS.get(found, "a number" if found.isdigit() or found == "-" else "not JSON")
            return DataError(
                f"{where}: {kind}, but each record is a JSON object: one object per line, or one array of objects"
            )
        broken = text.text[: error.pos].rstrip()  # the end of what was good: the next line is not to blame
        return DataError(f"{self.where(text.line(len(broken)))}: not valid JSON: {error.msg}")


class _Text:
    """The part of a file that is being looked at: `text`, from `at` on."""

    def __init__(self, file: TextIO) -> None:
        self.text = ""
        self.at = 0
        self._file = file
        self._lines = 0  # that end before place `_counted`
        self._counted = 0

    def read_more(self) -> bool:
        """Drop what is behind and read at least as much as is left, so that reading all takes linear time.

        False, and nothing is changed, at the file's end.
        """
        block = self._file.read(max(BLOCK_CHARACTERS, len(self.text) - self.at))
        while block.endswith("\r") and (more := self._file.read(1)):
            block += more
        if not block:
            return False
        self.line()
        self.text = self.text[self.at :] + block
        self.at = self._counted = 0
        return True

    def next(self) -> str:
        """Pass over space; the character there, none at the file's end."""
        while True:
            self.at = _end_of_space(self.text, self.at)
            if self.at < len(self.text) or not self.read_more():
                return self.text[self.at : self.at + 1]

    def line(self, at: int | None = None) -> int:
        """The number, from 1, of the line in which a place is, not before the one asked for last: `at`, if none is."""
        place = self.at if at is None else at
        self._lines += _line_ends(self.text, self._counted, place)
        self._counted = place
        return 1 + self._lines


def parse_object(text: str, at: int) -> tuple[dict[str, str | None], int]:
    """The JSON object that begins at a place, and where it ends.

    Raises:
        JSONDecodeError: it is not valid, or not whole.
        ValueError: a name is repeated, here or further inside, or empty; a number that JSON has not; half a character.
    """
    row: dict[str, str | None] = {}
    at = _end_of_space(text, _take(text, at, "{", "Expecting an object"))
    while text[at : at + 1] != "}":
        if row:
            at = _end_of_space(text, _take(text, at, ",", "Expecting ',' delimiter"))
        name, at = _take_name(text, at)
        if name in row:
            raise ValueError(_repeated(name))
        if not name:
            raise ValueError("a name is empty: no job could say which column it is")
        at = _end_of_space(text, _take(text, _end_of_space(text, at), ":", "Expecting ':' delimiter"))
        row[name], at = _take_value(text, at)
        at = _end_of_space(text, at)
    return row, at + 1


def _take(text: str, at: int, character: str, otherwise: str) -> int:
    if not text.startswith(character, at):
        raise JSONDecodeError(otherwise, text, at)
    return at + 1


def _take_name(text: str, at: int) -> tuple[str, int]:
    _take(text, at, '"', "Expecting property name enclosed in double quotes")
    name, end = _take_value(text, at)
    return name or "", end


def _take_value(text: str, at: int) -> tuple[str | None, int]:
    value, end = _decoder.raw_decode(text, at)
    if value is None:
        return None, end
    written = text[at:end]
    if not isinstance(value, str) or not written.startswith('"'):
        return written, end
    if "\\u" in written and not value.isprintable() and any("\ud800" <= each <= "\udfff" for each in value):
        raise ValueError("an escape names half a surrogate pair: not valid Unicode")
    return value, end


def _end_of_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _line_ends(text: str, start: int, stop: int) -> int:
    return text.count("\n", start, stop) + text.count("\r", start, stop) - text.count("\r\n", start, stop)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not valid JSON: write null or a number")


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    names: set[str] = set()
    for name, _ in pairs:
        if name in names:
            raise ValueError(_repeated(name))
        names.add(name)
    return pairs


def _repeated(name: str) -> str:
    return f"the name {name!r} is twice in one object"


_decoder = json.JSONDecoder(
    parse_float=str, parse_int=str, parse_constant=_refuse_constant, object_pairs_hook=_refuse_repeated
)
