"""The streams of random numbers that privacy rests on: keys, batches, the noise of steps and that of releases.

Each is as wide and as frequent as it is accounted for, to less than a hundredth, like no other, and a secret: no clock,
no seed and nothing public tells it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from runner.data.batches import SAMPLING_BLOCK, PoissonPlan
from runner.privacy.accountant import Histogram, Mechanism, Release
from runner.privacy.noise import RunKey, draw_noise
from runner.privacy.releases import Counts, noisy_histograms

DEVIATIONS = 5.0
"""A true promise fails once in two million tests."""


@pytest.fixture
def stopped_world(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Sets clocks and generators to what they were: whatever is drawn of them alone is then the same again."""

    def stop() -> None:
        for clock in ("time", "monotonic", "perf_counter", "process_time"):
            monkeypatch.setattr(time, clock, lambda: 1.0e9)
            monkeypatch.setattr(time, f"{clock}_ns", lambda: 10**18)
        random.seed(0)
        np.random.seed(0)

    return stop


def assert_unlike(vectors: NDArray[np.float64]) -> None:
    """That no two rows, and no row's parts, are alike; rows of noise that may be shifted or turned around."""
    rows = vectors.reshape(len(vectors) * 4, -1)
    rows = np.concatenate([rows, rows[:, ::-1]])
    found = np.corrcoef(rows)
    np.fill_diagonal(found, 0)
    assert np.abs(found).max() < (DEVIATIONS + 1) / np.sqrt(rows.shape[1]), "two draws are alike"


def assert_wide(vectors: NDArray[np.float64], least: float = 1.0, most: float = 1.0) -> None:
    """That the deviation is 1, or between two bounds, in each of eight parts of all rows."""
    for part in np.split(vectors, 8, axis=1):
        allowed = DEVIATIONS / np.sqrt(2 * part.size)
        assert least - allowed < np.sqrt(np.mean(part**2)) < most + allowed


# 6. Keys


def test_06_every_run_has_a_key_of_256_bits_that_nobody_can_guess(stopped_world: Callable[[], None]) -> None:
    keys: list[str] = []
    for _ in range(2000):
        stopped_world()
        keys.append(RunKey.new().hexadecimal)
    assert len(set(keys)) == 2000, "one comes twice"
    bits = np.unpackbits(np.array([list(bytes.fromhex(key)) for key in keys], np.uint8), axis=1)
    assert bits.shape == (2000, 256)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < (DEVIATIONS + 1) * 0.5 / np.sqrt(2000)


def test_06_what_is_derived_from_a_key_depends_on_all_of_it_and_on_what_it_is_for() -> None:
    number = 0x5E << 200 | 0x1234_5678 << 64 | 0x9ABC_DEF0
    keys = [RunKey(f"{number ^ (1 << bit):064x}") for bit in range(256)] + [RunKey(f"{number:064x}")]
    derived: dict[Any, Any] = {}
    for place, key in enumerate(keys):
        derived["noise", place] = key.for_noise(0, "conditions")
        derived["sampling", place] = key.for_sampling(0)
    for branch in range(1, 20):
        derived["noise of branch", branch] = keys[-1].for_noise(branch, "conditions")
        derived["noise under", branch] = keys[-1].for_noise(0, f"conditions {branch}")
        derived["sampling of branch", branch] = keys[-1].for_sampling(branch)
    assert len(set(derived.values())) == len(derived), "two are the same"
    assert derived["noise", 7] == keys[7].for_noise(0, "conditions"), "a step that is repeated repeats its noise"
    assert derived["sampling", 7] == keys[7].for_sampling(0)


# 1. Batches

EXAMPLES, EXPECTED = 200_000, 8_000


