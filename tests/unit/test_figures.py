"""Figures of privacy are rounded so that what is said still holds."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.privacy.figures import (
    delta_in_words,
    epsilon_in_words,
    factor_in_words,
    noise_in_words,
    probability_in_words,
)
from runner.privacy.planning import describe_plan, plan_epsilon
from runner.privacy.statement_page import claim_in_words
from runner.run_directory import Status
from runner.submit.follow import describe

sizes = st.floats(1e-300, 1e300, allow_nan=False, allow_infinity=False)


@given(st.floats(0, 1e12), st.integers(0, 6))
def test_an_epsilon_is_never_told_smaller_than_it_is(epsilon: float, digits: int) -> None:
    told = Decimal(epsilon_in_words(epsilon, digits))
    assert Decimal(repr(epsilon)) <= told <= Decimal(repr(epsilon)) + Decimal(1).scaleb(-digits)


@given(sizes)
def test_deltas_and_probabilities_round_up_and_noise_rounds_down(value: float) -> None:
    for told, holds in (
        (delta_in_words(value), lambda x: x >= value),
        (probability_in_words(value), lambda x: x >= value),
        (noise_in_words(value), lambda x: x <= value),
    ):
        assert holds(float(told))
        assert math.isclose(float(told), value, rel_tol=1.1e-5)


@given(st.floats(1e-12, 20))
def test_a_factor_is_never_told_smaller_than_it_is(epsilon: float) -> None:
    told = factor_in_words(epsilon)
    assert told is not None
    with localcontext() as context:
        context.prec = 60
        exact = Decimal(repr(epsilon)).exp()
    assert exact <= Decimal(told.replace(",", "")) <= exact * Decimal("1.01")


@pytest.mark.parametrize("epsilon", [20.001, 700.0, 5000.0, 1e308])
def test_a_statement_has_no_factor_where_it_rules_nothing_out(epsilon: float) -> None:
    claim = claim_in_words({"epsilon": epsilon, "delta": 1e-6})
    assert "no useful privacy" in claim
    assert "factor" not in claim
    assert epsilon_in_words(epsilon) in claim


def test_a_statement_rounds_up() -> None:
    claim = claim_in_words({"epsilon": 7.99981, "delta": 1.23456710001e-6})
    assert "at most 2,990 (e to the power of 8.000), but for a probability of 1.23457e-06" in claim


def test_a_plan_without_a_useful_guarantee_says_so() -> None:
    plan = plan_epsilon(1000, 100, noise_multiplier=0.2, epochs=100, delta=1e-6)
    assert plan["epsilon_pld"] > 700
    assert "There is no useful guarantee" in describe_plan(plan)
    assert "factor" not in describe_plan(plan)


def test_the_status_line_rounds_up() -> None:
    progress = {"epoch": 0, "epochs": 2, "step": 1, "steps": 9, "loss": 1.0, "tokens_per_second": 1.0, "eta_s": 1}
    status = Status("demo", "training", "local", progress=progress | {"epsilon": 1.231})
    assert "epsilon 1.24 " in describe(status)
