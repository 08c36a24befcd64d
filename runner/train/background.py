"""Work beside the main thread, which keeps the signals."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from runner.config import NAMESPACE_VARIABLE
from runner.errors import JobFailedError, find_user_error, last_line
from runner.screen import tell
from runner.train.heartbeat import log_to_screen

STOPS_WITHIN_S = 60.0

log = logging.getLogger(__name__)


@contextlib.contextmanager
def stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """Let SIGINT and SIGTERM set `stop`; a second one ends the process at once. For the main thread."""

    def handle(number: int, _frame: Any) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_in_thread(run: Callable[[], Any]) -> tuple[threading.Thread, list[BaseException]]:
    """Start `run` beside the main thread, which keeps the signals; what it raises lands in the list."""
    errors: list[BaseException] = []

    def call() -> None:
        try:
            run()
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            errors.append(error)

    thread = threading.Thread(target=call, name="driver")
    thread.start()
    return thread, errors


def run_as_job(drive: Callable[[str, threading.Event], Any]) -> None:
    """A cluster's job: drive what the command line names, and exit as `runner` would.

    KubeRay starts a RayJob whose job has FAILED again, on a new cluster, and leaves a STOPPED one alone: that is what
    it ends as when to start it again would be in vain.
    """
    uri = sys.argv[1]
    log_to_screen(logging.INFO)
    stop = threading.Event()
    with stop_on_signals(stop):
        thread, errors = run_in_thread(lambda: drive(uri, stop))
        while thread.is_alive():
            thread.join(0.2)
    if errors:
        found = find_user_error(errors[0])
        shown = found or JobFailedError(f"unexpected: {last_line(errors[0])}")
        for line in str(shown).splitlines():
            tell(f"error: {line}")
        if NAMESPACE_VARIABLE in os.environ and found is not None and not found.may_pass:
            _stop_own_job()
        sys.exit(shown.exit_code)


def _stop_own_job() -> None:
    """Have Ray end the job that this process is the driver of; returns when it does not."""
    from ray.job_submission import JobSubmissionClient

    try:
        job = json.loads(os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"])["metadata"]["job_submission_id"]
        JobSubmissionClient(os.environ["RAY_ADDRESS"]).stop_job(job)
    except Exception as error:  # noqa: BLE001 - whatever it is, there is another way to end
        log.warning("cannot stop this job: %s", last_line(error))
    else:
        time.sleep(STOPS_WITHIN_S)  # Ray kills this process.
