"""Discrete Gaussian noise of any width, by the million: integers x with probability near to exp(-x^2 / (2 sigma^2)).

    >>> source = np.random.default_rng(0).bytes                          # a run takes a cryptographic one
    >>> noise = draw_wide_gaussian(sigma=1.5e6, count=10_000, source=source)
    >>> noise.dtype.name, round(float(noise.std()) / 1.5e6, 1)
    ('int32', 1.0)

Noise is a sum m_1 x_1 + m_2 x_2 + ... of discrete Gaussians narrow enough for a table (Micciancio & Walter, "Gaussian
Sampling over the Integers: Efficient, Generic, Constant-Time", CRYPTO 2017). A draw from a table is one from an alias
table (Walker 1974) of 2^16 columns: a column, the value that is its own, or with some probability another one. There
is no rejection: which numbers come out has no part in how many steps it takes, but for the processor's caches.

**How near it is.** For s > 0 and any real c, Poisson's summation formula gives

    sum over integers j of exp(-(j - c)^2 / (2 s^2)) = s sqrt(2 pi) (1 + t),    |t| <= e(s) = 2 exp(-2 pi^2 s^2) + ...

*Joining.* With x and y discrete Gaussians of sigma a and b, and S^2 = a^2 + m^2 b^2, completing the square in y gives

    P(x + m y = z) is proportional to exp(-z^2 / (2 S^2)) sum over j of exp(-(j - c)^2 / (2 s^2)),
    with c = m z b^2 / S^2 and s = a b / S,

so every probability is within a factor of (1 + e(s)) / (1 - e(s)) of the discrete Gaussian's. Parts are such that
s > 1.98 (`JOINT`), and e(s) < 2^-110.

*Against continuous noise.* Let Y be normal with variance sigma^2 - 9, and Z an integer drawn about it with
probability proportional to exp(-(Z - Y)^2 / 18). By the same formula Z is a discrete Gaussian of sigma up to the
factor (1 + e(3)) / (1 - e(3)), and e(3) < 2^-250. Drawing Z is the same for q + Y as for Y, if q is an integer. So a
vector of integers with this noise is a continuous Gaussian mechanism of variance sigma^2 - 9 whose result was worked
on: whatever is proven of that one, with any sampling, composition and accountant, holds for these integers.
`runner.privacy.grid` pays for the 9.

*Tables.* Probabilities are rounded to 2^-192 and what is beyond 14.2 sigma is left out: a total variation distance of
less than 2^-150 a draw. Columns and first bits do not always decide; then 160 bits more are drawn.

In all, a number's distribution P is within exp(+-`RATIO`) P' + `DISTANCE` of one that is made of continuous noise.
N numbers cost N `RATIO` of epsilon and (1 + e^epsilon) N `DISTANCE` of delta beyond those of continuous noise: for
2^30 numbers in each of 2^24 steps less than 2^-50 of epsilon, and 2^-80 of delta at epsilon 8. That is below what
the accountants' floating point can show, and is not subtracted there; a test reckons it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runner.privacy.discrete_gaussian import cumulative_floors

COLUMNS = 1 << 16
BITS = 192
"""Probabilities are multiples of 2^-BITS. A draw takes 16 bits for the column, 16 for the choice, seldom the rest."""
REST_BITS = BITS - 32
WIDEST = 2300.0
"""Sigma of a table: its 2^16 values reach to 14.2 sigma."""
NARROWEST = 16.0
"""Sigma of the last part, where it is not the only one."""
JOINT = 1.98
RATIO = 2.0**-107
DISTANCE = 2.0**-147
"""See above: of one number, all parts together."""

Source = Callable[[int], bytes]
"""Gives so many random bytes."""


class Part(NamedTuple):
    """`multiplier` times a discrete Gaussian of `sigma`."""

    multiplier: int
    sigma: float


@lru_cache(maxsize=64)
def parts_of(sigma: float) -> tuple[Part, ...]:
    """What a discrete Gaussian is made of; together at least as wide as `sigma`, and wider by less than 1e-4 of it.

    A multiplier is at most half the sigma of the parts before it, so that what they leave between is filled.
    """
    if sigma <= WIDEST:
        return (Part(1, sigma),)
    parts, variance = [Part(1, WIDEST)], WIDEST**2
    while True:
        rest = math.sqrt(max(sigma**2 - variance, 0))
        largest = int(WIDEST / 2) * parts[-1].multiplier
        multiplier = max(1, math.ceil(rest / WIDEST))
        if multiplier <= largest:
            return (*parts, Part(multiplier, max(rest / multiplier, NARROWEST)))
        parts.append(Part(largest, WIDEST))
        variance += (largest * WIDEST) ** 2


def noise_dtype(sigma: float) -> np.dtype[np.signedinteger]:
    """int32 where it holds all noise of that width, else int64."""
    reach = COLUMNS // 2 * sum(part.multiplier for part in parts_of(sigma))
    return np.dtype(np.int32 if reach < 1 << 31 else np.int64)


def draw_wide_gaussian(sigma: float, count: int, source: Source) -> NDArray[np.signedinteger]:
    """`count` independent integers, of `noise_dtype(sigma)`."""
    noise = np.zeros(count, noise_dtype(sigma))
    for multiplier, narrow in parts_of(sigma):
        noise += np.multiply(alias_table(narrow).draw(count, source), multiplier, dtype=noise.dtype)
    return noise


class AliasTable(NamedTuple):
    """Column c of 2^16 is the value c as int16, with probability `exact[c]` / 2^(BITS - 16), or else `others[c]`.

    `entries`: the first 16 bits of `exact`, and above them `others`: one look into the table gives both.
    """

    entries: NDArray[np.uint32]
    exact: list[int]

    @property
    def others(self) -> NDArray[np.int16]:
        return _upper(self.entries)

    def draw(self, count: int, source: Source) -> NDArray[np.int16]:
        """`count` independent values."""
        columns, choices = (np.frombuffer(source(2 * count), "<u2") for _ in range(2))
        own = columns.astype(np.uint16, copy=False).view(np.int16)
        entries = self.entries.take(columns.astype(np.intp), mode="clip")
        firsts, values = entries.astype(np.uint16), _upper(entries)
        # other + (own - other) where it is the column's own, modulo 2^16: faster than to choose one of them.
        values += (own - values) * (choices < firsts).view(np.int8)
        for i in np.flatnonzero(choices == firsts).tolist():
            rest = int.from_bytes(source(REST_BITS // 8), "little")
            if int(choices[i]) << REST_BITS | rest < self.exact[columns[i]]:
                values[i] = own[i]
        return values


def _upper(entries: NDArray[np.uint32]) -> NDArray[np.int16]:
    """Their upper 16 bits."""
    return (entries >> 16).astype(np.uint16).view(np.int16)


@lru_cache(maxsize=16)
def alias_table(sigma: float) -> AliasTable:
    """Of a discrete Gaussian, `sigma` at most `WIDEST`."""
    half, capacity = COLUMNS // 2, (1 << BITS) // COLUMNS
    reached = cumulative_floors(Fraction(sigma) ** 2, BITS)[:half]
    left = [0] * COLUMNS
    for m, (below, above) in enumerate(itertools.pairwise(reached), start=1):
        left[m] = left[-m] = (above - below) // 2
    left[0] = (1 << BITS) - sum(left)
    others = list(range(COLUMNS))
    exact = [capacity] * COLUMNS
    short = [c for c in range(COLUMNS) if left[c] < capacity]
    ample = [c for c in range(COLUMNS) if left[c] > capacity]
    while short:
        c, giver = short.pop(), ample[-1]
        exact[c], others[c] = left[c], giver
        left[giver] -= capacity - left[c]
        if left[giver] <= capacity:
            ample.pop()
            if left[giver] < capacity:
                short.append(giver)
    firsts = [min(threshold >> REST_BITS, COLUMNS - 1) for threshold in exact]
    return AliasTable(np.left_shift(np.array(others, np.uint32), 16) | np.array(firsts, np.uint32), exact)
