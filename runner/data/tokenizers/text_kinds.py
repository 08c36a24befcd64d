"""The tokenizers of texts by their kinds: trained on records, or read from their files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from runner.data.tokenizers.base import FORMAT_VERSION, SETTINGS_FILE, Tokenizer
from runner.data.tokenizers.characters import ByteTokenizer, CharTokenizer, char_tokenizer, count_characters
from runner.data.tokenizers.subword import MODEL_FILE, SentencePieceTokenizer, train_sentencepiece
from runner.errors import TokenizerError

Readers: TypeAlias = "Mapping[str, Callable[[Mapping[str, Any], Mapping[str, bytes]], Tokenizer]]"
"""From a kind to what makes its tokenizer of the saved settings and all saved files."""

TEXT_KINDS: Readers = {
    ByteTokenizer.kind: lambda _settings, _files: ByteTokenizer(),
    CharTokenizer.kind: lambda settings, _files: CharTokenizer(settings["characters"]),
    SentencePieceTokenizer.kind: lambda settings, files: SentencePieceTokenizer(
        files[MODEL_FILE], settings["field_delimiter"]
    ),
}


def train_tokenizer(
    kind: str,
    texts: Iterable[str],
    *,
    vocab_size: int,
    character_coverage: float,
    field_delimiter: str | None,
    seed: int,
) -> Tokenizer:
    """A tokenizer of `kind` for these records; the same arguments give the same tokenizer, byte for byte.

    `vocab_size` bounds the number of ids, control tokens included; few records need fewer.
    `character_coverage` (a share, 0 … 1) is how much of the text SentencePiece covers by characters of its
    own; the rest is spelled in bytes. `field_delimiter` and the newline stay tokens of their own there.
    `byte` reads no text, and `char` neither uses the coverage nor the delimiter.

    Raises TokenizerError if the vocabulary is too small, if there is no text, or for an unknown kind.
    """
    match kind:
        case ByteTokenizer.kind:
            return ByteTokenizer()
        case CharTokenizer.kind:
            return char_tokenizer(count_characters(texts), vocab_size)
        case SentencePieceTokenizer.kind:
            model = train_sentencepiece(texts, vocab_size, character_coverage, field_delimiter, seed)
            return SentencePieceTokenizer(model, field_delimiter)
        case _:
            raise TokenizerError(f"there is no tokenizer kind {kind!r}: choose char, byte or sentencepiece")


def read_tokenizer(files: Mapping[str, bytes], kinds: Readers = TEXT_KINDS) -> Tokenizer:
    """The tokenizer that `to_files` wrote; names that are not a tokenizer's are ignored.

    Raises TokenizerError for a missing or damaged file, an unknown kind or an unknown version.
    """
    try:
        settings = json.loads(files[SETTINGS_FILE])
        if settings["version"] != FORMAT_VERSION:
            raise TokenizerError(f"{SETTINGS_FILE} is not of version {FORMAT_VERSION}, the one read here")
        if (kind := settings["kind"]) not in kinds:
            raise TokenizerError(f"{SETTINGS_FILE} names an unknown tokenizer kind {kind!r}")
        tokenizer = kinds[kind](settings, files)
        if tokenizer.vocab_size != settings["vocab_size"]:
            raise TokenizerError(f"{SETTINGS_FILE} and {MODEL_FILE} do not belong together")
    except KeyError as error:
        raise TokenizerError(f"the saved tokenizer lacks {error.args[0]!r}: it is incomplete") from None
    except (ValueError, TypeError):
        raise TokenizerError(f"{SETTINGS_FILE} is damaged: it is not a JSON object of settings") from None
    return tokenizer
