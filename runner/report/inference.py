"""Attribute inference: does it help an attacker to guess one column of a record that he knows the others of?

The attack (Giomi and others 2023, doi:10.56553/popets-2023-0055, `Anonymeter`): among the synthetic records he looks
for the one that is most like what he knows, by Gower's distance, and takes its value for his guess. Any useful records
let him guess well. So he attacks training records and, for control, holdout records, whose values nothing that was
trained on had: what he guesses more of the former, the model remembered.

    risk = (share guessed of training records - share guessed of holdout records) / (1 - the latter)

A guess of a number is right when its rank among the training records is within `TOLERANCE`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runner.report.closeness import CHUNK, Points, RecordSpace, draw_rows, fewer_columns
from runner.report.table import Column, Rows

ATTACKS = 1_000
"""Records of either kind that are attacked."""
FEWEST_ATTACKS = 20
REFERENCES = 5_000
"""Synthetic records that are looked through."""
SECRETS = 30
"""Columns that are guessed: the first ones."""
TOLERANCE = 0.05


@dataclass(frozen=True)
class Guesses:
    """Of one column: shares of the training and of the holdout records that were guessed right."""

    column: str
    training: float
    holdout: float

    @property
    def risk(self) -> float:
        """What the attack gains from memory; 0 where holdout records are guessed as well."""
        return max(0.0, (self.training - self.holdout) / (1 - self.holdout)) if self.holdout < 1 else 0.0


@dataclass(frozen=True)
class Inference:
    """Of each column that was guessed, those at most risk first. `attacks`: of either kind, for each column.

    `chance`: how far the two shares of a column are apart by chance: two standard errors of shares of a half.
    """

    columns: tuple[Guesses, ...]
    attacks: int

    @property
    def chance(self) -> float:
        """Two standard errors of the difference of two shares of a half."""
        return 2 * math.sqrt(2 * 0.25 / self.attacks)

    @property
    def training(self) -> float:
        """The mean over the columns."""
        return float(np.mean([each.training for each in self.columns]))

    @property
    def holdout(self) -> float:
        """The mean over the columns."""
        return float(np.mean([each.holdout for each in self.columns]))


def attack_records(
    columns: Sequence[Column], synthetic: Rows, training: Rows, holdout: Rows, seed: int = 0
) -> Inference | None:
    """Guess every column from all others; None where there are too few records, or no other columns."""
    attacks = min(len(training), len(holdout), ATTACKS)
    if attacks < FEWEST_ATTACKS or not synthetic or len(columns) < 2:
        return None
    draw = np.random.default_rng(seed)
    columns, (synthetic, training, holdout) = fewer_columns(columns, synthetic, training, holdout)
    space = RecordSpace(columns, training)
    references = space.points(draw_rows(draw, synthetic, REFERENCES))
    shares = [
        _guess(space, space.points(draw_rows(draw, rows, attacks)), references).mean(axis=0)
        for rows in (training, holdout)
    ]
    guesses = [
        Guesses(column.name, float(seen), float(unseen)) for column, seen, unseen in zip(columns, *shares, strict=False)
    ]
    return Inference(tuple(sorted(guesses, key=lambda each: -each.risk)), attacks)


def _guess(space: RecordSpace, targets: Points, references: Points) -> NDArray[np.bool_]:
    """(targets, secrets): whether the value of the nearest reference by all other columns is right."""
    secrets = range(min(len(space.columns), SECRETS))
    right = np.empty((len(targets), len(secrets)), bool)
    for start in range(0, len(targets), CHUNK):
        here = targets[start : start + CHUNK]
        total = np.zeros((len(here), len(references)), np.float32)
        for place in range(len(space.columns)):
            total += space.apart(place, here, references)
        for place in secrets:
            apart = space.apart(place, here, references)
            nearest = (total - apart).argmin(axis=1)
            right[start : start + CHUNK, place] = apart[np.arange(len(here)), nearest] <= TOLERANCE
    return right
