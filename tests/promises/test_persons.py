"""The promises where privacy is for a person, all records with the same value of a column, instead of for a record."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dp_accounting import pld
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runner.data import prepare
from runner.data.batches import PoissonPlan
from runner.data.examples import Examples
from runner.data.files import list_files
from runner.data.persons import Persons
from runner.privacy.accountant import Mechanism, default_delta, epsilon
from runner.privacy.budget import SpendingLedger
from runner.privacy.report import privacy_page
from runner.storage import open_folder
from runner.train import worker
from runner.train.feed import Feed
from tests.promises import replicated
from tests.promises.conftest import Watched, fixed_key
from tests.promises.private_runs import BATCH as USUAL_BATCH
from tests.promises.private_runs import (
    CLIP,
    NOISE,
    config_of,
    private_job,
    releases,
    report_of,
    resume,
    start,
    watched_batches,
)
from tests.promises.replicated import measured
from tests.runs import history_of, weights_of

PERSONS, NOBODYS, MOST, BATCH, EPOCHS = 120, 5, 3, 12, 6
TRAINED, STEPS = 96, 8
"""Persons that are trained on, and steps of an epoch."""
MECHANISM = Mechanism(TRAINED, BATCH, NOISE, CLIP)
UNIT = {"unit": "customer", "max_records_per_unit": MOST}


def owners() -> list[str | None]:
    """Persons with one to six records, over both files; rows without a person among them."""
    draw = np.random.default_rng(4)
    found: list[str | None] = [f"C{person}" for person in range(PERSONS) for _ in range(1 + person % 6)]
    found += [None] * NOBODYS
    return [found[place] for place in draw.permutation(len(found))]


def write(folder: Path, empty: str | None = None) -> Path:
    """Texts and whose they are; those of the person `empty` are empty ones."""
    folder.mkdir()
    texts = ["" if who == empty else f"§{row} is of {who}" for row, who in enumerate(owners())]
    for part in range(2):
        table = pa.table({"text": texts[part::2], "customer": owners()[part::2]})
        pq.write_table(table, folder / f"part-{part}.parquet")
    return folder


def in_order() -> list[str]:
    """Whose the examples are, by position."""
    found = owners()
    return [who for who in [*found[0::2], *found[1::2]] if who is not None]


def job(name: str, records: Path, runs: Path) -> Any:
    return private_job(name, records, runs, UNIT, batch_size=BATCH, epochs=EPOCHS)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("people") / "records")


@pytest.fixture(scope="module")
def run(people: Path, runs: Path) -> Watched:
    with watched_batches() as seen, fixed_key():
        return Watched(start(job("persons", people, runs)), seen, [releases()])


def examples_of(folder: Path, storage: Path, key: bytes = b"k" * 32) -> Examples:
    config = config_of(job("tokens", folder, storage))
    files = list_files(config.data.uri)
    survey = prepare.survey_job(config, files)
    name = prepare.token_key(config, files)
    return Examples(
        prepare.prepare_tokens(config, survey, open_folder(str(storage)), name, lambda _message: None, key), cache_gib=1
    )


@pytest.fixture(scope="module")
def examples(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return examples_of(people, tmp_path_factory.mktemp("tokens"))


def plan_of(persons: int = PERSONS, key: tuple[int, int] = (1, 2), batch_size: int = BATCH) -> PoissonPlan:
    return PoissonPlan(persons, batch_size, 0, validation_split=False, key=key)


# 1. The sampler that runs is the one that is accounted for.


def test_01_steps_draw_persons_at_the_rate_that_is_accounted(run: Watched, examples: Examples) -> None:
    """Independent coins, whatever the number of a person's records: mean 1 and variance 1 - q over an epoch."""
    trained = run.seen.trained
    assert len(trained) == EPOCHS * STEPS
    assert examples.persons is not None
    numbers = examples.persons.numbers
    drawn = [np.unique(numbers[positions[positions >= 0]]) for positions in trained]
    assert [each.size for each in drawn] == [len(positions) for positions in trained], "a row for each person"
    validated = np.unique(numbers[np.concatenate([each[each >= 0] for each in run.seen.validated])])
    candidates = np.setdiff1d(np.arange(PERSONS), validated)
    assert candidates.size == TRAINED == MECHANISM.examples
    counts = np.bincount(np.concatenate(drawn), minlength=PERSONS)[candidates]
    q, steps = BATCH / TRAINED, len(trained)
    deviation = math.sqrt(steps * q * (1 - q))
    assert abs(counts.mean() - steps * q) < 5 * deviation / math.sqrt(TRAINED)
    assert abs(counts.var() / deviation**2 - 1) < 5 * math.sqrt(2 / TRAINED)
    many = np.bincount(numbers)[candidates] > MOST
    assert abs(counts[many].mean() - counts[~many].mean()) < 5 * deviation * math.sqrt(4 / TRAINED)
    assert report_of(run.run)["mechanism"]["examples"] == TRAINED


