"""Runs end, stop and go on as they should, and say so: callbacks, kept epochs, time limits, failures."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runner.errors import JobFailedError
from runner.storage import LocalFolder
from runner.train import loop as loop_module
from runner.train.checkpoint import newest_checkpoint, save_checkpoint
from runner.train.progress import weights_digest
from tests.loops import STEPS, LoopRun

FAST = settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[], Path]:
    """Folders that are empty, one after the other."""
    numbers = iter(range(10**6))
    return lambda: tmp_path / str(next(numbers))


# Keras's own callbacks over a stop and a resume


def early_stopping(**changes: Any) -> Callable[[], Any]:
    defaults = {"monitor": "loss", "patience": 2, "restore_best_weights": True}
    return lambda: keras.callbacks.EarlyStopping(**defaults | changes)


def plateau() -> Any:
    return keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=1, min_delta=0.05)


def schedule() -> Any:
    return keras.callbacks.LearningRateScheduler(lambda _epoch, rate: rate * 0.8)


class Averaged(keras.callbacks.Callback):
    """Leaves the mean of all epochs' weights: those of no epoch."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.seen: list[Any] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seen.append(self.model.get_weights())

    def on_train_end(self, logs: Any = None) -> None:
        self.model.set_weights([np.mean(arrays, axis=0) for arrays in zip(*self.seen, strict=True)])


CALLBACKS: dict[str, Sequence[Callable[[], Any]]] = {
    "restoring": [early_stopping(patience=50)],
    "ending": [early_stopping(patience=1), plateau],
    "accuracy": [early_stopping(monitor="val_accuracy", patience=1)],
    "rates": [schedule, plateau, keras.callbacks.History],
    "average": [Averaged],
    "lambda": [lambda: keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: None)],
    "not a number": [keras.callbacks.TerminateOnNaN],
}


STOPS = (1, STEPS, 2 * STEPS + 1, 3 * STEPS)
"""Steps after which a run is stopped: at an epoch's first and last one, and when the metric has been worse."""


@pytest.mark.parametrize(
    ("name", "training"),
    [*((name, {}) for name in CALLBACKS), ("restoring", {"save_best": False, "early_stopping": {"enabled": False}})],
)
def test_a_stopped_run_ends_as_one_that_was_not(fresh: Callable[[], Path], name: str, training: dict[str, Any]) -> None:
    whole = LoopRun(fresh(), CALLBACKS[name], {"epochs": 4, **training})
    ending = whole.go()
    for stop_after in STOPS:
        run = LoopRun(fresh(), CALLBACKS[name], dict(whole.training))
        if run.go(stop_after=stop_after) == "stopped":
            assert run.go() == ending
        assert run.outcome == whole.outcome, stop_after
    assert ending == ("ended by a callback" if name in ("ending", "accuracy") else "all epochs done")


def test_with_a_moving_average_swapped_weights_come_back_too(fresh: Callable[[], Path]) -> None:
    callbacks = [lambda: keras.callbacks.SwapEMAWeights(swap_on_epoch=True), early_stopping(patience=50)]
    training = {"epochs": 3, "optimizer": {"name": "sgd", "ema_momentum": 0.5}}
    whole = LoopRun(fresh(), callbacks, training)
    whole.go()
    for stop_after in (STEPS, STEPS + 1):
        run = LoopRun(fresh(), callbacks, dict(training))
        run.go(stop_after=stop_after)
        run.go()
        assert run.outcome == whole.outcome


def test_an_end_that_restores_weights_is_no_end_for_a_resume_with_more_epochs(fresh: Callable[[], Path]) -> None:
    callbacks = [early_stopping(patience=50)]
    whole = LoopRun(fresh(), callbacks, {"epochs": 6})
    whole.go()
    run = LoopRun(fresh(), callbacks, {"epochs": 3})
    assert run.go() == "all epochs done"
    assert run.go(epochs=6) == "all epochs done"
    assert run.outcome == whole.outcome


