"""How a tokenizer writes: the symbols of texts and of its tokens, and an automaton over symbols as one over tokens.

A `char` tokenizer writes characters that it knows; the others write UTF-8, as tokens of one or more bytes. Only whole
characters are written: no walk decodes to U+FFFD for bytes that are none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.data.automaton import Automaton
from runner.data.tokenizers.base import Tokenizer
from runner.data.tokenizers.characters import ByteTokenizer, CharTokenizer
from runner.data.tokenizers.subword import SentencePieceTokenizer
from runner.generation.language import CODE_POINTS, DEAD, CharacterLanguage, Language, check_size, useful_states
from runner.generation.pieces import piece_spellings

_SURROGATES = slice(0xD800, 0xE000)
_PADDED = 5 << 18
"""Code points of five first bytes: those of F4 are not all there."""


class Alphabet(ABC):
    """The symbols that a tokenizer's texts are made of."""

    size: int

    @abstractmethod
    def spell(self, text: str) -> list[int] | None:
        """A text's symbols; None where the tokenizer cannot write it."""

    @abstractmethod
    def spell_language(self, language: CharacterLanguage) -> Language:
        """The texts of the language that can be written, trimmed."""


class Characters(Alphabet):
    """The characters of a `char` tokenizer, in its order."""

    def __init__(self, characters: str) -> None:
        self.size = len(characters)
        self._codes = np.array(list(map(ord, characters)), np.int64)
        self._number = {character: number for number, character in enumerate(characters)}

    def spell(self, text: str) -> list[int] | None:
        return [self._number[character] for character in text] if self._number.keys() >= set(text) else None

    def spell_language(self, language: CharacterLanguage) -> Language:
        check_size(len(language.final), self.size)
        kinds = language.kind[np.searchsorted(language.first, self._codes, "right") - 1]
        return Language(language.following[:, kinds], language.final).trimmed()


class Utf8(Alphabet):
    """Bytes. `escapes`: characters that are written as several others (see `SentencePieceTokenizer.escapes`)."""

    size = 256

    def __init__(self, escapes: dict[str, str]) -> None:
        self._escapes = escapes

    def spell(self, text: str) -> list[int] | None:
        try:
            return list(text.translate(str.maketrans(self._escapes)).encode())
        except UnicodeEncodeError:  # half of a surrogate pair
            return None

    def spell_language(self, language: CharacterLanguage) -> Language:
        """A character's bytes lead through states of their own, which characters with the same ends share."""
        tree = _ByteTree(language)
        kinds = np.full(_PADDED, tree.dead)
        kinds[:CODE_POINTS] = np.repeat(language.kind, np.diff(language.first, append=CODE_POINTS))
        kinds[_SURROGATES] = tree.dead
        if self._escapes:
            after = {ord(escaped[1]): kinds[ord(character)] for character, escaped in self._escapes.items()}
            kinds[list(map(ord, self._escapes))] = tree.dead
            escape = np.full((1, 256), tree.dead)
            escape[0, list(after)] = list(after.values())
            (first,) = {escaped[0] for escaped in self._escapes.values()}
            kinds[ord(first)] = len(tree.targets)
            tree.targets = np.concatenate([tree.targets, tree.add(escape, tree.targets, 0)])
        return tree.language(kinds, language.final)


class _ByteTree:
    """Collects the states between characters' first bytes and the states that they lead to.

    `targets` (C, S): where each class of characters leads from each state; `dead` is a class that leads nowhere.
    """

    def __init__(self, language: CharacterLanguage) -> None:
        self.dead = language.following.shape[1]
        self.targets = np.pad(language.following.T, ((0, 1), (0, 0)), constant_values=DEAD)
        self._count = len(language.final)
        self._rows: list[NDArray[np.int32]] = []

    def add(self, kinds: NDArray[Any], targets: NDArray[np.int32], first_byte: int) -> NDArray[np.int32]:
        """For each row of `kinds` (N, bytes) and each of the S states, the state from which a byte leads to the
        `targets` (K, S) of its kind; equal ones are one. (N, S)."""
        added = np.full((len(kinds), targets.shape[1]), DEAD, np.int32)
        is_live: NDArray[np.bool_] = np.any(targets >= 0, axis=1)
        for number in np.flatnonzero(np.any(is_live[kinds], axis=1)):
            own, place = np.unique(kinds[number], return_inverse=True)
            leads = targets[own]  # (own, S)
            alive = np.flatnonzero((leads >= 0).any(axis=0))
            distinct, group = np.unique(leads[:, alive], axis=1, return_inverse=True)
            rows = np.full((distinct.shape[1], 256), DEAD, np.int32)
            rows[:, first_byte : first_byte + kinds.shape[1]] = distinct[place.ravel()].T
            added[number, alive] = self._count + group.ravel()
            self._count += len(rows)
            check_size(self._count, 256)
            self._rows.append(rows)
        return added

    def language(self, kinds: NDArray[np.int64], final: NDArray[np.bool_]) -> Language:
        """All states, with `kinds` (code points) the class of each (RFC 3629, section 3)."""
        # A byte behind the first stands for 64 code points, or for 64 times what the next one stands for.
        two, by_64 = _distinct_rows(kinds.reshape(-1, 64))
        leads_of_two = by_64[2:32].copy()
        by_64[:32] = by_64[-1]  # Shorter sequences hold these.
        three, by_4096 = _distinct_rows(by_64.reshape(-1, 64))
        leads_of_three = by_4096[:16].copy()
        by_4096[:16] = by_4096[-1]
        targets_of_two = self.add(two, self.targets, 0x80)
        targets_of_three = self.add(three, targets_of_two, 0x80)
        start = np.full((256, len(final)), DEAD, np.int32)
        start[:0x80] = self.targets[kinds[:0x80]]
        start[0xC2:0xE0] = targets_of_two[leads_of_two]
        start[0xE0:0xF0] = targets_of_three[leads_of_three]
        start[0xF0:0xF5] = self.add(by_4096.reshape(-1, 64), targets_of_three, 0x80)
        following = np.concatenate([start.T, *self._rows])
        return Language(following, np.pad(final, (0, len(following) - len(final)))).trimmed()


