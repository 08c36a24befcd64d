"""Faults of branches: workers that are in different ones, and steps that are taken again otherwise."""

from __future__ import annotations

from typing import Any

from tests.mutants.mutants import leave_mark, mutant

FILE = "test_branches.py"


@mutant("test_workers_on_different_machines_are_in_one_branch", file=FILE)
def every_worker_is_in_a_branch_of_its_own() -> None:
    from runner.privacy.ledger import RunLedger
    from runner.privacy.noise import RunKey

    def faulty(_ledger: RunLedger) -> RunKey:
        leave_mark()
        return RunKey.new()

    RunLedger.branch_key = property(faulty)  # type: ignore[assignment]


@mutant("test_replicas_that_take_different_batches_make_no_update", file=FILE)
def replicas_do_not_compare_their_batches() -> None:
    from runner.train import step

    def faulty(gradients: Any, *_: Any) -> Any:
        leave_mark()
        return list(gradients)

    step._once_agreed = faulty


@mutant("test_other_first_weights_open_a_branch", file=FILE)
def first_weights_are_not_among_the_conditions() -> None:
    from runner.train import worker

    def faulty(*_: Any) -> str:
        leave_mark()
        return ""

    worker.weights_digest = faulty


@mutant("test_a_step_that_gives_something_else_when_it_is_taken_again_has_noise_of_its_own", file=FILE)
def repeated_steps_are_not_compared() -> None:
    from runner.privacy.ledger import RunLedger

    def faulty(*_: Any) -> None:
        leave_mark()

    RunLedger.compare = faulty
