"""Before a machine is taken away: let its Ray Train workers leave a checkpoint.

python -m runner.train.preempt

For a hook that runs before a pod ends. KubeRay's containers run a shell, which does not pass SIGTERM on.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

TITLE = b"ray::RayTrainWorker"
WAIT_S = 100.0
"""How long to wait for the workers' end; the pod's grace period is a little longer."""


def workers() -> list[int]:
    """The processes of this machine, or pod, that train."""
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes().startswith(TITLE):
                found.append(int(process.name))
        except OSError:
            continue  # ended meanwhile
    return found


def main() -> None:
    """Send each worker SIGTERM, and wait until all have ended."""
    for pid in workers():
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + WAIT_S
    while workers() and time.monotonic() < deadline:
        time.sleep(0.2)


if __name__ == "__main__":
    main()
