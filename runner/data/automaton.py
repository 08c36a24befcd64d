"""What may follow: a deterministic automaton over token ids, as tables that a sampler looks up.

A record is drawn from `start`. In state s only the tokens of `allowed[s]` may be drawn, and token v leads to state
`following[s, v]`. A record is over when its end token is drawn, which is allowed where the record is whole.

>>> twice = Automaton(np.array([[0, 1], [0, 1], [1, 0]], bool), np.array([[0, 1], [0, 2], [2, 2]], np.int32))
>>> twice.walk([1, 1]), twice.walk([1, 0])  # token 1 twice, then token 0, the end
(2, None)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

NEVER = np.iinfo(np.int32).max
"""The number of tokens to an end that cannot be reached."""


@dataclass(frozen=True)
class Automaton:
    """S states over V tokens. `allowed` (S, V); `following` (S, V) int32, any state where a token is not allowed.

    `slots` (S) int32: the slot that is filled next (see `runner.data.schema`), for networks that are told; None where
    there are no slots. `joints` (J) int32: of a record of J - 1 parts, the states in which each begins, and the one in
    which the last is over; None where there are no parts. Only the last token of the part before leads to them.
    """

    allowed: NDArray[np.bool_]
    following: NDArray[np.int32]
    start: int = 0
    slots: NDArray[np.int32] | None = None
    joints: NDArray[np.int32] | None = None

    def walk(self, tokens: Sequence[int]) -> int | None:
        """The state after these tokens; None where one of them is not allowed."""
        state = self.start
        for token in tokens:
            if not self.allowed[state, token]:
                return None
            state = int(self.following[state, token])
        return state

    def routes(self, orders: NDArray[np.int64]) -> NDArray[np.int32]:
        """Ways through the parts, (n, J), in `orders` (n, J - 1) of their numbers: the states that take the places of
        the joints.

        >>> two = Automaton(np.eye(3, dtype=bool), np.eye(3, dtype=np.int32), joints=np.array([0, 1, 2], np.int32))
        >>> two.routes(np.array([[0, 1], [1, 0]])).tolist()  # the second begins in 1, and goes from there to 0
        [[0, 1, 2], [1, 2, 0]]
        """
        assert self.joints is not None
        routes = np.empty((len(orders), len(self.joints)), np.int32)
        places = np.concatenate([np.zeros((len(orders), 1), np.int64), orders + 1], axis=1)
        states = np.concatenate([self.joints[orders], np.full((len(orders), 1), self.joints[-1])], axis=1)
        np.put_along_axis(routes, places, states, axis=1)
        return routes


@dataclass(frozen=True)
class Paths:
    """The records of an automaton whose end token is `end_id`, by how many tokens they take."""

    automaton: Automaton
    end_id: int

    @cached_property
    def distances(self) -> NDArray[np.int32]:
        """(S): the fewest tokens from a state to one in which the record may end; NEVER where none can be reached.

        Breadth first, against the direction of the tokens.
        """
        allowed, following = self.automaton.allowed, self.automaton.following
        states = len(allowed)
        sources, tokens = np.nonzero(allowed)
        steps = tokens != self.end_id
        pairs = np.unique(following[sources[steps], tokens[steps]].astype(np.int64) * states + sources[steps])
        targets, sources = np.divmod(pairs, states)
        starts = np.searchsorted(targets, np.arange(states + 1))
        distances = np.where(allowed[:, self.end_id], 0, NEVER).astype(np.int32)
        reached = np.flatnonzero(distances == 0)
        while reached.size:
            before = np.concatenate([sources[starts[state] : starts[state + 1]] for state in reached])
            before = np.unique(before[distances[before] == NEVER])
            distances[before] = distances[reached[0]] + 1
            reached = before
        return distances

    @cached_property
    def left(self) -> NDArray[np.uint8 | np.int32]:
        """(S, V): the fewest tokens that still follow a token, without the end; the largest of the type where the token
        is not allowed, or no end can be reached behind it."""
        distances = self.distances
        longest = distances.max(where=distances != NEVER, initial=0)
        kind = np.uint8 if longest < np.iinfo(np.uint8).max else np.int32
        distances = np.minimum(distances, np.iinfo(kind).max).astype(kind)
        left = np.where(self.automaton.allowed, distances[self.automaton.following], np.iinfo(kind).max)
        left[:, self.end_id] = np.where(self.automaton.allowed[:, self.end_id], 0, np.iinfo(kind).max)
        return left.astype(kind, copy=False)

    def shortest(self, prompts: Sequence[Sequence[int]] = ((),)) -> NDArray[np.int64]:
        """Tokens of the shortest record that begins with each prompt, without the end; NEVER where none does."""
        lengths = np.array([len(prompt) for prompt in prompts], np.int64)
        ids = np.zeros((len(prompts), lengths.max(initial=0)), np.int64)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt)] = prompt
        states, begun = np.full(len(prompts), self.automaton.start), np.full(len(prompts), True)
        for position, tokens in enumerate(ids.T):
            inside = position < lengths
            begun &= self.automaton.allowed[states, tokens] | ~inside
            states = np.where(inside, self.automaton.following[states, tokens], states)
        distances = self.distances[states]
        return np.where(begun & (distances != NEVER), lengths + distances, NEVER)
