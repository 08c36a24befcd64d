"""Runs commands in this process."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner import __main__ as main_module
from tests.unit.cli.commands import Result, Run, one_line, tree, write_job, write_records


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs `runner ARGUMENTS` in this process, as the installed command would, in an empty folder."""
    folder = tmp_path / "work of ä"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in os.environ if name.startswith(("RUNNER_", "AWS_", "RAY_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RUNNER_JOB_FOLDER", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(main_module, "_silence_native_code", lambda: None)  # it would silence pytest, too
    logger = logging.getLogger("runner")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate

    def restore_logging() -> None:
        logger.handlers, logger.level, logger.propagate = list(handlers), level, propagate

    def run_command(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["runner", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main_module.main()
        restore_logging()
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Result(ended.value.code, said.out, said.err)

    yield run_command
    restore_logging()


@pytest.fixture
def here(run: Run) -> Path:
    """The folder in which `run` runs."""
    return Path.cwd()


@pytest.fixture
def refused(run: Run, here: Path, tmp_path: Path) -> Callable[..., str]:
    """Submits what is wrong and returns the line; fails when anything was written."""

    def submit(*arguments: str, code: int = 2) -> str:
        before = tree(tmp_path)
        line = one_line(run("submit", "job.yaml", *arguments), code)
        assert tree(tmp_path) == before
        return line

    write_records(here / "records")
    write_job(here / "job.yaml")
    return submit


@pytest.fixture
def another_process() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.kill()
    process.wait()
