"""Train on synthetic, test on real: what a model of one column is worth that saw synthetic records only.

The same additive model is trained twice, on synthetic and on training records, as many of each, and tested on the same
holdout records (Esteban, Hyland and Rätsch 2017, arXiv:1706.02633). It has one weight for each value of a category and
for each twentieth of a column of numbers: a logistic regression for categories, a ridge regression for numbers. It is
no strong model, but the same for both, and it needs no library that slows TensorFlow's import down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.special import log_softmax, softmax

from runner.report.distributions import area_under_curve, association, frequent_values, to_codes
from runner.report.encoder import Encoder
from runner.report.table import Column, Rows, spread

MOST_RECORDS = 10_000
"""Records that a model is trained on."""
CLASSES = 20
"""Values of a category that are predicted; the rarer ones count as one."""
PREDICTORS = 100
"""Columns that the target is predicted from: of more, those that have most to do with it in the training records."""
SCREENED_RECORDS = 5_000
"""Records in which that is looked for."""
BINS = 20
STEPS = 60
"""Of the optimizer; more change the second digit of no score that was looked at."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """How well the holdout records' values were predicted; None where a figure is not defined.

    Of categories `accuracy` and, of two, `auc`. Of numbers `r2` and `mae`, the mean absolute error.
    """

    accuracy: float | None = None
    auc: float | None = None
    r2: float | None = None
    mae: float | None = None


@dataclass(frozen=True)
class Usefulness:
    """Scores of the model trained on synthetic and on training records, and of always guessing the same.

    `predictors`: how many columns it was predicted from, of the `others`. The guess is the training records' most
    frequent value, or their median.
    """

    target: str
    trained_on: int
    tested_on: int
    predictors: int
    others: int
    synthetic: Score
    real: Score
    guess: Score

    @property
    def ratio(self) -> float | None:
        """The synthetic model's accuracy or R2 over the real one's; None where the real one's is not positive."""
        mine, reference = (
            (self.synthetic.accuracy, self.real.accuracy)
            if self.real.accuracy is not None
            else (self.synthetic.r2, self.real.r2)
        )
        return mine / reference if mine is not None and reference is not None and reference > 0 else None


def measure_usefulness(
    columns: Sequence[Column], target: str, synthetic: Rows, training: Rows, holdout: Rows
) -> Usefulness | None:
    """Score `target`, one of the columns, which is no free text; None when there are too few records.

    Records whose target is no number do not count where the others' are, and numbers beyond the training records' range
    count as its ends: a single wild one would be all that a mean error tells of.
    """
    place = [column.name for column in columns].index(target)
    if columns[place].kind == "number":
        synthetic, training, holdout = (
            [row for row, number in zip(rows, columns[place].numbers([row[place] for row in rows]), strict=True)
             if not np.isnan(number)]
            for rows in (synthetic, training, holdout)
        )  # fmt: skip
    size = min(len(synthetic), len(training), MOST_RECORDS)
    if size < 2 or len(holdout) < 2:
        return None
    predictors = _predictors(columns, place, training)
    encoder = Encoder(columns, predictors, training, BINS)
    tested = _features(encoder, holdout)
    trained = spread(synthetic, size), spread(training, size)
    values = [[row[place] for row in rows] for rows in (*trained, holdout)]
    features = _features(encoder, trained[0]), _features(encoder, trained[1])
    score = _score_numbers if columns[place].kind == "number" else _score_categories
    scores = score(columns[place], features, tested, values, [row[place] for row in training])
    return Usefulness(target, size, len(holdout), len(predictors), len(columns) - 1, *scores)


def _predictors(columns: Sequence[Column], target: int, training: Rows) -> list[int]:
    """The places of up to `PREDICTORS` other columns, in order: what a model is fitted to grows with their cube."""
    others = [place for place in range(len(columns)) if place != target]
    if len(others) <= PREDICTORS:
        return others
    rows = spread(training, SCREENED_RECORDS)

    def coded(place: int) -> NDArray[Any]:
        values = [row[place] for row in rows]
        column = columns[place]
        return to_codes(values, frequent_values(values)) if column.kind == "category" else column.numbers(values)

    wanted = coded(target)
    strengths = {place: abs(association(wanted, coded(place))) for place in others}
    best = sorted(others, key=lambda place: (-np.nan_to_num(strengths[place]), place))
    return sorted(best[:PREDICTORS])


