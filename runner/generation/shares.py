"""Shares of values in a generation: how many rows have each, and which.

>>> count_values([0.5, 0.25], 10), count_values([1 / 3] * 3, 10)  # the first of equal remainders
([5, 3], [4, 3, 3])
>>> mix(np.arange(5), 5, seed=0).tolist(), mix(np.arange(2, 4), 5, seed=0).tolist()
([3, 0, 1, 2, 4], [1, 2])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runner.data.splitmix import mix_bits_64

ROUNDS = 6


class ValueShare(NamedTuple):
    """`share` of the rows have `value`, a text, in `column`; None is null."""

    column: str
    value: str | None
    share: float


def count_values(shares: Sequence[float], n: int) -> list[int]:
    """How many of n rows have each value, by largest remainders; the rest, if there is one, counts as one more."""
    parts = [share * n for share in (*shares, max(1 - math.fsum(shares), 0.0))]
    counts = [math.floor(part + 1e-9 * (part > 0)) for part in parts]
    by_remainder = sorted(range(len(parts)), key=lambda place: counts[place] - parts[place])
    for place in by_remainder[: n - sum(counts)]:
        counts[place] += 1
    return counts[:-1]


def mix(rows: NDArray[np.int64], n: int, seed: int) -> NDArray[np.int64]:
    """Other numbers below n for numbers below n, one for each: row by row, however many there are.

    A Feistel network over the next even number of bits (Luby & Rackoff 1988), walked until below n.
    """
    half = np.uint64(max((n - 1).bit_length() + 1, 2) // 2)
    mask = np.uint64((1 << int(half)) - 1)
    keys = np.random.SeedSequence([seed, n]).generate_state(ROUNDS, np.uint64)
    mixed = rows.astype(np.uint64)
    left = np.arange(len(mixed))
    while left.size:
        high, low = mixed[left] >> half, mixed[left] & mask
        for key in keys:
            high, low = low, high ^ (mix_bits_64(low + key) & mask)
        mixed[left] = high << half | low
        left = left[mixed[left] >= n]
    return mixed.astype(np.int64)
