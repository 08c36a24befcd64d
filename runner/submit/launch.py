"""Where a job is started, and how."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """The options that the verbs which start a job share. `address`: of a Ray cluster's Jobs API."""

    target: str = "local"
    address: str | None = None
    detach: bool = False
    dry_run: bool = False
    quiet: bool = False
