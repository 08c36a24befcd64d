"""Promise 20: what is looked up in private records is noised and charged, and what is declared is said to be.

The judge of the noise is an attack: whoever sees a release guesses whether one record was in it. What is found is a
lower bound of epsilon that holds with 99.9% confidence (Clopper and Pearson 1934; Jagielski et al. 2020,
arXiv:2006.07709), and may not pass the claim.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from scipy import stats

from runner.data.batches import plan_batches
from runner.errors import DataError, JobFailedError, PrivacyError
from runner.privacy.accountant import Histogram, Release, epsilon
from runner.privacy.budget import SpendingLedger, plan_delta
from runner.privacy.ledger import RunLedger
from runner.privacy.releases import Counts, noisy_histograms, plan_release, threshold_for
from runner.storage import open_folder
from runner.train import private_run
from tests.promises.private_runs import config_of, private_job, report_of, resume, start
from tests.runs import names_of_no_run

TRIALS = 200_000
CONFIDENCE = 0.999
DELTA = 1e-2
"""Large, so that so few trials can see a claim's edge."""

# 20. The attack


def release_of(histograms: int, target: float) -> Release:
    names = [f"column {i}" for i in range(histograms)]
    return plan_release("schema", dict.fromkeys(names, 1.0), (), target, DELTA)


def attack(release: Release, exact: Mapping[str, tuple[int, int]] | None = None) -> float:
    """A lower bound of epsilon, from releases of `TRIALS` pairs of neighbours: one record in, and emptied.

    Every cell of a histogram is a trial of its own: the record's cell, with and without it (`exact`, or one more). The
    attacker weighs the cells by their noise and by how they move, as the likelihood does, and picks the threshold on
    trials that are not counted.
    """
    values = exact or {each.name: (51, 50) for each in release.histograms}
    scores: list[NDArray[np.float64]] = []
    for record in (0, 1):
        noisy = noisy_histograms(
            {name: Counts(np.full(2 * TRIALS, each[record])) for name, each in values.items()}, release
        )
        weighed = [
            (values[each.name][0] - values[each.name][1]) * noisy[each.name].counts / each.sigma**2
            for each in release.histograms
        ]
        scores.append(np.sum(weighed, axis=0))
    inside, outside = scores
    thresholds = np.quantile(inside[:TRIALS], np.linspace(0.01, 0.99, 99))
    best = max(thresholds, key=lambda t: lower_bound(inside[:TRIALS] >= t, outside[:TRIALS] >= t))
    return lower_bound(inside[TRIALS:] >= best, outside[TRIALS:] >= best)


def lower_bound(hits: NDArray[np.bool_], false_alarms: NDArray[np.bool_]) -> float:
    """Of epsilon, by (epsilon, delta): hits <= e^epsilon false alarms + delta."""
    risk = (1 - CONFIDENCE) / 2
    least = stats.beta.ppf(risk, hits.sum(), hits.size - hits.sum() + 1)
    most = stats.beta.ppf(1 - risk, false_alarms.sum() + 1, false_alarms.size - false_alarms.sum())
    return math.log(max((least - DELTA) / most, 1e-9))


@pytest.mark.parametrize(("histograms", "target"), [(1, 1.0), (3, 1.0), (12, 0.5)])
def test_20_an_attack_on_a_release_finds_no_more_than_is_claimed(histograms: int, target: float) -> None:
    found = attack(release_of(histograms, target))
    assert found <= target
    assert found > 0.75 * target, "the attack is blind: a claim of three quarters would pass, too"


def test_20_the_attack_contradicts_a_claim_that_is_too_small() -> None:
    """Of noise for one histogram on three of them."""
    (one,) = release_of(1, 1.0).histograms
    assert attack(Release("schema", tuple(replace(one, name=name) for name in "abc"))) > 1.2


def test_20_a_value_of_a_single_record_is_released_as_seldom_as_delta_says() -> None:
    each_delta = 2e-4
    histogram = Histogram("job", 4.0, threshold_for(4.0, each_delta))
    values = tuple(map(str, range(TRIALS)))
    found = noisy_histograms({"job": Counts(np.ones(TRIALS, np.int64), values)}, Release("schema", (histogram,)))
    released = len(found["job"].counts)
    assert stats.binomtest(released, TRIALS, histogram.threshold_delta).pvalue > 1e-4
    assert histogram.threshold_delta <= each_delta
    paid = replace(histogram, threshold=None)
    assert epsilon([(Release("x", (histogram,)), 1)], 1e-2) == epsilon(
        [(Release("x", (paid,)), 1)], 1e-2 - histogram.threshold_delta
    )


