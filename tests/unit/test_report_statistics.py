"""The report's statistics against figures computed in another way: by hand, by scipy, or by a plain loop."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.sparse import csr_array

from runner.errors import DataError
from runner.report import closeness, usefulness
from runner.report.closeness import RecordSpace, measure_closeness
from runner.report.distributions import (
    area_under_curve,
    association,
    column_distance,
    correlation_ratio,
    cramers_v,
    find_associations,
    frequent_values,
    number_distance,
    ranks,
    spearman,
    to_codes,
    total_variation,
)
from runner.report.table import Column, Rows, find_columns, find_kind, find_layout, to_numbers
from runner.report.usefulness import fit_logistic, fit_ridge, measure_usefulness

NUMBERS = st.lists(st.integers(-20, 20).map(float), min_size=2, max_size=40)
CODES = st.lists(st.integers(0, 4), min_size=4, max_size=60)


patient = settings(deadline=None)


def numbers(values: Sequence[float]) -> np.ndarray:
    return np.array(values, np.float64)


# Columns


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([str(number / 7) for number in range(200)], "number"),
        ([*map(str, range(200)), "unknown", ""], "number"),
        ([*map(str, range(200)), *["unknown"] * 80], "text"),
        ([*map(str, range(200)), *["unknown"] * 20], "number"),
        (["0", "1"] * 100, "category"),
        (["same"] * 100, "category"),
        (["", " "] * 100, "category"),
        ([f"note {number}" for number in range(200)], "text"),
        (["nan", "inf", "1e999"] * 20, "category"),
    ],
)
def test_the_kind_of_a_column(values: list[str], kind: str) -> None:
    assert find_kind(values) == kind


def test_names_that_do_not_fit_the_records_are_refused() -> None:
    names = find_layout(["a,b,c", "d,e,f", "g,h"], ",", ("x", "y", "z"))
    assert names is not None
    assert names.split(["a,b,c", "g,h"]) == [("a", "b", "c")]
    with pytest.raises(DataError, match=r"names 2 fields \(x, y\), but most records have 3"):
        find_layout(["a,b,c", "d,e,f", "g,h"], ",", ("x", "y"), "records/")


def test_fields_are_those_that_most_records_have() -> None:
    layout = find_layout(["a,b,c", "d,e,f", "g,h"], ",", None)
    assert layout is not None
    assert layout.names == ("field_1", "field_2", "field_3")
    assert layout.split(["1,2,3", "1,2", "1,2,3,4", ",,"]) == [("1", "2", "3"), ("", "", "")]
    assert find_layout(["a,b", "c,d"], ",", ("x", "y")).names == ("x", "y")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("texts", "delimiter"), [(["a b", "c"], ","), (["a,b", "c"], None), ([], ","), (["a", "b,c", "d,e,f"], ",")]
)
def test_texts_without_common_fields_are_plain(texts: list[str], delimiter: str | None) -> None:
    layout = find_layout(texts, delimiter, None)
    assert layout is None


# Distances


@patient
@given(NUMBERS, NUMBERS)
def test_distance_of_numbers_is_scipys_kolmogorov_smirnov_statistic(one: list[float], other: list[float]) -> None:
    assert number_distance(numbers(one), numbers(other)) == pytest.approx(
        stats.ks_2samp(one, other, method="asymp").statistic
    )


def test_values_that_are_no_number_have_a_share_too() -> None:
    column = Column("x", "number")
    assert column_distance(column, ["1", "2", "", ""], ["1", "2", "1", "2"]) == 0.5
    assert column_distance(column, ["", "?"], ["1", "2"]) == 1.0
    assert column_distance(column, ["", "?"], ["", ""]) == 0.0
    assert column_distance(column, [], ["1"]) is None


def test_total_variation_by_hand() -> None:
    assert total_variation(["a"] * 5 + ["b"] * 5, ["a"] * 2 + ["c"] * 8) == pytest.approx((0.3 + 0.5 + 0.8) / 2)
    assert total_variation(["a"], ["b"]) == 1.0


@patient
@given(st.lists(st.text(max_size=3), min_size=1), st.lists(st.text(max_size=3), min_size=1))
def test_distances_of_categories_are_symmetric_and_within_0_and_1(one: list[str], other: list[str]) -> None:
    assert 0 <= total_variation(one, other) <= 1
    assert total_variation(one, other) == total_variation(other, one)
    assert total_variation(one, one) == 0


# Associations


@patient
@given(NUMBERS)
def test_ranks_are_scipys(values: list[float]) -> None:
    assert ranks(numbers(values)).tolist() == stats.rankdata(values).tolist()


@patient
@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=3, max_size=40))
def test_spearman_is_scipys(pairs: list[tuple[int, int]]) -> None:
    one, other = numbers([pair[0] for pair in pairs]), numbers([pair[1] for pair in pairs])
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        assert math.isnan(spearman(one, other))
    else:
        assert spearman(one, other) == pytest.approx(stats.spearmanr(one, other).statistic, abs=1e-12)


@patient
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=12, max_size=80))
def test_cramers_v_is_bergsmas_from_scipys_chi_squared(pairs: list[tuple[int, int]]) -> None:
    one, other = (np.array(values) for values in zip(*pairs, strict=True))
    table = np.array([[((one == a) & (other == b)).sum() for b in np.unique(other)] for a in np.unique(one)])
    r, c, n = *table.shape, len(pairs)
    if r < 2 or c < 2:
        assert math.isnan(cramers_v(one, other))
        return
    chi2 = stats.chi2_contingency(table, correction=False).statistic
    phi2 = max(0.0, chi2 / n - (r - 1) * (c - 1) / (n - 1))
    smaller = min(r - (r - 1) ** 2 / (n - 1), c - (c - 1) ** 2 / (n - 1)) - 1
    assert cramers_v(one, other) == pytest.approx(min(1.0, math.sqrt(phi2 / smaller)), abs=1e-9)


def test_correlation_ratio_agrees_with_the_analysis_of_variance() -> None:
    draw = np.random.default_rng(1)
    codes = draw.integers(0, 4, 300)
    values = draw.normal(size=300) + codes
    f = stats.f_oneway(*(values[codes == code] for code in range(4))).statistic
    eta2 = f * 3 / (f * 3 + 300 - 4)
    assert correlation_ratio(codes, values) == pytest.approx(math.sqrt(eta2))


def test_what_is_known_of_one_column_only_does_not_count() -> None:
    one, other = numbers([1, 2, 3, np.nan, 9]), numbers([2, 4, 6, 1, np.nan])
    assert association(one, other) == pytest.approx(1.0)


def test_independent_columns_have_little_to_do_with_each_other_and_copies_all() -> None:
    draw = random.Random(3)
    rows = []
    for _ in range(2000):
        letter, number = draw.choice("abc"), draw.random()
        rows.append((letter, letter.upper(), f"{number}", f"{-number}", draw.choice("xyz"), "same"))
    columns = find_columns(["a", "b", "c", "d", "e", "f"], rows)
    found = find_associations(columns, rows, [frequent_values(values) for values in zip(*rows, strict=True)]).values
    assert found[0, 1] == pytest.approx(1.0)
    assert found[2, 3] == pytest.approx(-1.0)
    assert max(found[0, 4], abs(found[0, 2]), abs(found[2, 4])) < 0.1
    assert np.isnan(found[:, 5]).all()


def test_codes_count_what_is_not_known_as_one() -> None:
    assert to_codes(["b", "?", "a", "!"], ["a", "b"]).tolist() == [1, 2, 0, 2]
    assert frequent_values(["b", "a", "c", "c"], 2) == ["c", "a"]


# Nearest records


def plain_gower(one: tuple[str, ...], other: tuple[str, ...], columns: Sequence[Column], training: Rows) -> float:
    """The definition, record by record."""

    def rank(value: float, place: int) -> float:
        known = [number for number in to_numbers([row[place] for row in training]) if not math.isnan(number)]
        return sum((number < value) + (number == value) / 2 for number in known) / len(known)

    parts = []
    for place, column in enumerate(columns):
        a, b = to_numbers([one[place], other[place]])
        if column.kind != "number":
            parts.append(float(one[place] != other[place]))
        elif math.isnan(a) or math.isnan(b):
            parts.append(float(math.isnan(a) != math.isnan(b)))
        else:
            parts.append(abs(rank(a, place) - rank(b, place)))
    return sum(parts) / len(parts)


def people(count: int, seed: int) -> Rows:
    draw = random.Random(seed)
    return [
        (
            draw.choice(["anna", "bernd", "clara"]),
            f"{draw.gauss(40, 12):.2f}",
            draw.choice(["", f"{draw.random():.3f}"]),
        )
        for _ in range(count)
    ]


def test_nearest_distances_are_gowers() -> None:
    training, probes = people(60, 1), people(15, 2)
    columns = find_columns(["name", "age", "share"], training)
    assert [column.kind for column in columns] == ["category", "number", "number"]
    space = RecordSpace(columns, training)
    found = space.nearest(space.points(probes), space.points(training))
    expected = [sorted(plain_gower(probe, row, columns, training) for row in training)[:2] for probe in probes]
    assert found == pytest.approx(np.array(expected), abs=1e-6)


def test_records_of_the_same_source_are_as_often_closer_to_either_side_and_copies_are_not() -> None:
    training, holdout = people(2000, 1), people(500, 2)
    columns = find_columns(["name", "age", "share"], training)
    fresh = measure_closeness(columns, people(800, 3), training, holdout)
    copies = measure_closeness(columns, training[:800], training, holdout)
    assert fresh is not None
    assert copies is not None
    assert abs(fresh.closer_to_training - 0.5) < 2 * fresh.chance
    assert copies.closer_to_training > 0.5 + 2 * copies.chance
    assert measure_closeness(columns, people(9, 3), training, []) is None


# Train on synthetic, test on real


@patient
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=50))
def test_area_under_curve_counts_pairs(pairs: list[tuple[int, bool]]) -> None:
    scores, positive = numbers([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
    if positive.all() or not positive.any():
        return
    wins = [(a > b) + (a == b) / 2 for a, b in itertools.product(scores[positive], scores[~positive])]
    assert area_under_curve(scores, positive) == pytest.approx(np.mean(wins))


def test_ridge_and_logistic_regression_are_at_their_optimum() -> None:
    draw = np.random.default_rng(0)
    x = np.hstack([np.ones((200, 1)), draw.integers(0, 2, (200, 6)).astype(float)])
    y = x @ np.arange(7.0) + draw.normal(size=200)
    penalty = np.sqrt(np.diag([1e-9, *[1.0] * 6]))
    expected = np.linalg.lstsq(np.vstack([x, penalty]), np.concatenate([y, np.zeros(7)]), rcond=None)[0]
    assert fit_ridge(csr_array(x), y) == pytest.approx(expected, abs=1e-6)
    classes = (y > np.median(y)).astype(np.int64)
    weights = fit_logistic(csr_array(x), classes, 2)
    scores = np.exp(x @ weights)
    slope = (x.T @ (scores / scores.sum(1, keepdims=True) - np.eye(2)[classes]) + weights) / 200
    assert np.abs(slope).max() < 1e-3


def table(count: int, seed: int, *, learned: bool = True) -> Rows:
    """Three columns of which the last two follow from the first, or do not."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        group = draw.choice("abcd")
        other = group if learned else draw.choice("abcd")
        rows.append((group, "yes" if other < "c" else "no", f"{ord(other) + draw.random():.3f}"))
    return rows