# 2. Epsilon comes from the step ledger.


def test_02_epsilon_is_that_of_the_steps_taken_on_persons(run: Watched) -> None:
    report = report_of(run.run)
    assert report["steps"] == EPOCHS * STEPS == len(run.attempts[0])
    assert report["epsilon"] == pytest.approx(epsilon([(MECHANISM, EPOCHS * STEPS)], report["delta"]))
    judge = pld.PLDAccountant(dp_accounting.NeighboringRelation.REPLACE_SPECIAL)
    step = dp_accounting.PoissonSampledDpEvent(BATCH / TRAINED, dp_accounting.GaussianDpEvent(NOISE))
    assert judge.compose(step, report["steps"]).get_epsilon(report["delta"]) == pytest.approx(report["epsilon"], 1e-3)


# 3. Emptying a person changes that person's rows alone.


def shares(feed_of: Examples, plan: PoissonPlan, replicas: int, step: int, most: int = MOST) -> list[Any]:
    feeds = [Feed(feed_of, plan, [r], replicas, records_of_person=most) for r in range(replicas)]
    return [next(iter(feed.training(0, step))).batches[0] for feed in feeds]


def test_03_emptying_a_person_changes_nothing_but_that_person_s_rows(examples: Examples, tmp_path: Path) -> None:
    who = "C5"  # who has six records
    emptied = examples_of(write(tmp_path / "emptied", who), tmp_path / "b")
    assert examples.persons is not None
    assert emptied.persons is not None
    assert examples.persons.numbers.tolist() == emptied.persons.numbers.tolist()
    place = examples.persons.numbers[in_order().index(who)]
    plan, held = plan_of(), 0
    for step in range(plan.training_steps):
        persons = plan.training_positions(0, step)
        (one,), (two,) = shares(examples, plan, 1, step), shares(emptied, plan, 1, step)
        for row, person in enumerate(np.repeat(persons, MOST)):
            if person == place:
                held += int(one.weights[row].any())
                assert not two.weights[row].any()
                continue
            length = int(one.weights[row].sum())
            for name in ("inputs", "targets", "weights", "dropout_keys"):
                assert np.array_equal(getattr(one, name)[row, :length], getattr(two, name)[row, :length])
            assert two.weights[row].sum() == length
    assert held >= MOST, "the person was in a batch"