# 20. Whole runs

ROWS = 2000
TRAINED = 1600
FIELDS: dict[str, Any] = {
    "sex": {"kind": "category", "values": ["f", "m"]},
    "job": {"kind": "category"},
    "wage": {"kind": "integer", "range": [0, 5000], "exact": False},
}


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = np.random.default_rng(3)
    folder = tmp_path_factory.mktemp("people")
    jobs = draw.choice(["clerk", "cook", "nurse"], ROWS).tolist()
    jobs[7] = "emperor"
    rows = {"sex": draw.choice(["f", "m"], ROWS), "job": jobs, "wage": draw.integers(0, 5000, ROWS)}
    pq.write_table(pa.table(rows), folder / "part-0.parquet")
    return folder


def table_job(name: str, people: Path, runs: Path, fields: Any = None, **privacy: Any) -> dict[str, Any]:
    """Two steps on a table whose jobs are looked up."""
    settings = {"noise_multiplier": 4.0, "schema_epsilon": 1.0, "accountant": "rdp"}
    job = private_job(name, people, runs, settings | privacy, epochs=1, batch_size=800)
    job["training"]["validation_split"] = False
    del job["tokenizer"]
    job.pop("examples", None)
    return job | {"fields": fields or FIELDS, "data": {"uri": str(people)}}


