"""The private sampler: every training example joins every step on its own, with the same probability."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from runner.data import batches
from runner.data.batches import BatchPlan, PoissonPlan

UNLIKELY = 1e-6
"""A correct sampler fails a test that asks for this p-value once in a million runs; keys are fixed, so never here."""


def plan_of(
    examples: int, batch_size: int, *, key: tuple[int, int] = (11, 12), validation: bool = False
) -> PoissonPlan:
    return PoissonPlan(examples, batch_size, seed=3, validation_split=validation, key=key)


def draws(plan: PoissonPlan, steps: int) -> np.ndarray:
    """(steps, n) of which example is in which step."""
    joined = np.zeros((steps, plan.examples), bool)
    for step in range(steps):
        epoch, within = divmod(step, plan.training_steps)
        joined[step, plan.training_positions(epoch, within)] = True
    return joined


def test_every_example_is_in_with_probability_q() -> None:
    plan, steps = plan_of(200, 20), 3000
    counts = draws(plan, steps).sum(axis=0)
    z = (counts - steps * 0.1) / np.sqrt(steps * 0.1 * 0.9)
    assert stats.kstest(z, "norm").pvalue > UNLIKELY
    assert np.abs(z).max() < 5


def test_batch_sizes_are_binomial() -> None:
    plan, steps = plan_of(200, 20), 3000
    sizes = draws(plan, steps).sum(axis=1)
    assert sizes.mean() == pytest.approx(20, abs=5 * np.sqrt(18 / steps))
    assert sizes.var() == pytest.approx(18, rel=5 * np.sqrt(2 / steps))
    observed = np.bincount(sizes, minlength=201)
    expected = steps * stats.binom.pmf(np.arange(201), 200, 0.1)
    common = expected > 10
    squares = (observed - expected)[common] ** 2 / expected[common]
    assert stats.chi2.sf(squares.sum(), common.sum() - 1) > UNLIKELY


def test_examples_and_steps_are_independent() -> None:
    joined = draws(plan_of(60, 15), 4000).astype(float)
    limit = 5 / np.sqrt(4000)
    between_examples = np.corrcoef(joined.T) - np.eye(60)
    assert np.abs(between_examples).max() < limit * 1.2
    between_steps = [np.corrcoef(joined[:-lag].ravel(), joined[lag:].ravel())[0, 1] for lag in (1, 2, 3)]
    assert np.abs(between_steps).max() < 5 / np.sqrt(joined.size / 2)


def test_blocks_are_drawn_apart_and_cover_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SAMPLING_BLOCK", 16)
    joined = draws(plan_of(50, 10), 2000)
    z = (joined.sum(axis=0) - 400) / np.sqrt(2000 * 0.2 * 0.8)
    assert np.abs(z).max() < 5, "examples at the end of a block too"
    sizes = joined.sum(axis=1)
    assert sizes.var() == pytest.approx(8, rel=5 * np.sqrt(2 / 2000)), "blocks do not move together"


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**64 - 1), st.integers(0, 5))
def test_a_batch_has_no_example_twice_and_none_for_validation(n: int, size: int, key: int, epoch: int) -> None:
    plan = plan_of(n, min(size, n), key=(key, 1))
    positions = plan.training_positions(epoch, 0)
    assert len(set(positions.tolist())) == positions.size
    assert set(positions.tolist()) <= set(range(n))


def test_validation_examples_are_never_drawn() -> None:
    plan = plan_of(500, 20, validation=True)
    held_back = {p for step in range(plan.validation_steps) for p in plan.validation_positions(step).tolist()}
    drawn = {
        p
        for step in range(plan.training_steps * 30)
        for p in plan.training_positions(*divmod(step, plan.training_steps))
    }
    assert held_back
    assert not held_back & drawn
    assert held_back | drawn == set(range(500))


def test_an_empty_batch_can_be_drawn() -> None:
    plan = plan_of(50, 1)
    assert min(plan.training_positions(*divmod(step, plan.training_steps)).size for step in range(100)) == 0


def test_all_examples_are_in_every_step_when_the_batch_is_everything() -> None:
    plan = plan_of(40, 40)
    assert plan.training_steps == 1
    assert plan.training_positions(3, 0).size == 40


def test_the_key_and_the_step_decide_and_nothing_else() -> None:
    one, again, other = plan_of(500, 50), plan_of(500, 50), plan_of(500, 50, key=(11, 13))
    assert one.training_positions(1, 2).tolist() == again.training_positions(1, 2).tolist()
    assert one.training_positions(1, 2).tolist() != one.training_positions(1, 3).tolist()
    assert one.training_positions(1, 2).tolist() != other.training_positions(1, 2).tolist()


def test_an_epoch_is_as_many_steps_as_use_each_example_once_on_average() -> None:
    assert [plan_of(100, size).training_steps for size in (1, 3, 7, 60, 100)] == [100, 33, 14, 2, 1]
    assert (BatchPlan.sampler, PoissonPlan.sampler) == ("shuffle", "poisson")
