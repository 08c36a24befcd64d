"""Tokens that are frequent substrings: SentencePiece's unigram model, trained here or a user's own."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.data.tokenizers.base import SETTINGS_FILE, Encoded, Texts, Tokenizer, lengths_of, listed_texts, token_dtype
from runner.errors import TokenizerError

MODEL_FILE = "sentencepiece.model"


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model held in memory: one that `train_sentencepiece` made, or a user's own.

    SentencePiece writes a space as U+2581 and reads U+2581 back as a space, and in training it drops records
    with U+2585. So both, and the escape character U+2582 itself, are escaped on the way in and restored on
    the way out; only records that hold one of the three pay for it.
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes, field_delimiter: str | None) -> None:
        """`model`: the bytes of a SentencePiece model file; anything else raises TokenizerError."""
        from sentencepiece import SentencePieceProcessor

        self.model = model
        self.field_delimiter = field_delimiter
        self._processor: Any = SentencePieceProcessor()
        try:
            self._processor.load_from_serialized_proto(model)
        except RuntimeError:
            raise TokenizerError("the SentencePiece model is damaged or not a SentencePiece model") from None
        pieces: int = self._processor.get_piece_size()
        end_id: int = self._processor.eos_id()
        self.unknown_id = self._processor.unk_id()
        self.end_id = end_id if end_id >= 0 else pieces
        self.vocab_size = max(pieces, self.end_id + 1)
        # A user's model without byte fallback may not know the escape character: then escaping only harms.
        self._escapes = self._processor.decode(self._processor.encode(_ESCAPE)) == _ESCAPE

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(_escape(text) if self._escapes else text)

    def encode_batch(self, texts: Texts) -> Encoded:
        dtype = token_dtype(self.vocab_size)
        tokens, lengths = [np.empty(0, dtype)], [np.empty(0, np.int32)]
        for start in range(0, len(texts), _BATCH_RECORDS):
            batch = listed_texts(texts[start : start + _BATCH_RECORDS])
            if self._escapes and _needs_escape("".join(batch)):
                batch = list(map(_escape, batch))
            encoded: list[list[int]] = self._processor.encode(batch, num_threads=1)
            lengths.append(lengths_of(encoded))
            tokens.append(np.fromiter(chain.from_iterable(encoded), dtype, int(lengths[-1].sum())))
        return np.concatenate(tokens), np.concatenate(lengths)

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        return self.decode_batch([ids])[0]

    def decode_batch(self, batch: Sequence[Sequence[int] | NDArray[Any]]) -> list[str]:
        if len(batch) == 0:
            return []
        texts: list[str] = self._processor.decode([self._text_ids(ids) for ids in batch], num_threads=1)
        return list(map(_unescape, texts)) if self._escapes else texts

    def to_files(self) -> dict[str, bytes]:
        return {SETTINGS_FILE: self._settings(field_delimiter=self.field_delimiter), MODEL_FILE: self.model}

    @property
    def escapes(self) -> dict[str, str]:
        """How the characters are written that SentencePiece keeps for itself."""
        return dict(_CODES) if self._escapes else {}


def from_sentencepiece_model(model: bytes, field_delimiter: str | None) -> SentencePieceTokenizer:
    """A user's own SentencePiece model (`tokenizer.uri`) as a tokenizer.

    Its end token ends a record; a model without one gets an extra id behind its last. What such a model
    would change in the records (by normalization, a dummy prefix, characters it does not know) is logged as
    one warning. Raises TokenizerError if the bytes are not a SentencePiece model.
    """
    tokenizer = SentencePieceTokenizer(model, field_delimiter)
    probes = _PROBES | ({"the field delimiter": f"a{field_delimiter}b"} if field_delimiter else {})
    changed = [what for what, probe in probes.items() if tokenizer.decode(tokenizer.encode(probe)) != probe]
    if changed:
        logging.getLogger(__name__).warning(
            "the SentencePiece model changes %s, and generated records will show it; one trained with "
            "byte_fallback=true, normalization_rule_name=identity, add_dummy_prefix=false, "
            "remove_extra_whitespaces=false and a space in its alphabet changes nothing",
            ", ".join(changed),
        )
    return tokenizer


_PROBES = {
    "letters and digits": "Ab 0123456789",
    "leading, trailing or repeated spaces": "  a  b  ",
    "newlines": "a\nb",
    "tabs": "a\tb",
    "compatibility characters": "\ufb01 \u00bd \uff21",
    "characters outside its alphabet": "\u6f22\U0001f642",
}
_BATCH_RECORDS = 1024  # per call of SentencePiece: its lists of ids stay in the processor's cache

_SPACE, _RESERVED, _ESCAPE = "\u2581", "\u2585", "\u2582"
_CODES = {_SPACE: f"{_ESCAPE}1", _RESERVED: f"{_ESCAPE}5", _ESCAPE: f"{_ESCAPE}2"}
_CHARACTERS = {code: character for character, code in _CODES.items()}
_CODE = re.compile(f"{_ESCAPE}[125]")


def _needs_escape(text: str) -> bool:
    return _SPACE in text or _RESERVED in text or _ESCAPE in text


def _escape(text: str) -> str:
    return text.translate(str.maketrans(_CODES)) if _needs_escape(text) else text


def _unescape(text: str) -> str:
    return _CODE.sub(lambda code: _CHARACTERS[code[0]], text) if _ESCAPE in text else text


LEAST_COVERAGE = 0.98
"""What SentencePiece takes."""


def check_coverage(character_coverage: float) -> None:
    """Raise TokenizerError for a share of the characters that SentencePiece does not take."""
    if character_coverage < LEAST_COVERAGE:
        raise TokenizerError(
            f"tokenizer.character_coverage {character_coverage:g} is too low: SentencePiece takes {LEAST_COVERAGE:g} "
            "or more"
        )


_TRAINING_THREADS = 16  # part of the result (the order of sums), so the same on every machine
_TRAINING_CHARACTERS = 1000  # longer texts are cut: training time is quadratic in a text's length


def train_sentencepiece(
    texts: Iterable[str], vocab_size: int, character_coverage: float, field_delimiter: str | None, seed: int
) -> bytes:
    """A SentencePiece model of these texts, as the bytes of its file.

    Raises:
        TokenizerError: there is too little text, or the vocabulary is too small.
    """
    import sentencepiece

    check_coverage(character_coverage)
    symbols = _user_symbols(field_delimiter)
    model = io.BytesIO()
    sentencepiece.set_random_generator_seed(seed)
    trainer: Any = sentencepiece.SentencePieceTrainer
    try:
        trainer.train(
            sentence_iterator=_training_texts(texts),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=character_coverage,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            # A space is spelled U+2581 inside, and as that character's bytes it would not come back.
            required_chars="" if _SPACE in symbols else _SPACE,
            user_defined_symbols=symbols,
            eos_id=1,
            bos_id=-1,
            unk_surface="\ufffd",
            num_threads=_TRAINING_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        if too_small := re.search(r"required_chars\. \d+ vs (\d+)", str(error)):
            raise TokenizerError(
                f"tokenizer.vocab_size {vocab_size} is too small: the records' characters, 256 bytes and "
                f"control tokens need {too_small[1]}; use that or more, or let rare characters be bytes with a lower "
                f"tokenizer.character_coverage, {LEAST_COVERAGE:g} at the least"
            ) from None
        if any(sign in str(error) for sign in ("sentences_.empty()", "seed_sentencepieces.empty()", "all_chars_count")):
            raise TokenizerError("there is no text to train on: all records are empty or delimiters") from None
        if "no pieces are loaded" in str(error):
            raise TokenizerError(
                "there is too little text to train SentencePiece on; use tokenizer.kind char or byte"
            ) from None
        raise TokenizerError(f"SentencePiece cannot train on these records: {error}") from error
    return model.getvalue()


def _training_texts(texts: Iterable[str]) -> Iterator[str]:
    for escaped in map(_escape, texts):
        for start in range(0, len(escaped), _TRAINING_CHARACTERS):
            yield escaped[start : start + _TRAINING_CHARACTERS]


def _user_symbols(field_delimiter: str | None) -> list[str]:
    """The newline and the delimiter as SentencePiece spells them."""
    if re.search(r"^(<unk>|</s>|<0x[0-9A-F]{2}>)$|\0", field_delimiter or ""):
        raise TokenizerError(f"data.field_delimiter {field_delimiter!r} is reserved: choose another one")
    delimiter = _escape(field_delimiter or "\n").replace(" ", _SPACE)
    return ["\n"] if delimiter == "\n" else [delimiter, "\n"]
