"""Faults where privacy is for all records of a person: in drawing, sharing, clipping and counting them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.mutants.mutants import leave_mark, mutant

FILE, KIND = "test_persons.py", "persons"


@mutant("test_04_emptying_a_person_moves_the_sum_by_at_most_the_clip", file=FILE, kind=KIND)
def every_record_of_a_person_has_a_clip_of_its_own() -> None:
    from runner.train import step

    clipped_sum = step.clipped_sum

    def faulty(*arguments: Any, **options: Any) -> Any:
        leave_mark()
        return clipped_sum(*arguments, **options | {"records_of_person": 1})

    step.clipped_sum = faulty


def patch_positions(faulty: Any) -> None:
    """What batches are loaded of."""
    from runner.train import feed

    load_batch = feed.load_batch

    def loading(examples: Any, positions: Any, *more: Any, **options: Any) -> Any:
        return load_batch(examples, faulty(examples, positions), *more, **options)

    feed.load_batch = loading


WHOLE = "test_03_a_batch_has_whole_persons_up_to_the_bound_each_on_one_replica"


@mutant(WHOLE, file=FILE, kind=KIND)
def a_person_is_split_over_two_replicas() -> None:
    def faulty(_examples: Any, positions: Any) -> Any:
        leave_mark()
        return positions.reshape(-1, 1)

    patch_positions(faulty)


def patch_draw(faulty: Any) -> None:
    from runner.data.persons import Persons

    draw = Persons.draw

    def drawing(self: Any, *arguments: Any) -> Any:
        leave_mark()
        return faulty(self, draw, *arguments)

    Persons.draw = drawing


@mutant(WHOLE, file=FILE, kind=KIND)
def the_bound_of_a_person_s_records_is_ignored() -> None:
    patch_draw(lambda self, draw, persons, step, most, key: draw(self, persons, step, 2 * most, key))


@mutant(WHOLE, file=FILE, kind=KIND)
def a_person_s_last_record_is_left_out() -> None:
    import numpy as np

    def faulty(self: Any, draw: Any, persons: Any, step: int, most: int, key: Any) -> Any:
        found = draw(self, persons, step, most, key)
        found[np.arange(len(found)), (found >= 0).sum(axis=1) - 1] = -1
        return found

    patch_draw(faulty)


@mutant("test_06_which_of_a_person_s_records_a_step_has_is_drawn_with_the_secret", file=FILE, kind=KIND)
def records_of_a_person_are_drawn_from_a_public_seed() -> None:
    patch_draw(lambda self, draw, persons, step, most, key: draw(self, persons, step, most, (0, 0)))


@mutant("test_06_which_of_a_person_s_records_a_step_has_is_drawn_with_the_secret", file=FILE, kind=KIND)
def a_person_has_the_same_records_in_every_step() -> None:
    patch_draw(lambda self, draw, persons, step, most, key: draw(self, persons, 0, most, key))


RUN = "test_01_steps_draw_persons_at_the_rate_that_is_accounted"


@mutant(RUN, file=FILE, kind=KIND)
def records_are_drawn_and_their_persons_follow() -> None:
    """As many persons as before, but whoever has more records is in more steps."""
    import numpy as np

    from runner.data.persons import Persons

    draw = Persons.draw

    def faulty(self: Persons, persons: Any, step: int, most: int, key: Any) -> Any:
        leave_mark()
        others = np.random.default_rng([step, *key]).permutation(self.numbers)
        trained = others[np.isin(others, _trained(self.count))]
        return draw(self, np.unique(trained[: 2 * persons.size])[: persons.size], step, most, key)

    Persons.draw = faulty


def _trained(persons: int) -> Any:
    from runner.data.batches import BatchPlan
    from tests.promises.test_persons import BATCH

    return BatchPlan(persons, BATCH, 0, validation_split=True)._split[0]


@mutant(RUN, file=FILE, kind=KIND)
def steps_draw_records_instead_of_persons() -> None:
    from runner.data.examples import TokenSet

    def faulty(self: TokenSet) -> int:
        leave_mark()
        return self.examples

    TokenSet.units = property(faulty)  # type: ignore[assignment]


@mutant("test_08_no_person_is_both_trained_on_and_validated_with", file=FILE, kind=KIND)
def validation_is_of_records() -> None:
    from runner.data.batches import BatchPlan
    from runner.train.feed import Feed

    share_of = Feed._validation_share

    def faulty(self: Feed, step: int) -> Any:
        leave_mark()
        plan = BatchPlan(self.examples.tokens.examples, self.plan.batch_size, self.plan.seed, True)
        return share_of(replace(self, plan=plan, records_of_person=None), step)

    Feed._validation_share = faulty


@mutant("test_14_delta_and_charges_are_of_persons", file=FILE, kind=KIND)
def delta_is_that_of_so_many_records() -> None:
    from runner.train.facade import CheckedJob

    def faulty(self: CheckedJob) -> int:
        leave_mark()
        return self.records

    CheckedJob.units = property(faulty)  # type: ignore[assignment]


@mutant("test_03_emptying_a_person_changes_nothing_but_that_person_s_rows", file=FILE, kind=KIND)
def persons_are_sorted_by_their_longest_record() -> None:
    def faulty(examples: Any, positions: Any) -> Any:
        leave_mark()
        return positions[examples.lengths[positions].max(axis=1).argsort(kind="stable")]

    patch_positions(faulty)
