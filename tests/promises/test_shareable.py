"""Promise 20 for a report that may be shared: it is charged before it counts, counts once, and shows nothing else."""

from __future__ import annotations

import re
import runpy
import time
from pathlib import Path
from typing import Any

import dp_accounting
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.errors import JobFailedError, OvertakenError
from runner.privacy.accountant import Release
from runner.privacy.ledger import RunLedger
from runner.privacy.releases import Counts
from runner.report import shareable
from runner.run_directory import RunDirectory
from runner.storage import open_folder
from tests.promises.private_runs import report_of, resume, start
from tests.promises.test_draws import DECLARED, TARGET, drawn_job
from tests.promises.test_looked_up import ROWS, charges, people, refusal, table_job
from tests.runs import ROOT, names_of_no_run

__all__ = ["people"]
EPSILON = 0.5
NAME = "report-1-0.5"
METHODS = ("marginals", "steps")


def ask(run: Path, epsilon: float = EPSILON) -> dict[str, Any]:
    """The answer of the command."""
    return shareable.share_report(RunDirectory.find(str(run)), target=epsilon, count=500)[0]


def job_of(method: str, name: str, people: Path, runs: Path, **privacy: Any) -> dict[str, Any]:
    if method == "marginals":
        job = drawn_job(name, people, runs, DECLARED)
        return job | {"privacy": job["privacy"] | privacy}
    return table_job(name, people, runs, DECLARED, schema_epsilon=None, **privacy)


@pytest.fixture(scope="module", params=METHODS)
def shared(request: pytest.FixtureRequest, people: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run, its statement before, and the answer."""
    run = start(job_of(request.param, request.param, people, tmp_path_factory.mktemp("runs")))
    before = report_of(run)
    return run, before, ask(run)


@pytest.fixture(scope="module")
def plain(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that several tests make reports of, each at an epsilon of its own."""
    return start(job_of("marginals", "plain", people, tmp_path_factory.mktemp("runs")))


def release_of(run: Path, name: str = NAME) -> Release:
    releases = {each.name: each for each in RunLedger.open(open_folder(str(run))).state.releases}
    assert name in releases, "not in the run's ledger"
    return releases[name]


def test_20_a_shareable_report_costs_what_was_asked_and_is_in_every_ledger(shared: Any) -> None:
    run, before, answer = shared
    release, delta = release_of(run), report_of(run)["delta"]
    assert 0.95 * EPSILON < answer["report_epsilon"] <= EPSILON
    # As one Gaussian mechanism of all histograms: 1 / sigma^2 adds up.
    together = sum(1 / each.sigma**2 for each in release.histograms) ** -0.5
    judged = dp_accounting.get_epsilon_gaussian(together, delta)
    assert judged == pytest.approx(EPSILON, rel=0.15), "an rdp accountant is an upper bound"
    assert judged <= EPSILON
    assert charges(run.parent)[-1][2] == len(before["releases"]) + 1
    after = report_of(run)
    assert after["epsilon"] > before["epsilon"]
    script = runpy.run_path(str(ROOT / "docs" / "recompute_epsilon.py"))
    assert script["agrees"](after["epsilon"], script["recompute"](after)["epsilon"])
    assert (run / "model" / "privacy.json").read_bytes() != (run / "privacy.json").read_bytes()
    page = (run / "privacy.md").read_text()
    assert "Whoever reads the model and the shareable report learns little" in page
    assert "| sex x job |" in page
    assert names_of_no_run(run) == []


def test_20_asked_again_a_report_is_the_same_and_costs_nothing(shared: Any) -> None:
    run, _, answer = shared
    stored, page = (run / "private" / f"{NAME}.json").read_bytes(), (run / "shareable.html").read_bytes()
    paid = charges(run.parent)
    assert ask(run) == answer
    assert (run / "private" / f"{NAME}.json").read_bytes() == stored
    assert (run / "shareable.html").read_bytes() == page
    assert charges(run.parent) == paid


def test_20_a_report_that_is_killed_before_it_counts_is_charged_once(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = plain / "private" / "report-1-0.25.json"

    def dies(*_arguments: Any) -> Any:
        raise JobFailedError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(shareable, "released_once", dies)
        with pytest.raises(JobFailedError, match="killed"):
            ask(plain, 0.25)
    paid = charges(plain.parent)
    release = release_of(plain, "report-1-0.25")
    assert paid[-1][2] >= 3, "charged before it was drawn"
    assert release.name in (plain / "privacy.json").read_text(), "and said"
    assert not file.exists()
    ask(plain, 0.25)
    assert file.exists()
    assert charges(plain.parent) == paid


def test_20_max_epsilon_is_checked_before_a_report_counts(people: Path, tmp_path: Path) -> None:
    run = start(job_of("marginals", "broke", people, tmp_path, max_epsilon=TARGET + 0.01))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    why = refusal(lambda: ask(run))
    assert "privacy.max_epsilon 3.01 does not pay for the report: this run and others" in why
    assert re.search(r"took epsilon (2\.99\d|3\.000), and with the report it would be 3\.[0-4]\d\d; ask for less", why)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_20_a_report_shows_nothing_of_the_records_but_noisy_counts(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quite other records, as many, and the same noisy counts: the same page, letter for letter."""
    file, rows = tmp_path / "records" / "part-0.parquet", pq.read_table(people)
    file.parent.mkdir()
    pq.write_table(rows, file)
    run = start(job_of("marginals", "blind", file.parent, tmp_path / "runs"))
    first, page = ask(run), (run / "shareable.html").read_bytes()
    stored = run / "private" / f"{NAME}.json"
    noisy = stored.read_bytes()
    stored.unlink()

    files = shareable.source_files(RunDirectory.find(str(run)).read_config())
    monkeypatch.setattr(shareable, "source_files", lambda *_: files)  # By their old fingerprints.
    pq.write_table(pa.concat_tables([rows.slice(7, 1)] * ROWS), file)
    exact: dict[str, Counts] = {}
    released_once = shareable.released_once

    def fixed(folder: Any, release: Release, count: Any) -> Any:
        exact.update(count())
        stored.write_bytes(noisy)
        return released_once(folder, release, count)

    monkeypatch.setattr(shareable, "released_once", fixed)
    assert ask(run) == first
    assert (run / "shareable.html").read_bytes() == page
    assert {int(each.counts.max()) for each in exact.values()} == {ROWS}, "the records are others indeed"


def test_20_a_run_that_goes_on_after_a_report_stays_charged_for_it(plain: Path) -> None:
    ask(plain, 0.75)
    stored, paid = (plain / "private" / "report-1-0.75.json").read_bytes(), charges(plain.parent)[-1][2]
    resume(plain, "training.epochs=3")
    assert "report-1-0.75" in [release["name"] for release in report_of(plain)["releases"]]
    assert charges(plain.parent)[-1][2] == paid
    ask(plain, 0.75)
    assert (plain / "private" / "report-1-0.75.json").read_bytes() == stored


def test_20_a_report_of_a_run_that_is_resumed_meanwhile_is_not_made(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resume's ledger does not know of the release, and would forget that it was charged."""
    run, charge = RunDirectory.find(str(plain)), shareable.charge_report

    def late(*arguments: Any) -> None:
        run.enter(f"{time.time() + 60:017.6f}-000002")
        charge(*arguments)

    monkeypatch.setattr(shareable, "charge_report", late)
    before = (plain / "private" / "ledger.json").read_bytes()
    with pytest.raises(OvertakenError):
        ask(plain, 0.125)
    assert (plain / "private" / "ledger.json").read_bytes() == before
    assert not (plain / "private" / "report-1-0.125.json").exists()
