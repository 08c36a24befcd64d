"""What a shareable report counts in private records: single columns, and some pairs and triples of them, with noise.

    columns = Columns.of(schema, released)            # public: by the schema, and by counts that were released before
    release = plan_report(columns, records, 0.5, delta)
    counted = columns.count(release, records, batches)           # exact: only to noise
    released_once(folder, release, lambda: counted)

Which values a cell has is public: nothing of it is looked up. Every record is in one cell of each histogram, and an
emptied one in none, so emptying a record lowers one count of each by 1. The number of records is public.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, combinations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runner.data.schema import Codec, Schema
from runner.data.schema.codec import UNUSED
from runner.data.schema.schema import columns_of
from runner.data.schema.text import TextCodec
from runner.errors import CorruptError, PrivacyError
from runner.privacy.accountant import Accountant, Release
from runner.privacy.marginals import Axis, Layout, distinct
from runner.privacy.measured import group_slots
from runner.privacy.releases import REPORT, Counts, plan_release

VERSION = 1
"""Of what is counted, and in which cells: another one is another release."""
MOST_GROUPS = 10
"""Of a column."""
FEWEST_GROUPS = 2
MOST_PAIRS = 20
MOST_TRIPLES = 10
"""Of more, as many are chosen by a fixed seed. Each costs as much as a column."""
LARGEST_DOUBT = 0.015
"""Of an accuracy: what may be unknown of it because noise makes differences larger. With more noise there are fewer
cells, and without pairs and triples there is less noise."""
DOUBT_OF_A_CELL = math.sqrt(2 / math.pi) / 4
"""In sigma over records: see `runner.report.noisy_fidelity`."""
SEED = 0

Places = tuple[int, ...]


def release_name(target: float) -> str:
    """What the release is called that costs so much; the same question again finds it.

    >>> release_name(0.5)
    'report-1-0.5'
    """
    return f"{REPORT}{VERSION}-{target:.15g}"


@dataclass(frozen=True)
class Columns:
    """The coarse slots of a table's fields but for free texts, as columns: see `Layout`.

    `fields`: of each, its field and the number of its slot there. `counts`: of all slots but the first, how frequent
    each token is, as noisy counts with noise `sigma` say that were released before; ones where there are none.
    """

    layout: Layout
    fields: tuple[tuple[Codec, int], ...]
    counts: tuple[NDArray[np.integer], ...]
    sigma: float

    @classmethod
    def of(cls, schema: Schema, released: Sequence[NDArray[np.integer]] = (), sigma: float = 0.0) -> Columns:
        """released: noisy counts of all slots but the first, of a table without free texts.

        Raises:
            PrivacyError: the table has nothing but free texts.
        """
        kept = [
            (codec, nullable)
            for codec, nullable in zip(schema.codecs, schema.nullable, strict=True)
            if codec.slots and not isinstance(codec, TextCodec)
        ]
        if not kept:
            raise PrivacyError("all columns are free text, which a shareable report has no figures of")
        codecs, nullable = zip(*kept, strict=True)
        layout = Layout.of(Schema(codecs, nullable))
        fields = [(codec, slot) for codec in codecs for slot in codec.coarse_slots][: len(layout.coarse)]
        known = [np.ones(size + 1, np.int64) for size in layout.slots.sizes[1:]]
        return cls(layout, tuple(fields), tuple(released or known), sigma)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns."""
        return tuple(self.layout.names[slot] for slot in self.layout.coarse)

    def levels(self) -> tuple[list[Places], ...]:
        """The single columns, pairs and triples that a report looks at; what the records hold has no say in it."""
        count = len(self.fields)
        singles = [(place,) for place in range(count)]
        return (singles, _choose(count, 2, MOST_PAIRS), _choose(count, 3, MOST_TRIPLES))

    def groups_of(self, release: Release, records: int) -> dict[str, tuple[Places, tuple[Axis, ...]]]:
        """Of each histogram of a report's release: its columns, and the groups of their tokens.

        Raises:
            CorruptError: the release is not of these columns.
        """
        chosen = list(chain(*self.levels()))
        names = [each.name for each in release.histograms]
        if names != self.histograms(chosen)[: len(names)]:
            raise CorruptError(f"the release {release.name!r} is of other columns than the run's; start a new run")
        sigma = release.histograms[0].sigma
        axes = {size: self._axes(most_groups(records, sigma, size)) for size in (1, 2, 3)}
        return {
            name: (places, tuple(axes[len(places)][place] for place in places))
            for name, places in zip(names, chosen, strict=False)  # Pairs or triples may be left out.
        }

    def histograms(self, chosen: Sequence[Places]) -> list[str]:
        """What the histograms of some groups of columns are called."""
        return distinct([" x ".join(self.names[place] for place in places) for places in chosen])

    def count(self, release: Release, records: int, batches: Iterable[pa.StructArray]) -> dict[str, Counts]:
        """How many of the rows in `batches` are in each cell of the release's histograms, exactly."""
        groups = self.groups_of(release, records)
        shapes = {name: tuple(axis.size for axis in axes) for name, (_, axes) in groups.items()}
        counts = {name: np.zeros(math.prod(shape), np.int64) for name, shape in shapes.items()}
        for batch in batches:
            tokens = self._tokens(batch.drop_null() if batch.null_count else batch)
            for name, (places, axes) in groups.items():
                cells = [axis.cells[tokens[place]] for place, axis in zip(places, axes, strict=True)]
                found = np.ravel_multi_index(cells, shapes[name])
                counts[name] += np.bincount(found, minlength=counts[name].size)
        return {name: Counts(each.reshape(shapes[name])) for name, each in counts.items()}

    def _tokens(self, rows: pa.StructArray) -> list[NDArray[np.int64]]:
        """Of each column, each row's token; the slot's size where it has none."""
        columns = columns_of(rows)
        by_name: Mapping[str, NDArray[np.int32]] = {
            codec.name: codec.encode(columns[codec.name]) for codec, _ in self.fields
        }
        found: list[NDArray[np.int64]] = []
        for codec, slot in self.fields:
            tokens = by_name[codec.name][:, slot].astype(np.int64)
            found.append(np.where(tokens == UNUSED, codec.slots[slot], tokens))
        return found

    def _axes(self, most: int) -> tuple[Axis, ...]:
        return group_slots(self.layout, self.counts, self.sigma, max(most, FEWEST_GROUPS))


