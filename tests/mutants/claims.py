"""What a statement says beyond a run's own steps: of runs before it, of several records of one person, of how it
ended, of the names of files, of who may read its secrets, and of what an attack may find.

The promises that notice these faults are quick ones of single modules.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

from tests.mutants.mutants import leave_mark, mutant
from tests.mutants.streams import replace_everywhere


def claim(module: str, test: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    return mutant(test, file=f"../unit/{module}.py", kind="claims")


def _answering(answer: Any) -> Callable[..., Any]:
    def faulty(*_arguments: Any, **_named: Any) -> Any:
        leave_mark()
        return answer

    return faulty


# Runs before

SERIES = "test_what_the_runs_of_a_private_series_claim_is_kept_and_one_without_noise_ends_it"
HEADLINE = "test_of_a_series_the_largest_epsilon_and_delta_are_the_headline_and_every_run_is_listed"


@claim("test_report", HEADLINE)
def the_headline_is_that_of_the_run_s_own_records() -> None:
    from runner.privacy import chain, report  # noqa: F401 - the second has the first's function

    def faulty(own: Any, delta: float, _chain: Any) -> tuple[Any, float]:
        leave_mark()
        return own, delta

    replace_everywhere(chain.headline, faulty)


@claim("test_report", HEADLINE)
def the_headline_has_the_delta_of_the_run() -> None:
    from runner.privacy import chain, report  # noqa: F401 - the second has the first's function

    headline = chain.headline

    def faulty(own: Any, delta: float, links: Any) -> tuple[Any, float]:
        leave_mark()
        return headline(own, delta, links)[0], delta

    replace_everywhere(headline, faulty)


@claim("test_series", SERIES)
def the_first_run_of_a_chain_is_forgotten() -> None:
    from runner.train import series

    chain_of = series.chain_of

    def faulty(statement: Mapping[str, Any]) -> list[dict[str, Any]]:
        leave_mark()
        return chain_of(statement)[-1:]

    series.chain_of = faulty


@claim("test_series", SERIES)
def a_run_without_noise_is_gone_on_from() -> None:
    from runner.train import series

    series.is_infinite = _answering(False)


@claim("test_series", "test_a_run_that_was_killed_early_claims_what_the_model_claims_that_it_begins_with")
def the_chain_is_that_of_the_first_attempt() -> None:
    from runner.train import series

    record_files = series.record_files

    def faulty(config: Any, directory: Any, *files: Any) -> bool:
        leave_mark()
        return not directory.folder.exists(series.FILES) and record_files(config, directory, *files)

    replace_everywhere(record_files, faulty)


@claim("test_file_marks", "test_a_run_without_privacy_counts_as_infinite_for_its_files_and_is_noted_once")
def runs_without_privacy_are_not_counted() -> None:
    from runner.privacy.budget import SpendingLedger

    SpendingLedger._plain_runs = _answering([])


# Several records of one person

DOCUMENTED = "test_the_run_of_the_documentation_costs_what_others_computed"


def _count_records(change: Callable[[int], int]) -> None:
    from runner.privacy import group_privacy

    exact = group_privacy.epsilon_of_group

    def faulty(spent: Any, delta: float, records: int) -> float:
        leave_mark()
        return exact(spent, delta, change(records))

    replace_everywhere(exact, faulty)


@claim("test_group_privacy", DOCUMENTED)
def several_records_cost_as_much_as_one() -> None:
    _count_records(lambda _records: 1)


@claim("test_group_privacy", DOCUMENTED)
def one_of_several_records_is_not_counted() -> None:
    _count_records(lambda records: max(1, records - 1))


@claim("test_group_privacy", "test_more_records_cost_no_more_than_the_theorem_on_groups_allows")
def several_records_cost_as_much_as_twice_as_many() -> None:
    _count_records(lambda records: 2 * records)


# Endings


@claim("test_endings", "test_a_time_limit_for_steps_that_look_at_records_is_refused")
def a_time_limit_is_let_through() -> None:
    from runner.privacy import endings

    replace_everywhere(endings.check_no_time_limit, _answering(None))


@claim("test_endings", "test_a_resume_cannot_add_one_but_a_run_that_began_with_one_goes_on")
def a_resume_may_add_a_time_limit() -> None:
    from runner import driver

    driver.check_no_time_limit = _answering(None)


@claim("test_report", "test_a_number_of_steps_that_time_decided_is_said_to_be_outside_epsilon")
def steps_are_said_to_be_covered_however_they_ended() -> None:
    from runner.privacy import endings, report  # noqa: F401 - the second has the first's function

    replace_everywhere(endings.steps_depend_on_time, _answering(False))


# Marks of files

UNNAMED = "test_no_fingerprint_of_a_file_is_in_the_ledger_over_runs"


@claim("test_file_marks", UNNAMED)
def files_are_named_by_their_sha256() -> None:
    from runner.privacy.file_marks import FileMarks

    def faulty(self: FileMarks, fingerprint: str) -> str:
        leave_mark()
        return fingerprint

    FileMarks.mark = faulty


@claim("test_file_marks", "test_marks_are_the_same_for_a_file_and_other_ones_in_another_storage")
def marks_are_made_without_the_secret() -> None:
    from runner.privacy.file_marks import MARK, FileMarks

    def faulty(self: FileMarks, fingerprint: str) -> str:
        leave_mark()
        digest = hashlib.sha256(fingerprint.encode()).hexdigest()
        return fingerprint if MARK.fullmatch(fingerprint) else f"hmac-{self.name}-{digest}"

    FileMarks.mark = faulty


@claim("test_file_marks", "test_a_secret_that_is_gone_or_another_one_is_refused")
def marks_of_another_secret_are_taken_for_other_files() -> None:
    from runner.privacy import file_marks

    replace_everywhere(file_marks.check_comparable, _answering(None))


# Who may read secrets

ALONE = "test_the_key_and_the_ledger_of_a_run_are_the_user_s_alone"
MOMENT = "test_a_secret_is_never_readable_for_others_not_even_for_a_moment"


@claim("test_private_folders", ALONE)
def secrets_lie_in_folders_like_any_other() -> None:
    from runner.storage.local import LocalFolder

    def faulty(self: LocalFolder, name: str, **_options: Any) -> LocalFolder:
        leave_mark()
        return self.child(name)

    LocalFolder.private_child = faulty


@claim("test_private_folders", MOMENT)
def secrets_are_closed_after_they_are_written() -> None:
    from runner.storage import local

    temporary_file = local.temporary_file

    def faulty(directory: Any, data: bytes, *, durable: bool, mode: int | None = None) -> Any:
        leave_mark()
        del mode
        return temporary_file(directory, data, durable=durable)

    local.temporary_file = faulty


@claim("test_private_folders", "test_what_earlier_versions_left_open_is_closed_by_the_next_write")
def folders_that_are_open_stay_so() -> None:
    from runner.storage import local

    local.restrict = _answering(None)


# Products of float32


@claim("test_devices", "test_a_private_worker_multiplies_in_float32_where_a_gpu_would_round_to_tf32")
def norms_are_computed_in_tf32() -> None:
    from runner.train import worker

    set_up_devices = worker.set_up_devices

    def faulty(resources: Any, threads: int | None, *, exact: bool = False) -> None:
        leave_mark()
        del exact
        set_up_devices(resources, threads)

    worker.set_up_devices = faulty


# What an attack may find

MOST = "test_the_allowed_advantage_is_the_most_that_any_mechanism_of_the_claim_gives"


def _allow(bound: Callable[[float, float], float]) -> None:
    from runner.privacy.audit import Claim

    def faulty(self: Claim) -> float:
        leave_mark()
        return min(1.0, bound(self.epsilon, self.delta))

    Claim.allowed_advantage = property(faulty)  # type: ignore[assignment]


@claim("test_audit", MOST)
def an_attack_is_held_to_the_bound_for_replaced_records() -> None:
    _allow(lambda epsilon, delta: (math.exp(epsilon) - 1 + 2 * delta) / (math.exp(epsilon) + 1))


@claim("test_audit", MOST)
def an_attack_is_allowed_what_two_emptied_records_would() -> None:
    _allow(lambda epsilon, delta: 1 - (1 - 2 * delta) * math.exp(-2 * epsilon))


@claim("test_audit", MOST)
def delta_is_left_out_of_what_an_attack_may_find() -> None:
    _allow(lambda epsilon, _delta: 1 - math.exp(-epsilon))


@claim("test_audit", "test_chance_is_allowed_what_kolmogorov_s_distribution_says")
def what_chance_may_find_is_counted_twice() -> None:
    from runner.privacy import audit

    chance: Callable[[int, int], float] = audit.chance_advantage

    def faulty(trained: int, unseen: int) -> float:
        leave_mark()
        return 2 * chance(trained, unseen)

    audit.chance_advantage = faulty


# Exact shares


@claim("test_table_shares", "test_nothing_is_counted_of_a_private_table")
def exact_shares_are_left_beside_a_private_model() -> None:
    from runner.data.schema.field_tokenizer import FieldTokenizer
    from runner.train import table_shares

    def faulty(_config: Any, files: Mapping[str, bytes], examples: Any, plan: Any) -> Any:
        leave_mark()
        tokenizer = table_shares.from_files(files)
        assert isinstance(tokenizer, FieldTokenizer)
        return table_shares.count_shares(examples, plan, tokenizer.schema)

    replace_everywhere(table_shares.known_tables, faulty)