class InMemory:
    """Examples of two tokens, the number of the record; what a feed needs of them."""

    def __init__(self, numbers: list[int]) -> None:
        self.persons = Persons(np.unique(numbers, return_inverse=True)[1].astype(np.int64))
        self.lengths = np.full(len(numbers), 2, np.int32)
        self.tokens = type("Tokens", (), {"seq_length": 4})

    def rows(self, positions: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        return [np.array([0, position + 1, 0]) for position in positions]


@settings(max_examples=30, deadline=None)
@given(
    numbers=st.lists(st.integers(0, 12), min_size=12, max_size=40),
    most=st.integers(1, 4),
    replicas=st.sampled_from([1, 2, 4]),
    secret=st.integers(0, 2**64 - 1),
)
def test_03_a_batch_has_whole_persons_up_to_the_bound_each_on_one_replica(
    numbers: list[int], most: int, replicas: int, secret: int
) -> None:
    held: Any = InMemory(numbers)
    persons = held.persons
    plan = plan_of(persons.count, (secret, 1), batch_size=max(1, persons.count // 2))
    for step in range(plan.training_steps):
        drawn = plan.training_positions(0, step).tolist()
        on: dict[int, list[tuple[int, int]]] = {person: [] for person in drawn}
        for replica, batch in enumerate(shares(held, plan, replicas, step, most)):
            assert len(batch.targets) % most == 0
            for row in np.flatnonzero(batch.weights.any(axis=1)).tolist():
                record = int(batch.targets[row, 0]) - 1
                on[int(persons.numbers[record])].append((replica, row // most))
        for person, places in on.items():
            assert len(places) == min(most, int((persons.numbers == person).sum())), "all records, up to the bound"
            assert len(set(places)) == 1, "behind one another, on one replica"
        groups = [places[0] for places in on.values()]
        assert len(set(groups)) == len(drawn), "no two persons have one clip"


@pytest.mark.parametrize("replicas", [1, 2])
def test_03_persons_of_one_record_each_make_the_batches_of_records(replicas: int) -> None:
    held: Any = InMemory(list(range(40)))
    plan = plan_of(40, batch_size=15)
    for step in range(plan.training_steps):
        for replica, one in enumerate(shares(held, plan, replicas, step, most=1)):
            other = next(iter(Feed(held, plan, [replica], replicas).training(0, step))).batches[0]
            for name, array in vars(one).items():
                assert array.tolist() == getattr(other, name).tolist()


# 4. The sum's sensitivity is at most C, for every worker count and microbatch size.


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_04_emptying_a_person_moves_the_sum_by_at_most_the_clip(replicas: int) -> None:
    for found in next(iter(measured(replicas).values()))["persons"].values():
        assert max(found["moves"]) <= replicated.CLIP * (1 + 1e-4)
        assert max(found["moves"]) >= replicated.CLIP * (1 - 1e-4), "the records are hard enough to reach it"


# 5. Any number of replicas makes the same sum.


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_05_any_number_of_replicas_and_microbatches_makes_the_same_sum_of_persons(replicas: int) -> None:
    expected = np.array(measured(1)["None"]["persons"]["None"]["sum"])
    by_record = np.array(measured(1)["None"]["sum"])
    assert np.abs(expected - by_record).max() > 0.01 * np.abs(expected).max(), "records have no clip of their own"
    for found in next(iter(measured(replicas).values()))["persons"].values():
        assert np.abs(found["sum"] - expected).max() < 1e-5 * max(1, np.abs(expected).max())


# 6. Noise and draws are of this run alone, and repeat to the last bit when a step is taken again.


def test_06_a_killed_run_of_persons_repeats_what_it_released_to_the_last_bit(
    run: Watched, people: Path, runs: Path
) -> None:
    with watched_batches() as seen, fixed_key():
        again = start(job("persons-killed", people, runs), die=12)
        first = releases()
        resume(again)
        second = releases()
    for step, release in [*enumerate(first), *enumerate(second, start=EPOCHS * STEPS - len(second))]:
        assert release.tobytes() == run.attempts[0][step].tobytes()
    assert weights_of(again) == weights_of(run.run)
    assert history_of(again) == history_of(run.run)
    assert report_of(again)["epsilon"] == report_of(run.run)["epsilon"]
    assert seen.trained[0].tolist() == run.seen.trained[0].tolist()


def test_06_a_run_of_persons_that_goes_on_elsewhere_draws_others_with_noise_of_its_own(
    run: Watched, people: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 12
    with watched_batches() as seen, fixed_key():
        moved = start(job("persons-moved", people, runs), die=taken)
        vectors = releases()
    with watched_batches() as seen_elsewhere:
        monkeypatch.setattr(worker, "machine", lambda: ["another processor"])
        resume(moved)
        vectors += releases()
    repeated = taken - STEPS  # since the checkpoint at the epoch's end
    assert len(report_of(moved)["steps_of_branches"]) == 2
    assert report_of(moved)["steps"] >= len(vectors) == EPOCHS * STEPS + repeated
    for one, other in zip(seen.trained[STEPS:], seen_elsewhere.trained, strict=False):
        assert one.tolist() != other.tolist()
    width = NOISE * CLIP * USUAL_BATCH / BATCH  # `releases` reckons with the usual batch size
    for one, other in pairwise(vectors):
        assert one.std() == pytest.approx(width, rel=0.1)
        assert abs(float(np.corrcoef(one, other)[0, 1])) < 5 / math.sqrt(one.size)


def test_06_which_of_a_person_s_records_a_step_has_is_drawn_with_the_secret() -> None:
    held: Any = InMemory([0] * 30 + [1] * 30)

    def records(key: tuple[int, int], step: int) -> list[int]:
        plan = plan_of(2, key, batch_size=2)  # everyone is in every step
        feed = Feed(held, plan, [0], 1, records_of_person=MOST)
        return sorted(feed._training_share(step, 0).batches[0].targets[:, 0].tolist())

    seen = [records((secret, 7), step) for secret in (1, 2) for step in range(4)]
    assert len({tuple(each) for each in seen}) == len(seen)
    assert records((1, 7), 2) == seen[2]


# 7. The statement names the unit, and says whom it does not protect.


def test_07_the_statement_names_the_unit_and_what_is_left_out(run: Watched) -> None:
    report = report_of(run.run)
    above = sum(records > MOST for records in (1 + person % 6 for person in range(PERSONS)))
    assert report["persons"] == {
        "column": "customer",
        "most_records": MOST,
        "persons": PERSONS,
        "persons_above": above,
        "nobodys": NOBODYS,
    }
    for what in (report["unit"], report["adjacency"], report["sampler"]):
        assert "person" in what
    assert "`customer`" in report["unit"]
    assert str(MOST) in report["unit"]
    assert "public" in report["adjacency"]
    page = (run.run / "privacy.md").read_text()
    assert page == privacy_page(report)
    claim = page.splitlines()[2]
    assert "any single person (all records with the same `customer`)" in claim
    assert "single record" not in claim
    said = report["also_touched_the_records"]
    assert f"{PERSONS} different" in said["persons"]
    assert f"{above} have more than {MOST}" in said["persons"]
    assert said["rows without `customer`"].startswith(f"{NOBODYS}, left out")
    for line in (*said.values(), *report["limits"]):
        assert line in page
    assert json.loads((run.run / "model" / "privacy.json").read_text()) == report


# 8. Validation is disjoint by person.


def test_08_no_person_is_both_trained_on_and_validated_with(run: Watched, examples: Examples) -> None:
    assert examples.persons is not None
    numbers = examples.persons.numbers
    trained, validated = (
        {int(numbers[place]) for batch in seen for place in batch.ravel() if place >= 0}
        for seen in (run.seen.trained, run.seen.validated)
    )
    assert len(validated) == PERSONS - TRAINED
    assert trained.isdisjoint(validated)


# 9. Nothing tells who is in the records but what is kept with them.


def test_09_no_person_is_named_outside_the_records(run: Watched, runs: Path) -> None:
    names = [who.encode() for who in set(in_order()) if len(who) == 4]  # C100 and on: not in texts by chance
    for path in (path for path in runs.rglob("*") if path.is_file()):
        if path.suffix == ".ids":  # Those of texts, which have them.
            continue
        content = path.read_bytes()
        assert not any(name in content for name in names), path


# 14, 15. Delta and charges are of persons.


def test_14_delta_and_charges_are_of_persons(run: Watched, runs: Path) -> None:
    report = report_of(run.run)
    assert report["delta"] == default_delta(TRAINED)
    (*_, last) = [entry for entry in SpendingLedger(open_folder(str(runs))).read() if entry.name == "persons"]
    assert (last.mechanism, last.steps) == (MECHANISM, EPOCHS * STEPS)
    assert report["epsilon_of_records"]["1"] == pytest.approx(report["epsilon"], rel=1e-3)


# What is nobody's is not looked at.


def test_rows_without_a_person_are_in_no_batch(examples: Examples) -> None:
    tokens = examples.tokens
    assert tokens.examples == tokens.records == len(in_order())
    assert tokens.nobodys == NOBODYS
    assert tokens.persons == tuple((records, PERSONS // 6) for records in range(1, 7))


def test_persons_are_the_same_whatever_the_secret_of_the_marks(
    people: Path, examples: Examples, tmp_path: Path
) -> None:
    other = examples_of(people, tmp_path, b"another secret".ljust(32))
    expected = {who: number for number, who in enumerate(dict.fromkeys(in_order()))}
    stored = []
    for each in (examples, other):
        assert each.persons is not None
        assert each.persons.numbers.tolist() == [expected[who] for who in in_order()]
        name = each.tokens.shards[0].name
        stored.append(each.tokens.folder.read(f"{name}.persons"))
    assert len(stored[0]) == len(stored[1]) == 16 * examples.tokens.shards[0].examples
    assert stored[0] != stored[1]
