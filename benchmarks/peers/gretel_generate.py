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
"""Records from gretel-synthetics, a batch of them each time it is asked: one side of bench_generate.py.

    echo generate | uv run --locked --script benchmarks/peers/gretel_generate.py --text records.txt

It trains the package's model on a text file of records first, then answers as gretel_step.py does: `generate` makes
RECORDS records with one worker, which is all that the package uses within one process.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from importlib import metadata
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import sentencepiece  # noqa: F401  before TensorFlow, or training a tokenizer crashes
import tensorflow as tf
from gretel_synthetics.config import TensorFlowConfig
from gretel_synthetics.generate import generate_text
from gretel_synthetics.tokenizers import SentencePieceTokenizerTrainer
from gretel_synthetics.train import train
from protocol import serve


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--text", type=Path, required=True, help="a file with one record a line")
    parser.add_argument("--vocab", type=int, default=1000)
    parser.add_argument("--embedding", type=int, default=128)
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--records", type=int, default=128, help="made each time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = TensorFlowConfig(
            input_data_path=str(options.text),
            checkpoint_dir=folder,
            field_delimiter=",",
            overwrite=True,
            epochs=options.epochs,
            embedding_dim=options.embedding,
            rnn_units=options.units,
            vocab_size=options.vocab,
            early_stopping=False,
        )
        with contextlib.redirect_stdout(sys.stderr):  # Standard output is for answers.
            train(config, SentencePieceTokenizerTrainer(vocab_size=options.vocab, config=config))

        def generate() -> float:
            with contextlib.redirect_stdout(sys.stderr):
                return float(len(list(generate_text(config, num_lines=options.records, parallelism=1))))

        versions = {"gretel-synthetics": metadata.version("gretel-synthetics"), "tensorflow": tf.__version__}
        serve({"generate": generate}, versions)


if __name__ == "__main__":
    main()
