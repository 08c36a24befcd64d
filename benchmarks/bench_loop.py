"""What the loop around the step costs: data feed, metrics, callbacks, history, checkpoints, heartbeat.

A loop of bare steps on one batch, and the project's whole training loop on records of the same lengths, in turns
in one process: seconds per step. Peak memory is measured in two processes of their own, one for each side. The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from runner.config import JobConfig, parse_job
from runner.data.batches import BatchPlan, load_batch
from runner.data.examples import Examples, Shard, TokenSet, shard_file_names
from runner.run_directory import RunDirectory
from runner.storage import Folder, open_folder
from runner.train.feed import Feed
from runner.train.heartbeat import Heartbeat, LogFile
from runner.train.loop import TrainingLoop
from runner.train.step import TrainingStep
from runner.train.worker import build_network, build_optimizer

VOCAB, LENGTH, BATCH = 2000, 100, 64


@dataclass
class Side:
    """Everything one side trains with."""

    step: TrainingStep
    loop: TrainingLoop
    examples: Examples


def write_tokens(folder: Folder, examples: int) -> TokenSet:
    """A token shard of full-length examples of random ids."""
    import hashlib

    draw = np.random.default_rng(0)
    ids = draw.integers(0, VOCAB, examples * (LENGTH + 1)).astype(np.uint16).tobytes()
    lengths = np.full(examples, LENGTH, "<i4").tobytes()
    for name, content in zip(shard_file_names("0"), (ids, lengths), strict=True):
        folder.write(name, content)
    digests = [hashlib.sha256(content).hexdigest() for content in (ids, lengths)]
    shard = Shard("0", examples, examples * LENGTH, len(ids), *digests)
    return TokenSet(folder, "bench", VOCAB, 0, LENGTH, "records", examples, 0, 0, 0, (shard,))


def make_side(root: Path, steps: int) -> Side:
    """A loop over one epoch of `steps` training steps, with all that a run has around it."""
    config: JobConfig = parse_job(
        {
            "name": "bench",
            "data": {"uri": str(root)},
            "training": {"epochs": 1, "batch_size": BATCH, "validation_split": False, "checkpoint_every_s": 300}
            | {"early_stopping": {"metric": "loss"}},
        },
        environment={},
    )
    tokens = write_tokens(open_folder(str(root / "tokens")), steps * BATCH)
    network, optimizer = build_network(config, VOCAB), build_optimizer(config)
    optimizer.build(network.trainable_variables)
    network.compile(optimizer=optimizer)
    step = TrainingStep(network, optimizer, tf.distribute.get_strategy())
    examples = Examples(tokens, cache_gib=1)
    directory = RunDirectory(open_folder(str(root / "run")))
    heartbeat = Heartbeat(directory, LogFile(directory, "worker-0"), threading.Event(), writes_status=True)
    plan = BatchPlan(tokens.examples, BATCH, 0, validation_split=False)
    loop = TrainingLoop(
        settings=config.training,
        network=network,
        optimizer=optimizer,
        step=step,
        feed=Feed(examples, plan, range(1), 1),
        directory=directory,
        heartbeat=heartbeat,
        callbacks=[],
        epoch_callback=None,
        is_chief=True,
        identity={"tokens": tokens.key, "microbatch_size": None},
    )
    return Side(step, loop, examples)


def bare_seconds(side: Side, steps: int) -> float:
    """Seconds per step of the same batch again and again."""
    batch = load_batch(side.examples, np.arange(BATCH), 0, 1, (0, 0))
    side.step.train([batch], BATCH * LENGTH)
    start = time.perf_counter()
    for _ in range(steps):
        side.step.train([batch], BATCH * LENGTH)
    return (time.perf_counter() - start) / steps


def loop_seconds(side: Side, steps: int) -> float:
    """Seconds per step of the whole loop, its last checkpoint included."""
    start = time.perf_counter()
    with side.loop.heartbeat:
        side.loop.run()
    return (time.perf_counter() - start) / steps


def peak_mib(kind: str, steps: int) -> float:
    """Peak memory of a process that runs one side alone."""
    done = subprocess.run(
        [sys.executable, __file__, "--alone", kind, "--steps", str(steps)], capture_output=True, text=True, check=True
    )
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="steps of each round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--alone", choices=["bare", "loop"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    measure = {"bare": bare_seconds, "loop": loop_seconds}
    with tempfile.TemporaryDirectory() as name:
        if options.alone:
            measure[options.alone](make_side(Path(name), options.steps), options.steps)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            return
        times: dict[str, list[float]] = {"bare": [], "loop": []}
        for number in range(options.rounds):
            side = make_side(Path(name) / str(number), options.steps)
            bare_seconds(side, 1)
            for kind in ("bare", "loop") if number % 2 else ("loop", "bare"):
                times[kind].append(measure[kind](side, options.steps))
            print(f"round {number}: bare {times['bare'][-1]:.3f} s, loop {times['loop'][-1]:.3f} s", flush=True)
    ratios = [loop / bare for loop, bare in zip(times["loop"], times["bare"], strict=True)]
    memory = {kind: peak_mib(kind, 10) for kind in times}
    result = {
        "bare_ms": round(statistics.median(times["bare"]) * 1e3, 1),
        "loop_ms": round(statistics.median(times["loop"]) * 1e3, 1),
        "loop_ratio": round(statistics.median(ratios), 4),
        "bare_peak_mib": round(memory["bare"]),
        "loop_peak_mib": round(memory["loop"]),
        "memory_ratio": round(memory["loop"] / memory["bare"], 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
