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
from pyarrow import types

from runner.data.schema.codec import (
    DONE,
    UNUSED,
    Codec,
    Mask,
    Read,
    State,
    Tokens,
    null_mask,
    plain_type,
    plain_values,
    trace_states,
    typed,
)
from runner.data.texts import TEXT, is_text, to_texts
from runner.data.tokenizer import ByteTokenizer, Tokenizer, from_files
from runner.errors import DataError

CONTINUATION = range(0x80, 0xC0)


class TextCodec(Codec):
    """`tokenizer`: of any kind but fields. Texts of more than `max_tokens` are cut."""

    kind = "text"
    outside = "refuse"

    def __init__(self, name: str, kind: pa.DataType, tokenizer: Tokenizer, *, max_tokens: int, nullable: bool) -> None:
        """Raises DataError: the type has no texts."""
        self.name, self.type, self.nullable = name, kind, nullable
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        if not is_text(plain_type(kind)) or isinstance(plain_type(kind), pa.UuidType):
            raise DataError(f"column {name} is {kind}, which is no text; take another kind for it")
        self.slots = (tokenizer.vocab_size + nullable,)

    @property
    def longest(self) -> int:
        return self.max_tokens + 1

    def read(self, column: pa.Array) -> Read:
        texts = to_texts(plain_values(column))
        null = null_mask(texts)
        return Read(texts, null, _not_utf8(texts) if _may_be_broken(column.type) else np.zeros(len(texts), bool))

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
        return trace_states(self.slots, (0, 0), self._follow)

    def _follow(self, key: Any) -> tuple[int, dict[int, Any]]:
        """A key: how many tokens there are, and where in a character of UTF-8 it is: see `_bytes_after`."""
        count, place = key
        after: dict[int, Any] = {}
        if place == 0:
            after[self.tokenizer.end_id] = DONE
            if count == 0 and self.nullable:
                after[self.null_token] = DONE
        if count == self.max_tokens:
            return 0, after
        if isinstance(self.tokenizer, ByteTokenizer):
            left = self.max_tokens - count
            for token, (rest, needed) in _bytes_after(place).items():
                if needed < left:
                    after[token] = (count + 1, rest)
        else:
            for token in range(self.tokenizer.vocab_size):
                if token not in (self.tokenizer.end_id, self.tokenizer.unknown_id):
                    after[token] = (count + 1, 0)
        return 0, after

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
        return cls(plain["name"], kind, from_files(files), max_tokens=plain["max_tokens"], nullable=plain["nullable"])


def _bytes_after(place: int) -> dict[int, tuple[int, int]]:
    """Bytes that may follow in UTF-8 (Unicode 15, table 3-7), each with the place that it leads to, and how many more
    bytes its character needs.

    Places: 0 between characters; 1, 2, 3: so many more bytes of any kind; others behind E0, ED, F0 and F4, whose second
    byte is bounded.
    """
    if place == 0:
        ascii_bytes = dict.fromkeys(range(128), (0, 0))
        two = dict.fromkeys(range(194, 224), (1, 1))
        three = dict.fromkeys(range(224, 240), (2, 2)) | {0xE0: (0xE0, 2), 0xED: (0xED, 2)}
        four = dict.fromkeys(range(240, 245), (3, 3)) | {0xF0: (0xF0, 3), 0xF4: (0xF4, 3)}
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
    plain = plain_type(kind)
    return not (types.is_string(plain) or types.is_large_string(plain) or types.is_string_view(plain))


def _not_utf8(texts: pa.Array) -> Mask:
    """Which texts are no UTF-8, (n,)."""
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        return np.array([not _is_utf8(each) for each in texts.cast(pa.large_binary()).to_pylist()], bool)
    return np.zeros(len(texts), bool)


def _is_utf8(content: bytes | None) -> bool:
    try:
        (content or b"").decode()
    except UnicodeDecodeError:
        return False
    return True
