"""Watching a run from its directory: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from runner.errors import StorageError
from runner.privacy.accountant import plain_epsilon
from runner.privacy.figures import epsilon_in_words
from runner.run_directory import RunDirectory, Status
from runner.screen import tell, visible

POLL_S = 1.0


def follow_run(directory: RunDirectory, is_over: Callable[[], bool], *, quiet: bool = False) -> None:
    """Show the run's progress until `is_over`; storage that is away for a while only delays it."""
    console = Console(stderr=True)
    if quiet:
        _wait(is_over)
    elif console.is_terminal:
        with live_line(quiet=False) as show:
            for status in _changes(directory, is_over):
                show(describe(status))
    else:
        shown: object = None
        for status in _changes(directory, is_over):
            if status.state not in ("training", "generating") or _milestone(status) != shown:
                tell(describe(status))
                shown = _milestone(status)


@contextmanager
def live_line(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """A function that shows a text as the live line; elsewhere than on a terminal it shows none."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda _text: None
        return
    with Live(Text(""), console=console, refresh_per_second=4, transient=True) as live:
        yield lambda text: live.update(Text(visible(text), no_wrap=True, overflow="ellipsis"))


def describe(status: Status) -> str:
    """A status as one line."""
    if status.state == "generating" and "shards" in status.progress:
        return _describe_generation(status)
    if status.state != "training" or "step" not in status.progress:
        detail = status.error or status.message
        if status.state == "done" and "epoch" in status.progress:
            detail += f" (epoch {status.progress['epoch'] + 1}, loss {status.progress['loss']:.4f})"
        return f"{status.name}: {status.state}" + (f" - {detail}" if detail else "")
    p: dict[str, Any] = status.progress
    epsilon = f"epsilon {epsilon_in_words(plain_epsilon(p['epsilon']), 2)}  " if "epsilon" in p else ""
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


def _describe_generation(status: Status) -> str:
    p: dict[str, Any] = status.progress
    pace = f"  {p['records_per_second']:,.0f} records/s  ETA {duration(p['eta_s'])}" if "eta_s" in p else ""
    return f"{status.name}: {p['records']:,}/{p['of_records']:,} records  shard {p['shards']}/{p['of_shards']}{pace}"


def _milestone(status: Status) -> object:
    """Changes with what is worth a line of its own: an epoch, or a tenth of all shards."""
    p: dict[str, Any] = status.progress
    return 10 * p["shards"] // p["of_shards"] if "shards" in p else p.get("epoch")


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