def test_a_run_that_a_callback_ended_goes_on_with_more_epochs_and_only_then(fresh: Callable[[], Path]) -> None:
    class EndOnce(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.stop_training = epoch == 1

    run = LoopRun(fresh(), [EndOnce], {"epochs": 9})
    assert run.go() == "ended by a callback"
    assert run.go(checkpoint_every_s=7) == "ended by a callback"
    assert len(run.rows) == 2
    how = run.loop.progress.how_to_go_on("ended by a callback", run.loop.settings)
    assert how == "training.epochs above 9 goes on"
    assert run.go(epochs=10) == "all epochs done"
    assert len(run.rows) == 10


@pytest.mark.parametrize("append", [False, True])
def test_a_csv_logger_s_file_goes_on_after_a_stop(fresh: Callable[[], Path], tmp_path: Path, append: bool) -> None:
    def content(stop_after: int | None) -> str:
        file = tmp_path / f"log-{append}-{stop_after}.csv"
        run = LoopRun(fresh(), [lambda: keras.callbacks.CSVLogger(str(file), append=append)], {"epochs": 3})
        run.go(stop_after=stop_after)
        if stop_after is not None:
            run.go()
        return file.read_text()

    whole = content(None)
    assert len(whole.splitlines()) == 4
    for stop_after in (1, 2 * STEPS):
        assert content(stop_after) == whole


def test_a_model_checkpoint_keeps_its_best_over_a_stop(fresh: Callable[[], Path], tmp_path: Path) -> None:
    def saved(stop_after: int | None) -> list[str]:
        folder = tmp_path / f"models {stop_after}"
        make = lambda: keras.callbacks.ModelCheckpoint(  # noqa: E731
            str(folder / "{epoch}.weights.h5"), monitor="loss", save_best_only=True, save_weights_only=True
        )
        run = LoopRun(fresh(), [make], {"epochs": 5})
        run.go(stop_after=stop_after)
        if stop_after is not None:
            run.go()
        return sorted(file.name for file in folder.iterdir())

    assert 0 < len(saved(None)) < 5
    assert saved(2 * STEPS + 1) == saved(None)


# Which epoch is kept


METRICS = ["loss", "accuracy", "val_loss", "val_accuracy"]
KEEPING = st.fixed_dictionaries(
    {
        "save_best": st.booleans(),
        "early_stopping": st.fixed_dictionaries(
            {
                "enabled": st.booleans(),
                "metric": st.sampled_from(METRICS),
                "restore_best": st.booleans(),
                "patience": st.sampled_from([1, 50]),
            }
        ),
    }
)


LAST = {"save_best": False, "early_stopping": {"enabled": False}}
BEST = {"save_best": True, "early_stopping": {"enabled": False}}


@FAST
@example(resumes=[(1, None, LAST), (0, None, BEST)], rates=[3.0, 0.1, 1.0] + [1.0] * 9, restores=False)
@given(
    resumes=st.lists(st.tuples(st.integers(0, 3), st.none() | st.integers(3, 9), KEEPING), min_size=2, max_size=3),
    rates=st.lists(st.sampled_from([0.1, 1.0, 3.0]), min_size=12, max_size=12),
    restores=st.booleans(),
)
def test_the_best_row_is_that_of_the_weights_in_the_model_whatever_a_resume_changes(
    fresh: Callable[[], Path],
    resumes: list[tuple[int, int | None, dict[str, Any]]],
    rates: list[float],
    restores: bool,
) -> None:
    digests: dict[int, str] = {}

    class See(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.model.optimizer.learning_rate = rates[epoch % len(rates)]

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            digests[epoch] = weights_digest(self.model.weights_dict())

    run = LoopRun(fresh(), [See, *([early_stopping(patience=50)] if restores else [])])
    epochs = 2
    for more, stop_after, keeping in resumes:
        epochs += more
        run.go(stop_after=stop_after, epochs=epochs, **keeping)
        if run.rows:
            assert run.best is not None
            assert run.kept == digests[run.best]


def test_another_metric_keeps_the_epoch_until_a_later_one_is_better_by_it(fresh: Callable[[], Path]) -> None:
    run = LoopRun(fresh(), training={"epochs": 3, "early_stopping": {"metric": "loss", "patience": 50}})
    run.go()
    kept = run.best, run.kept
    run.go(early_stopping={"metric": "val_accuracy", "patience": 50})
    assert (run.best, run.kept) == kept
    run.go(early_stopping={"enabled": False}, save_best=False)
    assert (run.best, run.kept) == kept
    run.go(epochs=4)
    assert run.best == 3
    assert run.kept != kept[1]


def test_weights_of_no_epoch_mark_none(fresh: Callable[[], Path]) -> None:
    run = LoopRun(fresh(), [Averaged], {"epochs": 3})
    run.go()
    assert run.best is None
    assert len(run.rows) == 3


def test_a_checkpoint_that_does_not_say_which_epoch_it_kept_is_read_as_before(fresh: Callable[[], Path]) -> None:
    from runner.train.progress import Progress

    run = LoopRun(fresh(), training={"epochs": 3})
    run.go()
    plain = {**vars(run.loop.progress), "rows": [vars(row) for row in run.loop.progress.rows]}
    for name in ("kept_epoch", "planned_epochs", "digests"):
        del plain[name]
    losses = [row.val_loss for row in run.rows]
    assert Progress.from_plain(plain, "val_loss").kept_epoch == np.argmin(losses)
    assert Progress.from_plain(plain, None).kept_epoch == 2


def test_a_run_that_a_callback_ended_before_that_was_noted_with_its_epochs_stays_ended(
    fresh: Callable[[], Path],
) -> None:
    """A resume that changes anything else must not train on, nor spend a private run's budget."""
    from runner.train.progress import Progress

    run = LoopRun(fresh(), CALLBACKS["ending"], {"epochs": 30})
    run.go()
    settings = run.loop.settings
    for planned, goes_on in ((30, False), (29, True), (0, False)):
        progress = Progress(ended_by="ended by a callback", planned_epochs=planned)
        progress.go_on(settings)
        assert (progress.ended_by is None) == goes_on
    assert "earlier version" in Progress().how_to_go_on("ended by a callback", settings)


def test_a_checkpoint_of_an_optimizer_by_another_name_is_gone_on_with(fresh: Callable[[], Path]) -> None:
    """Keras chose `rm_sprop` or `sgd_1` for what the loop calls `rmsprop` or `sgd` today."""
    whole, stopped = (LoopRun(fresh(), [plateau], {"epochs": 3}) for _ in range(2))
    whole.go()
    stopped.go(stop_after=STEPS + 1)
    folder = LocalFolder(stopped.folder / "checkpoints")
    found = newest_checkpoint(folder)
    assert found is not None
    tensors = {name.replace("optimizer/sgd/", "optimizer/rm_sprop/"): each for name, each in found.tensors.items()}
    assert tensors.keys() != found.tensors.keys()
    save_checkpoint(folder, found.step, tensors, found.state, ends_epoch=False)
    stopped.go()
    assert stopped.outcome == whole.outcome


# Time limits


class Clock:
    """Stands still but for what is slept."""

    def __init__(self) -> None:
        self.now = 1000.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(loop_module.time, "monotonic", lambda: clock.now)
    return clock


def test_a_time_limit_counts_what_callbacks_take(fresh: Callable[[], Path], clock: Clock) -> None:
    slow = lambda: keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: clock.sleep(3))  # noqa: E731
    run = LoopRun(fresh(), [slow], {"epochs": 9, "max_training_time_s": 4})
    assert run.go() == "time limit"
    assert [row.steps for row in run.rows] == [STEPS, STEPS]
    run = LoopRun(fresh(), training={"epochs": 9, "max_training_time_s": 4}, epoch_callback=lambda _: clock.sleep(5))
    assert run.go() == "time limit"
    assert len(run.rows) == 1


def test_a_time_limit_holds_over_all_attempts(fresh: Callable[[], Path], clock: Clock) -> None:
    run = LoopRun(fresh(), training={"epochs": 9, "max_training_time_s": 10}, after_step=lambda: clock.sleep(1))
    assert run.go(stop_after=6) == "stopped"
    clock.sleep(1000)  # while it was stopped
    assert run.go() == "time limit"
    assert [row.steps for row in run.rows] == [4, 4, 4]
    assert run.go() == "time limit"
    assert run.loop.progress.how_to_go_on("time limit", run.loop.settings) == (
        "training.max_training_time_s above 12 goes on"
    )
    assert run.go(max_training_time_s=13) == "time limit"
    assert len(run.rows) == 4
    assert run.go(max_training_time_s=None) == "all epochs done"


def test_a_time_limit_that_cuts_the_last_epoch_is_told(fresh: Callable[[], Path], clock: Clock) -> None:
    run = LoopRun(fresh(), training={"epochs": 2, "max_training_time_s": 4.5}, after_step=lambda: clock.sleep(1))
    assert run.go() == "time limit"
    assert [row.steps for row in run.rows] == [4, 2]
    assert run.go() == "time limit"
    assert run.go(max_training_time_s=100) == "all epochs done"


# Failures


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("last", [False, True])
def test_weights_that_are_no_numbers_are_never_kept(fresh: Callable[[], Path], bad: float, last: bool) -> None:
    """The last step of an epoch may spoil them, after its own loss was computed."""
    run = LoopRun(fresh(), training={"epochs": 2})
    steps = iter(range(1, 100))

    def spoil() -> None:
        if next(steps) == 2 * STEPS - (not last):
            run.loop.network.embedding.embeddings.assign(np.full((5, 2), bad, np.float32))

    run.after_step = spoil
    assert str(run.fail()) == ("the weights are no longer finite after epoch 1; lower training.optimizer.learning_rate")
    assert [row.epoch for row in run.loop.progress.rows] == [0]
    assert run.loop.kept_weights is not None
    assert all(np.isfinite(value).all() for value in run.loop.kept_weights.values())


HOOKS = [
    "on_train_begin",
    "on_epoch_begin",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_test_begin",
    "on_test_batch_begin",
    "on_test_batch_end",
    "on_test_end",
    "on_epoch_end",
    "on_train_end",
]


@pytest.mark.parametrize("hook", HOOKS)
def test_what_a_callback_raises_ends_the_run_with_one_line_that_names_it(fresh: Callable[[], Path], hook: str) -> None:
    class Raises(keras.callbacks.Callback):
        pass

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("two\nlines")

    setattr(Raises, hook, fail)
    run = LoopRun(fresh(), [Raises], {"epochs": 1})
    error = run.fail()
    assert isinstance(error, JobFailedError)
    assert not error.may_pass
    assert str(error) == f"training.callbacks mine:make: Raises.{hook} raised ValueError: two lines"
    assert len(run.loop.progress.rows) == (hook in ("on_epoch_end", "on_train_end"))


def test_state_that_a_resume_would_get_back_otherwise_ends_the_run_at_its_first_checkpoint(
    fresh: Callable[[], Path],
) -> None:
    class Seen(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.rates = {0: 0.1, 5: 0.01}
            self.shape = (2, 3)
            self.seen: dict[Any, float] = {}

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.seen[epoch] = logs["loss"]

    run = LoopRun(fresh(), [Seen], {"epochs": 3})
    assert str(run.fail()) == (
        "training.callbacks mine:make: Seen.seen has come to hold a dictionary with the key 0, which a resume would "
        "not get back as it was; keep numbers, texts, lists, arrays, or dictionaries with text keys"
    )
    assert len(run.loop.progress.rows) == 1


def test_a_run_begins_again_from_its_newest_checkpoint_when_an_epoch_s_callback_failed(
    fresh: Callable[[], Path],
) -> None:
    whole = LoopRun(fresh(), training={"epochs": 3})
    whole.go()
    run = LoopRun(fresh(), training={"epochs": 3})

    def complain(state: Any) -> None:
        if state.epoch == 1:
            raise ValueError("no")

    run.epoch_callback = complain
    assert str(run.fail()) == "training.epoch_callback raised ValueError: no"
    assert len(run.loop.progress.rows) == 2
    run.epoch_callback = None
    run.go()
    assert run.outcome == whole.outcome
    shutil.rmtree(run.folder)