@pytest.mark.parametrize(("target", "score"), [("answer", "accuracy"), ("value", "r2")])
def test_synthetic_records_that_hold_the_relation_are_as_useful_as_real_ones(target: str, score: str) -> None:
    training, holdout = table(1500, 1), table(400, 2)
    columns = find_columns(["group", "answer", "value"], training)[:3]
    good = measure_usefulness(columns, target, table(1500, 3), training, holdout)
    bad = measure_usefulness(columns, target, table(1500, 3, learned=False), training, holdout)
    assert good is not None
    assert bad is not None
    assert getattr(good.real, score) > 0.9
    assert getattr(good.synthetic, score) > 0.9
    assert good.ratio == pytest.approx(1, abs=0.05)
    if target == "answer":
        assert good.real.auc is not None
        assert good.real.auc > 0.98
        assert good.guess.auc == 0.5
        assert good.guess.accuracy == pytest.approx(sum(row[1] == "yes" for row in holdout) / 400, abs=0.2)
    else:
        assert good.real.mae is not None
        assert good.guess.mae is not None
        assert good.real.mae < good.guess.mae / 2


def test_a_relation_that_synthetic_records_lack_is_missed() -> None:
    training, holdout = table(1500, 1), table(400, 2)
    columns = find_columns(["group", "answer", "value"], training)[:2]
    cut = [[row[:2] for row in rows] for rows in (table(1500, 3, learned=False), training, holdout)]
    found = measure_usefulness(columns, "answer", *cut)
    assert found is not None
    assert found.real.accuracy == 1.0
    assert found.synthetic.accuracy is not None
    assert found.synthetic.accuracy < 0.8


