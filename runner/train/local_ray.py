"""A Ray of this process's own, for the local target."""

from __future__ import annotations

import logging
import os
import threading

from runner.errors import ClusterError, last_line

OBJECT_STORE_BYTES = 512 << 20
"""Records and tokens pass through storage, not through Ray's object store."""

TRIES = 3
"""Ray gives its own daemons 30 seconds, and no setting changes that."""

log = logging.getLogger(__name__)


def start_local_ray() -> None:
    """Start Ray on all cores of this machine, without a dashboard; it ends with the thread that started it.

    Raises:
        ClusterError: it does not start.
    """
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # Nobody takes this machine away.
    import ray

    # Ray Train takes seconds to import, and Ray's daemons seconds to start: at the same time.
    threading.Thread(target=_import_ray_train, name="import-ray-train", daemon=True).start()
    for left in reversed(range(TRIES)):
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=OBJECT_STORE_BYTES,
            )
        except Exception as error:
            ray.shutdown()
            if not left or "timed out during startup" not in str(error):
                raise ClusterError(f"Ray did not start on this machine: {last_line(error)}; try again") from error
            log.warning("this machine is busy: Ray did not start in time; trying again")
        else:
            return


def _import_ray_train() -> None:
    import runner.train.cluster  # noqa: F401
