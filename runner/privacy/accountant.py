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

Beside the steps a run may *release* noisy histograms of its records. A record that is emptied changes at most one
cell of each by 1, so a release composes as one scalar discrete Gaussian mechanism of sensitivity 1 for each
histogram. Its privacy loss distribution is exact; by Renyi divergence it costs at most what Gaussian noise of the same
sigma would (Canonne, Kamath, Steinke 2020, theorems 4 and 14).

    >>> release = Release("schema", (Histogram("age", 15.0), Histogram("income", 15.0)))
    >>> round(epsilon([(release, 1)], delta=1e-6), 3), round(epsilon([(mechanism, 3906), (release, 1)], delta=1e-6), 3)
    (0.373, 2.044)

Where up to K records of one person are in a histogram, they change it by a vector whose norm is at most K: all of them
in one cell. Noise of sigma costs what continuous Gaussian noise of sqrt(sigma^2 - 1.5^2) / K does at sensitivity 1. For
it is that noise, worked on: with Y normal of variance sigma^2 - s^2, and Z an integer drawn about it with probability
proportional to exp(-(Z - Y)^2 / (2 s^2)), Z is a discrete Gaussian of sigma, up to a factor that for s = 1.5 is below
1 + 2^-62 (`runner.privacy.wide_gaussian` has the steps). That is 2^-61 K of epsilon for a histogram, below what the
accountants' floating point can show. So it does not matter which cells the records share out between them.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, cast

import numpy as np

from runner.errors import PrivacyError
from runner.privacy.discrete_gaussian import discrete_gaussian_tail

Accountant = Literal["pld", "rdp"]
LARGEST_NOISE_MULTIPLIER = 1e4
SMALLEST_NOISE_MULTIPLIER = 0.05
PLD_UP_TO = 50.0
"""Where RDP gives more, RDP's bound stands for PLD too: a distribution that wide takes minutes and gigabytes."""
LOSS_INTERVAL = 1e-4
"""Privacy losses are rounded to multiples of it, so that the bound holds."""
NOISE_STEP = 1e-4
"""Noise multipliers that are found here are multiples of this, rounded up."""
ROUNDING = 1.5
"""Of the noise on counts of several records: the standard deviation of a part that makes a whole number of it."""


@dataclass(frozen=True)
class Mechanism:
    """What one step releases: the clipped sum over a Poisson sample of `examples`, with Gaussian noise.

    `batch_size` is the expected one. The noise's standard deviation is `noise_multiplier` x `l2_norm_clip`, and as much
    more as pays for rounding (`runner.privacy.grid`).
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


@dataclass(frozen=True)
class Histogram:
    """Counts of records with discrete Gaussian noise of `sigma` records. A record is in at most one of its cells.

    `threshold`: where the cells are the values that occur, the noisy count from which a cell is released; None where
    the cells are public. `sensitivity`: the most records of one unit of privacy that are counted, 1 of single records.
    """

    name: str
    sigma: float
    threshold: int | None = None
    sensitivity: int = 1

    def __post_init__(self) -> None:
        if not self.sigma > (0 if self.sensitivity == 1 else ROUNDING):
            raise PrivacyError(f"the histogram of {self.name!r} needs more noise than {self.sigma:g}")
        if self.sensitivity < 1:
            raise PrivacyError(f"the histogram of {self.name!r} has a sensitivity of {self.sensitivity}")

    @property
    def noise(self) -> Noise:
        """What a privacy loss follows from."""
        return Noise(self.sigma, self.sensitivity)

    @property
    def threshold_delta(self) -> float:
        """The probability that a value that only one unit has is released: that noise makes its count the threshold."""
        return self.threshold_delta_of(1)

    def threshold_delta_of(self, units: int) -> float:
        """The most that the probability can be that a value that only these units have is released.

        Of their records m may share a value, whose count noise has then to raise by threshold - m; k records have k / m
        such values. The probability of any is at most the sum, and for shares of different sizes no larger.
        """
        if self.threshold is None:
            return 0.0
        records = self.sensitivity * units
        shared = np.arange(1, records + 1)
        return float(np.max(records / shared * discrete_gaussian_tail(self.sigma, self.threshold - shared)))


class Noise(NamedTuple):
    """Discrete Gaussian noise of `sigma` on counts in which one unit has up to `sensitivity` records."""

    sigma: float
    sensitivity: int

    def multiplier(self, units: int = 1) -> float:
        """Over the sensitivity to so many units: of the continuous Gaussian noise that costs as much at least."""
        spread = 0.0 if self.sensitivity == 1 else ROUNDING
        return math.sqrt(self.sigma**2 - spread**2) / (self.sensitivity * units)


@dataclass(frozen=True)
class Release:
    """Noisy histograms of the records that are released once, together.

    `place`: the URI of the run directory that draws it. Two copies of a run that both draw have two releases.
    """

    name: str
    histograms: tuple[Histogram, ...]
    place: str = ""

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Release:
        """From the values of its JSON."""
        histograms = tuple(Histogram(**histogram) for histogram in plain["histograms"])
        return cls(plain["name"], histograms, plain.get("place", ""))

    def describe(self) -> dict[str, Any]:
        """What a statement says of it."""
        return {"name": self.name, "histograms": [asdict(histogram) for histogram in self.histograms]}

    @property
    def noises(self) -> Counter[Noise]:
        """How many histograms have each noise."""
        return Counter(histogram.noise for histogram in self.histograms)

    @property
    def threshold_delta(self) -> float:
        """The probability that any of a unit's values that no other unit has is released."""
        return math.fsum(histogram.threshold_delta for histogram in self.histograms)


