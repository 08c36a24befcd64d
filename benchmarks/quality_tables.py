"""The tables of bench_quality.py: their records as training and holdout halves, and what others published for them.

Adult and Bank Marketing come from a folder beside the project, which keeps no copy of them: halves and synthetic rows
of the data folder `2024-12` of MOSTLY AI's paper-fidelity-accuracy (BSD-3-Clause; the paper: Tiwald and others 2025,
arXiv:2504.00854). Where the folder is not there, two small public tables that packages ship stand in for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

QUALITY = Path(__file__).resolve().parent / "quality"


@dataclass(frozen=True)
class Published:
    """Synthetic rows that someone made of the training half; `epsilon` as in PRIVACY, "none" without privacy."""

    maker: str
    epsilon: str
    file: Path


@dataclass(frozen=True)
class Table:
    """`training` and `holdout`: CSV files with a header. `fields`: the declared schema, as a job has it."""

    name: str
    training: Path
    holdout: Path
    fields: dict[str, Any]
    published: tuple[Published, ...]

    @property
    def rows(self) -> int:
        """Of the training half: as many are made."""
        return len(pd.read_csv(self.training, usecols=[0]))


def find_tables(data: Path, folder: Path) -> tuple[list[Table], str]:
    """The tables, written into the folder as plain CSV; and a line that says which ones they are."""
    found = sorted(data.glob("*_trn.csv.gz"))
    if found:
        return [_shared(file, folder) for file in found], f"tables of {data}"
    tables = [_public(name, read(), folder) for name, read in PUBLIC.items()]
    return tables, f"{data} is not there: tables that statsmodels and vega_datasets ship, and no published rows"


def _shared(training: Path, folder: Path) -> Table:
    name = training.name.removesuffix("_trn.csv.gz")
    halves = []
    for part in ("trn", "hol"):
        halves.append(folder / f"{name}-{part}.csv")
        pd.read_csv(training.parent / f"{name}_{part}.csv.gz").to_csv(halves[-1], index=False)
    published = [
        _published(name, file)
        for file in sorted(training.parent.glob(f"{name}_*.csv.gz"))
        if not file.name.endswith(("_trn.csv.gz", "_hol.csv.gz"))
    ]
    return Table(name, halves[0], halves[1], _fields(name), tuple(published))


def _published(name: str, file: Path) -> Published:
    """Whose rows a file holds, by its name.

    >>> _published("adult", Path("adult_mostlyai_DP_eps4.3_noise1.csv.gz")).epsilon
    '4.3'
    """
    maker, *private = file.name.removesuffix(".csv.gz").removeprefix(f"{name}_").split("_")
    epsilons = [match[1] for match in (re.fullmatch(r"eps([\d.]+)", part) for part in private) if match]
    return Published(f"{maker}, published", epsilons[0] if epsilons else "none", file)


def _public(name: str, rows: pd.DataFrame, folder: Path) -> Table:
    """Every second row is of the holdout."""
    halves = [folder / f"{name}-{part}.csv" for part in ("trn", "hol")]
    for first, file in enumerate(halves):
        rows.iloc[first::2].to_csv(file, index=False)
    return Table(name, halves[0], halves[1], _fields(name), ())


def _fields(name: str) -> dict[str, Any]:
    return yaml.safe_load((QUALITY / f"{name}.yaml").read_text(encoding="utf-8"))["fields"]


def _randhie() -> pd.DataFrame:
    from statsmodels.datasets import randhie

    whole: Any = randhie.load_pandas().data
    return whole.round(4)


def _seattle_weather() -> pd.DataFrame:
    from vega_datasets import local_data

    return local_data.seattle_weather()


PUBLIC: dict[str, Callable[[], pd.DataFrame]] = {"randhie": _randhie, "seattle-weather": _seattle_weather}