def most_groups(records: int, sigma: float, columns: int) -> int:
    """How many groups each of so many columns may have, for the doubt of their accuracy to stay small.

    >>> [most_groups(24_421, 47.0, columns) for columns in (1, 2, 3)], most_groups(500, 47.0, 2)
    ([10, 6, 3], 0)
    """
    cells = LARGEST_DOUBT * records / (DOUBT_OF_A_CELL * sigma)
    return min(MOST_GROUPS, math.floor(cells ** (1 / columns) + 1e-9)) if cells >= 2**columns else 0


def plan_report(
    columns: Columns, records: int, target: float, delta: float, accountant: Accountant = "pld", sensitivity: int = 1
) -> Release:
    """The release that costs at most `target`: of all columns, of pairs and of triples, as far as the budget carries.
    sensitivity: the most records of one unit of privacy that are counted.

    Raises:
        PrivacyError: it does not even carry the columns.
    """
    levels = columns.levels()
    for kept in range(len(levels), 0, -1):
        chosen = list(chain(*levels[:kept]))
        weights = dict.fromkeys(columns.histograms(chosen), 1.0)
        try:
            release = plan_release(
                release_name(target), weights, (), target, delta, accountant, sensitivity=sensitivity
            )
        except PrivacyError:
            continue  # Not with so many histograms.
        if all(most_groups(records, release.histograms[0].sigma, size + 1) for size in range(kept) if levels[size]):
            return release
    raise PrivacyError(
        f"epsilon {target:g} pays for no figure of {len(columns.names)} columns: the noise would be as large as "
        "the counts; ask for more"
    )


@lru_cache
def _choose(columns: int, size: int, most: int) -> list[Places]:
    """All groups of so many columns, or `most` different ones by a fixed seed; in order."""
    if math.comb(columns, size) <= most:
        return list(combinations(range(columns), size))
    draw = random.Random(SEED)  # noqa: S311 - public
    found: set[Places] = set()
    while len(found) < most:
        found.add(tuple(sorted(draw.sample(range(columns), size))))
    return sorted(found)
