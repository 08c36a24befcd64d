"""The noisy counts of a run's table, and records drawn by them.

    measured = measure(folder, releases, Layout.of(schema), records, count)    # drawn once, stored, read from then on
    ids = draw_ids(measured, tokenizer.automaton(), 200_000)                   # (N, T) token ids, -1 behind a record
    measured.known                                                             # for `model/`

All but `measure` is a function of what is stored and of the number of records, which is public.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from runner.data.automaton import Automaton
from runner.model.draws import GroupedSlot, draw_records
from runner.model.estimate import Column, Estimate, estimate_tables, group_tokens, most_groups, token_shares
from runner.model.known_tables import KnownTables
from runner.model.loglinear import POOL, LogLinearModel, draw_evenly
from runner.privacy.accountant import Release
from runner.privacy.marginals import (
    CHOICE,
    COLUMNS,
    PAIRS,
    Axis,
    Layout,
    choose_pairs,
    count_dependence,
)
from runner.privacy.releases import Counts, released_once
from runner.storage import Folder

SWEEPS = 3
"""Between the pools that are drawn one after another."""

Counted = Callable[[Mapping[str, Sequence[Axis]]], dict[str, Counts]]
"""Exact counts of the records, for the noise alone."""


@dataclass(frozen=True)
class Measured:
    """`columns`: noisy counts of the tokens of each slot but the first, the last that of records without one. `axes`:
    of each coarse slot, the group of each of its tokens. `pairs`: noisy counts of groups, by places in `Layout.coarse`.
    `digest` names all of it."""

    layout: Layout
    columns: tuple[NDArray[np.integer], ...]
    columns_sigma: float
    axes: tuple[Axis, ...]
    pairs: Mapping[tuple[int, int], NDArray[np.integer]]
    pairs_sigma: float
    records: int
    digest: str

    @cached_property
    def known(self) -> KnownTables:
        """The shares that the groups have."""
        groups = tuple(axis.cells for axis in self.axes)
        return KnownTables(self.layout.coarse, groups, self._estimate.tables, self.records)

    @cached_property
    def token_shares(self) -> tuple[NDArray[np.float64], ...]:
        """Of each slot, its tokens'."""
        sizes = self.layout.slots.sizes
        inside = [counts[:size] for counts, size in zip(self.columns, sizes[1:], strict=True)]
        shares = [np.ones(1), *(token_shares(counts, self.columns_sigma) for counts in inside)]
        for slot, each in zip(self.layout.coarse, self._estimate.shares, strict=True):
            shares[slot] = each[: sizes[slot]]
        return tuple(shares)

    @cached_property
    def _estimate(self) -> Estimate:
        columns: list[Column] = []
        for axis, is_optional in zip(self.axes, self.layout.optional, strict=True):
            counted = len(axis.cells) - (not is_optional)
            columns.append(Column(self.columns[axis.slot - 1][:counted], self.columns_sigma, axis.cells[:counted]))
        pairs = {pair: (table, self.pairs_sigma) for pair, table in self.pairs.items()}
        return estimate_tables(columns, pairs, self.records)


def measure(folder: Folder, releases: Mapping[str, Release], layout: Layout, records: int, count: Counted) -> Measured:
    """The run's counts: each release is drawn where it is not stored yet. records: how many are counted.

    Raises:
        CorruptError: what is stored does not verify.
    """
    digest = hashlib.sha256()

    def release(name: str, exact: Callable[[], Mapping[str, Counts]]) -> list[NDArray[np.integer]]:
        released = released_once(folder, releases[name], exact)
        digest.update(released.sha256.encode())
        return [released.histograms[each.name].counts for each in releases[name].histograms]

    def sigma(name: str) -> float:
        return max(each.sigma for each in releases[name].histograms)

    one_way = {name: (layout.axis(slot),) for slot, name in enumerate(layout.names) if slot}
    columns = release(COLUMNS, lambda: count(one_way))
    pairs, pairs_sigma = layout.pairs, sigma(PAIRS) if PAIRS in releases else sigma(COLUMNS)
    axes = group_slots(layout, columns, sigma(COLUMNS), most_groups(records, pairs_sigma))
    if CHOICE in releases:
        shares = [
            token_shares(np.bincount(axis.cells, columns[axis.slot - 1], axis.size), sigma(COLUMNS)) for axis in axes
        ]
        scores = release(CHOICE, lambda: _dependence(layout, axes, shares, records, count))
        pairs = choose_pairs(np.concatenate(scores), shares, pairs, records, pairs_sigma, layout.counted_pairs)
    tables: list[NDArray[np.integer]] = []
    if PAIRS in releases:
        names = [each.name for each in releases[PAIRS].histograms]
        tables = release(
            PAIRS,
            lambda: count({name: (axes[i], axes[j]) for name, (i, j) in zip(names, pairs, strict=True)}),
        )
    return Measured(
        layout=layout,
        columns=tuple(columns),
        columns_sigma=sigma(COLUMNS),
        axes=axes,
        pairs=dict(zip(pairs, tables, strict=True)),
        pairs_sigma=pairs_sigma,
        records=records,
        digest=digest.hexdigest(),
    )


def draw_ids(measured: Measured, automaton: Automaton, count: int) -> NDArray[np.int32]:
    """`count` records of token ids, without their ends; the same ones whenever they are drawn of the same counts."""
    generator = np.random.default_rng(int(measured.digest[:32], 16))
    known, layout = measured.known, measured.layout
    model = LogLinearModel([axis.size for axis in measured.axes], known.tables, measured.records)
    pools = [model.fit(generator, pool=min(POOL, count))]
    while sum(map(len, pools)) < count:
        pools.append(model.draw(pools[-1], SWEEPS, generator))
    rows = np.concatenate(pools)
    rows = rows[draw_evenly(known.weigh(rows), count, generator)]
    rows = rows[generator.permutation(count)]
    grouped = {axis.slot: GroupedSlot(place, axis.cells[:-1]) for place, axis in enumerate(measured.axes)}
    return draw_records(rows, grouped, measured.token_shares, automaton, layout.slots, generator)


def group_slots(layout: Layout, columns: Sequence[NDArray[np.integer]], sigma: float, most: int) -> tuple[Axis, ...]:
    axes: list[Axis] = []
    for slot, order, is_optional in zip(layout.coarse, layout.orders, layout.optional, strict=True):
        counts = columns[slot - 1]
        if is_optional:
            order = None if order is None else np.append(order, np.nan)
            cells = group_tokens(counts, sigma, most, order)
        else:
            cells = np.append(group_tokens(counts[:-1], sigma, most, order), 0)  # No record is without one.
        axes.append(Axis(slot, cells))
    return tuple(axes)


def _dependence(
    layout: Layout, axes: Sequence[Axis], shares: Sequence[NDArray[np.float64]], records: int, count: Counted
) -> dict[str, Counts]:
    """How far each pair is from independence, exactly."""
    pairs = dict(zip(layout.pair_names, layout.pairs, strict=True))
    counted = count({name: (axes[i], axes[j]) for name, (i, j) in pairs.items()})
    return {
        name: count_dependence(counted[name].counts, shares[i], shares[j], records) for name, (i, j) in pairs.items()
    }
