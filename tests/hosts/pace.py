"""Keras callbacks for runs that are disturbed. Keras is imported where they are made: in workers, and nowhere else."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any


def paced_steps() -> Any:
    """Waits after every step as many seconds as the file says: a test lets a run hurry once it has struck.

    Not at all where the variable is not set.
    """
    import keras

    file = os.environ.get("TEST_PACE_FILE")

    def pause(batch: int, logs: object) -> None:
        if file:
            time.sleep(float(Path(file).read_text()))

    return keras.callbacks.LambdaCallback(on_train_batch_end=pause)


def plateau() -> Any:
    """Has state of its own: forgets it on resume, and the learning rate differs."""
    import keras

    return keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=2, min_delta=10.0)
