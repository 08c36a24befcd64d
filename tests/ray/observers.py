"""Callbacks that the tests' jobs name."""

from __future__ import annotations

import json
import os

import keras
import numpy as np
from numpy.typing import NDArray

from runner.train.callbacks import EpochState

heard: list[EpochState] = []


def listen(state: EpochState) -> None:
    heard.append(state)


def complain(_state: EpochState) -> None:
    raise ValueError("no more")


def complain_later(state: EpochState) -> None:
    if state.epoch == 2:
        raise ValueError("no more")


class Raises(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        raise ValueError("no more")


def raises() -> keras.callbacks.Callback:
    return Raises()


def restore_first() -> keras.callbacks.Callback:
    """Leaves the first epoch's weights: no later one has a larger loss."""
    return keras.callbacks.EarlyStopping(monitor="loss", mode="max", patience=50, restore_best_weights=True)


def lower_rate() -> keras.callbacks.Callback:
    return keras.callbacks.LearningRateScheduler(lambda _epoch, rate: rate * 0.5)


class EndAfterTwo(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if epoch == 1:
            self.model.stop_training = True


def end_after_two() -> keras.callbacks.Callback:
    return EndAfterTwo()


class EndOnSecondWorker(keras.callbacks.Callback):
    """After the third batch, and on one worker alone."""

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        is_second = json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 1
        self.model.stop_training = batch == 2 and is_second


def end_on_second_worker() -> keras.callbacks.Callback:
    return EndOnSecondWorker()


seen_weights: list[dict[str, NDArray[np.float32]]] = []


class SeeWeights(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        seen_weights.append({name: np.array(value) for name, value in self.model.weights_dict().items()})


def see_weights() -> keras.callbacks.Callback:
    return SeeWeights()


class Poison(keras.callbacks.Callback):
    """Makes the weights no numbers after a batch, of the first epoch or the second."""

    def __init__(self, epoch: int = 0, batch: int = 2) -> None:
        super().__init__()
        self.left, self.batch = epoch, batch

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.left -= 1

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if (self.left, batch) == (0, self.batch):
            weights = self.model.trainable_variables[0]
            weights.assign(weights * float("nan"))


def poison() -> keras.callbacks.Callback:
    return Poison()


def poison_last_step() -> keras.callbacks.Callback:
    return Poison(epoch=1, batch=22)