Spent = Sequence[tuple[Mechanism | Release, int]]
"""What was done with the same records: mechanisms and the steps taken of each, and releases, once each."""


def spent_by(releases: Sequence[Release], mechanism: Mechanism | None = None, steps: int = 0) -> Spent:
    """What releases and so many steps are together."""
    return [*((release, 1) for release in releases), *([(mechanism, steps)] if mechanism and steps else [])]


def spent_from_plain(plain: Sequence[Any]) -> tuple[tuple[Mechanism | Release, int], ...]:
    """From the values of their JSON."""
    return tuple(
        (Release.from_plain(what) if "histograms" in what else Mechanism(**what), count) for what, count in plain
    )


def without_empty_releases(plain: dict[str, Any]) -> dict[str, Any]:
    """Values as JSON holds them, without `releases` where there are none: as they were before there were any."""
    kept = {name: value for name, value in plain.items() if name != "releases" or value}
    return json.loads(json.dumps(kept))


def epsilon(spent: Spent, delta: float, accountant: Accountant = "pld") -> float:
    """The epsilon, at `delta`, of all this together; infinite where a step had no noise.

    What thresholds cost is taken from delta: with probability at most the sum of theirs a value of a single record
    is released, and else its cell is as if it had not been looked at.
    """
    taken = tuple((what, count) for what, count in spent if count > 0)
    thresholds = sum(count * what.threshold_delta for what, count in taken if isinstance(what, Release))
    return _epsilon(taken, delta - thresholds, accountant)


@lru_cache(maxsize=4096)
def _epsilon(taken: tuple[tuple[Mechanism | Release, int], ...], delta: float, accountant: Accountant) -> float:
    if not taken:
        return 0.0
    if delta <= 0 or any(isinstance(what, Mechanism) and what.noise_multiplier == 0 for what, _ in taken):
        return math.inf
    bound = _rdp_epsilon(taken, delta)
    if accountant == "rdp" or bound > PLD_UP_TO:
        return bound
    composed = None
    for each in _privacy_losses(taken):
        composed = each if composed is None else composed.compose(each)
    return float(cast(Any, composed).get_epsilon_for_delta(delta))


def epsilon_unamplified(spent: Spent, delta: float) -> float:
    """The epsilon if batches were fixed, so that each example is in exactly one of every epoch's steps.

    That is the Gaussian mechanism alone, once an epoch, without what the secrecy of the sample adds. Together,
    Gaussian mechanisms are one whose 1/noise^2 is the sum of theirs. Releases see every record as it is.
    """
    from dp_accounting import get_epsilon_gaussian

    precision = 0.0
    releases: list[tuple[Mechanism | Release, int]] = []
    for what, steps in spent:
        if isinstance(what, Release):
            releases.append((what, steps))
            continue
        epochs = math.ceil(steps * what.sampling_probability - 1e-9)
        if epochs and what.noise_multiplier == 0:
            return math.inf
        precision += epochs / what.noise_multiplier**2 if epochs else 0
    if releases:
        return epsilon([*releases, *([(Mechanism(1, 1, 1 / math.sqrt(precision)), 1)] if precision else [])], delta)
    return float(get_epsilon_gaussian(1 / math.sqrt(precision), delta)) if precision else 0.0


