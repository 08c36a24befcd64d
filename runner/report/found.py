"""What the report found, and the page shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runner.config import JobConfig
from runner.report.compare import Quality
from runner.report.real import RealRecords
from runner.report.synthetic import SyntheticRecords
from runner.run_directory import Status
from runner.train.history import EpochRow


@dataclass(frozen=True)
class Found:
    """All that a report shows. `real`, `synthetic` and `quality` are None where `why_not` says why; `target` is
    the column that was asked for."""

    uri: str
    config: JobConfig
    status: Status
    rows: tuple[EpochRow, ...]
    best: int | None
    statement: dict[str, Any] | None
    real: RealRecords | None
    synthetic: SyntheticRecords | None
    quality: Quality | None
    why_not: str
    target: str | None
