"""Run directories with a history and records but without a model, for tests of the report that need no training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from runner.config import JobConfig, parse_job
from runner.run_directory import RunDirectory
from runner.train.history import EpochRow, to_csv

STATEMENT: dict[str, Any] = {
    "epsilon": 1.5,
    "delta": 1e-4,
    "accountant": "pld",
    "unit": "one record: the text of one row",
    "steps": 44,
    "epsilon_with_earlier_runs": 1.5,
    "covered": ["the weights in model/"],
    "not_covered": ["history.csv"],
}


def take_run(folder: Path, texts: Sequence[str | None], *, epochs: int = 3, **sections: Any) -> RunDirectory:
    """A run in `folder/runs/demo` on these records, as it looks between its epochs; `sections` go into its job."""
    (folder / "records").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), folder / "records" / "a.parquet")
    job: dict[str, Any] = {
        "name": "demo",
        "data": {"uri": str(folder / "records"), "field_delimiter": ","},
        "tokenizer": {"kind": "byte"},
        "training": {"batch_size": 10},
        "storage": {"uri": str(folder / "runs")},
    }
    config: JobConfig = parse_job(job | sections, environment={})
    directory = RunDirectory.of(config)
    directory.claim(config, "local")
    directory.update_status(state="stopped", message="stopped by a test")
    private = config.privacy.enabled
    rows = [
        EpochRow(
            epoch,
            loss=2.0 / (epoch + 1),
            accuracy=0.5 + epoch / 10,
            val_loss=2.1 / (epoch + 1) if config.training.validation_split else None,
            val_accuracy=0.4 + epoch / 10 if config.training.validation_split else None,
            steps=10,
            seconds=1.0,
            tokens_per_second=1000.0 + epoch,
            epsilon=0.5 * (epoch + 1) if private else None,
            delta=1e-4 if private else None,
        )
        for epoch in range(epochs)
    ]
    if rows:
        directory.folder.write("history.csv", to_csv(rows, epochs - 1))
    return directory


def write_statement(directory: RunDirectory, **changes: Any) -> None:
    """What a private run leaves when it ends."""
    directory.folder.write("privacy.json", json.dumps(STATEMENT | changes).encode())
    directory.folder.write("privacy.md", "# Statement\n\nε is 1.5\n".encode())


def write_synthetic(path: Path, texts: Sequence[str]) -> str:
    """A file as `runner generate -o` writes it."""
    pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), path)
    return str(path)
