"""The privacy statement says what its state says, in numbers and in plain words, and nothing that was measured."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any

import pytest

from runner.config import JobConfig, parse_job
from runner.privacy.accountant import Histogram, Mechanism, Release, epsilon, epsilon_unamplified
from runner.privacy.ledger import Branch, LedgerState
from runner.privacy.report import privacy_page, privacy_report, to_files

MECHANISM = Mechanism(examples=400, batch_size=20, noise_multiplier=2.0, l2_norm_clip=0.5)
OTHER = Mechanism(examples=400, batch_size=40, noise_multiplier=3.0)
STATE = LedgerState(
    run_id="a run",
    tokens="some tokens",
    mechanism=MECHANISM,
    delta=1e-4,
    accountant="pld",
    limit=None,
    before=((OTHER, 7),),
    allowed_steps=None,
    files=("secret fingerprint",),
    branches=(Branch("x", -1, 0, 30), Branch("y", 0, 20, 50)),
)


def job(**sections: Any) -> JobConfig:
    document = {
        "name": "demo",
        "data": {"uri": "s3://secret-bucket/records/"},
        "tokenizer": {"kind": "byte"},
        "privacy": {"enabled": True, "noise_multiplier": 2.0},
    }
    return parse_job({**document, **sections}, environment={})


def test_steps_of_all_branches_are_counted() -> None:
    report = privacy_report(job(), STATE)
    assert report["steps_of_branches"] == [30, 30]
    assert report["steps"] == 60
    assert report["epsilon"] == report["epsilon_pld"] == epsilon([(MECHANISM, 60)], 1e-4)
    assert report["epsilon_rdp"] == epsilon([(MECHANISM, 60)], 1e-4, "rdp")
    assert report["epsilon_unamplified"] == epsilon_unamplified([(MECHANISM, 60)], 1e-4)
    assert "60 (30 + 30: the run went on under other conditions" in privacy_page(report)


def test_what_a_shareable_report_counted_is_in_the_claim_and_in_the_figures() -> None:
    release = Release("report-1-0.5", (Histogram("age", 5.0), Histogram("age x sex", 5.0)))
    report = privacy_report(job(), replace(STATE, releases=(release,)))
    assert report["epsilon"] == epsilon([(release, 1), (MECHANISM, 60)], 1e-4)
    page = privacy_page(report)
    assert "Whoever reads the model and the shareable report learns little" in page
    assert "## Counts for a shareable report" in page
    assert "| age x sex | 5 | all cells, which are public |" in page
    assert "shareable.html" in " ".join(report["covered"])
    assert "shareable" not in privacy_page(privacy_report(job(), STATE))


def test_the_accountant_of_the_job_gives_the_headline() -> None:
    report = privacy_report(job(), replace(STATE, accountant="rdp"))
    assert report["epsilon"] == report["epsilon_rdp"] > report["epsilon_pld"]
    assert f"**{report['epsilon_rdp']:.4f}** (RDP)" in privacy_page(report)


def test_earlier_runs_on_the_same_files_are_listed_and_added_up() -> None:
    report = privacy_report(job(), STATE)
    (earlier,) = report["earlier_runs"]
    assert (earlier["steps"], earlier["batch_size"], earlier["noise_multiplier"]) == (7, 40, 3.0)
    assert report["epsilon_with_earlier_runs"] == epsilon([(OTHER, 7), (MECHANISM, 60)], 1e-4)
    assert report["epsilon_with_earlier_runs"] > report["epsilon"]
    assert privacy_report(job(), replace(STATE, before=()))["epsilon_with_earlier_runs"] == report["epsilon"]


def test_a_run_without_noise_claims_nothing() -> None:
    silent = replace(STATE, mechanism=replace(MECHANISM, noise_multiplier=0.0))
    report = privacy_report(job(privacy={"enabled": True, "noise_multiplier": 0}), silent)
    assert {report[name] for name in ("epsilon", "epsilon_pld", "epsilon_rdp", "epsilon_unamplified")} == {"infinite"}
    page = privacy_page(report)
    assert "This run claims no privacy" in page
    assert "at most" not in page.split("## ")[0]


def test_the_claim_is_the_odds_that_epsilon_stands_for() -> None:
    report = privacy_report(job(), STATE)
    told = re.search(r"a factor of at most ([0-9.,]+) \(", privacy_page(report))
    assert told
    odds = math.exp(report["epsilon"])
    assert odds <= float(told[1].replace(",", "")) <= 1.01 * odds


def test_the_files_hold_plain_json_and_the_page_of_it() -> None:
    report = privacy_report(job(), STATE)
    files = to_files(report)
    assert sorted(files) == ["privacy.json", "privacy.md"]
    assert json.loads(files["privacy.json"]) == report
    assert files["privacy.md"].decode() == privacy_page(json.loads(files["privacy.json"]))


def test_nothing_about_the_files_is_in_the_statement() -> None:
    for content in to_files(privacy_report(job(), STATE)).values():
        assert b"secret" not in content.replace(b"secret 256-bit key", b"")


@pytest.mark.parametrize(
    ("sections", "name", "words"),
    [
        ({}, "tokenizer", "nothing is learned"),
        ({"tokenizer": {"kind": "char", "alphabet": "ab"}}, "tokenizer", "an alphabet that the job fixes"),
        ({}, "validation", "every 5th batch"),
        ({"training": {"validation_split": False}}, "validation", "none"),
        ({}, "selection of the epoch", "none: the last epoch"),
        ({"training": {"save_best": True}}, "selection of the epoch", "epsilon does not cover"),
        ({}, "early stopping", "off"),
        ({"training": {"early_stopping": {"enabled": True}}}, "early stopping", "epsilon does not cover"),
        ({"training": {"callbacks": ["a.b:c"]}}, "callbacks", "a.b:c: they see exact metrics"),
        ({"training": {"epoch_callback": "a.b:d"}}, "callbacks", "a.b:d: they see exact metrics"),
        ({}, "sweep", "none"),
    ],
)
def test_what_else_touched_the_records_is_said(sections: dict[str, Any], name: str, words: str) -> None:
    report = privacy_report(job(**sections), STATE)
    assert words in report["also_touched_the_records"][name]
    assert words in privacy_page(report)


@pytest.mark.parametrize(
    ("tokenizer", "vocabulary", "covered"),
    [
        ({"kind": "sentencepiece", "uri": "a.model"}, "public", True),
        ({"kind": "sentencepiece", "uri": "a.model"}, "private", False),
        ({"kind": "sentencepiece"}, "private", False),
        ({"kind": "char"}, "private", False),
    ],
)
def test_a_vocabulary_of_the_records_is_said_to_be_outside_epsilon(
    tokenizer: dict[str, Any], vocabulary: str, covered: bool
) -> None:
    privacy = {"enabled": True, "noise_multiplier": 2.0, "vocabulary": vocabulary}
    said = privacy_report(job(tokenizer=tokenizer, privacy=privacy), STATE)["also_touched_the_records"]["tokenizer"]
    assert ("epsilon does not cover it" in said) != covered
    assert ("declares public" in said) == covered
