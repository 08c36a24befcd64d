"""Signs of life: status and logs go to storage while the run goes on, and requests to stop come back.

A thread beside the training loop; storage that is away delays it and nothing else.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from runner.errors import OvertakenError, StorageError
from runner.run_directory import HEARTBEAT_EVERY_S, RunDirectory
from runner.screen import VisibleFormatter
from runner.storage import open_folder

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

log = logging.getLogger(__name__)


class LogFile:
    """This process's log: collected in a temporary file, copied to `logs/` in the run directory."""

    def __init__(self, directory: RunDirectory, role: str) -> None:
        """`role` is part of the name: `driver`, `worker-0`."""
        self._folder = open_folder(directory.uri)  # Who was overtaken may still tell its end.
        self._name = f"logs/{time.strftime('%Y%m%dT%H%M%S')}-{role}.log"
        handle, path = tempfile.mkstemp(prefix="runner-", suffix=".log")
        os.close(handle)
        self._path = Path(path)
        self._copied = 0
        self._handler = logging.FileHandler(self._path, encoding="utf-8")
        self._handler.setFormatter(logging.Formatter(LOG_FORMAT))
        self._handler.setLevel(logging.INFO)
        logging.getLogger("runner").addHandler(self._handler)
        logging.getLogger("runner").setLevel(logging.INFO)
        logging.getLogger("py.warnings").addHandler(self._handler)
        logging.captureWarnings(True)

    def copy(self) -> None:
        """Bring what is new to storage."""
        size = self._path.stat().st_size
        if size > self._copied:
            self._folder.write(self._name, self._path.read_bytes(), durable=False)
            self._copied = size

    def close(self) -> None:
        """Copy for the last time and stop collecting."""
        for name in ("runner", "py.warnings"):
            logging.getLogger(name).removeHandler(self._handler)
        self._handler.close()
        try:
            self.copy()
        finally:
            self._path.unlink()


class Heartbeat:
    """Writes status and log every `HEARTBEAT_EVERY_S` seconds and watches for `stop`.

    `stop` is set when the run is asked to end at its next step, by `runner stop` or a signal.
    """

    def __init__(
        self, directory: RunDirectory, log_file: LogFile, stop: threading.Event, *, writes_status: bool
    ) -> None:
        """`writes_status` is for one process of the run, the first worker."""
        self.stop = stop
        self._directory = directory
        self._log_file = log_file
        self._writes_status = writes_status
        self._progress: dict[str, Any] = {}
        self._changes: dict[str, Any] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat_until_ended, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end_thread()
        self._log_file.copy()

    def finish(self, state: str, message: str) -> None:
        """Write the last status: no beat comes after it."""
        self._end_thread()
        self._directory.update_status(state=state, message=message, progress=self._progress, error=None)

    def _end_thread(self) -> None:
        self._ended.set()
        self._thread.join()

    def report(self, state: str, message: str = "", progress: dict[str, Any] | None = None) -> None:
        """What the next beat writes; without `progress` the last one stays."""
        self._progress = progress or self._progress
        self._changes = {"state": state, "message": message, "progress": self._progress}

    def _beat_until_ended(self) -> None:
        while not self._ended.wait(HEARTBEAT_EVERY_S):
            try:
                if self._writes_status and self._changes:
                    self._directory.update_status(**self._changes)
                self._log_file.copy()
                if not self.stop.is_set() and self._directory.stop_requested():
                    log.info("asked to stop: ending at the next step")
                    self.stop.set()
            except OvertakenError as error:
                log.warning("%s", error)
                self._writes_status = False
                self.stop.set()
            except StorageError as error:
                log.warning("no heartbeat: %s", error)


def log_to_screen(level: int) -> None:
    """Show warnings of the project's own on standard error, one plain line each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(level)
    handler.setFormatter(VisibleFormatter("%(levelname)s: %(message)s"))
    logging.getLogger("runner").addHandler(handler)
    logging.getLogger("runner").setLevel(logging.INFO)
