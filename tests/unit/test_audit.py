"""The verdict of an audit: when a claim is contradicted, when it is not, and that the words say which."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.stats import kstwobign

from runner.privacy import audit
from runner.privacy.audit import Claim, audit_losses, chance_advantage

TRAINED, UNSEEN = np.full(20_000, 1.5, np.float32), np.full(5_000, 2.5, np.float32)
Attack = Callable[[float], None]


@pytest.fixture
def attack(monkeypatch: pytest.MonkeyPatch) -> Attack:
    """Stands in for tensorflow-privacy: makes its attack find a given advantage."""

    def find(advantage: float) -> None:
        def answer(command: str, question: Any) -> dict[str, Any]:
            assert command == "membership"
            assert question["loss_train"] is TRAINED
            assert question["loss_validation"] is UNSEEN
            return {
                "attack": "threshold_attack",
                "auc": 0.5 + advantage / 2,
                "advantage": advantage,
                "exposure_mean": 1.5,
                "exposure_max": 9.25,
                "exposure_median": 1.0,
                "exposure_of_chance": 1.44,
            }

        monkeypatch.setattr(audit, "ask_second_opinion", answer)

    return find


def verdict(claim: Claim | None) -> tuple[bool, str]:
    answer, text = audit_losses(claim, TRAINED, UNSEEN, "records")
    assert text.splitlines()[-1] == f"verdict: {answer['verdict']}"
    return answer["contradicted"], text


def test_an_advantage_beyond_the_claim_and_beyond_chance_contradicts_it(attack: Attack) -> None:
    claim = Claim(epsilon=1.0, delta=1e-5)
    limit = claim.allowed_advantage + chance_advantage(TRAINED.size, UNSEEN.size)
    attack(limit + 0.001)
    contradicted, text = verdict(claim)
    assert contradicted
    assert "THE PRIVACY CLAIM IS FALSE" in text
    assert "Do not release this model" in text
    attack(limit - 0.001)
    contradicted, text = verdict(claim)
    assert not contradicted
    assert "FALSE" not in text
    assert "no better than the claim allows" in text


def test_an_attack_that_finds_nothing_is_said_to_prove_nothing(attack: Attack) -> None:
    attack(0.01)
    for claim in (Claim(1.0, 1e-5), None):
        contradicted, text = verdict(claim)
        assert not contradicted
        assert "that proves nothing" in text
        assert "another attack may find more" in text


def test_a_run_without_privacy_is_told_what_its_model_remembers(attack: Attack) -> None:
    attack(0.9)
    contradicted, text = verdict(None)
    assert not contradicted, "nothing was claimed"
    assert "claim: none: this run was trained without privacy" in text
    assert "the model remembers records it was trained on" in text


@pytest.mark.parametrize("epsilon", [8.0, math.inf])
def test_a_claim_that_no_attack_could_contradict_is_called_weak(attack: Attack, epsilon: float) -> None:
    attack(1.0)
    contradicted, text = verdict(Claim(epsilon, 1e-5))
    assert not contradicted
    assert "a claim as weak as this one" in text


def test_the_words_say_what_was_tried_what_was_found_and_what_is_claimed(attack: Attack) -> None:
    attack(0.25)
    _, text = verdict(Claim(2.0, 1e-5))
    assert text.splitlines()[:5] == [
        "tried: a threshold on the loss of 20,000 records that were trained on and 5,000 that were not "
        "(tensorflow-privacy's membership inference)",
        "loss: 1.5000 on average where trained on, 2.5000 where not",
        "found: an advantage of 0.250 (0: a guess, 1: every one recognized), of which chance alone can make 0.041; "
        "AUC 0.625",
        "exposure: 1.50 bits on average, 1.44 by chance; 9.25 at most",
        "claim: epsilon 2.000 at delta 1e-05, so an advantage of 0.865 at most",
    ]


def test_chance_is_allowed_what_kolmogorov_s_distribution_says() -> None:
    """Of each side, but for half of the false alarms; the inequality is nearly exact for so many records."""
    each_side = float(kstwobign.isf(audit.FALSE_ALARMS / 2))
    for trained, unseen in ((20_000, 5_000), (1_000, 100_000)):
        exact = each_side / math.sqrt(trained) + each_side / math.sqrt(unseen)
        assert exact <= chance_advantage(trained, unseen) * (1 + 1e-9)
        assert chance_advantage(trained, unseen) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize(
    ("epsilon", "delta", "expected"),
    [(0.0, 0.0, 0.0), (math.log(4), 0.0, 0.75), (math.log(4), 0.1, 0.8), (1000.0, 1e-5, 1.0), (math.inf, 1e-5, 1.0)],
)
def test_the_allowed_advantage_is_that_of_the_formula(epsilon: float, delta: float, expected: float) -> None:
    assert Claim(epsilon, delta).allowed_advantage == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 0.0), (0.1, 0.01), (1.0, 0.0), (1.0, 0.05), (3.0, 1e-3)])
def test_the_allowed_advantage_is_the_most_that_any_mechanism_of_the_claim_gives(epsilon: float, delta: float) -> None:
    """By linear programming over all mechanisms with four outputs: the record in its place, nothing, another one."""
    outputs = 4
    neighbors = [(0, 1), (1, 0), (1, 2), (2, 1)]  # The record and nothing, nothing and the other one.
    size = outputs * (3 + len(neighbors))  # Three distributions, then the excess over e^epsilon of each pair.
    rows, limits = [], []
    for pair, (one, other) in enumerate(neighbors):
        excess = outputs * (3 + pair)
        for output in range(outputs):
            row = np.zeros(size)
            row[outputs * one + output], row[outputs * other + output] = 1, -math.exp(epsilon)
            row[excess + output] = -1
            rows.append(row)
            limits.append(0.0)
        row = np.zeros(size)
        row[excess : excess + outputs] = 1
        rows.append(row)
        limits.append(delta)
    sums = np.kron(np.eye(3, 3 + len(neighbors)), np.ones(outputs))
    advantage = np.zeros(size)  # The attack says "trained on" at the first two outputs.
    advantage[:2], advantage[2 * outputs : 2 * outputs + 2] = -1, 1
    found = linprog(advantage, np.array(rows), limits, sums, np.ones(3))
    assert found.status == 0
    assert Claim(epsilon, delta).allowed_advantage == pytest.approx(-found.fun, abs=1e-9)


def test_the_claim_is_read_from_the_privacy_statement() -> None:
    assert Claim.from_statement({"epsilon": 2.5, "delta": 1e-5, "unit": "one record"}) == Claim(2.5, 1e-5)
    assert Claim.from_statement({"epsilon": "infinite", "delta": 1e-5}) == Claim(math.inf, 1e-5)
    series = {"epsilon": 9.0, "delta": 1e-4, "epsilon_of_run": 2.5, "delta_of_run": 1e-5}
    assert Claim.from_statement(series) == Claim(2.5, 1e-5), "its own records are attacked"


def test_an_infinite_claim_stays_plain_in_the_answer(attack: Attack) -> None:
    attack(0.5)
    answer, _ = audit_losses(Claim(math.inf, 1e-5), TRAINED, UNSEEN, "records")
    assert answer["claim"] == {"epsilon": "infinite", "delta": 1e-5}


def test_chance_alone_passes_the_margin_in_far_fewer_than_the_stated_share_of_audits() -> None:
    """The best threshold over losses drawn alike, two thousand times."""
    draw = np.random.default_rng(4)
    trained, unseen = 200, 50
    margin = chance_advantage(trained, unseen)
    found = []
    for _ in range(2000):
        one, other = np.sort(draw.random(trained)), np.sort(draw.random(unseen))
        thresholds = np.concatenate([one, other])
        shares = (
            np.searchsorted(one, thresholds, "right") / trained,
            np.searchsorted(other, thresholds, "right") / unseen,
        )
        found.append(np.abs(shares[0] - shares[1]).max())
    assert np.mean(np.array(found) > margin) <= audit.FALSE_ALARMS
    assert max(found) > margin / 2, "a margin that nothing ever comes near would hide what an attack finds"
