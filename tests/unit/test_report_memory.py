"""What tells memory from learning: a discriminator, distances, guesses and rare values, on records made for it."""

from __future__ import annotations

import math
import random
from statistics import NormalDist

import numpy as np
import pytest

from runner.report import inference
from runner.report.closeness import RecordSpace, measure_closeness
from runner.report.discriminator import fit_trees, measure_discriminator, score
from runner.report.inference import Guesses, attack_records
from runner.report.rare import RARE_BELOW, RareColumn, RareValue, find_rare_values
from runner.report.table import Column, Rows, find_columns


def people(count: int, seed: int) -> Rows:
    """Records that are hard to guess: two names, and three numbers of their own."""
    draw = random.Random(seed)
    return [
        (draw.choice("abcdef"), *(f"{draw.gauss(40, 12):.3f}" for _ in range(3)), draw.choice("uvwxyz"))
        for _ in range(count)
    ]


COLUMNS = find_columns(list("abcde"), people(500, 0))


# The discriminator


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.0])
def test_two_normal_distributions_are_told_apart_as_well_as_can_be(shift: float) -> None:
    """The best area is Phi(shift / sqrt(2)); the other column is of no use."""
    draw = np.random.default_rng(1)

    def rows(mean: float) -> Rows:
        return [(f"{draw.normal(mean)}", f"{draw.normal()}") for _ in range(4000)]

    training, holdout, synthetic = rows(0), rows(0), rows(shift)
    found = measure_discriminator(find_columns(["x", "y"], training), synthetic, training, holdout)
    assert found is not None
    assert found.synthetic == pytest.approx(NormalDist().cdf(shift / math.sqrt(2)), abs=2.5 * found.chance)
    assert found.holdout == pytest.approx(0.5, abs=2 * found.chance)
    assert found.chance == pytest.approx(2 * math.sqrt(1 / (6 * 4000)), rel=0.01)


def test_what_only_two_columns_together_tell_is_seen() -> None:
    draw = random.Random(1)
    training = [(draw.choice("ab"), draw.choice("xy")) for _ in range(1500)]
    synthetic = [("a", "x") if draw.random() < 0.5 else ("b", "y") for _ in range(1500)]
    columns = [Column("one", "category"), Column("two", "category")]
    found = measure_discriminator(columns, synthetic, training, [])
    assert found is not None
    assert found.synthetic == pytest.approx(0.75, abs=0.03)
    assert found.holdout is None
    assert found == measure_discriminator(columns, synthetic, training, [])


def test_trees_give_log_odds() -> None:
    draw = np.random.default_rng(0)
    codes = draw.integers(0, 3, (9000, 2))
    wanted = draw.random(9000) < np.array([0.1, 0.5, 0.8])[codes[:, 0]]
    trees = fit_trees(codes, wanted.astype(float), draw)
    shares = 1 / (1 + np.exp(-score(trees, np.array([[0, 0], [1, 1], [2, 2]]))))
    assert shares == pytest.approx([0.1, 0.5, 0.8], abs=0.06)


def test_few_records_are_not_told_apart() -> None:
    assert measure_discriminator(COLUMNS, people(20, 1), people(500, 2), people(500, 3)) is None
    found = measure_discriminator(COLUMNS, people(200, 1), people(500, 2), people(20, 3))
    assert found is not None
    assert found.holdout is None


# Nearest records


def test_records_that_sit_on_single_training_records_have_a_small_ratio() -> None:
    training, holdout = people(400, 1), people(400, 2)
    near = [(a, f"{float(b) + 0.01:.3f}", c, d, e) for a, b, c, d, e in training]
    fresh, close = (measure_closeness(COLUMNS, rows, training, holdout) for rows in (people(400, 3), near))
    assert fresh is not None
    assert close is not None
    assert close.synthetic_to_training_ratio < 0.1
    assert close.ratio is not None
    assert close.ratio < 0.15
    assert fresh.ratio == pytest.approx(1.0, abs=0.05)
    assert close.holdout_to_training_ratio == pytest.approx(fresh.synthetic_to_training_ratio, abs=0.05)


