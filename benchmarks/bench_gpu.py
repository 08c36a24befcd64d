"""Time the steps and generation on a GPU: against torch's and Keras's LSTM, and the private step against the plain one.

    .venv/bin/python benchmarks/bench_gpu.py [--rounds 20] [--small]

Each size is a process's own turn: plain, private, keras and torch (where it is installed) on the same shapes, in turns,
medians. Kernels that are compiled for a shape are compiled before. `tf32`: whether products of float32 round their
factors to 10 bits; the private step never does. Without a GPU, or with --small, sizes are small, which tries the script
and says nothing of GPUs. A side that fails is told, and the others go on. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
from argparse import Namespace
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from bench_private import private_step
from bench_train import Step, keras_step, make_batch, make_network, measure, project_step

from runner.model.sampling import Sampler
from runner.train.gpus import describe_gpus

SIZES = {
    "units 256, B 64": {"vocab": 2000, "embedding": 256, "units": 256, "batch": 64},
    "units 256, B 1024": {"vocab": 2000, "embedding": 256, "units": 256, "batch": 1024},
    "units 1024, B 512": {"vocab": 8000, "embedding": 512, "units": 1024, "batch": 512},
}
SMALL = {"small": {"vocab": 50, "embedding": 16, "units": 16, "batch": 8, "length": 12}}
GENERATED = 4096
"""Records of full length, all at once."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="timed steps of each side")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    result: dict[str, Any] = {"gpus": describe_gpus(), "seen": len(gpus)}
    for name, own in (SIZES if gpus and not options.small else SMALL).items():
        sizes = Namespace(**{"layers": 2, "length": 100, "dropout": 0.2, "slots": None, "any_order": False, **own})
        result[name] = time_steps(sizes, options.rounds)
        result[name]["generated_tokens_per_s"] = told(lambda sizes=sizes: generation_rate(sizes, options.rounds))
        print(f"{name}: {json.dumps(result[name])}", file=sys.stderr, flush=True)
    print(json.dumps(result))


def time_steps(sizes: Namespace, rounds: int) -> dict[str, Any]:
    """Milliseconds of each side's step, and their ratios to the project's plain one."""
    batch = make_batch(sizes)
    ids, targets = tf.constant(batch.inputs), tf.constant(batch.targets)
    makers: dict[str, Callable[[], Step]] = {
        "plain": lambda: project_step(sizes, batch),
        "keras": lambda: keras_step(sizes, ids, targets),
        "private": lambda: private_step(sizes, batch),
    }
    if importlib.util.find_spec("torch"):
        makers["torch"] = lambda: torch_step(sizes)
    found: dict[str, Any] = {}
    steps: dict[str, Step] = {}
    for side, make in makers.items():

        def begin(make: Callable[[], Step] = make) -> Step:
            step = make()
            step(-1)
            return step

        step = told(begin)
        if isinstance(step, str):
            found[side] = step
        else:
            steps[side] = step
    medians = {side: statistics.median(times) * 1e3 for side, times in measure(steps, rounds).items()}
    found |= {f"{side}_ms": round(ms, 3) for side, ms in medians.items()}
    found |= {f"{side}_over_plain": round(ms / medians["plain"], 3) for side, ms in medians.items() if side != "plain"}
    found["tf32"] = tf.config.experimental.tensor_float_32_execution_enabled()
    if tf.config.list_logical_devices("GPU"):
        found["peak_gpu_mib"] = tf.config.experimental.get_memory_info("GPU:0")["peak"] >> 20
    return found


def told(make: Callable[[], Any]) -> Any:
    """What it gives, or in words why it failed."""
    try:
        return make()
    except Exception as error:  # noqa: BLE001 - the other sides are timed all the same
        return f"failed: {type(error).__name__}: {str(error)[:200]}"


def generation_rate(sizes: Namespace, rounds: int) -> int:
    """Tokens a second of records that never end before their full length, in medians."""
    network = make_network(sizes)
    weights = network.weights_dict()
    weights["dense/bias"][0] = -1e9  # the end
    network.load_weights_dict(weights)
    sampler = Sampler(network, end_id=0, max_length=sizes.length, batch_size=GENERATED)
    times = measure({"generation": lambda _: float(sum(map(len, sampler.batches(GENERATED))))}, min(rounds, 5))
    return round(GENERATED * sizes.length / statistics.median(times["generation"]))


def torch_step(sizes: Namespace) -> Step:
    """torch's LSTM, cuDNN's on a GPU, in a step like the project's plain one."""
    torch: Any = importlib.import_module("torch")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    enabled = tf.config.experimental.tensor_float_32_execution_enabled()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = enabled
    embedding = torch.nn.Embedding(sizes.vocab, sizes.embedding)
    lstm = torch.nn.LSTM(sizes.embedding, sizes.units, sizes.layers, dropout=sizes.dropout)
    dense = torch.nn.Linear(sizes.units, sizes.vocab)
    network = torch.nn.ModuleList([embedding, lstm, dense]).to(device)
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    ids, targets = (torch.randint(0, sizes.vocab, (sizes.length, sizes.batch), device=device) for _ in range(2))

    def step(_turn: int) -> float:
        optimizer.zero_grad()
        logits = dense(lstm(embedding(ids))[0])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        return float(loss)

    return step


if __name__ == "__main__":
    main()
