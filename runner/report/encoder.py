"""Records to small whole numbers, a code for each value or range of values of a column: what models are trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from runner.report.distributions import frequent_values, to_codes
from runner.report.table import Column, Rows

Codes = NDArray[np.int64]


class Encoder:
    """Codes of the columns at these places: of categories their most frequent values, of numbers and of the lengths of
    texts ranges of as many training records each, or values where there are few. The last code is for what no training
    record has, or for what is no number.

    `sizes`: how many codes each column has.
    """

    def __init__(self, columns: Sequence[Column], places: Sequence[int], training: Rows, ranges: int) -> None:
        self._columns = [(place, columns[place]) for place in places]
        self._edges: list[NDArray[np.float64]] = []
        self._levels: list[list[str]] = []
        for place, column in self._columns:
            values = [row[place] for row in training]
            numbers = np.zeros(0) if column.kind == "category" else column.numbers(values)
            numbers = numbers[~np.isnan(numbers)]
            self._edges.append(
                np.unique(np.quantile(numbers, np.linspace(0, 1, ranges + 1)[1:-1], method="lower"))
                if numbers.size
                else numbers
            )
            self._levels.append(frequent_values(values) if column.kind == "category" else [])
        self.sizes = [
            len(levels) + 1 if column.kind == "category" else edges.size + 2
            for (_, column), edges, levels in zip(self._columns, self._edges, self._levels, strict=True)
        ]

    def codes(self, rows: Rows) -> Codes:
        """(n, columns)."""
        found = np.empty((len(rows), len(self._columns)), np.int64)
        for number, ((place, column), edges, levels) in enumerate(
            zip(self._columns, self._edges, self._levels, strict=True)
        ):
            values = [row[place] for row in rows]
            if column.kind == "category":
                found[:, number] = to_codes(values, levels)
            else:
                numbers = column.numbers(values)
                found[:, number] = np.where(np.isnan(numbers), edges.size + 1, np.searchsorted(edges, numbers, "right"))
        return found
