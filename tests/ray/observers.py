"""Callbacks that the tests' jobs name."""

from __future__ import annotations

import keras
import numpy as np
from numpy.typing import NDArray

from runner.train.callbacks import EpochState

heard: list[EpochState] = []


def listen(state: EpochState) -> None:
    heard.append(state)


def complain(_state: EpochState) -> None:
    raise ValueError("no more")


def lower_rate() -> keras.callbacks.Callback:
    return keras.callbacks.LearningRateScheduler(lambda _epoch, rate: rate * 0.5)


class EndAfterTwo(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if epoch == 1:
            self.model.stop_training = True


def end_after_two() -> keras.callbacks.Callback:
    return EndAfterTwo()


seen_weights: list[dict[str, NDArray[np.float32]]] = []


class SeeWeights(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        seen_weights.append({name: np.array(value) for name, value in self.model.weights_dict().items()})


def see_weights() -> keras.callbacks.Callback:
    return SeeWeights()


class Poison(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if batch == 2:
            weights = self.model.trainable_variables[0]
            weights.assign(weights * float("nan"))


def poison() -> keras.callbacks.Callback:
    return Poison()
