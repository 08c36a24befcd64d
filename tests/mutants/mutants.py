"""Small faults, each of which breaks a promise, put into `runner` while a test process runs.

A mutant replaces a function by a faulty one. The first time that the faulty code runs it leaves a mark (an empty
file named by `RUNNER_MUTANT_MARK`): a mutant that was never executed proves nothing, whatever the tests said.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

NAME_VARIABLE = "RUNNER_MUTANT"
MARK_VARIABLE = "RUNNER_MUTANT_MARK"


@dataclass(frozen=True)
class Mutant:
    """What puts a fault in, which tests in `tests/promises/` should notice it, and which kind of fault it is."""

    apply: Callable[[], None]
    tests: tuple[str, ...]
    kind: str


MUTANTS: dict[str, Mutant] = {}


def mutant(
    *tests: str, file: str = "test_promises.py", kind: str = "chosen by hand", name: str | None = None
) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a fault, under its function's name or another, and the tests of a file that are run against it."""

    def register(apply: Callable[[], None]) -> Callable[[], None]:
        chosen = name or apply.__name__
        if chosen in MUTANTS:
            raise ValueError(f"two mutants are called {chosen}")
        MUTANTS[chosen] = Mutant(apply, tuple(f"{file}::{test}" for test in tests), kind)
        return apply

    return register


def kind_of(name: str) -> str:
    return MUTANTS[name].kind


def apply_from_environment() -> None:
    """Put in the fault that the environment names, if any."""
    name = os.environ.get(NAME_VARIABLE)
    if name:
        MUTANTS[name].apply()


def leave_mark() -> None:
    mark = os.environ.get(MARK_VARIABLE)
    if mark:
        Path(mark).touch()


# Noise


@mutant("test_05_any_number_of_replicas_makes_the_same_sum_and_the_same_noise")
def noise_is_divided_by_the_root_of_the_replicas() -> None:
    import tensorflow as tf

    from runner.train import step

    privatized = step._privatized

    def faulty(gradients: Any, noise: Any, grid: Any) -> Any:
        leave_mark()
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        return privatized(gradients, tf.cast(tf.cast(noise, tf.float64) / math.sqrt(replicas), noise.dtype), grid)

    step._privatized = faulty


@mutant("test_05_any_number_of_replicas_makes_the_same_sum_and_the_same_noise")
def every_replica_adds_noise() -> None:
    import tensorflow as tf

    from runner.train import step

    privatized = step._privatized

    def faulty(gradients: Any, noise: Any, grid: Any) -> Any:
        leave_mark()
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        count = sum(gradient.shape.num_elements() for gradient in gradients)
        own = grid.sigma * tf.random.stateless_normal((count,), (7, tf.cast(replica, tf.int32)))
        return privatized(gradients, tf.cast(own, noise.dtype) if noise.shape[0] == 0 else noise, grid)

    step._privatized = faulty


def patch_noise(faulty: Callable[..., Any]) -> None:
    """Wherever noise is drawn for a run."""
    from runner.privacy import noise
    from runner.train import worker

    noise.draw_noise = worker.draw_noise = faulty


@mutant("test_06_the_noise_of_a_step_is_as_wide_as_accounted_and_like_no_other", file="test_streams.py")
def noise_is_off() -> None:
    import numpy as np

    def faulty(key: Any, step: int, sigma: float, count: int) -> Any:
        leave_mark()
        return np.zeros(count, np.int32)

    patch_noise(faulty)


@mutant("test_06_the_noise_of_every_step_and_of_every_resume_is_its_own")
def noise_is_the_same_in_every_step() -> None:
    from runner.privacy.noise import draw_noise

    def faulty(key: Any, step: int, sigma: float, count: int) -> Any:
        leave_mark()
        return draw_noise(key, 0, sigma, count)

    patch_noise(faulty)


@mutant("test_06_the_noise_of_every_step_and_of_every_resume_is_its_own")
def noise_is_reused_after_a_resume_elsewhere() -> None:
    from runner.privacy.noise import RunKey

    for_noise = RunKey.for_noise

    def faulty(self: RunKey, branch: int, conditions: str) -> Any:
        leave_mark()
        return for_noise(self, 0, "")

    RunKey.for_noise = faulty
    _without_names()


def _without_names() -> None:
    """Batches and noise of all branches come from the run's key."""
    from runner.privacy.ledger import RunLedger

    RunLedger.branch_key = property(lambda self: self.key)  # type: ignore[assignment]


ROUNDING = "test_06_the_rounding_of_a_noisy_sum_does_not_tell_whether_a_record_was_in_it"