def test_a_wild_synthetic_number_does_not_decide_the_score() -> None:
    training, holdout, synthetic = table(1500, 1), table(400, 2), table(1500, 3)
    columns = find_columns(["group", "answer", "value"], training)
    synthetic[0] = ("a", "yes", "9" * 30)
    found = measure_usefulness(columns, "value", synthetic, training, holdout)
    assert found is not None
    assert found.synthetic.r2 is not None
    assert found.synthetic.r2 > 0.9


def wide(count: int, seed: int, columns: int) -> Rows:
    """Numbers; the first is the sum of the last two, which nothing else tells."""
    draw = np.random.default_rng(seed)
    values = draw.normal(size=(count, columns))
    values[:, 0] = values[:, -2] + values[:, -1]
    return [tuple(f"{value:.3f}" for value in row) for row in values]


def test_of_many_columns_those_that_have_most_to_do_with_the_target_predict_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(usefulness, "PREDICTORS", 4)
    training, holdout, synthetic = (wide(300, seed, 12) for seed in range(3))
    columns = find_columns([f"c{number}" for number in range(12)], training)
    sizes: list[int] = []
    monkeypatch.setattr(usefulness, "fit_ridge", lambda x, y: sizes.append(x.shape[1]) or fit_ridge(x, y))
    found = measure_usefulness(columns, "c0", synthetic, training, holdout)
    assert found is not None
    assert (found.predictors, found.others) == (4, 11)
    assert max(sizes) <= 1 + 4 * (usefulness.BINS + 1), "what is solved does not grow with the columns"
    assert found.synthetic.r2 is not None
    assert found.synthetic.r2 > 0.7


