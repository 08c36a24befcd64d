"""The log-linear model against a sum over all rows there can be, and what noisy counts say of a table."""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.model import loglinear
from runner.model.estimate import Column, estimate_tables, group_tokens, token_shares
from runner.model.loglinear import KnownTable, LogLinearModel, PoolWeights, draw_evenly

SIZES = (3, 2, 4)


def exact_model(strength: float, seed: int) -> np.ndarray:
    """Shares of all rows under random potentials of pairs, (3, 2, 4)."""
    generator = np.random.default_rng(seed)
    logs = np.zeros(SIZES)
    for one, other in combinations(range(len(SIZES)), 2):
        potential = strength * generator.standard_normal((SIZES[one], SIZES[other]))
        for row in product(*map(range, SIZES)):
            logs[row] += potential[row[one], row[other]]
    shares = np.exp(logs)
    return shares / shares.sum()


def tables_of(shares: np.ndarray, variance: float, pair_variance: float | None = None) -> list[KnownTable]:
    """The one- and two-way tables of exact shares."""
    found = []
    for columns in [*combinations(range(3), 1), *combinations(range(3), 2)]:
        summed = shares.sum(axis=tuple(set(range(3)) - set(columns)))
        known = variance if len(columns) == 1 or pair_variance is None else pair_variance
        found.append(KnownTable(columns, summed, np.full(summed.shape, known)))
    return found


def shares_of(rows: np.ndarray) -> np.ndarray:
    """Shares of all rows among some."""
    return np.bincount(np.ravel_multi_index(rows.T, SIZES), minlength=24).reshape(SIZES) / len(rows)


@pytest.mark.parametrize("seed", range(3))
def test_rows_have_the_distribution_of_largest_entropy(seed: int) -> None:
    shares = exact_model(1.0, seed)
    model = LogLinearModel(SIZES, tables_of(shares, 1e-9), records=1000)
    rows = model.fit(np.random.default_rng(seed), pool=20_000)
    assert np.abs(shares_of(rows) - shares).sum() / 2 < 0.02


def test_a_pair_that_is_mostly_noise_moves_nothing() -> None:
    shares = exact_model(1.0, 0)
    known = tables_of(shares, 1e-9, pair_variance=1e6)
    rows = LogLinearModel(SIZES, known, records=1000).fit(np.random.default_rng(0), pool=20_000)
    alone = [table.shares for table in known[:3]]
    independent = alone[0][:, None, None] * alone[1][:, None] * alone[2]
    assert np.abs(shares_of(rows) - independent).sum() / 2 < 0.02
    assert np.abs(shares_of(rows) - shares).sum() / 2 > 0.1


def test_weights_bring_a_pool_to_the_known_tables() -> None:
    shares = exact_model(1.0, 1)
    known = tables_of(shares, 1e-9)
    pool = np.stack(np.unravel_index(np.random.default_rng(0).integers(0, 24, 20_000), SIZES), axis=1)
    weights = PoolWeights(pool, known, records=1000)
    weights.fit([np.zeros(table.shares.size) for table in known], sweeps=20)
    for table in known:
        cells = np.ravel_multi_index([pool[:, column] for column in table.columns], table.shares.shape)
        assert np.allclose(np.bincount(cells, weights.weights), table.shares.ravel(), atol=1e-3)
    rows = pool[draw_evenly(weights.weights, 5000, np.random.default_rng(0))]
    assert np.abs(shares_of(rows) - shares).sum() / 2 < 0.02


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20).filter(any), st.integers(1, 50), st.integers(0, 99))
@settings(max_examples=100)
def test_a_row_is_taken_as_often_as_its_weight_says(weights: list[float], count: int, seed: int) -> None:
    taken = np.bincount(draw_evenly(np.array(weights), count, np.random.default_rng(seed)), minlength=len(weights))
    expected = count * np.array(weights) / sum(weights)
    assert taken.sum() == count
    assert (taken >= np.floor(expected - 1e-6)).all()
    assert (taken <= np.ceil(expected + 1e-6)).all()


@given(
    st.lists(st.integers(-100, 5000), min_size=1, max_size=60),
    st.integers(2, 16),
    st.booleans(),
    st.randoms(use_true_random=False),
)
@settings(max_examples=100)
def test_tokens_are_joined_into_groups(counts: list[int], most: int, is_ordered: bool, random: object) -> None:
    order = np.arange(len(counts), dtype=np.float64)
    random.shuffle(order)  # type: ignore[attr-defined]
    groups = group_tokens(np.array(counts), 10.0, most, order if is_ordered else None)
    assert set(groups.tolist()) == set(range(min(most, len(counts)))) or is_ordered
    assert set(groups.tolist()) == set(range(groups.max() + 1))
    assert groups.max() < most
    if is_ordered and len(counts) > most:
        assert (np.diff(groups[np.argsort(order)]) >= 0).all()


