"""What every kind of field offers: its values to tokens of its own, and back.

A codec's tokens are local: each slot's count from 0. `FieldTokenizer` puts the codecs' slots side by side.
"""

# pyarrow.compute makes its functions when it is imported, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import base64
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types

from runner.data.schema.moment_texts import plain_moments
from runner.data.schema.reading import is_missing
from runner.data.schema.values import from_texts
from runner.data.splitmix import GOLDEN_GAMMA, mix_bits_64
from runner.data.texts import TEXT, NoTextError, is_text, to_texts
from runner.errors import DataError

DONE = -1
"""Where a token leads that ends its field."""
UNUSED = -1
"""Stands in `Tokens` where a value has no token."""

Tokens: TypeAlias = NDArray[np.int32]
"""Of n values: (n, width), local tokens, `UNUSED` where a value has none. Column j is slot j, but for texts, which have
their tokens one after another."""
Mask: TypeAlias = NDArray[np.bool_]


class Read(NamedTuple):
    """A column's values, whatever a codec reads them as, (n,); which are null, and which the schema does not have."""

    values: Any
    null: Mask
    strange: Mask


@dataclass(frozen=True)
class State:
    """A place inside a field: which of a slot's tokens may follow, and where each leads.

    `slot`: local number. `allowed` (size of the slot,) bool. `following` (size of the slot,): the number of the
    field's state that a token leads to, DONE where the field is whole.
    """

    slot: int
    allowed: Mask
    following: NDArray[np.int32]


class Codec(ABC):
    """One field. `slots`: the sizes of its slots; none for a field that is not learned.

    The first slot's last token is null, where the field may be null. `longest`: the most tokens that a value takes.
    `outside`: what becomes of values that the schema does not have.
    """

    kind: str
    name: str
    type: pa.DataType
    nullable: bool
    outside: str
    slots: tuple[int, ...]

    @property
    def longest(self) -> int:
        return len(self.slots)

    @property
    def null_token(self) -> int:
        """In the first slot."""
        return self.slots[0] - 1

    def encode(self, column: pa.Array) -> Tokens:
        """Raises DataError for values that are outside the schema, where the schema refuses those."""
        read = self.read(column)
        null = read.null | read.strange if self.outside == "null" else read.null
        refused = read.strange if self.outside == "refuse" else np.zeros_like(null)
        if not self.nullable:
            refused = refused | null
        if refused.any():
            raise DataError(self._refusal(column, refused, read))
        return self.to_tokens(read, null)

    def count_strange(self, column: pa.Array) -> int:
        """Values that the schema does not have, nulls among them where it has none."""
        read = self.read(column)
        return int((read.strange if self.nullable else read.strange | read.null).sum())

    def rewritten(self, column: pa.Array) -> pa.Array:
        """A column's values as generated ones are written: of numbers that texts write as 0.0 and as 0, both as 0, and
        null for an empty text where one stands for no value."""
        return column

    @property
    def coarse_slots(self) -> tuple[int, ...]:
        """The slots that say most of a value, each on its own: those that are counted with other fields' together."""
        return (0,)

    def slot_name(self, slot: int) -> str:
        """What a slot is called, the field's name first."""
        return self.name if slot == 0 else f"{self.name}.{slot}"

    def order(self, slot: int) -> NDArray[np.float64] | None:  # noqa: ARG002 (of most fields)
        """(size of a coarse slot,): a number for each token, tokens with near numbers are alike; NaN for one that is
        like no other, such as null. None: the slot has no order."""
        return None

    @abstractmethod
    def read(self, column: pa.Array) -> Read:
        """The values of a column of the field's type."""

    @abstractmethod
    def to_tokens(self, read: Read, null: Mask) -> Tokens:
        """Tokens of values that are inside the schema, or that `outside` brings inside."""

    @abstractmethod
    def decode(self, tokens: Tokens | None, rows: NDArray[np.int64], seed: int = 0) -> pa.Array:
        """Values of the field's type; null for a row without tokens. `tokens`: None for a field that is not learned.

        rows: numbers, (n,); what is not learned is a function of the number and the seed.
        """

    @abstractmethod
    def states(self) -> tuple[State, ...]:
        """The field's part of the automaton; it begins in the first."""

    @abstractmethod
    def range_words(self) -> str:
        """What the schema has, in words that follow "outside"."""

    @abstractmethod
    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON, all but the type; `kind` and `name` say what for."""

    @classmethod
    @abstractmethod
    def from_plain(cls, plain: Mapping[str, Any], kind: pa.DataType) -> Codec:
        """What `to_plain` wrote, of a field of this type."""

    def _refusal(self, column: pa.Array, refused: Mask, read: Read) -> str:
        where, count = f"column {self.name}", int(refused.sum())
        key = f"fields.{self.name}"
        if not (strange := refused & read.strange).any():
            return f"{where}: {_many(count)} null, but {key}.nullable is false"
        example = plain_values(column.slice(int(strange.argmax()), 1))
        shown = to_texts(example).cast(pa.large_binary())[0].as_py().decode(errors="backslashreplace")
        how = "; change that" if self.outside != "refuse" else f"; change that, or say in {key}.outside what to do"
        return f"{where}: {_many(count)} outside {self.range_words()}, such as {shown!r:.200}{how}"


def _many(count: int) -> str:
    return f"{count:,} values are" if count > 1 else "a value is"


def trace_states(
    sizes: tuple[int, ...], start: Hashable, expand: Callable[[Any], tuple[int, dict[int, Any]]]
) -> tuple[State, ...]:
    """The states that can be reached from `start`. `sizes`: those of the slots.

    expand: from the key of a state to its slot and, for each token that is allowed, the key of the next state, or DONE.
    """
    numbers: dict[Hashable, int] = {start: 0}
    queue: list[Hashable] = [start]
    states: list[State] = []
    for key in queue:  # Grows on the way.
        slot, following = expand(key)
        allowed = np.zeros(sizes[slot], bool)
        leads = np.zeros(sizes[slot], np.int32)
        for token, after in following.items():
            allowed[token] = True
            if after == DONE:
                leads[token] = DONE
                continue
            if after not in numbers:
                numbers[after] = len(queue)
                queue.append(after)
            leads[token] = numbers[after]
        states.append(State(slot, allowed, leads))
    return tuple(states)


def null_mask(column: pa.Array) -> Mask:
    """Which values are null."""
    return column.is_null().to_numpy(zero_copy_only=False)


def decoded_type(kind: pa.DataType) -> pa.DataType:
    """The type of a dictionary's values, and other types as they are."""
    return kind.value_type if types.is_dictionary(kind) else kind


