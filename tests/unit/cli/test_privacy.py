"""Planning a budget; the report and the audit of a run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dp_accounting
import numpy as np
import pytest
from dp_accounting import rdp
from scipy import stats

from runner.config import parse_job
from runner.run_directory import RunDirectory
from tests.report_runs import STATEMENT, write_statement, write_synthetic
from tests.report_runs import take_run as take_reported_run
from tests.unit.cli.commands import Result, Run, one_line, take_run, tree

PLANNED = ("epsilon", "-n", "50000", "--batch-size", "256", "--epochs", "20", "--delta", "1e-6")


def test_epsilon_says_what_a_noise_costs(run: Run, here: Path) -> None:
    result = run(*PLANNED, "--noise-multiplier", "1", "--json")
    assert (result.code, result.err) == (0, "")
    plan = result.answer
    assert plan["epsilon_pld"] == pytest.approx(1.998, abs=0.001)
    assert plan["epsilon_rdp"] == pytest.approx(2.228, abs=0.001)
    assert plan["epsilon_unamplified"] == pytest.approx(30.58, abs=0.01)
    assert {name: value for name, value in plan.items() if not name.startswith("epsilon_")} == {
        "delta": 1e-6,
        "noise_multiplier": 1.0,
        "steps": 3900,
        "epochs": 20,
        "n": 50_000,
        "batch_size": 256,
        "q": 0.00512,
    }
    lines = run(*PLANNED, "--noise-multiplier", "1").out.splitlines()
    assert lines[0].split() == ["epsilon", "(PLD)", "1.9981"]
    assert lines[-1].startswith("Whatever a reader of the model concludes, emptying one record changes its probability")
    assert tree(here) == {}


def test_epsilon_finds_the_noise_of_a_target(run: Run) -> None:
    plan = run(*PLANNED, "--target-epsilon", "2", "--json").answer
    assert 1.99 < plan["epsilon_pld"] <= 2
    assert plan["noise_multiplier"] == pytest.approx(1.0, abs=0.01)


def test_epsilon_counts_steps_and_finds_a_delta(run: Run) -> None:
    arguments = ("epsilon", "-n", "1000", "--batch-size", "50", "--noise-multiplier", "1", "--json")
    plan = run(*arguments, "--steps", "30").answer
    assert (plan["steps"], plan["epochs"], plan["delta"]) == (30, 1.5, 5e-4)
    assert run(*arguments, "--epochs", "2").answer["steps"] == 40


def exact_delta(sigma: float, histograms: int, epsilon: float) -> float:
    """Of counts with discrete Gaussian noise that each grow by 1, by all their sums' probabilities: the sum of the
    counts tells all that they tell, log p / q = sum / sigma^2 - histograms / (2 sigma^2)."""
    reach = int(12 * sigma)
    one = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    total = np.ones(1)
    for _ in range(histograms):
        total = np.convolve(total, one / one.sum())
    sums = np.arange(total.size) - total.size // 2
    loss = (sums + histograms / 2) / sigma**2  # of sums + histograms, had by noise of `sums`
    return float((total * np.maximum(0, -np.expm1(epsilon - loss))).sum())


@pytest.mark.parametrize(("sigma", "histograms"), [(2.5, 1), (6.0, 4), (30.0, 105)])
def test_epsilon_of_releases_is_that_of_all_their_probabilities(run: Run, sigma: float, histograms: int) -> None:
    arguments = ("epsilon", "-n", "1000", "--release", f"{sigma}:{histograms}", "--delta", "1e-5", "--json")
    plan = run(*arguments).answer
    assert set(plan) == {"delta", "epsilon_pld", "epsilon_rdp", "epsilon_unamplified", "n", "releases"}
    assert exact_delta(sigma, histograms, plan["epsilon_pld"] * 1.002) < 1e-5
    assert exact_delta(sigma, histograms, plan["epsilon_pld"] * 0.998) > 1e-5
    assert plan["epsilon_pld"] < plan["epsilon_rdp"] < 1.3 * plan["epsilon_pld"]


def test_releases_and_steps_are_composed_and_a_target_pays_for_both(run: Run) -> None:
    steps = ("epsilon", "-n", "1000", "--batch-size", "50", "--steps", "65", "--delta", "1e-4")
    counted = ("--release", "12.5", "--release", "25:1:140")
    plan = run(*steps, "--noise-multiplier", "1.1", *counted, "--json").answer
    judge = rdp.RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_SPECIAL)
    judge.compose(dp_accounting.PoissonSampledDpEvent(0.05, dp_accounting.GaussianDpEvent(1.1)), 65)
    for sigma in (12.5, 25.0):
        judge.compose(dp_accounting.GaussianDpEvent(sigma))
    threshold = stats.norm.sf(138.5 / 25)
    assert plan["epsilon_rdp"] == pytest.approx(judge.get_epsilon(1e-4 - threshold), rel=1e-4)
    said = run(*steps, "--noise-multiplier", "1.1", *counted).out
    assert "1 with noise of 12.5 records; 1 with noise of 25 records, values from 140 on" in said
    found = run(*steps, "--target-epsilon", "2", *counted, "--json").answer
    assert 1.998 < found["epsilon_pld"] <= 2


def test_epsilon_says_what_records_of_one_person_cost(run: Run) -> None:
    """The documentation's run, with the figures that others computed."""
    arguments = ("epsilon", "-n", "16094", "--batch-size", "1024", "--noise-multiplier", "0.7151", "--epochs", "5")
    several = ("--records-per-person", "5", "--records-per-person", "2")
    plan = run(*arguments, *several, "--json").answer
    assert plan["epsilon_of_records"] == {
        "2": pytest.approx(17.65, abs=0.005),
        "5": pytest.approx(53.26, abs=0.005),
    }
    lines = run(*arguments, *several).out.splitlines()
    assert [line.split() for line in lines if "records " in line][:2] == [
        ["epsilon,", "2", "records", "17.6548"],
        ["epsilon,", "5", "records", "53.2584"],
    ]


