"""How faithful synthetic records are to real ones: accuracies of the distributions of one, two and three columns.

    accuracy = 1 - sum over all cells of |share of the real records - share of the synthetic records| / 2

The cells are the bins of one column, or the combinations of those of two or three (`runner.report.bins`). Formulas and
bins are those of mostlyai-qa 1.10.11, after Platzer and Reutterer 2021 (doi:10.3389/fdata.2021.679939): real records
are those trained on and the holdout together, so that remembering the former does not count for faithful.

Two samples of one source are never quite alike. `most` is what chance leaves of 1: the expected accuracy of another
sample of the source, with normal distributions in place of binomial ones:

    most = 1 - sum over all cells of sqrt(2 / pi * p (1 - p) (1 / real records + 1 / synthetic records)) / 2
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runner.report.bins import Codes, find_bins

COLUMNS = 300
"""Columns that are looked at: the first ones."""
MOST_PAIRS = 20_000
MOST_TRIPLES = 10_000
"""Pairs and triples of columns that are looked at; of more, as many drawn at random."""

Places = tuple[int, ...]


@dataclass(frozen=True)
class Accuracy:
    """Of the synthetic records; of another sample of the source, as expected; and of the holdout, as measured.

    `holdout`: against the training records alone, None where there is no holdout.
    """

    synthetic: float
    most: float
    holdout: float | None


@dataclass(frozen=True)
class Fidelity:
    """Accuracies by column and by pair, and the means over columns, pairs and triples; None without two, or three.

    `triples`: how many triples were looked at, of `all_triples`; `columns`, `pairs` likewise of the table's.
    """

    columns: Mapping[str, Accuracy]
    pairs: Mapping[tuple[str, str], Accuracy]
    trivariate: Accuracy | None
    triples: int
    all_columns: int

    @property
    def univariate(self) -> Accuracy:
        """The mean over the columns."""
        return _mean(list(self.columns.values()))

    @property
    def bivariate(self) -> Accuracy | None:
        """The mean over the pairs that were looked at."""
        return _mean(list(self.pairs.values())) if self.pairs else None

    @property
    def overall(self) -> Accuracy:
        """The mean of the three: one figure for all."""
        return _mean([each for each in (self.univariate, self.bivariate, self.trivariate) if each is not None])

    @property
    def all_pairs(self) -> int:
        """Of the table's columns."""
        return math.comb(self.all_columns, 2)

    @property
    def all_triples(self) -> int:
        """Of the table's columns."""
        return math.comb(self.all_columns, 3)


def measure_fidelity(training: pa.Table, holdout: pa.Table | None, synthetic: pa.Table, seed: int = 0) -> Fidelity:
    """Compare tables of the same columns, none of them without rows or columns.

    seed: of what is drawn at random, of very many pairs and triples and of words in free texts.
    """
    names = training.column_names[:COLUMNS]
    samples = [training, *([] if holdout is None else [holdout]), synthetic]
    coded: list[Sequence[Codes]] = []
    sizes: list[int] = []
    for name in names:
        columns = [sample.column(name) for sample in samples]
        bins = find_bins(
            pa.chunked_array([chunk for real in columns[:-1] for chunk in real.chunks], columns[0].type), seed
        )
        coded.append([bins.codes(column) for column in columns])
        sizes.append(bins.size)
    cells = _Cells(coded, sizes)
    draw = np.random.default_rng(seed)
    single = {names[one]: accuracy for (one,), accuracy in cells.accuracies([(place,) for place in range(len(names))])}
    pairs = _some(len(names), 2, MOST_PAIRS, draw)
    double = {(names[one], names[two]): accuracy for (one, two), accuracy in cells.accuracies(pairs)}
    triples = [accuracy for _, accuracy in cells.accuracies(_some(len(names), 3, MOST_TRIPLES, draw))]
    return Fidelity(single, double, _mean(triples) if triples else None, len(triples), training.num_columns)


class _Cells:
    """Counts how many records of each sample are in each cell of some columns.

    coded: for each column its codes of the training records, of the holdout if there is one, and of the synthetic.
    """

    def __init__(self, coded: Sequence[Sequence[Codes]], sizes: Sequence[int]) -> None:
        self._coded = coded
        self._sizes = sizes

    def accuracies(self, groups: Sequence[Places]) -> Iterator[tuple[Places, Accuracy]]:
        """Of each group of columns, the groups in order: what they begin with is joined once."""
        for first, several in groupby(groups, key=lambda places: places[:-1]):
            joined = self._join(first)
            for places in several:
                last, size = self._coded[places[-1]], self._sizes[places[-1]]
                cells = math.prod(self._sizes[place] for place in places)
                counts = [
                    np.bincount(codes * size + own, minlength=cells) for codes, own in zip(joined, last, strict=True)
                ]
                yield places, _accuracy(counts)

    def _join(self, places: Places) -> list[Codes]:
        joined = [np.zeros_like(codes) for codes in self._coded[0]]
        for place in places:
            joined = [codes * self._sizes[place] + own for codes, own in zip(joined, self._coded[place], strict=True)]
        return joined


def _accuracy(counts: Sequence[NDArray[np.int64]]) -> Accuracy:
    """From the counts of training records, holdout records if there are any, and synthetic records."""
    *real, synthetic = counts
    shares = [count / count.sum() for count in (np.sum(real, axis=0), synthetic)]
    return Accuracy(
        synthetic=_overlap(shares[0], shares[1]),
        most=chance_accuracy(shares[0], sum(int(count.sum()) for count in real), int(synthetic.sum())),
        holdout=_overlap(real[0] / real[0].sum(), real[1] / real[1].sum()) if len(real) > 1 else None,
    )


def chance_accuracy(shares: NDArray[np.float64], real: int, synthetic: int) -> float:
    """What is expected of two samples of so many records of a source with these shares."""
    expected = np.sqrt(2 / np.pi * (1 / real + 1 / synthetic) * shares * (1 - shares)).sum()
    return float(1 - expected / 2)


def _overlap(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(1 - np.abs(one - other).sum() / 2)


def _some(columns: int, size: int, most: int, draw: np.random.Generator) -> list[Places]:
    """All groups of so many columns, or `most` different ones drawn at random; in order."""
    if math.comb(columns, size) <= most:
        return list(combinations(range(columns), size))
    found: set[Places] = set()
    while len(found) < most:
        drawn = draw.integers(0, columns, (most, size))
        drawn.sort(axis=1)
        found |= {tuple(places) for places in drawn.tolist() if len(set(places)) == size}
    return sorted(draw.permutation(np.array(sorted(found)))[:most].tolist())


def _mean(accuracies: Sequence[Accuracy]) -> Accuracy:
    holdout = [each.holdout for each in accuracies if each.holdout is not None]
    return Accuracy(
        float(np.mean([each.synthetic for each in accuracies])),
        float(np.mean([each.most for each in accuracies])),
        float(np.mean(holdout)) if holdout else None,
    )
