"""Time the private optimizer step against the project's own step without privacy.

    .venv/bin/python benchmarks/bench_private.py [--rounds 20] [--batch 256 ...] [--slots 2,5,40,150 [--any-order]]

Both run plain SGD on the same batch in one process, in turns; figures are medians. The private step clips every
record, and its noise is drawn as in a run: in a thread, while the step before computes. Peak memory is that of two
processes, one for each side. `cpu_ratio` is of the least processor time of a step, all threads together: on a machine
that does other work too it says more than `ratio`. `blas`: the kernels of the BLAS in use, which computes the Gram
matrices. `forced`: the variables that choose kernels. With --slots (see bench_train.py) a third side is the private
step of a network that is told of no slots. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
from bench_train import (
    LEARNING_RATE,
    Step,
    make_batch,
    make_network,
    measure,
    parse_arguments,
    project_step,
    without_slots,
)
from threadpoolctl import threadpool_info

from runner.data.batches import Batch
from runner.privacy.accountant import Mechanism
from runner.privacy.grid import grid_of
from runner.privacy.noise import RunKey, draw_noise
from runner.train.devices import rounding_environment
from runner.train.step import TrainingStep

MEMORY_STEPS = 5


def private_step(sizes: argparse.Namespace, batch: Batch) -> Step:
    network = make_network(sizes)
    optimizer = keras.optimizers.SGD(LEARNING_RATE)
    optimizer.build(network.trainable_variables)
    mechanism = Mechanism(examples=1000 * sizes.batch, batch_size=sizes.batch, noise_multiplier=1.0)
    step = TrainingStep(network, optimizer, tf.distribute.get_strategy(), mechanism=mechanism, seq_length=sizes.length)
    key = RunKey.new().for_noise(0, "benchmark")
    weights = network.count_params()
    sigma = grid_of(mechanism, weights).sigma
    ahead = ThreadPoolExecutor(1)
    drawn = [ahead.submit(draw_noise, key, 0, sigma, weights)]

    def run(turn: int) -> float:
        noise = drawn.pop().result()
        drawn.append(ahead.submit(draw_noise, key, turn + 3, sigma, weights))
        return step.train([batch], batch.inputs.size, noise=noise).loss

    return run


def one_softmax_step(sizes: argparse.Namespace, batch: Batch) -> Step:
    return private_step(without_slots(sizes), batch)


SIDES = {"private": private_step, "plain": project_step}
SIDES_OF_TABLES = SIDES | {"one_softmax": one_softmax_step}


def with_processor_time(step: Step, seconds: list[float]) -> Step:
    """The step, which adds to `seconds` the processor time of each of its timed turns."""

    def run(turn: int) -> float:
        start = time.process_time()
        loss = step(turn)
        if turn >= 0:
            seconds.append(time.process_time() - start)
        return loss

    return run


def blas_kernels() -> list[str]:
    """The processors that the loaded BLAS libraries have chosen their kernels for."""
    found = threadpool_info()
    return sorted(
        {f"{each['internal_api']} {each.get('architecture')}" for each in found if each["user_api"] == "blas"}
    )


def peak_mib(side: str) -> float:
    """Peak memory of a process that runs one side alone."""
    command = [sys.executable, __file__, *sys.argv[1:], "--alone", side]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    sizes = parse_arguments(__doc__, alone=list(SIDES_OF_TABLES))
    batch = make_batch(sizes)
    sides = SIDES_OF_TABLES if sizes.slots else SIDES
    if sizes.alone:
        step = sides[sizes.alone](sizes, batch)
        for turn in range(MEMORY_STEPS):
            step(turn)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    memory = {side: peak_mib(side) for side in sides}
    processor: dict[str, list[float]] = {side: [] for side in sides}
    steps = {side: with_processor_time(make(sizes, batch), processor[side]) for side, make in sides.items()}
    times = measure(steps, sizes.rounds)
    least = {side: min(values) for side, values in processor.items()}
    medians = {side: statistics.median(values) * 1e3 for side, values in times.items()}
    pairs = [private / plain for private, plain in zip(times["private"], times["plain"], strict=True)]
    result = {
        "private_ms": round(medians["private"], 1),
        "plain_ms": round(medians["plain"], 1),
        "ratio": round(statistics.median(pairs), 3),
        "min_ms": {side: round(min(values) * 1e3, 1) for side, values in times.items()},
        "min_cpu_ms": {side: round(seconds * 1e3, 1) for side, seconds in least.items()},
        "cpu_ratio": round(least["private"] / least["plain"], 3),
        "private_peak_mib": round(memory["private"]),
        "plain_peak_mib": round(memory["plain"]),
        "memory_ratio": round(memory["private"] / memory["plain"], 3),
    }
    if "one_softmax" in sides:
        pairs = [one / private for one, private in zip(times["one_softmax"], times["private"], strict=True)]
        result |= {
            "one_softmax_ms": round(medians["one_softmax"], 1),
            "vs_one_softmax": round(statistics.median(pairs), 3),
            "one_softmax_peak_mib": round(memory["one_softmax"]),
        }
    shown = {name: value for name, value in vars(sizes).items() if name != "alone"}
    forced = {name: value for name, value in rounding_environment().items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    result |= {"blas": blas_kernels(), "forced": forced}
    print(json.dumps({**result, **shown, "cpus": os.cpu_count(), "load": os.getloadavg()[0]}))


if __name__ == "__main__":
    main()
