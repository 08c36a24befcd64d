"""Promise 20 for the choice of pairs: by exact scores that one record moves by at most 1, each with noise for that.

The scores of all small tables are computed, and of each of their neighbours: nothing is left to examples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, combinations_with_replacement, product
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from runner.privacy.accountant import Histogram, Release, epsilon
from runner.privacy.marginals import Axis, count_dependence
from runner.privacy.measured import _dependence
from runner.privacy.releases import Counts, plan_release
from tests.promises.test_looked_up import DELTA, attack

Row = tuple[int, ...]
Shares = tuple[float, ...]
SHARES: tuple[Shares, ...] = ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (0.25, 0.75), (0.9, 0.1))
"""Of a column of two values, from noisy counts: they are whatever noise made of them."""
PAIRS = list(combinations(range(3), 2))
NAMES = [f"{i} x {j}" for i, j in PAIRS]


def scores(rows: Sequence[Row], shares: Sequence[Shares], records: int) -> list[int]:
    """Of each pair of three columns, as a run computes them. An emptied row is (-1, -1, -1)."""

    def count(marginals: Mapping[str, Sequence[Axis]]) -> dict[str, Counts]:
        counted: dict[str, Counts] = {}
        for name, axes in marginals.items():
            table = np.zeros([axis.size for axis in axes], np.int64)
            for cell, number in Counter(tuple(row[axis.slot] for axis in axes) for row in rows if row[0] >= 0).items():
                table[cell] = number
            counted[name] = Counts(table)
        return counted

    layout = SimpleNamespace(pair_names=NAMES, pairs=PAIRS)
    axes = [Axis(column, np.array([0, 1])) for column in range(3)]
    found = _dependence(cast(Any, layout), axes, [np.array(each) for each in shares], records, count)
    return [int(found[name].counts[0]) for name in NAMES]


def neighbours(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """With one of the rows emptied."""
    for place in range(len(rows)):
        yield [(-1, -1, -1) if number == place else row for number, row in enumerate(rows)]


def test_20_a_record_moves_a_pair_s_score_by_one_at_most_in_every_small_table() -> None:
    """All tables of up to four records in two by two cells, all shares, and emptying each record."""
    moves: Counter[int] = Counter()
    cells = list(product((0, 1), repeat=2))
    for size in (1, 2, 3, 4):
        for rows in combinations_with_replacement(cells, size):
            table = np.zeros((2, 2), np.int64)
            np.add.at(table, tuple(np.array(rows).T), 1)
            for one, other in product(SHARES, repeat=2):
                shares = np.array(one), np.array(other)
                whole = int(count_dependence(table, *shares, size).counts[0])
                for row in set(rows):
                    emptied = table.copy()
                    emptied[row] -= 1
                    moves[whole - int(count_dependence(emptied, *shares, size).counts[0])] += 1
    assert set(moves) == {-1, 0, 1}, "no further, and as far as that: the bound is reached"


def hardest() -> tuple[list[Row], list[Row], Sequence[Shares]]:
    """Neighbours whose scores all differ, not all in one direction: what an attacker on the choice would pick."""
    for rows in combinations_with_replacement(list(product((0, 1), repeat=3)), 3):
        for shares in product(SHARES[:3], repeat=3):
            before = scores(rows, shares, 3)
            for other in neighbours(rows):
                moves = [one - two for one, two in zip(before, scores(other, shares, 3), strict=True)]
                if min(map(abs, moves)) >= 1 and len(set(moves)) > 1:
                    return list(rows), other, shares
    raise AssertionError("no table of three records moves all scores")


def test_20_the_scores_of_a_table_move_by_one_each_at_most_whatever_record_is_emptied() -> None:
    """All tables of three records in three columns, by the function that a run calls; n is public and stays."""
    largest = 0
    for rows in combinations_with_replacement(list(product((0, 1), repeat=3)), 3):
        for shares in ((SHARES[0], SHARES[1], SHARES[2]), (SHARES[3], SHARES[2], SHARES[4])):
            before = scores(rows, shares, 3)
            for other in neighbours(rows):
                moves = [abs(one - two) for one, two in zip(before, scores(other, shares, 3), strict=True)]
                largest = max(largest, *moves)
    assert largest == 1


@pytest.mark.parametrize("target", [1.0])
def test_20_an_attack_on_the_choice_finds_no_more_than_is_claimed(target: float) -> None:
    """On the hardest neighbours, by their own scores: some grow and some shrink, and the attacker knows which."""
    rows, other, shares = hardest()
    exact = dict(zip(NAMES, zip(scores(rows, shares, 3), scores(other, shares, 3), strict=True), strict=True))
    release = plan_release("choice", dict.fromkeys(NAMES, 1.0), (), target, DELTA)
    found = attack(release, exact)
    assert found <= target
    assert found > 0.75 * target, "the attack is blind"
    narrow = Release("choice", tuple(Histogram(name, release.histograms[0].sigma / 2) for name in NAMES))
    assert attack(narrow, exact) > epsilon([(release, 1)], DELTA), "half the noise would be seen"
