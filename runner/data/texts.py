"""Values to texts: what each type of column becomes in a record. The table in docs/own-data.md says the same.

>>> to_texts(pa.array([4915112345678.0, 3.0, 0.1, None])).to_pylist()
['4915112345678', '3', '0.1', None]
>>> join_fields([pa.array(["a", None], pa.large_string()), pa.array(["b", None], pa.large_string())], ",").to_pylist()
['a,b', None]

Different values of a type have different texts, and a number's text reads back as that number.
"""

# pyarrow.compute makes its functions when it is imported, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types

PLAIN_BELOW = 21
"""Floats below 10^21 are written without an exponent, as in JSON by JavaScript."""

OUT_OF_RANGE = "<value out of range"
"""What Arrow writes for such a date or time."""

TEXT = pa.large_string()


class NoTextError(Exception):
    """Values that have no text, and why, in words that follow the column's name."""


def to_texts(column: pa.Array) -> pa.Array:
    """Values of any type as large strings; nulls stay. Bytes are taken as UTF-8 without a look at them.

    Raises:
        NoTextError: the type has no text (lists, structs, maps), or a value has none (a date beyond the calendar).
    """
    kind = column.type
    for applies, rule in RULES:
        if applies(kind):
            try:
                texts = rule(column)
            except pa.ArrowException as error:
                raise NoTextError(f"is {kind}, which cannot be written as text: {str(error).splitlines()[0]}") from None
            if types.is_temporal(kind) and pc.any(pc.starts_with(texts, OUT_OF_RANGE)).as_py():
                raise NoTextError(f"is {kind} and holds a value that no calendar or clock has")
            return texts
    raise NoTextError(f"is {kind}, which cannot be written as text")


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type can be the text column: it holds texts, or nothing but nulls.

    >>> is_text(pa.dictionary(pa.int32(), pa.string())), is_text(pa.int64())
    (True, False)
    """
    if isinstance(kind, pa.DictionaryType):
        return is_text(kind.value_type)
    if isinstance(kind, pa.UuidType):
        return True
    if isinstance(kind, pa.BaseExtensionType):
        return is_text(kind.storage_type)
    return is_string(kind) or _is_bytes(kind) or types.is_null(kind)


def join_fields(fields: Sequence[pa.Array], delimiter: str) -> pa.Array:
    """The fields of rows joined to records: a null field is empty, a row without any other is null."""
    joined = pc.binary_join_element_wise(
        *fields, pa.scalar(delimiter, TEXT), null_handling="replace", null_replacement=""
    )
    empty = fields[0].is_null()
    for field in fields[1:]:
        empty = pc.and_(empty, field.is_null())
    return pc.if_else(empty, pa.scalar(None, TEXT), joined)


def row_texts(columns: Sequence[pa.Array | pa.ChunkedArray]) -> pa.Array:
    """A text for each row of a table that no other row has: its values' texts, each behind its length in bytes.

    >>> row_texts([pa.array([1, None]), pa.array(["a:b", ""])]).to_pylist()
    ['1:1,3:a:b,', '-,0:,']
    """
    parts: list[pa.Array] = []
    for column in columns:
        texts = to_texts(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)
        part = pc.binary_join_element_wise(_cast(pc.binary_length(texts)), texts, pa.scalar(":", TEXT))
        parts.append(pc.if_else(texts.is_null(), pa.scalar("-", TEXT), part))
    return pc.binary_join_element_wise(*parts, pa.scalar("", TEXT), pa.scalar(",", TEXT))


def without_views(table: pa.Table) -> pa.Table:
    """The table with large strings and bytes for views of them, of which Arrow takes and filters no rows.

    >>> without_views(pa.table({"a": pa.array(["x"], pa.string_view()), "b": [1]})).schema.types
    [DataType(large_string), DataType(int64)]
    """
    plain = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    fields = [field.with_type(plain.get(field.type, field.type)) for field in table.schema]
    return table if fields == list(table.schema) else table.cast(pa.schema(fields))


def find_invalid(texts: pa.Array) -> NDArray[np.bool_]:
    """Which texts are not valid UTF-8, (n,); the first one where Arrow finds an array invalid without such a text."""
    invalid = np.zeros(len(texts), bool)
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        invalid[:] = [not _is_utf8(content) for content in texts.cast(pa.large_binary()).to_pylist()]
        if not invalid.any():
            invalid[0] = True
    return invalid


def _is_utf8(content: bytes | None) -> bool:
    try:
        (content or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def find_unsplittable(fields: Sequence[pa.Array], delimiter: str) -> tuple[int, str] | None:
    """The first field that splitting the joined text would not give back, and how its values break it.

    A value breaks it that holds the delimiter, or ends with the beginning of one that the delimiter behind it
    completes too early: `x|` before `||`. The end of the last field has no delimiter behind it, and a single field
    is not split.
    """
    if len(fields) == 1:
        return None
    early = [delimiter[:size] for size in range(1, len(delimiter)) if delimiter.startswith(delimiter[size:])]
    for number, field in enumerate(fields):
        if pc.any(pc.match_substring(field, delimiter)).as_py():
            return number, f"holds the field_delimiter {delimiter!r} itself"
        for end in early if number < len(fields) - 1 else ():
            if pc.any(pc.ends_with(field, end)).as_py():
                return number, f"ends with {end!r} somewhere, which runs into the field_delimiter {delimiter!r}"
    return None


def _cast(column: pa.Array) -> pa.Array:
    return column.cast(TEXT)


def _bytes(column: pa.Array) -> pa.Array:
    return pc.cast(column, options=pc.CastOptions(TEXT, allow_invalid_utf8=True))


def _floats(column: pa.Array) -> pa.Array:
    """The fewest digits that read back as the number."""

    def plain(text: str) -> str:
        return _plain(text) if int(text.partition("e+")[2]) < PLAIN_BELOW else text

    return _rewritten(_cast(column), "e+", plain)


def _decimals(column: pa.Array) -> pa.Array:
    """All digits of the column's scale."""
    return _rewritten(_cast(column), "E", _plain)


