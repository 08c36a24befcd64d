"""The fields of a record and its text: joined by a delimiter, and split at it again. The one rule for both.

>>> join_fields(["49", None, "85.39"], ","), split_fields("49,,85.39", ",", 3)
('49,,85.39', ('49', '', '85.39'))

There are no quotes and no escapes, so not every row can be split again:

>>> splits_back(["a", "b,c"], ","), splits_back(["x|", "1"], "||"), splits_back(["x|", "1"], ",")
(False, False, True)
"""

from __future__ import annotations

from collections.abc import Sequence


def join_fields(fields: Sequence[str | None], delimiter: str) -> str:
    """A record's text. A null is written as an empty field: the text does not tell the two apart."""
    return delimiter.join(field or "" for field in fields)


def split_fields(text: str, delimiter: str | None, count: int) -> tuple[str, ...]:
    """The fields of a record that should have `count` of them; it may have fewer or more.

    A record of one field is that field, whatever is in it.
    """
    return (text,) if count == 1 or delimiter is None else tuple(text.split(delimiter))


def splits_back(fields: Sequence[str | None], delimiter: str) -> bool:
    """Whether splitting the joined text gives the same fields, with empty ones for nulls.

    It does not where a field holds the delimiter, or ends with its beginning: `x|` and `1` joined by `||` split into
    `x` and `|1`.
    """
    text = join_fields(fields, delimiter)
    return split_fields(text, delimiter, len(fields)) == tuple(field or "" for field in fields)
