"""Break each privacy promise on purpose, and see its test fail.

python -m tests.mutants.run [name ...]

First the promise tests must pass as things are. Then every mutant gets a process of its own with the tests that should
notice it. It counts as killed when a test failed by an assertion, or by a refusal of `runner` itself, and the faulty
code was executed. Exit code 1 unless all are killed.

The processes are forks of this one, which has imported the libraries, and nothing of `runner`: TensorFlow and Ray take
longer to import than most of the tests.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn
from xml.etree import ElementTree

from tests.mutants.mutants import MARK_VARIABLE, MUTANTS, NAME_VARIABLE, kind_of

ROOT = Path(__file__).resolve().parents[2]
PROMISES = Path("tests", "promises")
AT_ONCE = 2
TIMEOUT_S = 1200
UNMET = ("AssertionError", "Failed: DID NOT RAISE")
"""How a test says that a promise is not kept."""
REFUSALS = ("runner.errors.PrivacyError", "runner.errors.JobFailedError", "runner.errors.CorruptError")
LIBRARIES = (
    "sentencepiece",  # After TensorFlow it may crash.
    "tensorflow",
    "keras",
    "ray.data",
    "ray.train",
    "pyarrow.parquet",
    "pandas",
    "scipy.stats",
    "scipy.optimize",
    "dp_accounting.pld.privacy_loss_distribution",
    "dp_accounting.rdp",
    "safetensors.numpy",
    "pydantic",
    "boto3",
    "hypothesis",
    "pytest",
)


@dataclass(frozen=True)
class Outcome:
    """What a process of tests left. `code`: pytest's own exit code, None where there was no answer in time."""

    code: int | None
    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class Verdict:
    """How a mutant fared. `by`: the test that noticed, or why nothing counts."""

    is_killed: bool
    by: str


@dataclass(frozen=True)
class Job:
    """Tests of one process: those of a file unharmed, or those that should notice the mutant `name`."""

    name: str
    tests: tuple[str, ...]
    folder: Path

    @property
    def mark(self) -> Path:
        return self.folder / "executed"

    @property
    def report(self) -> Path:
        return self.folder / "report.xml"

    @property
    def output(self) -> Path:
        return self.folder / "output"

    def run(self) -> NoReturn:
        """Pytest in this process, until the first failure; it ends here."""
        code = 3
        try:
            os.setsid()
            os.environ[MARK_VARIABLE] = str(self.mark)
            os.environ["PYTHONPATH"] = str(ROOT)
            if self.name in MUTANTS:
                os.environ[NAME_VARIABLE] = self.name
            with self.output.open("wb") as stream:
                os.dup2(stream.fileno(), 1)
                os.dup2(stream.fileno(), 2)
            options = ["-q", "-x", "-p", "tests.mutants.plugin", "-p", "no:cacheprovider", f"--junit-xml={self.report}"]
            code = _pytest([*options, *self.tests])
            sys.stdout.flush()
        finally:
            os._exit(code)


def _pytest(arguments: list[str]) -> int:
    import pytest

    return int(pytest.main(arguments))


def import_libraries(compiled: Path) -> None:
    """Import what the tests will need; what they import beside it is compiled once, into a folder."""
    for name in LIBRARIES:
        importlib.import_module(name)
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(compiled)


def run_all(jobs: Iterable[Job], at_once: int = AT_ONCE) -> Iterator[tuple[Job, Outcome]]:
    """Every job in a fork of this process, some at once, as they end."""
    waiting = iter(jobs)
    running: dict[int, tuple[Job, float]] = {}
    while True:
        while len(running) < at_once and (job := next(waiting, None)) is not None:
            job.folder.mkdir(parents=True)
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                job.run()
            running[pid] = (job, time.monotonic())
        if not running:
            return
        time.sleep(0.02)
        for pid, (job, began) in list(running.items()):
            wall_s = time.monotonic() - began
            is_late = wall_s > TIMEOUT_S
            if is_late:
                os.killpg(pid, signal.SIGKILL)
            ended, status, used = os.wait4(pid, 0 if is_late else os.WNOHANG)
            if ended:
                del running[pid]
                code = None if is_late else os.waitstatus_to_exitcode(status)
                yield job, Outcome(code, wall_s, used.ru_utime + used.ru_stime)


def failure_of(report: Path) -> tuple[str, str]:
    """The test that failed and by which error; both empty when none did."""
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        for kind in ("failure", "error"):
            found = case.find(kind)
            if found is not None:
                return case.get("name", ""), (found.get("message") or "") + (found.text or "")
    return "", ""


def judge(job: Job, outcome: Outcome) -> Verdict:
    """Whether the tests noticed a mutant."""
    if outcome.code is None:
        return Verdict(False, "no answer in time")
    if not job.report.exists() or outcome.code not in (0, 1):
        return Verdict(False, f"pytest itself failed: {job.output.read_text()[-300:]}")
    if not job.mark.exists():
        return Verdict(False, "the faulty code was never executed")
    test, error = failure_of(job.report)
    if not test:
        return Verdict(False, "no test noticed")
    if not any(reason in error for reason in (*UNMET, *REFUSALS)):
        return Verdict(False, f"{test} failed for another reason: {error[:200]}")
    return Verdict(True, test)


def check_unharmed(folder: Path) -> bool:
    """Whether all promise tests pass as things are; prints what they say."""
    files = sorted((ROOT / PROMISES).glob("test_*.py"), key=lambda file: -file.stat().st_size)
    passed = True
    for job, outcome in run_all(Job(file.stem, (str(file),), folder / file.stem) for file in files):
        lines = job.output.read_text().strip().splitlines()
        print(f"unharmed: {job.name}: {lines[-1] if lines else ''} (CPU {outcome.cpu_s:.0f} s)", flush=True)
        if outcome.code != 0:
            passed = False
            print("\n".join(lines[-60:]))
    return passed


def main() -> int:
    """Print a table, the score by kind and a summary line; the exit code."""
    names = sys.argv[1:] or list(MUTANTS)
    os.chdir(ROOT)
    with TemporaryDirectory() as folder:
        place = Path(folder)
        import_libraries(place / "compiled")
        if not check_unharmed(place / "unharmed"):
            print("the promise tests fail without any mutant")
            return 1
        killed, all_of = Counter[str](), Counter(map(kind_of, names))
        jobs = (
            Job(name, tuple(str(PROMISES / test) for test in MUTANTS[name].tests), place / "mutants" / name)
            for name in names
        )
        for job, outcome in run_all(jobs):
            verdict = judge(job, outcome)
            killed[kind_of(job.name)] += verdict.is_killed
            said = "killed" if verdict.is_killed else "ALIVE"
            print(f"{said:7}{outcome.wall_s:5.0f} s{outcome.cpu_s:5.0f} s CPU  {job.name:64}{verdict.by}", flush=True)
    for kind, count in all_of.items():
        print(f"{kind}: {killed[kind]} of {count}")
    print(f"mutation score: {killed.total() / len(names):.0%}")
    print(f"{killed.total()} passed, {len(names) - killed.total()} failed")
    return 0 if killed.total() == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
