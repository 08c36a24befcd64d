"""Rates and noise that are off by a hundredth: where they run, and where they are accounted for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.mutants.mutants import leave_mark, mutant
from tests.mutants.streams import BATCHES

ACCOUNTED = "test_02_epsilon_is_that_of_the_rate_the_noise_and_the_steps"
WIDE = "test_05_the_noise_of_a_step_is_as_wide_as_accounted_at_any_clip_and_size"


def figure(name: str, test: str, file: str = "test_figures.py") -> Callable[[Callable[[], None]], Callable[[], None]]:
    return mutant(test, file=file, kind="figures", name=name)


def _change_rate(of: Callable[[], Any], factor: float) -> None:
    owner = of()
    exact = owner.sampling_probability.fget

    def faulty(self: Any) -> float:
        leave_mark()
        return factor * exact(self)

    owner.sampling_probability = property(faulty)


def _plan() -> Any:
    from runner.data.batches import PoissonPlan

    return PoissonPlan


def _mechanism() -> Any:
    from runner.privacy.accountant import Mechanism

    return Mechanism


def _change_cost(change: Callable[[Any, int], tuple[Any, int]]) -> None:
    """Of steps, in what epsilon is computed from."""
    from runner.privacy import accountant

    found = accountant._epsilon

    def faulty(taken: Any, *more: Any) -> float:
        leave_mark()
        return found(
            tuple(change(what, count) if hasattr(what, "noise_multiplier") else (what, count) for what, count in taken),
            *more,
        )

    accountant._epsilon = faulty


def _change_noise(factor: float, applies: Callable[[int, Any], bool]) -> None:
    """Of a step; `applies` is asked with the number of weights and what `_privatized` has of the mechanism."""
    from runner.train import step

    privatized = step._privatized

    def faulty(gradients: Any, noise: Any, mechanism: Any) -> Any:
        import tensorflow as tf

        leave_mark()
        count = sum(gradient.shape.num_elements() for gradient in gradients)
        if applies(count, mechanism):
            noise = tf.cast(factor * tf.cast(noise, tf.float64), noise.dtype)
        return privatized(gradients, noise, mechanism)

    step._privatized = faulty


for name, factor in (("less", 0.99), ("more", 1.01)):
    percent = f"a_hundredth_{name}"
    figure(f"records_are_drawn_{percent}_often", BATCHES, "test_streams.py")(
        lambda factor=factor: _change_rate(_plan, factor)
    )
    figure(f"records_are_accounted_for_{percent}_often", ACCOUNTED)(
        lambda factor=factor: _change_rate(_mechanism, factor)
    )
    figure(f"noise_is_accounted_for_with_{percent}", ACCOUNTED)(
        lambda factor=factor: _change_cost(
            lambda what, count: (replace(what, noise_multiplier=factor * what.noise_multiplier), count)
        )
    )
    figure(f"a_step_has_{percent}_noise", WIDE)(lambda factor=factor: _change_noise(factor, lambda *_: True))

figure("steps_are_accounted_for_a_hundredth_less_often", ACCOUNTED)(
    lambda: _change_cost(lambda what, count: (what, count - count // 100))
)
figure("a_step_of_many_weights_has_a_hundredth_less_noise", WIDE)(
    lambda: _change_noise(0.99, lambda count, _: count > 500)
)
figure("a_step_of_few_weights_has_a_hundredth_less_noise", WIDE)(
    lambda: _change_noise(0.99, lambda count, _: count < 500)
)
figure("a_step_of_large_batches_has_a_hundredth_less_noise", WIDE)(
    lambda: _change_noise(0.99, lambda _, mechanism: mechanism.batch_size > 100)
)
