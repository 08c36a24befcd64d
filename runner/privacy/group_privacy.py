"""What several records of one person cost together.

    >>> from runner.privacy.accountant import Mechanism
    >>> spent = [(Mechanism(examples=16_094, batch_size=1_024, noise_multiplier=0.7151), 80)]
    >>> round(epsilon_of_group(spent, 2e-5, 2), 2)
    17.65

Neighbors differ in k records that are emptied together. Of these a step's batch has j ~ Binomial(k, q), each on its
own, and the clipped sum changes by at most j times the clip: a mixture of Gaussians. The worst case is that all their
gradients are the same, so one number stands for the sum (Ganesh 2024, arXiv:2401.10294; Choquette-Choo and others
2023, arXiv:2310.15526, corollary 4.7). In a histogram they change the same cell by k. The distributions and their
composition are dp-accounting's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from runner.privacy.accountant import (
    Mechanism,
    Release,
    Spent,
    epsilon,
    one_histogram,
    plain_epsilon,
)
from runner.privacy.figures import EPSILON_THAT_SAYS_SOMETHING, EPSILON_TOO_LARGE, epsilon_in_words

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

GROUPS = (1, 2, 5, 10)
"""Records of one person for which a statement has a figure."""
SMALLEST_INTERVAL = 1e-3
POINTS = 100_000
"""Of a step's privacy loss distribution, about. Fewer make a larger bound: with a tenth by less than 1e-4 of it."""
TAIL_DEVIATIONS = 10.0
"""Beyond so many standard deviations a distribution's tail counts as delta."""


def epsilon_of_group(spent: Spent, delta: float, records: int) -> float:
    """The epsilon, at `delta`, of all this for so many records together, by PLD; infinite where delta does not pay.

    A value that only these records have may be released, where the cells are values that occur: with a probability
    that is taken from delta.
    """
    taken = tuple((what, count) for what, count in spent if count > 0)
    if records == 1:
        return epsilon(taken, delta)
    thresholds = math.fsum(
        count * histogram.threshold_delta_of(records)
        for what, count in taken
        if isinstance(what, Release)
        for histogram in what.histograms
    )
    return _epsilon(taken, delta - thresholds, records)


def epsilons_of_groups(spent: Spent, delta: float, groups: Sequence[int] = GROUPS) -> dict[str, float | str]:
    """`epsilon_of_group` by the number of records, as plain values; that of one record alone where it says nothing."""
    one = epsilon_of_group(spent, delta, 1)
    if one > EPSILON_THAT_SAYS_SOMETHING:
        return {"1": plain_epsilon(one)}
    return {str(records): plain_epsilon(epsilon_of_group(spent, delta, records)) for records in groups}


def groups_in_words(figures: Mapping[str, float | str], of_what: str = "records") -> str:
    """What several records, or persons, cost together, in one line."""
    several = [(records, each) for records, each in figures.items() if records != "1"]
    if not several:
        return f"none is stated: {EPSILON_TOO_LARGE}"
    return ", ".join(f"{records} {of_what} {epsilon_in_words(each)}" for records, each in several) + " (PLD)"


@lru_cache(maxsize=256)
def _epsilon(taken: tuple[tuple[Mechanism | Release, int], ...], delta: float, records: int) -> float:
    if not taken:
        return 0.0
    noises = {
        noise
        for what, _ in taken
        for noise in (
            [each.multiplier() for each in what.noises] if isinstance(what, Release) else [what.noise_multiplier]
        )
    }
    if delta <= 0 or 0 in noises:
        return math.inf
    interval = _interval(min(noises), records)
    composed = None
    for what, count in taken:
        if isinstance(what, Release):
            parts = [(one_histogram(noise, records, interval), n * count) for noise, n in sorted(what.noises.items())]
        else:
            parts = [(_step(what.sampling_probability, what.noise_multiplier, records, interval), count)]
        for part, times in parts:
            part = part.self_compose(times)
            composed = part if composed is None else composed.compose(part)
    return float(cast(Any, composed).get_epsilon_for_delta(delta))


