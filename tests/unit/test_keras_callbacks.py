"""Keras callbacks meet what they meet in `keras.Model.fit`: the same calls, figures, parameters and stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from runner.errors import ConfigError, JobFailedError
from runner.train.keras_callbacks import make_callbacks
from tests.loops import STEPS, VALIDATION_STEPS, LoopRun

EPOCHS = 3
ROWS = 2
"""Of a batch that `fit` is given."""

INDEXED = [
    "on_epoch_begin",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_test_batch_begin",
    "on_test_batch_end",
    "on_epoch_end",
]
PLAIN = ["on_train_begin", "on_test_begin", "on_test_end", "on_train_end"]

Call = list[Any]
"""The method, the index, the names in the logs, the parameters, and whether there is a model."""


class Recorder(keras.callbacks.Callback):
    """Notes every call, and sets a flag of the model at one of them, by its number."""

    def __init__(self, flag: str, at: int | None) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.flag, self.at = flag, at

    def note(self, hook: str, index: int | None, logs: Any) -> None:
        parameters = {name: self.params[name] for name in ("verbose", "epochs", "steps")}
        assert all(type(value) is float for value in logs.values())
        self.calls.append([hook, index, list(logs), parameters, isinstance(self.model, keras.Model)])
        if len(self.calls) - 1 == self.at:
            setattr(self.model, self.flag, True)


def _add(hook: str, *, is_indexed: bool) -> None:
    def indexed(self: Recorder, index: int, logs: Any = None) -> None:
        self.note(hook, index, logs)

    def plain(self: Recorder, logs: Any = None) -> None:
        self.note(hook, None, logs)

    setattr(Recorder, hook, indexed if is_indexed else plain)


for name in INDEXED:
    _add(name, is_indexed=True)
for name in PLAIN:
    _add(name, is_indexed=False)


def calls_of_fit(recorder: Recorder) -> list[Call]:
    """Those in a real `fit` of as many epochs and batches."""
    model = keras.Sequential([keras.layers.Dense(2, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"], run_eagerly=True)

    def data(batches: int) -> tuple[Any, Any]:
        return np.zeros((batches * ROWS, 3), np.float32), np.zeros(batches * ROWS, np.int32)

    model.fit(
        *data(STEPS),
        batch_size=ROWS,
        epochs=EPOCHS,
        validation_data=data(VALIDATION_STEPS),
        callbacks=[recorder],
        verbose=0,
    )
    return recorder.calls


def calls_of_a_run(recorder: Recorder, folder: Path) -> list[Call]:
    LoopRun(folder, [lambda: recorder], {"epochs": EPOCHS}).go()
    return recorder.calls


def test_a_run_makes_the_calls_of_fit(tmp_path: Path) -> None:
    expected = calls_of_fit(Recorder("", None))
    assert calls_of_a_run(Recorder("", None), tmp_path) == expected
    assert {hook for hook, *_ in expected} == {*INDEXED, *PLAIN}
    assert expected[0][3] == {"verbose": 0, "epochs": EPOCHS, "steps": STEPS}


CALLS_OF_AN_EPOCH = 2 + 2 * STEPS + 2 * VALIDATION_STEPS + 2
"""`on_train_begin` is the call before the first epoch's."""


@pytest.mark.parametrize("at", range(1 + CALLS_OF_AN_EPOCH))
def test_a_callback_that_ends_training_ends_it_where_fit_does(tmp_path: Path, at: int) -> None:
    at = at and at + CALLS_OF_AN_EPOCH  # in the second epoch
    expected = calls_of_fit(Recorder("stop_training", at))
    assert calls_of_a_run(Recorder("stop_training", at), tmp_path) == expected
    assert len(expected) < 2 + EPOCHS * CALLS_OF_AN_EPOCH


def test_a_callback_that_ends_an_evaluation_ends_it_where_fit_does(tmp_path: Path) -> None:
    at = 1 + 1 + 2 * STEPS + 2  # the end of the first validation batch
    expected = calls_of_fit(Recorder("stop_evaluating", at))
    assert expected[at][:2] == ["on_test_batch_end", 0]
    assert calls_of_a_run(Recorder("stop_evaluating", at), tmp_path) == expected


def test_what_one_callback_adds_to_the_logs_the_next_one_and_the_history_see(tmp_path: Path) -> None:
    seen: list[set[str]] = []
    histories: list[Any] = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            seen.append(set(logs))

        def on_train_end(self, logs: Any = None) -> None:
            seen.append(set(logs))
            histories.append(self.model.history.history)

    def fit(callbacks: list[Any]) -> None:
        model = keras.Sequential([keras.layers.Dense(2, activation="softmax")])
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"], run_eagerly=True)
        x, y = np.zeros((4, 3), np.float32), np.zeros(4, np.int32)
        model.fit(x, y, epochs=1, validation_data=(x, y), callbacks=callbacks, verbose=0)

    def scheduler() -> Any:
        return keras.callbacks.LearningRateScheduler(lambda _epoch, rate: rate)

    fit([scheduler(), Look()])
    LoopRun(tmp_path, [scheduler, Look], {"epochs": 1}).go()
    assert seen[:2] == seen[2:]
    assert "learning_rate" in seen[0]
    assert set(histories[0]) == set(histories[1])


# What the user's factories make


def made(factory: Any, monkeypatch: pytest.MonkeyPatch, *, is_chief: bool = True) -> Any:
    monkeypatch.setattr("tests.unit.test_keras_callbacks.factory", factory, raising=False)
    return make_callbacks(["tests.unit.test_keras_callbacks:factory"], is_chief=is_chief)


def test_a_factory_may_make_one_callback_or_several(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(made(keras.callbacks.History, monkeypatch)) == 1
    assert len(made(lambda: (keras.callbacks.History(), keras.callbacks.TerminateOnNaN()), monkeypatch)) == 2
    assert made(list, monkeypatch) == []


@pytest.mark.parametrize("wrong", [None, 3, keras.callbacks.History, [keras.callbacks.History(), None]])
def test_what_is_no_callback_is_refused(monkeypatch: pytest.MonkeyPatch, wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"training.callbacks .*:factory returned a \w+, not Keras callbacks"):
        made(lambda: wrong, monkeypatch)


def test_a_callback_that_restores_its_own_backup_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"BackupAndRestore would overwrite .* leave it out"):
        made(lambda: keras.callbacks.BackupAndRestore(str(tmp_path)), monkeypatch)


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit("no")])
def test_a_factory_that_raises_ends_the_run_in_one_line(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(JobFailedError, match=rf"training.callbacks .*:factory raised {type(error).__name__}: no"):
        made(fail, monkeypatch)


def test_of_several_workers_the_first_alone_writes_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Own(keras.callbacks.CSVLogger):
        pass

    for kind, others in ((keras.callbacks.CSVLogger, keras.callbacks.Callback), (Own, Own)):
        for is_chief, expected in ((True, kind), (False, others)):
            (user,) = made(lambda kind=kind: kind(str(tmp_path / "log.csv")), monkeypatch, is_chief=is_chief)
            assert type(user.callback) is expected
