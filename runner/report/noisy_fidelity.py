"""How faithful synthetic records are to real ones of which only noisy counts are known, and how far noise may be off.

    accuracy = 1 - sum over all cells of |noisy count / records - share of the synthetic records| / 2 + doubt

The cells are groups of one, two or three columns' values. Noise of sigma makes a difference d of shares larger on
average: by nothing where d is large, and by sqrt(2 / pi) sigma / records where it is 0, as |.| is convex. So the
distance is too large by at least 0 and at most cells sqrt(2 / pi) sigma / records / 2. Half of that, the *doubt*, is
put right, and stays in doubt: it may be off by so much on either side. Around that a distance varies, with a variance
of at most cells (sigma / records)^2 / 4. The error is the doubt and 1.96 standard deviations: 95% of reports are off by
less, whatever the records are.

`most` is what chance leaves of 1, as in `runner.report.fidelity`, with the synthetic records' shares for the source's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runner.report.fidelity import chance_accuracy

CERTAIN = 1.96
"""Standard deviations that 95% of normal deviates stay within."""


@dataclass(frozen=True)
class NoisyAccuracy:
    """`estimate` may be above 1. `doubt`: how far noise may be off on average, on either side; `variance`: around that,
    at most; `most`: what another sample of the same source is expected to come to."""

    estimate: float
    doubt: float
    variance: float
    most: float

    @property
    def value(self) -> float:
        """The estimate, as an accuracy."""
        return min(max(self.estimate, 0.0), 1.0)

    @property
    def error(self) -> float:
        """95% of estimates are nearer to the exact figure than this."""
        return self.doubt + CERTAIN * math.sqrt(self.variance)


def measure_accuracy(
    noisy: NDArray[np.integer], sigma: float, synthetic: NDArray[np.integer], records: int
) -> NoisyAccuracy:
    """noisy: counts of real records with noise `sigma`; synthetic: exact counts in the same cells. records: how many
    real ones there are, which is public."""
    shares = synthetic / synthetic.sum()
    unit, cells = sigma / records, noisy.size
    doubt = cells * math.sqrt(2 / math.pi) * unit / 4
    distance = float(np.abs(noisy / records - shares).sum()) / 2
    most = chance_accuracy(shares, records, int(synthetic.sum()))
    return NoisyAccuracy(1 - distance + doubt, doubt, cells * unit**2 / 4, most)


def mean_accuracy(accuracies: Sequence[NoisyAccuracy]) -> NoisyAccuracy:
    """Of accuracies whose noise is independent."""
    count = len(accuracies)
    return NoisyAccuracy(
        sum(each.estimate for each in accuracies) / count,
        sum(each.doubt for each in accuracies) / count,
        sum(each.variance for each in accuracies) / count**2,
        sum(each.most for each in accuracies) / count,
    )
