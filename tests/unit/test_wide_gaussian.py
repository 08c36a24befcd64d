"""Wide noise is as near to the discrete Gaussian, and to continuous noise that was worked on, as its module says."""

from __future__ import annotations

import math
from collections import Counter
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import integrate, stats

from runner.privacy.noise import key_stream
from runner.privacy.wide_gaussian import (
    BITS,
    COLUMNS,
    DISTANCE,
    JOINT,
    RATIO,
    REST_BITS,
    WIDEST,
    alias_table,
    draw_wide_gaussian,
    noise_dtype,
    parts_of,
)

LARGEST = 1e13
"""More than the largest noise multiplier, on the finest grid of a million weights."""


def masses(sigma: float, reach: int) -> NDArray[np.float64]:
    """Probabilities of -reach to reach, by the formula."""
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return weights / weights.sum()


def tabled(sigma: float) -> Counter[int]:
    """What a table gives to each value, in 2^-BITS."""
    table, found = alias_table(sigma), Counter[int]()
    for column, (own, other) in enumerate(zip(table.exact, table.others.tolist(), strict=True)):
        found[column - COLUMNS * (column >= COLUMNS // 2)] += own
        found[other] += (1 << BITS) // COLUMNS - own
    return found


def error(s: float) -> float:
    """e(s) of the module's text."""
    return 2 * sum(math.exp(-2 * (math.pi * s * j) ** 2) for j in range(1, 10))


@pytest.mark.parametrize("sigma", [3.1, 90.0])
def test_a_table_has_the_discrete_gaussian_s_probabilities_to_2_to_the_minus_170(sigma: float) -> None:
    """Against the series, summed in decimals of 80 digits."""
    found = tabled(sigma)
    assert sum(found.values()) == 1 << BITS
    with localcontext() as context:
        context.prec = 80
        twice = 2 * Decimal(sigma) ** 2
        weights = {m: (-(Decimal(m) ** 2) / twice).exp() for m in range(math.ceil(20 * sigma))}
        total = 1 + 2 * sum(weights[m] for m in weights if m)
        distance = sum(
            abs(weights[abs(v)] / total - Decimal(count) / (1 << BITS)) for v, count in found.items() if count
        )
        assert distance < Decimal(2) ** -170


def test_the_widest_table_has_them_too() -> None:
    found = tabled(WIDEST)
    assert sum(found.values()) == 1 << BITS
    values = np.array([0, 1, -1, 1000, -2048, 5000, 16_000, -32_000, 32_767])
    expected = np.exp(-0.5 * (values / WIDEST) ** 2) / (WIDEST * math.sqrt(2 * math.pi))
    assert [found[v] / 2**BITS for v in values.tolist()] == pytest.approx(expected.tolist(), rel=1e-9)
    assert 2 * stats.norm.sf(COLUMNS / 2 / WIDEST) < 2**-150, "what is beyond the table"


@given(st.floats(1.0, 6.0), st.integers(1, 4), st.floats(0.8, 8.0))
@settings(max_examples=40, deadline=None)
def test_two_parts_are_joined_as_nearly_as_the_bound_says(a: float, multiplier: int, b: float) -> None:
    """The sum's exact probabilities, against the formula of its own sigma."""
    reach = math.ceil(9 * b)
    spread = np.zeros(2 * reach * multiplier + 1)
    spread[::multiplier] = masses(b, reach)
    whole = np.convolve(masses(a, math.ceil(9 * a)), spread)
    sigma = math.hypot(a, multiplier * b)
    middle = slice(whole.size // 2 - math.ceil(3 * sigma), whole.size // 2 + math.ceil(3 * sigma) + 1)
    ratio = whole[middle] / masses(sigma, whole.size // 2)[middle]
    e = error(a * b / sigma)
    if e < 0.5:
        assert ratio.max() <= (1 + e) / (1 - e) + 1e-9
        assert ratio.min() >= (1 - e) / (1 + e) - 1e-9


def test_the_bound_of_a_join_is_no_larger_than_it_has_to_be() -> None:
    """Parts that leave gaps do not make a discrete Gaussian: the bound sees it."""
    spread = np.zeros(2 * 80 * 4 + 1)
    spread[::4] = masses(8, 80)
    whole, sigma = np.convolve(masses(2, 20), spread), math.hypot(2, 32)
    off = np.abs(whole / masses(sigma, whole.size // 2) - 1)[whole.size // 2 - 40 : whole.size // 2 + 40].max()
    assert 0.3 < off / (2 * error(2 * 8 / sigma)) <= 1.2


@pytest.mark.parametrize(("sigma", "narrow"), [(2.0, 0.5), (1.2, 0.7)])
def test_a_discrete_gaussian_is_continuous_noise_that_was_worked_on(sigma: float, narrow: float) -> None:
    """An integer drawn about a normal number: its probability, integrated."""
    wide, e = math.sqrt(sigma**2 - narrow**2), error(narrow)
    integers = np.arange(-30, 31)

    def drawn_about(y: float, z: int) -> float:
        weights = np.exp(-0.5 * ((integers - y) / narrow) ** 2)
        return float(weights[z + 30] / weights.sum()) * stats.norm.pdf(y, scale=wide)

    expected = masses(sigma, 30)
    for z in (0, 1, 3):
        found = integrate.quad(drawn_about, -12 * sigma, 12 * sigma, args=(z,), limit=400)[0]
        assert (1 - e) / (1 + e) - 1e-9 <= found / expected[z + 30] <= (1 + e) / (1 - e) + 1e-9


@example(math.nextafter(WIDEST, math.inf))
@given(st.floats(math.log(3), math.log(LARGEST)).map(math.exp))
def test_parts_make_up_the_width_and_leave_no_gaps(sigma: float) -> None:
    parts = parts_of(sigma)
    assert len(parts) <= 5
    whole = math.hypot(*(part.multiplier * part.sigma for part in parts))
    assert sigma * (1 - 1e-12) <= whole <= sigma * (1 + 1e-4)
    before = parts[0].sigma
    for multiplier, narrow in parts[1:]:
        whole = math.hypot(before, multiplier * narrow)
        assert before * narrow / whole > JOINT
        before = whole
    reach = sum(part.multiplier for part in parts) * COLUMNS // 2
    assert reach < 2 ** (31 if noise_dtype(sigma) == np.int32 else 51)


def test_what_differs_from_continuous_noise_is_too_little_to_be_seen_in_any_run() -> None:
    """Of 2^30 weights, 2^24 steps, and an epsilon of 8."""
    joins, parts, numbers = 4, 5, 2.0**54
    ratio = joins * 2 * error(JOINT) + 2 * error(3.0) + 2 * error(WIDEST)
    distance = parts * (COLUMNS * 2.0 ** (1 - BITS) + 2 * stats.norm.sf(COLUMNS / 2 / WIDEST))
    assert ratio < RATIO
    assert distance < DISTANCE
    assert numbers * RATIO < 2**-50
    assert numbers * DISTANCE * (1 + math.exp(8)) < 2**-80
    assert 8.0 + numbers * RATIO == 8.0
    assert 1e-8 - numbers * DISTANCE * (1 + math.exp(8)) == 1e-8


@pytest.mark.parametrize("sigma", [3.0, 40.0, 2500.0])
def test_draws_are_distributed_as_the_formula_says(sigma: float) -> None:
    """One part, and two; in 200 bins of about the same probability at most."""
    count, reach = 200_000, math.ceil(8 * sigma)
    drawn = draw_wide_gaussian(sigma, count, key_stream(bytes(32), 7)).astype(np.int64)
    whole = math.hypot(*(part.multiplier * part.sigma for part in parts_of(sigma)))
    expected = count * masses(whole, reach)
    seen = np.bincount(np.clip(drawn, -reach, reach) + reach, minlength=2 * reach + 1)
    bins = np.minimum(np.cumsum(expected) / count * 200, 199).astype(int)
    seen, expected = np.bincount(bins, seen), np.bincount(bins, expected)
    seen, expected = seen[expected > 5], expected[expected > 5]
    assert stats.chisquare(seen, expected * seen.sum() / expected.sum()).pvalue > 1e-3


@pytest.mark.parametrize("sigma", [1.7e6, 9e6, 3e8, 1e12])
def test_noise_of_three_and_four_parts_is_normal(sigma: float) -> None:
    drawn = draw_wide_gaussian(sigma, 100_000, key_stream(bytes(32), 8)) / sigma
    assert stats.kstest(drawn, "norm").pvalue > 1e-3
    assert len({int(z) % 7 for z in (drawn * sigma).tolist()}) == 7, "every integer can come out"


@pytest.mark.parametrize("after", [-1, 0])
def test_where_the_first_bits_do_not_decide_the_rest_of_them_does(after: int) -> None:
    """A column's own value below its threshold to the last bit, the other one from there on."""
    table = alias_table(3.1)
    column = next(c for c in range(1, COLUMNS) if 0 < table.exact[c] < (1 << BITS) // COLUMNS and table.others[c] != c)
    border = table.exact[column] + after
    words = [column.to_bytes(2, "little"), (border >> REST_BITS).to_bytes(2, "little")]
    words.append((border & ((1 << REST_BITS) - 1)).to_bytes(REST_BITS // 8, "little"))
    source = iter(words)
    (drawn,) = table.draw(1, lambda size: next(source)).tolist()
    own = column if column < COLUMNS // 2 else column - COLUMNS
    assert drawn == (own if after < 0 else table.others[column])
    assert next(source, None) is None
