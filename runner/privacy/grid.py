"""The grid that a private step's mean gradient is on, and the noise that its being rounded to it takes.

    >>> grid = grid_of(Mechanism(examples=50_000, batch_size=64, noise_multiplier=1.0, l2_norm_clip=0.1), weights=10**6)
    >>> grid.spacing == 2.0**-30, round(grid.sigma * grid.spacing * 64 / 0.1, 4)      # noise over clip
    (True, 1.001)

The noise of a sum in floating point tells what it was added to: of the numbers near a noisy one, most could not have
come from adding noise to this sum, but could from adding it to another (Mironov, CCS 2012). So each replica's clipped
sum is divided by the expected batch size and rounded to a multiple of `spacing`, a power of two. The noise is an
integer times `spacing`. Their sum, over all replicas, is exact in float64, in any order: what a step releases is a
vector of integers, and everything after that, float32 included, is made of these.

**Sensitivity.** Emptying a record moves a replica's sum by at most the clip C, and rounding moves each of d weights by
at most one spacing more. In spacings, for R replicas (a record can change the shape of all shares, and so how each is
rounded), the sum of the integers moves by at most

    C (1 + m) / (batch_size x spacing) + R sqrt(d),    m = 2^-12 + 2^-19 batch_size

and the noise has that times the noise multiplier as its deviation. So the noise multiplier that is accounted for is
the one that was asked for; the noise is some thousandths wider than noise multiplier times clip.

m is for what happens before the rounding: records' norms and their sum are computed in float32, and one record, by
its length, can change the shape of the batch and with it how each sum is off. That is measured, not proven: 1.1e-6 for
each record of a batch whose gradients all point the same way, far less for others (`tests/unit/test_grid.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from runner.privacy.accountant import Mechanism
from runner.privacy.wide_gaussian import noise_dtype

ROUNDING = 2.0**-10
"""The largest part of the clip that rounding to the grid may add to the sensitivity."""
FLOAT_MARGIN, FLOAT_MARGIN_OF_RECORD = 2.0**-12, 2.0**-19
"""Parts of the clip, for what is computed in float32 before the rounding."""
SMOOTHING = 3.0
"""Squared, what discrete noise has more variance than the continuous noise that it is made of."""


@dataclass(frozen=True)
class Grid:
    """Multiples of `spacing`, for a mean over `batch_size`; the noise is `sigma` of them wide."""

    spacing: float
    sigma: float
    batch_size: int

    @property
    def noise_dtype(self) -> np.dtype[np.signedinteger]:
        """What holds the noise's integers."""
        return noise_dtype(self.sigma)


def grid_of(mechanism: Mechanism, weights: int, replicas: int = 1, records_of_person: int = 1) -> Grid:
    """For the sum of so many replicas' gradients of `weights` numbers; of up to so many records of each example."""
    clip = mechanism.l2_norm_clip / mechanism.batch_size
    rounded = replicas * math.sqrt(weights)
    spacing = 2.0 ** math.floor(math.log2(ROUNDING * clip / rounded))
    margin = FLOAT_MARGIN + FLOAT_MARGIN_OF_RECORD * mechanism.batch_size * records_of_person
    sensitivity = (1 + margin) * clip / spacing + rounded
    noise = mechanism.noise_multiplier
    return Grid(spacing, math.hypot(noise * sensitivity, SMOOTHING) if noise else 0.0, mechanism.batch_size)
