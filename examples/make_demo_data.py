"""Write the demo's records: the RAND Health Insurance Experiment as Parquet shards of comma-joined text.

    python examples/make_demo_data.py

The experiment (1974-1982) measured how people use health care under different insurance plans: 20,190
person-years with ten columns each, public, real, and of the sensitive kind that this project is made for.
It ships with statsmodels. A record is one row, its fields in the order of `COLUMNS`: integers as integers,
other numbers with at most four decimals. The same bytes every time; existing records are left alone.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = Path(__file__).parent / "data" / "randhie"
SHARDS = 4
COLUMNS = ("mdvis", "lncoins", "idp", "lpi", "fmde", "physlm", "disea", "hlthg", "hlthf", "hlthp")


def number_text(value: float) -> str:
    """The shortest decimal within 0.00005 of `value`.

    >>> number_text(3.0), number_text(6.907755), number_text(0.02), number_text(-0.00001)
    ('3', '6.9078', '0.02', '0')
    """
    text = f"{value:.4f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def records() -> list[str]:
    """All 20,190 records, in the data set's own order."""
    from statsmodels.datasets import randhie

    table: Any = randhie.load_pandas().data
    rows = table[list(COLUMNS)].itertuples(index=False, name=None)
    return [",".join(map(number_text, row)) for row in rows]


def write_shards(folder: Path) -> None:
    """Write `SHARDS` files of about equal length; a name is only there once its file is whole."""
    texts = records()
    length = math.ceil(len(texts) / SHARDS)
    folder.mkdir(parents=True, exist_ok=True)
    for index, path in enumerate(shard_paths(folder)):
        shard = pa.table({"text": pa.array(texts[index * length : (index + 1) * length], pa.string())})
        unfinished = path.with_suffix(".unfinished")
        pq.write_table(shard, unfinished)
        unfinished.replace(path)


def shard_paths(folder: Path) -> list[Path]:
    return [folder / f"part-{index:05d}.parquet" for index in range(SHARDS)]


def main(folder: Path = FOLDER) -> None:
    if not all(path.exists() for path in shard_paths(folder)):
        write_shards(folder)
    shards = [pq.read_table(path).column("text") for path in shard_paths(folder)]
    count = sum(map(len, shards))
    print(f"{folder}: {count:,} records in {len(shards)} Parquet files, such as")
    for shard in (shards[0], shards[-1]):
        print(f"  {shard[0]}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
