"""The schema of a table: a codec for each field, made of the job's `fields`, the columns' types and what was found.

schema = Schema.of(config.fields, arrow_schema)           # all is declared
schema = Schema.of(config.fields, arrow_schema, found)    # the rest was found in the records, or bought
Schema.from_plain(schema.to_plain())                      # the same again
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import types

from runner.config import FieldConfig
from runner.config.fields import (
    BooleanField,
    CategoryField,
    DateField,
    DatetimeField,
    IdField,
    IntegerField,
    NumberField,
    TextField,
)
from runner.data.schema.category import CategoryCodec
from runner.data.schema.codec import Codec, decoded_type
from runner.data.schema.identifier import IdCodec
from runner.data.schema.intervals import Intervals, counted_mass, parts_mass, plan_intervals
from runner.data.schema.moment import MomentCodec, count_steps, finest_resolution
from runner.data.schema.number import NumberCodec
from runner.data.schema.text import TextCodec, check_text
from runner.data.schema.units import most_decimals
from runner.data.tokenizers.base import Tokenizer
from runner.data.tokenizers.characters import ByteTokenizer, CharTokenizer
from runner.data.tokenizers.text_kinds import train_tokenizer
from runner.errors import DataError

CODECS: dict[str, type[Codec]] = {
    "category": CategoryCodec,
    "boolean": CategoryCodec,
    "integer": NumberCodec,
    "number": NumberCodec,
    "date": MomentCodec,
    "datetime": MomentCodec,
    "text": TextCodec,
    "id": IdCodec,
}
LEAST_RECORDS = 10
"""A number of fewer records is no token of its own, and the range is not cut for them."""
LEAST_PARTS = 16
"""Of a range, however many of its values are tokens of their own."""
MOST_CELLS = 1 << 29
"""Of an automaton, at five bytes each."""
SEED = 0
"""Fixed, so that jobs that differ only in `training.seed` share their tokens."""


class Found(Protocol):
    """What was found of a field: see `runner.data.schema.completion`."""

    @property
    def field(self) -> FieldConfig: ...
    @property
    def rare(self) -> bool: ...
    @property
    def values(self) -> NDArray[np.int64] | None: ...
    @property
    def counts(self) -> NDArray[np.int64] | None: ...
    @property
    def frequent(self) -> tuple[int, ...]: ...
    @property
    def texts(self) -> pa.Array | None: ...
    @property
    def reading(self) -> pa.DataType | None: ...


@dataclass(frozen=True)
class Schema:
    """`codecs`: the fields in the job's order. `nullable`: of each, whether the column's type has nulls."""

    codecs: tuple[Codec, ...]
    nullable: tuple[bool, ...]

    @classmethod
    def of(
        cls, fields: Mapping[str, FieldConfig], columns: pa.Schema, found: Mapping[str, Found] | None = None
    ) -> Schema:
        """columns: the types of the fields, those of ids that are left out may miss. found: by field, what the job
        leaves open.

        Raises:
            DataError: a field is not in the columns, is of a type that its kind does not take, or is left open.
        """
        codecs: list[Codec] = []
        nullable: list[bool] = []
        for name, field in fields.items():
            place = columns.get_field_index(name)
            if place < 0 and not (isinstance(field, IdField) and field.made is None):
                raise DataError(f"fields.{name}: there is no such column; there are {', '.join(columns.names)}")
            column = pa.field(name, pa.null()) if place < 0 else columns.field(place)
            codecs.append(make_codec(field, column, None if found is None else found.get(name)))
            nullable.append(column.nullable or codecs[-1].nullable)
        states = sum(len(codec.states()) for codec in codecs)
        tokens = sum(sum(codec.slots) for codec in codecs)
        if states * tokens > MOST_CELLS:
            raise DataError(
                f"fields: {len(codecs)} columns have {tokens:,} tokens at {states:,} places, too many for the tables "
                "of what may follow; take fewer bins, shorter texts or fewer columns"
            )
        return cls(tuple(codecs), tuple(nullable))

    @property
    def arrow(self) -> pa.Schema:
        """The columns that come out: all but ids that are left out."""
        return pa.schema(
            [
                pa.field(codec.name, codec.type, nullable)
                for codec, nullable in zip(self.codecs, self.nullable, strict=True)
                if not (isinstance(codec, IdCodec) and codec.made is None)
            ]
        )

    @property
    def learned(self) -> pa.Schema:
        """The columns that have tokens."""
        names = {codec.name for codec in self.codecs if codec.slots}
        return pa.schema([field for field in self.arrow if field.name in names])

    def count_strange(self, records: pa.StructArray) -> dict[str, int]:
        """By learned field, how many values the schema does not have: clipped ones and rare ones are among them."""
        columns = columns_of(records)
        return {codec.name: codec.count_strange(columns[codec.name]) for codec in self.codecs if codec.slots}

    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON."""
        columns = [
            pa.field(codec.name, codec.type, nullable)
            for codec, nullable in zip(self.codecs, self.nullable, strict=True)
        ]
        return {
            "columns": base64.b64encode(pa.schema(columns).serialize()).decode(),
            "fields": [codec.to_plain() for codec in self.codecs],
        }

    def rewritten(self, rows: pa.StructArray) -> pa.StructArray:
        """Rows of some columns, each value as a generated one is written: see `Codec.rewritten`."""
        codecs = {codec.name: codec for codec in self.codecs}
        columns = [codecs[name].rewritten(column) for name, column in columns_of(rows).items()]
        return pa.StructArray.from_arrays(columns, fields=list(rows.type))

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Schema:
        """What `to_plain` wrote."""
        columns = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(plain["columns"])))
        codecs = [
            CODECS[field["kind"]].from_plain(field, column.type)
            for field, column in zip(plain["fields"], columns, strict=True)
        ]
        return cls(tuple(codecs), tuple(column.nullable for column in columns))


