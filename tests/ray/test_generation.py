"""Shards from a pool of processes: their bytes depend neither on how many there are nor on a kill."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from runner.errors import JobFailedError
from runner.generation.settings import SamplingSettings
from runner.run_directory import RunDirectory
from runner.submit.generate import Request, generate
from runner.submit.launch import Launch
from tests.generation import make_run
from tests.runs import run_runner, start_runner, wait_for

N, ROWS_PER_SHARD = 230, 20
RULES = ["generation.validator=tests.generation:no_empty_x", "generation.max_invalid=0.99"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return make_run(tmp_path_factory.mktemp("run"))


def shards_of(folder: Path) -> dict[str, str]:
    """The shards and what is said of them, but not how it came about."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    how = re.compile(r"_generation/(status\.json|settings\.json|writer|logs/.*)")
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if not how.match(name)}


def make(run: RunDirectory, folder: Path, *overrides: str, **sampling: Any) -> dict[str, Any]:
    settings = SamplingSettings(**{"records_per_prompt": N, "seed": 3, "unique": True, **sampling})
    request = Request(settings, f"{folder}/", ROWS_PER_SHARD, overrides=[*RULES, *overrides])
    return generate(run, request, Launch(quiet=True))[0]


@pytest.fixture(scope="module")
def whole(run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All shards, made at once by one process."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    answer = make(run, folder, "generation.actors=1")
    assert answer["shards"] == 12
    return folder


def test_the_records_are_those_of_all_shards_without_copies(whole: Path) -> None:
    rows = [tuple(row.values()) for row in pq.read_table(whole).to_pylist()]
    summary = json.loads((whole / "_generation/summary.json").read_text())
    assert len(rows) == len(set(rows)) == summary["records"] < N
    assert summary["repeated"] >= N - len(rows)
    assert {"x is empty"} == set(summary["invalid"])


def test_logs_say_how_the_shards_came_about(whole: Path) -> None:
    said = run_runner("logs", whole).stdout
    assert "12 of 12 shards are to be made" in said
    records = json.loads((whole / "_generation/summary.json").read_text())["records"]
    assert f"done: {records} records in 12 files" in said


def test_the_number_of_processes_does_not_change_a_byte(run: RunDirectory, whole: Path, tmp_path: Path) -> None:
    make(run, tmp_path / "out", "generation.actors=2")
    assert shards_of(tmp_path / "out") == shards_of(whole)


@pytest.mark.timeout(600)
def test_a_killed_generation_goes_on_and_ends_with_the_same_bytes(
    run: RunDirectory, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    arguments = ["generate", run.uri, "-n", N, "-o", f"{folder}/", "--seed", 3, "--unique"]
    arguments += ["--rows-per-shard", ROWS_PER_SHARD, *(word for rule in RULES for word in ("--set", rule))]
    process = start_runner(*arguments, TEST_VALIDATOR_PAUSE_S="0.02")
    books = folder / "_generation" / "shards"
    wait_for(lambda: process.poll() is not None or (books.is_dir() and len(list(books.glob("*.json"))) >= 2))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    done = set(books.glob("*.json"))
    assert 2 <= len(done) < 12, "the kill was in mid-way"
    written = {path.name: path.stat().st_mtime_ns for path in done}
    make(run, folder)
    assert shards_of(folder) == shards_of(whole)
    infos = [json.loads(path.read_text()) for path in done]
    untouched = [path.name for path, info in zip(done, infos, strict=True) if not info["repeated_elsewhere"]]
    assert all((books / name).stat().st_mtime_ns == written[name] for name in untouched)


def test_a_validator_that_raises_in_a_pool_is_one_line(run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(JobFailedError) as caught:
        make(run, tmp_path / "out", "generation.validator=tests.generation:complain")
    assert str(caught.value) == (
        "generation.validator tests.generation:complain raised ValueError: do not like ['x', 'y']"
    )
