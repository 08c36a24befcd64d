"""Small faults in what is looked up in private records: noise, thresholds, charges, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tests.mutants.mutants import leave_mark, mutant


@mutant("test_20_an_attack_on_a_release_finds_no_more_than_is_claimed", file="test_looked_up.py")
def a_release_has_less_noise_than_is_accounted_for() -> None:
    from runner.privacy import releases

    draw = releases.draw_discrete_gaussian

    def faulty(sigma: float, *arguments: Any) -> Any:
        leave_mark()
        return draw(0.7 * sigma, *arguments)

    releases.draw_discrete_gaussian = faulty


@mutant("test_20_an_attack_on_a_release_finds_no_more_than_is_claimed", file="test_looked_up.py")
def several_histograms_are_accounted_for_as_one() -> None:
    from runner.privacy.accountant import Release

    def faulty(release: Release) -> dict[Any, int]:
        leave_mark()
        return {histogram.noise: 1 for histogram in release.histograms}

    Release.noises = property(faulty)  # type: ignore[assignment]


@mutant("test_20_a_value_of_a_single_record_is_released_as_seldom_as_delta_says", file="test_looked_up.py")
def thresholds_are_not_paid_from_delta() -> None:
    from runner.privacy.accountant import Histogram

    def faulty(_histogram: Histogram) -> float:
        leave_mark()
        return 0.0

    Histogram.threshold_delta = property(faulty)  # type: ignore[assignment]


@mutant("test_20_the_value_of_one_record_is_not_in_the_schema", file="test_looked_up.py")
def every_value_that_occurs_is_released() -> None:
    from runner.privacy import releases

    noisy = releases._noisy

    def faulty(counted: Any, histogram: Any, source: Any) -> Any:
        leave_mark()
        return noisy(
            counted, histogram if histogram.threshold is None else replace(histogram, threshold=-(10**9)), source
        )

    releases._noisy = faulty


@mutant("test_20_a_bought_schema_costs_what_the_job_says_and_is_in_every_ledger", file="test_looked_up.py")
def a_release_is_not_charged() -> None:
    from runner.train import private_run

    entry = private_run._entry

    def faulty(*arguments: Any) -> Any:
        leave_mark()
        return replace(entry(*arguments), releases=())

    private_run._entry = faulty


@mutant("test_20_a_run_that_is_killed_before_it_draws_is_charged_once_and_draws_once", file="test_looked_up.py")
def a_release_is_charged_after_it_is_drawn() -> None:
    from runner.train import facade

    open_ledger = facade.open_ledger

    def faulty(*arguments: Any) -> None:
        leave_mark()
        if arguments[-1] is None:  # It begins.
            open_ledger(*arguments)

    facade.open_ledger = faulty


@mutant("test_20_a_run_that_is_killed_after_it_drew_uses_what_it_drew", file="test_looked_up.py")
def a_release_is_drawn_again_on_resume() -> None:
    from runner.train import facade, private_run

    released_once = private_run.released_once

    def faulty(folder: Any, release: Any, count: Any) -> Any:
        leave_mark()
        if folder.exists(f"{release.name}.json"):
            folder.delete(f"{release.name}.json")
        return released_once(folder, release, count)

    private_run.released_once = faulty
    facade.find_tokens_key = lambda *_arguments: None


@mutant("test_20_delta_is_below_one_in_all_records_that_are_looked_at", file="test_looked_up.py")
def records_for_validation_do_not_count_as_looked_at() -> None:
    from runner.train import private_run

    plan_delta, plan_mechanism = private_run.plan_delta, private_run.plan_mechanism

    def faulty(config: Any, examples: int, looked_up: int = 0) -> float:
        leave_mark()
        return plan_delta(config, examples, min(looked_up, examples))

    private_run.plan_delta = faulty
    private_run.plan_mechanism = lambda config, examples, releases, _: plan_mechanism(config, examples, releases)


@mutant("test_20_max_epsilon_is_checked_before_anything_is_looked_up", file="test_looked_up.py")
def max_epsilon_does_not_see_releases() -> None:
    from runner.train import private_run

    plan_budget = private_run.plan_budget

    def faulty(*arguments: Any, releases: Any = (), **options: Any) -> Any:
        leave_mark()
        return replace(plan_budget(*arguments, **options), releases=releases)

    private_run.plan_budget = faulty


@mutant("test_20_tokens_of_a_bought_schema_are_no_other_run_s", file="test_looked_up.py")
def tokens_of_a_bought_schema_are_shared() -> None:
    from runner.train import facade, private_run

    def faulty(key: str, _sha256: str) -> str:
        leave_mark()
        return key

    facade.bought_key = private_run.bought_key = faulty


@mutant("test_20_a_run_that_is_replaced_is_not_refunded", file="test_looked_up.py")
def the_releases_of_earlier_runs_are_forgotten() -> None:
    from runner.privacy.budget import Entry
    from runner.train import private_run

    spent_before = private_run.spent_before

    def faulty(entries: Sequence[Entry], *arguments: Any) -> Any:
        leave_mark()
        return spent_before([replace(entry, releases=()) for entry in entries], *arguments)

    private_run.spent_before = faulty


@mutant("test_20_the_statement_says_what_was_looked_up_and_what_was_declared", file="test_looked_up.py")
def what_was_looked_up_is_said_to_be_declared() -> None:
    from runner.privacy import report

    in_words = report._schema_in_words

    def faulty(config: Any, _releases: Any) -> str:
        leave_mark()
        return in_words(config, ())

    report._schema_in_words = faulty
