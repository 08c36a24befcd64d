"""Reports of runs that were really trained, with records that their own models generate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.ray.test_private_runs import private_job
from tests.ray.test_runs import train
from tests.runs import run_runner, small_job


@pytest.fixture(scope="module")
def trained(records: Path, runs: Path) -> Path:
    return train(small_job("reported", records, runs, epochs=4))


def test_a_report_compares_what_the_model_generates_and_says_the_same_each_time(trained: Path) -> None:
    first = json.loads(run_runner("report", trained, "--json", "--target", "field_3", "-n", "200").stdout)
    page = (trained / "report.html").read_bytes()
    quality = first["quality"]
    assert quality["synthetic_records"] == 200
    assert len(quality["columns"]) == 3
    assert 0 < quality["column_distance_of_holdout"] < quality["column_distance"] < 1
    assert quality["usefulness"]["tested_on"] > 100
    again = json.loads(run_runner("report", trained, "--json", "--target", "field_3", "-n", "200").stdout)
    assert again == first
    assert (trained / "report.html").read_bytes() == page


def test_a_private_run_s_report_is_beside_the_model_and_leaves_the_statement_as_it_was(
    records: Path, runs: Path
) -> None:
    run = train(private_job("private-reported", records, runs))
    before = {path.name: path.read_bytes() for path in (run / "model").iterdir()}
    statement = json.loads((run / "privacy.json").read_text())
    answer = json.loads(run_runner("report", run, "--json", "-n", "50").stdout)
    assert statement.items() <= answer.items()
    assert "report.html: the same figures" in " ".join(statement["not_covered"])
    page = (run / "report.html").read_text()
    assert "Epsilon does not cover" in page
    assert {path.name: path.read_bytes() for path in (run / "model").iterdir()} == before
