"""Watching a run from its directory: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from runner.errors import StorageError
from runner.run_directory import RunDirectory, Status

POLL_S = 1.0


def follow_run(directory: RunDirectory, is_over: Callable[[], bool], *, quiet: bool = False) -> None:
    """Show the run's progress until `is_over`; storage that is away for a while only delays it."""
    console = Console(stderr=True)
    if quiet:
        _wait(is_over)
    elif console.is_terminal:
        with Live(Text(""), console=console, refresh_per_second=4, transient=True) as live:
            for status in _changes(directory, is_over):
                live.update(Text(describe(status), no_wrap=True, overflow="ellipsis"))
    else:
        epoch: object = None
        for status in _changes(directory, is_over):
            if status.state != "training" or status.progress.get("epoch") != epoch:
                print(describe(status), file=sys.stderr, flush=True)
                epoch = status.progress.get("epoch")


def describe(status: Status) -> str:
    """A status as one line."""
    if status.state != "training" or "step" not in status.progress:
        detail = status.error or status.message
        if status.state == "done" and "epoch" in status.progress:
            detail += f" (epoch {status.progress['epoch'] + 1}, loss {status.progress['loss']:.4f})"
        return f"{status.name}: {status.state}" + (f" - {detail}" if detail else "")
    p: dict[str, Any] = status.progress
    epsilon = f"epsilon {p['epsilon']:.2f}  " if "epsilon" in p else ""
    return (
        f"{status.name}: epoch {p['epoch'] + 1}/{p['epochs']}  step {p['step']}/{p['steps']}  "
        f"loss {p['loss']:.4f}  {epsilon}{p['tokens_per_second']:,.0f} tokens/s  "
        f"ETA {duration(p['eta_s'])}"
    )


def duration(seconds: float) -> str:
    """
    >>> duration(59.6), duration(3725)
    ('1:00', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _changes(directory: RunDirectory, is_over: Callable[[], bool]) -> Any:
    """The status each time it says something new."""
    shown = ""
    while not is_over():
        try:
            status = directory.status()
        except StorageError:
            status = None
        if status is not None and (line := describe(status)) != shown:
            shown = line
            yield status
        _wait(is_over, POLL_S)


def _wait(is_over: Callable[[], bool], limit_s: float = float("inf")) -> None:
    deadline = time.monotonic() + limit_s
    while not is_over() and time.monotonic() < deadline:
        time.sleep(0.1)
