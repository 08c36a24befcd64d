"""Small faults where a person is protected: in noise, thresholds, which records are counted, what runs add up to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from tests.mutants.mutants import leave_mark, mutant

FILE = "test_persons_in_tables.py"


@mutant("test_20_every_plan_has_the_noise_of_k_records_by_dp_accounting", file=FILE)
def noise_for_a_person_is_as_wide_as_for_a_record() -> None:
    from runner.privacy.accountant import Noise

    def faulty(self: Noise, units: int = 1) -> float:
        leave_mark()
        return self.sigma / units

    Noise.multiplier = faulty


@mutant("test_20_a_whole_run_counts_no_more_than_k_records_of_a_person", file=FILE)
def the_accountant_is_told_that_a_person_has_one_record() -> None:
    from runner.config.training import PrivacyConfig

    def faulty(_privacy: PrivacyConfig) -> int:
        leave_mark()
        return 1

    PrivacyConfig.sensitivity = property(faulty)  # type: ignore[assignment]


@mutant("test_20_what_only_one_person_has_is_released_as_seldom_as_delta_says", file=FILE)
def the_threshold_is_that_of_a_single_record() -> None:
    from runner.privacy import releases

    threshold_for = releases.threshold_for

    def faulty(sigma: float, delta: float, _sensitivity: int = 1) -> int:
        leave_mark()
        return threshold_for(sigma, delta)

    releases.threshold_for = faulty


@mutant("test_20_what_only_one_person_has_is_released_as_seldom_as_delta_says", file=FILE)
def a_value_of_a_person_is_paid_for_as_one_of_a_record() -> None:
    from runner.privacy.accountant import Histogram

    paid = Histogram.threshold_delta_of

    def faulty(self: Histogram, units: int) -> float:
        leave_mark()
        return paid(replace(self, sensitivity=1), units)

    Histogram.threshold_delta_of = faulty


def everybodys(batches: Iterable[Any], _most: int | None) -> Any:
    leave_mark()
    return (records.drop_null() for records, _ in batches)


@mutant("test_20_a_person_moves_what_is_looked_up_by_no_more_than_is_told", file=FILE)
def a_schema_is_looked_up_in_all_records_of_a_person() -> None:
    from runner.privacy import lookups

    lookups.first_records = everybodys


@mutant("test_20_a_whole_run_counts_no_more_than_k_records_of_a_person", file=FILE)
def a_report_counts_all_records_of_a_person() -> None:
    from runner.report import shareable

    shareable.first_records = everybodys


@mutant("test_20_a_whole_run_counts_no_more_than_k_records_of_a_person", file=FILE)
def draws_are_made_by_all_records_of_a_person() -> None:
    from runner.train import drawn_tokens

    first_positions = drawn_tokens.first_positions

    def faulty(examples: Any, units: Any, _most: int | None) -> Any:
        leave_mark()
        return first_positions(examples, units, 4096)

    drawn_tokens.first_positions = faulty


@mutant("test_20_a_person_moves_what_is_looked_up_by_no_more_than_is_told", file=FILE)
def each_batch_of_rows_has_k_records_of_a_person() -> None:
    from runner.privacy import contributions, lookups

    first_records = contributions.first_records

    def faulty(batches: Iterable[Any], most: int | None) -> Any:
        leave_mark()
        for batch in batches:
            for start in range(0, len(batch[0]), 4):
                yield from first_records([tuple(column.slice(start, 4) for column in batch)], most)

    lookups.first_records = faulty


@mutant("test_20_the_same_records_of_a_person_are_counted_everywhere", file=FILE)
def draws_are_made_by_other_records_of_a_person() -> None:
    from runner.data.persons import Persons

    first = Persons.first

    def faulty(self: Persons, persons: Any, most: int) -> Any:
        leave_mark()
        return self.numbers.size - 1 - first(Persons(self.numbers[::-1]), persons, most)

    Persons.first = faulty


@mutant("test_20_delta_is_below_one_in_all_persons", file=FILE)
def delta_is_below_one_in_all_records() -> None:
    from runner.privacy import budget

    check_delta = budget.check_delta

    def faulty(delta: float, _examples: int, what: str) -> None:
        leave_mark()
        check_delta(delta, 1, what)

    budget.check_delta = faulty


@mutant("test_20_the_ledger_over_runs_knows_what_a_run_protects", file=FILE)
def an_entry_does_not_say_what_a_run_protects() -> None:
    from runner.train import private_run

    entry = private_run._entry

    def faulty(*arguments: Any) -> Any:
        leave_mark()
        return replace(entry(*arguments), unit="")

    private_run._entry = faulty


@mutant("test_20_the_ledger_over_runs_knows_what_a_run_protects", file=FILE)
def runs_that_protect_something_else_add_up_as_if_they_did_not() -> None:
    from runner.train import private_run

    spent_before = private_run.spent_before

    def faulty(entries: Any, *arguments: Any, unit: str = "") -> Any:
        leave_mark()
        return spent_before([replace(entry, unit=unit) for entry in entries], *arguments, unit=unit)

    private_run.spent_before = faulty


@mutant("test_20_the_ledger_over_runs_knows_what_a_run_protects", file=FILE)
def max_epsilon_does_not_ask_what_earlier_runs_protect() -> None:
    from runner.privacy import budget, entries
    from runner.train import private_run

    def faulty(*_arguments: Any) -> None:
        leave_mark()

    entries.check_unit = budget.check_unit = private_run.check_unit = faulty


@mutant("test_20_a_person_pays_for_runs_on_any_of_a_run_s_files", file=FILE)
def a_person_pays_for_the_dearest_file_alone() -> None:
    from runner.train import private_run

    spent_before = private_run.spent_before

    def faulty(entries: Any, *arguments: Any, unit: str = "") -> Any:
        leave_mark()
        return spent_before([replace(entry, unit="") for entry in entries], *arguments)

    private_run.spent_before = faulty
