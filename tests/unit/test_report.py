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
from runner.privacy.chain import chain_of
from runner.privacy.figures import epsilon_in_words
from runner.privacy.group_privacy import epsilon_of_group
from runner.privacy.ledger import Branch, LedgerState
from runner.privacy.report import privacy_report, to_files
from runner.privacy.statement_page import privacy_page

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
    assert "| age x sex | 5 | 50.00% | all cells, which are public |" in page
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


def test_the_claim_is_the_factor_on_a_probability_that_epsilon_stands_for() -> None:
    report = privacy_report(job(), STATE)
    page = privacy_page(report)
    told = re.search(r"the probability of that conclusion by a factor of at most ([0-9.,]+) \(", page)
    assert told
    assert "odds" not in page
    factor = math.exp(report["epsilon"])
    assert factor <= float(told[1].replace(",", "")) <= 1.01 * factor


def test_several_records_of_one_person_have_figures_of_their_own() -> None:
    report = privacy_report(job(), STATE)
    figures = report["epsilon_of_records"]
    assert list(figures) == ["1", "2", "5", "10"]
    assert figures["1"] == report["epsilon_pld"]
    assert figures["5"] == epsilon_of_group([(MECHANISM, 60)], 1e-4, 5) > figures["2"] > figures["1"]
    assert f"5 records {epsilon_in_words(figures['5'])}" in privacy_page(report)


def link(run: str, epsilon: float | str, delta: float) -> dict[str, Any]:
    """A link as the statement of a run makes it."""
    (found,) = chain_of(privacy_report(job(name=run), STATE) | {"epsilon_of_run": epsilon, "delta_of_run": delta})
    return found


def test_of_a_series_the_largest_epsilon_and_delta_are_the_headline_and_every_run_is_listed() -> None:
    alone = privacy_report(job(), STATE)
    assert alone["chain"] == []
    assert "goes on from" not in privacy_page(alone)
    weaker, stronger = link("first", 9.5, 1e-6), link("second", 0.25, 2e-4)
    report = privacy_report(job(), STATE, chain=[weaker, stronger])
    assert (report["epsilon"], report["delta"]) == (9.5, 2e-4)
    assert (report["epsilon_of_run"], report["delta_of_run"]) == (alone["epsilon"], 1e-4)
    page = privacy_page(report)
    assert "(e to the power of 9.500), but for a probability of 0.0002" in page
    for row in ("| first | 9.5000 | 1e-06 |", "| second | 0.2500 | 0.0002 |", "| demo | "):
        assert row in page
    assert [each["run"] for each in chain_of(report)] == ["first", "second", "demo"]
    assert chain_of(report)[-1]["epsilon"] == alone["epsilon"], "each run's own, not the largest again"
    assert privacy_report(job(), STATE, chain=[stronger])["epsilon"] == alone["epsilon"]


def test_after_a_run_without_noise_nothing_is_claimed() -> None:
    report = privacy_report(job(), STATE, chain=[link("first", "infinite", 1e-4)])
    assert report["epsilon"] == "infinite"
    assert "little about" not in privacy_page(report)


@pytest.mark.parametrize(
    ("ending", "branches", "by_time"),
    [
        ("all epochs done", 1, False),
        ("privacy budget spent", 1, False),
        ("early stopping", 1, False),
        ("stopped", 1, True),
        ("time limit", 1, True),
        ("failed", 1, True),
        ("all epochs done", 2, True),
    ],
)
def test_a_number_of_steps_that_time_decided_is_said_to_be_outside_epsilon(
    ending: str, branches: int, by_time: bool
) -> None:
    report = privacy_report(job(), replace(STATE, branches=STATE.branches[:branches]), ending=ending)
    page = privacy_page(report)
    assert (report["ended"], report["steps_depend_on_time"]) == (ending, by_time)
    assert ("does not cover how many steps the run took" in page.split("## ")[0]) == by_time
    assert ("epsilon does not cover how many steps it took" in page) == by_time
    assert "- end of the run: " in page


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


def test_each_histogram_s_share_of_the_cost_is_said() -> None:
    """Costs of noisy counts add up in squares of 1 / sigma: half the noise is four times the cost."""
    wide = Release("schema", (Histogram("job.values", 20.0, 90), Histogram("wage.parts", 20.0)))
    page = privacy_page(
        privacy_report(job(), replace(STATE, releases=(wide, Release("columns", (Histogram("job", 10.0),)))))
    )
    assert "| job.values | 20 | 16.67% | 90 |" in page
    assert "| job | 10 | 66.67% | all cells, which are public |" in page


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
