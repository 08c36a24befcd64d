"""A run with a small model, made by hand, and user code that generation calls."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from runner.config import parse_job
from runner.data.tokenizers.characters import CharTokenizer
from runner.run_directory import RunDirectory

ALPHABET = "ab12,"


def make_run(folder: Path, **sections: Any) -> RunDirectory:
    """A run `folder/runs/demo` whose records have the columns x and y, mostly."""
    from runner.model.artifact import save_model
    from runner.model.network import Network

    (folder / "records").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"x": ["a", "b", "1"], "y": ["1", "2", "a"]}), folder / "records" / "a.parquet")
    job = {
        "name": "demo",
        "data": {"uri": str(folder / "records"), "columns": ["x", "y"], "field_delimiter": ","},
        "storage": {"uri": str(folder / "runs")},
        **sections,
    }
    config = parse_job(job, environment={})
    directory = RunDirectory.of(config)
    directory.claim(config, "local")
    tokenizer = CharTokenizer(ALPHABET)
    network = Network(vocab_size=tokenizer.vocab_size, embedding_dim=4, rnn_units=6, layers=2, dropout_rate=0, seed=3)
    weights = network.weights_dict()
    weights["dense/bias"][0] = -20  # never unknown
    weights["dense/bias"][tokenizer.end_id] += 0.9
    weights["dense/bias"][tokenizer.encode(",a")] += [0.4, 1.0]
    save_model(
        directory.folder.child("model"),
        weights,
        network.config(),
        tokenizer,
        seq_length=12,
        packing="records",
        field_delimiter=",",
        columns=("x", "y"),
        statement={},
        epoch=0,
    )
    directory.update_status(state="done")
    return directory


def no_empty_x(record: dict[str, str]) -> str | None:
    """A user's validator, which takes as long as TEST_VALIDATOR_PAUSE_S says."""
    time.sleep(float(os.environ.get("TEST_VALIDATOR_PAUSE_S", "0")))
    return None if record["x"] else "x is empty"


def is_short(record: dict[str, str]) -> bool:
    return len(record["x"]) < 3


def complain(record: dict[str, str]) -> None:
    raise ValueError(f"do not like {sorted(record)}")


def shrug(record: dict[str, str]) -> int:
    return 3
