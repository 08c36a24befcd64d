"""Time generation: records from a trained model on one core, and the share of it that matrix products alone would take.

    .venv/bin/python benchmarks/bench_generate.py [--run runs/randhie-texts] [--records 10000] [--rounds 5] [--peer]

A process of a pool works on one core, so that is what is timed, in CPU time, which other work on the machine disturbs
less than the clock; a pool has one for each core. The floor is the time of a step's matrix products alone, at the
batch size that generation uses, times the tokens. Generation and floor take turns; figures are medians. The last line
is one JSON object. `runner submit examples/texts.yaml` trains the model.

With --peer, gretel-synthetics trains a model of the same width on the same records, always with two layers, in an
environment of its own (about 1 GB), and generates in turns with a run's model; give --run one with two layers. Its one
worker uses all cores, so its figure is in seconds by the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import sentencepiece  # noqa: F401  before TensorFlow
import tensorflow as tf
from bench_peers import Peer, peer_timer, start_peer

from runner.data.files import list_files
from runner.data.records import read_records
from runner.generation.records import RecordMaker
from runner.generation.settings import SamplingSettings
from runner.model.artifact import TrainedModel, load_model
from runner.model.network import Network
from runner.model.sampling import BATCH_SIZE, Sampler
from runner.run_directory import RunDirectory

FLOOR_STEPS = 50
PEER_RECORDS = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", default="runs/randhie-texts")
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", action="store_true")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    directory = RunDirectory.find(options.run)
    model = load_model(directory.folder.child("model"))
    maker = RecordMaker(model, SamplingSettings(records_per_prompt=options.records))
    step_products = compile_products(model.network)
    maker.make(BATCH_SIZE)
    seconds: list[float] = []
    product_s: list[float] = []
    peer = peer_timer(start_peer_on(directory, model), "generate") if options.peer else None
    peer_s: list[float] = []
    for _ in range(options.rounds):
        start = time.process_time()
        maker.make(options.records)
        seconds.append(time.process_time() - start)
        start = time.process_time()
        for _ in range(FLOOR_STEPS):
            step_products()
        product_s.append((time.process_time() - start) / FLOOR_STEPS)
        if peer is not None:
            peer_s.append(peer())
    tokens = count_tokens(model, options.records)
    floor = statistics.median(product_s) * tokens / BATCH_SIZE
    taken = statistics.median(seconds)
    result = {
        "records_per_s": round(options.records / taken),
        "tokens_per_s": round(tokens / taken),
        "floor_share": round(floor / taken, 3),
        "seconds": [round(value, 2) for value in seconds],
        "records": options.records,
        "tokens": tokens,
        "batch_size": BATCH_SIZE,
        "network": model.network.config(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
    }
    if peer_s:
        peer_rate = PEER_RECORDS / statistics.median(peer_s)
        result |= {"peer_records_per_s": round(peer_rate, 1), "vs_peer": round(options.records / taken / peer_rate, 1)}
    print(json.dumps(result))


def start_peer_on(directory: RunDirectory, model: TrainedModel) -> Peer:
    """gretel-synthetics with a model of the same width, trained on the run's records."""
    network = model.network.config()
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        data = directory.read_config().data
        for texts in read_records(data, list_files(data.uri)):
            file.writelines(f"{text}\n" for text in texts)
        file.flush()
        sizes = {"vocab": network["vocab_size"], "embedding": network["embedding_dim"], "units": network["rnn_units"]}
        arguments = [f"--{name}={value}" for name, value in (sizes | {"records": PEER_RECORDS}).items()]
        return start_peer("gretel_generate", [f"--text={file.name}", *arguments])


def count_tokens(model: TrainedModel, records: int) -> int:
    """Tokens of the records, their ends included."""
    sampler = Sampler(model.network, end_id=model.tokenizer.end_id, max_length=model.max_tokens)
    return sum(len(record) + 1 for batch in sampler.batches(records) for record in batch)


def compile_products(network: Network) -> Callable[[], Any]:
    """The matrix products of one step: recurrent ones, the inputs of all layers but the first, the logits."""
    h = tf.random.normal((BATCH_SIZE, network.rnn_units))
    kernels = [lstm.tensors()[1] for lstm in network.lstms]
    kernels += [lstm.tensors()[0] for lstm in network.lstms[1:]]
    kernels.append(tf.convert_to_tensor(network.dense.kernel))

    @tf.function(autograph=False)
    def products() -> list[tf.Tensor]:
        return [tf.matmul(h, kernel) for kernel in kernels]

    products()
    return products


if __name__ == "__main__":
    main()
