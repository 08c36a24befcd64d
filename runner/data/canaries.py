"""Canaries: made-up records that join the training of a private run, so that what it leaks can be measured.

They have the positions behind all examples. A canary that is out is an empty record in its place, the neighbor that
the privacy claim speaks of: a private step trains on nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from runner.data.automaton import Automaton
from runner.data.examples import Examples

SEED = 0x63616E61
"""What the canaries are is public; which of them are in is not."""
MOST_TOKENS = 32
"""Of a text."""


class WithCanaries(Examples):
    """Examples with canaries behind them: `rows` with the ids of each, `is_in` (m,) which are there."""

    def __init__(self, examples: Examples, rows: Sequence[NDArray[np.integer]], is_in: NDArray[np.bool_]) -> None:
        self.tokens = examples.tokens
        self._examples = examples
        empty = np.full(2, self.tokens.end_id, np.int32)
        self._canaries = [row if there else empty for row, there in zip(rows, is_in.tolist(), strict=True)]
        lengths = np.array([row.size - 1 for row in self._canaries], np.int32)
        self.lengths = np.concatenate([examples.lengths, lengths])

    def rows(self, positions: NDArray[np.int64]) -> list[NDArray[np.integer]]:
        first = self._examples.lengths.size
        real = iter(self._examples.rows(positions[positions < first]))
        return [next(real) if place < first else self._canaries[place - first] for place in positions.tolist()]

    @property
    def canary_positions(self) -> NDArray[np.int64]:
        """(m,)."""
        return self._examples.lengths.size + np.arange(len(self._canaries))


def random_texts(count: int, vocab_size: int, end_id: int, seq_length: int) -> list[NDArray[np.int32]]:
    """Ids of `count` examples: every token but the end with the same probability, which no text looks like."""
    tokens = _generator().integers(0, vocab_size - 1, (count, min(seq_length, MOST_TOKENS)), np.int32)
    tokens += tokens >= end_id
    rows = np.concatenate([np.full((count, 1), end_id, np.int32), tokens], axis=1)
    return list(rows)


def random_rows(count: int, automaton: Automaton, end_id: int, seq_length: int) -> list[NDArray[np.int32]]:
    """Ids of `count` rows of a table: of the tokens that may follow, each with the same probability."""
    generator, rows = _generator(), []
    for _ in range(count):
        row, state = [end_id], automaton.start
        while len(row) <= seq_length:
            token = int(generator.choice(np.flatnonzero(automaton.allowed[state])))
            row.append(token)
            if token == end_id:
                break
            state = int(automaton.following[state, token])
        rows.append(np.array(row, np.int32))
    return rows


def _generator() -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[SEED, 0]))
