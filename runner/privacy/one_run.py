"""What a single run leaks at least, by guesses about canaries: a lower bound of epsilon that holds with confidence.

    found = measure_canaries(scores, is_in, delta=1e-5)      # found.epsilon: "measured at least", with 95% confidence

A secret coin for each of m canaries decides whether it is among the training records or an empty record is in its
place. Whoever has the model gives each canary a score and says of the k with the highest that they are in. Of a
private run no more than so many guesses can be right, but for chance. How many is known for all canaries of one run
together: Steinke, Nasr and Jagielski 2023 (arXiv:2305.08846) for epsilon and delta, and Mahloujifar, Melis and
Chaudhuri 2024 (arXiv:2410.22235), whose bound is used here, for a whole trade-off curve. The curve is that of a
Gaussian mechanism, which a training of many noisy steps comes near to (Dong, Roth and Su 2019, arXiv:1905.02383).

`k` is fixed before anything is scored, so that nothing has to be paid for its choice.

    >>> round(smallest_mu(canaries=4000, guesses=500, right=480, failures=0.05), 3)
    0.957
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dp_accounting
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from runner.privacy.noise import RunKey, key_stream

CONFIDENCE = 0.95
CANARIES_A_GUESS = 8
"""Canaries for each guess. A few sure guesses tell more than many; of fewer than these chance tells more."""
LARGEST_MU = 64.0
"""No count of guesses shows more."""


@dataclass(frozen=True)
class Measured:
    """What guesses about canaries showed. `epsilon` is at least so large, at the run's delta, with `confidence`.

    `canaries`: those with a coin, of which `inside` were in; `right`: how many of the `guesses` were.
    """

    canaries: int
    inside: int
    guesses: int
    right: int
    confidence: float
    epsilon: float


def toss_coins(key: RunKey, canaries: int) -> NDArray[np.bool_]:
    """(canaries,): which are in. A function of the run's key, so that it is kept nowhere else."""
    stream = key_stream(key.for_coins(), 0)
    return (np.frombuffer(stream(canaries), np.uint8) & 1).astype(bool)


def measure_canaries(
    scores: NDArray[np.floating], is_in: NDArray[np.bool_], delta: float, confidence: float = CONFIDENCE
) -> Measured:
    """scores (m,): higher where a canary rather looks like one that is in. is_in (m,): its coin."""
    guesses = max(1, scores.size // CANARIES_A_GUESS)
    guessed = np.argsort(-scores, kind="stable")[:guesses]
    right = int(is_in[guessed].sum())
    mu = smallest_mu(scores.size, guesses, right, 1 - confidence)
    epsilon = dp_accounting.get_epsilon_gaussian(1 / mu, delta) if mu else 0.0
    return Measured(scores.size, int(is_in.sum()), guesses, right, confidence, float(epsilon))


def smallest_mu(canaries: int, guesses: int, right: int, failures: float) -> float:
    """The largest mu that `right` of `guesses` refute: of a mu-GDP training so many are right with a probability of at
    most `failures`. 0 where nothing is refuted."""

    def excess(mu: float) -> float:
        return _excess(mu, canaries, guesses, right, failures)

    if excess(0.0) <= 0:
        return 0.0
    if excess(LARGEST_MU) > 0:
        return LARGEST_MU
    found: Any = brentq(excess, 0.0, LARGEST_MU, xtol=1e-6)
    return float(found)


def _excess(mu: float, canaries: int, guesses: int, right: int, failures: float) -> float:
    """Positive where a mu-GDP training is refuted: `audit_rh_with_cap` of arXiv:2410.22235.

    r and h are the shares of canaries that would be guessed right and wrong if this happened with probability
    `failures`; each round is about one right guess less, down to none.
    """
    r, h = failures * right / canaries, failures * (guesses - right) / canaries
    for i in range(right - 1, -1, -1):
        larger = max(h, float(ndtr(ndtri(r) - mu)))
        if larger == h:  # Then it stays so.
            break
        r = min(r + i / (guesses - i) * (larger - h), 1.0)
        h = larger
    return r + h - guesses / canaries
