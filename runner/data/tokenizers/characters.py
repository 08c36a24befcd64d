"""Tokens that are bytes, or characters.

>>> tokenizer = ByteTokenizer()
>>> tokenizer.decode([*tokenizer.encode("é,1"), tokenizer.end_id])
'é,1'
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.data.tokenizers.base import SETTINGS_FILE, Encoded, Texts, Tokenizer, lengths_of, listed_texts, token_dtype
from runner.errors import TokenizerError


class ByteTokenizer(Tokenizer):
    """UTF-8 bytes as ids 0 … 255, and 256 to end a record."""

    kind = "byte"
    vocab_size = 257
    end_id = 256
    unknown_id = None

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_batch(self, texts: Texts) -> Encoded:
        encoded = list(map(str.encode, listed_texts(texts)))
        tokens = np.frombuffer(b"".join(encoded), np.uint8)
        return tokens.astype(token_dtype(self.vocab_size)), lengths_of(encoded)

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        return bytes(self._text_ids(ids)).decode(errors="replace")


class CharTokenizer(Tokenizer):
    """Single characters: 0 is unknown, 1 ends a record, 2 … are the distinct `characters` in order."""

    kind = "char"
    unknown_id = 0
    end_id = 1

    def __init__(self, characters: str) -> None:
        self.characters = characters
        self.vocab_size = 2 + len(characters)
        self._id_of_code_point = np.full(0x110000, self.unknown_id, token_dtype(self.vocab_size))
        self._id_of_code_point[_code_points(characters)] = np.arange(2, self.vocab_size)
        self._text_of_id = ["\ufffd", "", *characters]

    def encode(self, text: str) -> list[int]:
        return self._id_of_code_point[_code_points(text)].tolist()

    def encode_batch(self, texts: Texts) -> Encoded:
        listed = listed_texts(texts)
        return self._id_of_code_point[_code_points("".join(listed))], lengths_of(listed)

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        return "".join(map(self._text_of_id.__getitem__, self._text_ids(ids)))

    def to_files(self) -> dict[str, bytes]:
        return {SETTINGS_FILE: self._settings(characters=self.characters)}


def count_characters(texts: Iterable[str]) -> Counter[str]:
    """How often each character occurs. Counts of several files add up: `counts_a + counts_b`."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    return counts


def char_tokenizer(counts: Mapping[str, int], vocab_size: int) -> CharTokenizer:
    """The `vocab_size` - 2 most frequent characters, ties in code point order; 2 ids are control tokens.

    >>> char_tokenizer(count_characters(["abba", "c"]), vocab_size=4).characters
    'ab'
    """
    if not counts:
        raise TokenizerError("there is no text to train on: all records are empty")
    if vocab_size < 3:
        raise TokenizerError(f"tokenizer.vocab_size {vocab_size} is too small: 3 is the smallest that works")
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    return CharTokenizer("".join(ranked[: vocab_size - 2]))


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)
