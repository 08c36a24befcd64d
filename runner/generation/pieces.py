"""What the pieces of a SentencePiece model write, asked of SentencePiece itself."""

from __future__ import annotations

from typing import Any, NamedTuple


class Spellings(NamedTuple):
    """The bytes that each piece writes; None: it is no part of a text.

    `first` at the beginning, where models that begin texts with a space of their own drop it again; `second` after one
    that was dropped; `inside` elsewhere.
    """

    first: list[bytes | None]
    second: list[bytes | None]
    inside: list[bytes | None]


def piece_spellings(model: bytes) -> Spellings:
    """The spellings of a model file's pieces, by id."""
    from sentencepiece import SentencePieceProcessor

    processor: Any = SentencePieceProcessor()
    processor.load_from_serialized_proto(model)
    ids = range(processor.get_piece_size())
    is_text = [not (processor.is_control(i) or processor.is_unknown(i) or processor.is_unused(i)) for i in ids]

    def written(before: list[int]) -> list[bytes | None]:
        skipped = len(processor.decode(before)) if before else 0
        texts: list[str] = processor.decode([[*before, token] for token in ids])
        # A byte alone is no text yet.
        return [
            None
            if not is_text[token]
            else bytes([int(processor.id_to_piece(token)[3:-1], 16)])
            if processor.is_byte(token)
            else texts[token][skipped:].encode()
            for token in ids
        ]

    first = written([])
    visible = [token for token in ids if first[token] and not processor.is_byte(token)]
    inside = written(visible[:1])
    dropped = [token for token in ids if first[token] == b"" and inside[token]]
    return Spellings(first, written(dropped[:1]), inside)