@pytest.fixture(scope="session")
def bought(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start(table_job("bought", people, tmp_path_factory.mktemp("runs")))


def stored(run: Path) -> dict[str, Any]:
    return json.loads((run / "private" / "schema.json").read_text())


def charges(runs: Path) -> list[tuple[str, int, int]]:
    """Of the ledger over runs: each entry's run, its steps and its releases."""
    entries = SpendingLedger(open_folder(str(runs))).read()
    return [(entry.name, entry.steps, len(entry.releases)) for entry in entries]


def test_20_a_bought_schema_costs_what_the_job_says_and_is_in_every_ledger(bought: Path) -> None:
    report, state = report_of(bought), RunLedger.open(open_folder(str(bought))).state
    (release,) = report["releases"]
    assert 0.9 < release["epsilon"] <= 1.0
    assert report["epsilon"] > release["epsilon"]
    assert report["epsilon"] == epsilon([(state.releases[0], 1), (state.mechanism, 2)], state.delta, "rdp")
    assert Release.from_plain(stored(bought)["release"]) == state.releases[0]
    first, *_, last = charges(bought.parent)
    assert first == ("bought", 2, 1), "charged before it was drawn, with the steps to come"
    assert last == ("bought", 2, 1), "and for good"


def test_20_the_value_of_one_record_is_not_in_the_schema(bought: Path) -> None:
    for file in (bought / "model").rglob("*"):
        assert file.is_dir() or b"emperor" not in file.read_bytes()
    assert stored(bought)["histograms"]["job.values"]["values"] == ["clerk", "cook", "nurse"]


def test_20_the_statement_says_what_was_looked_up_and_what_was_declared(bought: Path) -> None:
    page = (bought / "privacy.md").read_text()
    for name in ("job.values", "wage.parts"):
        assert f"| {name} |" in page
    schema = report_of(bought)["also_touched_the_records"]["schema"]
    assert "looked up with noise, inside epsilon: job (values), wage (parts)" in schema
    assert schema.startswith("declared public by the job: sex, job, wage, but for what was looked up")


def test_20_a_declared_schema_costs_nothing_and_is_said_to_be_declared(people: Path, tmp_path: Path) -> None:
    declared = FIELDS | {"job": {"kind": "category", "values": ["clerk", "cook", "nurse"], "outside": "rare"}}
    run = start(table_job("declared", people, tmp_path, declared, schema_epsilon=None))
    report = report_of(run)
    assert report["releases"] == []
    assert not (run / "private" / "schema.json").exists()
    assert "declared public by the job: sex, job, wage" in report["also_touched_the_records"]["schema"]
    assert "nothing was looked up" in report["also_touched_the_records"]["schema"]


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Kills the next run at a function of `private_run`."""

    def die(at: str, *, before: bool) -> None:
        there = getattr(private_run, at)

        def dies(*arguments: Any, **options: Any) -> Any:
            if not before:
                there(*arguments, **options)
            monkeypatch.setattr(private_run, at, there)
            raise JobFailedError("killed")

        monkeypatch.setattr(private_run, at, dies)

    return die


def test_20_a_run_that_is_killed_before_it_draws_is_charged_once_and_draws_once(
    people: Path, tmp_path: Path, dying: Any
) -> None:
    dying("released_once", before=True)
    with pytest.raises(JobFailedError, match="killed"):
        start(table_job("early", people, tmp_path))
    assert charges(tmp_path) == [("early", 2, 1)]
    assert not (tmp_path / "early" / "private" / "schema.json").exists()
    resume(tmp_path / "early")
    assert {charged[2] for charged in charges(tmp_path)} == {1}
    assert report_of(tmp_path / "early")["steps"] == 2


def test_20_a_run_that_is_killed_after_it_drew_uses_what_it_drew(people: Path, tmp_path: Path, dying: Any) -> None:
    dying("released_once", before=False)
    with pytest.raises(JobFailedError, match="killed"):
        start(table_job("late", people, tmp_path))
    before = stored(tmp_path / "late")
    resume(tmp_path / "late")
    assert stored(tmp_path / "late") == before
    model = json.loads((tmp_path / "late" / "tokenizer" / "tokenizer.json").read_text())
    assert model["schema"]["fields"][1]["values"] == before["histograms"]["job.values"]["values"]


def test_20_tokens_of_a_bought_schema_are_no_other_run_s(people: Path, tmp_path: Path) -> None:
    """Nor are those of a job without privacy that says the same of its fields, which hold exact counts."""
    plain = table_job("plain", people, tmp_path)
    plain["privacy"] = {"enabled": False}
    plain["training"] |= {"early_stopping": {"enabled": False}, "save_best": False}
    start(plain)
    runs = [start(table_job(name, people, tmp_path)) for name in ("one", "two")]
    assert stored(runs[0])["histograms"] != stored(runs[1])["histograms"]
    assert len(list((tmp_path / ".cache" / "tokens").iterdir())) == 3
    assert [name for name, _, releases in charges(tmp_path) if releases][-1] == "two"


def test_20_a_run_that_is_replaced_is_not_refunded(people: Path, tmp_path: Path) -> None:
    before = stored(start(table_job("same", people, tmp_path)))
    job = table_job("same", people, tmp_path)
    job["storage"] |= {"overwrite": True}
    assert names_of_no_run(start(job)) == []
    assert stored(tmp_path / "same") != before, "the records may be others now"
    entries = {entry.run_id: entry for entry in SpendingLedger(open_folder(str(tmp_path))).read()}
    assert [len(entry.releases) for entry in entries.values()] == [1, 1]
    report = report_of(tmp_path / "same")
    assert sum("histograms" in earlier for earlier in report["earlier_runs"]) == 1


def refusal(ask: Callable[[], object]) -> str:
    """Why it was refused; empty where it was not."""
    try:
        ask()
    except PrivacyError as error:
        return str(error)
    return ""


def test_20_max_epsilon_is_checked_before_anything_is_looked_up(people: Path, tmp_path: Path) -> None:
    job = table_job("broke", people, tmp_path, max_epsilon=0.9)
    assert "what is looked up in the records takes" in refusal(lambda: start(job))
    assert charges(tmp_path) == []


def test_20_a_schema_that_ends_the_run_costs_what_was_looked_up_alone(people: Path, tmp_path: Path) -> None:
    """The rest is for the next try, which declares what did not stand out."""
    fields = FIELDS | {"job": {"kind": "category", "min_count": 10**6}}
    with pytest.raises(DataError, match=r"no value of fields\.job stands out"):
        start(table_job("poor", people, tmp_path, fields))
    assert charges(tmp_path) == [("poor", 2, 1), ("poor", 0, 1)]


def test_20_delta_is_below_one_in_all_records_that_are_looked_at(people: Path, tmp_path: Path) -> None:
    """Those for validation among them, which are looked at, too."""
    job = table_job("risky", people, tmp_path, delta=0.9 / TRAINED)
    job["training"] |= {"validation_split": True, "batch_size": 400}
    config = config_of(job)
    assert plan_batches(config, ROWS).training_examples == TRAINED
    assert plan_delta(config, TRAINED) == 0.9 / TRAINED
    assert "for 2000 records that are looked at" in refusal(lambda: private_run.check_privacy(config, ROWS, ()))
