"""Discrete Gaussian noise, drawn exactly: integers x with probability proportional to exp(-x^2 / (2 sigma^2)).

    >>> noise = draw_discrete_gaussian(sigma=200.0, count=100_000)      # int64
    >>> abs(float(noise.mean())) < 5, 195 < float(noise.std()) < 205
    (True, True)

Canonne, Kamath, Steinke, "The Discrete Gaussian for Differential Privacy" (NeurIPS 2020). No floating point and no
generator of NumPy's is involved, so what is known of noise in floats (Mironov, CCS 2012) has nothing to work on.

Noise is drawn by inversion. A uniform number U in [0, 1) is known by its first bits, which the operating system
gives; the magnitude is the first m with U < P(|X| <= m). The table has bounds of these probabilities, to as many bits
as are known of U; where they do not decide (once in some 2^50 draws), more bits are drawn and a finer table is made.
So every integer has its exact probability, and only how long a draw takes depends on the precision.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runner.errors import PrivacyError

SMALLEST_SIGMA = 0.05
LARGEST_SIGMA = 1e5
"""A table has some 10 entries for each unit of sigma."""
WORD_BITS = 64
GUARD_BITS = 64
"""Bits that a table is computed to beyond those it is used for: they cover what rounding adds up to."""

Source = Callable[[int], bytes]
"""Gives so many random bytes."""


def draw_discrete_gaussian(sigma: float, count: int, source: Source = os.urandom) -> NDArray[np.int64]:
    """`count` independent integers. `sigma`: the parameter, which is about the standard deviation from 0.5 on.

    Raises:
        PrivacyError: sigma is not between `SMALLEST_SIGMA` and `LARGEST_SIGMA`.
    """
    if not SMALLEST_SIGMA <= sigma <= LARGEST_SIGMA:
        raise PrivacyError(
            f"noise of {sigma:g} for a release: it must be between {SMALLEST_SIGMA:g} and {LARGEST_SIGMA:g} records"
        )
    table = _table(Fraction(sigma) ** 2, WORD_BITS)
    below, above = np.array(table.below, np.uint64), np.array(table.above, np.uint64)
    words = np.frombuffer(source(8 * count), "<u8").astype(np.uint64)
    magnitudes = np.searchsorted(above, words, side="left")
    # A word w stands for numbers of [w, w + 1) / 2^64: they are under P(m) for certain where w < below[m], and not
    # under it where w > above[m].
    undecided = magnitudes == len(below)
    undecided |= words >= below[np.minimum(magnitudes, len(below) - 1)]
    for i in np.flatnonzero(undecided).tolist():
        magnitudes[i] = _refine(Fraction(sigma) ** 2, int(words[i]), source)
    signs = np.unpackbits(np.frombuffer(source(-(-count // 8)), np.uint8), count=count)
    return np.where(signs == 1, -magnitudes, magnitudes)


def cumulative_floors(variance: Fraction, bits: int) -> list[int]:
    """P(|X| <= m) x 2^bits for m = 0, 1, ..., each its floor or one less, up to where less than 2^-bits is left."""
    return _table(variance, bits).below


class _Table(NamedTuple):
    """Of P(|X| <= m) x 2^bits for m = 0, 1, ...: what is at most its floor, and what is at least that."""

    below: list[int]
    above: list[int]


@lru_cache(maxsize=8)
def _table(variance: Fraction, bits: int) -> _Table:
    """Up to the m beyond which less than 2^-bits is left. `variance`: sigma^2."""
    precision = bits + GUARD_BITS
    one = 1 << precision
    # w(m) = exp(-m^2 / (2 sigma^2)) by w(m + 1) = w(m) r(m), r(m + 1) = r(m) g, each with bounds on both sides.
    ratio, shrink = _exp_bounds(1 / (2 * variance), precision), _exp_bounds(1 / variance, precision)
    low, high = one, one
    lows, highs = [one], [one]
    total_low, total_high = one, one
    while True:
        low, high = low * ratio[0] >> precision, _up(high * ratio[1], precision)
        ratio = ratio[0] * shrink[0] >> precision, _up(ratio[1] * shrink[1], precision)
        # What is left is at most w(m) + w(m + 1) + ... <= w(m) / (1 - r(m)), by the ratios' falling.
        left = 2 * -(-(high << precision) // (one - ratio[1])) if ratio[1] < one else one
        if left << bits < total_low:
            break
        lows.append(total_low := total_low + 2 * low)
        highs.append(total_high := total_high + 2 * high)
    total_high += left
    return _Table(
        [(partial << bits) // total_high for partial in lows],
        [min((partial << bits) // total_low, (1 << bits) - 1) for partial in highs],
    )


def _refine(variance: Fraction, word: int, source: Source) -> int:
    """The magnitude of a number that begins with `word`, by as many more words as it takes."""
    bits = WORD_BITS
    while True:
        word, bits = word << WORD_BITS | int.from_bytes(source(8), "little"), bits + WORD_BITS
        table = _table(variance, bits)
        for magnitude, (below, above) in enumerate(zip(*table, strict=True)):
            if word < below:
                return magnitude
            if word <= above:
                break


def _exp_bounds(x: Fraction, precision: int) -> tuple[int, int]:
    """Integers on both sides of exp(-x) x 2^precision, for x >= 0."""
    with localcontext() as context:
        # Dividing is off by at most x 10^-prec, which exp multiplies by at most 1; exp itself rounds correctly.
        context.prec = precision * 302 // 1000 + 16
        scaled = (-Decimal(x.numerator) / Decimal(x.denominator)).exp() * (1 << precision)
        floor = int(scaled)
    return max(floor - 1, 0), floor + 2


def _up(product: int, precision: int) -> int:
    """Divided by 2^precision and rounded up."""
    return -(-product >> precision)


def discrete_gaussian_tail(sigma: float, least: NDArray[np.integer]) -> NDArray[np.float64]:
    """The probabilities that discrete Gaussian noise is `least` or more; 1 stands for all of `least` below 1.

    >>> discrete_gaussian_tail(1.0, np.array([0, 1, 2, 50])).round(6).tolist()
    [1.0, 0.300529, 0.058558, 0.0]
    """
    tails = np.concatenate([[1.0], discrete_gaussian_tails(sigma), [0.0]])
    return tails[np.clip(least, 0, len(tails) - 1)]


def discrete_gaussian_tails(sigma: float) -> NDArray[np.float64]:
    """The probabilities that noise is at least 1, 2, ...; beyond the last it is less than 1e-31."""
    weights = np.exp(-0.5 * (np.arange(1, math.ceil(12 * sigma) + 2) / sigma) ** 2)
    return np.cumsum(weights[::-1])[::-1] / (1 + 2 * weights.sum())
