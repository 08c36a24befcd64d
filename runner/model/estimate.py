"""From noisy counts of tokens to the tables that a log-linear model is fitted to.

A *column* is a slot of a record whose tokens are counted. For tables of pairs, tokens are joined into *groups*, few
enough that the groups' counts stand out from the noise. What several noisy tables say of the same group is put
together by inverse variance, and the pairs' tables are moved so that their sums agree with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runner.model.loglinear import KnownTable

MOST_GROUPS = 16
FEWEST_GROUPS = 2
RECORDS_IN_A_CELL = 3.5
"""In sigma: how many records a cell of a pair's table should hold on average, when there are none of it elsewhere."""
LEAST_COUNT = 0.25
"""In sigma: what a count is taken for that noise made less."""


def most_groups(records: int, sigma: float) -> int:
    """How many groups of a column a table of pairs with this noise can tell apart.

    >>> most_groups(24_421, 27), most_groups(2_000, 27), most_groups(100, 27)
    (16, 4, 2)
    """
    return max(FEWEST_GROUPS, min(MOST_GROUPS, math.isqrt(int(records / (RECORDS_IN_A_CELL * sigma)))))


def group_tokens(
    counts: NDArray[np.integer], sigma: float, most: int, order: NDArray[np.float64] | None
) -> NDArray[np.int64]:
    """(tokens,): the group of each token, by noisy `counts`.

    order: a number for each token, whose neighbours are alike: groups are stretches with about as many records each;
    tokens that have NaN, such as null, are a group of their own. None: the most frequent tokens are groups of their
    own, all others one.

    >>> group_tokens(np.array([50, 1, 2, 40]), 1.0, 3, None).tolist()
    [0, 2, 2, 1]
    >>> group_tokens(np.array([50, 1, 2, 40]), 1.0, 2, np.arange(4)).tolist()
    [0, 1, 1, 1]
    >>> group_tokens(np.array([50, 1, 2, 40]), 1.0, 3, np.array([0, 1, 2, np.nan])).tolist()
    [0, 1, 1, 2]
    """
    tokens = len(counts)
    if tokens <= most:
        return np.arange(tokens)
    if order is not None and (apart := np.isnan(order)).any():
        inside = ~apart
        groups = np.zeros(tokens, np.int64)
        groups[inside] = group_tokens(counts[inside], sigma, max(most - 1, 1), order[inside])
        groups[apart] = groups.max() + 1
        return groups
    shares = token_shares(counts, sigma)
    groups = np.full(tokens, most - 1)
    if order is None:
        groups[np.argsort(-shares, kind="stable")[: most - 1]] = np.arange(most - 1)
        return groups
    group, inside, left = 0, 0.0, 1.0
    for token in np.argsort(order, kind="stable").tolist():
        due = left / (most - group)
        if inside > 0 and inside + shares[token] / 2 > due and group < most - 1:
            left, inside, group = left - inside, 0.0, group + 1
        groups[token] = group
        inside += shares[token]
    return groups


def token_shares(counts: NDArray[np.integer], sigma: float) -> NDArray[np.float64]:
    """Shares of tokens by noisy counts, all positive."""
    positive = np.maximum(counts, LEAST_COUNT * sigma)
    return positive / positive.sum()


@dataclass(frozen=True)
class Column:
    """A counted slot. `counts` (tokens,) noisy, with noise `sigma`; `groups` (tokens,): the group of each token."""

    counts: NDArray[np.integer]
    sigma: float
    groups: NDArray[np.int64]

    @property
    def size(self) -> int:
        """Number of groups."""
        return int(self.groups.max()) + 1


@dataclass(frozen=True)
class Estimate:
    """`tables`: of every column alone and of the counted pairs, in groups. `shares`: of each column, its tokens'."""

    tables: tuple[KnownTable, ...]
    shares: tuple[NDArray[np.float64], ...]


def estimate_tables(
    columns: Sequence[Column], pairs: Mapping[tuple[int, int], tuple[NDArray[np.integer], float]], records: int
) -> Estimate:
    """pairs: noisy counts (groups, groups) of pairs of columns, and their sigma. `records` is public."""
    counts, variances = [], []
    for number, column in enumerate(columns):
        precision = np.full(column.size, 1.0)
        total = np.bincount(column.groups, column.counts, column.size)
        precision /= np.bincount(column.groups, minlength=column.size) * column.sigma**2
        total = total * precision
        for pair, (table, sigma) in pairs.items():
            if number in pair:
                other = 1 - pair.index(number)
                inverse = 1 / (sigma**2 * table.shape[other])
                total, precision = total + table.sum(axis=other) * inverse, precision + inverse
        mean, variance = total / precision, 1 / precision
        counts.append(mean + (records - mean.sum()) * variance / variance.sum())
        variances.append(variance)
    tables = [
        KnownTable((number,), count / records, variance / records**2)
        for number, (count, variance) in enumerate(zip(counts, variances, strict=True))
    ]
    for (one, other), (table, sigma) in pairs.items():
        agreeing = table + (counts[one] - table.sum(axis=1))[:, np.newaxis] / table.shape[1]
        agreeing = agreeing + (counts[other] - agreeing.sum(axis=0)) / table.shape[0]
        tables.append(KnownTable((one, other), agreeing / records, np.full(table.shape, (sigma / records) ** 2)))
    shares = []
    for column, count, variance in zip(columns, counts, variances, strict=True):
        inside = token_shares(column.counts, column.sigma)
        of_groups = np.maximum(count, np.sqrt(variance) * LEAST_COUNT)
        known = np.bincount(column.groups, inside, column.size)
        scaled = inside * (of_groups / of_groups.sum() / known)[column.groups]
        shares.append(scaled / scaled.sum())
    return Estimate(tuple(tables), tuple(shares))
