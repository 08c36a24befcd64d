# /// script
# requires-python = "==3.11.*"
# dependencies = ["dpmm==0.1.9"]
# ///
# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false
"""Synthetic rows from MST and AIM as dpmm has them: peers of bench_quality.py.

    uv run --locked --script benchmarks/peers/dpmm_table.py --model mst --training T.csv --schema FIELDS.json \
        --epsilon 1 --rows 1000 --out S.csv

MST: McKenna, Miklau and Sheldon 2021 (arXiv:2108.04978); AIM: McKenna and others 2022 (arXiv:2201.12677). They know
categories only, so each field becomes codes by the declared schema alone (the job's `fields:` as JSON): its values; the
numbers of a range of up to `MOST_CODES`; of a larger range intervals that begin at numbers of one or two digits, such
as 100, 120, 140, with codes of their own for zero and both ends. A number is drawn evenly from its interval. Prints
one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from dpmm.pipelines.aim import AIMPipeline
from dpmm.pipelines.mst import MSTPipeline

MODELS = {"mst": MSTPipeline, "aim": AIMPipeline}
MOST_CODES = 128
DAY = np.timedelta64(1, "D")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=tuple(MODELS), required=True)
    parser.add_argument("--training", type=Path, required=True, help="a CSV file with a header")
    parser.add_argument("--schema", type=Path, required=True, help="a JSON file: the job's section `fields`")
    parser.add_argument("--epsilon", type=float, required=True)
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--rows", type=int, required=True, help="how many to make")
    parser.add_argument("--out", type=Path, required=True, help="a CSV file")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    fields = json.loads(options.schema.read_text())
    training = pd.read_csv(options.training, keep_default_na=False)
    coders = {name: coder(field) for name, field in fields.items()}
    codes = pd.DataFrame({name: each.encode(training[name]) for name, each in coders.items()})
    domain = {name: each.size for name, each in coders.items()}
    start = time.perf_counter()
    pipeline = MODELS[options.model](
        epsilon=options.epsilon, delta=options.delta, disable_processing=True, compress=True, n_jobs=1
    )
    pipeline.fit(codes, domain=domain, random_state=options.seed)
    trained = time.perf_counter()
    made = pipeline.generate(n_records=options.rows, random_state=options.seed)
    draw = np.random.default_rng(options.seed)
    rows = pd.DataFrame({name: each.decode(made[name].to_numpy(), draw) for name, each in coders.items()})
    rows.to_csv(options.out, index=False)
    seconds = [round(trained - start, 1), round(time.perf_counter() - trained, 1)]
    version = f"dpmm {metadata.version('dpmm')}"
    print(json.dumps({"training_seconds": seconds[0], "generation_seconds": seconds[1], "version": version}))


def coder(field: dict[str, Any]) -> Categories | Intervals:
    """How a declared field becomes codes."""
    if field["kind"] in ("category", "boolean"):
        return Categories(field.get("values", ["false", "true"]), nullable=field.get("nullable", True))
    assert not field.get("nullable", True), "a declared number or date may not be null here"
    if field["kind"] == "date":
        first, last = (np.datetime64(day) for day in field["range"])
        return Intervals(0, int((last - first) / DAY), 0, first)
    decimals = field.get("decimals", 0)
    low, high = (round(bound * 10**decimals) for bound in field["range"])
    return Intervals(low, high, decimals)


class Categories:
    """A code for each value, and one for null."""

    def __init__(self, values: list[str], *, nullable: bool) -> None:
        self.values = [*values, *([""] if nullable else [])]
        self.size = len(self.values)

    def encode(self, column: pd.Series) -> np.ndarray:
        places = {value: place for place, value in enumerate(self.values)}
        return column.astype(str).map(places).to_numpy(np.int64)

    def decode(self, codes: np.ndarray, _draw: np.random.Generator) -> np.ndarray:
        return np.array(self.values, object)[codes]


class Intervals:
    """A code for each interval of whole numbers, in units of the last decimal; `first` of dates is day 0."""

    def __init__(self, low: int, high: int, decimals: int, first: np.datetime64 | None = None) -> None:
        self.starts = np.array(starts(low, high))
        self.ends = np.append(self.starts[1:], high + 1)
        self.size = len(self.starts)
        self.decimals = decimals
        self.first = first

    def encode(self, column: pd.Series) -> np.ndarray:
        if self.first is not None:
            units = (column.to_numpy("datetime64[D]") - self.first) / DAY
        else:
            units = np.rint(column.astype(float).to_numpy() * 10**self.decimals)
        return np.searchsorted(self.starts, units, "right") - 1

    def decode(self, codes: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        units = draw.integers(self.starts[codes], self.ends[codes])
        if self.first is not None:
            return self.first + units * DAY
        return units if self.decimals == 0 else units / 10**self.decimals


def starts(low: int, high: int) -> list[int]:
    """Where the intervals of [low, high] begin: as many as fit into `MOST_CODES`.

    >>> starts(1, 4), starts(-1, 999)[:6], starts(0, 99999)[-4:]
    ([1, 2, 3, 4], [-1, 0, 1, 2, 3, 4], [85000, 90000, 95000, 99999])
    """
    if high - low < MOST_CODES:
        return list(range(low, high + 1))
    for step in (1, 2, 5, 10, 20, 50, 100):  # hundredths of the power of ten
        found = {low, high, *(mark for mark in (0, 1) if low <= mark <= high)}
        for power in range(1 + math.ceil(math.log10(max(abs(low), abs(high))))):
            for mantissa in range(100, 1000, step):
                size = mantissa * 10**power
                marks = (size // 100, -(size // 100) + 1) if size % 100 == 0 else ()
                found |= {mark for mark in marks if low < mark < high}
        if len(found) <= MOST_CODES:
            return sorted(found)
    return [low + round(place * (high + 1 - low) / MOST_CODES) for place in range(MOST_CODES)]


if __name__ == "__main__":
    main()
