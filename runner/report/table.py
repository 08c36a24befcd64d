"""Records to columns: how records are split into fields, and what kind of values each column holds.

    >>> layout = find_layout(["anna,41", "bernd,52", "broken"], ",", None)
    >>> layout.names, layout.split(["clara,37", "broken"])
    (('field_1', 'field_2'), [('clara', '37')])

What a column holds is decided once, on the training records, so that all tables are looked at in the same way.
"""

# pyarrow.compute makes its functions when it is imported, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from runner.data.fields import split_fields
from runner.data.schema import Codec, Schema
from runner.data.schema.codec import read_as
from runner.data.schema.moment import MomentCodec
from runner.data.texts import to_texts, without_views
from runner.errors import DataError

Kind = Literal["number", "category", "text"]

NUMBERS_SHARE = 0.8
"""A column is of numbers when at least so many of its values that are not empty are."""
FEWEST_NUMBERS = 13
"""With fewer different numbers a column is one of categories: flags, counts, codes."""
FEWEST_TEXTS = 100
"""A column with more different values, that are more than half of all its values, is free text."""
LAYOUT_SHARE = 0.5
"""Records have fields when at least so many of them have the same number of fields."""

KINDS: dict[str, Kind] = {
    "integer": "number",
    "number": "number",
    "date": "number",
    "datetime": "number",
    "text": "text",
}
"""Of fields; the others are categories."""

Rows = list[tuple[str, ...]]
Records = Sequence[str] | pa.Table
"""Texts, or rows of a table with the types of their columns."""
Item = TypeVar("Item")


@dataclass(frozen=True)
class Layout:
    """The fields of a record, by name."""

    names: tuple[str, ...]
    delimiter: str

    def split(self, texts: Sequence[str]) -> Rows:
        """The records that have the right number of fields, as their fields."""
        rows = (split_fields(text, self.delimiter, len(self.names)) for text in texts)
        return [row for row in rows if len(row) == len(self.names)]


def find_layout(
    texts: Sequence[str], delimiter: str | None, names: Sequence[str] | None, source: str = "the records"
) -> Layout | None:
    """How the records are split into fields; None for plain text.

    names: those of the fields, where the job has them. Otherwise the most frequent number of fields counts, and they
    are named field_1, field_2, ...

    Raises:
        DataError: most records of the `source` have another number of fields than there are names.
    """
    if delimiter is None or not texts:
        return None
    counts = Counter(text.count(delimiter) + 1 for text in texts)
    fields, records = min(counts.items(), key=lambda item: (-item[1], item[0]))
    if names is not None:
        if counts[len(names)] < LAYOUT_SHARE * len(texts):
            raise DataError(
                f"{source}: the job names {len(names)} fields ({', '.join(names)}), but most records have {fields}; "
                "see generation.fields"
            )
        return Layout(tuple(names), delimiter) if len(names) > 1 else None
    if fields == 1 or records < LAYOUT_SHARE * len(texts):
        return None
    return Layout(tuple(f"field_{number}" for number in range(1, fields + 1)), delimiter)


@dataclass(frozen=True)
class TableLayout:
    """The columns of a table, as its schema has them."""

    columns: tuple[Column, ...]

    @classmethod
    def of(cls, schema: Schema) -> TableLayout:
        """The columns that are learned."""
        return cls(tuple(Column.of(codec) for codec in schema.codecs if codec.slots))

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(column.name for column in self.columns)

    def split(self, table: pa.Table) -> Rows:
        """The rows as texts, empty for nulls; days and moments as days since 1970."""
        values: list[list[str]] = []
        for column in self.columns:
            typed = table.column(column.name).combine_chunks()
            texts = days_since_1970(typed, column.written).cast(pa.string()) if column.is_moment else to_texts(typed)
            values.append(texts.fill_null("").to_pylist())
        return list(zip(*values, strict=True))


