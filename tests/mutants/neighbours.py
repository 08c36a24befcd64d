"""Faults that two runs on neighbours tell, whatever their kind: see `tests.promises.neighbours`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.mutants.mutants import leave_mark, mutant
from tests.mutants.one_branch import every_worker_is_in_a_branch_of_its_own, first_weights_are_not_among_the_conditions


def of_scene(scene: str, name: str | None = None) -> Callable[[Callable[[], None]], Callable[[], None]]:
    test = f"test_03_runs_on_neighbours_differ_in_sums_before_noise_alone[{scene}]"
    return mutant(test, file="test_neighbours.py", kind="neighbours", name=name)


of_scene("killed", "neighbours_see_a_worker_in_a_branch_of_its_own")(every_worker_is_in_a_branch_of_its_own)
of_scene("series", "neighbours_see_first_weights_that_are_no_condition")(first_weights_are_not_among_the_conditions)


@of_scene("killed")
def every_worker_decides_its_branch() -> None:
    from runner.train import worker

    def faulty(_strategy: Any, _rank: int, _workers: int, mine: Any, decide: Callable[[list[Any]], Any]) -> Any:
        leave_mark()
        return decide([mine])

    worker.agree = faulty


@of_scene("series")
def the_environment_is_no_condition() -> None:
    from runner.train import worker

    def faulty() -> dict[str, str]:
        leave_mark()
        return {}

    worker.rounding_environment = faulty


@of_scene("limited")
def time_decides_how_many_steps_are_taken() -> None:
    from runner.train import private_run

    def faulty(_config: Any) -> None:
        leave_mark()

    private_run.check_no_time_limit = faulty


@of_scene("killed")
def files_are_named_by_their_plain_digests() -> None:
    from runner.privacy.file_marks import FileMarks

    def faulty(_self: FileMarks, fingerprint: str) -> str:
        leave_mark()
        return fingerprint

    FileMarks.mark = faulty
