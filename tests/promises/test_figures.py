"""What a step adds and what epsilon says of it, to a thousandth: a hundredth of noise or rate is not lost in chance.

The judge of epsilon is dp-accounting, asked directly.
"""

from __future__ import annotations

import dp_accounting
import numpy as np
import pytest
import tensorflow as tf
from dp_accounting import pld, rdp

from runner.privacy.accountant import Mechanism, epsilon
from runner.privacy.grid import grid_of
from runner.train import step


@pytest.mark.parametrize(("examples", "batch", "noise", "steps"), [(192, 24, 4.0, 240), (50_000, 256, 0.7, 300)])
def test_02_epsilon_is_that_of_the_rate_the_noise_and_the_steps(
    examples: int, batch: int, noise: float, steps: int
) -> None:
    event = dp_accounting.PoissonSampledDpEvent(batch / examples, dp_accounting.GaussianDpEvent(noise))
    relation = dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    mechanism = Mechanism(examples, batch, noise)
    for by, judge in (("rdp", rdp.RdpAccountant(None, relation)), ("pld", pld.PLDAccountant(relation))):
        expected = judge.compose(event, steps).get_epsilon(1e-5)
        assert epsilon([(mechanism, steps)], 1e-5, by) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("clip", [1e-3, 0.05, 1.0, 40.0])
@pytest.mark.parametrize("batch", [10, 1000])
@pytest.mark.parametrize("shapes", [[(3, 5), (7,)], [(40, 30), (30,)]])
def test_05_the_noise_of_a_step_is_as_wide_as_accounted_at_any_clip_and_size(
    clip: float, batch: int, shapes: list[tuple[int, ...]]
) -> None:
    """Noise of one standard deviation in every weight comes out as noise_multiplier x clip, over the batch size."""
    mechanism = Mechanism(5000, batch, 1.3, clip)
    count = sum(int(np.prod(shape)) for shape in shapes)
    grid = grid_of(mechanism, count, 1)
    sums = [tf.fill(shape, tf.constant(0.5 * clip)) for shape in shapes]
    one = np.full(count, round(grid.sigma), grid.noise_dtype)
    noisy, bare = (step._privatized(sums, tf.constant(noise), grid) for noise in (one, one[:0]))
    for with_noise, without, clipped in zip(noisy, bare, sums, strict=True):
        added = (with_noise.numpy() - without.numpy()) * batch
        wide = added / (1.3 * clip)  # Wider by what rounding to the grid takes, and by no more.
        assert 1 - 1e-3 < wide.min() <= wide.max() < 1 + 5e-3
        assert np.abs(without.numpy() * batch / clipped.numpy() - 1).max() < 1e-3
