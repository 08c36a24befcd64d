"""The lower bound of epsilon by guesses about canaries, held to figures of jax_privacy 2.0.0 and to its own promise."""

from __future__ import annotations

import dp_accounting
import numpy as np
import pytest

from runner.privacy.noise import RunKey
from runner.privacy.one_run import CONFIDENCE, LARGEST_MU, measure_canaries, smallest_mu, toss_coins

OF_JAX_PRIVACY = [
    (1000, 125, 70, 0.0),
    (1000, 125, 90, 0.88117),
    (1000, 125, 120, 3.78966),
    (4000, 500, 330, 0.71082),
    (4000, 500, 480, 4.16076),
    (4000, 500, 500, 8.19563),
    (100, 12, 12, 2.02596),
    (64, 8, 8, 1.24194),
    (50, 6, 3, 0.0),
]
"""Canaries, guesses, right ones: `_epsilon_one_run_fdp(0, canaries, guesses, right, 0.05, 1e-5)`."""


def epsilon_of(mu: float, delta: float) -> float:
    return dp_accounting.get_epsilon_gaussian(1 / mu, delta) if mu else 0.0


@pytest.mark.parametrize(("canaries", "guesses", "right", "epsilon"), OF_JAX_PRIVACY)
def test_the_bound_is_that_of_jax_privacy(canaries: int, guesses: int, right: int, epsilon: float) -> None:
    mu = smallest_mu(canaries, guesses, right, 0.05)
    assert epsilon_of(mu, 1e-5) == pytest.approx(epsilon, abs=2e-5)


@pytest.mark.parametrize(
    ("guesses", "right", "thresholds", "epsilon"),
    [(406, 379, 386, 2.164749), (938, 934, 374, 4.7218075), (5436, 5436, 140, 9.133752)],
)
def test_the_bound_is_what_jax_privacy_s_own_tests_expect(
    guesses: int, right: int, thresholds: int, epsilon: float
) -> None:
    """Its `test_epsilon_one_run_close`: 10,000 canaries of either kind, shifted by 1, 2 and 4; these are the thresholds
    that it finds best, and the failures are shared out to all."""
    assert epsilon_of(smallest_mu(20_000, guesses, right, 0.05 / thresholds), 1e-6) == pytest.approx(epsilon, rel=1e-5)


@pytest.mark.parametrize("mu", [0.5, 1.0, 2.0])
def test_the_bound_fails_no_more_often_than_it_says(mu: float) -> None:
    """Scores of the Gaussian mechanism, of which it is known what they leak; 60 audits."""
    draw = np.random.default_rng(7)
    delta, failed = 1e-5, 0
    for _ in range(60):
        coins = draw.random(256) < 0.5
        found = measure_canaries(draw.normal(size=256) + mu * coins, coins, delta)
        failed += found.epsilon > epsilon_of(mu, delta)
    assert failed <= 60 * (1 - CONFIDENCE)


def test_scores_that_tell_nothing_measure_nothing_and_sure_ones_a_bound_that_grows_with_their_number() -> None:
    coins = np.arange(4096) % 2 == 0
    assert measure_canaries(np.zeros(4096), coins, 1e-5).epsilon == 0
    found = [measure_canaries(coins[:n].astype(float), coins[:n], 1e-5).epsilon for n in (8, 64, 512, 4096)]
    assert found == sorted(found)
    assert found[0] == 0
    assert found[-1] > 8
    assert smallest_mu(10**5, 12_500, 12_500, 0.05) < LARGEST_MU


def test_coins_are_fair_and_differ_by_the_run_s_key() -> None:
    one, other = (toss_coins(RunKey(digit * 64), 10_000) for digit in "12")
    for coins in (one, other, one ^ other):
        assert abs(coins.mean() - 0.5) < 5 * 0.5 / 100
    assert (toss_coins(RunKey("1" * 64), 10_000) == one).all()