def _features(encoder: Encoder, rows: Rows) -> csr_array:
    """(n, 1 + all codes), with a 1 for each column's code; the first feature is always 1."""
    starts = np.cumsum([1, *encoder.sizes])
    indices = np.hstack([np.zeros((len(rows), 1), np.int64), starts[:-1] + encoder.codes(rows)])
    pointers = np.arange(len(rows) + 1) * indices.shape[1]
    return csr_array((np.ones(indices.size), indices.reshape(-1), pointers), shape=(len(rows), int(starts[-1])))


def _score_categories(
    _column: Column,
    features: tuple[csr_array, csr_array],
    tested: csr_array,
    values: Sequence[Sequence[str]],
    training: Sequence[str],
) -> tuple[Score, Score, Score]:
    classes = frequent_values(training, CLASSES)
    *trained, truth = (to_codes(each, classes) for each in values)
    count = len(classes) + 1
    is_binary = len(classes) == 2 and set(truth.tolist()) == {0, 1}
    scores = []
    for x, y in zip(features, trained, strict=True):
        probabilities = softmax(tested @ fit_logistic(x, y, count), axis=1)
        auc = area_under_curve(probabilities[:, 1], truth == 1) if is_binary else None
        scores.append(Score(accuracy=float((probabilities.argmax(axis=1) == truth).mean()), auc=auc))
    return scores[0], scores[1], Score(accuracy=float((truth == 0).mean()), auc=0.5 if is_binary else None)


def _score_numbers(
    column: Column,
    features: tuple[csr_array, csr_array],
    tested: csr_array,
    values: Sequence[Sequence[str]],
    training: Sequence[str],
) -> tuple[Score, Score, Score]:
    *trained, truth = (column.numbers(each) for each in values)
    known = column.numbers(training)
    found: list[Score] = []
    with np.errstate(over="ignore", invalid="ignore"):  # Numbers too large to square have no score.
        predicted = [
            tested @ fit_ridge(x, np.clip(y, known.min(), known.max())) for x, y in zip(features, trained, strict=True)
        ]
        predicted.append(np.full(truth.size, np.median(known)))
        spread_of_truth = float(((truth - truth.mean()) ** 2).sum())
        for guess in predicted:
            r2 = 1 - float(((truth - guess) ** 2).sum()) / spread_of_truth if spread_of_truth > 0 else np.nan
            found.append(Score(r2=_defined(r2), mae=_defined(float(np.abs(truth - guess).mean()))))
    return found[0], found[1], found[2]


def fit_logistic(x: csr_array, y: NDArray[np.int64], classes: int) -> Numbers:
    """Weights (features, classes) that minimize the mean cross-entropy + |weights|^2 / (2 n)."""
    n, size = _shape(x)
    wanted = np.eye(classes)[y]

    def loss(flat: Numbers) -> tuple[float, Numbers]:
        weights = flat.reshape(size, classes)
        scores = x @ weights
        slope = (x.T @ (softmax(scores, axis=1) - wanted) + weights) / n
        return float(-(log_softmax(scores, axis=1) * wanted).sum() / n + (weights**2).sum() / (2 * n)), slope.ravel()

    found = minimize(loss, np.zeros(size * classes), jac=True, method="L-BFGS-B", options={"maxiter": STEPS})
    return found.x.reshape(size, classes)


def fit_ridge(x: csr_array, y: Numbers) -> Numbers:
    """Weights (features,) that minimize |x w - y|^2 + |w|^2, all but the first, which is the constant's."""
    penalty = np.eye(_shape(x)[1])
    penalty[0, 0] = 1e-9
    return np.linalg.solve((x.T @ x).toarray() + penalty, x.T @ y)


def _defined(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _shape(x: csr_array) -> tuple[int, int]:
    assert x.shape is not None
    return x.shape[0], x.shape[1]
