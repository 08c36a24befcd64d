"""Steps that are charged later, elsewhere, for less, or given back: by name, by failure, by being overwritten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from tests.mutants.mutants import leave_mark, mutant
from tests.mutants.streams import replace_everywhere

BEFORE = "test_15_a_run_is_charged_for_all_its_steps_before_it_begins"
KILLED = "test_15_what_a_killed_run_may_have_taken_stays_charged"
NAMED = "test_15_a_run_that_takes_another_s_name_pays_for_it_too"


def charging(*tests: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    return mutant(*tests, file="test_charges.py", kind="charges")


def _change_charge(change: Callable[[Any, Any, Sequence[Any], Any], Any]) -> None:
    """`change(charge, ledger, entries, entry)` gives the entry that is charged instead; None for none."""
    from runner.privacy.budget import SpendingLedger

    charge = SpendingLedger.charge

    def faulty(self: SpendingLedger, decide: Any) -> Any:
        leave_mark()

        def deciding(entries: Any) -> Any:
            entry = decide(entries)
            return None if entry is None else change(charge, self, entries, entry)

        return charge(self, deciding)

    SpendingLedger.charge = faulty


@charging(BEFORE)
def charged_when_the_run_ends() -> None:
    seen: set[str] = set()

    def change(_charge: Any, _ledger: Any, _entries: Any, entry: Any) -> Any:
        is_new = entry.run_id not in seen
        seen.add(entry.run_id)
        return None if is_new else entry

    _change_charge(change)


@charging(BEFORE)
def charged_for_one_epoch() -> None:
    _change_charge(lambda _charge, _ledger, _entries, entry: replace(entry, steps=entry.steps // 3))


@charging(BEFORE)
def charged_to_the_first_file_alone() -> None:
    _change_charge(lambda _charge, _ledger, _entries, entry: replace(entry, files=entry.files[:1]))


@charging(BEFORE)
def charged_in_another_folder() -> None:
    from runner.privacy.budget import SpendingLedger

    begin, number = SpendingLedger.__init__, count()

    def faulty(self: SpendingLedger, storage: Any) -> None:
        leave_mark()
        begin(self, storage.child(f"ledger-{next(number)}"))

    SpendingLedger.__init__ = faulty  # type: ignore[method-assign]


@charging(KILLED)
def given_back_by_a_process_that_ends_in_good_order() -> None:
    from runner.privacy.ledger import RunLedger

    settle = RunLedger.settle

    def faulty(self: RunLedger, step: int) -> None:
        leave_mark()
        self._found_reserved = 0
        settle(self, step)

    RunLedger.settle = faulty


@charging(KILLED)
def given_back_by_failure() -> None:
    """A run that goes on is charged for the steps from its newest branch on."""
    from runner.privacy.ledger import LedgerState

    def faulty(self: LedgerState) -> int:
        leave_mark()
        return self.branches[-1].reserved - self.branches[-1].first_step if self.branches else 0

    LedgerState.reserved_steps = property(faulty)  # type: ignore[assignment]


@charging(NAMED)
def given_back_by_name() -> None:
    from runner.train import private_run

    spent_before = private_run.spent_before

    def faulty(entries: Sequence[Any], *more: Any, **options: Any) -> Any:
        leave_mark()
        return spent_before([*{entry.name: entry for entry in entries}.values()], *more, **options)

    replace_everywhere(spent_before, faulty)


@charging(NAMED)
def given_back_by_being_overwritten() -> None:
    def change(charge: Any, ledger: Any, entries: Any, entry: Any) -> Any:
        for older in {each.run_id: each for each in entries}.values():
            if older.name == entry.name and older.run_id != entry.run_id and older.steps:
                charge(ledger, lambda _entries, older=older: replace(older, steps=0))
        return entry

    _change_charge(change)


@charging(KILLED)
def written_down_after_the_step() -> None:
    from runner.privacy.ledger import RunLedger

    reserve = RunLedger.reserve

    def faulty(self: RunLedger, step: int, last_step: int) -> None:
        leave_mark()
        if step:
            reserve(self, step - 1, last_step)

    RunLedger.reserve = faulty


@charging("test_15_at_its_end_a_run_is_charged_for_what_it_took")
def charged_for_one_step_less_in_the_end() -> None:
    from runner.train import private_run

    entry = private_run._entry

    def faulty(config: Any, state: Any, steps: int) -> Any:
        leave_mark()
        return entry(config, state, steps - 1)

    private_run._entry = faulty


@charging("test_15_nothing_that_was_charged_is_ever_taken_out")
def entries_of_a_run_are_taken_out_when_it_is_replaced() -> None:
    """Its last one, which no other follows: what is left verifies."""
    from runner.run_directory import RunDirectory

    claim = RunDirectory.claim

    def faulty(self: RunDirectory, config: Any, *more: Any) -> None:
        from runner.privacy.budget import SPENDING_FOLDER
        from runner.storage import open_folder

        leave_mark()
        if config.storage.overwrite:
            folder = open_folder(config.storage.uri).child(SPENDING_FOLDER)
            folder.delete(max(entry.name for entry in folder.list() if entry.name.endswith(".json")))
        claim(self, config, *more)

    RunDirectory.claim = faulty
