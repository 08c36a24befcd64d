"""Tokenizers: records to token ids and back, under one contract: `decode(encode(text)) == text`.

- `byte`: the 256 bytes of UTF-8. Nothing to train, so it says nothing about the records.
- `char`: the most frequent characters; rarer ones become *unknown* (the contract holds for known ones).
- `sentencepiece`: a unigram model of frequent substrings, the shortest sequences; what it has not seen falls
  back to bytes, so the contract holds for every valid Unicode string.
- `fields`: those of a table, whose records are no texts: see `runner.data.schema`.

>>> tokenizer = ByteTokenizer()
>>> tokenizer.decode([*tokenizer.encode("é,1"), tokenizer.end_id])
'é,1'

Callers append `end_id`; decoding drops it. Saved as JSON, with the SentencePiece model as a file of its own.
Nothing here imports TensorFlow, and sentencepiece is imported only where a SentencePiece tokenizer is used.
"""

from __future__ import annotations

import io
import json
import logging
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runner.errors import TokenizerError

if TYPE_CHECKING:  # It has tokenizers inside.
    from runner.data.schema.slots import Slots

SETTINGS_FILE = "tokenizer.json"
MODEL_FILE = "sentencepiece.model"
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
        """The files, by name, that `from_files` reads back into an equal tokenizer."""
        return {SETTINGS_FILE: self._settings()}

    def _settings(self, **more: object) -> bytes:
        settings = {"version": FORMAT_VERSION, "kind": self.kind, "vocab_size": self.vocab_size, **more}
        return json.dumps(settings, ensure_ascii=False, indent=2).encode() + b"\n"

    def _text_ids(self, ids: Sequence[int] | NDArray[Any]) -> list[int]:
        listed: list[int] = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        return [token for token in listed if token != self.end_id]


class ByteTokenizer(Tokenizer):
    """UTF-8 bytes as ids 0 … 255, and 256 to end a record."""

    kind = "byte"
    vocab_size = 257
    end_id = 256
    unknown_id = None

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_batch(self, texts: Texts) -> Encoded:
        encoded = list(map(str.encode, _listed(texts)))
        tokens = np.frombuffer(b"".join(encoded), np.uint8)
        return tokens.astype(token_dtype(self.vocab_size)), _lengths(encoded)

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
        listed = _listed(texts)
        return self._id_of_code_point[_code_points("".join(listed))], _lengths(listed)

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        return "".join(map(self._text_of_id.__getitem__, self._text_ids(ids)))

    def to_files(self) -> dict[str, bytes]:
        return {SETTINGS_FILE: self._settings(characters=self.characters)}


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model held in memory: one that `train_tokenizer` made, or a user's own.

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
            batch = _listed(texts[start : start + _BATCH_RECORDS])
            if self._escapes and _needs_escape("".join(batch)):
                batch = list(map(_escape, batch))
            encoded: list[list[int]] = self._processor.encode(batch, num_threads=1)
            lengths.append(_lengths(encoded))
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
            model = _train_sentencepiece(texts, vocab_size, character_coverage, field_delimiter, seed)
            return SentencePieceTokenizer(model, field_delimiter)
        case _:
            raise TokenizerError(f"there is no tokenizer kind {kind!r}: choose char, byte or sentencepiece")


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


def from_files(files: Mapping[str, bytes]) -> Tokenizer:
    """The tokenizer that `to_files` wrote; names that are not a tokenizer's are ignored.

    Raises TokenizerError for a missing or damaged file, an unknown kind or an unknown version.
    """
    try:
        settings = json.loads(files[SETTINGS_FILE])
        if settings["version"] != FORMAT_VERSION:
            raise TokenizerError(f"{SETTINGS_FILE} is not of version {FORMAT_VERSION}, the one read here")
        match settings["kind"]:
            case ByteTokenizer.kind:
                tokenizer: Tokenizer = ByteTokenizer()
            case CharTokenizer.kind:
                tokenizer = CharTokenizer(settings["characters"])
            case SentencePieceTokenizer.kind:
                tokenizer = SentencePieceTokenizer(files[MODEL_FILE], settings["field_delimiter"])
            case "fields":
                from runner.data.schema.field_tokenizer import FieldTokenizer  # Its texts have tokenizers of their own.
                from runner.data.schema.schema import Schema

                tokenizer = FieldTokenizer(Schema.from_plain(settings["schema"]))
            case kind:
                raise TokenizerError(f"{SETTINGS_FILE} names an unknown tokenizer kind {kind!r}")
        if tokenizer.vocab_size != settings["vocab_size"]:
            raise TokenizerError(f"{SETTINGS_FILE} and {MODEL_FILE} do not belong together")
    except KeyError as error:
        raise TokenizerError(f"the saved tokenizer lacks {error.args[0]!r}: it is incomplete") from None
    except (ValueError, TypeError):
        raise TokenizerError(f"{SETTINGS_FILE} is damaged: it is not a JSON object of settings") from None
    return tokenizer


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


def _train_sentencepiece(
    texts: Iterable[str], vocab_size: int, character_coverage: float, field_delimiter: str | None, seed: int
) -> bytes:
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


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def _listed(texts: Any) -> list[str]:
    listed: list[str] = texts.to_pylist() if isinstance(texts, (pa.Array, pa.ChunkedArray)) else list(texts)
    if None in listed:
        raise ValueError("null records cannot be encoded: drop them first")
    return listed


def _lengths(records: Sequence[Sized]) -> NDArray[np.int32]:
    return np.fromiter(map(len, records), np.int32, len(records))
