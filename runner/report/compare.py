"""Synthetic records against the run's own: every figure of the report that looks at records.

layout = choose_layout(config, real, target)    # raises ConfigError for a target that is no column
comparison = compare_records(config, real, synthetic, layout, target)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runner.config import JobConfig
from runner.errors import ConfigError
from runner.report.closeness import Closeness, measure_closeness
from runner.report.discriminator import Discriminator, measure_discriminator
from runner.report.distributions import (
    Associations,
    column_distance,
    find_associations,
    frequent_values,
)
from runner.report.fidelity import Fidelity, measure_fidelity
from runner.report.inference import Inference, attack_records
from runner.report.rare import RareValues, find_rare_values
from runner.report.real import RealRecords, find_copies, texts_of
from runner.report.synthetic import SyntheticRecords
from runner.report.table import Column, Layout, Rows, TableLayout, find_columns, find_layout, spread, spread_records

if TYPE_CHECKING:
    from runner.report.usefulness import Usefulness

LARGEST_MAP = 30
"""Columns whose pairs are looked at: the first ones."""
MAP_RECORDS = 5_000
"""Records of each kind that associations are computed from: as many, so that chance is alike."""
MOST_CELLS = 2_000_000
"""Fields of either kind of records that are looked at; with more than 100 columns, of so many fewer records."""
FEWEST_RECORDS = 1_000
"""Records that are looked at in any case."""
SHOWN_VALUES = 8
SHOWN_RANGES = 10
TEXTS = 2_000
"""Texts whose characters and words are counted, of each the first `TEXT_CHARACTERS`."""
TEXT_CHARACTERS = 2_000


@dataclass(frozen=True)
class Bars:
    """Shares of the training and the synthetic records, by value or range.

    `edges`: of ranges, from the lowest training value to the highest, one more than there are ranges; lower and higher
    values count to the outermost ranges. A label more than there are ranges is for values that are no number.
    """

    labels: tuple[str, ...]
    training: tuple[float, ...]
    synthetic: tuple[float, ...]
    edges: tuple[float, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """One column, or one statistic of a text: synthetic against training records.

    `distance`: see `runner.report.distributions`; `holdout_distance`: that of the holdout to the training records,
    what two samples of one source come to. None where a sample is empty.
    """

    name: str
    kind: str
    distance: float | None
    holdout_distance: float | None
    bars: Bars


@dataclass(frozen=True)
class Quality:
    """All that was compared. `fields_share`: synthetic records with the right number of fields; None of texts and of
    tables. `fidelity` and what follows are None of plain texts, and where there are too few records.

    `looked_at`: synthetic, training and holdout records whose fields or texts were compared; copies are looked for
    among all.
    """

    columns: tuple[Comparison, ...]
    synthetic_records: int
    looked_at: tuple[int, int, int]
    synthetic_source: str
    fields: int | None
    fields_share: float | None
    synthetic_copies: float
    holdout_copies: float | None
    distinct_share: float
    training_associations: Associations | None
    synthetic_associations: Associations | None
    holdout_associations: Associations | None
    fidelity: Fidelity | None
    discriminator: Discriminator | None
    closeness: Closeness | None
    rare: RareValues | None
    inference: Inference | None
    usefulness: Usefulness | None

    @property
    def mean_distance(self) -> float | None:
        """The mean over the columns."""
        return mean_of([column.distance for column in self.columns])

    @property
    def mean_holdout_distance(self) -> float | None:
        """The mean over the columns of what chance makes."""
        return mean_of([column.holdout_distance for column in self.columns])

    @property
    def association_differences(self) -> NDArray[np.float64] | None:
        """(k, k) of the columns looked at, not a number where undefined; None without two columns."""
        return _differences(self.training_associations, self.synthetic_associations)

    @property
    def mean_association_difference(self) -> float | None:
        """The mean over all pairs for which it is defined."""
        return _mean_number(self.association_differences)

    @property
    def mean_holdout_association_difference(self) -> float | None:
        """The mean over all pairs of what chance makes."""
        return _mean_number(_differences(self.training_associations, self.holdout_associations))


def choose_layout(config: JobConfig, real: RealRecords, target: str | None) -> Layout | TableLayout | None:
    """The fields of the run's records, None of plain text; `generation.fields` names those of one text column.

    Raises:
        ConfigError: `target` is none of them, or free text.
        DataError: hardly any record has as many fields as `generation.fields`.
    """
    if real.schema is not None:
        layout = TableLayout.of(real.schema)
    else:
        names = config.data.columns or config.generation.fields
        layout = find_layout(real.training, config.data.field_delimiter, names, config.data.uri)
    if target is None:
        return layout
    if layout is None:
        raise ConfigError(f"--target {target}: the run's records are plain text, without fields to choose from")
    if target not in layout.names:
        raise ConfigError(f"--target {target}: no such column; the run's records have {', '.join(layout.names)}")
    columns = _columns(layout, layout.split(spread_records(real.training, _most_records(layout))))
    if columns[layout.names.index(target)].kind == "text":
        raise ConfigError(f"--target {target}: this column is free text; choose one of numbers or of categories")
    return layout


def compare_records(
    config: JobConfig,
    real: RealRecords,
    synthetic: SyntheticRecords,
    layout: Layout | TableLayout | None,
    target: str | None,
) -> Quality:
    """Compare. Counts only, whatever the texts hold: no figure is ever not a number."""
    made = texts_of(synthetic.records)
    copies = find_copies(config, real, [*made, *texts_of(real.holdout)])
    mine, unseen = copies[: len(made)], copies[len(made) :]
    texts = [spread_records(each, _most_records(layout)) for each in (synthetic.records, real.training, real.holdout)]
    mine_rows, seen_rows, unseen_rows = [layout.split(each) if layout else [] for each in texts]
    columns = _columns(layout, seen_rows) if layout else []
    wrong = synthetic.left_out / (len(made) + synthetic.left_out)
    associations = _associations(columns, seen_rows, mine_rows, unseen_rows) if mine_rows else [None] * 3
    return Quality(
        columns=tuple(_compare_columns(columns, mine_rows, seen_rows, unseen_rows))
        if layout
        else tuple(_compare_texts(*texts)),
        synthetic_records=len(made),
        looked_at=(len(texts[0]), len(texts[1]), len(texts[2])),
        synthetic_source=synthetic.source,
        fields=len(columns) if layout else None,
        fields_share=(1 - wrong) * len(mine_rows) / len(texts[0]) if isinstance(layout, Layout) else None,
        synthetic_copies=float(mine.mean()),
        holdout_copies=float(unseen.mean()) if unseen.size else None,
        distinct_share=len(set(made)) / len(made),
        training_associations=associations[0],
        synthetic_associations=associations[1],
        holdout_associations=associations[2],
        fidelity=_measure_fidelity(layout, texts) if layout and mine_rows else None,
        discriminator=measure_discriminator(columns, mine_rows, seen_rows, unseen_rows) if layout else None,
        closeness=measure_closeness(columns, mine_rows, seen_rows, unseen_rows) if layout else None,
        rare=find_rare_values(columns, mine_rows, seen_rows, unseen_rows) if layout and mine_rows else None,
        inference=attack_records(columns, mine_rows, seen_rows, unseen_rows) if layout else None,
        usefulness=_measure_usefulness(columns, target, mine_rows, seen_rows, unseen_rows)
        if layout and target
        else None,
    )


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of those that are there.

    >>> mean_of([1.0, None, 2.0]), mean_of([None])
    (1.5, None)
    """
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _columns(layout: Layout | TableLayout, rows: Rows) -> Sequence[Column]:
    """What the columns hold: as the schema says, or by their values."""
    return layout.columns if isinstance(layout, TableLayout) else find_columns(layout.names, rows)