@mutant(ROUNDING, file="test_rounding.py")
def noise_is_drawn_in_floating_point() -> None:
    import numpy as np
    import tensorflow as tf

    from runner.privacy.grid import Grid
    from runner.train import step

    def drawn(key: bytes, step: int, sigma: float, count: int) -> Any:
        leave_mark()
        bits = np.random.Philox(key=np.frombuffer(key[:16], np.uint64), counter=[0, 0, 0, step])
        return np.random.Generator(bits).standard_normal(count, np.float32)

    def privatized(gradients: Any, noise: Any, grid: Any) -> Any:
        if noise.shape[0] == 0:
            return [gradient / grid.batch_size for gradient in gradients]
        deviation = grid.sigma * grid.spacing * grid.batch_size
        parts = tf.split(noise, [gradient.shape.num_elements() for gradient in gradients])
        noisy = [g + deviation * tf.reshape(part, g.shape) for g, part in zip(gradients, parts, strict=True)]
        return [gradient / grid.batch_size for gradient in noisy]

    patch_noise(drawn)
    Grid.noise_dtype = property(lambda self: np.dtype(np.float32))  # pyright: ignore[reportAttributeAccessIssue]
    step._privatized = privatized


@mutant(ROUNDING, file="test_rounding.py")
def the_sum_is_not_rounded_to_the_grid() -> None:
    import tensorflow as tf

    from runner.train import step

    def privatized(gradients: Any, noise: Any, grid: Any) -> Any:
        leave_mark()
        parts = tf.split(noise, [gradient.shape.num_elements() for gradient in gradients])
        shares = [tf.cast(gradient, tf.float64) / grid.batch_size for gradient in gradients]
        return [
            share + grid.spacing * tf.cast(tf.reshape(part, share.shape), share.dtype)
            for share, part in zip(shares, parts, strict=True)
        ]

    step._privatized = privatized


# The clipped sum


@mutant("test_04_emptying_a_record_moves_the_sum_by_at_most_the_clip")
def microbatches_are_clipped_instead_of_records() -> None:
    import tensorflow as tf

    from runner.train import step

    clipped_sum = step.clipped_sum

    def faulty(*arguments: Any, clip: float, **options: Any) -> Any:
        leave_mark()
        found = clipped_sum(*arguments, clip=1e9, **options)
        gradients, _ = tf.clip_by_global_norm(found.gradients, clip)
        return found._replace(gradients=gradients)

    step.clipped_sum = faulty


@mutant("test_04_emptying_a_record_moves_the_sum_by_at_most_the_clip")
def nothing_is_clipped() -> None:
    from runner.train import step

    clipped_sum = step.clipped_sum

    def faulty(*arguments: Any, clip: float, **options: Any) -> Any:
        leave_mark()
        return clipped_sum(*arguments, clip=1e9, **options)

    step.clipped_sum = faulty


@mutant("test_13_a_batch_larger_than_expected_is_divided_by_the_expected_size")
def the_sum_is_divided_by_the_batch_that_was_drawn() -> None:
    import tensorflow as tf

    from runner.train.step import TrainingStep

    gradients_of = TrainingStep._gradients

    def faulty(self: Any, inputs: Any, *more: Any) -> Any:
        leave_mark()
        gradients, sums = gradients_of(self, inputs, *more)
        if self._mechanism is None:
            return gradients, sums
        drawn = tf.cast(tf.shape(inputs)[0], tf.float64)
        return [tf.cast(gradient, drawn.dtype) * self._mechanism.batch_size / drawn for gradient in gradients], sums

    TrainingStep._gradients = faulty


@mutant("test_03_a_record_touches_only_the_steps_that_it_is_in")
def state_is_carried_from_batch_to_batch() -> None:
    import tensorflow as tf

    from runner.model import kernels

    forward = kernels.forward
    carried: list[Any] = []

    def faulty(x: Any, *weights: Any) -> Any:
        leave_mark()
        if not carried:
            with tf.init_scope():
                carried.append(tf.Variable(0.0))
        h, cache = forward(x + carried[0], *weights)
        carried[0].assign(tf.reduce_mean(h[-1]))
        return h, cache

    kernels.forward = faulty


# Batches


@mutant("test_01_the_sampler_that_runs_is_the_one_that_is_accounted")
def batches_are_shuffled_instead_of_drawn() -> None:
    from runner.data.batches import BatchPlan, PoissonPlan

    def faulty(self: PoissonPlan, epoch: int, step: int) -> Any:
        leave_mark()
        return BatchPlan.training_positions(self, epoch, step)

    PoissonPlan.training_positions = faulty


@mutant("test_08_no_record_is_both_trained_on_and_validated_with")
def validation_records_are_trained_on() -> None:
    from runner.data.batches import PoissonPlan

    positions_of = PoissonPlan.training_positions

    def faulty(self: PoissonPlan, epoch: int, step: int) -> Any:
        leave_mark()
        return (positions_of(self, epoch, step) + 1) % self.examples

    PoissonPlan.training_positions = faulty


