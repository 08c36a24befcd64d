"""What happens around the steps: early stopping, and the user's own code. Keras's callbacks: `keras_callbacks`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.config import EarlyStoppingConfig
from runner.errors import ConfigError, JobFailedError
from runner.run_directory import JOB_FOLDER_VARIABLE
from runner.train.history import EpochRow, is_better


@dataclass(frozen=True)
class EpochState:
    """What `training.epoch_callback` is called with after every epoch, on the first worker.

    Losses are token averages in nats. epsilon and delta are None without differential privacy. A run that was
    killed calls again for the epochs it repeats.
    """

    epoch: int
    loss: float
    accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    epsilon: float | None = None
    delta: float | None = None


def should_stop_early(rows: Sequence[EpochRow], settings: EarlyStoppingConfig) -> bool:
    """Whether the metric has not improved by `min_delta` for `patience` epochs: a function of the history alone."""
    if not settings.enabled:
        return False
    best, waited = float("nan"), 0
    for row in rows:
        value = row.metric(settings.metric)
        if is_better(settings.metric, value, best, settings.min_delta):
            best, waited = value, 0
        else:
            waited += 1
    return waited >= settings.patience


def import_object(reference: str, setting: str) -> Any:
    """The object that `package.module:name` means; modules beside the job file or in this folder are found too.

    Raises:
        ConfigError: it cannot be imported, or is not callable.
    """
    module_name, _, name = reference.partition(":")
    for folder in (str(Path.cwd()), os.environ.get(JOB_FOLDER_VARIABLE, "")):
        if folder and folder not in sys.path:
            sys.path.append(folder)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"{setting}: cannot import {module_name}: {error}") from error
    except (Exception, SystemExit) as error:  # a script without a `__main__` guard exits
        raise ConfigError(f"{setting}: importing {module_name} failed: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        raise ConfigError(f"{setting}: module {module_name} has no {name}")
    found = getattr(module, name)
    if not callable(found):
        raise ConfigError(f"{setting}: {reference} is not callable")
    return found


def call_user(function: Callable[..., Any], setting: str, *arguments: Any) -> Any:
    """Call the user's code; what it raises ends the run with one line."""
    try:
        return function(*arguments)
    except (Exception, SystemExit) as error:
        raise JobFailedError(f"{setting} raised {type(error).__name__}: {error}") from error
