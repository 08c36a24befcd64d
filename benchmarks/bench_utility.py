"""What privacy costs in quality: whole runs on the demo's records at several epsilons, and without privacy.

    .venv/bin/python benchmarks/bench_utility.py [--seeds 0 1 2] [--at-a-time 2]

Every run starts from the template `private` with the characters of the records as a public alphabet; `SETTINGS` are
those that were found best by hand. Writes `docs/utility.csv` and `docs/utility.svg`. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib import rc
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "examples" / "data" / "randhie-texts"
TABLE = ROOT / "docs" / "utility.csv"
ALPHABET = "0123456789.,"

SETTINGS: dict[str, dict[str, Any]] = {
    "none": {"training.batch_size": 128, "training.optimizer.learning_rate": 0.005},
    "8": {},
    "4": {},
    "2": {},
    "1": {"training.epochs": 20, "training.batch_size": 2048, "training.optimizer.learning_rate": 0.03},
}
"""From an epsilon to what differs from the template."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--at-a-time", type=int, default=2, help="runs at once, one core each")
    parser.add_argument("--folder", type=Path, help="keep the runs here; those that are there are not repeated")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp())
    jobs = [(epsilon, seed) for seed in arguments.seeds for epsilon in SETTINGS]
    rows = [train(folder, *jobs[0])]  # alone: it makes the tokens of all
    with ThreadPoolExecutor(arguments.at_a_time) as pool:
        rows += pool.map(lambda job: train(folder, *job), jobs[1:])
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: (list(SETTINGS).index(row["epsilon"]), row["seed"])))
    draw(rows)
    print(json.dumps({epsilon: averages(rows, epsilon) for epsilon in SETTINGS}))


def train(folder: Path, epsilon: str, seed: int) -> dict[str, Any]:
    """Train one run, and what it came to."""
    name = f"epsilon-{epsilon}-{seed}"
    job = folder / f"{name}.yaml"
    runner("init", job, "--force", "--template", "private", "--name", name, "--data", RECORDS, "--field-delimiter", ",")
    privacy = {"privacy.enabled": False, "privacy.target_epsilon": None}
    if epsilon != "none":
        privacy = {"privacy.target_epsilon": float(epsilon)}
    values = {
        "tokenizer.kind": "char",
        "tokenizer.alphabet": ALPHABET,
        "training.seed": seed,
        "resources.cpus_per_worker": 1,
        "storage.uri": str(folder / "runs"),
        **privacy,
        **SETTINGS[epsilon],
    }
    run = folder / "runs" / name
    if run.exists():
        runner("resume", run)
    else:
        settings = [part for path, value in values.items() for part in ("--set", f"{path}={json.dumps(value)}")]
        runner("submit", job, *settings)
    with (run / "history.csv").open(encoding="utf-8") as file:
        kept = next(row for row in csv.DictReader(file) if row["best"] == "1")
    row = {
        "epsilon": epsilon,
        "seed": seed,
        "val_loss": float(kept["val_loss"]),
        "val_accuracy": float(kept["val_accuracy"]),
        "spent": kept.get("epsilon", ""),
    }
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def draw(rows: Sequence[dict[str, Any]]) -> None:
    """Every run as a point, and the averages joined, over epsilon from the strictest to none."""
    rc("svg", hashsalt="utility")
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    order = list(reversed(SETTINGS))
    for axes, metric, words in zip(
        figure.subplots(1, 2),
        ("val_loss", "val_accuracy"),
        ("validation loss (nats)", "next-token accuracy"),
        strict=True,
    ):
        axes.plot(order, [averages(rows, epsilon)[metric] for epsilon in order], color="#3366aa")
        axes.scatter([row["epsilon"] for row in rows], [row[metric] for row in rows], color="#3366aa", s=14, alpha=0.6)
        axes.set(xlabel="epsilon", ylabel=words)
        axes.grid(alpha=0.3)
    figure.savefig(TABLE.with_suffix(".svg"), metadata={"Date": None})


def averages(rows: Sequence[dict[str, Any]], epsilon: str) -> dict[str, float]:
    mine = [row for row in rows if row["epsilon"] == epsilon]
    return {name: round(mean(row[name] for row in mine), 4) for name in ("val_loss", "val_accuracy")}


def runner(*arguments: Any) -> None:
    command = [sys.executable, "-m", "runner", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")


if __name__ == "__main__":
    main()
