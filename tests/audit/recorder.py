"""A Keras callback that keeps the weights after every step: what the steps of a run released, even a killed one's."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np


def each_step() -> keras.callbacks.Callback:
    """Writes `STEP-PID.npy`, all weights behind one another, to TEST_WEIGHTS_FOLDER, and waits a little."""
    folder, pause_s = Path(os.environ["TEST_WEIGHTS_FOLDER"]), float(os.environ.get("TEST_STEP_PAUSE_S", "0"))
    return Recorder(folder, pause_s)


class Recorder(keras.callbacks.Callback):
    """See `each_step`. The weights that an attempt begins with are written too."""

    def __init__(self, folder: Path, pause_s: float) -> None:
        super().__init__()
        self.folder = folder
        self.pause_s = pause_s

    def on_train_begin(self, logs: Any = None) -> None:
        self.write()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.write()
        time.sleep(self.pause_s)

    def write(self) -> None:
        step = int(np.asarray(self.model.optimizer.iterations))
        weights = np.concatenate([np.asarray(variable).reshape(-1) for variable in self.model.trainable_variables])
        unfinished = self.folder / f"unfinished-{os.getpid()}.tmp"
        with unfinished.open("wb") as stream:
            np.save(stream, weights)
        unfinished.rename(self.folder / f"{step:06d}-{os.getpid()}.npy")