def columns_of(records: pa.StructArray) -> dict[str, pa.Array]:
    """The columns of a table's records, by name."""
    return dict(zip(records.type.names, records.flatten(), strict=True))


def make_codec(field: FieldConfig, column: pa.Field, found: Found | None = None) -> Codec:
    """The codec of a field for a column.

    Raises:
        DataError: the column's type is not one of the kind's, or does not hold what the field says; or the field leaves
            open what was not found.
    """
    name, kind = column.name, column.type
    if types.is_nested(decoded_type(kind)) and not isinstance(field, IdField):
        raise DataError(f"column {name} is {kind}, several values in one; leave it out, or make columns of it")
    field = field if found is None else found.field
    if isinstance(field, IdField):
        return IdCodec(name, with_numbers(kind) if field.made == "sequence" else kind, field.made)
    nullable = column.nullable if field.nullable is None else field.nullable
    match field:
        case CategoryField():
            return CategoryCodec(
                name,
                kind,
                _declared(name, "values", field.values),
                nullable=nullable,
                rare=found is not None and found.rare,
                outside=field.outside,
            )
        case BooleanField():
            return CategoryCodec(name, kind, ("false", "true"), nullable=nullable, boolean=True)
        case IntegerField() | NumberField():
            return _number(name, kind, field, found, nullable=nullable)
        case DateField() | DatetimeField():
            return _moment(name, kind, field, None if found is None else found.reading, nullable=nullable)
        case TextField():
            check_text(name, kind)
            tokenizer = _tokenizer(name, field, found)
            return TextCodec(name, kind, tokenizer, max_tokens=field.max_tokens, nullable=nullable)


def with_numbers(kind: pa.DataType) -> pa.DataType:
    """A type that counts rows: whole numbers, or a dictionary's places, of 32 bits where they have fewer.

    >>> with_numbers(pa.int8()), with_numbers(pa.int64())
    (DataType(int32), DataType(int64))
    """
    if types.is_dictionary(kind):
        return pa.dictionary(with_numbers(kind.index_type), kind.value_type, kind.ordered)
    if types.is_int8(kind) or types.is_int16(kind):
        return pa.int32()
    return pa.uint32() if types.is_uint8(kind) or types.is_uint16(kind) else kind