def _distinct_rows(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows that differ, and the number of each row among them."""
    is_new = np.append(True, (rows[1:] != rows[:-1]).any(axis=1))  # Most are like the one before.
    numbers: dict[bytes, int] = {}
    kinds = np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in rows[is_new]])
    return np.frombuffer(b"".join(numbers), rows.dtype).reshape(-1, rows.shape[1]), kinds[np.cumsum(is_new) - 1]


def alphabet_of(tokenizer: Tokenizer) -> Alphabet:
    match tokenizer:
        case CharTokenizer():
            return Characters(tokenizer.characters)
        case SentencePieceTokenizer():
            return Utf8(tokenizer.escapes)
        case ByteTokenizer():
            return Utf8({})
        case _:
            raise TypeError(f"no text is written with {tokenizer.kind}")


def over_tokens(language: Language, tokenizer: Tokenizer) -> Automaton:
    """The automaton whose walks decode to the texts of a language: with all ways to write them, and no others."""
    if isinstance(tokenizer, SentencePieceTokenizer):
        starts, spellings = _with_first_pieces(language, tokenizer)
    else:
        symbols = range(language.following.shape[1])
        first = tokenizer.vocab_size - len(symbols) if isinstance(tokenizer, CharTokenizer) else 0
        starts, spellings = language, [(np.arange(language.states), [(first + one, [one]) for one in symbols])]
    sources, tokens, targets = _token_edges(starts, spellings)
    kept = useful_states(sources, targets, starts.final)
    number = np.full(starts.states, DEAD, np.int32)
    number[kept] = np.arange(len(kept))
    whole = (number[sources] >= 0) & (number[targets] >= 0)
    sources, tokens, targets = number[sources[whole]], tokens[whole], number[targets[whole]]
    allowed = np.zeros((len(kept), tokenizer.vocab_size), bool)
    following = np.zeros(allowed.shape, np.int32)
    allowed[sources, tokens] = True
    following[sources, tokens] = targets
    allowed[:, tokenizer.end_id] = starts.final[kept]
    return Automaton(allowed, following)


_Spellings = list[tuple[NDArray[Any], list[tuple[int, list[int]]]]]
"""States, and the tokens that may be written in them, each with its symbols."""


def _with_first_pieces(language: Language, tokenizer: SentencePieceTokenizer) -> tuple[Language, _Spellings]:
    """Models that begin texts with a space of their own drop it again: at first, tokens write less than later on."""
    pieces = piece_spellings(tokenizer.model)
    ordinary = _written(pieces.inside)
    if pieces.first == pieces.inside:
        return language, [(np.arange(language.states), ordinary)]
    # State 0 becomes the start; state 1 follows a space that is dropped.
    following = np.concatenate([language.following[[0, 0]], language.following])
    following = np.where(following >= 0, following + 2, DEAD).astype(np.int32)
    dropped = [(token, []) for token, text in enumerate(pieces.first) if text == b"" and pieces.inside[token]]
    doubled = Language(following, np.concatenate([language.final[[0, 0]], language.final]))
    states = np.arange(doubled.states)
    return doubled, [
        (states[2:], ordinary),
        (states[:1], _written(pieces.first)),
        (states[:1], dropped),
        (states[1:2], _written(pieces.second)),
    ]


def _written(spellings: Sequence[bytes | None]) -> list[tuple[int, list[int]]]:
    return [(token, list(text)) for token, text in enumerate(spellings) if text]


def _token_edges(language: Language, spellings: _Spellings) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Source, token and target of every token that leads from a state to one that is not dead."""
    by_symbol = np.ascontiguousarray(language.following.T)
    edges: list[tuple[NDArray[Any], int, NDArray[Any]]] = []
    for states, tokens in spellings:
        # Tokens that begin alike are neighbours: what is written first is looked up once.
        steps: list[tuple[int, NDArray[Any], NDArray[Any]]] = []
        for token, symbols in sorted(tokens, key=lambda each: each[1]):
            shared = 0
            while shared < min(len(steps), len(symbols)) and steps[shared][0] == symbols[shared]:
                shared += 1
            del steps[shared:]
            for symbol in symbols[shared:]:
                sources, targets = steps[-1][1:] if steps else (states, states)
                targets = by_symbol[symbol, targets]
                alive = targets >= 0
                steps.append((symbol, sources[alive], targets[alive]))
            if symbols:
                edges.append((steps[-1][1], token, steps[-1][2]))
            else:
                edges.append((states, token, states + 1))
    sources = np.concatenate([each[0] for each in edges])
    tokens = np.repeat([each[1] for each in edges], [len(each[0]) for each in edges])
    return sources, tokens, np.concatenate([each[2] for each in edges])
