"""The job's optimizer, and the learning rate of each of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from runner.config.training import OptimizerConfig
from runner.errors import ConfigError
from runner.train.callback_state import UserCallback

RATE_SETTERS = (keras.callbacks.ReduceLROnPlateau, keras.callbacks.LearningRateScheduler)

Schedule = keras.optimizers.schedules.LearningRateSchedule


def build_optimizer(settings: OptimizerConfig, planned_steps: int) -> keras.optimizers.Optimizer:
    """The job's optimizer, for a run of so many steps in all; see `learning_rate`."""
    kinds: dict[str, Any] = {
        "rmsprop": keras.optimizers.RMSprop,
        "adam": keras.optimizers.Adam,
        "sgd": keras.optimizers.SGD,
    }
    average = {} if settings.ema_momentum is None else {"use_ema": True, "ema_momentum": settings.ema_momentum}
    # Keras numbers its own names by process, and a checkpoint has the variables by name.
    return kinds[settings.name](learning_rate(settings, planned_steps), name=settings.name, **average)


def learning_rate(settings: OptimizerConfig, planned_steps: int) -> float | Schedule:
    """The rate, or with a schedule that of every step: a function of its number, from 0, and of the planned steps.

    With r the rate, w = round(warmup x steps) and f = final: r (1/w + (1 - 1/w) k/w) in step k < w; then r, or with a
    cosine r (f + (1 - f) (1 + cos(pi (k - w) / (steps - w))) / 2), and r f in what comes after the planned steps.
    """
    schedule, rate = settings.schedule, settings.learning_rate
    if schedule is None:
        return rate
    warmup = round(schedule.warmup * planned_steps)
    if schedule.name == "cosine":
        rises: dict[str, Any] = {"warmup_target": rate, "warmup_steps": warmup} if warmup else {}
        return keras.optimizers.schedules.CosineDecay(
            rate / max(warmup, 1), max(planned_steps - warmup, 1), alpha=schedule.final, **rises
        )
    if not warmup:
        return rate
    return keras.optimizers.schedules.PolynomialDecay(rate / warmup, warmup, end_learning_rate=rate)


def check_rate_setters(settings: OptimizerConfig, callbacks: Sequence[UserCallback]) -> None:
    """Raise ConfigError for a callback that sets the learning rate, where a schedule already does."""
    for made in callbacks:
        if settings.schedule is not None and isinstance(made.callback, RATE_SETTERS):
            raise ConfigError(
                f"training.callbacks {made.reference}: {type(made.callback).__name__} sets the learning rate, and so "
                "does training.optimizer.schedule; leave one of them out"
            )
