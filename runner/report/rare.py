"""Rare values that came through: values of few training records that synthetic records have, too.

A value that one person alone has names that person. Values that are rare and yet turn up in records of others, such as
a number among many, turn up in holdout records as well: only what is above those can come from memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from runner.report.table import Column, Rows

RARE_BELOW = 10
"""A value is rare when fewer training records have it."""


@dataclass(frozen=True)
class RareValue:
    """A value, and how many of the training and of the synthetic records that were looked at have it."""

    column: str
    value: str
    training: int
    synthetic: int


@dataclass(frozen=True)
class RareColumn:
    """How many rare values a column has in training records, and how many of them came through; shares of records that
    have one. `holdout` is None without one."""

    name: str
    values: int
    came_through: int
    synthetic: float
    holdout: float | None


@dataclass(frozen=True)
class RareValues:
    """Columns that have rare values, those with most above the holdout's share first; and values of categories and
    texts that came through, the rarest first."""

    columns: tuple[RareColumn, ...]
    values: tuple[RareValue, ...]


def find_rare_values(columns: Sequence[Column], synthetic: Rows, training: Rows, holdout: Rows) -> RareValues:
    """Look for them in all columns. Empty values name no one and do not count."""
    found: list[RareColumn] = []
    values: list[RareValue] = []
    for place, column in enumerate(columns):
        mine, seen, unseen = (Counter(row[place] for row in rows) for rows in (synthetic, training, holdout))
        rare = {value: count for value, count in seen.items() if count < RARE_BELOW and value.strip()}
        if not rare:
            continue
        through = {value: mine[value] for value in rare if value in mine}
        again = sum(unseen[value] for value in rare) / len(holdout) if holdout else None
        found.append(RareColumn(column.name, len(rare), len(through), sum(through.values()) / len(synthetic), again))
        if column.kind != "number":
            values += [RareValue(column.name, value, rare[value], count) for value, count in through.items()]
    found.sort(key=lambda each: (each.holdout or 0) - each.synthetic)
    values.sort(key=lambda each: (each.training, -each.synthetic, each.column, each.value))
    return RareValues(tuple(found), tuple(values))
