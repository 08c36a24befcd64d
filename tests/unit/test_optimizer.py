"""The learning rate of a step is a function of its number and of the planned steps, whatever happened before."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.config import JobConfig, parse_job
from runner.errors import ConfigError
from runner.train.callback_state import UserCallback
from runner.train.optimizer import build_optimizer, check_rate_setters
from tests.loops import STEPS, LoopRun


def job(**training: Any) -> JobConfig:
    return parse_job({"name": "a", "data": {"uri": "b"}, "training": training}, environment={})


def rates(schedule: dict[str, Any] | None, steps: int, asked: list[int], name: str = "adam") -> list[float]:
    """The learning rates of an optimizer that is at each of these steps."""
    made = build_optimizer(
        job(optimizer={"name": name, "learning_rate": 0.02, "schedule": schedule}).training.optimizer, steps
    )
    made.build([keras.Variable(np.zeros(1, np.float32))])
    found = []
    for step in asked:
        made.iterations.assign(step)
        found.append(float(np.asarray(made.learning_rate)))
    return found


def expected_rate(name: str, warmup: float, final: float, steps: int, step: int) -> float:
    rising = round(warmup * steps)
    if step < rising:
        return 0.02 * (1 / rising + (1 - 1 / rising) * step / rising)
    if name == "constant":
        return 0.02
    share = min((step - rising) / max(steps - rising, 1), 1)
    return 0.02 * (final + (1 - final) * (1 + math.cos(math.pi * share)) / 2)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["constant", "cosine"]),
    st.sampled_from([0.0, 0.05, 0.5, 0.99]),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.integers(1, 3000),
    st.lists(st.integers(0, 4000), min_size=1, max_size=5),
)
def test_rates_rise_and_fall_as_the_formula_says(
    name: str, warmup: float, final: float, steps: int, asked: list[int]
) -> None:
    found = rates({"name": name, "warmup": warmup, "final": final}, steps, asked)
    expected = [expected_rate(name, warmup, final, steps, step) for step in asked]
    assert found == pytest.approx(expected, rel=1e-4, abs=2e-8)
    assert all(0 <= rate <= 0.02 * (1 + 1e-6) for rate in found)


@pytest.mark.parametrize("schedule", [None, {"name": "constant", "warmup": 0}])
def test_without_a_schedule_the_rate_is_a_number_that_callbacks_may_set(schedule: Any) -> None:
    made = build_optimizer(job(optimizer={"schedule": schedule}).training.optimizer, 10)
    assert isinstance(made.learning_rate, keras.Variable)


def test_a_job_that_says_nothing_has_no_schedule_and_one_that_names_one_has_its_defaults() -> None:
    assert job().training.optimizer.schedule is None
    schedule = job(optimizer={"schedule": {}}).training.optimizer.schedule
    assert schedule is not None
    assert (schedule.name, schedule.warmup, schedule.final) == ("cosine", 0.05, 0.0)


@pytest.mark.parametrize("callback", [keras.callbacks.ReduceLROnPlateau(), keras.callbacks.LearningRateScheduler(min)])
def test_a_callback_that_sets_the_rate_is_refused_beside_a_schedule(callback: Any) -> None:
    made = [UserCallback("mine:make", callback)]
    check_rate_setters(job().training.optimizer, made)
    with pytest.raises(ConfigError, match=r"mine:make: .* sets the learning rate, and so does"):
        check_rate_setters(job(optimizer={"schedule": {}}).training.optimizer, made)


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[], Path]:
    folders = (tmp_path / str(number) for number in range(100))
    return lambda: next(folders)


COSINE = {"name": "sgd", "schedule": {"warmup": 0.3, "final": 0.1}}


def test_weights_and_their_moving_average_follow_the_schedule() -> None:
    """Plain SGD with a gradient of 1, and Keras's average, which begins with the first step's weights."""
    settings = job(optimizer=COSINE | {"learning_rate": 0.02, "ema_momentum": 0.75}).training.optimizer
    weight = keras.Variable(np.ones(1, np.float32))
    made = build_optimizer(settings, 20)
    made.build([weight])
    plain, average = 1.0, 0.0
    for step in range(20):
        made.apply([np.ones(1, np.float32)])
        plain -= expected_rate("cosine", 0.3, 0.1, 20, step)
        average = plain if step == 0 else 0.75 * average + 0.25 * plain
    assert float(np.asarray(weight)[0]) == pytest.approx(plain, rel=1e-5)
    made.finalize_variable_values([weight])
    assert float(np.asarray(weight)[0]) == pytest.approx(average, rel=1e-5)


@pytest.mark.parametrize("stop_after", [1, 5, 8])
def test_a_stopped_run_goes_on_along_its_schedule(fresh: Callable[[], Path], stop_after: int) -> None:
    training = {"epochs": 3, "optimizer": COSINE}
    whole, stopped = LoopRun(fresh(), training=training), LoopRun(fresh(), training=training)
    assert whole.go() == "all epochs done"
    assert stopped.go(stop_after=stop_after) == "stopped"
    assert stopped.go() == "all epochs done"
    assert stopped.outcome == whole.outcome
    flat = LoopRun(fresh(), training=training | {"optimizer": {"name": "sgd"}})
    flat.go()
    assert flat.kept != whole.kept, "the schedule makes a difference"


def test_with_more_epochs_the_rest_of_the_steps_have_the_rates_of_the_longer_run(fresh: Callable[[], Path]) -> None:
    """And the steps before keep those that they were made with."""
    seen: list[float] = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            seen.append(float(np.asarray(self.model.optimizer.learning_rate)))

    run = LoopRun(fresh(), callbacks=[Watch], training={"epochs": 2, "optimizer": COSINE})
    run.go()
    run.go(epochs=4)
    short, long = ([expected(step, epochs * STEPS) for step in range(epochs * STEPS)] for epochs in (2, 4))
    assert seen == pytest.approx([*short, *long[2 * STEPS :]], rel=1e-5)


def expected(step: int, steps: int) -> float:
    return 25 * expected_rate("cosine", 0.3, 0.1, steps, step)
