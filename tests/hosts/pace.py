"""A Keras callback for runs that a test slows down and lets hurry. Keras is imported in workers, and nowhere else."""

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