def test_distances_of_records_with_many_columns_are_measured_by_a_part_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(closeness, "COLUMNS", 3)
    rows = wide(40, 0, 5)
    columns = find_columns([f"c{number}" for number in range(5)], rows)
    found = measure_closeness(columns, rows[:10], rows[:20], rows[20:])
    part = [tuple(row[place] for place in (0, 2, 4)) for row in rows]
    same = measure_closeness([columns[place] for place in (0, 2, 4)], part[:10], part[:20], part[20:])
    assert found is not None
    assert same is not None
    assert found.columns == 3
    assert found.synthetic_to_holdout.tolist() == same.synthetic_to_holdout.tolist()


ODD_VALUES = st.sampled_from(["", "0", "1", "nan", "a", "ü", " ", "x" * 500, "\x00"])
ODD_NUMBERS = st.one_of(st.floats().map(repr), st.sampled_from(["-1e308", "1e308", ""]))
ODD = st.lists(st.tuples(ODD_VALUES, ODD_VALUES, ODD_NUMBERS), max_size=40)


@settings(max_examples=60, deadline=None)
@given(ODD, ODD, ODD, st.sampled_from(["a", "b", "c"]))
def test_whatever_columns_hold_no_figure_is_not_a_number(
    synthetic: Rows, training: Rows, holdout: Rows, target: str
) -> None:
    columns = find_columns(["a", "b", "c"], training)
    found = measure_usefulness(columns, target, synthetic, training, holdout)
    closeness = measure_closeness(columns, synthetic, training, holdout)
    figures: list[float | None] = []
    if found is not None:
        for score in (found.synthetic, found.real, found.guess):
            figures += vars(score).values()
        figures.append(found.ratio)
    if closeness is not None:
        figures += [closeness.closer_to_training, closeness.chance, *map(float, closeness.synthetic_to_training)]
    for place, column in enumerate(columns):
        figures.append(column_distance(column, [row[place] for row in synthetic], [row[place] for row in training]))
    assert all(figure is None or math.isfinite(figure) for figure in figures)
