"""How close synthetic records come to the records that were trained on, and to those that were not.

Gower's distance of two records (Gower 1971): the mean over the columns of |difference| for numbers, each counted as its
rank among the training records (0 to 1), and of 0 (the same) or 1 for all other values.

If the model learned what records are like and not the records themselves, a synthetic record is as often closer to a
training record as to a holdout record (Platzer and Reutterer 2021, doi:10.3389/fdata.2021.679939: the share of the
distances to the closest record, DCR). Nor is its nearest training record nearer, beside the second nearest one, than
its nearest holdout record is: the nearest neighbor distance ratio (NNDR), from 0, a single record near by, to 1.

mostlyai-qa measures the same by Euclid's distance between embeddings of values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runner.report.table import Column, Rows, spread

PROBES = 1_000
"""Records whose nearest neighbors are looked for."""
REFERENCES = 5_000
"""Records that they are looked for among: as many of training as of holdout."""
COLUMNS = 100
"""Columns that distances are measured by; of more, evenly spaced ones."""
CHUNK = 250

Points = NDArray[np.float32]


@dataclass(frozen=True)
class Closeness:
    """Distances to the nearest of as many training and holdout records (P,), and what they come to.

    `..._ratio`: means of the nearest neighbor distance ratios. `columns`: by how many they were measured.
    """

    synthetic_to_training: Points
    synthetic_to_holdout: Points
    holdout_to_training: Points
    synthetic_to_training_ratio: float
    synthetic_to_holdout_ratio: float
    holdout_to_training_ratio: float
    references: int
    columns: int

    @property
    def closer_to_training(self) -> float:
        """Share of synthetic records that are closer to a training record; a tie is half a record."""
        nearer = self.synthetic_to_training < self.synthetic_to_holdout
        ties = self.synthetic_to_training == self.synthetic_to_holdout
        return float(nearer.mean() + ties.mean() / 2)

    @property
    def ratio(self) -> float | None:
        """The ratio to training records over that to holdout records; None where the latter is 0."""
        beside = self.synthetic_to_holdout_ratio
        return self.synthetic_to_training_ratio / beside if beside > 0 else None

    @property
    def chance(self) -> float:
        """How far from 0.5 chance alone takes that share: two standard errors of a fair coin, without its ties."""
        decided = float((self.synthetic_to_training != self.synthetic_to_holdout).mean())
        return math.sqrt(decided / self.synthetic_to_training.size)


class RecordSpace:
    """Turns records into points whose distance is Gower's."""

    def __init__(self, columns: Sequence[Column], training: Rows) -> None:
        self.columns = columns
        self._sorted: list[NDArray[np.float64] | None] = []
        self._codes: list[dict[str, int]] = [{} for _ in columns]
        for column, values in zip(columns, zip(*training, strict=True), strict=True):
            numbers = np.sort(column.numbers(values)) if column.kind == "number" else None
            self._sorted.append(None if numbers is None else numbers[~np.isnan(numbers)])

    def points(self, rows: Rows) -> Points:
        """(n, columns): a number's rank among the training records, others' codes; not a number for no number."""
        found = np.empty((len(rows), len(self.columns)), np.float32)
        for place, values in enumerate(zip(*rows, strict=True)):
            ranks = self._sorted[place]
            if ranks is None:
                codes = self._codes[place]
                found[:, place] = [codes.setdefault(value, len(codes)) for value in values]
            else:
                found[:, place] = _rank_shares(ranks, self.columns[place].numbers(values))
        return found

    def nearest(self, probes: Points, references: Points) -> Points:
        """(probes, 2): the distances of each probe to the two nearest references."""
        found = [
            np.partition(self._distances(probes[i : i + CHUNK], references), 1, axis=1)[:, :2]
            for i in range(0, len(probes), CHUNK)
        ]
        return np.concatenate(found)

    def apart(self, place: int, probes: Points, references: Points) -> Points:
        """(probes, references): how far values of one column are apart, from 0 to 1."""
        one, other = probes[:, place, None], references[None, :, place]
        if self._sorted[place] is None:
            return (one != other).astype(np.float32)
        apart = np.abs(one - other)
        if np.isnan(one).any() or np.isnan(other).any():
            apart = np.where(np.isnan(apart), np.isnan(one) != np.isnan(other), apart)
        return apart

    def _distances(self, probes: Points, references: Points) -> Points:
        """(probes, references)."""
        total = np.zeros((len(probes), len(references)), np.float32)
        for place in range(len(self.columns)):
            total += self.apart(place, probes, references)
        return total / np.float32(len(self.columns))


def measure_closeness(
    columns: Sequence[Column], synthetic: Rows, training: Rows, holdout: Rows, seed: int = 0
) -> Closeness | None:
    """Look for the nearest records of up to `PROBES` synthetic ones; None when there are too few records.

    Training and holdout records are drawn to the same number: among more there is more likely a near one. Holdout
    records probe the training records, too: that is how near records of one source come.
    """
    references = min(len(training), len(holdout), REFERENCES)
    if references < 2 or not synthetic:
        return None
    draw = np.random.default_rng(seed)
    columns, (synthetic, training, holdout) = fewer_columns(columns, synthetic, training, holdout)
    space = RecordSpace(columns, training)
    seen, unseen = (space.points(draw_rows(draw, rows, references)) for rows in (training, holdout))
    probes = space.points(draw_rows(draw, synthetic, PROBES))
    nearest = space.nearest(probes, seen), space.nearest(probes, unseen), space.nearest(unseen[:PROBES], seen)
    distances, ratios = [each[:, 0] for each in nearest], [_mean_ratio(each) for each in nearest]
    return Closeness(
        distances[0], distances[1], distances[2], ratios[0], ratios[1], ratios[2], references, len(columns)
    )


def fewer_columns(columns: Sequence[Column], *tables: Rows) -> tuple[Sequence[Column], list[Rows]]:
    """Of very many columns `COLUMNS` evenly spaced ones, and the tables with those alone."""
    if len(columns) <= COLUMNS:
        return columns, list(tables)
    places = spread(range(len(columns)), COLUMNS)
    cut = [[tuple(row[place] for place in places) for row in rows] for rows in tables]
    return [columns[place] for place in places], cut


def _mean_ratio(nearest: Points) -> float:
    """The mean of the nearest distance over the second nearest; two that are both at no distance count 1.

    >>> _mean_ratio(np.array([[0, 0], [0, 1], [1, 2]], np.float32))
    0.5
    """
    first, second = nearest.astype(np.float64).T
    return float(np.where(second > 0, first / np.where(second > 0, second, 1), 1.0).mean())


def draw_rows(draw: np.random.Generator, rows: Rows, most: int) -> Rows:
    """Up to `most` rows, drawn at random."""
    chosen = draw.permutation(len(rows))[:most]
    return [rows[index] for index in chosen]


def _rank_shares(training: NDArray[np.float64], numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of training numbers below, ties by half; not a number for no number."""
    if not training.size:
        return np.where(np.isnan(numbers), np.nan, 0.0)
    below = np.searchsorted(training, numbers, "left") + np.searchsorted(training, numbers, "right")
    return np.where(np.isnan(numbers), np.nan, below / (2 * training.size))
