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
LEAST_SHARE = 1e-6
"""Of a token that noise made less."""
CERTAIN = 1.75
"""In sigma: how much two halves of a stretch of tokens have to differ from what they would be if even."""


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
    shares = token_shares(counts, sigma, order=order)
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


def token_shares(
    counts: NDArray[np.integer], sigma: float, total: float | None = None, order: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Shares of tokens by noisy counts, all positive.

    total: of the exact counts, where it is known. order: as in `group_tokens`; what neighbours differ by no more than
    noise does is then spread evenly over them. Others are the least that is off the counts (Euclidean projection).

    >>> np.round(token_shares(np.array([60, 30, 20, -10]), 10.0, 90), 3).tolist()
    [0.593, 0.259, 0.148, 0.0]
    >>> np.round(token_shares(np.array([60, 30, 20, -10]), 10.0, 90, np.arange(4)), 3).tolist()
    [0.639, 0.306, 0.056, 0.0]
    """
    sum_of_all = float(counts.sum()) if total is None else float(total)
    sum_of_all = max(sum_of_all, sigma)
    if order is None:
        found = _nearest(counts.astype(float), np.ones(len(counts)), sum_of_all)
    else:
        found = _smooth(counts.astype(float), sigma, sum_of_all, order)
    positive = np.maximum(found, LEAST_SHARE * sum_of_all)
    return positive / positive.sum()


def _nearest(counts: NDArray[np.float64], variances: NDArray[np.float64], total: float) -> NDArray[np.float64]:
    """The counts that are not negative, add up to the total, and are the likeliest."""
    order = np.argsort(-counts / variances, kind="stable")
    excess = (np.cumsum(counts[order]) - total) / np.cumsum(variances[order])
    kept = np.flatnonzero(counts[order] > excess * variances[order])
    return np.maximum(counts - excess[kept[-1]] * variances, 0)


def _smooth(counts: NDArray[np.float64], sigma: float, total: float, order: NDArray[np.float64]) -> NDArray[np.float64]:
    """Halve the tokens again and again: a half has its part by number, unless the counts say otherwise beyond noise."""
    found = counts + (total - counts.sum()) / len(counts)
    inside = np.flatnonzero(~np.isnan(order))
    inside = inside[np.argsort(order[inside], kind="stable")]
    found = np.maximum(found, 0)
    if not inside.size:
        return found
    found[inside] = 0
    ascending = np.concatenate([[0.0], np.cumsum(counts[inside])])
    parts = [(0, len(inside), max(total - found.sum(), 0.0))]
    while parts:
        first, last, held = parts.pop()
        if last - first == 1:
            found[inside[first]] = held
            continue
        middle = (first + last) // 2
        part = (middle - first) / (last - first)
        counted = ascending[middle] - ascending[first]
        counted += (held - (ascending[last] - ascending[first])) * part
        half = held * part
        if abs(counted - half) > CERTAIN * sigma * np.sqrt((middle - first) * (1 - part)):
            half = min(max(counted, 0.0), held)
        parts += [(first, middle, half), (middle, last, held - half)]
    return found


@dataclass(frozen=True)
class Column:
    """A counted slot. `counts` (tokens,) noisy, with noise `sigma`; `groups` (tokens,): the group of each token;
    `order`: see `group_tokens`."""

    counts: NDArray[np.integer]
    sigma: float
    groups: NDArray[np.int64]
    order: NDArray[np.float64] | None = None

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
        inside = token_shares(column.counts, column.sigma, records, column.order)
        of_groups = np.maximum(_nearest(count, variance, records), LEAST_SHARE * records)
        known = np.bincount(column.groups, inside, column.size)
        scaled = inside * (of_groups / of_groups.sum() / known)[column.groups]
        shares.append(scaled / scaled.sum())
    return Estimate(tuple(tables), tuple(shares))