def _interval(noise: float, records: int) -> float:
    """What privacy losses are rounded to: 1, 2 or 5 times a power of ten."""
    width = 2 * (TAIL_DEVIATIONS * records / noise + records**2 / (2 * noise**2))
    wanted = max(width / POINTS, SMALLEST_INTERVAL)
    power = 10.0 ** math.floor(math.log10(wanted) + 1e-9)
    return next(power * step for step in (1, 2, 5, 10) if power * step >= wanted * (1 - 1e-9))


@lru_cache(maxsize=64)
def _step(q: float, noise_multiplier: float, records: int, interval: float) -> PrivacyLossDistribution:
    """The privacy loss distribution of one step, as dp-accounting's `from_mixture_gaussian_mechanism` makes it.

    That one finds where a loss is reached by bisection, one loss after the other, which takes minutes.
    """
    from dp_accounting.pld import pld_pmf, privacy_loss_distribution
    from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, MixtureGaussianPrivacyLoss
    from scipy.stats import binom

    among = np.arange(records + 1)
    probabilities = binom.pmf(among, records, q)

    class Mixture(MixtureGaussianPrivacyLoss):
        def inverse_privacy_losses(self, privacy_losses: Any, precision: float = 0.0) -> NDArray[np.float64]:
            # Removing, a loss is log sum_j p_j exp(j t - j^2 / 2 sigma^2) with t = -x / sigma^2; adding, it is the
            # negative of that with t = x / sigma^2.
            del precision
            sign = 1 if self.adjacency_type == AdjacencyType.REMOVE else -1
            losses = sign * np.asarray(privacy_losses, float)
            return -sign * noise_multiplier**2 * _where_reached(losses, probabilities, noise_multiplier)

    def distribution(adjacency: AdjacencyType) -> pld_pmf.PLDPmf:
        mixture = Mixture(noise_multiplier, among.tolist(), probabilities.tolist(), adjacency_type=adjacency)
        bounds = mixture.connect_dots_bounds()
        low = math.floor(cast(float, bounds.epsilon_lower) / interval)
        high = math.ceil(cast(float, bounds.epsilon_upper) / interval)
        deltas = mixture.get_delta_for_epsilon(cast(Any, interval * np.arange(low, high + 1)))
        return pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(interval, low, high, cast(Any, deltas))

    return privacy_loss_distribution.PrivacyLossDistribution(
        distribution(AdjacencyType.REMOVE), distribution(AdjacencyType.ADD)
    )


def _where_reached(
    losses: NDArray[np.float64], probabilities: NDArray[np.float64], noise: float
) -> NDArray[np.float64]:
    """t with log sum_j p_j exp(j t - j^2 / 2 noise^2) = loss, for each loss (N,) above log p_0.

    Without the term of j = 0 that logarithm is convex in t, with a slope of at least 1: Newton's method from above,
    where the largest term alone reaches the loss.
    """
    from scipy.special import logsumexp

    j = 1.0 + np.flatnonzero(probabilities[1:])
    terms = np.log(probabilities[1:][probabilities[1:] > 0]) - j**2 / (2 * noise**2)
    if probabilities[0] > 0:
        losses = losses + np.log1p(-np.exp(math.log(probabilities[0]) - losses))
    t = np.min((np.expand_dims(losses, 1) - terms) / j, axis=1)
    for _ in range(100):
        each = terms + t[:, np.newaxis] * j  # (N, k)
        total = cast(NDArray[np.float64], logsumexp(each, axis=1))
        slope = np.sum(np.exp(each - total[:, np.newaxis]) * j, axis=1)
        change = (total - losses) / slope
        t = t - change
        if np.all(np.abs(change) <= 1e-13 * (1 + np.abs(t))):
            break
    return t
