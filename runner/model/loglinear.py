"""A log-linear model of a table whose one- and two-way tables are known with some error, and rows drawn from it.

    p(x)  =  exp(sum_i a_i[x_i] + sum_(i<j) b_ij[x_i, x_j]) / Z          x_i: the cell of column i

is the distribution of largest entropy that has given one-way tables (columns i) and two-way tables (pairs i, j). Where
a share y of a table is known with variance v, the fitted share p stays off it by as much as the penalty says: at the
optimum p + r theta = y, r proportional to v, theta the cell's potential. So a table that is mostly noise moves
nothing, and pairs without a table are independent given the others.

Z has too many terms. So expectations are those of a pool of rows: weights of the rows are fitted table by table
(iterative proportional fitting: Deming and Stephan 1940; with noisy tables: McKenna, Sheldon and Miklau, ICML 2019),
rows are taken by their weights, and a Gibbs sweep lets them move; in rounds, until the pool is the model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

POOL = 50_000
ROUNDS = 12
SWEEPS = 2
"""Of proportional fitting in a round."""
LEAST_EFFECTIVE = 0.15
"""A round changes potentials by as much as leaves the pool so many effective rows, as a share."""
PENALTY = 0.1
"""Of potentials, against the variance of what they fit."""
NEWTON_STEPS = 8
FEW = 0.3
"""Of all columns, as a share: under it, adding up the potentials of those in tables with a column is the faster way."""


@dataclass(frozen=True)
class KnownTable:
    """Of one column or two: `shares` (k,) or (k_i, k_j), which noise may make negative, and `variances` alike."""

    columns: tuple[int, ...]
    shares: NDArray[np.float64]
    variances: NDArray[np.float64]


class PoolWeights:
    """Weights of a pool's rows, moved so that the pool's tables come near the known ones.

    pool (N, C): cells. `records`: how many the shares were counted on. `moving`: the pool is a sample of the model
    itself, whose tables have the sampling error of N rows.
    """

    def __init__(
        self, pool: NDArray[np.integer], tables: Sequence[KnownTable], records: int, *, moving: bool = False
    ) -> None:
        rows = len(pool)
        self.weights = np.full(rows, 1 / rows)
        self._shares = [table.shares.ravel() for table in tables]
        self._cells = [_cells(pool, table) for table in tables]
        self._penalties: list[NDArray[np.float64]] = []
        for table, shares in zip(tables, self._shares, strict=True):
            variance = table.variances.ravel() + (np.maximum(shares, 0) / rows if moving else 0)
            self._penalties.append(np.maximum(PENALTY * records * variance, 1e-12))

    def fit(self, potentials: Sequence[NDArray[np.float64]], sweeps: int) -> list[NDArray[np.float64]]:
        """Fit the tables one after another, `sweeps` times; returns the changes of the potentials, flat."""
        current = [each.copy() for each in potentials]
        for _ in range(sweeps):
            for number, cells in enumerate(self._cells):
                shares = self._shares[number]
                found = np.bincount(cells, self.weights, shares.size)
                change = _solve(found / found.sum(), shares, self._penalties[number], current[number])
                current[number] += change
                self.weights *= np.exp(change)[cells]
                self.weights /= self.weights.sum()
        return [after - before for after, before in zip(current, potentials, strict=True)]

    def take(self, change: Sequence[NDArray[np.float64]], share: float) -> float:
        """Set the weights to what a `share` of a change makes of equal ones; returns the effective rows, as a share."""
        logs = np.zeros(self.weights.size)
        for cells, each in zip(self._cells, change, strict=True):
            logs += share * each[cells]
        self.weights = np.exp(logs - logs.max())
        self.weights /= self.weights.sum()
        return self.effective

    @property
    def effective(self) -> float:
        """Effective rows, as a share of all (Kish)."""
        return float(1 / np.square(self.weights).sum() / self.weights.size)


class LogLinearModel:
    """The model of tables whose columns have `sizes` cells.

    >>> shares = np.array([[0.4, 0.1], [0.1, 0.4]])
    >>> model = LogLinearModel((2, 2), [KnownTable((0, 1), shares, np.zeros((2, 2)))], records=10_000)
    >>> rows = model.fit(np.random.default_rng(0), pool=20_000)
    >>> np.allclose(np.bincount(rows[:, 0] * 2 + rows[:, 1]) / 20_000, shares.ravel(), atol=0.02)
    True
    """

    def __init__(self, sizes: Sequence[int], tables: Sequence[KnownTable], records: int) -> None:
        self.sizes = tuple(sizes)
        self.tables = tuple(tables)
        self.records = records
        self.potentials = [np.zeros(table.shares.size) for table in tables]
        self._starts = np.concatenate([[0], np.cumsum(self.sizes)])
        self._neighbours: list[set[int]] = [set() for _ in self.sizes]
        for table in self.tables:
            for column in table.columns:
                self._neighbours[column].update({*table.columns} - {column})

    def fit(self, generator: np.random.Generator, *, pool: int = POOL, rounds: int = ROUNDS) -> NDArray[np.int32]:
        """Fit the potentials; returns the pool (pool, C), rows that are the model's draws in the end."""
        rows = np.stack([self._independent(column, pool, generator) for column in range(len(self.sizes))], axis=1)
        one_hot = self._one_hot(rows)
        for number in range(rounds):
            weights = PoolWeights(rows, self.tables, self.records, moving=True)
            change = weights.fit(self.potentials, SWEEPS)
            # Later rounds average: the pool's own sampling error would else stay in the potentials.
            share = 1.0 if number < rounds // 2 else 2 / (2 + number - rounds // 2)
            while weights.take(change, share) < LEAST_EFFECTIVE and share > 0.05:
                share *= 0.7
            for potential, each in zip(self.potentials, change, strict=True):
                potential += share * each
            rows = rows[draw_evenly(weights.weights, pool, generator)]
            one_hot = self._one_hot(rows)
            self._sweep(rows, one_hot, generator)
        return rows

    def draw(self, rows: NDArray[np.int32], sweeps: int, generator: np.random.Generator) -> NDArray[np.int32]:
        """Other rows, after so many Gibbs sweeps over these."""
        rows = rows.copy()
        one_hot = self._one_hot(rows)
        for _ in range(sweeps):
            self._sweep(rows, one_hot, generator)
        return rows

    def _independent(self, column: int, rows: int, generator: np.random.Generator) -> NDArray[np.int32]:
        """Cells by the column's own table, which is where the potentials start from."""
        return generator.choice(self.sizes[column], rows, p=self._start(column)).astype(np.int32)

    def _start(self, column: int) -> NDArray[np.float64]:
        """(k,): shares of a column's cells to start from, positive."""
        for table in self.tables:
            if table.columns == (column,):
                shares = np.maximum(table.shares, np.sqrt(table.variances) / 4 + 1e-9)
                return shares / shares.sum()
        return np.full(self.sizes[column], 1 / self.sizes[column])

    def _one_hot(self, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        one_hot = np.zeros((len(rows), self._starts[-1]), np.float32)
        np.put_along_axis(one_hot, rows + self._starts[:-1], np.float32(1), axis=1)
        return one_hot

    def _interactions(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(K,) potentials of the cells of all columns side by side, and (K, K) those of pairs of cells."""
        single = np.concatenate([np.log(self._start(column)) for column in range(len(self.sizes))])
        pairs = np.zeros((self._starts[-1], self._starts[-1]))
        for table, potential in zip(self.tables, self.potentials, strict=True):
            places = [slice(self._starts[column], self._starts[column + 1]) for column in table.columns]
            if len(places) == 1:
                single[places[0]] += potential
            else:
                block = potential.reshape(table.shares.shape)
                pairs[places[0], places[1]] += block
                pairs[places[1], places[0]] += block.T
        return single.astype(np.float32), pairs.astype(np.float32)

    def _sweep(self, rows: NDArray[np.int32], one_hot: NDArray[np.float32], generator: np.random.Generator) -> None:
        """Draw every column anew given the others, in place: a matrix product a column, or a sum over few others."""
        single, pairs = self._interactions()
        for column, (start, stop) in enumerate(zip(self._starts[:-1], self._starts[1:], strict=True)):
            if len(self._neighbours[column]) < FEW * len(self.sizes):
                logits = np.repeat(single[np.newaxis, start:stop], len(rows), axis=0)
                for other in self._neighbours[column]:
                    logits += pairs[self._starts[other] + rows[:, other], start:stop]
            else:
                logits = one_hot @ pairs[:, start:stop] + single[start:stop]
            logits -= logits.max(axis=1, keepdims=True)
            ascending = np.cumsum(np.exp(logits), axis=1)
            bound = generator.random(len(rows), np.float32) * ascending[:, -1]
            rows[:, column] = np.minimum((ascending <= bound[:, np.newaxis]).sum(axis=1), stop - start - 1)
            one_hot[:, start:stop] = 0
            one_hot[np.arange(len(rows)), start + rows[:, column]] = 1


def draw_evenly(weights: NDArray[np.float64], count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """`count` row numbers, each as often as its share of the weights says, rounded up or down (systematic sampling).

    >>> draw_evenly(np.array([0.5, 0.0, 0.25, 0.25]), 4, np.random.default_rng(0)).tolist()
    [0, 0, 2, 3]
    """
    ascending = np.cumsum(weights)
    places = (generator.random() + np.arange(count)) / count * ascending[-1]
    return np.minimum(np.searchsorted(ascending, places, side="right"), len(weights) - 1)


def cap_weights(weights: NDArray[np.float64], count: int, most: float) -> NDArray[np.float64]:
    """Weights with which `draw_evenly` takes no row of `count` more often than `most`, as near to these as can be.

    >>> cap_weights(np.array([0.75, 0.125, 0.125]), 2, 1.0).tolist()
    [0.5, 0.25, 0.25]
    """
    expected = weights / weights.sum() * count
    is_full = np.zeros(len(weights), bool)
    while (over := (expected > most) & ~is_full).any():
        is_full |= over
        rest = expected[~is_full].sum()
        expected[is_full] = most
        expected[~is_full] *= (count - most * is_full.sum()) / rest if rest > 0 else 0
    return expected / count


def _cells(pool: NDArray[np.integer], table: KnownTable) -> NDArray[np.integer]:
    """(N,): each row's cell of a table, flat; in few bytes, because there may be thousands of tables."""
    cells = np.ravel_multi_index([pool[:, column] for column in table.columns], table.shares.shape)
    return cells.astype(np.min_scalar_type(table.shares.size))


def _solve(
    found: NDArray[np.float64],
    wanted: NDArray[np.float64],
    penalty: NDArray[np.float64],
    potential: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The changes d of potentials with found e^d + penalty (potential + d) = wanted, by Newton's method."""
    change = np.zeros_like(found)
    start = (found + penalty * potential < wanted) & (penalty < found)
    room = np.maximum(wanted - penalty * potential, found)[start] / found[start]
    change[start] = np.minimum(np.log(room), 3)
    for _ in range(NEWTON_STEPS):
        grown = found * np.exp(change)
        step = (grown + penalty * (potential + change) - wanted) / (grown + penalty)
        change -= np.clip(step, -1, 1)
    return change
