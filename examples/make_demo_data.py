"""Write the demo's records: the RAND Health Insurance Experiment as a table, and as texts.

    python examples/make_demo_data.py

The experiment (1974-1982) measured how people use health care under different insurance plans: 20,190
person-years with ten columns each, public, real, and of the sensitive kind that this project is made for.
It ships with statsmodels. `examples/data/randhie` has a typed column for each of `COLUMNS`: integers, and numbers of
four decimals. `examples/data/randhie-texts` has the same rows as texts, whose fields commas join. The same bytes every
time; existing records are left alone.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = Path(__file__).parent / "data" / "randhie"
SHARDS = 4
COLUMNS = ("mdvis", "lncoins", "idp", "lpi", "fmde", "physlm", "disea", "hlthg", "hlthf", "hlthp")
INTEGERS = ("mdvis", "idp", "hlthg", "hlthf", "hlthp")
DECIMALS = 4


def number_text(value: float) -> str:
    """The shortest decimal within 0.00005 of `value`.

    >>> number_text(3.0), number_text(6.907755), number_text(0.02), number_text(-0.00001)
    ('3', '6.9078', '0.02', '0')
    """
    text = f"{value:.{DECIMALS}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def table() -> pa.Table:
    """All 20,190 rows, in the data set's own order."""
    from statsmodels.datasets import randhie

    rows: Any = randhie.load_pandas().data
    types = {name: pa.int64() if name in INTEGERS else pa.float64() for name in COLUMNS}
    return pa.table({name: pa.array(rows[name].round(DECIMALS).to_numpy(), kind) for name, kind in types.items()})


def texts() -> pa.Table:
    """The same as records that are texts."""
    rows = zip(*(column.to_pylist() for column in table().columns), strict=True)
    return pa.table({"text": pa.array([",".join(map(number_text, row)) for row in rows], pa.string())})


def write_shards(folder: Path, whole: pa.Table) -> None:
    """Write `SHARDS` files of about equal length; a name is only there once its file is whole."""
    length = math.ceil(whole.num_rows / SHARDS)
    folder.mkdir(parents=True, exist_ok=True)
    for index, path in enumerate(shard_paths(folder)):
        unfinished = path.with_suffix(".unfinished")
        pq.write_table(whole.slice(index * length, length), unfinished)
        unfinished.replace(path)


def shard_paths(folder: Path) -> list[Path]:
    return [folder / f"part-{index:05d}.parquet" for index in range(SHARDS)]


def main(folder: Path = FOLDER) -> None:
    """Write the table, and beside it the texts."""
    makers: dict[Path, Callable[[], pa.Table]] = {folder: table, folder.with_name(f"{folder.name}-texts"): texts}
    for place, make in makers.items():
        if not all(path.exists() for path in shard_paths(place)):
            write_shards(place, make())
    first = pq.read_table(shard_paths(folder)[0])
    count = sum(pq.read_metadata(path).num_rows for path in shard_paths(folder))
    print(f"{folder}: {count:,} rows in {SHARDS} Parquet files; the first one:")
    print("  " + ", ".join(f"{name} {value:g}" for name, value in first.slice(0, 1).to_pylist()[0].items()))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
