"""What a private run costs: epsilon of so many noisy steps, and the noise or the steps that a budget pays for.

    >>> mechanism = Mechanism(examples=50_000, batch_size=256, noise_multiplier=1.0)
    >>> mechanism.steps_per_epoch, mechanism.sampling_probability
    (195, 0.00512)
    >>> round(epsilon([(mechanism, 3906)], delta=1e-6), 3)                       # PLD
    2.0
    >>> round(epsilon([(mechanism, 3906)], delta=1e-6, accountant="rdp"), 3)
    2.229

A step releases the Gaussian mechanism on a Poisson sample: every example is in with probability q = batch_size /
examples on its own, and the sum of clipped gradients gets noise of noise_multiplier times the clip. Neighbors differ
in one record emptied in its place (zero-out, dp-accounting's REPLACE_SPECIAL). The computing is dp-accounting's:
privacy loss distributions (PLD, tight) or Renyi divergences (RDP, an upper bound).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast

from runner.errors import PrivacyError

Accountant = Literal["pld", "rdp"]
LARGEST_NOISE_MULTIPLIER = 1e4
SMALLEST_NOISE_MULTIPLIER = 0.05
PLD_UP_TO = 50.0
"""Where RDP gives more, RDP's bound stands for PLD too: a distribution that wide takes minutes and gigabytes."""
NOISE_STEP = 1e-4
"""Noise multipliers that are found here are multiples of this, rounded up."""


