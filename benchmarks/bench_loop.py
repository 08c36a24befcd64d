"""What the loop around the step costs: data feed, metrics, callbacks, history, checkpoints, heartbeat.

The project's whole training loop runs on records of full length; before each of its steps a bare step on one batch
is timed, so the two take turns. Peak memory is measured in two processes of their own, one for each side. The last
line is one JSON object, with medians over the steps.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from runner.config import JobConfig, parse_job
from runner.data.batches import Batch, BatchPlan, load_batch
from runner.data.examples import Examples, Shard, TokenSet, shard_file_names
from runner.run_directory import RunDirectory
from runner.storage import Folder, open_folder
from runner.train.feed import Feed
from runner.train.heartbeat import Heartbeat, LogFile
from runner.train.loop import TrainingLoop
from runner.train.optimizer import build_optimizer
from runner.train.step import StepSums, TrainingStep
from runner.train.worker import build_network

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
    return TokenSet(folder, "bench", VOCAB, 0, LENGTH, "records", examples, 0, 0, (shard,))


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
    network, optimizer = build_network(config, tokens), build_optimizer(config.training.optimizer, steps)
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


class Alternating:
    """In the place of the loop's step: before each step of the loop's own, times a bare one on the same batch."""

    def __init__(self, step: TrainingStep, batch: Batch) -> None:
        self._step = step
        self._batch = batch
        self.entered: list[float] = []
        self.bare: list[float] = []

    def train(
        self,
        shares: Sequence[Batch],
        tokens: int,
        *,
        noise: None = None,
        stop: bool = False,
        late: bool = False,
    ) -> StepSums:
        self.entered.append(time.perf_counter())
        self._step.train([self._batch], BATCH * LENGTH)
        self.bare.append(time.perf_counter() - self.entered[-1])
        return self._step.train(shares, tokens, noise=noise, stop=stop, late=late)

    def is_agreed(self, vote: bool) -> bool:
        return self._step.is_agreed(vote)

    def has_finite_weights(self) -> bool:
        return self._step.has_finite_weights()

    def loop(self) -> list[float]:
        """Seconds of each step with all that the loop does around it, the bare step taken out."""
        spans = [after - before for before, after in itertools.pairwise(self.entered)]
        return [span - bare for span, bare in zip(spans, self.bare, strict=False)]


def run_alone(side: Side, kind: str, steps: int) -> None:
    """One side by itself, for its memory."""
    if kind == "loop":
        with side.loop.heartbeat:
            side.loop.run()
        return
    batch = load_batch(side.examples, np.arange(BATCH), 0, 1, (0, 0))
    for _ in range(steps):
        side.step.train([batch], BATCH * LENGTH)


def peak_mib(kind: str, steps: int) -> float:
    """Peak memory of a process that runs one side alone."""
    done = subprocess.run(
        [sys.executable, __file__, "--alone", kind, "--steps", str(steps)], capture_output=True, text=True, check=True
    )
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--alone", choices=["bare", "loop"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        side = make_side(Path(name), options.steps)
        if options.alone:
            run_alone(side, options.alone, options.steps)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            return
        batch = load_batch(side.examples, np.arange(BATCH), 0, 1, (0, 0))
        alternating = Alternating(side.step, batch)
        side.loop.step = cast(TrainingStep, alternating)
        with side.loop.heartbeat:
            side.loop.run()
    warm = slice(5, None)
    bare, loop = alternating.bare[warm], alternating.loop()[warm]
    times = {"bare": bare, "loop": loop}
    memory = {kind: peak_mib(kind, 10) for kind in times}
    result = {
        "bare_ms": round(statistics.median(times["bare"]) * 1e3, 1),
        "loop_ms": round(statistics.median(times["loop"]) * 1e3, 1),
        "loop_ratio": round(statistics.median(loop) / statistics.median(bare), 4),
        "bare_peak_mib": round(memory["bare"]),
        "loop_peak_mib": round(memory["loop"]),
        "memory_ratio": round(memory["loop"] / memory["bare"], 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
