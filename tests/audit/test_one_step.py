"""An audit in one run that can fail: half the noise leaks more than is proven, and each of 20 runs measures that.

`ONE_STEP_SEEDS` of them are tried in CI; `make audit` tries all.
"""

from __future__ import annotations

import os

import pytest

from tests.audit.one_step import CLAIMED, HALF_THE_NOISE, PROVEN, OneStep

SEEDS = range(int(os.environ.get("ONE_STEP_SEEDS", "20")))


@pytest.fixture(scope="module")
def one_step() -> OneStep:
    return OneStep()


def test_a_right_step_is_measured_below_what_is_proven_and_half_the_noise_above(one_step: OneStep) -> None:
    right = [one_step.measure(CLAIMED, seed).epsilon for seed in SEEDS]
    broken = [one_step.measure(HALF_THE_NOISE, seed).epsilon for seed in SEEDS]
    found = [f"{min(each):.2f} to {max(each):.2f}" for each in (right, broken)]
    print(f"\nproven {PROVEN:.3f}; right {found[0]}; half the noise {found[1]}")
    assert max(right) <= PROVEN
    assert min(right) > 0.25 * PROVEN, "the audit is blind"
    assert min(broken) > PROVEN, "half the noise goes unnoticed"
