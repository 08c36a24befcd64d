"""What steps cost, what a budget pays for, and which delta is refused: against closed forms and published figures."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from runner.errors import PrivacyError
from runner.privacy.accountant import (
    NOISE_STEP,
    SMALLEST_NOISE_MULTIPLIER,
    Accountant,
    Mechanism,
    Spent,
    check_delta,
    default_delta,
    epsilon,
    epsilon_unamplified,
    find_noise,
    steps_within,
)

SMALL = Mechanism(examples=400, batch_size=20, noise_multiplier=2.0)


def gaussian_epsilon(noise_multiplier: float, delta: float) -> float:
    """Epsilon of one Gaussian mechanism of sensitivity 1 (Balle and Wang 2018, theorem 8)."""

    def excess(epsilon: float) -> float:
        a, b = 1 / (2 * noise_multiplier), epsilon * noise_multiplier
        return norm.cdf(a - b) - math.exp(epsilon) * norm.cdf(-a - b) - delta

    return float(brentq(excess, 0, 100, xtol=1e-12))


@pytest.mark.parametrize(
    ("examples", "batch_size", "noise", "steps", "delta", "accountant", "expected"),
    [
        (50_000, 256, 1.0, 3906, 1e-6, "pld", 2.000),
        (50_000, 256, 1.0, 3906, 1e-6, "rdp", 2.229),
        (50_000, 256, 2.0, 3906, 1e-6, "pld", 0.717),
        (50_000, 256, 2.0, 3906, 1e-6, "rdp", 0.776),
        (10_000, 100, 1.0, 1000, 1e-5, "pld", 1.83),
        (10_000, 100, 1.0, 1000, 1e-5, "rdp", 2.10),
    ],
)
def test_epsilon_is_that_of_published_settings(
    examples: int, batch_size: int, noise: float, steps: int, delta: float, accountant: Accountant, expected: float
) -> None:
    found = epsilon([(Mechanism(examples, batch_size, noise), steps)], delta, accountant)
    assert found == pytest.approx(expected, abs=0.006)


def test_epsilon_without_amplification_is_that_of_one_gaussian_an_epoch() -> None:
    mechanism = Mechanism(10_000, 100, 1.0)
    assert epsilon_unamplified([(mechanism, 1000)], 1e-5) == pytest.approx(17.9, abs=0.05)
    # Ten Gaussians of noise multiplier 1 are one of 1 / sqrt(10).
    assert epsilon_unamplified([(mechanism, 1000)], 1e-5) == pytest.approx(gaussian_epsilon(10**-0.5, 1e-5), rel=2e-3)
    begun = [epsilon_unamplified([(mechanism, steps)], 1e-5) for steps in (1, 100, 101)]
    assert begun[0] == begun[1] < begun[2], "an epoch that was begun counts whole"


@pytest.mark.parametrize("noise", [0.7, 1.0, 4.0])
@pytest.mark.parametrize("steps", [1, 4])
def test_where_every_record_is_in_every_step_epsilon_has_a_closed_form(noise: float, steps: int) -> None:
    whole = Mechanism(examples=10, batch_size=10, noise_multiplier=noise)
    expected = gaussian_epsilon(noise / math.sqrt(steps), 1e-6)
    assert epsilon([(whole, steps)], 1e-6) == pytest.approx(expected, rel=2e-3)
    assert epsilon([(whole, steps)], 1e-6) >= expected - 1e-9, "rounded against the run"
    assert epsilon([(whole, steps)], 1e-6, "rdp") >= expected


def test_no_steps_cost_nothing_and_steps_without_noise_everything() -> None:
    silent = Mechanism(400, 20, 0.0)
    assert epsilon([], 1e-5) == epsilon([(SMALL, 0)], 1e-5) == epsilon([(silent, 0)], 1e-5) == 0
    for accountant in ("pld", "rdp"):
        assert epsilon([(SMALL, 5), (silent, 1)], 1e-5, accountant) == math.inf


@settings(max_examples=30)
@given(
    st.floats(0.8, 5),
    st.integers(1, 300),
    st.integers(1, 40),
    st.sampled_from([1e-3, 1e-5, 1e-8]),
)
def test_more_steps_more_sampling_and_less_noise_cost_more(
    noise: float, steps: int, batch_size: int, delta: float
) -> None:
    def cost(noise: float, steps: int, batch_size: int, delta: float) -> float:
        return epsilon([(Mechanism(400, batch_size, noise), steps)], delta, "rdp")

    base = cost(noise, steps, batch_size, delta)
    assert cost(noise, steps + 1, batch_size, delta) >= base
    assert cost(noise, steps, batch_size + 1, delta) >= base
    assert cost(noise * 1.1, steps, batch_size, delta) <= base
    assert cost(noise, steps, batch_size, delta * 2) <= base
    assert cost(noise, 50 * steps, batch_size, delta) > base


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_mechanisms_compose_in_any_order_and_cost_more_than_each(accountant: Accountant) -> None:
    other = Mechanism(examples=400, batch_size=40, noise_multiplier=3.0)
    parts: Spent = [(SMALL, 30), (other, 10)]
    whole = epsilon(parts, 1e-5, accountant)
    assert whole == pytest.approx(epsilon([*reversed(parts)], 1e-5, accountant), rel=1e-6)
    assert whole > max(epsilon([part], 1e-5, accountant) for part in parts)
    split = epsilon([(SMALL, 10), (SMALL, 20), (other, 10)], 1e-5, accountant)
    assert whole == pytest.approx(split, rel=1e-3)


def test_the_tight_accountant_never_exceeds_the_bound() -> None:
    for steps in (1, 20, 200):
        assert epsilon([(SMALL, steps)], 1e-5, "pld") <= epsilon([(SMALL, steps)], 1e-5, "rdp")


# Calibration


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize(("steps", "target"), [(40, 1.0), (40, 8.0), (1, 0.5)])
def test_the_noise_that_is_found_reaches_the_target_and_a_step_less_does_not(
    accountant: Accountant, steps: int, target: float
) -> None:
    noise = find_noise(400, 20, steps, target, 1e-4, accountant)
    assert noise == round(noise, 4)
    assert epsilon([(Mechanism(400, 20, noise), steps)], 1e-4, accountant) <= target
    less = noise - 2 * NOISE_STEP
    assert epsilon([(Mechanism(400, 20, less), steps)], 1e-4, accountant) > target


def test_a_generous_target_still_gets_some_noise() -> None:
    assert find_noise(400, 20, 1, 1e6, 1e-4, "rdp") == SMALLEST_NOISE_MULTIPLIER


def test_a_target_that_no_noise_reaches_is_refused_in_one_line() -> None:
    with pytest.raises(PrivacyError, match=r"target_epsilon 1e-09 cannot be reached in 1000000 steps.*raise it"):
        find_noise(400, 400, 1_000_000, 1e-9, 1e-12, "rdp")


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize("before", [[], [(Mechanism(400, 40, 3.0), 25)]])
def test_the_steps_of_a_budget_are_exact_at_the_boundary(accountant: Accountant, before: Spent) -> None:
    limit = epsilon([*before, (SMALL, 37)], 1e-4, accountant)
    assert steps_within(SMALL, limit, 1e-4, accountant, before) == 37
    assert steps_within(SMALL, limit * (1 - 1e-9), 1e-4, accountant, before) == 36
    one = epsilon([*before, (SMALL, 1)], 1e-4, accountant)
    assert steps_within(SMALL, one, 1e-4, accountant, before) == 1
    assert steps_within(SMALL, one * (1 - 1e-9), 1e-4, accountant, before) == 0


def test_a_budget_that_was_passed_before_pays_for_nothing() -> None:
    before = [(SMALL, 100)]
    assert steps_within(SMALL, epsilon(before, 1e-4, "rdp") / 2, 1e-4, "rdp", before) == 0
    assert steps_within(Mechanism(400, 20, 0.0), 1e9, 1e-4, "rdp") == 0


# Delta, and what a mechanism may be


@given(st.integers(2, 10**12))
def test_delta_is_rounded_down_to_one_digit_and_stays_below_one_over_n(examples: int) -> None:
    delta = default_delta(examples)
    exact = examples**-1.1
    assert delta <= exact * (1 + 1e-8)
    digits = f"{delta:.12e}"
    assert set(digits[2:14]) == {"0"}, "one digit"
    assert float(f"{int(digits[0]) + 1}{digits[14:]}") > exact * (1 - 1e-8), "and no digit lower than needed"
    check_delta(delta, examples)


@pytest.mark.parametrize("examples", [1, 7, 1000])
def test_a_delta_of_one_over_n_or_more_is_refused(examples: int) -> None:
    for delta in (1 / examples, 2 / examples):
        with pytest.raises(PrivacyError, match="is not below 1/n"):
            check_delta(delta, examples)
    check_delta(math.nextafter(1 / examples, 0), examples)


def test_a_mechanism_samples_with_the_probability_that_its_numbers_say() -> None:
    mechanism = Mechanism(examples=1000, batch_size=30, noise_multiplier=1.0)
    assert mechanism.sampling_probability == 0.03
    assert mechanism.steps_per_epoch == 33
    assert Mechanism(10, 10, 1.0).steps_per_epoch == Mechanism(10, 9, 1.0).steps_per_epoch == 1


@pytest.mark.parametrize(
    "values", [(10, 11, 1.0, 1.0), (10, 0, 1.0, 1.0), (10, 5, -1.0, 1.0), (10, 5, math.nan, 1.0), (10, 5, 1.0, 0.0)]
)
def test_impossible_mechanisms_are_refused(values: tuple[int, int, float, float]) -> None:
    with pytest.raises(PrivacyError):
        Mechanism(*values)
