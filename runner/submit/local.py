"""A job in this process: the driver in a thread, the live line and the signals in the main thread."""

from __future__ import annotations

import threading
from collections.abc import Callable

from runner.run_directory import RunDirectory, Status
from runner.submit.follow import follow_run


def run_here(directory: RunDirectory, drive: Callable[[threading.Event], Status], *, quiet: bool) -> Status:
    """Drive a claimed run or generation to its end. Ctrl-C and SIGTERM set the event: a run stops at its next step,
    with a checkpoint.

    Raises:
        JobStoppedError: it was stopped and can be continued.
        RunnerError: what went wrong.
    """
    from runner.train.background import run_in_thread, stop_on_signals

    stop = threading.Event()
    results: list[Status] = []
    with stop_on_signals(stop):
        thread, errors = run_in_thread(lambda: results.append(drive(stop)))
        follow_run(directory, lambda: not thread.is_alive(), quiet=quiet)
    if errors:
        raise errors[0]
    return results[0]
