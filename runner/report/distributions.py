"""How far two samples' distributions are apart, column by column and over pairs of columns.

    >>> total_variation(["a", "a", "b", "b"], ["a", "b", "b", "b"])
    0.25
    >>> number_distance(np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 3, 9]))
    0.25

All distances lie between 0 (the same) and 1 (nothing in common). Two samples of one source are not at 0 either: hold
a distance against that of records the model has not seen.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.report.table import Column, Rows

LEVELS = 30
"""Values of a category that associations tell apart; the rarer ones count as one."""

Numbers = NDArray[np.float64]
Codes = NDArray[np.int64]


def column_distance(column: Column, one: Sequence[str], other: Sequence[str]) -> float | None:
    """The distance of two samples of a column, by its kind; None when a sample is empty."""
    if not one or not other:
        return None
    if column.kind == "category":
        return total_variation(one, other)
    return number_distance(column.numbers(one), column.numbers(other))


def total_variation(one: Sequence[Hashable], other: Sequence[Hashable]) -> float:
    """Half the sum over all values of |share in one - share in the other|: the total variation distance."""
    first, second = Counter(one), Counter(other)
    n, m = len(one), len(other)
    return math.fsum(abs(first[value] / n - second[value] / m) for value in first.keys() | second.keys()) / 2


def number_distance(one: Numbers, other: Numbers) -> float:
    """The larger of two: the Kolmogorov-Smirnov statistic of the numbers, the largest distance of their cumulative
    shares, and the difference of the shares of values that are no number."""
    missing = abs(float(np.isnan(one).mean() - np.isnan(other).mean()))
    one, other = np.sort(one[~np.isnan(one)]), np.sort(other[~np.isnan(other)])
    if not one.size or not other.size:
        return missing
    points = np.concatenate([one, other])
    shares = [np.searchsorted(sample, points, side="right") / sample.size for sample in (one, other)]
    return max(missing, float(np.abs(shares[0] - shares[1]).max()))


@dataclass(frozen=True)
class Associations:
    """How much every two columns have to do with each other: `values` (k, k), not a number where undefined.

    Numbers with numbers: Spearman's rank correlation, from -1 to 1. Categories with categories: Cramer's V with
    Bergsma's correction of its bias, from 0 to 1. One of each: the correlation ratio of the ranks, from 0 to 1.
    Records in which one of the two is no number do not count; a column of one value has to do with nothing.
    """

    columns: tuple[Column, ...]
    values: Numbers

    def differences(self, other: Associations) -> Numbers:
        """|this - other| (k, k), not a number where either is undefined and on the diagonal."""
        found = np.abs(self.values - other.values)
        np.fill_diagonal(found, np.nan)
        return found


def find_associations(columns: Sequence[Column], rows: Rows, levels: Sequence[Sequence[str]]) -> Associations:
    """The associations of all pairs of columns.

    levels: for each column the values of a category that are told apart, see `frequent_values`.
    """
    coded: list[NDArray[Any]] = []
    for column, values, known in zip(columns, zip(*rows, strict=True), levels, strict=True):
        coded.append(to_codes(values, known) if column.kind == "category" else column.numbers(values))
    found = np.full((len(columns), len(columns)), np.nan)
    for i, one in enumerate(coded):
        for j, other in enumerate(coded[:i]):
            found[i, j] = found[j, i] = association(one, other)
    return Associations(tuple(columns), found)


def association(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The association of two columns, given as numbers (float) or as codes of categories (int): see `Associations`."""
    known = ~(np.isnan(one) | np.isnan(other))
    one, other = one[known], other[known]
    if one.dtype.kind == "f" and other.dtype.kind == "f":
        return spearman(one, other)
    if one.dtype.kind == "i" and other.dtype.kind == "i":
        return cramers_v(one, other)
    codes, numbers = (one, other) if one.dtype.kind == "i" else (other, one)
    return correlation_ratio(codes, ranks(numbers))


def spearman(one: Numbers, other: Numbers) -> float:
    """Pearson's correlation of the ranks, ties at their mean (Spearman 1904)."""
    if one.size < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return np.nan
    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def cramers_v(one: Codes, other: Codes) -> float:
    """V of r by c categories, its bias corrected (Bergsma 2013): sqrt(phi^2 / (min(r', c') - 1)), where
    phi^2 = max(0, chi^2/n - (r-1)(c-1)/(n-1)), r' = r - (r-1)^2/(n-1) and c' likewise."""
    rows, columns = _dense(one), _dense(other)
    n = one.size
    if n < 2 or not rows.any() or not columns.any():
        return np.nan
    r, c = int(rows.max()) + 1, int(columns.max()) + 1
    table = np.bincount(rows * c + columns, minlength=r * c).reshape(r, c)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / n
    phi2 = float(((table - expected) ** 2 / expected).sum()) / n
    phi2 = max(0.0, phi2 - (r - 1) * (c - 1) / (n - 1))
    smaller = min(r - (r - 1) ** 2 / (n - 1), c - (c - 1) ** 2 / (n - 1)) - 1
    return min(1.0, float(np.sqrt(phi2 / smaller))) if smaller > 0 else np.nan


def correlation_ratio(codes: Codes, numbers: Numbers) -> float:
    """eta: the root of the share of the numbers' variance that lies between the categories (Fisher 1925)."""
    dense = _dense(codes)
    if numbers.size < 2 or not dense.any() or np.ptp(numbers) == 0:
        return np.nan
    counts = np.bincount(dense)
    means = np.bincount(dense, numbers) / counts
    between = float((counts * (means - numbers.mean()) ** 2).sum())
    return min(1.0, float(np.sqrt(between / ((numbers - numbers.mean()) ** 2).sum())))


def ranks(numbers: Numbers) -> Numbers:
    """Places in ascending order from 1, equal numbers at the mean of theirs. (scipy.stats takes a second to import.)

    >>> ranks(np.array([7.0, 3.0, 7.0, 9.0])).tolist()
    [2.5, 1.0, 2.5, 4.0]
    """
    _, inverse, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def area_under_curve(scores: Numbers, positive: NDArray[np.bool_]) -> float:
    """Probability that a positive scores above a negative, ties by half (Mann and Whitney 1947).

    >>> area_under_curve(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    positives, negatives = int(positive.sum()), int((~positive).sum())
    places = float(ranks(scores)[positive].sum())
    return (places - positives * (positives + 1) / 2) / (positives * negatives)


def frequent_values(values: Sequence[str], most: int = LEVELS) -> list[str]:
    """The most frequent values, ties in alphabetical order."""
    counts = Counter(values)
    return sorted(counts, key=lambda value: (-counts[value], value))[:most]


def to_codes(values: Sequence[str], levels: Sequence[str]) -> Codes:
    """The place of each value in `levels`, `len(levels)` for all others."""
    places = {level: place for place, level in enumerate(levels)}
    return np.array([places.get(value, len(levels)) for value in values], np.int64)


def _dense(codes: Codes) -> Codes:
    """Codes without gaps, from 0."""
    return np.unique(codes, return_inverse=True)[1]
