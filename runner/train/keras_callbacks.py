"""Keras callbacks, called as `keras.Model.fit` calls them.

    callbacks = KerasCallbacks(made, network, epochs=15, steps=40)
    callbacks.begin(saved)                                   # on_train_begin; `saved`: of the checkpoint, or None
    callbacks.tell("on_epoch_end", epoch, logs={"loss": 1.2})
    callbacks.snapshot()                                     # for the next checkpoint

What one of them raises ends the run with one line that names it. Every worker has its own, and calls them alike; those
that only write files are called on the first worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import keras

from runner.errors import ConfigError
from runner.train.callback_state import Snapshot, UserCallback, odd_data, put_back, snapshot
from runner.train.callbacks import call_user, import_object

WRITERS = (
    keras.callbacks.CSVLogger,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.TensorBoard,
)
"""Of several workers, each would write the same files."""


def make_callbacks(references: Sequence[str], *, is_chief: bool) -> list[UserCallback]:
    """What the user's factories make; a factory may return one callback or several.

    Raises:
        ConfigError: it returned something else, or a callback that a run cannot have.
        JobFailedError: it raised.
    """
    made: list[UserCallback] = []
    for reference in references:
        setting = f"training.callbacks {reference}"
        result = call_user(import_object(reference, "training.callbacks"), setting)
        for callback in result if isinstance(result, (list, tuple)) else [result]:
            if not isinstance(callback, keras.callbacks.Callback):
                raise ConfigError(f"{setting} returned a {type(callback).__name__}, not Keras callbacks")
            if isinstance(callback, keras.callbacks.BackupAndRestore):
                raise ConfigError(
                    f"{setting}: BackupAndRestore would overwrite the weights of the runner's own checkpoints; "
                    "leave it out: `runner resume` continues every run"
                )
            is_mute = type(callback) in WRITERS and not is_chief
            made.append(UserCallback(reference, keras.callbacks.Callback() if is_mute else callback))
    return made


class KerasCallbacks:
    """A run's callbacks, and Keras's `History` behind them, as `fit` has it. False without any callback."""

    def __init__(self, made: Sequence[UserCallback], network: keras.Model, *, epochs: int, steps: int) -> None:
        """`epochs` of the job, `steps` of an epoch: what callbacks find in `params`."""
        self._users = list(made)
        if made and not any(isinstance(user.callback, keras.callbacks.History) for user in made):
            self._users.append(UserCallback("", keras.callbacks.History()))
        self._network = network
        self._at_start: list[dict[str, Any]] = []
        for user in self._users:
            if isinstance(user.callback, keras.callbacks.History):
                network.history = user.callback
            _set_mode(user.callback)
            call_user(user.callback.set_model, f"{user.label}.set_model", network)
            call_user(user.callback.set_params, f"{user.label}.set_params", _params(epochs, steps))

    def __bool__(self) -> bool:
        return bool(self._users)

    def begin(self, saved: Snapshot | None) -> None:
        """`on_train_begin`; in a run that goes on from a checkpoint, what it kept of each callback comes after."""
        loggers = [user.callback for user in self._users if isinstance(user.callback, keras.callbacks.CSVLogger)]
        if saved is not None:
            for logger in loggers:
                logger.append = True
        self.tell("on_train_begin")
        self._at_start = [odd_data(user.callback) for user in self._users]
        if saved is not None:
            headers = [logger.append_header for logger in loggers]
            put_back(self._users, saved)
            for logger, header in zip(loggers, headers, strict=True):
                logger.append_header = header

    def tell(self, hook: str, *index: int, logs: Mapping[str, float] | None = None) -> None:
        """Call a method of all; `index`: of the batch or epoch. They share one copy of `logs`, to which some add."""
        shared = dict(sorted((logs or {}).items()))
        for user in self._users:
            method = getattr(user.callback, hook)
            call = partial(method, *index, logs=shared) if "batch" in hook else partial(method, *index, shared)
            call_user(call, f"{user.label}.{hook}")

    def snapshot(self) -> Snapshot:
        """What a checkpoint keeps of them; errors as for `callback_state.snapshot`."""
        return snapshot(self._users, self._at_start)


def _params(epochs: int, steps: int) -> dict[str, int]:
    return {"verbose": 0, "epochs": epochs, "steps": steps}


def _set_mode(callback: Any) -> None:
    """Say that accuracies grow: `fit` has a metric to ask, this loop has not."""
    if getattr(callback, "mode", None) == "auto" and str(getattr(callback, "monitor", "")).endswith("accuracy"):
        callback.mode = "max"
