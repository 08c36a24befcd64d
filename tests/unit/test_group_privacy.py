"""What several records of one person cost together, beside dp-accounting and beside what chance itself shows."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from scipy.special import logsumexp
from scipy.stats import binom

from runner.privacy.accountant import (
    Histogram,
    Mechanism,
    Noise,
    Release,
    epsilon,
    one_histogram,
)
from runner.privacy.discrete_gaussian import discrete_gaussian_tail
from runner.privacy.group_privacy import _step, epsilon_of_group, epsilons_of_groups, groups_in_words

DOCUMENTED = (Mechanism(examples=16_094, batch_size=1_024, noise_multiplier=0.7151), 80)
SMALL = Mechanism(examples=100, batch_size=20, noise_multiplier=2.0)


@pytest.mark.parametrize(("records", "expected"), [(2, 17.65), (5, 53.26)])
def test_the_run_of_the_documentation_costs_what_others_computed(records: int, expected: float) -> None:
    assert epsilon_of_group([DOCUMENTED], 2e-5, records) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize(("q", "noise", "records"), [(0.2, 2.0, 2), (0.05, 1.0, 5), (1.0, 4.0, 3), (1e-4, 3.0, 10)])
def test_a_step_s_losses_are_those_of_dp_accounting(q: float, noise: float, records: int) -> None:
    interval = 0.05
    theirs = privacy_loss_distribution.from_mixture_gaussian_mechanism(
        noise,
        list(range(records + 1)),
        binom.pmf(range(records + 1), records, q).tolist(),
        value_discretization_interval=interval,
    )
    ours = _step(q, noise, records, interval)
    for steps in (1, 7):
        for each in (0.01, 0.3, 1.0, 4.0):
            expected = theirs.self_compose(steps).get_delta_for_epsilon(each)
            assert ours.self_compose(steps).get_delta_for_epsilon(each) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("removed", [True, False])
def test_no_draw_contradicts_the_bound_and_a_smaller_one_would_be(removed: bool) -> None:
    """Monte Carlo: steps whose batches hold j ~ Binomial(3, q) of the records, all with the same gradient, or none."""
    records, steps, delta, trials = 3, 8, 0.05, 40_000
    q, noise = SMALL.sampling_probability, SMALL.noise_multiplier
    draw = np.random.default_rng(5)
    sums = draw.normal(0, noise, (trials, steps))
    if removed:
        sums += draw.binomial(records, q, sums.shape)
    among = np.arange(records + 1)
    per_step = logsumexp(
        (among * sums[..., np.newaxis] - among**2 / 2) / noise**2, axis=2, b=binom.pmf(among, records, q)
    )
    losses = per_step.sum(axis=1) * (1 if removed else -1)

    def hockey_stick(at: float) -> tuple[float, float]:
        """E[(1 - e^(at - loss))+] and its standard error."""
        each = np.maximum(-np.expm1(at - losses), 0)
        return float(each.mean()), float(each.std() / math.sqrt(trials))

    bound = epsilon_of_group([(SMALL, steps)], delta, records)
    found, error = hockey_stick(bound)
    assert found <= delta + 4 * error
    if removed:  # The dearer direction: here the bound is reached.
        found, error = hockey_stick(0.93 * bound)
        assert found > delta + 4 * error


def test_one_record_is_what_the_accountant_says_and_more_cost_more() -> None:
    release = Release("schema", (Histogram("age", 12.0),))
    spent = [(SMALL, 10), (release, 1)]
    figures = [epsilon_of_group(spent, 1e-5, records) for records in (1, 2, 5, 10)]
    assert figures[0] == epsilon(spent, 1e-5)
    assert all(less < more for less, more in pairwise(figures))


def test_more_records_cost_no_more_than_the_theorem_on_groups_allows() -> None:
    """Vadhan 2017, lemma 2.2: k epsilon at k e^((k - 1) epsilon) delta; with dp-accounting it is less."""
    spent = [(SMALL, 10)]
    one = epsilon(spent, 1e-9)
    for records in (2, 5):
        assert epsilon_of_group(spent, records * math.exp((records - 1) * one) * 1e-9, records) <= records * one


@pytest.mark.parametrize("sigma", [0.5, 2.0, 20.0])
def test_of_a_histogram_the_dearest_is_that_all_records_are_in_one_cell(sigma: float) -> None:
    interval = 1e-3
    together = one_histogram(Noise(sigma, 1), 4, interval)
    for parts in ((3, 1), (2, 2), (1, 1, 1, 1)):
        apart = one_histogram(Noise(sigma, 1), parts[0], interval)
        for part in parts[1:]:
            apart = apart.compose(one_histogram(Noise(sigma, 1), part, interval))
        for each in (0.1, 0.5, 2.0):
            assert apart.get_delta_for_epsilon(each) <= together.get_delta_for_epsilon(each) + 1e-9


def test_values_that_only_these_records_have_are_paid_from_delta() -> None:
    sigma, threshold, delta = 10.0, 60, 1e-6
    release = Release("schema", (Histogram("job", sigma, threshold),))
    open_cells = Release("schema", (Histogram("job", sigma),))
    # The five may share a value, or have one each: what is paid is the larger of these, at least.
    shared = discrete_gaussian_tail(sigma, threshold - 5)
    apart = 5 * discrete_gaussian_tail(sigma, threshold - 1)
    assert max(shared, apart) < delta
    paid = epsilon_of_group([(release, 1)], delta, 5)
    assert paid >= epsilon_of_group([(open_cells, 1)], delta - max(shared, apart), 5)
    assert epsilon_of_group([(release, 1)], shared, 5) == math.inf


def test_without_noise_nothing_is_stated_and_where_one_says_nothing_neither() -> None:
    silent = Mechanism(examples=100, batch_size=20, noise_multiplier=0.0)
    assert epsilon_of_group([(silent, 1)], 1e-5, 2) == math.inf
    assert epsilon_of_group([], 1e-5, 2) == 0.0
    assert epsilons_of_groups([(silent, 1)], 1e-5) == {"1": "infinite"}
    assert "almost nothing" in groups_in_words(epsilons_of_groups([(silent, 1)], 1e-5))


def test_the_figures_are_told_rounded_up() -> None:
    assert groups_in_words({"1": 1.0, "2": 3.00001, "5": "infinite"}) == "2 records 3.0001, 5 records infinite (PLD)"
