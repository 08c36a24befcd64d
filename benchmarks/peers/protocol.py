"""What every peer does beside its own steps: sizes from the command line, and one step for each line it reads.

`bench_peers.py` is at the other end.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping

WARM_UP_STEPS = 2


def parse_arguments(description: str | None) -> argparse.Namespace:
    """The sizes of the step."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--vocab", type=int, default=2000)
    parser.add_argument("--embedding", type=int, default=256)
    parser.add_argument("--units", type=int, default=256)
    parser.add_argument("--length", type=int, default=100, help="positions per example")
    parser.add_argument("--batch", type=int, default=64, help="examples per step")
    parser.add_argument("--dropout", type=float, default=0.2)
    return parser.parse_args()


def serve(steps: Mapping[str, Callable[[], float]], versions: Mapping[str, str]) -> None:
    """Warm up, say so, and time one step of the mode that each line of standard input names."""
    for step in steps.values():
        for _ in range(WARM_UP_STEPS):
            step()
    print(json.dumps({"ready": True, "modes": list(steps), "versions": dict(versions)}), flush=True)
    for line in sys.stdin:
        mode = line.strip()
        start = time.perf_counter()
        steps[mode]()
        print(json.dumps({"mode": mode, "seconds": time.perf_counter() - start}), flush=True)
