"""A record's budget is its file's: what earlier runs took of it counts, and a limit is kept or refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.config import JobConfig, parse_job
from runner.errors import PrivacyError
from runner.privacy import budget as budget_module
from runner.privacy.accountant import Mechanism, Spent, epsilon
from runner.privacy.budget import plan_budget, plan_mechanism
from runner.privacy.entries import Entry, spent_before
from runner.privacy.figures import epsilon_in_words
from runner.storage import Folder, open_folder
from tests.spending_contract import DELTA, MECHANISM, SpendingContract, entry

OTHER = Mechanism(examples=400, batch_size=40, noise_multiplier=3.0)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return open_folder(str(tmp_path / "a folder"))


class TestLocalSpending(SpendingContract):
    """The contract that `tests/s3/test_budget_s3.py` runs too."""


def job(epochs: int = 2, batch_size: int = 20, **privacy: Any) -> JobConfig:
    return parse_job(
        {
            "name": "demo",
            "data": {"uri": "records/"},
            "tokenizer": {"kind": "byte"},
            "training": {"epochs": epochs, "batch_size": batch_size},
            "privacy": {"enabled": True, "accountant": "rdp", **privacy},
        },
        environment={},
    )


# What was spent


def test_only_runs_of_the_same_files_count() -> None:
    entries = [entry("1", 10, ["a"]), entry("2", 20, ["b"]), entry("3", 30, ["c", "d"])]
    assert spent_before(entries, ["a"]) == [[(MECHANISM, 10)]]
    assert spent_before(entries, ["e"]) == [[]]
    assert sorted(spent_before(entries, ["a", "d", "e"])) == [[], [(MECHANISM, 10)], [(MECHANISM, 30)]]


def test_a_run_does_not_count_against_itself_and_one_without_steps_against_nobody() -> None:
    entries = [entry("1", 10), entry("2", 20), entry("3", 0)]
    assert spent_before(entries, ["a"], run_id="2") == [[(MECHANISM, 10)]]


NAMES = st.sampled_from("abcd")


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.sampled_from("xyz"), st.sets(NAMES, min_size=1), st.integers(1, 50)), max_size=8),
    st.sets(NAMES, min_size=1),
)
def test_the_costliest_history_is_that_of_the_file_with_the_costliest_runs(
    charges: list[tuple[str, set[str], int]], files: set[str]
) -> None:
    entries = [entry(run_id, steps, sorted(used)) for run_id, used, steps in charges]
    last = {run_id: (set[str].union(*(u for r, u, _ in charges if r == run_id)), n) for run_id, _, n in charges}
    expected = max(sum(steps for used, steps in last.values() if file in used) for file in files)
    budget = plan_budget(job(noise_multiplier=1.0), MECHANISM, DELTA, spent_before(entries, sorted(files)))
    assert sum(steps for _, steps in budget.before) == expected


# Plans


def test_without_a_limit_every_step_is_allowed_and_charged() -> None:
    budget = plan_budget(job(epochs=3, noise_multiplier=2.0), MECHANISM, DELTA, [[]])
    assert (budget.limit, budget.allowed_steps) == (None, None)
    assert budget.planned_steps == budget.charged_steps == 60


def test_a_limit_pays_for_whole_steps_and_not_for_one_more() -> None:
    limit = epsilon([(MECHANISM, 33)], DELTA, "rdp")
    budget = plan_budget(job(epochs=3, noise_multiplier=2.0, max_epsilon=limit), MECHANISM, DELTA, [[]])
    assert (budget.limit, budget.allowed_steps, budget.charged_steps) == (limit, 33, 33)
    assert plan_budget(job(noise_multiplier=2.0, max_epsilon=9.0), MECHANISM, DELTA, [[]]).charged_steps == 40


def test_max_epsilon_is_for_all_runs_together_and_by_the_file_that_has_least_left() -> None:
    histories: list[Spent] = [[], [(OTHER, 10)], [(MECHANISM, 5), (OTHER, 20)]]
    worst = histories[2]
    limit = epsilon([*worst, (MECHANISM, 7)], DELTA, "rdp")
    budget = plan_budget(job(noise_multiplier=2.0, max_epsilon=limit), MECHANISM, DELTA, histories)
    assert budget.before == worst
    assert budget.allowed_steps == 7


def test_the_history_that_costs_most_alone_need_not_be_the_one_that_costs_most_with_the_run() -> None:
    """Few steps with little noise in small batches, or many like the run's own."""
    n, delta = 16_000, 1e-5
    own = Mechanism(n, 1024, 1.0)
    few: Spent = [(Mechanism(n, 16, 0.3), 3)]
    many: Spent = [(own, 230)]
    assert epsilon(few, delta) > epsilon(many, delta)
    settings = job(epochs=100, batch_size=1024, noise_multiplier=1.0, max_epsilon=7.5, accountant="pld")
    for histories in ([few, many], [many, few]):
        budget = plan_budget(settings, own, delta, histories)
        steps = budget.charged_steps
        assert budget.before == many
        assert all(epsilon([*history, (own, steps)], delta) <= 7.5 for history in histories)
        assert any(epsilon([*history, (own, steps + 1)], delta) > 7.5 for history in histories)