@dataclass(frozen=True)
class Column:
    """One column's name and the kind of its values; `is_moment`: numbers that are days since 1970. `written`: the
    format of texts of these."""

    name: str
    kind: Kind
    is_moment: bool = False
    written: str | None = None

    @classmethod
    def of(cls, codec: Codec) -> Column:
        """A column of a table, by the kind of its field."""
        is_moment = codec.kind in ("date", "datetime")
        kind = KINDS.get(codec.kind, "category")
        return cls(codec.name, kind, is_moment, codec.written if isinstance(codec, MomentCodec) else None)

    def show(self, number: float) -> str:
        """A number of the column for readers."""
        if not self.is_moment:
            return f"{number:.4g}"
        return str(np.datetime64("1970-01-01T00:00") + np.timedelta64(round(number * 24 * 60), "m")).removesuffix(
            "T00:00"
        )

    def numbers(self, values: Sequence[str]) -> NDArray[np.float64]:
        """What is counted with: numbers as they are (others are not a number), texts by their length in characters."""
        if self.kind == "text":
            return np.array([len(value) for value in values], np.float64)
        return to_numbers(values)


def days_since_1970(moments: pa.Array, written: str | None = None) -> pa.Array:
    """Days or moments, which may be texts of a format, as float64; null for texts that are none.

    >>> days_since_1970(pa.array(["02.01.1970", ""]), "%d.%m.%Y").to_pylist()
    [1.0, None]
    """
    moments, _ = read_as(moments, pa.timestamp("us"), written)
    if pa.types.is_date(moments.type):
        return moments.cast(pa.date32()).cast(pa.int32()).cast(pa.float64())
    seconds = moments.cast(pa.timestamp("us")).cast(pa.int64()).cast(pa.float64())
    return pc.divide(seconds, 86_400e6)


def find_columns(names: Sequence[str], rows: Rows) -> list[Column]:
    """What each column holds, decided on these rows."""
    values = zip(*rows, strict=True) if rows else [()] * len(names)
    return [Column(name, find_kind(column)) for name, column in zip(names, values, strict=True)]


def spread_records(records: Records, most: int) -> Any:
    """`spread` of texts, or of the rows of a table."""
    if isinstance(records, pa.Table):
        return without_views(records).take(pa.array(spread(range(records.num_rows), most), pa.int64()))
    return spread(records, most)


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """Up to `most` items, evenly spaced: the first ones of sorted records would not be like all.

    >>> spread([0, 1, 2, 3, 4], 3), spread([0, 1], 3)
    ([0, 2, 4], [0, 1])
    """
    chosen = np.linspace(0, len(items) - 1, min(len(items), most)).round().astype(int)
    return [items[index] for index in chosen]


def find_kind(values: Sequence[str]) -> Kind:
    """What values are: numbers, free text, or categories where they are neither.

    >>> find_kind([str(number) for number in range(40)]), find_kind(["yes", "no", ""]), find_kind([])
    ('number', 'category', 'category')
    """
    distinct = set(values)
    filled = [value for value in values if value.strip()]
    numbers = to_numbers(filled)
    numbers = numbers[~np.isnan(numbers)]
    if filled and numbers.size >= NUMBERS_SHARE * len(filled) and np.unique(numbers).size >= FEWEST_NUMBERS:
        return "number"
    return "text" if len(distinct) > max(FEWEST_TEXTS, len(values) / 2) else "category"


def to_numbers(values: Sequence[str]) -> NDArray[np.float64]:
    """Values as finite numbers, not a number where they are none.

    >>> to_numbers(["1", " 2.5", "", "many", "inf", "1_000"]).tolist()
    [1.0, 2.5, nan, nan, nan, nan]
    """
    known = {value: _to_number(value) for value in set(values)}  # columns repeat themselves
    return np.array([known[value] for value in values], np.float64)


def _to_number(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        return np.nan
    return number if np.isfinite(number) and "_" not in value else np.nan
