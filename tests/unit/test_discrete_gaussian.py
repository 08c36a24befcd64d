"""Discrete Gaussian noise is exact: every integer has the probability of its formula, and random bits alone decide."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from runner.errors import PrivacyError
from runner.privacy.discrete_gaussian import _table, discrete_gaussian_tail, draw_discrete_gaussian

SIGMAS = [0.05, 0.4, 1.0, 7.3, 120.0]


def seeded(seed: int) -> Callable[[int], bytes]:
    return np.random.default_rng(seed).bytes


def masses(sigma: float, reach: int) -> NDArray[np.float64]:
    """The formula, for -reach to reach."""
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return weights / weights.sum()


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("bits", [64, 128])
def test_the_table_holds_the_exact_probabilities(sigma: float, bits: int) -> None:
    """Against the series summed in decimals of 90 digits."""
    table = _table(Fraction(sigma) ** 2, bits)
    with localcontext() as context:
        context.prec = 90
        twice = 2 * Decimal(sigma) ** 2
        weights = [(-(Decimal(m) ** 2) / twice).exp() for m in range(math.ceil(25 * sigma) + 2)]
        total = 1 + 2 * sum(weights[1:])
        reached = Decimal(0)
        for m, (below, above) in enumerate(zip(*table, strict=True)):
            reached += weights[m] * (2 if m else 1)
            assert below <= int(reached / total * (1 << bits)) <= above
            assert above - below <= 1, "else draws would often need more bits"
    assert table.above[-1] >= (1 << bits) - 2, "what is beyond the table is less than its last bit"


@pytest.mark.parametrize("sigma", SIGMAS)
def test_draws_are_distributed_as_the_formula_says(sigma: float) -> None:
    count, reach = 200_000, math.ceil(8 * sigma)
    drawn = draw_discrete_gaussian(sigma, count, seeded(1))
    expected = count * masses(sigma, reach)
    seen = np.bincount(np.clip(drawn, -reach, reach) + reach, minlength=2 * reach + 1)
    likely = expected >= 20
    seen = np.append(seen[likely], count - seen[likely].sum())
    expected = np.append(expected[likely], count - expected[likely].sum())
    if expected[-1] < 5:
        seen, expected = seen[:-1], expected[:-1] * seen[:-1].sum() / expected[:-1].sum()
    if len(seen) > 1:
        assert stats.chisquare(seen, expected).pvalue > 1e-3
    else:
        assert not drawn.any(), "less than 10^-80 is away from 0"


def test_where_the_first_bits_do_not_decide_more_are_drawn() -> None:
    """On the border between 2 and 3 the bits after it decide, on its side and on the other."""
    table, finer = _table(Fraction(9), 64), _table(Fraction(9), 128)
    border = next(word for word in range(table.below[2], table.above[2] + 1) if finer.below[2] >> 64 == word)
    rest = finer.below[2] & ((1 << 64) - 1)
    for after, expected in ((rest - 1, 2), (rest + 2, 3)):
        words = iter([border, after])
        drawn = draw_discrete_gaussian(
            3.0, 1, lambda size, words=words: next(words).to_bytes(8, "little") if size == 8 else b"\x00"
        )
        assert drawn.tolist() == [expected]


def test_every_number_takes_bits_of_its_own() -> None:
    drawn = draw_discrete_gaussian(50.0, 100_000, seeded(2)).astype(float)
    for lag in (1, 8, 64):
        assert abs(np.corrcoef(drawn[lag:], drawn[:-lag])[0, 1]) < 4 / math.sqrt(drawn.size)


def test_noise_is_the_operating_system_s_and_no_seed_repeats_it() -> None:
    draws = []
    for _ in range(2):
        np.random.seed(0)
        draws.append(draw_discrete_gaussian(100.0, 50))
    assert not np.array_equal(*draws)


@pytest.mark.parametrize("sigma", [0.0, 0.01, 2e5, math.nan, math.inf])
def test_noise_out_of_bounds_is_refused(sigma: float) -> None:
    with pytest.raises(PrivacyError, match="must be between"):
        draw_discrete_gaussian(sigma, 1)


@pytest.mark.parametrize("sigma", [0.4, 3.0, 50.0])
def test_the_tail_is_that_of_the_formula(sigma: float) -> None:
    reach = math.ceil(20 * sigma)
    mass = masses(sigma, reach)
    for least in (1, 2, math.ceil(sigma), math.ceil(4 * sigma)):
        assert discrete_gaussian_tail(sigma, least) == pytest.approx(mass[reach + least :].sum(), rel=1e-9)
        # Canonne, Kamath, Steinke 2020, proposition 25: no heavier than the continuous one, one step nearer.
        assert discrete_gaussian_tail(sigma, least) <= stats.norm.sf(least - 1, scale=sigma)
    assert discrete_gaussian_tail(sigma, 0) == 1.0