@dataclass(frozen=True)
class Mechanism:
    """What one step releases: the clipped sum over a Poisson sample of `examples`, with Gaussian noise.

    `batch_size` is the expected one. The noise's standard deviation is `noise_multiplier` x `l2_norm_clip`.
    """

    examples: int
    batch_size: int
    noise_multiplier: float
    l2_norm_clip: float = 1.0
    sampler: str = "poisson"

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.examples:
            raise PrivacyError(
                f"training.batch_size is {self.batch_size}, but there are {self.examples} training records; lower it"
            )
        if not self.noise_multiplier >= 0 or not self.l2_norm_clip > 0:
            raise PrivacyError(
                f"the noise multiplier {self.noise_multiplier} and the clip {self.l2_norm_clip} must be positive"
            )

    @property
    def sampling_probability(self) -> float:
        """q: the probability with which an example is in a step."""
        return self.batch_size / self.examples

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which an example is expected to be used once: round(1 / q)."""
        return max(1, round(self.examples / self.batch_size))


Spent = Sequence[tuple[Mechanism, int]]
"""Mechanisms and how many steps of each were taken on the same records."""


def epsilon(spent: Spent, delta: float, accountant: Accountant = "pld") -> float:
    """The epsilon, at `delta`, of all these steps together; infinite where one had no noise."""
    return _epsilon(tuple((mechanism, steps) for mechanism, steps in spent if steps > 0), delta, accountant)


@lru_cache(maxsize=4096)
def _epsilon(taken: tuple[tuple[Mechanism, int], ...], delta: float, accountant: Accountant) -> float:
    if not taken:
        return 0.0
    if any(mechanism.noise_multiplier == 0 for mechanism, _ in taken):
        return math.inf
    bound = _rdp_epsilon(taken, delta)
    if accountant == "rdp" or bound > PLD_UP_TO:
        return bound
    composed = None
    for mechanism, steps in taken:
        each = _one_step(mechanism.sampling_probability, mechanism.noise_multiplier).self_compose(steps)
        composed = each if composed is None else composed.compose(each)
    return float(cast(Any, composed).get_epsilon_for_delta(delta))


def epsilon_unamplified(spent: Spent, delta: float) -> float:
    """The epsilon if batches were fixed, so that each example is in exactly one of every epoch's steps.

    That is the Gaussian mechanism alone, once an epoch, without what the secrecy of the sample adds. Together,
    Gaussian mechanisms are one whose 1/noise^2 is the sum of theirs.
    """
    from dp_accounting import get_epsilon_gaussian

    precision = 0.0
    for mechanism, steps in spent:
        epochs = math.ceil(steps * mechanism.sampling_probability - 1e-9)
        if epochs and mechanism.noise_multiplier == 0:
            return math.inf
        precision += epochs / mechanism.noise_multiplier**2 if epochs else 0
    return float(get_epsilon_gaussian(1 / math.sqrt(precision), delta)) if precision else 0.0


def find_noise(
    examples: int, batch_size: int, steps: int, target_epsilon: float, delta: float, accountant: Accountant = "pld"
) -> float:
    """The smallest noise multiplier, rounded up to `NOISE_STEP`, with which the steps cost at most `target_epsilon`.

    Raises:
        PrivacyError: no noise multiplier up to `LARGEST_NOISE_MULTIPLIER` does.
    """
    from scipy.optimize import brentq

    def cost(noise: float, by: Accountant) -> float:
        return epsilon([(Mechanism(examples, batch_size, noise), steps)], delta, by)

    def smallest(low: float, high: float, by: Accountant) -> float:
        """Between a noise that costs too much and one that does not."""
        # A cost can be exactly 0 where there is much more noise than needed.
        found = brentq(
            lambda noise: math.log(max(cost(noise, by), 1e-12) / target_epsilon), low, high, xtol=NOISE_STEP / 4
        )
        noise = math.ceil(cast(float, found) / NOISE_STEP) * NOISE_STEP
        while cost(noise, by) > target_epsilon:
            noise += NOISE_STEP
        return noise

    if cost(LARGEST_NOISE_MULTIPLIER, "rdp") > target_epsilon:
        raise PrivacyError(
            f"privacy.target_epsilon {target_epsilon:g} cannot be reached in {steps} steps of {batch_size} of "
            f"{examples} records at delta {delta:g}; raise it, or lower training.epochs or training.batch_size"
        )
    # RDP is quick and an upper bound: what it finds is enough noise for PLD too.
    if cost(SMALLEST_NOISE_MULTIPLIER, "rdp") <= target_epsilon:
        return SMALLEST_NOISE_MULTIPLIER
    enough = smallest(SMALLEST_NOISE_MULTIPLIER, LARGEST_NOISE_MULTIPLIER, "rdp")
    if accountant == "pld":
        too_little = 0.9 * enough
        while cost(too_little, "pld") <= target_epsilon:
            enough, too_little = too_little, 0.9 * too_little
        enough = smallest(too_little, enough, "pld")
    return round(enough, 4)


def steps_within(
    mechanism: Mechanism, limit: float, delta: float, accountant: Accountant = "pld", before: Spent = ()
) -> int:
    """How many steps of `mechanism` a budget of `limit` pays for, after the steps that were taken `before`."""

    def fits(steps: int) -> bool:
        return epsilon([*before, (mechanism, steps)], delta, accountant) <= limit

    if not fits(0) or not fits(1):
        return 0
    low, high = 1, 2
    while fits(high):
        low, high = high, 2 * high
        if high > 1 << 40:
            return low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def plain_epsilon(value: float) -> float | str:
    """An epsilon as JSON can hold it: an infinite one is the string "infinite"."""
    return "infinite" if math.isinf(value) else value


def default_delta(examples: int) -> float:
    """1 / n^1.1, rounded down to one digit.

    >>> default_delta(50_000), default_delta(1000)
    (6e-06, 0.0005)
    """
    exact = examples**-1.1
    exponent = math.floor(math.log10(exact))
    return float(f"{math.floor(exact / 10.0**exponent + 1e-9)}e{exponent}")


def check_delta(delta: float, examples: int) -> None:
    """Refuse a delta that allows to publish a whole record now and then.

    Raises:
        PrivacyError: delta is 1 / n or more.
    """
    if delta >= 1 / examples:
        raise PrivacyError(
            f"privacy.delta {delta:g} is not below 1/n = {1 / examples:.3g} for {examples} training records; "
            "lower it, or leave it out"
        )


@lru_cache(maxsize=64)
def _one_step(q: float, noise_multiplier: float) -> Any:
    """The privacy loss distribution of one step."""
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=noise_multiplier,
        value_discretization_interval=1e-4,
        sampling_prob=q,
        neighboring_relation=NeighboringRelation.REPLACE_SPECIAL,
    )


def _rdp_epsilon(spent: Spent, delta: float) -> float:
    import dp_accounting
    from dp_accounting import rdp

    logging.getLogger("absl").setLevel(logging.ERROR)  # It tells of orders that it leaves out.
    accountant = rdp.RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_SPECIAL)
    for mechanism, steps in spent:
        gaussian = dp_accounting.GaussianDpEvent(mechanism.noise_multiplier)
        accountant.compose(dp_accounting.PoissonSampledDpEvent(mechanism.sampling_probability, gaussian), steps)
    return float(accountant.get_epsilon(delta))
