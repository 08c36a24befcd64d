# /// script
# requires-python = "==3.11.*"
# dependencies = ["gretel-synthetics[tensorflow]==0.22.17"]
#
# # Its other models need these; the text model does not, and on Python 3.11 they cannot all be installed.
# [tool.uv]
# override-dependencies = [
#     "category-encoders; python_version < '3'",
#     "dash; python_version < '3'",
#     "ipykernel; python_version < '3'",
#     "rdt; python_version < '3'",
#     "sdv; python_version < '3'",
# ]
# ///
# pyright: basic, reportMissingImports=false
"""The training step of gretel-synthetics, run when asked: one side of bench_peers.py.

    echo plain | uv run --locked --script benchmarks/peers/gretel_step.py

After two warm-up steps of each mode it prints one JSON line; then it reads one mode a line from standard input, runs
one step of it and prints its seconds. It computes nothing while it waits, and ends with its input. The model (stateful,
two LSTM layers), the loss and the optimizer (RMSprop) are built by the package, and a step is the call that Keras's
`fit` makes for each batch, with accuracy. In private mode the package clips and noises the gradient of the batch's mean
loss (one microbatch), not the gradient of each example.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from importlib import metadata

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from gretel_synthetics.config import TensorFlowConfig
from gretel_synthetics.tensorflow.model import build_model
from protocol import parse_arguments, serve

L2_NORM_CLIP = 1.0
NOISE_MULTIPLIER = 1.0


def main() -> None:
    sizes = parse_arguments(__doc__)
    steps = {"plain": training_step(sizes, private=False), "private": training_step(sizes, private=True)}
    versions = {"gretel-synthetics": metadata.version("gretel-synthetics"), "tensorflow": tf.__version__}
    serve(steps, versions)


def training_step(sizes: argparse.Namespace, *, private: bool) -> Callable[[], float]:
    """A function that runs one step on one made-up batch and returns its loss."""
    with tempfile.TemporaryDirectory() as folder:  # the config insists on a folder; building the model leaves it empty
        config = TensorFlowConfig(
            input_data_path="unused",
            checkpoint_dir=folder,
            batch_size=sizes.batch,
            seq_length=sizes.length,
            embedding_dim=sizes.embedding,
            rnn_units=sizes.units,
            dropout_rate=sizes.dropout,
            dp=private,
            dp_l2_norm_clip=L2_NORM_CLIP,
            dp_noise_multiplier=NOISE_MULTIPLIER,
        )
    model = build_model(sizes.vocab, sizes.batch, config)
    random = np.random.default_rng(0)
    shape = (sizes.batch, sizes.length)
    ids = (random.zipf(1.3, shape) % sizes.vocab).astype(np.int32)
    targets = random.integers(0, sizes.vocab, shape, dtype=np.int32)
    batches = iter(tf.data.Dataset.from_tensors((ids, targets)).repeat())
    train = model.make_train_function()
    return lambda: float(train(batches)["loss"])


if __name__ == "__main__":
    main()
