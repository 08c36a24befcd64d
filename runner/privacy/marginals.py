"""Noisy marginals: how many training records have each token, and each combination of two columns' groups of tokens.

    releases = plan_marginals(config, schema, delta, n, beside)    # columns, pairs; between them a choice, if many
    counted = count_marginals(examples, {"sex": (axis,), "sex, job": (axis, other)}, positions)   # exact: only to noise
    noisy = released_once(folder, release, lambda: counted)

A marginal has a cell for each token, or group of tokens, of each of its slots, and one for records without any token
there, such as those of a null date's month. A record with no token in any slot, which is what an emptied record is, is
in no cell. So an emptied record leaves the one cell that it was in, and comes into no other: sensitivity 1. Where a
person is the unit of privacy, K of his records are counted at most, and all of them may be in one cell: sensitivity K.

Counted are the records that are trained on. Those for validation stay unseen, as a holdout has to; n and the split are
public, and so is which records are of one person.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from runner.config import JobConfig
from runner.data.examples import Examples
from runner.data.schema import Schema, Slots
from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.privacy.accountant import Release, Spent
from runner.privacy.releases import Counts, plan_release

COLUMNS, CHOICE, PAIRS = "columns", "choice", "pairs"
"""The releases' names, in the order in which they are drawn."""
LEAST_COLUMNS_SHARE, MOST_COLUMNS_SHARE, CHOICE_SHARE = 0.15, 0.7, 0.1
"""Of what noisy sums cost, in squares; the pairs get the rest. What the columns need grows with their noise."""
CLEAR = 0.0015
"""Noise of a column's count, as a share of all records, up to which the least share is enough (see `columns_share`)."""
MOST_PAIRS = 150
"""Of more, a part is chosen. All 435 pairs of a table of 30 columns, half of them noise, gave .966 / .929 (accuracy of
one and two columns' shares, Adult at epsilon 1.6), 51 chosen ones .973 / .946."""
PAIRS_A_COLUMN = 3
MOST_COLUMNS = 200
"""Of more, those after them in the job's order are counted alone, and drawn as if they depended on nothing."""
EXPECTED_DISTANCE = math.sqrt(2 / math.pi)
"""Of a normal deviate from its mean, in standard deviations."""
ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Layout:
    """What is counted of a schema: `names` of its slots; `coarse`: slots whose pairs are counted. `orders`: of their
    tokens, see `Codec.order`. `optional`: whether there are records without a token there."""

    slots: Slots
    names: tuple[str, ...]
    coarse: tuple[int, ...]
    orders: tuple[NDArray[np.float64] | None, ...]
    optional: tuple[bool, ...]

    @classmethod
    def of(cls, schema: Schema) -> Layout:
        """Of the schema's learned fields."""
        names, coarse = ["end"], []
        for codec in schema.codecs:
            if codec.slots:
                coarse += [(len(names) + slot, codec.order(slot), slot > 0) for slot in codec.coarse_slots]
            names += [codec.slot_name(slot) for slot in range(len(codec.slots))]
        of_coarse = [tuple(each) for each in zip(*coarse[:MOST_COLUMNS], strict=True)]
        slots = FieldTokenizer(schema).slots
        assert slots is not None
        return cls(slots, tuple(distinct(names)), *of_coarse)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """All pairs of coarse slots, as places in `coarse`."""
        return list(combinations(range(len(self.coarse)), 2))

    @property
    def counted_pairs(self) -> int:
        """How many of them are counted."""
        pairs = len(self.pairs)
        return pairs if pairs <= MOST_PAIRS else max(MOST_PAIRS // 2, PAIRS_A_COLUMN * len(self.coarse))

    @property
    def pair_names(self) -> list[str]:
        """What the histograms of all pairs are called."""
        return distinct([" x ".join(self.names[self.coarse[place]] for place in pair) for pair in self.pairs])

    def axis(self, slot: int) -> Axis:
        """A slot with a cell for each of its tokens."""
        return Axis(slot, np.arange(self.slots.sizes[slot] + 1))


@dataclass(frozen=True)
class Axis:
    """A slot, and the cell that each of its tokens is counted in: `cells` (size + 1,), the last one's for no token."""

    slot: int
    cells: NDArray[np.int64]

    @property
    def size(self) -> int:
        """Number of cells."""
        return int(self.cells.max()) + 1


def plan_marginals(
    config: JobConfig, schema: Schema, delta: float, records: int, beside: tuple[Release, ...] = ()
) -> tuple[Release, ...]:
    """The releases that take a job's target to its end, beside those that it has already. Which pairs a choice takes is
    known when it is drawn; until then they have numbers. records: how many are counted, which is public.

    Raises:
        PrivacyError: no noise within bounds does.
    """
    privacy, layout = config.privacy, Layout.of(schema)
    assert privacy.target_epsilon is not None
    names: dict[str, list[str]] = {COLUMNS: [*layout.names[1:]]}
    pairs = layout.pair_names
    if layout.counted_pairs < len(pairs):
        names[CHOICE], pairs = pairs, [f"chosen pair {number}" for number in range(1, layout.counted_pairs + 1)]
    if pairs:
        names[PAIRS] = pairs
    (rest,) = plan_rest(config, delta, beside)
    of_columns = columns_share(len(names[COLUMNS]), rest.histograms[0].sigma, records)
    shares = {COLUMNS: of_columns, CHOICE: CHOICE_SHARE, PAIRS: 1 - of_columns - CHOICE_SHARE * (CHOICE in names)}
    weights = {f"{what}/{name}": shares[what] / len(all_) for what, all_ in names.items() for name in all_}
    spent: Spent = [(release, 1) for release in beside]
    together = plan_release(
        "marginals", weights, (), privacy.target_epsilon, delta, privacy.accountant, spent, privacy.sensitivity
    )
    planned = {each.name: each for each in together.histograms}
    return tuple(
        Release(what, tuple(replace(planned[f"{what}/{name}"], name=name) for name in all_))
        for what, all_ in names.items()
    )


def columns_share(columns: int, sigma: float, records: int) -> float:
    """What single columns get of the budget that buys one histogram with noise of `sigma`.

    Pairs of groups add nothing to columns that are lost in noise themselves: with few records or many columns, single
    columns come first. Adult's first 500 rows at epsilon 1.6 (accuracy of one, two and three columns): .778 / .623 /
    .502 with a share of 0.15, .894 / .795 / .695 with 0.5, .909 / .819 / .726 with 0.8, and .898 / .806 / .709 when
    nothing but columns is counted. All 24,421 rows: the same to .001 with 0.15 and 0.25.

    >>> [round(columns_share(15, 2.44, records), 2) for records in (24_421, 5_000, 500)]
    [0.15, 0.27, 0.7]
    """
    noise = sigma * math.sqrt(columns / LEAST_COLUMNS_SHARE) / records
    return min(LEAST_COLUMNS_SHARE * math.sqrt(max(noise / CLEAR, 1)), MOST_COLUMNS_SHARE)


def plan_rest(config: JobConfig, delta: float, beside: tuple[Release, ...]) -> tuple[Release, ...]:
    """As much as `plan_marginals` will take, in one histogram: for a job whose schema is not known yet."""
    privacy = config.privacy
    assert privacy.target_epsilon is not None
    spent: Spent = [(release, 1) for release in beside]
    all_of_it = {"all": 1.0}
    return (
        plan_release(
            PAIRS, all_of_it, (), privacy.target_epsilon, delta, privacy.accountant, spent, privacy.sensitivity
        ),
    )


def count_marginals(
    examples: Examples, marginals: Mapping[str, Sequence[Axis]], positions: NDArray[np.int64]
) -> dict[str, Counts]:
    """The exact marginals of the examples at `positions`, each with as many axes as it has slots."""
    slots = examples.tokens.slots
    assert slots is not None
    wanted = sorted({axis.slot for axes in marginals.values() for axis in axes})
    index = {slot: place for place, slot in enumerate(wanted)}
    shapes = {name: [axis.size for axis in axes] for name, axes in marginals.items()}
    counts = {name: np.zeros(math.prod(shape), np.int64) for name, shape in shapes.items()}
    for start in range(0, len(positions), ROWS_AT_ONCE):
        rows = [row for row in examples.rows(positions[start : start + ROWS_AT_ONCE]) if np.any(row)]
        places = slots.places(rows, wanted)
        for name, axes in marginals.items():
            at = np.ravel_multi_index([axis.cells[places[index[axis.slot]]] for axis in axes], shapes[name])
            counts[name] += np.bincount(at, minlength=counts[name].size)
    return {name: Counts(each.reshape(shapes[name])) for name, each in counts.items()}


def count_dependence(
    counted: NDArray[np.integer], one: NDArray[np.float64], other: NDArray[np.float64], records: int
) -> Counts:
    """How far a pair's exact table is from what its columns' shares make of it, in records: one whole number, which
    changes by at most 1 when one cell of the table does. one, other: shares from noisy counts; `records`: public.

    >>> count_dependence(np.array([[50, 0], [0, 50]]), np.full(2, 0.5), np.full(2, 0.5), 100).counts.tolist()
    [100]
    """
    distance = np.abs(counted - records * np.outer(one, other)).sum()
    return Counts(np.array([math.floor(distance + 0.5)], np.int64))


def choose_pairs(
    scores: NDArray[np.integer],
    shares: Sequence[NDArray[np.float64]],
    pairs: Sequence[tuple[int, int]],
    records: int,
    sigma: float,
    count: int,
) -> list[tuple[int, int]]:
    """The pairs that tell most, by noisy `scores` of `count_dependence`: what is left of one when what it would be of
    independent columns is taken off, and what noise of `sigma` in each cell takes. shares: of each column, its groups'.
    """
    left = [
        score - EXPECTED_DISTANCE * (np.sqrt(records * np.outer(shares[i], shares[j])).sum()) - sigma / 2 * cells
        for score, (i, j) in zip(scores.tolist(), pairs, strict=True)
        for cells in [len(shares[i]) * len(shares[j])]
    ]
    best = np.argsort(-np.array(left), kind="stable")[:count]
    return [pairs[place] for place in np.sort(best).tolist()]


def distinct(names: Sequence[str]) -> list[str]:
    """Names with a number behind those that were there before.

    >>> distinct(["a", "b", "a"])
    ['a', 'b', 'a (2)']
    """
    found: list[str] = []
    for name in names:
        number = 1
        while (name if number == 1 else f"{name} ({number})") in found:
            number += 1
        found.append(name if number == 1 else f"{name} ({number})")
    return found
