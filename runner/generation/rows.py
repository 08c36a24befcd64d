"""Drawn token ids to the rows of a table: of records that are texts, and of those of a table.

    rows = make_rows(model, validator, seed=0)
    for record in rows.read(batch, first_draw=0, numbers=numbers):   # of each draw
        record.text, record.check()                                  # a text that no other record has; its verdict
    rows.to_table([record, ...], first=0, numbers=numbers)           # those that are kept

What a table's schema does not learn is a function of the seed and of a number: digits that are drawn evenly of the
number of the draw, so that they are checked as they will be; what names a row of its number in the whole output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runner.data.schema import Codec, Schema
from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.data.texts import row_texts, to_texts, without_views
from runner.data.tokenizers.base import Tokenizer
from runner.errors import ConfigError
from runner.generation.conditions import Conditions
from runner.generation.validators import Validator, Verdict
from runner.model.artifact import ModelDescription


@dataclass(frozen=True)
class Record:
    """A draw. `text`: what tells it from other records. `place`: among all draws that were read."""

    text: str
    place: int
    check: Callable[[], Verdict]


class Rows(Protocol):
    """Reads draws, and makes a table of those that are kept."""

    def read(self, batch: Sequence[Sequence[int]], first_draw: int, numbers: Sequence[int]) -> list[Record]:
        """The records of draws, whose numbers begin at `first_draw`; `numbers`: of their conditions."""
        ...

    def to_table(self, kept: Sequence[Record], first: int, numbers: Sequence[int]) -> pa.Table:
        """Records that were read; `first`: the number of the first one in the whole output."""
        ...


def make_rows(model: ModelDescription, validator: Validator, seed: int, conditions: Conditions | None = None) -> Rows:
    """Rows of the model's kind, for one call of `RecordMaker.make`."""
    if isinstance(model.tokenizer, FieldTokenizer):
        return TableRows(model.tokenizer, validator, seed, conditions)
    return TextRows(model.tokenizer, validator)


def table_schema(model: ModelDescription) -> Schema | None:
    """That of a model of a table; None of a model of texts."""
    return model.tokenizer.schema if isinstance(model.tokenizer, FieldTokenizer) else None


def learned_schema(model: ModelDescription) -> pa.Schema | None:
    """Of a model of a table: the columns that it learned, which tell rows apart. None of a model of texts."""
    schema = table_schema(model)
    return None if schema is None else schema.learned


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> pa.Table:
    """A table of strings."""
    values = list(zip(*rows, strict=True)) or [()] * len(columns)
    return pa.table({name: pa.array(column, pa.string()) for name, column in zip(columns, values, strict=True)})


class TextRows:
    """Records that are texts. They are split into fields when they are checked."""

    def __init__(self, tokenizer: Tokenizer, validator: Validator) -> None:
        self._tokenizer = tokenizer
        self._validator = validator

    def read(self, batch: Sequence[Sequence[int]], first_draw: int, numbers: Sequence[int]) -> list[Record]:  # noqa: ARG002
        texts = self._tokenizer.decode_batch(batch)
        return [Record(text, first_draw + i, partial(self._validator.check, text)) for i, text in enumerate(texts)]

    def to_table(self, kept: Sequence[Record], first: int, numbers: Sequence[int]) -> pa.Table:  # noqa: ARG002
        return text_table(self._validator.columns, [self._validator.split(record.text) for record in kept])


class TableRows:
    """Records of a table. All that were read are held until it is made."""

    def __init__(
        self, tokenizer: FieldTokenizer, validator: Validator, seed: int, conditions: Conditions | None
    ) -> None:
        schema = tokenizer.schema
        learned = [
            (codec, nullable) for codec, nullable in zip(schema.codecs, schema.nullable, strict=True) if codec.slots
        ]
        self._schema = schema
        self._learned = FieldTokenizer(Schema(*zip(*learned, strict=True)))  # of the same tokens
        self._validator = validator
        self._seed = seed
        self._conditions = conditions
        self._parts: list[pa.Table] = []
        self._read = 0

    def read(self, batch: Sequence[Sequence[int]], first_draw: int, numbers: Sequence[int]) -> list[Record]:
        draws = np.arange(first_draw, first_draw + len(batch))
        drawn = self._learned.decode_batch(batch, draws, self._seed)
        columns = [
            self._given(column, name, numbers) for name, column in zip(drawn.type.names, drawn.flatten(), strict=True)
        ]
        rows = pa.table(columns, schema=self._schema.learned)
        place = self._read
        self._parts.append(rows)
        self._read += len(batch)
        texts = row_texts(rows.columns).to_pylist()
        return [Record(text, place + i, partial(self._check, rows, i)) for i, text in enumerate(texts)]

    def to_table(self, kept: Sequence[Record], first: int, numbers: Sequence[int]) -> pa.Table:
        rows = without_views(pa.concat_tables([self._schema.learned.empty_table(), *self._parts]))
        rows = rows.take(pa.array([record.place for record in kept], pa.int64()))
        places = np.arange(first, first + len(kept))
        made = {codec.name: codec for codec in self._schema.codecs if not codec.slots}
        columns = [
            self._given(self._make(made[name], places), name, numbers) if name in made else rows[name]
            for name in self._schema.arrow.names
        ]
        return pa.table(columns, self._schema.arrow.names).cast(self._schema.arrow)

    def _given(self, column: pa.Array, name: str, numbers: Sequence[int]) -> pa.Array:
        return column if self._conditions is None else self._conditions.put_in(column, name, numbers)

    def _make(self, codec: Codec, numbers: NDArray[np.int64]) -> pa.Array:
        """A column that names the rows, by their numbers in the output."""
        try:
            return codec.decode(None, numbers, self._seed)
        except pa.ArrowException as error:
            raise ConfigError(
                f"fields.{codec.name}: {codec.type} is too small for the numbers of so many records: {error}"
            ) from None

    def _check(self, rows: pa.Table, place: int) -> Verdict:
        """The rules see a null as an empty text."""
        if not self._validator.has_rules:
            return Verdict((), None)
        row = rows.slice(place, 1)
        return self._validator.check_fields(
            tuple(to_texts(column.combine_chunks())[0].as_py() or "" for column in row.columns)
        )
