"""A command of `runner` and what it said; jobs, records and runs to try it on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from runner.config import parse_job
from runner.run_directory import RunDirectory


@dataclass(frozen=True)
class Result:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def answer(self) -> Any:
        """The one JSON object of `--json`."""
        assert len(self.out.splitlines()) == 1
        return json.loads(self.out)


Run = Callable[..., Result]
Refused = Callable[..., str]


def write_records(folder: Path, rows: Any = 300, column: str = "text") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    values = [f"record {number}" for number in range(rows)] if isinstance(rows, int) else rows
    pq.write_table(pa.table({column: values}), folder / "a.parquet")
    return folder / "a.parquet"


def write_job(path: Path, **changes: Any) -> Path:
    """A good job, with whole sections replaced."""
    job: dict[str, Any] = {"name": "demo", "data": {"uri": "records/"}}
    path.write_text(yaml.safe_dump(job | changes))
    return path


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything under a folder, with its content."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def one_line(result: Result, code: int) -> str:
    """The single line of an error, without its `error: `."""
    assert result.code == code, result
    assert result.out == ""
    (line,) = result.err.splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in line
    return line.removeprefix("error: ")


def take_run(here: Path, name: str = "demo", **status: Any) -> RunDirectory:
    """A run directory by hand, under `runs/`."""
    config = parse_job({"name": name, "data": {"uri": str(here / "records")}}, environment={})
    config = config.model_copy(update={"storage": config.storage.model_copy(update={"uri": str(here / "runs")})})
    directory = RunDirectory.of(config)
    directory.claim(config, "local")
    found = directory.status()
    assert found is not None
    directory.write_status(replace(found, **status))
    return directory