def test_no_noise_is_no_privacy(run: Run) -> None:
    plan = run(*PLANNED, "--noise-multiplier", "0", "--json").answer
    assert {plan[f"epsilon_{by}"] for by in ("pld", "rdp", "unamplified")} == {"infinite"}
    assert run(*PLANNED, "--noise-multiplier", "0").out.endswith("Without noise there is no privacy.\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "give --noise-multiplier to learn its cost, or --target-epsilon to find it: one of them"),
        (["--noise-multiplier", "1", "--target-epsilon", "1"], "give --noise-multiplier"),
        (["--noise-multiplier", "1", "--steps", "3"], "give --epochs or --steps: one of them"),
        (["--noise-multiplier", "1", "--delta", "0.1"], "privacy.delta 0.1 is not below 1/n = 2e-05 for 50000"),
        (["--noise-multiplier", "1", "-n", "100"], "training.batch_size is 256, but there are 100 training records"),
        (["--target-epsilon", "1e-4"], "privacy.target_epsilon 0.0001 cannot be reached in 3900 steps of 256 of 50000"),
        (["--noise-multiplier", "-1"], "Invalid value for '--noise-multiplier'"),
        (["--target-epsilon", "0"], "Invalid value for '--target-epsilon'"),
        (["--noise-multiplier", "nan"], "--noise-multiplier nan: give a finite number"),
        (["--target-epsilon", "inf"], "--target-epsilon inf: give a finite number"),
        (["--noise-multiplier", "1", "--delta", "nan"], "--delta nan: give a finite number"),
        (["--noise-multiplier", "1", "--release", "0"], "Invalid value for '--release': '0': SIGMA is 0.05 to"),
        (["--noise-multiplier", "1", "--release", "9:0"], "Invalid value for '--release': '9:0': COUNT is 1 to"),
        (["--noise-multiplier", "1", "--release", "9:1:x"], "Invalid value for '--release': '9:1:x': give SIGMA"),
    ],
)
def test_a_plan_that_cannot_be_made_is_answered_in_one_line(run: Run, arguments: list[str], line: str) -> None:
    assert one_line(run(*PLANNED, *arguments), 2).startswith(line)


