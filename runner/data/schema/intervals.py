"""Intervals of a decimal tree: where the range of a number is cut, and the digits that are left inside a part.

>>> plan_intervals(17, 90, bins=8, mass=None)
Intervals(starts=array([ 0, 20, 30, 40, 50, 60, 70, 80]), widths=array([20, 10, 10, 10, 10, 10, 10, 20]))

A part is 1, 2 or 5 times a power of ten wide and starts at a multiple of its width, so what follows inside is the
number's own decimal digits: peaks at round numbers stay where they are.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from runner.config.fields import LARGEST_UNITS

Mass: TypeAlias = Callable[[int, int], float]
"""The share of the records in [low, high)."""

FINE_FROM = 4
"""A part of 10^k that holds so many times what it should is cut into five, others into two."""
MAGNITUDES = 1000
"""Without data, numbers over so many times the least part count as equally likely by magnitude, too."""


class Intervals(NamedTuple):
    """Side by side, in order: `starts` (n,), `widths` (n,) int64."""

    starts: NDArray[np.int64]
    widths: NDArray[np.int64]


def plan_intervals(low: int, high: int, bins: int, mass: Mass | None = None, least: float = 0.0) -> Intervals:
    """About `bins` parts that cover [low, high], none with much more than 1/bins of the mass.

    A part is cut into two or five, the one with the most first. Without `mass`, which comes from the records, half of
    it is spread evenly and half by magnitude, as for amounts of money. A part of no more than `least` is not cut: where
    it is would tell where a few records are.
    """
    if high - low < bins:
        values = np.arange(low, high + 1, dtype=np.int64)
        return Intervals(values, np.ones_like(values))
    share = mass or spread_mass(low, high)
    queue: list[tuple[float, int, int]] = []

    def put(start: int, width: int) -> None:
        first, last = max(start, low), min(start + width, high + 1)
        if first < last:
            # Of two with as much, the wider one; a single value cannot be cut.
            heapq.heappush(queue, (-share(first, last) if width > 1 else 0.0, -width, start))

    width = 1
    while width <= high - low and width < LARGEST_UNITS:
        width *= 10
    for start in range(low // width * width, high + 1, width):
        put(start, width)
    while len(queue) < bins and -queue[0][0] > max(1 / bins, least):
        held, wide, start = heapq.heappop(queue)
        width = -wide
        if is_power_of_ten(width):
            part = width // 5 if -held * bins >= FINE_FROM else width // 2
        else:
            part = width // int(str(width)[0])
        for first in range(start, start + width, part):
            put(first, part)
    parts = sorted((start, -wide) for _, wide, start in queue)
    return Intervals(np.array([start for start, _ in parts], np.int64), np.array([wide for _, wide in parts], np.int64))


def spread_mass(low: int, high: int) -> Mass:
    """What is assumed of a range of which nothing is known: half evenly, half by magnitude."""
    whole = high + 1 - low
    if whole < abs(low) / MAGNITUDES:  # All of one magnitude.
        return lambda first, last: (last - first) / whole
    least = max(whole / MAGNITUDES, 1.0)

    def magnitude(value: int) -> float:
        return math.asinh(value / least)

    magnitudes = magnitude(high + 1) - magnitude(low)
    return lambda first, last: 0.5 * ((last - first) / whole + (magnitude(last) - magnitude(first)) / magnitudes)


def counted_mass(values: NDArray[np.int64], counts: NDArray[np.int64]) -> Mass:
    """The mass of counted values: `values` (n,) distinct and ascending, `counts` (n,) their weights."""
    below = np.concatenate([[0.0], np.cumsum(counts, dtype=np.float64)])
    below /= below[-1]
    return lambda first, last: float(below[values.searchsorted(last)] - below[values.searchsorted(first)])


def parts_mass(edges: NDArray[np.int64], counts: NDArray[np.int64]) -> Mass:
    """The mass of a histogram: `counts` (n,) in [edges[i], edges[i + 1]), of `edges` (n + 1,), evenly inside each.

    >>> mass = parts_mass(np.array([0, 10, 20]), np.array([3, 1]))
    >>> mass(0, 10), mass(5, 15), mass(15, 100)
    (0.75, 0.5, 0.125)
    """
    below = np.concatenate([[0.0], np.cumsum(counts, dtype=np.float64)])
    below /= below[-1]
    return lambda first, last: float(np.interp(last, edges, below) - np.interp(first, edges, below))


def is_power_of_ten(width: int) -> bool:
    """
    >>> is_power_of_ten(100), is_power_of_ten(20)
    (True, False)
    """
    return str(width).rstrip("0") == "1"
