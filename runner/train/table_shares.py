"""What the training records of a table say of its columns and pairs of columns, kept beside a model without privacy.

    known = known_tables(config, files, examples, plan)     # for `model/`; None where nothing may be counted

A model's draws have errors of its own and those of a sample. Of more draws than are wanted, `RecordMaker` takes those
that together have the shares of the records: see `runner.model.known_tables`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from runner.config import JobConfig
from runner.data.batches import BatchPlan
from runner.data.examples import Examples
from runner.data.schema import Schema
from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.data.tokenizers.saved import from_files
from runner.model.estimate import FEWEST_GROUPS, MOST_GROUPS
from runner.model.known_tables import KnownTables
from runner.model.loglinear import KnownTable
from runner.privacy.marginals import ROWS_AT_ONCE, Axis, Layout, choose_pairs, count_dependence, count_marginals
from runner.privacy.measured import group_slots

LEAST = 10
"""Records of a cell that is told: what fewer have in common stays out of the model's files."""
MOST_RECORDS = 1_000_000
"""That are counted."""
DOUBT = 10.0
"""The variance of a share, in multiples of what chance makes of a count. docs/benchmarks.md has what was tried."""
UNKNOWN = 1e6
"""The variance of a share of which nothing is told."""


def known_tables(
    config: JobConfig, files: Mapping[str, bytes], examples: Examples, plan: BatchPlan
) -> KnownTables | None:
    """What goes into a model. Of a private run that is what it was trained on, if anything, and never a count of ours.

    `files`: those beside the tokens. None, too, for records that are texts, and where a series goes on with new files:
    their shares are not those of all that the model was trained on.
    """
    tokenizer = from_files(files)
    if config.privacy.enabled or config.data.since is not None or not isinstance(tokenizer, FieldTokenizer):
        return KnownTables.from_files(files)
    return count_shares(examples, plan, tokenizer.schema)


def count_shares(examples: Examples, plan: BatchPlan, schema: Schema) -> KnownTables | None:
    """Shares of groups of values in the records that are trained on: of each column, and of the pairs that tell most.

    Those for validation stay unseen, as a holdout has to.
    """
    records = min(plan.training_examples, MOST_RECORDS)
    if records < LEAST or not any(codec.slots and codec.coarse_slots for codec in schema.codecs):
        return None
    layout = Layout.of(schema)
    steps = range(-(-records // plan.batch_size))
    positions = np.concatenate([plan.training_positions(0, step) for step in steps])[:records]

    def count(marginals: Mapping[str, Sequence[Axis]], rows: int = records) -> list[NDArray[np.integer]]:
        counted = count_marginals(examples, marginals, np.sort(positions[:rows]))
        return [counted[name].counts for name in marginals]

    tokens = count({name: (layout.axis(slot),) for slot, name in enumerate(layout.names) if slot})
    groups = max(FEWEST_GROUPS, min(MOST_GROUPS, math.isqrt(records // LEAST)))
    axes = group_slots(layout, tokens, 1.0, groups)
    columns = count({str(place): (axis,) for place, axis in enumerate(axes)})
    pairs = dict(zip(layout.pair_names, layout.pairs, strict=True))
    if layout.counted_pairs < len(pairs):
        sample = min(records, ROWS_AT_ONCE)
        shares = [counts / records for counts in columns]
        tables = count({name: (axes[i], axes[j]) for name, (i, j) in pairs.items()}, sample)
        scores = [
            int(count_dependence(table, shares[i], shares[j], sample).counts[0])
            for table, (i, j) in zip(tables, pairs.values(), strict=True)
        ]
        chosen = choose_pairs(np.array(scores), shares, layout.pairs, sample, 0.0, layout.counted_pairs)
        pairs = {name: pair for name, pair in pairs.items() if pair in chosen}
    tables = count({name: (axes[i], axes[j]) for name, (i, j) in pairs.items()})
    places = [*((place,) for place in range(len(axes))), *pairs.values()]
    return KnownTables(
        layout.coarse,
        tuple(axis.cells for axis in axes),
        tuple(_shares(*each, records) for each in zip(places, [*columns, *tables], strict=True)),
        records,
        is_exact=True,
    )


def _shares(columns: tuple[int, ...], counts: NDArray[np.integer], records: int) -> KnownTable:
    """Of cells with fewer records than `LEAST` nothing is told, not even how many fewer."""
    is_told = counts >= LEAST
    shares = np.where(is_told, counts, 0) / records
    return KnownTable(columns, shares, np.where(is_told, DOUBT * shares / records, UNKNOWN))
