"""A Keras callback that makes small runs last: a run that is over before it can be killed tests nothing."""

from __future__ import annotations

import os
import time

import keras


def slow_steps() -> keras.callbacks.Callback:
    """Waits a little after every step."""
    pause_s = float(os.environ.get("TEST_STEP_PAUSE_S", "0.1"))
    return keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: time.sleep(pause_s))


def plateau() -> keras.callbacks.Callback:
    """Has state of its own: forgets it on resume, and the learning rate differs."""
    return keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=2, min_delta=10.0)