# Attribute inference


def test_memory_lets_training_records_be_guessed_and_learning_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "ATTACKS", 300)
    training, holdout = people(300, 1), people(300, 2)
    remembered = attack_records(COLUMNS, training, training, holdout)
    learned = attack_records(COLUMNS, people(300, 3), training, holdout)
    assert remembered is not None
    assert learned is not None
    assert remembered.training > 0.95
    assert remembered.holdout == pytest.approx(learned.holdout, abs=learned.chance)
    assert min(each.risk for each in remembered.columns) > 0.9
    assert learned.training == pytest.approx(learned.holdout, abs=learned.chance)
    assert {each.column for each in learned.columns} == set("abcde")
    assert remembered.chance == pytest.approx(2 * math.sqrt(0.5 / 300))


def test_guesses_are_those_of_the_nearest_record_by_the_other_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "FEWEST_ATTACKS", 1)
    training, holdout, synthetic = people(40, 1), people(40, 2), people(60, 3)
    found = attack_records(COLUMNS, synthetic, training, holdout)
    assert found is not None
    space = RecordSpace(COLUMNS, training)
    points = {name: space.points(rows) for name, rows in (("t", training), ("h", holdout), ("s", synthetic))}

    def apart(place: int, one: np.ndarray, other: np.ndarray) -> float:
        a, b = float(one[place]), float(other[place])
        return abs(a - b) if COLUMNS[place].kind == "number" else float(a != b)

    for guesses in found.columns:
        secret = "abcde".index(guesses.column)
        others = [place for place in range(5) if place != secret]
        for kind, share in (("t", guesses.training), ("h", guesses.holdout)):
            right = 0
            for target in points[kind]:
                sums = [sum(apart(place, target, each) for place in others) for each in points["s"]]
                nearest = [each for each, total in zip(points["s"], sums, strict=True) if total < min(sums) + 1e-5]
                right += apart(secret, target, nearest[0]) <= inference.TOLERANCE
            assert share == pytest.approx(right / 40, abs=1.5 / 40), "one tie at most"


def test_risk_is_what_is_guessed_beyond_the_control() -> None:
    assert Guesses("a", 0.8, 0.6).risk == pytest.approx(0.5)
    assert Guesses("a", 0.5, 0.6).risk == 0
    assert Guesses("a", 1.0, 1.0).risk == 0


def test_nothing_is_attacked_without_a_holdout_or_other_columns() -> None:
    assert attack_records(COLUMNS, people(50, 1), people(50, 2), []) is None
    assert attack_records(COLUMNS, [], people(50, 2), people(50, 3)) is None
    assert attack_records(COLUMNS[:1], [("a",)] * 50, [("a",)] * 50, [("b",)] * 50) is None


# Rare values


def test_rare_values_that_came_through_are_found() -> None:
    columns = [Column("job", "category"), Column("pay", "number"), Column("same", "category")]
    training = (
        [("clerk", "1", "")] * 80 + [("earl", "1", "")] * RARE_BELOW + [("bishop", "2", "")] * 9 + [("duke", "7", "")]
    )
    synthetic = [("clerk", "1", "")] * 45 + [
        ("duke", "7", ""),
        ("duke", "1", ""),
        ("king", "3", ""),
        ("bishop", "2", ""),
    ]
    holdout = [("clerk", "1", "")] * 8 + [("bishop", "2", "")] * 2
    found = find_rare_values(columns, synthetic, training, holdout)
    assert found.columns == (
        RareColumn("job", values=2, came_through=2, synthetic=3 / 49, holdout=0.2),
        RareColumn("pay", values=2, came_through=2, synthetic=2 / 49, holdout=0.2),
    )
    assert found.values == (RareValue("job", "duke", 1, 2), RareValue("job", "bishop", 9, 1))
    assert find_rare_values(columns, synthetic, training, []).columns[0].holdout is None
