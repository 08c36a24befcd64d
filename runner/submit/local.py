"""A job in this process: the driver in a thread, the live line and the signals in the main thread."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from runner.run_directory import RunDirectory, Status
from runner.submit.follow import follow_run

if TYPE_CHECKING:
    from runner.train.facade import CheckedJob


def run_here(directory: RunDirectory, checked: CheckedJob | None, *, quiet: bool) -> Status:
    """Train a claimed run to its end. Ctrl-C and SIGTERM stop it at the next step, with a checkpoint.

    Raises:
        JobStoppedError: it was stopped and can be resumed.
        RunnerError: what went wrong.
    """
    from runner.driver import drive
    from runner.train.background import run_in_thread, stop_on_signals

    stop = threading.Event()
    results: list[Status] = []
    with stop_on_signals(stop):
        thread, errors = run_in_thread(lambda: results.append(drive(directory.uri, stop, checked=checked)))
        follow_run(directory, lambda: not thread.is_alive(), quiet=quiet)
    if errors:
        raise errors[0]
    return results[0]
