# /// script
# requires-python = "==3.11.*"
# dependencies = ["mostlyai-qa==1.10.11"]
# ///
# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false
"""Scores synthetic rows with mostlyai-qa: the judge of bench_quality.py, and of the report's accuracies in tests.

    uv run --locked --script benchmarks/peers/qa_score.py TRAINING.csv HOLDOUT.csv SYNTHETIC.csv

Files are CSV or Parquet. Prints one JSON object: accuracies (1 is as alike as can be) and what chance leaves of them
(`_max`), the AUC of a discriminator (0.5: cannot be told apart), distances, the rows that were scored, and how many
values of columns of numbers are none.
The package brings its embedding model along: nothing is downloaded when it runs.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from importlib import metadata

warnings.filterwarnings("ignore")

import pandas as pd  # noqa: E402
from mostlyai import qa  # noqa: E402


def main(training_file: str, holdout_file: str, synthetic_file: str) -> None:
    training, holdout = read(training_file), read(holdout_file)
    synthetic = read(synthetic_file)[list(training.columns)]
    no_numbers = {}
    for column in training.columns:
        if pd.api.types.is_numeric_dtype(training[column]):
            numbers = pd.to_numeric(synthetic[column], errors="coerce")
            no_numbers[column] = int(numbers.isna().sum() - synthetic[column].isna().sum())
            synthetic[column] = numbers
    with tempfile.TemporaryDirectory() as folder:
        _, metrics = qa.report(
            syn_tgt_data=synthetic,
            trn_tgt_data=training,
            hol_tgt_data=holdout,
            report_path=f"{folder}/report.html",
        )
    found = metrics.model_dump()
    answer = {name: found[name] for name in ("accuracy", "similarity", "distances")}
    invalid = {column: count for column, count in no_numbers.items() if count}
    print(
        json.dumps(
            {**answer, "rows": len(synthetic), "no_numbers": invalid, "version": metadata.version("mostlyai-qa")}
        )
    )


def read(file: str) -> pd.DataFrame:
    return pd.read_parquet(file) if file.endswith(".parquet") else pd.read_csv(file, low_memory=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
