"""Every command of README.md and docs/*.md runs in order, from an empty folder, and ends as the page says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.docs.newcomer import SMALL, Newcomer, write_claims
from tests.docs.pages import ROOT, page_named


@pytest.fixture
def newcomer(tmp_path: Path) -> Newcomer:
    folder = tmp_path / "here"
    folder.mkdir()
    return Newcomer(folder, variables=SMALL)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `claims.csv` and all that README.md's commands make of it up to a trained run `claims`.

    Its tokens are characters: so few epochs of others draw bytes that break lines, which are no records in a pipe.
    """
    folder = tmp_path_factory.mktemp("trained") / "here"
    folder.mkdir()
    write_claims(folder / "claims.csv")
    Newcomer(folder, variables=SMALL | {"RUNNER_TOKENIZER__KIND": "char"}).run(
        """\
        runner import claims.csv records/
        runner init job.yaml --name claims --data records/ --columns age,code,amount --field-delimiter ,
        runner submit job.yaml
        """
    )
    return folder


@pytest.fixture
def owner(newcomer: Newcomer, trained: Path) -> Newcomer:
    """A newcomer who has trained a run `claims` already."""
    shutil.copytree(trained, newcomer.folder, dirs_exist_ok=True)
    return newcomer


def test_the_readme(newcomer: Newcomer) -> None:
    write_claims(newcomer.folder / "claims.csv")
    newcomer.follow(page_named("README.md"))


def test_own_data(newcomer: Newcomer) -> None:
    write_claims(newcomer.folder / "claims.csv")
    newcomer.follow(page_named("own-data.md"))


def test_tables(newcomer: Newcomer) -> None:
    write_claims(newcomer.folder / "claims.csv")
    newcomer.follow(page_named("tables.md"))


def test_generating(owner: Newcomer) -> None:
    owner.replaced = {"-n 1000000 ": "-n 3000 --rows-per-shard 1000 "}
    owner.follow(page_named("generate.md"))


def test_the_quality_report(owner: Newcomer) -> None:
    """With a private run of a table in place of the page's `adult`."""
    owner.run(
        """\
        runner init private.yaml --name claims-private --data records/ --template private
        runner submit private.yaml --set privacy.draws=5000
        """
    )
    owner.replaced = {"report adult ": "report claims-private "}
    owner.follow(page_named("quality-report.md"))


def test_privacy(newcomer: Newcomer) -> None:
    """In a checkout, as the page says."""
    for folder in ("docs", "examples"):
        shutil.copytree(ROOT / folder, newcomer.folder / folder, ignore=shutil.ignore_patterns("data"))
    newcomer.run("python examples/make_demo_data.py; rm examples/data/randhie-texts/part-0000[123].parquet")
    newcomer.follow(page_named("privacy.md"))


def test_stopping_and_resuming(owner: Newcomer) -> None:
    """Of a run that is done: the page's commands say so, and its last one trains on."""
    owner.run("runner resume claims --set training.epochs=8")
    owner.follow(page_named("resume.md"))


def test_retraining(owner: Newcomer) -> None:
    owner.run("mv job.yaml claims.yaml; rm -r runs")
    owner.follow(page_named("retraining.md"))


def test_sweeps(newcomer: Newcomer) -> None:
    write_claims(newcomer.folder / "claims.csv")
    newcomer.run("runner import claims.csv records/")
    newcomer.variables |= {"RUNNER_SWEEP__TRIALS": "2"}
    newcomer.replaced = {"sweep.trials=40": "sweep.trials=3"}
    newcomer.follow(page_named("sweeps.md"))


def test_tracking(owner: Newcomer) -> None:
    """MLflow's client writes into a folder in place of a server."""
    owner.run("mv job.yaml claims.yaml; rm -r runs")
    owner.variables["MLFLOW_ALLOW_FILE_STORE"] = "true"
    owner.replaced = {"http://mlflow.example.com:5000": "mlruns"}
    owner.follow(page_named("tracking.md"))
    assert list(owner.folder.glob("mlruns/*/*/metrics/loss"))
