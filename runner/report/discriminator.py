"""Can synthetic records be told from real ones? The area under the ROC curve of a model that tries to.

0.5: it cannot. 1: each one is known for what it is. Beside it stands what the same model makes of holdout and training
records, which is 0.5 but for chance.

The model is gradient boosting of small trees on histograms (Friedman 2001, doi:10.1214/aos/1013203451; gains and leaf
values of second order as by Chen and Guestrin 2016, arXiv:1603.02754), of about the size that mostlyai-qa has
scikit-learn train. That tool gives it embeddings of values; here it gets their codes, so figures are alike and not the
same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runner.report.distributions import area_under_curve
from runner.report.encoder import Codes, Encoder
from runner.report.table import Column, Rows, spread

MOST_RECORDS = 10_000
"""Of either kind."""
FEWEST_RECORDS = 50
FOLDS = 3
"""Models, each tested on records that the others were trained on, and it was not."""
TREES = 50
DEPTH = 5
RATE = 0.2
LEAST_WEIGHT = 5.0
"""Of the records in a leaf: the sum of the second derivatives of their loss, a quarter each at most."""
PENALTY = 1.0
RANGES = 60
FEATURES = 4, 16
"""The fewest and most columns that a tree may look at, drawn at random; in between half of them."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Discriminator:
    """Areas under the curve: synthetic or training, and holdout or training; `holdout` is None without one.

    `chance`: how far from 0.5 chance alone takes them: two standard errors (Mann and Whitney 1947).
    """

    synthetic: float
    holdout: float | None
    chance: float


def measure_discriminator(
    columns: Sequence[Column], synthetic: Rows, training: Rows, holdout: Rows, seed: int = 0
) -> Discriminator | None:
    """Train on up to `MOST_RECORDS` of either kind, as many of each; None when there are too few records."""
    size = min(len(synthetic), len(training), MOST_RECORDS)
    if size < FEWEST_RECORDS:
        return None
    encoder = Encoder(columns, range(len(columns)), training, RANGES)
    draw = np.random.default_rng(seed)
    real = encoder.codes(spread(training, size))
    areas: list[float | None] = [None, None]
    for place, rows in enumerate((synthetic, holdout)):
        most = min(len(rows), size)
        if most >= FEWEST_RECORDS:
            areas[place] = _area(encoder.codes(spread(rows, most)), real[draw.permutation(size)[:most]], draw)
    assert areas[0] is not None
    return Discriminator(areas[0], areas[1], 2 * math.sqrt((2 * size + 1) / (12 * size**2)))


def _area(one: Codes, other: Codes, draw: np.random.Generator) -> float:
    """The mean over the folds of the area that a model of the other folds reaches."""
    codes = np.vstack([one, other])
    positive = np.arange(len(codes)) < len(one)
    folds = draw.permutation(len(codes)) % FOLDS
    areas: list[float] = []
    for fold in range(FOLDS):
        tested = folds == fold
        trees = fit_trees(codes[~tested], positive[~tested].astype(np.float64), draw)
        areas.append(area_under_curve(score(trees, codes[tested]), positive[tested]))
    return float(np.mean(areas))


@dataclass(frozen=True)
class Tree:
    """Complete, with `DEPTH` splits on the way to each leaf: a record goes right where its code of the node's column is
    above the node's threshold. `columns`, `thresholds`: (2^DEPTH - 1,) level by level; `leaves`: (2^DEPTH,)."""

    columns: Codes
    thresholds: Codes
    leaves: Numbers

    def places(self, codes: Codes) -> Codes:
        """(n,): the leaf of each record."""
        nodes = np.zeros(len(codes), np.int64)
        rows = np.arange(len(codes))
        for _ in range(DEPTH):
            nodes = 2 * nodes + 1 + (codes[rows, self.columns[nodes]] > self.thresholds[nodes])
        return nodes - (2**DEPTH - 1)


def fit_trees(codes: Codes, wanted: Numbers, draw: np.random.Generator) -> list[Tree]:
    """Trees whose sum is the log-odds of `wanted` (n,), 0 or 1, from codes (n, columns)."""
    scores = np.zeros(len(codes))
    trees: list[Tree] = []
    features = min(FEATURES[1], max(FEATURES[0], codes.shape[1] // 2))
    for _ in range(TREES):
        shares = 1 / (1 + np.exp(-scores))
        chosen = np.sort(draw.permutation(codes.shape[1])[:features])
        tree = _fit_tree(codes, chosen, shares - wanted, shares * (1 - shares))
        scores += tree.leaves[tree.places(codes)]
        trees.append(tree)
    return trees


def score(trees: Sequence[Tree], codes: Codes) -> Numbers:
    """(n,): the log-odds of each record."""
    return np.sum([tree.leaves[tree.places(codes)] for tree in trees], axis=0)


def _fit_tree(codes: Codes, chosen: Codes, slopes: Numbers, weights: Numbers) -> Tree:
    """A tree on the chosen columns. slopes, weights: first and second derivatives of the records' losses (n,)."""
    some = codes[:, chosen]
    bins = int(some.max()) + 1
    cells = some + bins * np.arange(len(chosen))
    nodes = np.zeros(len(codes), np.int64)
    columns, thresholds = np.zeros(2**DEPTH - 1, np.int64), np.full(2**DEPTH - 1, bins)
    rows = np.arange(len(codes))
    for level in range(DEPTH):
        first, count = 2**level - 1, 2**level
        places = ((nodes - first)[:, None] * (bins * len(chosen)) + cells).ravel()
        left = [
            np.bincount(places, np.repeat(each, len(chosen)), count * len(chosen) * bins)
            .reshape(count, len(chosen), bins)
            .cumsum(axis=2)
            for each in (slopes, weights)
        ]
        whole = [each[:, :1, -1:] for each in left]
        right = [total - part for total, part in zip(whole, left, strict=True)]
        gains = _gain(*left) + _gain(*right) - _gain(*whole)
        gains[(left[1] < LEAST_WEIGHT) | (right[1] < LEAST_WEIGHT)] = 0
        best = gains.reshape(count, -1).argmax(axis=1)
        splits = gains.reshape(count, -1)[np.arange(count), best] > 0
        here = slice(first, first + count)
        columns[here] = chosen[best // bins]
        thresholds[here] = np.where(splits, best % bins, bins)
        nodes = 2 * nodes + 1 + (codes[rows, columns[nodes]] > thresholds[nodes])
    leaves = nodes - (2**DEPTH - 1)
    sums = [np.bincount(leaves, each, 2**DEPTH) for each in (slopes, weights)]
    return Tree(columns, thresholds, -RATE * sums[0] / (sums[1] + PENALTY))


def _gain(slopes: Numbers, weights: Numbers) -> Numbers:
    return slopes**2 / (weights + PENALTY)