def _timestamps(column: pa.Array) -> pa.Array:
    """Local time and its offset; in UTC where the offset has seconds, which a text's offset cannot have."""
    kind = column.type
    moments = column.cast(pa.timestamp(kind.unit))
    if kind.tz is None:
        return _cast(moments)
    ends = _cast(pa.array(pc.min_max(moments).values(), moments.type))
    if pc.any(pc.starts_with(ends, OUT_OF_RANGE)).as_py():
        return ends  # With a zone, Arrow writes any day and hour for them.
    texts = _cast(column)
    minute = {"s": 60, "ms": 60_000, "us": 60_000_000, "ns": 60_000_000_000}[kind.unit]
    offsets = pc.subtract(pc.local_timestamp(column), moments).cast(pa.int64())
    odd = pa.array(offsets.fill_null(0).to_numpy(zero_copy_only=False) % minute != 0)
    return pc.if_else(odd, _cast(column.cast(pa.timestamp(kind.unit, "UTC"))), texts) if pc.any(odd).as_py() else texts


def _durations(column: pa.Array) -> pa.Array:
    """Seconds, whatever the column's unit."""
    places = {"s": 0, "ms": -3, "us": -6, "ns": -9}[column.type.unit]
    counts = column.cast(pa.int64()).to_pylist()
    return pa.array(
        [None if count is None else _plain(Decimal(count).scaleb(places).normalize()) for count in counts], TEXT
    )


def _uuids(column: pa.Array) -> pa.Array:
    values = column.storage.to_pylist()
    return pa.array([None if value is None else str(uuid.UUID(bytes=value)) for value in values], TEXT)


def _rewritten(texts: pa.Array, mark: str, rewrite: Callable[[str], str]) -> pa.Array:
    """The texts, with those that hold `mark` rewritten."""
    marked = pc.match_substring(texts, mark)
    if not pc.any(marked).as_py():
        return texts
    return pc.replace_with_mask(texts, marked, pa.array(map(rewrite, texts.filter(marked).to_pylist()), TEXT))


def _plain(number: str | Decimal) -> str:
    return format(Decimal(number), "f")


def is_string(kind: pa.DataType) -> bool:
    """Whether it is one of Arrow's types of strings."""
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return (
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_binary_view(kind)
    )


RULES: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.Array], pa.Array]], ...] = (
    (lambda kind: isinstance(kind, pa.UuidType), _uuids),
    (lambda kind: isinstance(kind, pa.Bool8Type), lambda column: _cast(column.storage.cast(pa.bool_()))),
    (lambda kind: isinstance(kind, pa.BaseExtensionType), lambda column: to_texts(column.storage)),
    (types.is_dictionary, lambda column: to_texts(column.dictionary).take(column.indices)),
    (is_string, _cast),
    (_is_bytes, _bytes),
    (types.is_floating, _floats),
    (types.is_decimal, _decimals),
    (types.is_timestamp, _timestamps),
    (types.is_duration, _durations),
    (lambda kind: not types.is_nested(kind), _cast),
)
"""The first that applies to a type says what becomes of its values. Null, booleans, whole numbers, dates and times of
day are written as Arrow casts them."""
