"""How much of a sweep is training: eight small trials on the demo's records.

    .venv/bin/python benchmarks/bench_sweep.py [--epochs 10]

The share outside training is 1 - (sum of the trials' training seconds) / (seconds from submit to end x trials at a
time): Ray's start, tokens, TensorFlow's import, tracing, checkpoints, and cores that wait for a last trial. The last
line is one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "examples" / "data" / "randhie-texts"
TRIALS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=10)
    epochs = parser.parse_args().epochs
    at_a_time = min(TRIALS, os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as folder:
        job: dict[str, Any] = {
            "name": "sweep",
            "data": {"uri": str(RECORDS), "field_delimiter": ","},
            "tokenizer": {"kind": "char"},
            "examples": {"seq_length": 48},
            "model": {"embedding_dim": 32, "rnn_units": 64, "layers": 1},
            "training": {"epochs": epochs, "batch_size": 128, "early_stopping": {"enabled": False}},
            "sweep": {
                "parameters": {"training.optimizer.learning_rate": {"log_uniform": [1e-3, 3e-2]}},
                "trials": TRIALS,
            },
            "storage": {"uri": f"{folder}/runs"},
        }
        path = Path(folder) / "sweep.yaml"
        path.write_text(yaml.safe_dump(job), encoding="utf-8")
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "runner", "submit", str(path), "--quiet"], cwd=ROOT, check=True)
        seconds = time.perf_counter() - start
        with (Path(folder) / "runs" / "sweep" / "sweep.csv").open(encoding="utf-8") as file:
            trained = [float(row["seconds"]) for row in csv.DictReader(file)]
    result = {
        "seconds": round(seconds, 1),
        "training_seconds": round(sum(trained), 1),
        "at_a_time": at_a_time,
        "share_outside_training": round(1 - sum(trained) / (seconds * at_a_time), 3),
        "trials": len(trained),
        "epochs": epochs,
        "load": os.getloadavg()[0],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
