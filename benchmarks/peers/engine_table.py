# /// script
# requires-python = "==3.11.*"
# dependencies = ["mostlyai-engine==2.7.3"]
# ///
# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false
"""Synthetic rows from mostlyai-engine: one of the peers of bench_quality.py.

    uv run --locked --script benchmarks/peers/engine_table.py --model tabular --training T.csv --rows 1000 --out S.csv

Models: `tabular` (TabularARGN) and `lstm` (LSTMFromScratch-3m), with the package's defaults; under privacy a tenth of
epsilon goes to its value protection, which looks ranges and categories up. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from importlib import metadata
from pathlib import Path

import pandas as pd
from mostlyai.engine import LanguageModel, TabularARGN

NOISE = {1.0: 2.0, 2.0: 1.5, 4.0: 1.25, 10.0: 1.0}
"""From the largest epsilon it is used for to the noise multiplier; 0.75 beyond. Training ends when epsilon is spent."""
PROTECTION_SHARE = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=("tabular", "lstm"), required=True)
    parser.add_argument("--training", type=Path, required=True, help="a CSV file with a header")
    parser.add_argument("--rows", type=int, required=True, help="how many to make")
    parser.add_argument("--out", type=Path, required=True, help="a CSV file")
    parser.add_argument("--epsilon", type=float)
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60, help="of training at most")
    options = parser.parse_args()
    training = pd.read_csv(options.training)
    settings = {"max_training_time": options.minutes, "random_state": options.seed, "device": "cpu"}
    if options.epsilon is not None:
        settings["differential_privacy"] = {
            "max_epsilon": options.epsilon,
            "delta": options.delta,
            "noise_multiplier": next((noise for most, noise in NOISE.items() if options.epsilon <= most), 0.75),
            "value_protection_epsilon": options.epsilon * PROTECTION_SHARE,
        }
    start = time.perf_counter()
    if options.model == "tabular":
        model = TabularARGN(**settings)
    else:
        types = {
            column: "LANGUAGE_NUMERIC" if pd.api.types.is_numeric_dtype(training[column]) else "LANGUAGE_CATEGORICAL"
            for column in training.columns
        }
        model = LanguageModel(tgt_encoding_types=types, model="MOSTLY_AI/LSTMFromScratch-3m", **settings)
    model.fit(training)
    trained = time.perf_counter()
    model.sample(n_samples=options.rows).to_csv(options.out, index=False)
    seconds = [round(trained - start, 1), round(time.perf_counter() - trained, 1)]
    version = f"mostlyai-engine {metadata.version('mostlyai-engine')}"
    print(json.dumps({"training_seconds": seconds[0], "generation_seconds": seconds[1], "version": version}))


if __name__ == "__main__":
    main()
