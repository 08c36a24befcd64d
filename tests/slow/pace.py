"""Keras callbacks for runs that are disturbed: a run that is over before it can be killed tests nothing.

Keras is imported where they are made: in processes that train, and nowhere else.
"""

from __future__ import annotations

import os
import time
from typing import Any

if "TEST_RUN_KEY" in os.environ:
    from runner.privacy.noise import RunKey

    RunKey.new = classmethod(lambda cls: cls(os.environ["TEST_RUN_KEY"]))


def slow_steps() -> Any:
    """Waits a little after every step."""
    import keras

    pause_s = float(os.environ.get("TEST_STEP_PAUSE_S", "0.1"))
    return keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: time.sleep(pause_s))


def plateau() -> Any:
    """Has state of its own: forgets it on resume, and the learning rate differs."""
    import keras

    return keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=2, min_delta=10.0)