@mutant("test_05_any_number_of_workers_has_the_same_batches")
def batches_depend_on_the_number_of_workers() -> None:
    from runner.train.feed import Feed

    share_of = Feed._training_share

    def faulty(self: Feed, epoch: int, step: int) -> Any:
        leave_mark()
        plan = replace(self.plan, key=(self.plan.key[0], self.plan.key[1] + self.total_replicas))
        return share_of(replace(self, plan=plan), epoch, step)

    Feed._training_share = faulty


@mutant("test_03_an_emptied_record_and_padding_weigh_nothing")
def padding_counts_in_the_loss() -> None:
    import numpy as np

    from runner.train import feed

    load_batch = feed.load_batch

    def faulty(*arguments: Any, **options: Any) -> Any:
        leave_mark()
        batch = load_batch(*arguments, **options)
        return replace(batch, weights=np.ones_like(batch.weights))

    feed.load_batch = faulty


# Accounting


@mutant("test_02_epsilon_is_that_of_the_steps_taken_and_not_of_those_planned")
def epsilon_comes_from_the_planned_epochs() -> None:
    from runner.train import private_run

    privacy_report = private_run.privacy_report

    def faulty(config: Any, state: Any, **more: Any) -> Any:
        leave_mark()
        planned = config.training.epochs * state.mechanism.steps_per_epoch
        planned_branch = (replace(state.branches[0], first_step=0, reserved=planned),)
        return privacy_report(config, replace(state, branches=planned_branch), **more)

    private_run.privacy_report = faulty


@mutant("test_15_what_a_killed_run_may_have_taken_stays_charged", file="test_charges.py")
def the_ledger_is_lost_on_resume() -> None:
    from runner.privacy.ledger import RunLedger

    begin = RunLedger.begin

    def faulty(self: RunLedger, conditions: str, checkpoint: Any) -> None:
        begin(self, conditions, checkpoint)
        if checkpoint is not None:
            leave_mark()
            self.change(branches=(replace(self.state.branches[-1], parent=-1, first_step=checkpoint[1]),))

    RunLedger.begin = faulty


@mutant("test_12_a_run_ends_before_the_step_that_would_pass_the_limit")
def the_limit_is_checked_after_the_step() -> None:
    from runner.privacy.ledger import RunLedger

    def faulty(self: RunLedger, step: int) -> bool:
        leave_mark()
        allowed = self.state.allowed_steps
        return allowed is not None and self.state.counted(step) > allowed

    RunLedger.is_spent = faulty


@mutant("test_14_delta_is_at_most_one_over_n_to_the_power_of_1_1")
def delta_is_rounded_up() -> None:
    from runner.privacy import accountant, budget

    def faulty(examples: int) -> float:
        leave_mark()
        exact = examples**-1.1
        exponent = math.floor(math.log10(exact))
        return float(f"{math.ceil(exact / 10.0**exponent)}e{exponent}")

    accountant.default_delta = budget.default_delta = faulty


@mutant("test_15_a_run_that_takes_another_s_name_pays_for_it_too", file="test_charges.py")
def earlier_runs_are_forgotten() -> None:
    from runner.train import private_run

    def faulty(*_: Any, **_options: Any) -> Any:
        leave_mark()
        return []

    private_run.spent_before = faulty


@mutant("test_09_exact_metrics_are_marked_and_nowhere_in_the_model")
def the_loss_is_written_beside_the_weights() -> None:
    from runner.train import worker

    leave_model = worker._leave_model

    def faulty(directory: Any, config: Any, tokens: Any, loop: Any, statement: Any) -> None:
        leave_mark()
        measured = f'{{"loss": {loop.progress.rows[-1].loss!r}}}'.encode()
        leave_model(directory, config, tokens, loop, {**statement, "metrics.json": measured})

    worker._leave_model = faulty


@mutant("test_13_a_record_that_is_not_finite_adds_nothing_and_ends_nothing")
def records_that_are_not_finite_are_let_in() -> None:
    from runner.privacy import clipping

    def faulty(products: Any, squares: Any) -> Any:
        del squares
        leave_mark()
        return products

    clipping._without_non_finite = faulty


for module in (
    "branch_conditions",
    "canaries",
    "one_branch",
    "secrets",
    "charges",
    "claims",
    "draws",
    "figures",
    "looked_up",
    "neighbours",
    "persons",
    "persons_in_tables",
    "private_texts",
    "shareable",
    "streams",
    "tables",
):
    import_module(f"tests.mutants.{module}")  # They register more of them.
