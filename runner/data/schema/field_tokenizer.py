"""Tables to token ids and back: the fields' tokens side by side, and what may follow what.

    tokenizer = FieldTokenizer(schema)
    flat, lengths = tokenizer.encode_batch(records)           # records: pa.StructArray
    records = tokenizer.decode_batch(np.split(flat, np.cumsum(lengths)[:-1]))
    tokenizer.automaton()                                     # a field's tokens behind those of the one before

Id 0 ends a record; then the ids of each slot of each field, in the schema's order. A record's fields are decoded in
whatever order they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runner.data.automaton import Automaton
from runner.data.schema.codec import DONE, UNUSED, Codec, Tokens
from runner.data.schema.schema import Schema, columns_of
from runner.data.schema.slots import Slots
from runner.data.schema.text import TextCodec
from runner.data.tokenizers.base import SETTINGS_FILE, Encoded, Tokenizer, token_dtype
from runner.errors import DataError

Ids = Sequence[int] | NDArray[Any]


class FieldTokenizer(Tokenizer):
    """Records are the rows of a `pa.StructArray` with the learned fields of the schema, others are not looked at."""

    kind = "fields"
    end_id = 0
    unknown_id = None

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        sizes, fields = [1], [-1]
        self._first_slot: dict[str, int] = {}
        for number, codec in enumerate(schema.codecs):
            self._first_slot[codec.name] = len(sizes)
            sizes += codec.slots
            fields += [number] * len(codec.slots)
        slots = Slots(tuple(sizes), tuple(fields))
        self.slots, self._sizes = slots, slots.sizes
        self.vocab_size = slots.vocab_size
        self._starts = np.cumsum([0, *sizes[:-1]], dtype=np.int32)
        self._slot_of = slots.of_tokens()
        self._learned = {codec.name: codec for codec in schema.codecs if codec.slots}

    @property
    def record_tokens(self) -> int:
        """The most tokens that a record takes, its end not counted."""
        return sum(codec.longest for codec in self._learned.values())

    def encode(self, text: Any) -> list[int]:
        """The ids of one record, given as values by name."""
        record = pa.array([{name: text.get(name) for name in self._learned}], pa.struct(list(self.schema.learned)))
        return self.encode_batch(record)[0].tolist()

    def encode_batch(self, texts: Any) -> Encoded:
        """Of `pa.StructArray` records.

        Raises:
            DataError: a column misses, or has values that the schema refuses.
        """
        return self.encode_fields(texts, tuple(self._learned))

    def encode_fields(self, records: pa.StructArray, names: Sequence[str]) -> Encoded:
        """The ids of some fields, in this order."""
        if records.null_count:
            raise ValueError("null records cannot be encoded: drop them first")
        columns = columns_of(records)
        parts: list[Tokens] = [np.zeros((len(records), 0), np.int32)]
        for name in names:
            if name not in columns:
                raise DataError(f"fields.{name}: the records have no such column; they have {', '.join(columns)}")
            tokens = self._learned[name].encode(columns[name])
            parts.append(np.where(tokens == UNUSED, UNUSED, tokens + self._starts_of(self._learned[name])))
        ids = np.concatenate(parts, axis=1)
        used = ids != UNUSED
        return ids[used].astype(token_dtype(self.vocab_size)), used.sum(axis=1, dtype=np.int32)

    def decode(self, ids: Ids) -> Any:
        """One record as values by name."""
        return self.decode_batch([ids])[0].as_py()

    def decode_batch(self, batch: Any, rows: NDArray[np.int64] | None = None, seed: int = 0) -> Any:
        """A `pa.StructArray` of the schema's columns, null where a record has no token of a field.

        rows: the records' numbers, (records,); by default 0, 1, 2 ... What is not learned is a function of them and
        `seed`.
        """
        count = len(batch)
        lengths = np.fromiter(map(len, batch), np.int64, count)
        flat = np.fromiter(chain.from_iterable(batch), np.int64, int(lengths.sum()))
        slot, row = self._slot_of[flat], np.repeat(np.arange(count), lengths)
        local = (flat - self._starts[slot]).astype(np.int32)
        by_slot = np.full((count, len(self._sizes)), UNUSED, np.int32)
        by_slot[row, slot] = local
        numbers = np.arange(count) if rows is None else np.asarray(rows, np.int64)
        columns: dict[str, pa.Array] = {}
        out = self.schema.arrow
        for codec in self.schema.codecs:
            if codec.name not in out.names:
                continue
            tokens: Tokens | None = None
            first = self._first_slot[codec.name]
            if isinstance(codec, TextCodec):
                inside = slot == first
                tokens = _side_by_side(local[inside], row[inside], count)
            elif codec.slots:
                tokens = by_slot[:, first : first + len(codec.slots)]
            columns[codec.name] = codec.decode(tokens, numbers, seed)
        return pa.StructArray.from_arrays([columns[name] for name in out.names], fields=list(out))

    def text_tokens(self) -> NDArray[np.bool_]:
        """(V,): which ids are of texts."""
        is_text = [isinstance(codec, TextCodec) for codec in self.schema.codecs]
        assert self.slots is not None
        return np.array([*is_text, False])[self.slots.fields_of_tokens()]  # The end's field is -1.

    def automaton(self) -> Automaton:
        """Which ids may follow: the fields in the schema's order, each a part, then the end."""
        parts = [(codec, codec.states()) for codec in self._learned.values()]
        total = sum(len(states) for _, states in parts) + 1
        allowed = np.zeros((total, self.vocab_size), bool)
        following = np.zeros((total, self.vocab_size), np.int32)
        slots = np.zeros(total, np.int32)
        joints = [0]
        for codec, states in parts:
            base = joints[-1]
            after = base + len(states)
            for number, state in enumerate(states, base):
                slot = self._first_slot[codec.name] + state.slot
                ids = self.ids_of_slot(slot)
                allowed[number, ids] = state.allowed
                following[number, ids] = np.where(state.following == DONE, after, base + state.following)
                slots[number] = slot
            joints.append(after)
        allowed[joints[-1], self.end_id], following[joints[-1], self.end_id] = True, joints[-1]
        return Automaton(allowed, following, slots=slots, joints=np.array(joints, np.int32))

    def ids_of_slot(self, slot: int) -> slice:
        """The ids of a slot, by its number in `slots`."""
        return slice(int(self._starts[slot]), int(self._starts[slot]) + self._sizes[slot])

    def first_ids(self, name: str) -> slice:
        """The ids that a field may begin with."""
        return self.ids_of_slot(self._first_slot[name])

    def to_files(self) -> dict[str, bytes]:
        return {SETTINGS_FILE: self._settings(schema=self.schema.to_plain())}

    def _starts_of(self, codec: Codec) -> NDArray[np.int32]:
        """What is added to each column of a codec's tokens."""
        first = self._first_slot[codec.name]
        return self._starts[first : first + len(codec.slots)]


def _side_by_side(tokens: Tokens, row: NDArray[np.int64], count: int) -> Tokens:
    """The tokens of each row one after another, (count, most of a row). `row` (n,) ascending: whose each is."""
    counts = np.bincount(row, minlength=count)
    place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    laid = np.full((count, max(int(counts.max(initial=0)), 1)), UNUSED, np.int32)
    laid[row, place] = tokens
    return laid
