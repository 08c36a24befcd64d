"""Small public tables, each as training, holdout and synthetic records, and what mostlyai-qa finds in them.

    .venv/bin/python -m tests.judged_tables        # prints what FIGURES holds; installs mostlyai-qa 1.10.11 by uv, 3 GB

The synthetic records of a table are its training records, some columns of which are moved by some rows: each column is
distributed as before, and pairs of columns are not.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parent.parent
KEPT = 0.6
"""Of each column's values, the share that stays in its row."""

Figures = dict[str, float]
FIGURES: dict[str, Figures] = {
    "cars": {
        "overall": 0.709783, "univariate": 0.9393487, "bivariate": 0.72022, "trivariate": 0.4697802,
        "overall_max": 0.7639302, "univariate_max": 0.9071887, "bivariate_max": 0.7728532, "trivariate_max": 0.6117488,
    },
    "randhie": {
        "overall": 0.9305019, "univariate": 0.985815, "bivariate": 0.9394567, "trivariate": 0.8662339,
        "overall_max": 0.9446977, "univariate_max": 0.978145, "bivariate_max": 0.9494484, "trivariate_max": 0.9064996,
    },
}  # fmt: skip
"""Each accuracy, and what chance leaves of it (`_max`); mostlyai-qa rounds those of single groups to five digits."""


def tables(name: str) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Training, holdout and synthetic records of `cars` or `randhie`."""
    whole = {"cars": _cars, "randhie": _randhie}[name]()
    training, holdout = (whole.take(list(range(first, whole.num_rows, 2))) for first in (0, 1))
    rows = training.num_rows
    columns: list[pa.ChunkedArray] = []
    for place, column in enumerate(training.columns):
        kept = [row if (row * 7 + place) % 10 < 10 * KEPT else (row + 11 * place) % rows for row in range(rows)]
        columns.append(column.take(kept))
    return training, holdout, pa.table(columns, schema=training.schema).slice(0, int(rows * 0.9))


def _cars() -> pa.Table:
    """406 cars (vega_datasets) with numbers, nulls, a date and a category; their names are left out."""
    from vega_datasets import local_data

    return pa.Table.from_pandas(local_data.cars().drop(columns="Name"), preserve_index=False)


def _randhie() -> pa.Table:
    """3,000 records of the RAND Health Insurance Experiment (statsmodels); a flag as texts, one of them empty."""
    from statsmodels.datasets import randhie

    whole: Any = randhie.load_pandas().data
    data = whole.iloc[::6].head(3000).reset_index(drop=True)
    data["idp"] = data["idp"].map({0: "", 1: "individual plan"})
    return pa.Table.from_pandas(data, preserve_index=False)


def judge(name: str) -> Figures:
    """What mostlyai-qa finds, in an environment of its own."""
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/{part}.parquet" for part in ("training", "holdout", "synthetic")]
        for table, file in zip(tables(name), files, strict=True):
            pq.write_table(table, file)
        script = ROOT / "benchmarks" / "peers" / "qa_score.py"
        command = ["uv", "run", "--locked", "--script", str(script), *files]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])["accuracy"]
    return {key: found[key] for key in found if found[key] is not None}


if __name__ == "__main__":
    for table_name in ("cars", "randhie"):
        print(table_name, judge(table_name))
