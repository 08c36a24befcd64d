"""Token shards without Ray: units are tokenized one after the other in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from runner.data.units import Unit


class InThisProcess:
    """In place of `runner.data.prepare._dataset`."""

    def __init__(self, units: tuple[Unit, ...]) -> None:
        self.rows = [unit.to_dict() for unit in units]

    def map(self, function: Callable[[dict[str, Any]], dict[str, Any]]) -> InThisProcess:
        self.rows = [function(row) for row in self.rows]
        return self

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)
