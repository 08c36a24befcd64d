"""Servers as processes of this one, which end with it."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

HOST = "127.0.0.1"
START_TIMEOUT_S = 120.0


class Processes:
    """Started servers by name; what each writes is in `<name>.log` of the directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._launcher = ThreadPoolExecutor(1)  # One thread that lives as long as the servers may.

    def start(self, name: str, command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> None:
        """Start a server; it sees the machine's environment without settings of proxies, and `environment`."""
        inherited = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        # setpriv: a server ends with the thread that starts it, so with this process, even a killed one.
        with (self._directory / f"{name}.log").open("ab") as output:
            self._running[name] = self._launcher.submit(
                subprocess.Popen,
                ["setpriv", "--pdeathsig", "KILL", *command],
                env=inherited | dict(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            ).result()

    def stop(self, name: str) -> None:
        """End one server at once."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def stop_all(self) -> None:
        """End all, the newest first."""
        for name in reversed(list(self._running)):
            self.stop(name)
        self._launcher.shutdown()

    def log(self, name: str) -> str:
        """All that a server wrote."""
        return (self._directory / f"{name}.log").read_text(errors="replace")

    def wait_until(self, is_true: Callable[[], bool], what: str) -> None:
        """Wait for something that the servers bring about; an error has their last words if one of them ended."""
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while not is_true():
            ended = [name for name, process in self._running.items() if process.poll() is not None]
            if ended or time.monotonic() > give_up_at:
                logs = "\n".join(f"--- {name}\n{self.log(name)[-2000:]}" for name in (ended or self._running))
                raise RuntimeError(f"no {what} (ended: {ended}):\n{logs}")
            time.sleep(0.1)


def free_port() -> int:
    """A loopback port that nobody listens on now, below those that the kernel hands to clients."""
    while True:
        port = random.randint(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port
