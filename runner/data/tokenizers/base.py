"""Tokenizers: records to token ids and back, under one contract: `decode(encode(text)) == text`.

- `byte`: the 256 bytes of UTF-8. Nothing to train, so it says nothing about the records.
- `char`: the most frequent characters; rarer ones become *unknown* (the contract holds for known ones).
- `sentencepiece`: a unigram model of frequent substrings, the shortest sequences; what it has not seen falls
  back to bytes, so the contract holds for every valid Unicode string.
- `fields`: those of a table, whose records are no texts: see `runner.data.schema`.

Callers append `end_id`; decoding drops it. Saved as JSON, with a SentencePiece model as a file of its own.
Nothing here imports TensorFlow, and sentencepiece is imported only where a SentencePiece tokenizer is used.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence, Sized
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:  # It has tokenizers inside.
    from runner.data.schema.slots import Slots

SETTINGS_FILE = "tokenizer.json"
FORMAT_VERSION = 1

Texts: TypeAlias = "Sequence[str] | pa.Array | pa.ChunkedArray"
"""Records without nulls: a sequence of strings, or an Arrow array of a string type."""

Encoded: TypeAlias = tuple[NDArray[Any], NDArray[np.int32]]
"""All token ids of a batch, flat, (sum of lengths,), and the records' lengths in tokens, (records,)."""


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest of the two stored integer types that holds every id below `vocab_size`.

    >>> token_dtype(65_536), token_dtype(65_537)
    (dtype('uint16'), dtype('int32'))
    """
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.int32)


class Tokenizer(ABC):
    """What every kind offers. Ids are 0 … `vocab_size` - 1, control tokens included."""

    kind: ClassVar[str]
    vocab_size: int
    end_id: int
    """Ends a record. A token of its own: no text encodes to it, newlines included."""
    unknown_id: int | None
    """Stands for what the vocabulary cannot express; None where there is no such thing."""
    slots: Slots | None = None
    """The places of a table's record; None where records are texts."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The token ids of one record, without `end_id`."""

    @abstractmethod
    def encode_batch(self, texts: Texts) -> Encoded:
        """`encode` for many records at once, in `token_dtype(vocab_size)`. Nulls raise ValueError."""

    @abstractmethod
    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """The text of token ids; end ids vanish, bytes that are not UTF-8 become U+FFFD."""

    def decode_batch(self, batch: Sequence[Sequence[int] | NDArray[Any]]) -> list[str]:
        """The texts of many records' token ids."""
        return [self.decode(ids) for ids in batch]

    def to_files(self) -> dict[str, bytes]:
        """The files, by name, that `runner.data.tokenizers.saved.from_files` reads back into an equal tokenizer."""
        return {SETTINGS_FILE: self._settings()}

    def _settings(self, **more: object) -> bytes:
        settings = {"version": FORMAT_VERSION, "kind": self.kind, "vocab_size": self.vocab_size, **more}
        return json.dumps(settings, ensure_ascii=False, indent=2).encode() + b"\n"

    def _text_ids(self, ids: Sequence[int] | NDArray[Any]) -> list[int]:
        listed: list[int] = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        return [token for token in listed if token != self.end_id]


def listed_texts(texts: Any) -> list[str]:
    """As strings of Python's own.

    Raises:
        ValueError: a record is null.
    """
    listed: list[str] = texts.to_pylist() if isinstance(texts, (pa.Array, pa.ChunkedArray)) else list(texts)
    if None in listed:
        raise ValueError("null records cannot be encoded: drop them first")
    return listed


def lengths_of(records: Sequence[Sized]) -> NDArray[np.int32]:
    """(records,)."""
    return np.fromiter(map(len, records), np.int32, len(records))
