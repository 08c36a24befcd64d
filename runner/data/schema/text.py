"""Free text: the tokens of a tokenizer of its own, then one that ends the text, all in one slot.

>>> codec = TextCodec("note", pa.string(), ByteTokenizer(), max_tokens=3, nullable=True)
>>> codec.encode(pa.array(["hi", "", None, "hello"])).tolist()  # 256 ends a text, 257 is null
[[104, 105, 256, -1], [256, -1, -1, -1], [257, -1, -1, -1], [104, 101, 108, 256]]
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runner.data.schema.codec import (
    DONE,
    UNUSED,
    Codec,
    Mask,
    Read,
    State,
    Tokens,
    decoded_type,
    null_mask,
    plain_values,
    typed,
    with_room,
)
from runner.data.texts import TEXT, find_invalid, is_string, is_text, to_texts
from runner.data.tokenizers.base import Tokenizer
from runner.data.tokenizers.characters import ByteTokenizer
from runner.data.tokenizers.text_kinds import read_tokenizer
from runner.errors import DataError

CONTINUATION = range(0x80, 0xC0)
PLACES = (0, 1, 2, 3, 0xE0, 0xED, 0xF0, 0xF4)
"""In a character of UTF-8: 0 between two, 1, 2, 3 before so many more bytes of any kind; others behind the bytes E0,
ED, F0 and F4, whose next byte is bounded."""


class TextCodec(Codec):
    """`tokenizer`: of any kind but fields. Texts of more than `max_tokens` are cut."""

    kind = "text"
    outside = "refuse"

    def __init__(self, name: str, kind: pa.DataType, tokenizer: Tokenizer, *, max_tokens: int, nullable: bool) -> None:
        """Raises DataError: the type has no texts."""
        self.name, self.type, self.nullable = name, with_room(kind, 2**31 - 1), nullable
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        check_text(name, kind)
        self.slots = (tokenizer.vocab_size + nullable,)

    @property
    def longest(self) -> int:
        return self.max_tokens + 1

    @property
    def coarse_slots(self) -> tuple[int, ...]:
        """None: a character says nothing of a text."""
        return ()

    def read(self, column: pa.Array) -> Read:
        texts = to_texts(plain_values(column))
        null = null_mask(texts)
        return Read(texts, null, find_invalid(texts) if _may_be_broken(column.type) else np.zeros(len(texts), bool))

    def to_tokens(self, read: Read, null: Mask) -> Tokens:
        texts = read.values.fill_null("")
        flat, lengths = self.tokenizer.encode_batch(texts)
        kept = np.minimum(lengths, self.max_tokens)
        if isinstance(self.tokenizer, ByteTokenizer):
            kept = _whole_characters(flat, lengths, kept)
        width = int(kept.max(initial=0)) + 1
        places = np.arange(width)[None, :]
        tokens = np.full((len(texts), width), UNUSED, np.int32)
        starts = np.cumsum(lengths) - lengths
        inside = places < kept[:, None]
        tokens[inside] = flat[(starts[:, None] + places)[inside]]
        tokens[np.arange(len(texts)), kept] = self.tokenizer.end_id
        if self.nullable:
            tokens[null, 0] = self.null_token
        return tokens

    def decode(self, tokens: Tokens | None, rows: NDArray[np.int64], seed: int = 0) -> pa.Array:  # noqa: ARG002
        assert tokens is not None
        ended = np.cumsum(tokens == self.tokenizer.end_id, axis=1) > 0
        inside = (tokens >= 0) & ~ended
        null = tokens[:, 0] == UNUSED
        if self.nullable:
            null |= tokens[:, 0] == self.null_token
            inside &= tokens != self.null_token
        flat, counts = tokens[inside], inside.sum(axis=1)
        texts = self.tokenizer.decode_batch(np.split(flat, np.cumsum(counts)[:-1])) if len(tokens) else []
        return typed(pa.array(texts, TEXT, mask=null), self.type)

    def states(self) -> tuple[State, ...]:
        """One for each number of tokens and place in a character."""
        allowed, needed, leads = self._steps()
        here, states, total = [0], list[State](), 1
        for count in range(self.max_tokens + 1):
            left = self.max_tokens - count
            fits = [allowed[place] & (needed[place] < left) for place in here]
            there = sorted({int(place) for row, place in zip(fits, here, strict=True) for place in leads[place][row]})
            numbers = np.zeros(len(PLACES), np.int32)
            numbers[there] = total + np.arange(len(there))
            for may_follow, place in zip(fits, here, strict=True):
                following = np.where(may_follow, numbers[leads[place]], DONE).astype(np.int32)
                if place == 0:
                    may_follow[self.tokenizer.end_id] = True
                    if count == 0 and self.nullable:
                        may_follow[self.null_token] = True
                states.append(State(0, may_follow, following))
            here, total = there, total + len(there)
        return tuple(states)

    def _steps(self) -> tuple[Mask, NDArray[np.int32], NDArray[np.int32]]:
        """For each place and token, (places, size of the slot): whether it may follow, how many more tokens its
        character needs, and the place that it leads to. The end of a text is not among them."""
        shape = (len(PLACES), self.slots[0])
        allowed, needed, leads = np.zeros(shape, bool), np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        if not isinstance(self.tokenizer, ByteTokenizer):
            never = {self.tokenizer.end_id, self.tokenizer.unknown_id}
            allowed[0, [token for token in range(self.tokenizer.vocab_size) if token not in never]] = True
            return allowed, needed, leads
        for number, place in enumerate(PLACES):
            for token, (rest, more) in _bytes_after(place).items():
                allowed[number, token], needed[number, token], leads[number, token] = True, more, PLACES.index(rest)
        return allowed, needed, leads

    def range_words(self) -> str:
        return "valid UTF-8"

    def to_plain(self) -> dict[str, Any]:
        files = {name: base64.b64encode(content).decode() for name, content in self.tokenizer.to_files().items()}
        return {
            "kind": self.kind,
            "name": self.name,
            "tokenizer": files,
            "max_tokens": self.max_tokens,
            "nullable": self.nullable,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], kind: pa.DataType) -> TextCodec:
        files = {name: base64.b64decode(content) for name, content in plain["tokenizer"].items()}
        return cls(
            plain["name"], kind, read_tokenizer(files), max_tokens=plain["max_tokens"], nullable=plain["nullable"]
        )


def check_text(name: str, kind: pa.DataType) -> None:
    """Raises DataError: the type has no texts."""
    if not is_text(decoded_type(kind)) or isinstance(decoded_type(kind), pa.UuidType):
        raise DataError(f"column {name} is {kind}, which is no text; take another kind for it")


def _bytes_after(place: int) -> dict[int, tuple[int, int]]:
    """Bytes that may follow in UTF-8 (Unicode 15, table 3-7), each with the place that it leads to, and how many more
    bytes its character needs.
    """
    if place == 0:
        ascii_bytes = dict.fromkeys(range(0x80), (0, 0))
        two = dict.fromkeys(range(0xC2, 0xE0), (1, 1))
        three = dict.fromkeys(range(0xE0, 0xF0), (2, 2)) | {0xE0: (0xE0, 2), 0xED: (0xED, 2)}
        four = dict.fromkeys(range(0xF0, 0xF5), (3, 3)) | {0xF0: (0xF0, 3), 0xF4: (0xF4, 3)}
        return ascii_bytes | two | three | four
    bounded = {0xE0: (0xA0, 0xC0, 1), 0xED: (0x80, 0xA0, 1), 0xF0: (0x90, 0xC0, 2), 0xF4: (0x80, 0x90, 2)}
    first, end, rest = bounded.get(place, (CONTINUATION.start, CONTINUATION.stop, place - 1))
    return dict.fromkeys(range(first, end), (rest, rest))


def _whole_characters(flat: NDArray[Any], lengths: NDArray[Any], kept: NDArray[Any]) -> NDArray[Any]:
    """How many bytes of each text are kept, such that none ends inside a character."""
    starts = np.cumsum(lengths) - lengths
    kept = kept.copy()
    for _ in range(3):
        cut = np.flatnonzero(kept < lengths)
        following = flat[starts[cut] + kept[cut]]
        kept[cut[(following >= CONTINUATION.start) & (following < CONTINUATION.stop)]] -= 1
    return kept


def _may_be_broken(kind: pa.DataType) -> bool:
    return not is_string(decoded_type(kind))