def test_steps_without_a_batch_size_are_refused_whatever_was_released(run: Run) -> None:
    for arguments in (["--steps", "3", "--release", "9"], []):
        assert one_line(run("epsilon", "-n", "100", *arguments), 2).startswith("give --batch-size")


def test_epsilon_imports_neither_tensorflow_nor_ray() -> None:
    program = (
        "import sys\n"
        "from runner.__main__ import main\n"
        "sys.argv = ['runner', *sys.argv[1:]]\n"
        "try:\n    main()\n"
        "finally:\n    print(sorted(set(sys.modules) & {'tensorflow', 'keras', 'ray', 'pyarrow'}))"
    )
    arguments = ["epsilon", "-n", "100", "--batch-size", "10", "--steps", "3", "--noise-multiplier", "2"]
    said = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "[]"


def private_run(here: Path) -> RunDirectory:
    """A private run directory by hand, with its statement."""
    privacy = {"enabled": True, "noise_multiplier": 1.0}
    job = {"name": "demo", "data": {"uri": "r"}, "tokenizer": {"kind": "byte"}, "privacy": privacy}
    config = parse_job(job | {"storage": {"uri": str(here / "runs")}}, environment={})
    directory = RunDirectory.of(config)
    directory.claim(config, "local")
    return directory


def test_report_writes_its_page_and_prints_the_statement_of_a_private_run(run: Run, here: Path) -> None:
    privacy = {"enabled": True, "noise_multiplier": 1.0}
    directory = take_reported_run(here, [f"{number},x" for number in range(50)], privacy=privacy)
    file = write_synthetic(here / "synthetic.parquet", ["1,x", "2,x"])
    write_statement(directory)
    said = run("report", "demo", "--synthetic", file)
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("# Statement\n\nε is 1.5\n\ncompared: 2 synthetic records")
    path = f"{directory.uri}/report.html"
    assert said.out.splitlines()[-1] == f"report: {path}"
    assert Path(path).read_text().startswith("<!DOCTYPE html>")
    answer = run("report", directory.uri, "--json", "--synthetic", file).answer
    assert STATEMENT.items() <= answer.items()
    assert answer["report"] == path
    assert answer["quality"]["synthetic_records"] == 2
    directory.folder.write("privacy.json", b"{")
    assert "runs/demo/privacy.json is damaged" in one_line(run("report", "demo"), 3)


def test_report_without_a_model_warns_in_one_line_and_writes_what_there_is(run: Run, here: Path) -> None:
    take_reported_run(here, [f"{number},x" for number in range(50)])
    said = run("report", "demo")
    assert said.code == 0
    (warning,) = said.err.splitlines()
    assert warning.startswith("warning: the report compares no records: ")
    assert "no model here" in warning
    assert (here / "runs" / "demo" / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--target", "age"], "--target age: no such column; the run's records have field_1, field_2"),
        (["--target", "field_2"], "no model here; a run leaves one when it ends"),
        (["--synthetic", "gone.csv"], "gone.csv: no such file"),
        (["--synthetic", "other.csv"], "other.csv: has the columns a, b, but the run's records have text"),
        (["--synthetic", "other.xls"], "--synthetic other.xls: the file must end in .csv, .jsonl or .parquet"),
        (["--synthetic", "other.csv", "-n", "5"], "-n is for generated records; leave it out with --synthetic"),
    ],
)
def test_what_a_report_cannot_use_is_one_line(run: Run, here: Path, arguments: list[str], line: str) -> None:
    take_reported_run(here, [f"{number},x" for number in range(50)])
    (here / "other.csv").write_text("a,b\n1,2\n")
    assert line in one_line(run("report", "demo", *arguments), 2)
    assert not (here / "runs" / "demo" / "report.html").exists()


