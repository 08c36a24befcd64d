"""What counts say of a table, kept beside a model, so that what it draws can be weighed by it.

    known = KnownTables(slots, groups, estimate.tables, records)
    weights = known.weigh(known.rows_of(batch, slots))        # of drawn records, by how often each is to be taken
    known.to_files()                                          # tables.json, tables.safetensors

A model's draws have errors of their own and those of a sample: the shares that they have differ from the known ones.
Taken by these weights, they have the known ones, as near as they are known: counts of a private table have noise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from runner.data.schema import Slots
from runner.model.loglinear import KnownTable, PoolWeights

SETTINGS_FILE, ARRAYS_FILE = "tables.json", "tables.safetensors"
SWEEPS = 15
"""Of proportional fitting."""


@dataclass(frozen=True)
class KnownTables:
    """`slots`: of each column; `groups`: of each, (size of the slot + 1,), the group of every token, the last one that
    of records without one. `tables`: shares of groups, of columns and pairs. `records`: how many were counted.
    `is_exact`: the counts have no noise."""

    slots: tuple[int, ...]
    groups: tuple[NDArray[np.int64], ...]
    tables: tuple[KnownTable, ...]
    records: int
    is_exact: bool = False

    def rows_of(self, records: Sequence[Sequence[int] | NDArray[Any]], slots: Slots) -> NDArray[np.int32]:
        """(N, C): the groups of records of token ids."""
        places = slots.places(records, self.slots)
        columns = [groups[place] for groups, place in zip(self.groups, places, strict=True)]
        return np.stack(columns, axis=1).astype(np.int32)

    def weigh(self, rows: NDArray[np.integer]) -> NDArray[np.float64]:
        """(N,): weights of rows of groups, which add up to 1."""
        weights = PoolWeights(rows, self.tables, self.records)
        weights.fit([np.zeros(table.shares.size) for table in self.tables], SWEEPS)
        return weights.weights

    def to_files(self) -> dict[str, bytes]:
        """For `model/`."""
        settings = {
            "slots": self.slots,
            "groups": [each.tolist() for each in self.groups],
            "tables": [table.columns for table in self.tables],
            "records": self.records,
            **({"exact": True} if self.is_exact else {}),
        }
        arrays: dict[str, NDArray[Any]] = {}
        for number, table in enumerate(self.tables):
            arrays |= {f"shares/{number}": table.shares, f"variances/{number}": table.variances}
        return {SETTINGS_FILE: json.dumps(settings).encode(), ARRAYS_FILE: save(arrays)}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> KnownTables | None:
        """Read back what `to_files` gave; None where it is not there."""
        if SETTINGS_FILE not in files:
            return None
        settings, arrays = json.loads(files[SETTINGS_FILE]), load(files[ARRAYS_FILE])
        return cls(
            slots=tuple(settings["slots"]),
            groups=tuple(np.array(each, np.int64) for each in settings["groups"]),
            tables=tuple(
                KnownTable(tuple(columns), arrays[f"shares/{number}"], arrays[f"variances/{number}"])
                for number, columns in enumerate(settings["tables"])
            ),
            records=settings["records"],
            is_exact=settings.get("exact", False),
        )