@given(st.lists(st.integers(-100, 5000), min_size=1, max_size=60), st.integers(1, 9999), st.booleans(), st.booleans())
@settings(max_examples=100)
def test_shares_are_positive_and_add_up(counts: list[int], total: int, is_known: bool, is_ordered: bool) -> None:
    order = np.arange(len(counts), dtype=np.float64)
    order[len(counts) // 2] = np.nan
    shares = token_shares(np.array(counts), 10.0, total if is_known else None, order if is_ordered else None)
    assert (shares > 0).all()
    assert math.isclose(shares.sum(), 1)


@pytest.mark.parametrize("is_ordered", [False, True])
def test_shares_by_noisy_counts_lose_less_than_the_noise_put_in(is_ordered: bool) -> None:
    """Half the mass in a value among fifty, the rest as many small ones have it or as neighbours do."""
    generator, sigma, records = np.random.default_rng(0), 30.0, 1000
    exact = np.full(50, 10.0) if is_ordered else 500 * 0.5 ** np.arange(1, 51)
    exact[20] += records - exact.sum()
    order = np.arange(50, dtype=np.float64) if is_ordered else None
    lost, by_clipping = [], []
    for _ in range(20):
        counts = np.rint(exact + generator.normal(0, sigma, 50)).astype(np.int64)
        lost.append(np.abs(token_shares(counts, sigma, records, order) - exact / records).sum() / 2)
        clipped = np.maximum(counts, 0) / np.maximum(counts, 0).sum()
        by_clipping.append(np.abs(clipped - exact / records).sum() / 2)
    assert np.mean(lost) < 0.7 * np.mean(by_clipping)
    shares = token_shares(np.rint(exact).astype(np.int64), 0.1, records, order)
    assert np.abs(shares - exact / records).sum() / 2 < 0.01


def test_a_sweep_over_few_neighbours_draws_what_a_product_does(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    tables = [
        KnownTable((i, i + 1), generator.dirichlet(np.ones(12)).reshape(4, 3 + i % 2), np.ones(1)) for i in (0, 2)
    ]
    sizes = (4, 3, 4, 3)
    rows = np.stack([generator.integers(0, size, 2000) for size in sizes], axis=1).astype(np.int32)
    drawn = []
    for few in (0.0, 2.0):
        monkeypatch.setattr(loglinear, "FEW", few)
        model = LogLinearModel(sizes, tables, 1000)
        model.potentials = [np.random.default_rng(1).normal(0, 1, table.shares.size) for table in tables]
        drawn.append(model.draw(rows, 3, np.random.default_rng(2)))
    assert (drawn[0] == drawn[1]).all(axis=1).mean() > 0.99
    assert (drawn[0] != rows).any()


def test_noisy_tables_agree_with_each_other_and_are_better_together() -> None:
    generator = np.random.default_rng(0)
    records, sigma = 10_000, 50.0
    shares = exact_model(0.7, 3)
    counts = generator.multinomial(records, shares.ravel()).reshape(SIZES)
    alone, together = [], []
    for _ in range(20):
        columns = []
        for number in range(3):
            exact = counts.sum(axis=tuple({0, 1, 2} - {number}))
            noisy = exact + generator.normal(0, sigma, exact.shape).round().astype(int)
            columns.append(Column(noisy, sigma, np.arange(len(exact))))
        pairs = {}
        for one, other in combinations(range(3), 2):
            exact = counts.sum(axis=({0, 1, 2} - {one, other}).pop())
            pairs[one, other] = (exact + generator.normal(0, sigma, exact.shape).round().astype(int), sigma)
        estimate = estimate_tables(columns, pairs, records)
        singles = {table.columns[0]: table for table in estimate.tables if len(table.columns) == 1}
        for table in estimate.tables:
            assert table.shares.sum() == pytest.approx(1)
            if len(table.columns) == 2:
                assert np.allclose(table.shares.sum(axis=1), singles[table.columns[0]].shares)
                assert np.allclose(table.shares.sum(axis=0), singles[table.columns[1]].shares)
        exact = counts.sum(axis=(1, 2)) / records
        alone.append(np.square(columns[0].counts / records - exact).mean())
        together.append(np.square(singles[0].shares - exact).mean())
        assert all(each.sum() == pytest.approx(1) and (each > 0).all() for each in estimate.shares)
    assert np.mean(together) < 0.9 * np.mean(alone)
    assert np.sqrt(np.mean(together)) == pytest.approx(
        np.sqrt(np.mean([each.variances.mean() for each in estimate.tables[:1]])), rel=0.4
    )
