"""Whole runs for tests: small records, `runner` in a process of its own, and what a run left behind."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from runner.run_files import RUN_FILES

ROOT = Path(__file__).resolve().parent.parent
TIMINGS = ("seconds", "tokens_per_second")


def write_records(folder: Path, count: int = 900, files: int = 3) -> Path:
    """Parquet shards of comma-joined records with something to learn in them."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(7)
    names = ["anna", "bernd", "clara", "dora", "emil"]
    records = []
    for _ in range(count):
        name = draw.choice(names)
        records.append(f"{name},{len(name) * 10 + draw.randrange(3)},{'yes' if name < 'c' else 'no'}")
    for part in range(files):
        pq.write_table(pa.table({"text": records[part::files]}), folder / f"part-{part}.parquet")
    return folder


def small_job(name: str, data: Path | str, runs: Path | str, **training: Any) -> dict[str, Any]:
    """A job that trains in seconds."""
    return {
        "name": name,
        "data": {"uri": str(data), "field_delimiter": ","},
        "tokenizer": {"kind": "char", "vocab_size": 64},
        "examples": {"seq_length": 16},
        "model": {"embedding_dim": 8, "rnn_units": 12, "layers": 2},
        "training": {"epochs": 2, "batch_size": 32, **training},
        "storage": {"uri": str(runs)},
    }


def write_job(path: Path, job: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(job))
    return path


def start_runner(*arguments: Any, cwd: Path | None = None, **environment: str) -> subprocess.Popen[str]:
    """`runner ...` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "runner", *map(str, arguments)],
        cwd=cwd or ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_runner(
    *arguments: Any, expect: int | None = 0, timeout_s: float = 300, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Wait for `runner ...`, and check its exit code."""
    process = start_runner(*arguments, **options)
    out, err = process.communicate(timeout=timeout_s)
    if expect is not None:
        assert process.returncode == expect, f"exit code {process.returncode}\n{out}\n{err}"
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def race_for_the_budget(tmp_path: Path, data: Path | str, runs: Path | str) -> tuple[str, str]:
    """Two private runs at once on the same files, each of which would take the whole budget.

    Checks that one trained and one was refused; returns the winner's name, and what the other was told.
    """
    jobs = {}
    for name in ("first", "second"):
        job = small_job(name, data, runs) | {"tokenizer": {"kind": "byte"}}
        job["privacy"] = {"enabled": True, "noise_multiplier": 1.0, "max_epsilon": 1.2}
        jobs[name] = start_runner("submit", write_job(tmp_path / f"{name}.yaml", job))
    told = {name: process.communicate(timeout=300)[1] for name, process in jobs.items()}
    codes = {name: process.returncode for name, process in jobs.items()}
    assert sorted(codes.values()) == [0, 2], told
    winner, loser = sorted(codes, key=lambda name: codes[name])
    return winner, told[loser]


def status_of(run: Path) -> dict[str, Any]:
    """status.json, empty while there is none."""
    try:
        return json.loads((run / "status.json").read_text())
    except FileNotFoundError:
        return {}


def history_of(run: Path) -> list[dict[str, str]]:
    """history.csv without its timings."""
    with (run / "history.csv").open() as stream:
        return [{name: value for name, value in row.items() if name not in TIMINGS} for row in csv.DictReader(stream)]


def names_of_no_run(run: Path) -> list[str]:
    """What in a run's directory is not under a name that runs write, and so stays when it is overwritten."""
    names = [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
    return sorted(name for name in names if name not in RUN_FILES)


def weights_of(run: Path) -> bytes:
    return (run / "model" / "weights.safetensors").read_bytes()


def wait_for(condition: Callable[[], Any], timeout_s: float = 180, every_s: float = 0.05) -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"nothing within {timeout_s} s"
        time.sleep(every_s)
    return value


def descendants(pid: int) -> Iterator[tuple[int, str]]:
    """Process ids and command lines of everything a process started."""
    for child in (int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()):
        try:
            parent = int((Path("/proc") / str(child) / "stat").read_text().rpartition(")")[2].split()[1])
            command = (Path("/proc") / str(child) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, IndexError):
            continue
        if parent == pid:
            yield child, command
            yield from descendants(child)
