"""`history.csv`: one row an epoch, rewritten whole after each.

Columns: epoch (from 0), loss, accuracy, val_loss, val_accuracy, best, steps, seconds, tokens_per_second; of a private
run also epsilon and delta, after val_accuracy: what the run had cost by then. Losses are averages over tokens, in
nats. Numbers have full precision: reading them back gives the same floats. One row has best = 1, that whose weights are
in `model/`; none where a callback left weights of no epoch there.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from runner.errors import ObjectNotFoundError
from runner.run_directory import RunDirectory


@dataclass(frozen=True)
class EpochRow:
    """What an epoch came to. Validation figures are None without validation."""

    epoch: int
    loss: float
    accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    steps: int
    seconds: float
    tokens_per_second: float
    epsilon: float | None = None
    delta: float | None = None

    def metric(self, name: str) -> float:
        """A metric by name; not a number where it was not measured."""
        value = getattr(self, name)
        return math.nan if value is None else value


COLUMNS = (
    "epoch",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "epsilon",
    "delta",
    "best",
    "steps",
    "seconds",
    "tokens_per_second",
)
PRIVATE_COLUMNS = ("epsilon", "delta")
_WHOLE = ("epoch", "steps")


def is_better(metric: str, new: float, old: float, min_delta: float = 0.0) -> bool:
    """Whether `new` improves on `old` by more than `min_delta`: accuracies grow, losses shrink."""
    if math.isnan(new):
        return False
    if math.isnan(old):
        return True
    gain = new - old if metric.endswith("accuracy") else old - new
    return gain > min_delta


def best_epoch(rows: Sequence[EpochRow], metric: str | None) -> int | None:
    """Index of the row whose weights are kept: the first with the best metric; the last when metric is None."""
    if not rows:
        return None
    if metric is None:
        return len(rows) - 1
    best = 0
    for index, row in enumerate(rows):
        if is_better(metric, row.metric(metric), rows[best].metric(metric)):
            best = index
    return best


def to_csv(rows: Sequence[EpochRow], best: int | None) -> bytes:
    """The file's content; `best` is an index into `rows`."""
    text = io.StringIO()
    columns = [name for name in COLUMNS if name not in PRIVATE_COLUMNS or any(row.delta is not None for row in rows)]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for index, row in enumerate(rows):
        values: dict[str, Any] = asdict(row) | {"best": int(index == best)}
        writer.writerow({name: _exact(values[name]) for name in columns})
    return text.getvalue().encode()


def from_csv(content: bytes) -> tuple[list[EpochRow], int | None]:
    """The rows of a file's content, and the index of the best."""
    plain = list(csv.DictReader(io.StringIO(content.decode())))
    best = next((index for index, row in enumerate(plain) if row.pop("best") == "1"), None)
    rows = [{name: _number(value, whole=name in _WHOLE) for name, value in row.items()} for row in plain]
    return from_rows(rows), best


def read_history(directory: RunDirectory) -> tuple[list[EpochRow], int | None]:
    """The epochs of a run so far, and the index of the one in `model/`; none before the first is done."""
    try:
        return from_csv(directory.folder.read("history.csv"))
    except ObjectNotFoundError:
        return [], None


def from_rows(plain: Sequence[dict[str, Any]]) -> list[EpochRow]:
    """Rows from the plain values that a checkpoint keeps."""
    names = {field.name for field in fields(EpochRow)}
    return [EpochRow(**{name: value for name, value in row.items() if name in names}) for row in plain]


def _number(text: str, *, whole: bool) -> float | None:
    return (int(text) if whole else float(text)) if text else None


def _exact(value: Any) -> Any:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else value