def test_01_batches_are_independent_draws_at_the_rate_that_is_accounted() -> None:
    q = Mechanism(EXAMPLES, EXPECTED, 1.0).sampling_probability
    assert q == EXPECTED / EXAMPLES
    steps = [(0, 0), (0, 1), (0, 2), *((epoch, step) for epoch in (1, 2) for step in range(25))]
    drawn = np.zeros((2, len(steps), EXAMPLES), bool)
    for run, seed in enumerate((7, 7)):
        plan = PoissonPlan(EXAMPLES, EXPECTED, seed, validation_split=False, key=(11 + run, 12))
        for row, (epoch, step) in enumerate(steps):
            positions = plan.training_positions(epoch, step)
            drawn[run, row, positions] = True
            assert positions.size == np.count_nonzero(drawn[run, row]), "a record is in a batch twice"
        assert np.array_equal(np.flatnonzero(drawn[run, 1]), np.sort(plan.training_positions(0, 1)))
    count, trials = np.count_nonzero(drawn), drawn.size
    assert abs(count - q * trials) < DEVIATIONS * np.sqrt(trials * q * (1 - q)), (
        f"the rate is {count / trials}, not {q}"
    )
    by_place = drawn.reshape(-1, 50, EXAMPLES // 50).sum(axis=(0, 2))
    assert stats.chisquare(by_place).pvalue > 1e-6, "some are drawn more often than others"
    flat = drawn.reshape(-1, EXAMPLES)
    for one, other in [*pairwise(flat), (flat[0], flat[len(steps)]), (flat[0], flat[3]), (flat[1], flat[4])]:
        assert_share_of_chance(np.count_nonzero(one & other), EXAMPLES, q)
    order = plan._split[0]
    for row in flat[len(steps) :]:
        places = row[order]
        one, other = places[:SAMPLING_BLOCK], places[SAMPLING_BLOCK : 2 * SAMPLING_BLOCK]
        assert_share_of_chance(np.count_nonzero(one & other), SAMPLING_BLOCK, q)


def assert_share_of_chance(both: int, size: int, q: float) -> None:
    """Of independent draws, those that are in both."""
    assert abs(both - size * q * q) < (DEVIATIONS + 1) * np.sqrt(size * q * q), "two draws are alike"


# 6. Noise of steps

COUNT = 1 << 19
SIGMA = 3.0e5
"""In units of the grid; as in runs, far above 1."""


def noise_of(run: str, branch: int, step: int) -> NDArray[np.float64]:
    """The noise of a step in units of its standard deviation."""
    return draw_noise(RunKey(run * 32).for_noise(branch, "conditions"), step, SIGMA, COUNT) / SIGMA


def test_06_the_noise_of_a_step_is_as_wide_as_accounted_and_like_no_other() -> None:
    places = [("5e", 0, 0), ("5e", 0, 1), ("5e", 0, 2), ("5e", 0, 3), ("5e", 1, 0), ("5f", 0, 0)]
    vectors = np.stack([noise_of(*place) for place in places])
    assert np.array_equal(vectors[1], noise_of(*places[1])), "a step that is repeated repeats its noise"
    assert_wide(vectors, most=1.003)  # Rounding may make it wider.
    assert_unlike(vectors)
    assert stats.kstest(vectors[0][:50_000], "norm").pvalue > 1e-6


# 20. Noise of releases


def test_20_the_noise_of_a_release_is_as_wide_as_accounted_and_like_no_other(
    stopped_world: Callable[[], None],
) -> None:
    histograms = tuple(Histogram(name, sigma) for name, sigma in {"a": 20.0, "b": 20.0, "c": 45.0}.items())
    vectors: list[NDArray[np.float64]] = []
    for _ in range(2):
        stopped_world()
        counted = {each.name: Counts(np.full((8, 1 << 16), 1000)) for each in histograms}
        noisy = noisy_histograms(counted, Release("counts", histograms))
        vectors += [(noisy[each.name].counts.ravel() - 1000) / each.sigma for each in histograms]
    assert_wide(np.stack(vectors))
    assert_unlike(np.stack(vectors))
