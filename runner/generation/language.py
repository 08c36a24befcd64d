"""Sets of texts as deterministic automata: over classes of characters as rules are read, then over an alphabet's
symbols.

A rule says which characters may follow: `CharacterLanguage`, with few classes of the 1,114,112 code points. A tokenizer
writes symbols: the characters that it knows, or the bytes of UTF-8 (see `runner.generation.alphabet`), which makes it a
`Language`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

DEAD = -1
"""Where no text of the language goes on. As an index it is the last row: see `Language.after`."""

CODE_POINTS = 0x110000
MOST_STATES = 15_000
"""Of one rule: a larger one is left to the validator."""
MOST_SYMBOLS = 1 << 21
"""Of all allowed values of a column together."""
MOST_ENTRIES = 1 << 25
"""Of a table of states: a sampler needs 20 bytes for each."""

State = TypeVar("State", bound=Hashable)


class TooLargeError(Exception):
    """An automaton that is not worth its memory and time."""


def check_size(states: int, symbols: int) -> None:
    """Raise TooLargeError for a table that is too large."""
    if states * symbols > MOST_ENTRIES:
        raise TooLargeError(f"more than {MOST_ENTRIES // symbols:,} states")


@dataclass(frozen=True)
class CharacterLanguage:
    """S states over C classes of characters; state 0 is the start.

    `first` (K) ascending from 0: the first code point of each interval, of class `kind` (K). `following` (S, C), DEAD
    where no text goes on. `final` (S): where a text may end.
    """

    first: NDArray[np.int64]
    kind: NDArray[np.int64]
    following: NDArray[np.int32]
    final: NDArray[np.bool_]


@dataclass(frozen=True)
class Language:
    """S states over A symbols; state 0 is the start. `following` (S, A), DEAD where no text goes on; `final` (S)."""

    following: NDArray[np.int32]
    final: NDArray[np.bool_]

    @property
    def states(self) -> int:
        return len(self.final)

    @property
    def is_empty(self) -> bool:
        """Whether there is no text in it. Only of a trimmed language."""
        return not self.final.any()

    def after(self, symbols: Iterable[int], states: NDArray[np.int32] | None = None) -> NDArray[np.int32]:
        """The states after these symbols, from `states`, by default the start alone."""
        states = np.zeros(1, np.int32) if states is None else states
        for symbol in symbols:
            states = np.where(states >= 0, self.following[states, symbol], DEAD).astype(np.int32)
        return states

    def trimmed(self) -> Language:
        """Without the states that no text comes by; of an empty language the start alone is left."""
        sources, _ = np.nonzero(self.following >= 0)
        kept = useful_states(sources, self.following[self.following >= 0], self.final)
        number = np.full(self.states + 1, DEAD, np.int32)  # The last is DEAD's own.
        number[kept] = np.arange(len(kept))
        return Language(number[self.following[kept]], self.final[kept])


def useful_states(
    sources: NDArray[np.integer], targets: NDArray[np.integer], final: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The states on a way from state 0 to a final one, ascending; state 0 always."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order

    count = len(final)
    ends = np.flatnonzero(final)
    sources, targets = np.concatenate([sources, ends]), np.concatenate([targets, np.full(len(ends), count)])
    edges = csr_array((np.ones(len(sources), np.int8), (sources, targets)), shape=(count + 1, count + 1))
    edges.sum_duplicates()
    edges.data[:] = 1  # Summed as int8, they might be 0.
    useful = np.zeros((2, count + 1), bool)
    useful[0, breadth_first_order(edges, 0, return_predecessors=False)] = True
    useful[1, breadth_first_order(edges.T.tocsr(), count, return_predecessors=False)] = True
    useful[:, 0] = True
    return np.flatnonzero(np.all(useful[:, :count], axis=0))


def explore(
    start: State,
    step: Callable[[State], Sequence[State | None]],
    is_final: Callable[[State], bool],
    most: int = MOST_STATES,
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """All states that are reached from `start`, as `following` and `final`; `step` has a state for each class.

    Raises:
        TooLargeError: there are more than `most`.
    """
    numbers: dict[State, int] = {start: 0}
    found = [start]
    rows: list[list[int]] = []
    for state in found:  # It grows meanwhile.
        row: list[int] = []
        for target in step(state):
            if target is None:
                row.append(DEAD)
                continue
            if target not in numbers:
                numbers[target] = len(found)
                found.append(target)
            row.append(numbers[target])
        rows.append(row)
        if len(found) > most:
            raise TooLargeError(f"more than {most:,} states")
    return np.array(rows, np.int32), np.array([is_final(state) for state in found], bool)


def any_text() -> CharacterLanguage:
    """All texts."""
    zero = np.zeros(1, np.int64)
    return CharacterLanguage(zero, zero, np.zeros((1, 1), np.int32), np.ones(1, bool))


def language_of(texts: Iterable[Sequence[int]], symbols: int) -> Language:
    """These texts, each as its symbols: the smallest automaton (Daciuk et al. 2000, for sorted input).

    Raises:
        TooLargeError: they are too long together.
    """
    ordered = sorted({tuple(text) for text in texts})
    if sum(map(len, ordered)) > MOST_SYMBOLS:
        raise TooLargeError(f"more than {MOST_SYMBOLS:,} characters")
    numbers: dict[tuple[bool, tuple[tuple[int, int], ...]], int] = {}
    path: list[tuple[bool, dict[int, int]]] = [(False, {})]  # states whose texts are not all known yet
    before: tuple[int, ...] = ()

    def close(depth: int) -> None:
        while len(path) - 1 > depth:
            is_final, edges = path.pop()
            path[-1][1][before[len(path) - 1]] = numbers.setdefault((is_final, tuple(edges.items())), len(numbers))

    for text in ordered:
        shared = next((place for place, (a, b) in enumerate(zip(before, text, strict=False)) if a != b), len(before))
        close(shared)
        path += [(False, {}) for _ in text[shared:]]
        path[-1] = (True, path[-1][1])
        before = text
    close(0)
    # The start comes first.
    states = [(path[0][0], tuple(path[0][1].items())), *numbers]
    check_size(len(states), symbols)
    following = np.full((len(states), symbols), DEAD, np.int32)
    for state, (_, edges) in enumerate(states):
        for symbol, target in edges:
            following[state, symbol] = target + 1
    return Language(following, np.array([is_final for is_final, _ in states]))


def intersect(a: Language, b: Language) -> Language:
    """The texts of both.

    Raises:
        TooLargeError: there are too many pairs of states.
    """
    if a.states * b.states > MOST_ENTRIES:
        raise TooLargeError(f"more than {MOST_ENTRIES:,} pairs of states")
    number = np.full(a.states * b.states + 1, DEAD, np.int32)  # of pairs; the last is DEAD's own
    number[0] = 0
    frontier, found, rows = np.zeros(1, np.int64), [np.zeros(1, np.int64)], []
    count = 1
    while len(frontier):
        of_a, of_b = a.following[frontier // b.states], b.following[frontier % b.states]
        pairs = np.where((of_a >= 0) & (of_b >= 0), of_a.astype(np.int64) * b.states + of_b, DEAD)
        rows.append(pairs)
        frontier = np.unique(pairs)
        frontier = frontier[(frontier >= 0) & (number[frontier] < 0)]
        number[frontier] = np.arange(count, count + len(frontier))
        count += len(frontier)
        check_size(count, a.following.shape[1])
        found.append(frontier)
    order = np.concatenate(found)
    final = a.final[order // b.states] & b.final[order % b.states]
    return Language(number[np.concatenate(rows)], final).trimmed()


def join(fields: Sequence[Language], delimiter: Sequence[int]) -> Language:
    """The records whose text, split at the delimiter, has these fields: exactly as many, each in its language.

    A state knows how much of the delimiter was just written (Knuth, Morris & Pratt 1977), and where the field was
    before that: of `x|||1`, split at `||`, the first field is `x`.
    """
    size = len(delimiter)
    starts = np.cumsum([0, *(size * field.states for field in fields)])
    parts: list[NDArray[np.int32]] = []
    final = np.zeros(starts[-1], bool)
    for place, field in enumerate(fields):
        is_last = place == len(fields) - 1
        start, states = int(starts[place]), np.arange(field.states, dtype=np.int32)
        padded = np.concatenate([field.following, np.full((1, field.following.shape[1]), DEAD, np.int32)])
        for written in range(size):
            here = field.after(delimiter[:written], states)
            rows = np.where(padded[here] >= 0, padded[here] + start, DEAD).astype(np.int32)
            for symbol in set(delimiter):
                text = (*delimiter[:written], symbol)
                left = _overlap(text, delimiter)
                if left == size:
                    rows[:, symbol] = DEAD if is_last else np.where(field.final, starts[place + 1], DEAD)
                elif left:
                    target = field.after(text[: len(text) - left], states)
                    rows[:, symbol] = np.where(target >= 0, start + left * field.states + target, DEAD)
            parts.append(rows)
            if is_last:
                final[start + written * field.states + states] = (here >= 0) & field.final[here]
    return Language(np.concatenate(parts), final).trimmed()


def _overlap(text: Sequence[int], delimiter: Sequence[int]) -> int:
    """How long the longest end of `text` is that `delimiter` begins with."""
    return next(
        length for length in range(len(text), -1, -1) if tuple(text[len(text) - length :]) == tuple(delimiter[:length])
    )
