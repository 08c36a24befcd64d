"""Time one optimizer step beside those of Opacus and gretel-synthetics, private and plain.

    .venv/bin/python benchmarks/bench_peers.py [--rounds 7]

Each peer runs in a process and a locked environment of its own (benchmarks/peers/). The sides take turns, one step
at a time, and only one process computes at once; figures are medians. The last line is one JSON object; a peer that
could not be run is null there, with the reason under `why`. The first run downloads about 3.4 GB.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from bench_private import private_step
from bench_train import make_batch, project_step

ROOT = Path(__file__).resolve().parent.parent
PEERS = ("opacus", "gretel")
SIZES: dict[str, Any] = {"vocab": 2000, "embedding": 256, "units": 256, "length": 100, "batch": 64, "dropout": 0.2}
LAYERS = 2  # what gretel-synthetics builds
WARM_UP_STEPS = 2
PEER_ENVIRONMENT = {
    # A thread that waits for others sleeps: spinning costs many times the step wherever something else runs.
    "OMP_WAIT_POLICY": "PASSIVE",
    # glibc keeps freed memory. By default it returns each large block to the system, and Opacus, which frees more
    # than 20 GiB in a private step, then spends more time on page faults than on arithmetic.
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**30),
    "MALLOC_TRIM_THRESHOLD_": str(16 * 2**30),
    "MALLOC_TOP_PAD_": str(256 * 2**20),
}
Timer = Callable[[], float]
"""Runs one step and returns its seconds."""


class PeerError(Exception):
    """A peer could not be installed, failed or ended; the message says why."""


@dataclass(frozen=True)
class Peer:
    """A process that has warmed up and waits for the name of a mode; `errors` is its standard error."""

    process: subprocess.Popen[str]
    errors: IO[str]
    modes: list[str]
    versions: dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each side")
    rounds = parser.parse_args().rounds
    load = os.getloadavg()[0]
    peers: dict[str, Peer] = {}
    why: dict[str, str] = {}
    for name in PEERS:
        print(f"starting {name}", flush=True)
        try:
            peers[name] = start_peer(f"{name}_step", [f"--{size}={value}" for size, value in SIZES.items()])
        except PeerError as error:
            why[name] = str(error)
    timers = {name: {mode: peer_timer(peer, mode) for mode in peer.modes} for name, peer in peers.items()}
    times, failures = measure({"project": project_timers(), **timers}, rounds)
    for peer in peers.values():
        peer.process.communicate()
    versions = {name: peer.versions for name, peer in peers.items()}
    versions["project"] = {name: metadata.version(name) for name in ("tensorflow", "keras")}
    conditions = {"versions": versions, "rounds": rounds, "cpus": os.cpu_count(), "load": load}
    print(json.dumps({**summarize(times), "why": why | failures, **conditions}))


def start_peer(name: str, arguments: list[str]) -> Peer:
    """Start benchmarks/peers/NAME.py in its locked environment, installed if need be, and let it warm up."""
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    script = ROOT / "benchmarks" / "peers" / f"{name}.py"
    errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the peer runs
    process = subprocess.Popen(
        [uv, "run", "--locked", "--script", str(script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=os.environ | PEER_ENVIRONMENT,
    )
    ready = read_answer(process, errors)
    return Peer(process, errors, ready["modes"], ready["versions"])


def read_answer(process: subprocess.Popen[str], errors: IO[str]) -> dict[str, Any]:
    """The peer's next line; PeerError with the end of its standard error when there is none."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        code = process.wait()
        errors.seek(0)
        raise PeerError(f"exit code {code}: {' '.join(errors.read().split())[-400:]}")
    return json.loads(line)


def peer_timer(peer: Peer, mode: str) -> Timer:
    """Asks the peer for one step; the seconds are those that it measured around the step alone."""
    assert peer.process.stdin is not None
    requests = peer.process.stdin

    def timer() -> float:
        with contextlib.suppress(BrokenPipeError):  # it has ended: read_answer says why
            print(mode, file=requests, flush=True)
        return read_answer(peer.process, peer.errors)["seconds"]

    return timer


def project_timers() -> dict[str, Timer]:
    """The project's private and plain step in this process, warmed up, on one made-up batch."""
    sizes = argparse.Namespace(**SIZES, layers=LAYERS)
    batch = make_batch(sizes)
    steps = {"private": private_step(sizes, batch), "plain": project_step(sizes, batch)}
    return {mode: project_timer(step) for mode, step in steps.items()}


def project_timer(step: Callable[[int], float]) -> Timer:
    for turn in range(-WARM_UP_STEPS, 0):
        step(turn)
    turns = itertools.count()

    def timer() -> float:
        turn = next(turns)
        start = time.perf_counter()
        step(turn)
        return time.perf_counter() - start

    return timer


def measure(
    timers: dict[str, dict[str, Timer]], rounds: int
) -> tuple[dict[tuple[str, str], list[float]], dict[str, str]]:
    """Seconds per step by (side, mode), taken in turns, and why a side was left out from some round on."""
    sides = [(side, mode) for side, modes in timers.items() for mode in modes]
    times: dict[tuple[str, str], list[float]] = {side: [] for side in sides}
    why: dict[str, str] = {}
    for turn in range(rounds):
        for side, mode in sorted(sides, reverse=turn % 2 == 1):
            if side in why:
                continue
            try:
                seconds = timers[side][mode]()
            except PeerError as error:
                why[side] = str(error)
                continue
            times[side, mode].append(seconds)
            print(f"round {turn}: {side} {mode} {seconds * 1e3:.0f} ms", flush=True)
    return {key: values for key, values in times.items() if key[0] not in why}, why


def summarize(times: dict[tuple[str, str], list[float]]) -> dict[str, float | None]:
    """Medians in ms, and ratios of them; null for a side that did not run. vs_X: X's time over the project's."""
    medians = {key: statistics.median(values) * 1e3 for key, values in times.items()}

    def milliseconds(side: str, mode: str) -> float | None:
        return round(medians[side, mode], 1) if (side, mode) in medians else None

    def ratio(over: tuple[str, str], under: tuple[str, str]) -> float | None:
        return round(medians[over] / medians[under], 3) if over in medians and under in medians else None

    return {
        "private_ms": milliseconds("project", "private"),
        "plain_ms": milliseconds("project", "plain"),
        "ratio": ratio(("project", "private"), ("project", "plain")),
        "opacus_private_ms": milliseconds("opacus", "private"),
        "opacus_plain_ms": milliseconds("opacus", "plain"),
        "opacus_ratio": ratio(("opacus", "private"), ("opacus", "plain")),
        "gretel_private_ms": milliseconds("gretel", "private"),
        "gretel_plain_ms": milliseconds("gretel", "plain"),
        "vs_opacus_private": ratio(("opacus", "private"), ("project", "private")),
        "vs_gretel_plain": ratio(("gretel", "plain"), ("project", "plain")),
    }


if __name__ == "__main__":
    main()
