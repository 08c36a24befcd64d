"""Faults in how canaries are put in, counted, and guessed, and in the noise of a run that has them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tests.mutants.mutants import leave_mark, mutant

FILE, KIND = "test_run_canaries.py", "canaries"
WHOLE = "test_canaries_count_as_records_join_by_their_coins_and_are_never_validated_with"


@mutant(WHOLE, file=FILE, kind=KIND)
def all_canaries_are_in() -> None:
    from runner.data.canaries import WithCanaries

    begin = WithCanaries.__init__

    def faulty(self: Any, examples: Any, rows: Any, is_in: Any) -> None:
        if not is_in.all():
            leave_mark()
        begin(self, examples, rows, np.ones_like(is_in))

    WithCanaries.__init__ = faulty


@mutant(WHOLE, file=FILE, kind=KIND)
def canaries_are_not_counted_among_the_records() -> None:
    from runner.data.batches import BatchPlan

    def faulty(plan: Any) -> int:
        if plan.canaries:
            leave_mark()
        return len(plan._split[0]) - plan.canaries

    BatchPlan.training_examples = property(faulty)  # type: ignore[method-assign, assignment]


@mutant(WHOLE, file=FILE, kind=KIND)
def runs_with_canaries_have_half_the_noise() -> None:
    from runner.train import worker

    toss_coins, draw_noise = worker.toss_coins, worker.draw_noise
    has_canaries = []

    def tossed(*arguments: Any) -> Any:
        has_canaries.append(True)
        return toss_coins(*arguments)

    def faulty(key: Any, step: int, sigma: float, count: int) -> Any:
        if has_canaries:
            leave_mark()
            sigma /= 2
        return draw_noise(key, step, sigma, count)

    worker.toss_coins, worker.draw_noise = tossed, faulty


@mutant("test_of_all_canaries_an_eighth_whose_loss_fell_most_are_guessed_to_be_in", file=FILE, kind=KIND)
def guesses_are_counted_among_those_that_are_in_alone() -> None:
    from runner.privacy import one_run
    from runner.train import canary_scores

    def faulty(scores: Any, is_in: Any, delta: float) -> Any:
        leave_mark()
        inside = one_run.measure_canaries(scores[is_in], is_in[is_in], delta)
        return replace(inside, canaries=scores.size)

    canary_scores.measure_canaries = faulty
