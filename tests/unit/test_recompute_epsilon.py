"""A privacy statement can be checked by a script that shares no code with what wrote it."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from runner.cli import cli
from runner.config import parse_job
from runner.privacy.accountant import Histogram, Mechanism, Release
from runner.privacy.chain import chain_of
from runner.privacy.ledger import Branch, LedgerState
from runner.privacy.report import privacy_report

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "recompute_epsilon.py"
MECHANISM = Mechanism(examples=1000, batch_size=50, noise_multiplier=1.1)
RELEASE = Release("schema", (Histogram("age.parts", 12.5), Histogram("job.values", 25.0, threshold=140)))
OF_PERSONS = Release("schema", (Histogram("age.parts", 50.0, None, 4), Histogram("job.values", 100.0, 500, 4)))
EARLIER = (Mechanism(examples=900, batch_size=30, noise_multiplier=0.9), 40)


def statement(mechanism: Mechanism = MECHANISM, releases: tuple[Release, ...] = (), **changes: Any) -> dict[str, Any]:
    """The statement of a run of two branches, after another run on the same files."""
    config = parse_job(
        {
            "name": "demo",
            "data": {"uri": "records/"},
            "tokenizer": {"kind": "byte"},
            "privacy": {"enabled": True, "noise_multiplier": mechanism.noise_multiplier},
        },
        environment={},
    )
    state = LedgerState(
        run_id="r",
        tokens="t",
        mechanism=mechanism,
        delta=1e-4,
        accountant="pld",
        limit=None,
        before=(EARLIER, *((release, 1) for release in releases)),
        allowed_steps=None,
        files=("f",),
        branches=(Branch("a", -1, 0, 25), Branch("b", 0, 20, 60)),
        releases=releases,
    )
    return privacy_report(config, state) | changes


@pytest.fixture(scope="module")
def good() -> dict[str, Any]:
    return statement()


@dataclass(frozen=True)
class Said:
    """How the script ended, and what it printed; `code` is a line where it ended with one."""

    code: int | str
    lines: list[str]

    @property
    def differing(self) -> list[str]:
        """The figures that the script found to differ."""
        return [line.split()[0] for line in self.lines if line.endswith("DIFFERS")]


@pytest.fixture
def recompute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """Runs the script on a statement, in this process."""
    path = tmp_path / "privacy.json"

    def run(document: dict[str, Any], *arguments: str) -> Said:
        path.write_text(json.dumps(document))
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(path), *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        assert ended.value.code is not None
        return Said(ended.value.code, capsys.readouterr().out.splitlines())

    return run


Recompute = Callable[..., Said]


def test_a_statement_computes_again_from_its_own_figures(recompute: Recompute, good: dict[str, Any]) -> None:
    assert good["steps"] == 65
    assert good["epsilon_with_earlier_runs"] > good["epsilon"]
    said = recompute(good)
    assert (said.code, said.differing, len(said.lines)) == (0, [], 5)


def test_each_epsilon_that_was_changed_is_found(recompute: Recompute, good: dict[str, Any]) -> None:
    wrong = {name: good[name] * (1 - 2e-6) for name in ("epsilon", "epsilon_pld", "epsilon_rdp")}
    for changed in (wrong, {"epsilon_with_earlier_runs": good["epsilon"]}):
        said = recompute(good | changed)
        assert (said.code, said.differing) == (1, list(changed))


def test_steps_that_do_not_add_up_are_found(recompute: Recompute, good: dict[str, Any]) -> None:
    assert "do not add up to its 65 steps" in str(recompute(good | {"steps_of_branches": [25, 39]}).code)


def test_what_was_looked_up_computes_again_too(recompute: Recompute, good: dict[str, Any]) -> None:
    bought = statement(releases=(RELEASE,))
    assert bought["epsilon"] > good["epsilon"]
    assert bought["epsilon_with_earlier_runs"] > good["epsilon_with_earlier_runs"]
    said = recompute(bought)
    assert (said.code, said.differing, len(said.lines)) == (0, [], 6)
    (release,) = bought["releases"]
    age, job = release["histograms"]
    for changed in ([age | {"sigma": 20.0}, job], [age, job | {"threshold": 60}], [age]):
        said = recompute(bought | {"releases": [release | {"histograms": changed}]})
        assert (said.code, said.differing[-1]) == (1, "epsilon_with_earlier_runs")


def test_counts_of_a_person_s_records_compute_again(recompute: Recompute) -> None:
    found = statement(Mechanism(examples=1000, batch_size=50, noise_multiplier=20.0), releases=(OF_PERSONS,))
    assert recompute(found).differing == []
    assert recompute(found, "2").differing == []
    (release,) = found["releases"]
    for changed in ({"sensitivity": 3}, {"sigma": 55.0}):
        histograms = [each | changed for each in release["histograms"]]
        said = recompute(found | {"releases": [release | {"histograms": histograms}]})
        assert said.differing[:2] == ["release", "epsilon_of_run"]


def test_every_run_of_a_series_computes_again(recompute: Recompute) -> None:
    first = statement(Mechanism(examples=1000, batch_size=50, noise_multiplier=20.0))
    second = first | {"chain": chain_of(first | {"run": "first"})}
    assert recompute(second).differing == []
    (link,) = second["chain"]
    assert recompute(second | {"chain": [link | {"steps": 10}]}).differing == ["run"]
    dearer = link | {"mechanism": link["mechanism"] | {"noise_multiplier": 1.0}}
    assert recompute(second | {"chain": [dearer]}).differing == ["run", "epsilon"]


def test_what_records_of_one_person_cost_computes_again(recompute: Recompute) -> None:
    found = statement(Mechanism(examples=1000, batch_size=50, noise_multiplier=20.0), releases=(RELEASE,))
    said = recompute(found, "2")
    assert (said.code, said.differing) == (0, [])
    assert sum("2 records" in line for line in said.lines) == 1
    wrong = {"epsilon_of_records": found["epsilon_of_records"] | {"2": found["epsilon"]}}
    assert recompute(found | wrong, "2").differing == ["2"]


def test_the_command_line_says_the_same_as_the_script(recompute: Recompute) -> None:
    """By what an auditor reads off `privacy.json`."""
    counted = (RELEASE, Release("pairs", tuple(Histogram(f"pair {number}", 31.25) for number in range(6))))
    stated = statement(releases=counted)
    assert recompute(stated).code == 0
    mechanism = stated["mechanism"]
    command = ["epsilon", "-n", mechanism["examples"], "--batch-size", mechanism["batch_size"]]
    command += ["--noise-multiplier", mechanism["noise_multiplier"], "--steps", stated["steps"]]
    command += ["--delta", stated["delta"], "--json"]
    for release in stated["releases"]:
        for each in release["histograms"]:
            threshold = "" if each["threshold"] is None else f":{each['threshold']}"
            command += ["--release", f"{each['sigma']}:1{threshold}"]
    said = CliRunner().invoke(cli, list(map(str, command)))
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    for name in ("epsilon_pld", "epsilon_rdp"):
        assert found[name] == pytest.approx(stated[name], rel=1e-9)


def test_a_run_without_noise_is_infinite_here_too(recompute: Recompute) -> None:
    said = recompute(statement(Mechanism(examples=1000, batch_size=50, noise_multiplier=0.0)))
    assert said.code == 0
    assert all("stated infinite" in line for line in said.lines)


def test_the_script_needs_nothing_of_runner(good: dict[str, Any], tmp_path: Path) -> None:
    """In a process of its own that cannot import the package."""
    path = tmp_path / "privacy.json"
    path.write_text(json.dumps(good))
    program = (
        "import runpy, sys; sys.modules['runner'] = None; sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(SCRIPT), str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
