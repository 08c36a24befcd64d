"""From `runner submit` to the first optimizer step, with the tokens in the cache.

Every start is a fresh process, as a user's is. The first step is seen in the run directory, whose status is
written every two seconds, so a figure can be up to two seconds too long. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def seconds_to_first_step(runs: Path, workers: int) -> float:
    """Start the job of texts, wait for its first step, stop it."""
    name = f"start-{uuid.uuid4().hex[:8]}"
    run = runs / name
    command = [sys.executable, "-m", "runner", "submit", "examples/texts.yaml", "--quiet"]
    settings = [f"name={name}", f"storage.uri={runs}", f"resources.workers={workers}", "training.epochs=1000"]
    start = time.perf_counter()
    process = subprocess.Popen(command + [part for setting in settings for part in ("--set", setting)], cwd=ROOT)
    while not has_stepped(run):
        if process.poll() is not None:
            raise SystemExit("the run ended before its first step")
        time.sleep(0.05)
    elapsed = time.perf_counter() - start
    process.send_signal(signal.SIGINT)
    process.wait()
    return elapsed


def has_stepped(run: Path) -> bool:
    """Whether the run's status tells of a step."""
    try:
        status = json.loads((run / "status.json").read_text())
    except (FileNotFoundError, ValueError):
        return False
    return bool(status["progress"].get("total_steps"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        seconds_to_first_step(Path(name), 1)  # fills the token cache
        times: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(options.rounds):
            for workers, found in times.items():
                found.append(seconds_to_first_step(Path(name), workers))
                print(f"{workers} worker(s): {found[-1]:.1f} s", flush=True)
        helps = [timed(["--help"]) for _ in range(5)]
    result = {
        "one_worker_s": round(statistics.median(times[1]), 1),
        "two_workers_s": round(statistics.median(times[2]), 1),
        "help_s": round(statistics.median(helps), 2),
    }
    print(json.dumps(result))


def timed(arguments: list[str]) -> float:
    """Seconds of a whole `runner` command."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "runner", *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
