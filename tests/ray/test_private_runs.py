"""Whole private runs on one local worker: what they leave, how their budget ends them, how they are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.errors import CorruptError, DataError, PrivacyError
from tests.ray.test_runs import resume, train
from tests.runs import history_of, names_of_no_run, race_for_the_budget, small_job, status_of, write_records


def private_job(name: str, records: Path, runs: Path, **privacy: Any) -> dict[str, Any]:
    job = small_job(name, records, runs) | {"tokenizer": {"kind": "byte"}}
    return job | {"privacy": {"enabled": True, "noise_multiplier": 1.0, **privacy}}


def claim_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "privacy.json").read_text())


@pytest.fixture(scope="module")
def trained(records: Path, runs: Path) -> Path:
    return train(private_job("private", records, runs))


def test_a_private_run_leaves_its_statement_beside_the_run_and_in_the_model(trained: Path) -> None:
    for name in ("privacy.json", "privacy.md"):
        assert (trained / name).read_bytes() == (trained / "model" / name).read_bytes()
    assert (trained / "private" / "key").is_file()
    assert names_of_no_run(trained) == []


def test_history_tells_what_the_run_had_cost_by_each_epoch(trained: Path) -> None:
    rows, claim = history_of(trained), claim_of(trained)
    costs = [float(row["epsilon"]) for row in rows]
    assert 0 < costs[0] < costs[1] == claim["epsilon"]
    assert {float(row["delta"]) for row in rows} == {claim["delta"]}
    assert claim["steps"] == sum(int(row["steps"]) for row in rows) == 44
    assert status_of(trained)["progress"]["epsilon"] == costs[-1]


def test_no_metric_and_no_key_is_in_the_model(trained: Path) -> None:
    secret = (trained / "private" / "key").read_bytes()
    figures = [row[name] for row in history_of(trained) for name in ("loss", "accuracy", "val_loss", "val_accuracy")]
    for file in (trained / "model").iterdir():
        content = file.read_bytes()
        assert secret not in content
        assert not [figure for figure in figures if figure.encode() in content], file


def test_two_private_runs_of_one_job_have_other_batches_and_other_noise(
    trained: Path, records: Path, runs: Path
) -> None:
    again = train(private_job("again", records, runs))
    assert (again / "private" / "key").read_bytes() != (trained / "private" / "key").read_bytes()
    assert history_of(again)[0]["loss"] != history_of(trained)[0]["loss"]


def test_a_target_epsilon_is_met_and_never_passed(records: Path, tmp_path: Path) -> None:
    run = train(private_job("target", records, tmp_path, noise_multiplier=None, target_epsilon=3.0))
    assert 2.9 < claim_of(run)["epsilon"] <= 3.0
    resume(run, "training.epochs=4")
    assert status_of(run)["message"].startswith("privacy budget spent; a larger privacy.max_epsilon goes on")
    assert claim_of(run)["epsilon"] <= 3.0


def test_a_run_ends_at_the_step_that_its_budget_does_not_pay_for_any_more(records: Path, tmp_path: Path) -> None:
    run = train(private_job("capped", records, tmp_path, max_epsilon=1.2))
    claim = claim_of(run)
    assert status_of(run)["message"] == "privacy budget spent"
    assert 22 < claim["steps"] < 44
    assert claim["epsilon"] <= 1.2
    rows = history_of(run)
    assert sum(int(row["steps"]) for row in rows) == claim["steps"], "the epoch that was cut short has its row"
    resume(run, "privacy.max_epsilon=9", "training.epochs=3")
    assert status_of(run)["state"] == "done"
    assert 1.2 < claim_of(run)["epsilon"] < 9


def test_a_second_run_on_the_same_files_pays_for_the_first_too(records: Path, tmp_path: Path) -> None:
    first = train(private_job("one", records, tmp_path))
    second = train(private_job("two", records, tmp_path, max_epsilon=2.0))
    claim = claim_of(second)
    assert claim["earlier_runs"][0]["steps"] == claim_of(first)["steps"]
    assert claim["epsilon"] < claim["epsilon_with_earlier_runs"] <= 2.0
    with pytest.raises(PrivacyError, match="does not pay for a single step: earlier runs on the same files took"):
        train(private_job("three", records, tmp_path, max_epsilon=1.0))
    assert not (tmp_path / "three").exists()


def test_of_two_runs_that_race_for_the_budget_one_is_refused(records: Path, tmp_path: Path) -> None:
    winner, told = race_for_the_budget(tmp_path, records, tmp_path / "runs")
    assert "privacy.max_epsilon 1.2 does not pay for a single step" in told
    assert claim_of(tmp_path / "runs" / winner)["epsilon"] <= 1.2
    assert [(tmp_path / "runs" / name).exists() for name in ("first", "second")].count(True) == 1


def test_a_lost_or_changed_ledger_is_refused_before_anything_is_trained(records: Path, tmp_path: Path) -> None:
    run = train(private_job("lost", records, tmp_path))
    ledger = run / "private" / "ledger.json"
    content = ledger.read_text()
    ledger.write_text(content.replace('"reserved": 44', '"reserved": 4'))
    with pytest.raises(CorruptError, match="does not verify"):
        resume(run, "training.epochs=3")
    ledger.unlink()
    with pytest.raises(CorruptError, match="missing"):
        resume(run, "training.epochs=3")


def test_an_error_after_training_began_leaves_the_run_and_its_ledger(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PrivacyError("no more")

    monkeypatch.setattr("runner.train.worker.settle", refuse)
    with pytest.raises(PrivacyError, match="no more"):
        train(private_job("kept", records, tmp_path))
    assert list((tmp_path / "kept" / "checkpoints").iterdir())
    assert (tmp_path / "kept" / "private" / "ledger.json").is_file()


def test_a_resume_on_changed_records_is_refused(tmp_path: Path) -> None:
    records = write_records(tmp_path / "records")
    run = train(private_job("changed", records, tmp_path / "runs"))
    write_records(records, count=901)
    with pytest.raises(DataError, match="the records changed since this run began"):
        resume(run, "training.epochs=3")


def test_a_damaged_ledger_over_runs_is_refused(records: Path, tmp_path: Path) -> None:
    train(private_job("one", records, tmp_path))
    first = min((tmp_path / ".privacy").glob("*.json"))
    first.write_text(first.read_text().replace('"steps": 44', '"steps": 4'))
    with pytest.raises(CorruptError, match="does not verify"):
        train(private_job("two", records, tmp_path))
    assert not (tmp_path / "two").exists()
