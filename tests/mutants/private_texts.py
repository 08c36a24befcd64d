"""Small faults in private runs on tables with texts: what steps cost and have in their loss, and what draws are of."""

from __future__ import annotations

from typing import Any

from tests.mutants.draws import training_sees_the_records
from tests.mutants.mutants import leave_mark, mutant

FILE = "test_private_texts.py"


@mutant("test_20_counts_and_steps_share_the_target_and_are_in_every_ledger", file=FILE)
def steps_on_texts_are_not_charged() -> None:
    from dataclasses import replace

    from runner.train import private_run

    entry = private_run._entry

    def faulty(config: Any, state: Any, steps: int) -> Any:
        leave_mark()
        return replace(entry(config, state, 0), mechanism=None, branches=())

    private_run._entry = faulty


@mutant("test_20_counts_and_steps_share_the_target_and_are_in_every_ledger", file=FILE)
def steps_on_texts_get_the_whole_target() -> None:
    from runner.train import private_run

    plan_mechanism = private_run.plan_mechanism

    def faulty(config: Any, examples: int, _releases: Any, *rest: Any, **options: Any) -> Any:
        leave_mark()
        return plan_mechanism(config, examples, (), *rest, **options)

    private_run.plan_mechanism = faulty


@mutant("test_20_a_step_has_the_tokens_of_texts_in_its_loss_and_no_others", file=FILE)
def other_columns_are_in_the_loss_of_steps_on_texts() -> None:
    from runner.train import feed

    load_batch = feed.load_batch

    def faulty(*arguments: Any, trained: Any = None, **options: Any) -> Any:
        leave_mark()
        return load_batch(*arguments, **options)

    feed.load_batch = faulty


@mutant(
    "test_20_steps_move_the_weights_of_texts_and_leave_the_others_as_draws_made_them",
    file=FILE,
)
def steps_on_texts_move_all_weights() -> None:
    from runner.model.network import Network

    def faulty(network: Any, _tokens: Any) -> Any:
        import numpy as np

        leave_mark()
        return [np.ones(1, bool) for _ in network.trainable_variables]

    Network.masks_of = faulty


mutant("test_20_columns_are_learned_of_draws_and_of_no_record", file=FILE, name="records_are_read_for_the_draws")(
    training_sees_the_records
)