SHARE = ("--shareable", "--epsilon", "0.5")
NOISY = {"enabled": True, "noise_multiplier": 1.0}


def take_table_run(here: Path, **sections: Any) -> RunDirectory:
    """A stopped run of a table without a model."""
    job = {"fields": {"text": {"kind": "category", "values": ["a"]}}, "tokenizer": {"kind": "fields"}}
    data = {"data": {"uri": str(here / "records")}}
    return take_reported_run(here, ["a"] * 50, **(job | data | {"privacy": NOISY} | sections))


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"privacy": {"enabled": False}}, "this run was trained without privacy"),
        ({"training": {"batch_size": 10, "save_best": True}}, "its model was chosen by exact losses"),
        ({}, "the privacy statement is written when the run ends or is stopped, not before"),
    ],
)
def test_a_run_without_a_promise_has_no_shareable_report(
    run: Run, here: Path, sections: dict[str, Any], why: str
) -> None:
    take_table_run(here, **sections)
    assert why in one_line(run("report", "demo", *SHARE), 2)
    assert not (here / "runs" / "demo" / "shareable.html").exists()


def test_a_shareable_report_is_of_a_table_that_was_trained_with_noise_and_trains_no_more(run: Run, here: Path) -> None:
    take_reported_run(here, ["a"] * 50, privacy=NOISY)
    assert "this run is of texts" in one_line(run("report", "demo", *SHARE), 2)
    directory = take_table_run(here / "table")
    write_statement(directory, epsilon="infinite")
    assert "trained without noise and claims nothing" in one_line(run("report", directory.uri, *SHARE), 2)
    directory.update_status(state="training")
    assert "still training" in one_line(run("report", directory.uri, *SHARE), 2)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--shareable"], "--shareable and --epsilon are given together"),
        (["--epsilon", "0.5"], "--shareable and --epsilon are given together"),
        ([*SHARE, "--target", "age"], "leave out --target, --synthetic"),
        ([*SHARE, "--synthetic", "real.csv"], "leave out --target, --synthetic"),
        (["--shareable", "--epsilon", "0"], "0.0 is not in the range 0<x<=100"),
        (["--shareable", "--epsilon", "nan"], "--epsilon is no number"),
    ],
)
def test_options_of_a_shareable_report_that_do_not_go_together_are_one_line(
    run: Run, here: Path, arguments: list[str], line: str
) -> None:
    assert line in one_line(run("report", str(here), *arguments), 2)


def test_report_of_a_run_without_an_epoch_is_one_line(run: Run, here: Path) -> None:
    take_run(here, state="preparing")
    for arguments in ([], ["--json"]):
        line = one_line(run("report", "demo", *arguments), 2)
        assert line.endswith("runs/demo: nothing to report yet: no epoch is done; see `runner status`")


@pytest.mark.parametrize("contradicted", [False, True])
def test_an_audit_that_contradicts_the_statement_fails(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch, contradicted: bool
) -> None:
    directory = private_run(here)
    answer = {"run": directory.uri, "contradicted": contradicted}
    attacked: list[str] = []

    def audit_run(directory: RunDirectory) -> tuple[dict[str, Any], str]:
        attacked.append(directory.uri)
        return answer, "what was found"

    monkeypatch.setitem(sys.modules, "runner.train.audit", SimpleNamespace(audit_run=audit_run))
    assert run("audit", "demo") == Result(int(contradicted), "what was found\n", "")
    result = run("audit", "demo", "--json")
    assert (result.code, result.answer) == (int(contradicted), answer)
    assert attacked == [directory.uri] * 2
