"""Break each privacy promise on purpose, and see its test fail.

python -m tests.mutants.run [name ...]

First the promise tests must pass as things are. Then every mutant gets a fresh process with the tests that should
notice it. It counts as killed when a test failed by an assertion, or by a refusal of `runner` itself, and the faulty
code was executed. Exit code 1 unless all are killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

from tests.mutants.mutants import MARK_VARIABLE, MUTANTS, NAME_VARIABLE
from tests.runs import ROOT

PROMISES = "tests/promises"
AT_ONCE = 2
TIMEOUT_S = 300
REFUSALS = ("runner.errors.PrivacyError", "runner.errors.JobFailedError", "runner.errors.CorruptError")


@dataclass(frozen=True)
class Verdict:
    """How a mutant fared. `by`: the test that noticed, or why nothing counts."""

    name: str
    is_killed: bool
    by: str
    seconds: float


def run_tests(tests: list[str], report: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Pytest in a fresh process, until the first failure."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "tests.mutants.plugin", "-p", "no:cacheprovider"]
    command += [f"--junit-xml={report}", *tests]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def failure_of(report: Path) -> tuple[str, str]:
    """The test that failed and by which error; both empty when none did."""
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        for kind in ("failure", "error"):
            found = case.find(kind)
            if found is not None:
                return case.get("name", ""), (found.get("message") or "") + (found.text or "")
    return "", ""


def judge(name: str) -> Verdict:
    """Run the tests that should notice a mutant."""
    began = time.monotonic()
    _, tests = MUTANTS[name]

    def verdict(is_killed: bool, by: str) -> Verdict:
        return Verdict(name, is_killed, by, time.monotonic() - began)

    with TemporaryDirectory() as folder:
        mark, report = Path(folder, "executed"), Path(folder, "report.xml")
        environment = {NAME_VARIABLE: name, MARK_VARIABLE: str(mark)}
        try:
            done = run_tests([f"{PROMISES}/{test}" for test in tests], report, **environment)
        except subprocess.TimeoutExpired:
            return verdict(False, "no answer in time")
        if not report.exists() or done.returncode not in (0, 1):
            return verdict(False, f"pytest itself failed: {(done.stdout + done.stderr)[-300:]}")
        if not mark.exists():
            return verdict(False, "the faulty code was never executed")
        test, error = failure_of(report)
    if not test:
        return verdict(False, "no test noticed")
    if "AssertionError" not in error and not any(refusal in error for refusal in REFUSALS):
        return verdict(False, f"{test} failed for another reason: {error[:200]}")
    return verdict(True, test)


def main() -> int:
    """Print a table, the score and a summary line; the exit code."""
    names = sys.argv[1:] or list(MUTANTS)
    with TemporaryDirectory() as folder:
        unharmed = run_tests([PROMISES], Path(folder, "report.xml"))
    if unharmed.returncode != 0:
        print(unharmed.stdout[-5000:], unharmed.stderr[-2000:])
        print("the promise tests fail without any mutant")
        return 1
    print(f"unharmed: {unharmed.stdout.strip().splitlines()[-1]}", flush=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        verdicts = []
        for found in pool.map(judge, names):
            verdicts.append(found)
            print(
                f"{'killed' if found.is_killed else 'ALIVE':7}{found.seconds:5.0f} s  {found.name:48}{found.by}",
                flush=True,
            )
    killed = sum(found.is_killed for found in verdicts)
    print(f"mutation score: {killed / len(verdicts):.0%}")
    print(f"{killed} passed, {len(verdicts) - killed} failed")
    return 0 if killed == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