def _most_records(layout: Layout | TableLayout | None) -> int:
    """Of either kind, the records whose fields are looked at: so few that time and memory are bounded."""
    return max(FEWEST_RECORDS, MOST_CELLS // len(layout.names)) if layout else MOST_CELLS


def _measure_fidelity(layout: Layout | TableLayout, samples: Sequence[Any]) -> Fidelity:
    """Of synthetic, training and holdout records: the rows of a table as they are, those of texts as texts."""
    synthetic, training, holdout = (_table(layout, sample) for sample in samples)
    return measure_fidelity(training, holdout if holdout.num_rows else None, synthetic)


def _table(layout: Layout | TableLayout, records: Any) -> pa.Table:
    if isinstance(layout, TableLayout):
        return records.select(layout.names)
    rows = layout.split(records)
    columns = zip(*rows, strict=True) if rows else [()] * len(layout.names)
    return pa.table([pa.array(column, pa.large_string()) for column in columns], list(layout.names))


def _measure_usefulness(
    columns: Sequence[Column], target: str, synthetic: Rows, training: Rows, holdout: Rows
) -> Usefulness | None:
    from runner.report.usefulness import measure_usefulness  # scipy, which reports without a target do not need

    return measure_usefulness(columns, target, synthetic, training, holdout)


def _differences(one: Associations | None, other: Associations | None) -> NDArray[np.float64] | None:
    return None if one is None or other is None else one.differences(other)


def _mean_number(values: NDArray[np.float64] | None) -> float | None:
    return None if values is None or np.isnan(values).all() else float(np.nanmean(values))


def _compare_columns(columns: Sequence[Column], synthetic: Rows, training: Rows, holdout: Rows) -> list[Comparison]:
    found: list[Comparison] = []
    for place, column in enumerate(columns):
        mine, seen, unseen = ([row[place] for row in rows] for rows in (synthetic, training, holdout))
        found.append(_compare(column, mine, seen, unseen))
    return found


def _compare_texts(synthetic: Sequence[str], training: Sequence[str], holdout: Sequence[str]) -> list[Comparison]:
    """Lengths, characters and words of plain texts."""
    cut = [[text[:TEXT_CHARACTERS] for text in spread(texts, TEXTS)] for texts in (synthetic, training, holdout)]
    found = [_compare(Column("length in characters", "text"), synthetic, training, holdout)]
    for name, parts in (("characters", list), ("words", str.split)):
        mine, seen, unseen = ([part for text in texts for part in parts(text)] for texts in cut)
        found.append(_compare(Column(name, "category"), mine, seen, unseen))
    return found


def _compare(column: Column, mine: Sequence[str], seen: Sequence[str], unseen: Sequence[str]) -> Comparison:
    return Comparison(
        column.name,
        column.kind,
        column_distance(column, mine, seen),
        column_distance(column, unseen, seen),
        _value_bars(mine, seen) if column.kind == "category" else _range_bars(column, mine, seen),
    )


def _value_bars(mine: Sequence[str], seen: Sequence[str]) -> Bars:
    """Shares of the training records' most frequent values, and of all others."""
    values = frequent_values(seen, SHOWN_VALUES)
    counts = [Counter(sample) for sample in (seen, mine)]
    shares = [[count[value] / max(1, count.total()) for value in values] for count in counts]
    others = [1 - sum(part) if count else 0.0 for part, count in zip(shares, counts, strict=True)]
    labels = ["(empty)" if not value.strip() else value for value in values]
    if max(others) > 1e-9:
        labels.append("all others")
        shares = [[*part, other] for part, other in zip(shares, others, strict=True)]
    return Bars(tuple(labels), tuple(shares[0]), tuple(shares[1]))


def _range_bars(column: Column, mine: Sequence[str], seen: Sequence[str]) -> Bars:
    """Shares in ranges that hold about a tenth of the training records each, and of values that are no number."""
    samples = column.numbers(seen), column.numbers(mine)
    known = samples[0][~np.isnan(samples[0])]
    edges = (
        np.unique(np.quantile(known, np.linspace(0, 1, SHOWN_RANGES + 1), method="lower"))
        if known.size
        else np.zeros(1)
    )
    if edges.size == 1:
        edges = np.array([edges[0], edges[0]])
    inner = edges[1:-1]
    shares: list[list[float]] = []
    for numbers in samples:
        counts = np.bincount(np.searchsorted(inner, numbers[~np.isnan(numbers)], "right"), minlength=edges.size - 1)
        shares.append([*(counts / max(1, numbers.size)), float(np.isnan(numbers).sum() / max(1, numbers.size))])
    labels = [f"{column.show(low)} to {column.show(high)}" for low, high in pairwise(edges.tolist())]
    if max(part[-1] for part in shares) > 0:
        labels.append("no number")
    training, synthetic = (tuple(map(float, part[: len(labels)])) for part in shares)
    return Bars(tuple(labels), training, synthetic, tuple(edges.tolist()))


def _associations(columns: Sequence[Column], *tables: Rows) -> list[Associations | None]:
    """Of each table, all cut to as many records; None for all with fewer than two columns or records."""
    size = min(MAP_RECORDS, *(len(rows) for rows in tables if rows))
    chosen = columns[:LARGEST_MAP]
    if len(chosen) < 2 or size < 2:
        return [None] * len(tables)
    cut = [[row[: len(chosen)] for row in spread(rows, size)] for rows in tables]
    levels = [frequent_values(values) for values in zip(*cut[0], strict=True)]
    return [find_associations(chosen, rows, levels) if rows else None for rows in cut]
