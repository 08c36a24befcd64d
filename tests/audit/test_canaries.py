"""The private step leaks as much of a record as is claimed, and no more: measured, not derived."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from operator import add

import numpy as np
import pytest

from runner.privacy.accountant import Mechanism
from tests.audit.canaries import (
    CLAIMED,
    CLAIMED_MU,
    CLIP,
    NOISE_MULTIPLIER,
    Estimate,
    Scores,
    audit_step,
    estimate_mu,
)

MICROBATCH_SIZES = (None, 24, None, 7)
"""One for each seed: four independent trainings."""
ENOUGH_SEEDS = 2
"""What is broken shows in half of them."""
POWER = 0.7
"""Of what is claimed, the audit must see so much: one that sees nothing would pass any step."""


def audit(mechanism: Mechanism, seeds: int = len(MICROBATCH_SIZES)) -> Estimate:
    return estimate_mu(reduce(add, (audit_step(mechanism, seed, MICROBATCH_SIZES[seed]) for seed in range(seeds))))


def is_contradicted(estimate: Estimate) -> bool:
    return estimate.mu - 3 * estimate.error > CLAIMED_MU


def test_the_private_step_leaks_no_more_than_claimed_and_the_audit_sees_what_it_leaks() -> None:
    estimate = audit(CLAIMED)
    assert not is_contradicted(estimate), f"{estimate}, but claimed is {CLAIMED_MU}"
    assert estimate.mu > POWER * CLAIMED_MU, f"{estimate}: the audit is blind"


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(replace(CLAIMED, noise_multiplier=NOISE_MULTIPLIER / 2), id="half the noise"),
        pytest.param(replace(CLAIMED, noise_multiplier=0.0), id="no noise"),
        # The noise is a multiple of the clip: half the multiple leaves it as it was.
        pytest.param(
            replace(CLAIMED, l2_norm_clip=2 * CLIP, noise_multiplier=NOISE_MULTIPLIER / 2), id="twice the clip"
        ),
    ],
)
def test_the_audit_catches_a_step_that_does_not_do_as_it_claims(broken: Mechanism) -> None:
    estimate = audit(broken, ENOUGH_SEEDS)
    assert is_contradicted(estimate), f"{estimate}, and claimed is {CLAIMED_MU}: it went unnoticed"


def test_the_estimate_finds_the_shift_of_normal_scores() -> None:
    draw = np.random.default_rng(1)
    estimates = [estimate_mu(Scores(draw.normal(5, 3, 120), draw.normal(-1, 3, 130))) for _ in range(300)]
    found = np.array([estimate.mu for estimate in estimates])
    assert found.mean() == pytest.approx(2, abs=4 * found.std() / np.sqrt(300) + 0.01)
    assert found.std() == pytest.approx(np.mean([estimate.error for estimate in estimates]), rel=0.2)
