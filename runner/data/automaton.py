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

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Automaton:
    """S states over V tokens. `allowed` (S, V); `following` (S, V) int32, any state where a token is not allowed.

    `slots` (S) int32: the slot that is filled next (see `runner.data.schema`), for networks that are told; None where
    there are no slots.
    """

    allowed: NDArray[np.bool_]
    following: NDArray[np.int32]
    start: int = 0
    slots: NDArray[np.int32] | None = None

    def walk(self, tokens: Sequence[int]) -> int | None:
        """The state after these tokens; None where one of them is not allowed."""
        state = self.start
        for token in tokens:
            if not self.allowed[state, token]:
                return None
            state = int(self.following[state, token])
        return state