def _number(
    name: str, kind: pa.DataType, field: IntegerField | NumberField, found: Found | None, *, nullable: bool
) -> NumberCodec:
    plain = decoded_type(kind)
    decimals = 0
    if isinstance(field, NumberField) and not types.is_integer(plain):
        known = most_decimals(plain) if types.is_decimal(plain) else None
        decimals = _declared(name, "decimals", known if field.decimals is None else field.decimals)
    elif isinstance(field, NumberField):
        decimals = field.decimals or 0
    if types.is_decimal(plain) and plain.scale < 0:
        decimals = plain.scale
    bounds = [Decimal(str(bound)).scaleb(decimals) for bound in _declared(name, "range", field.range)]
    low, high = math.ceil(bounds[0]), math.floor(bounds[1])
    if low > high:
        raise DataError(f"fields.{name}.range: there is no number of {decimals} decimals in it; widen it")
    frequent, intervals = _cut(low, high, field.bins, found)
    return NumberCodec(
        name,
        kind,
        low,
        high,
        intervals=intervals,
        nullable=nullable,
        decimals=decimals,
        frequent=frequent,
        exact=field.exact,
        whole=isinstance(field, IntegerField),
        outside=field.outside,
        reading=None if found is None else found.reading,
    )


def _cut(low: int, high: int, bins: int, found: Found | None) -> tuple[Sequence[int], Intervals]:
    """The values of a range that are tokens of their own, and the parts that the others are in."""
    if high - low < bins and not _is_sparse(low, high, found):
        return (), plan_intervals(low, high, bins)
    # Zero and the ends of the range are often peaks.
    peaks = [value for value in sorted({low, 0, high}) if low <= value <= high]
    if found is None or found.counts is None or not found.counts.sum():
        return peaks, plan_intervals(low, high, bins)
    if (edges := getattr(found, "edges", None)) is not None:
        peaks = sorted({*peaks, *found.frequent})
        return peaks, plan_intervals(low, high, max(bins - len(peaks), LEAST_PARTS), parts_mass(edges, found.counts))
    values, counts = found.values, found.counts
    assert values is not None
    frequent = np.array(found.frequent, np.int64)
    if len(values) <= bins:
        frequent = values[counts >= LEAST_RECORDS]
    rest = np.where(np.isin(values, frequent), 0, counts)
    if not rest.any() or high - low < bins:
        return frequent.tolist(), plan_intervals(low, high, 1)
    parts = max(bins - len(frequent), min(bins, LEAST_PARTS))
    mass, least = counted_mass(values, rest), LEAST_RECORDS / int(rest.sum())
    return frequent.tolist(), plan_intervals(low, high, parts, mass, least)


def _is_sparse(low: int, high: int, found: Found | None) -> bool:
    """Whether most of the values in a range were not found in the records, so that their tokens would be noise."""
    values = None if found is None or getattr(found, "edges", None) is not None else found.values
    return values is not None and 2 * len(values) < high + 1 - low


def _moment(
    name: str, kind: pa.DataType, field: DateField | DatetimeField, reading: pa.DataType | None, *, nullable: bool
) -> MomentCodec:
    plain = decoded_type(kind)
    resolution = "day"
    if isinstance(field, DatetimeField) and not types.is_date(plain if reading is None else reading):
        known = finest_resolution(plain) if types.is_timestamp(plain) else None
        resolution = _declared(name, "resolution", known if field.resolution is None else field.resolution)
    low, high = (count_steps(bound, resolution) for bound in _declared(name, "range", field.range))
    return MomentCodec(
        name,
        kind,
        low,
        high,
        nullable=nullable,
        resolution=resolution,
        outside=field.outside,
        reading=reading,
        written=field.format,
    )


def _tokenizer(name: str, field: TextField, found: Found | None) -> Tokenizer:
    if field.tokenizer == "byte":
        return ByteTokenizer()
    if field.alphabet is not None:
        return CharTokenizer("".join(dict.fromkeys(field.alphabet)))
    texts = _declared(name, "alphabet", None if found is None else found.texts)
    return train_tokenizer(
        field.tokenizer,
        texts.drop_null().to_pylist(),
        vocab_size=field.vocab_size,
        character_coverage=1.0,
        field_delimiter=None,
        seed=SEED,
    )


def _declared(name: str, key: str, value: Any) -> Any:
    """Raises DataError: it is open."""
    if value is None:
        raise DataError(f"fields.{name}.{key}: it was not looked up in the records; declare it")
    return value
