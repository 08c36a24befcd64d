"""Small faults in a report that may be shared: what its counts cost, when they are charged, and what it shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.mutants.mutants import leave_mark, mutant

FILE = "test_shareable.py"


@mutant("test_20_a_report_that_is_killed_before_it_counts_is_charged_once", file=FILE)
def a_report_is_charged_after_it_counts() -> None:
    from runner.report import shareable

    charge: Callable[..., None] = shareable.charge_report
    owed: list[Any] = []

    def later(*arguments: Any) -> None:
        leave_mark()
        owed.append(arguments)

    compare_counts = shareable.compare_counts

    def faulty(*arguments: Any) -> Any:
        charge(*owed.pop())
        return compare_counts(*arguments)

    shareable.charge_report, shareable.compare_counts = later, faulty


@mutant("test_20_a_shareable_report_costs_what_was_asked_and_is_in_every_ledger", file=FILE)
def a_report_is_not_charged_to_the_ledger_over_runs() -> None:
    from runner.train import private_run

    entry = private_run._entry

    def faulty(*arguments: Any) -> Any:
        leave_mark()
        found = entry(*arguments)
        kept = tuple(each for each in found.releases if not each.name.startswith("report"))
        return replace(found, releases=kept)

    private_run._entry = faulty


@mutant("test_20_a_shareable_report_costs_what_was_asked_and_is_in_every_ledger", file=FILE)
def a_report_is_not_charged_to_the_run() -> None:
    from runner.privacy.ledger import RunLedger

    change = RunLedger.change

    def faulty(self: RunLedger, **changes: Any) -> None:
        if "releases" in changes and changes["releases"][-1].name.startswith("report"):
            leave_mark()
            self.state = replace(self.state, **changes)
            return
        change(self, **changes)

    RunLedger.change = faulty


@mutant("test_20_max_epsilon_is_checked_before_a_report_counts", file=FILE)
def max_epsilon_does_not_see_a_report() -> None:
    from runner.train import private_run

    charge_report = private_run.charge_report

    def faulty(config: Any, *arguments: Any) -> None:
        leave_mark()
        privacy = config.privacy.model_copy(update={"max_epsilon": None})
        charge_report(config.model_copy(update={"privacy": privacy}), *arguments)

    from runner.report import shareable

    shareable.charge_report = faulty


@mutant("test_20_a_shareable_report_costs_what_was_asked_and_is_in_every_ledger", file=FILE)
def all_columns_of_a_report_cost_as_much_as_one() -> None:
    from runner.privacy import shareable
    from runner.privacy.releases import plan_release

    def faulty(name: str, weights: dict[str, float], *rest: Any, **options: Any) -> Any:
        leave_mark()
        (one,) = plan_release(name, {"one": 1.0}, *rest, **options).histograms
        histograms = tuple(replace(one, name=each) for each in weights)
        return replace(plan_release(name, weights, *rest, **options), histograms=histograms)

    shareable.plan_release = faulty


@mutant("test_20_asked_again_a_report_is_the_same_and_costs_nothing", file=FILE)
def a_report_counts_again_when_it_is_asked_again() -> None:
    from runner.report import shareable

    released_once = shareable.released_once

    def faulty(folder: Any, release: Any, count: Any) -> Any:
        leave_mark()
        if folder.exists(f"{release.name}.json"):
            folder.delete(f"{release.name}.json")
        return released_once(folder, release, count)

    shareable.released_once = faulty


@mutant("test_20_asked_again_a_report_is_the_same_and_costs_nothing", file=FILE)
def a_report_is_charged_again_when_it_is_asked_again() -> None:
    from runner.privacy.budget import SpendingLedger
    from runner.report import shareable

    charge_report = shareable.charge_report

    def faulty(config: Any, directory: Any, release: Any) -> None:
        from runner.privacy.ledger import RunLedger
        from runner.train import private_run

        leave_mark()
        state = RunLedger.open(directory.folder).state
        spending: SpendingLedger = private_run._spending(config, state)
        spending.charge(lambda _entries: private_run._entry(config, state, state.reserved_steps))
        charge_report(config, directory, release)

    shareable.charge_report = faulty


@mutant("test_20_a_report_shows_nothing_of_the_records_but_noisy_counts", file=FILE)
def a_report_shows_exact_counts() -> None:
    from runner.privacy.releases import Released
    from runner.report import shareable

    released_once = shareable.released_once

    def faulty(folder: Any, release: Any, count: Any) -> Released:
        leave_mark()
        released_once(folder, release, count)
        return Released(dict(count()), "")

    shareable.released_once = faulty