def cost(spent: Spent, *_: Any) -> float:
    """Like epsilon: monotone, and of two histories the dearer one alone may be the cheaper one with more steps."""
    counts = {mechanism: steps for mechanism, steps in spent if isinstance(mechanism, Mechanism)}
    total = {each: sum(steps for mechanism, steps in spent if mechanism == each) for each in counts}
    return max(0.3 * math.sqrt(total.get(OTHER, 0) * 40), 0.1 * total.get(MECHANISM, 0)) + 0.01 * sum(total.values())


HISTORY = st.lists(st.tuples(st.sampled_from([MECHANISM, OTHER]), st.integers(1, 60)), max_size=2)


@settings(max_examples=100)
@given(st.lists(HISTORY, min_size=1, max_size=3), st.floats(1, 30))
def test_what_is_allowed_fits_after_every_history_and_is_the_most_that_does(
    histories: list[list[Any]], limit: float
) -> None:
    def within(mechanism: Mechanism, limit: float, _delta: float, _accountant: str, before: Spent = ()) -> int:
        steps = 0
        while cost([*before, (mechanism, steps + 1)]) <= limit:
            steps += 1
        return steps

    with patch.object(budget_module, "epsilon", cost), patch.object(budget_module, "steps_within", within):
        budget = plan_budget(job(noise_multiplier=2.0, max_epsilon=limit), MECHANISM, DELTA, histories, begins=False)
    allowed, steps = budget.allowed_steps, budget.charged_steps
    assert allowed is not None
    costs = [cost([*history, (MECHANISM, steps)]) for history in histories]
    assert cost([*budget.before, (MECHANISM, steps)]) == max(costs)
    assert steps == 0 or max(costs) <= limit
    assert max(cost([*history, (MECHANISM, allowed + 1)]) for history in histories) > limit


def test_a_limit_that_earlier_runs_used_up_is_refused_with_what_they_took() -> None:
    before: Spent = [(MECHANISM, 40)]
    limit = epsilon(before, DELTA, "rdp")
    tight = job(noise_multiplier=2.0, max_epsilon=limit)
    with pytest.raises(
        PrivacyError, match=rf"earlier runs on the same files took epsilon {epsilon_in_words(limit, 3)}.*raise it"
    ):
        plan_budget(tight, MECHANISM, DELTA, [before])
    assert plan_budget(tight, MECHANISM, DELTA, [before], begins=False).allowed_steps == 0
    with pytest.raises(PrivacyError, match="does not pay for a single step: one step more"):
        plan_budget(job(noise_multiplier=2.0, max_epsilon=1e-6), MECHANISM, DELTA, [[]])


def test_a_target_is_the_run_s_own_and_max_epsilon_binds_beside_it() -> None:
    config = job(target_epsilon=1.0)
    mechanism, delta = plan_mechanism(config, 400)
    assert epsilon([(mechanism, 40)], delta, "rdp") <= 1.0
    before: Spent = [(OTHER, 500)]
    budget = plan_budget(config, mechanism, delta, [before])
    assert budget.limit == 1.0
    assert budget.charged_steps == 40, "the noise that was found pays for all planned steps"
    assert budget.allowed_steps is not None
    assert epsilon([(mechanism, budget.allowed_steps + 1)], delta, "rdp") > 1.0
    both = plan_budget(job(target_epsilon=1.0, max_epsilon=0.5), mechanism, delta, [[]])
    assert both.limit == 0.5
    assert both.allowed_steps is not None
    assert both.allowed_steps < 40


def test_delta_and_batch_size_are_checked_against_the_records_trained_on() -> None:
    mechanism, delta = plan_mechanism(job(noise_multiplier=1.5, l2_norm_clip=0.3), 1000)
    assert mechanism == Mechanism(1000, 20, 1.5, 0.3)
    assert delta == 0.0005
    assert plan_mechanism(job(noise_multiplier=1.5, delta=1e-7), 1000)[1] == 1e-7
    for examples, settings_ in ((1000, {"delta": 1e-3}), (19, {})):
        with pytest.raises(PrivacyError):
            plan_mechanism(job(noise_multiplier=1.5, **settings_), examples)


def test_an_entry_survives_its_json() -> None:
    from dataclasses import asdict

    assert Entry.from_plain(asdict(entry("a", 3, ["x", "y"]))) == entry("a", 3, ["x", "y"])