def find_noise(
    examples: int,
    batch_size: int,
    steps: int,
    target_epsilon: float,
    delta: float,
    accountant: Accountant = "pld",
    beside: Spent = (),
) -> float:
    """The smallest noise multiplier, rounded up to `NOISE_STEP`, with which the steps cost at most `target_epsilon`.

    `beside`: releases that the target pays for too.

    Raises:
        PrivacyError: no noise multiplier up to `LARGEST_NOISE_MULTIPLIER` does.
    """
    from scipy.optimize import brentq

    def cost(noise: float, by: Accountant) -> float:
        return epsilon([*beside, (Mechanism(examples, batch_size, noise), steps)], delta, by)

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
        if beside and accountant == "pld" and cost(LARGEST_NOISE_MULTIPLIER, "pld") <= target_epsilon:
            # Releases that take nearly all of it, and more by RDP.
            enough = LARGEST_NOISE_MULTIPLIER
            while cost(enough / 2, "pld") <= target_epsilon:
                enough /= 2
            return round(smallest(enough / 2, enough, "pld"), 4)
        raise PrivacyError(
            f"privacy.target_epsilon {target_epsilon:g} cannot be reached in {steps} steps of {batch_size} of "
            f"{examples} records at delta {delta:g}; raise it, or lower training.epochs or training.batch_size"
            f"{' or privacy.schema_epsilon' if beside else ''}"
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
    """How many steps of `mechanism` a budget of `limit` pays for, after what was taken `before`."""

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


def check_delta(delta: float, examples: int, what: str = "training records") -> None:
    """Refuse a delta that allows to publish a whole record now and then.

    Raises:
        PrivacyError: delta is 1 / n or more.
    """
    if delta >= 1 / examples:
        raise PrivacyError(
            f"privacy.delta {delta:g} is not below 1/n = {1 / examples:.3g} for {examples} {what}; "
            "lower it, or leave it out"
        )


def _privacy_losses(taken: Spent) -> Iterator[Any]:
    """The privacy loss distributions that compose to that of all this."""
    for what, count in taken:
        if isinstance(what, Release):
            for noise, histograms in sorted(what.noises.items()):
                yield one_histogram(noise).self_compose(histograms * count)
        else:
            yield _one_step(what.sampling_probability, what.noise_multiplier).self_compose(count)


@lru_cache(maxsize=64)
def one_histogram(noise: Noise, units: int = 1, interval: float = LOSS_INTERVAL) -> Any:
    """The privacy loss distribution of one histogram: of single records one cell changes, by their number."""
    from dp_accounting.pld import privacy_loss_distribution

    if noise.sensitivity > 1:
        return privacy_loss_distribution.from_gaussian_mechanism(
            noise.multiplier(units), value_discretization_interval=interval, use_connect_dots=True
        )
    return privacy_loss_distribution.from_discrete_gaussian_mechanism(
        noise.sigma, sensitivity=units, value_discretization_interval=interval, use_connect_dots=True
    )


@lru_cache(maxsize=64)
def _one_step(q: float, noise_multiplier: float) -> Any:
    """The privacy loss distribution of one step."""
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=noise_multiplier,
        value_discretization_interval=LOSS_INTERVAL,
        sampling_prob=q,
        neighboring_relation=NeighboringRelation.REPLACE_SPECIAL,
    )


def _rdp_epsilon(spent: Spent, delta: float) -> float:
    import dp_accounting
    from dp_accounting import rdp

    logging.getLogger("absl").setLevel(logging.ERROR)  # It tells of orders that it leaves out.
    accountant = rdp.RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_SPECIAL)
    for what, count in spent:
        if isinstance(what, Release):
            for noise, histograms in what.noises.items():
                accountant.compose(dp_accounting.GaussianDpEvent(noise.multiplier()), histograms * count)
        else:
            gaussian = dp_accounting.GaussianDpEvent(what.noise_multiplier)
            accountant.compose(dp_accounting.PoissonSampledDpEvent(what.sampling_probability, gaussian), count)
    return float(accountant.get_epsilon(delta))
