"""The privacy promises, in their order; `tests/mutants` breaks each on purpose and sees a test here fail."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dp_accounting import pld, rdp
from numpy.typing import NDArray

from runner.data import batches
from runner.data.batches import BatchPlan, PoissonPlan
from runner.data.examples import Examples
from runner.errors import ConfigError, PrivacyError
from runner.privacy.accountant import Mechanism, check_delta, epsilon
from runner.privacy.budget import SpendingLedger, plan_mechanism
from runner.privacy.statement_page import privacy_page
from runner.storage import open_folder
from runner.submit.launch import Launch
from runner.submit.start import start_run
from runner.train import worker
from runner.train.feed import Feed
from tests.promises import replicated
from tests.promises.conftest import MECHANISM, PAID_STEPS, Watched
from tests.promises.private_runs import (
    BATCH,
    CLIP,
    NOISE,
    RECORDS,
    STEPS,
    TRAINED,
    config_of,
    examples_of,
    private_job,
    releases,
    report_of,
    resume,
    start,
    watched_batches,
)
from tests.promises.replicated import Replicated, Rows, measured, random_rows
from tests.runs import history_of, status_of, weights_of, write_records

EXACT_METRICS = ("loss", "accuracy", "val_loss", "val_accuracy")


def plan_of(validation_split: bool = True) -> PoissonPlan:
    return PoissonPlan(RECORDS, BATCH, 0, validation_split, key=(1, 2))


def worst_correlation(vectors: Sequence[NDArray[Any]]) -> float:
    return max(abs(float(np.corrcoef(one, two)[0, 1])) for one, two in itertools.combinations(vectors, 2))


# 1. The sampler that runs is the one that is accounted; a mismatch refuses to start.


def test_01_the_sampler_that_runs_is_the_one_that_is_accounted(whole: Watched) -> None:
    """Independent coins: over an epoch an example is drawn 1 time on average, with variance 1 - q."""
    trained = whole.seen.trained
    assert len(trained) == 3 * STEPS
    sizes = np.array([positions.size for positions in trained])
    q = BATCH / TRAINED
    assert abs(sizes.mean() - BATCH) < 5 * math.sqrt(TRAINED * q * (1 - q) / len(sizes))
    assert len(set(sizes.tolist())) > 4
    epochs = [np.bincount(np.concatenate(trained[e * STEPS : (e + 1) * STEPS]), minlength=RECORDS) for e in range(3)]
    candidates = np.setdiff1d(np.arange(RECORDS), np.concatenate(whole.seen.validated))
    assert candidates.size == TRAINED
    for counts in epochs:
        never, spread = (counts[candidates] == 0).mean(), counts[candidates].var()
        assert abs(never - (1 - q) ** STEPS) < 5 * math.sqrt(0.25 / TRAINED)
        assert abs(spread - (1 - q)) < 5 * math.sqrt(3 / TRAINED)


def test_01_another_sampler_is_refused_before_anything_is_trained(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shuffled(*order: Any, key: tuple[int, int]) -> BatchPlan:
        return BatchPlan(*order)

    monkeypatch.setattr(batches, "PoissonPlan", shuffled)
    with pytest.raises(PrivacyError, match="nothing was trained"):
        start(private_job("shuffled", records, tmp_path))
    assert releases() == []


# 2. Epsilon comes from the step ledger, never from planned epochs.


def test_02_epsilon_is_that_of_the_steps_taken_and_not_of_those_planned(limited: Watched) -> None:
    report = report_of(limited.run)
    assert len(limited.attempts[0]) == PAID_STEPS < 3 * STEPS
    assert report["steps"] == PAID_STEPS
    assert report["epsilon"] == pytest.approx(epsilon([(MECHANISM, PAID_STEPS)], report["delta"], "rdp"))
    assert float(history_of(limited.run)[-1]["epsilon"]) == report["epsilon"]


def test_02_steps_before_a_kill_stay_counted_when_a_run_goes_on_elsewhere(moved: Watched) -> None:
    report = report_of(moved.run)
    taken = sum(len(attempt) for attempt in moved.attempts)
    assert taken == 12 + 2 * STEPS
    assert report["steps"] >= taken
    assert report["epsilon"] >= epsilon([(MECHANISM, taken)], report["delta"])
    assert float(history_of(moved.run)[-1]["epsilon"]) >= epsilon([(MECHANISM, taken)], report["delta"])


# 3. Emptying a record changes only its own example.


def records_with(folder: Path, text: str | None) -> Path:
    """The usual records; one in the middle of the second file replaced by `text`."""
    write_records(folder, RECORDS)
    path = folder / "part-1.parquet"
    texts = pq.read_table(path).column("text").to_pylist()
    if text is not None:
        texts[40] = text
    pq.write_table(pa.table({"text": texts}), path)
    return folder


@pytest.fixture(scope="module")
def neighbours(tmp_path_factory: pytest.TempPathFactory) -> tuple[Examples, Examples, int]:
    """The examples with a record that no other is like, those with it emptied, and its position."""
    place = tmp_path_factory.mktemp("neighbours")
    full = examples_of(records_with(place / "full", "§ a very odd record, and a long one §"), place / "a")
    emptied = examples_of(records_with(place / "emptied", ""), place / "b")
    return full, emptied, RECORDS // 3 + 40


def test_03_emptying_a_record_changes_only_its_own_example(neighbours: tuple[Examples, Examples, int]) -> None:
    full, emptied, position = neighbours
    positions = np.arange(RECORDS)
    pairs = zip(full.rows(positions), emptied.rows(positions), strict=True)
    changed = [p for p, (one, two) in enumerate(pairs) if not np.array_equal(one, two)]
    assert changed == [position]
    assert full.tokens.vocab_size == emptied.tokens.vocab_size


def test_03_an_emptied_record_and_padding_weigh_nothing(neighbours: tuple[Examples, Examples, int]) -> None:
    full, emptied, position = neighbours
    plan, held = plan_of(validation_split=False), 0
    for epoch, step in itertools.product(range(3), range(plan.training_steps)):
        positions = plan.training_positions(epoch, step)
        one, two = (
            next(iter(Feed(examples, plan, range(1), 1).training(epoch, step))).batches[0]
            for examples in (full, emptied)
        )
        lengths = full.lengths[positions].tolist()
        assert one.weights.sum(axis=1).tolist() == lengths, "a record weighs as much as it has positions"
        for row, length in enumerate(lengths):
            if positions[row] == position:
                held += 1
                assert two.weights[row].sum() == 0
                continue
            for name in ("inputs", "targets", "weights", "dropout_keys"):
                assert np.array_equal(getattr(one, name)[row, :length], getattr(two, name)[row, :length])
    assert held, "the record was in a batch"


def test_03_a_record_touches_only_the_steps_that_it_is_in() -> None:
    step, rows, later = Replicated(1), random_rows(), random_rows(seed=4)
    step.release(rows)
    after_full = step.release(later)
    step.release(rows.emptied(0))
    after_emptied = step.release(later)
    assert after_full.tolist() == after_emptied.tolist()


# 4. The sum's sensitivity is at most C for every worker count and microbatch size.


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_04_emptying_a_record_moves_the_sum_by_at_most_the_clip(replicas: int) -> None:
    for found in measured("records", replicas).values():
        assert max(found["moves"]) <= replicated.CLIP * (1 + 1e-4)
        assert max(found["moves"]) >= replicated.CLIP * (1 - 1e-4), "the records are hard enough to reach it"


# 5. Workers 1, 2, 4: same noiseless sum, same total noise.


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_05_any_number_of_replicas_makes_the_same_sum_and_the_same_noise(replicas: int) -> None:
    expected = np.array(measured("records", 1)["None"]["sum"])
    for found in measured("records", replicas).values():
        assert np.abs(found["sum"] - expected).max() < 1e-5 * max(1, np.abs(expected).max())
        noise = np.array(found["noise"])
        allowed = 4 / math.sqrt(2 * noise.size)
        assert abs(noise.std() / (replicated.NOISE * replicated.CLIP) - 1) < allowed


def test_05_any_number_of_workers_has_the_same_batches(neighbours: tuple[Examples, Examples, int]) -> None:
    examples, _, _ = neighbours

    def logical_batch(workers: int, step: int) -> list[tuple[int, ...]]:
        found: list[tuple[int, ...]] = []
        for worker_ in range(workers):
            share = next(iter(Feed(examples, plan_of(), range(worker_, worker_ + 1), workers).training(1, step)))
            for targets, weights in zip(share.batches[0].targets, share.batches[0].weights, strict=True):
                found.append(tuple(targets[weights > 0].tolist()))
        return sorted(row for row in found if row)

    for step in range(4):
        assert logical_batch(1, step) == logical_batch(2, step) == logical_batch(4, step)


# 6. Noise is never reused across steps, ranks or resumes.


def test_06_the_noise_of_every_step_and_of_every_resume_is_its_own(moved: Watched) -> None:
    vectors = [release for attempt in moved.attempts for release in attempt]
    count = vectors[0].size
    assert worst_correlation(vectors) < 5 / math.sqrt(count)
    for vector in vectors:
        # The clipped sum is in it too: at most one clip for each record of the batch.
        signal = (2 * BATCH * CLIP) ** 2 / count / (NOISE * CLIP) ** 2
        assert -4 / math.sqrt(2 * count) < vector.std() / (NOISE * CLIP) - 1 < 4 / math.sqrt(2 * count) + signal


def test_06_a_run_that_repeats_its_steps_repeats_what_they_released(whole: Watched, killed: Watched) -> None:
    first, second = killed.attempts
    assert (len(first), len(second)) == (12, 2 * STEPS)
    expected = whole.attempts[0]
    for step, release in [*enumerate(first), *enumerate(second, start=STEPS)]:
        assert release.tobytes() == expected[step].tobytes()
    assert weights_of(killed.run) == weights_of(whole.run)
    assert history_of(killed.run) == history_of(whole.run)
    assert report_of(killed.run)["epsilon"] == report_of(whole.run)["epsilon"]


def test_06_a_run_that_goes_back_behind_a_cut_epoch_draws_fresh_noise_and_counts_it(
    records: Path, tmp_path: Path
) -> None:
    """After an epoch that the budget cut short, steps stand elsewhere in the plan than in a run without the cut."""
    one_step = {"accountant": "rdp", "delta": 0.003, "max_epsilon": epsilon([(MECHANISM, 1)], 0.003, "rdp")}
    run = start(private_job("cut", records, tmp_path, one_step))
    vectors = releases()
    assert len(vectors) == 1
    resume(run, "privacy.max_epsilon=null", "training.epochs=2")
    vectors += releases()
    for checkpoint in (run / "checkpoints").iterdir():
        (checkpoint / "manifest.json").unlink()
    resume(run, "training.epochs=3")
    vectors += releases()
    different = {vector.tobytes(): vector for vector in vectors}
    assert report_of(run)["steps"] >= len(different) > 3 * STEPS
    assert worst_correlation(list(different.values())) < 5 / math.sqrt(vectors[0].size)


# 7. The report says all that a reader needs, and can be recomputed from privacy.json alone.


def test_07_the_report_says_what_is_claimed_and_what_is_not(whole: Watched) -> None:
    report = report_of(whole.run)
    assert "one record" in report["unit"]
    assert (report["ended"], report["steps_depend_on_time"]) == ("all epochs done", False)
    assert "empty" in report["adjacency"]
    assert "Poisson" in report["sampler"]
    for name in ("delta", "epsilon_pld", "epsilon_rdp", "epsilon_unamplified", "epsilon_with_earlier_runs"):
        assert report[name] > 0
    assert report["epsilon_pld"] <= report["epsilon_rdp"] <= report["epsilon_unamplified"]
    assert set(report["also_touched_the_records"]) >= {"tokenizer", "validation", "early stopping", "sweep"}
    assert any("selection" in what for what in report["also_touched_the_records"])
    assert report["covered"]
    assert report["limits"]
    page = (whole.run / "privacy.md").read_text()
    assert page == privacy_page(report)
    for name in ("epsilon_pld", "epsilon_rdp", "epsilon_unamplified"):
        assert f"{report[name]:.4f}" in page
    for line in (report["unit"], report["adjacency"], *report["covered"], *report["not_covered"], *report["limits"]):
        assert line in page


def test_07_the_report_s_epsilon_can_be_recomputed_from_it_alone(whole: Watched) -> None:
    report = json.loads((whole.run / "model" / "privacy.json").read_text())
    mechanism = report["mechanism"]
    step = dp_accounting.PoissonSampledDpEvent(
        mechanism["batch_size"] / mechanism["examples"], dp_accounting.GaussianDpEvent(mechanism["noise_multiplier"])
    )
    relation = dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    for kind, accountant in (("pld", pld.PLDAccountant(relation)), ("rdp", rdp.RdpAccountant(None, relation))):
        accountant.compose(step, report["steps"])
        assert accountant.get_epsilon(report["delta"]) == pytest.approx(report[f"epsilon_{kind}"], rel=1e-3)
    assert report["epsilon"] == report[f"epsilon_{report['accountant']}"]


# 8. Validation is disjoint by record; selecting by it is off unless accepted, and then reported.


def test_08_no_record_is_both_trained_on_and_validated_with(whole: Watched) -> None:
    trained, validated = (set(np.concatenate(seen).tolist()) for seen in (whole.seen.trained, whole.seen.validated))
    assert len(validated) == RECORDS - TRAINED
    assert trained.isdisjoint(validated)


def test_08_selecting_by_a_private_metric_is_off_unless_the_job_accepts_it(
    whole: Watched, records: Path, tmp_path: Path
) -> None:
    settings = config_of(private_job("x", records, tmp_path)).training
    assert (settings.save_best, settings.early_stopping.enabled) == (False, False)
    assert [row["best"] for row in history_of(whole.run)] == ["0", "0", "1"], "the last epoch is kept"
    said = report_of(whole.run)["also_touched_the_records"]
    assert said["selection of the epoch"].startswith("none")
    assert said["early stopping"] == "off"
    accepted = {"epochs": 1, "save_best": True, "early_stopping": {"enabled": True, "patience": 1}}
    job = private_job("accepted", records, tmp_path)
    job["training"] |= accepted
    said = report_of(start(job))["also_touched_the_records"]
    for name in ("selection of the epoch", "early stopping"):
        assert "val_loss" in said[name]
        assert "epsilon does not cover" in said[name]


# 9. Exact metrics of private data are marked as not covered, and are nowhere in model/.


def test_09_exact_metrics_are_marked_and_nowhere_in_the_model(whole: Watched) -> None:
    not_covered = " ".join(report_of(whole.run)["not_covered"])
    for name in ("history.csv", "status.json", "logs/"):
        assert name in not_covered
    values = [row[name] for row in history_of(whole.run) for name in EXACT_METRICS]
    assert all(values)
    telling = [value[:8].encode() for value in values if len(value) >= 8]  # "0.0" is found in any text
    assert len(telling) >= len(values) / 2
    for file in (whole.run / "model").iterdir():
        content = file.read_bytes()
        assert not [value for value in telling if value in content]
        assert not re.search(rb'"(val_)?(loss|accuracy)"', content)


def test_09_the_secret_key_is_in_nothing_that_may_leave(whole: Watched) -> None:
    key = (whole.run / "private" / "key").read_bytes().strip()
    others = [file for file in whole.run.rglob("*") if file.is_file() and file.parent.name != "private"]
    assert len(others) > 10
    assert not [file for file in others if key in file.read_bytes()]


# 10. Under DP the vocabulary is public, or made from the records by an explicit choice that is reported.


@pytest.mark.parametrize("tokenizer", [{"kind": "char"}, {"kind": "sentencepiece", "vocab_size": 300}])
def test_10_a_vocabulary_made_from_the_records_needs_a_choice_and_is_reported(
    records: Path, tmp_path: Path, tokenizer: dict[str, Any]
) -> None:
    from runner.privacy.report import _also_touched

    job = private_job("x", records, tmp_path) | {"tokenizer": tokenizer}
    with pytest.raises(ConfigError, match="would be made from the private records"):
        config_of(job)
    job["privacy"]["vocabulary"] = "private"
    assert "epsilon does not cover it" in _also_touched(config_of(job))["tokenizer"]
    del job["privacy"]["vocabulary"]
    with pytest.raises(ConfigError, match=r"say where tokenizer\.uri is from"):
        config_of(job | {"tokenizer": {"kind": "sentencepiece", "uri": "a.model"}})


def test_10_bytes_and_a_fixed_alphabet_learn_nothing_from_the_records(whole: Watched, records: Path) -> None:
    assert "nothing is learned" in report_of(whole.run)["also_touched_the_records"]["tokenizer"]
    fixed = private_job("x", records, Path("runs")) | {"tokenizer": {"kind": "char", "alphabet": "abc,"}}
    assert config_of(fixed).tokenizer.alphabet == "abc,"


# 11. A sweep reports its own epsilon: until there are sweeps, there are none.


def test_11_a_sweep_cannot_run_without_an_epsilon_of_its_own(records: Path, tmp_path: Path, whole: Watched) -> None:
    with pytest.raises(ConfigError, match="sweep"):
        config_of(private_job("x", records, tmp_path) | {"sweep": {"trials": 3}})
    assert report_of(whole.run)["also_touched_the_records"]["sweep"] == "none: one run"


# 12. max_epsilon is checked before a step, never after.


def test_12_a_run_ends_before_the_step_that_would_pass_the_limit(limited: Watched) -> None:
    report = report_of(limited.run)
    limit = report["max_epsilon"]
    assert status_of(limited.run)["message"] == "privacy budget spent"
    assert len(limited.attempts[0]) == PAID_STEPS
    assert report["epsilon"] <= limit < epsilon([(MECHANISM, PAID_STEPS + 1)], report["delta"], "rdp")


def test_12_a_limit_below_one_step_trains_nothing_and_leaves_nothing(records: Path, tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match="does not pay for a single step"):
        start(private_job("broke", records, tmp_path, {"max_epsilon": 0.001, "accountant": "rdp"}))
    assert releases() == []
    assert not (tmp_path / "broke").exists()


# 13. Empty, non-finite and oversize batches change neither control flow nor sensitivity.


def test_13_an_empty_batch_takes_a_step_of_noise_alone(records: Path, tmp_path: Path) -> None:
    small = write_records(tmp_path / "records", count=20)
    job = private_job("empty", small, tmp_path / "runs")
    job["training"] |= {"batch_size": 1, "epochs": 1, "validation_split": False}
    with watched_batches() as seen:
        run = start(job)
    empty = [step for step, positions in enumerate(seen.trained) if not positions.size]
    assert empty, "a third of the batches has no record"
    assert len(releases()) == 20 == report_of(run)["steps"]
    for step in empty:
        noise = releases()[step] / BATCH  # the helper reckons with the usual batch size
        assert noise.std() == pytest.approx(NOISE * CLIP, rel=4 / math.sqrt(2 * noise.size))


def test_13_a_record_that_is_not_finite_adds_nothing_and_ends_nothing() -> None:
    step, rows = Replicated(1), random_rows()
    rows.ids[rows.ids == replicated.VOCAB - 1] = 0
    expected = step.release(rows.emptied(2))
    step.weights["embedding"][-1] = np.inf
    poisoned = Rows(rows.ids.copy(), rows.targets, rows.weights)
    poisoned.ids[2, 0] = replicated.VOCAB - 1
    found = step.release(poisoned)
    assert math.isnan(step.sums.loss), "the record is as bad as intended"
    embedding = found[: step.weights["embedding"].size].reshape(step.weights["embedding"].shape)[:-1]
    kept = np.concatenate([embedding.ravel(), found[step.weights["embedding"].size :]])
    same = np.delete(expected.reshape(-1), slice(embedding.size, embedding.size + 32))
    assert np.abs(kept - same).max() < 1e-7


def test_13_a_batch_larger_than_expected_is_divided_by_the_expected_size() -> None:
    step, rows = Replicated(1, microbatch_size=4), random_rows()
    step.network.dropout_rate = 0.0
    once, thrice = step.release(rows), step.release(rows.times(3))
    assert np.abs(thrice - 3 * once).max() < 1e-5 * np.abs(thrice).max() + 4 * replicated.BATCH * step.grid.spacing


# 14. delta defaults to 1/n^1.1, rounded down to one digit, and a delta of 1/n or more is refused.


@pytest.mark.parametrize("count", [192, 1000, 20_190, 10**7])
def test_14_delta_is_at_most_one_over_n_to_the_power_of_1_1(records: Path, tmp_path: Path, count: int) -> None:
    config = config_of(private_job("x", records, tmp_path))
    _, delta = plan_mechanism(config, count)
    assert 0.49 * count**-1.1 < delta <= count**-1.1
    assert re.fullmatch(r"\d(\.0+)?e-\d+", f"{delta:.10e}")


def test_14_a_delta_of_one_over_n_or_more_is_refused(records: Path, tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match="not below 1/n"):
        start(private_job("risky", records, tmp_path, {"delta": 1 / TRAINED}))
    assert releases() == []
    check_delta(0.99 / TRAINED, TRAINED)


# 15. Data trained again composes, and max_epsilon is for all runs of a file.


def test_15_runs_on_the_same_files_add_up_and_cannot_pass_max_epsilon_together(records: Path, tmp_path: Path) -> None:
    privacy = {"accountant": "rdp"}
    first = report_of(start(private_job("first", records, tmp_path, privacy, epochs=1) | {"name": "first"}))
    assert first["earlier_runs"] == []
    (charged,) = {e.run_id: e for e in SpendingLedger(open_folder(str(tmp_path))).read()}.values()
    assert charged.steps == STEPS == first["steps"]
    mechanism = Mechanism(TRAINED, BATCH, NOISE, CLIP)
    limit = epsilon([(mechanism, STEPS + 3)], first["delta"], "rdp")
    second = report_of(start(private_job("second", records, tmp_path, privacy | {"max_epsilon": limit}, epochs=1)))
    assert second["steps"] == 3
    assert second["epsilon_with_earlier_runs"] == pytest.approx(limit)
    assert [earlier["steps"] for earlier in second["earlier_runs"]] == [STEPS]
    third = config_of(private_job("third", records, tmp_path, privacy | {"max_epsilon": limit}))
    with pytest.raises(PrivacyError, match="earlier runs on the same files"):
        start_run(third, Launch(quiet=True))
    others = tmp_path / "other records"
    others.mkdir()
    pq.write_table(pa.table({"text": [f"another {row}" for row in range(RECORDS)]}), others / "part-0.parquet")
    free = report_of(start(private_job("free", others, tmp_path, privacy | {"max_epsilon": limit}, epochs=1)))
    assert free["earlier_runs"] == []


def test_15_a_run_that_repeats_steps_elsewhere_does_not_pass_what_another_left(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run takes the rest of the budget between this one's charge and its count of repeated steps."""
    paid = 60
    privacy = {"accountant": "rdp", "delta": 0.003, "max_epsilon": epsilon([(MECHANISM, paid)], 0.003, "rdp")}
    run = start(private_job("first", records, tmp_path, privacy), die=12)
    spending, charge_again = SpendingLedger(open_folder(str(tmp_path))), worker.charge_again

    def overtaken(*arguments: Any) -> None:
        first = spending.read()[-1]
        spending.charge(lambda _entries: replace(first, run_id="second", steps=paid - first.steps))
        charge_again(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(worker, "machine", lambda: ["another processor"])
        patch.setattr(worker, "charge_again", overtaken)
        with pytest.raises(PrivacyError, match="another run took"):
            resume(run)
    resume(run)
    assert sum({entry.run_id: entry.steps for entry in spending.read()}.values()) <= paid
