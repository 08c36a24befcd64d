"""One of two workers of a private run, each on a machine of its own, as far as it can tell.

python -m tests.promises.one_of_two RANK ADDRESS ADDRESS RUN_URI TOKENS_URI TERM SEEN
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any


def main(rank: int, addresses: list[str], run_uri: str, tokens_uri: str, term: str, seen_path: str) -> None:
    """Train, and leave in `seen_path` the positions of each step's examples: the worker's own and all."""
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}})
    import sentencepiece  # noqa: F401  before TensorFlow

    from runner.train import feed, worker
    from tests.mutants.mutants import apply_from_environment

    apply_from_environment()
    seen: list[dict[str, list[int]]] = []
    load = feed.load_batch

    def watching(examples: Any, positions: Any, replica: int, replicas: int, key: Any, **options: Any) -> Any:
        if any(key):
            seen.append({"own": positions[replica::replicas].tolist(), "all": sorted(positions.tolist())})
        return load(examples, positions, replica, replicas, key, **options)

    feed.load_batch = watching
    worker.machine = lambda: [f"processor {rank}"]
    worker.memory_bytes = lambda: 10**6 * (rank + 1)
    task = worker.WorkerTask(run_uri, tokens_uri, term, rank=rank, workers=2, threads=1)
    worker.run_worker(task, threading.Event())
    Path(seen_path).write_text(json.dumps(seen))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:4], *sys.argv[4:])