def plain_values(column: pa.Array) -> pa.Array:
    """A column without a dictionary."""
    return take(column.dictionary, column.indices) if types.is_dictionary(column.type) else column


def take(values: pa.Array, places: pa.Array) -> pa.Array:
    """Values by their places, null for null. Arrow itself takes none of views."""
    kind = values.type
    if not (types.is_string_view(kind) or types.is_binary_view(kind)):
        return values.take(places)
    return values.cast(pa.large_string() if types.is_string_view(kind) else pa.large_binary()).take(places).cast(kind)


def reading_type(kind: pa.DataType, written: pa.DataType) -> pa.DataType:
    """The plain type as which a column's values are read: its own, but of texts the one that they are written as."""
    plain = decoded_type(kind)
    return written if is_text(plain) and not types.is_null(plain) else plain


def type_text(kind: pa.DataType) -> str:
    """A type as a text of JSON, in Arrow's own form."""
    return base64.b64encode(pa.schema([pa.field("", kind)]).serialize()).decode()


def type_of(text: str) -> pa.DataType:
    """The type that `type_text` wrote."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text))).field(0).type


def with_room(kind: pa.DataType, values: int) -> pa.DataType:
    """The type, with indices that count so many values where it is one of dictionaries."""
    if types.is_dictionary(kind) and values - 1 > np.iinfo(kind.index_type.to_pandas_dtype()).max:
        return pa.dictionary(pa.int64(), kind.value_type, kind.ordered)
    return kind


def typed(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Plain values as a type, which may be one of dictionaries, or of texts."""
    plain = decoded_type(kind)
    if types.is_null(plain):
        return pa.nulls(len(values), kind)
    if is_text(plain) and not is_text(values.type):
        values = to_texts(values)
    if not types.is_dictionary(kind):
        return values.cast(plain)
    return from_texts(to_texts(values.cast(plain)), kind)  # Of many types Arrow itself makes no dictionaries.


def texts_of(column: pa.Array, name: str) -> pa.Array:
    """The texts of categories; zero has one. Raises DataError: values that have no text."""
    if types.is_floating(kind := column.type):
        wide = column.cast(pa.float32()) if types.is_float16(kind) else column  # Of halves Arrow makes no sums.
        column = pc.add(wide, pa.scalar(0.0, wide.type)).cast(kind)
    try:
        return to_texts(column)
    except NoTextError as error:
        raise DataError(f"column {name} {error}") from None


def draw_bits(name: str, rows: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """64 bits for each row, (n,), a function of the field's name, the row's number and the seed (SplitMix64)."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return mix_bits_64(rows.astype(np.uint64) * GOLDEN_GAMMA + np.uint64(int.from_bytes(digest[:8], "little")))


def read_as(column: pa.Array, kind: pa.DataType, written: str | None = None) -> tuple[pa.Array, Mask]:
    """A column's values as a plain type that texts are written as, and which texts are no such value: null then.

    Texts for a missing value are null, such as an empty one. `written`: the format of dates and moments.
    """
    values = plain_values(column)
    if not is_text(values.type) or is_text(kind):
        return values, np.zeros(len(column), bool)
    texts = pc.utf8_trim_whitespace(to_texts(values))
    if (missing := is_missing(texts)).any():
        texts = pc.if_else(pa.array(missing), pa.scalar(None, texts.type), texts)
    filled = ~null_mask(texts)
    texts = plain_moments(texts, written)
    if types.is_integer(kind):  # pandas writes whole numbers with nulls as 2010.0.
        texts = pc.replace_substring_regex(texts, r"^(-?[0-9]+)\.0+$", r"\1")
    try:
        values = texts.cast(kind)
        return values, null_mask(values) & filled
    except pa.ArrowException:
        distinct = texts.dictionary_encode()
        read = pa.chunked_array([_read_one(text, kind) for text in distinct.dictionary], kind).combine_chunks()
        values = read.take(distinct.indices)
        return values, null_mask(values) & filled


def _read_one(text: pa.Scalar, kind: pa.DataType) -> pa.Array:
    try:
        return pa.array([text.as_py()], TEXT).cast(kind)
    except pa.ArrowException:
        return pa.nulls(1, kind)
