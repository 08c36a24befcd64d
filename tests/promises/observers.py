"""Keras callbacks that the promises' jobs name: what every step released, and a process that dies."""

from __future__ import annotations

import keras
import numpy as np
from numpy.typing import NDArray

moves: list[NDArray[np.float32]] = []
"""For every step of this process: the weights before it minus those after it, all in one vector."""
die_after: list[int] = []
"""Steps after which this process ends as if it had been killed; empty for never."""


class KilledError(Exception):
    """Stands for the end of the process."""


class Watch(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.before = flat(self.model)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        moves.append(self.before - flat(self.model))
        if len(moves) in die_after:
            raise KilledError("killed")


def flat(network: keras.Model) -> NDArray[np.float32]:
    return np.concatenate([np.asarray(variable).ravel() for variable in network.trainable_variables])


def watch() -> keras.callbacks.Callback:
    return Watch()


def forget(*, die: int | None = None) -> None:
    """Begin to watch another process, which may die after so many steps."""
    moves.clear()
    die_after[:] = [] if die is None else [die]
