"""How far a run has come, as plain data that goes into every checkpoint, and why it is over."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from runner.config import TrainingConfig
from runner.train.callbacks import should_stop_early
from runner.train.history import EpochRow, best_epoch, from_rows, is_better

if TYPE_CHECKING:
    from runner.train.step import StepSums

Ending = Literal[
    "all epochs done", "early stopping", "time limit", "ended by a callback", "privacy budget spent", "stopped"
]


@dataclass
class Progress:
    """How far the run is. Sums are those of the current epoch.

    `seconds` is all the time since training began, with validation, callbacks and checkpoints, over all resumes;
    `epoch_seconds` that of the current epoch's steps. `ended_by`: what ended the run other than its history;
    `planned_epochs`: `training.epochs` then, 0 where a checkpoint of before does not say. `kept_epoch`: of the row
    whose weights are kept. `digests`: of each row's weights, where callbacks may put them back.
    """

    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    epoch_loss: float = 0.0
    epoch_right: float = 0.0
    epoch_tokens: int = 0
    ended_by: Ending | None = None
    planned_epochs: int = 0
    kept_epoch: int | None = None
    rows: list[EpochRow] = field(default_factory=list[EpochRow])
    digests: list[str] = field(default_factory=list[str])

    def add(self, sums: StepSums, tokens: int, seconds: float) -> None:
        """Count a step."""
        self.step += 1
        self.total_steps += 1
        self.epoch_loss += sums.loss
        self.epoch_right += sums.right
        self.epoch_tokens += tokens
        self.epoch_seconds += seconds

    def means(self) -> dict[str, float]:
        """Loss and accuracy of the current epoch so far, over tokens."""
        tokens = max(self.epoch_tokens, 1)
        return {"accuracy": self.epoch_right / tokens, "loss": self.epoch_loss / tokens}

    def close_epoch(self, row: EpochRow, metric: str | None, digest: str) -> bool:
        """Add the epoch's row; whether its weights are to be kept, by `metric` or, without one, as the latest.

        The epoch kept before may have been chosen by another metric: it stays until a later one is better by this.
        """
        self.rows.append(row)
        self.digests.append(digest)
        kept = self.kept_epoch
        if kept is None or metric is None or is_better(metric, row.metric(metric), self.rows[kept].metric(metric)):
            self.kept_epoch = len(self.rows) - 1
        return self.kept_epoch == len(self.rows) - 1

    def begin_epoch(self) -> None:
        """Start the next epoch's sums."""
        self.epoch += 1
        self.step = self.epoch_tokens = 0
        self.epoch_loss = self.epoch_right = self.epoch_seconds = 0.0

    def end(self, ending: Ending, settings: TrainingConfig) -> None:
        """Note what ends the run after this epoch, unless something did before."""
        if self.ended_by is None:
            self.ended_by, self.planned_epochs = ending, settings.epochs

    def go_on(self, settings: TrainingConfig) -> None:
        """Forget an ending that a resume's settings lift: the limit was raised since, or epochs were added."""
        is_lifted = {
            "time limit": not self.is_late(settings),
            "ended by a callback": 0 < self.planned_epochs < settings.epochs,
        }
        if self.ended_by is not None and is_lifted.get(self.ended_by, False):
            self.ended_by = None

    def is_late(self, settings: TrainingConfig) -> bool:
        """Whether the time limit has passed."""
        return settings.max_training_time_s is not None and self.seconds > settings.max_training_time_s

    def why_over(self, settings: TrainingConfig, steps: int, *, is_spent: bool) -> Ending | None:
        """Why the run is over, seen from what it has come to, so that a finished run stays finished; None: it is not.

        `steps` of a whole epoch; `is_spent`: whether the privacy budget is.
        """
        was_cut = bool(self.rows) and self.rows[-1].steps < steps
        if was_cut and is_spent:
            return "privacy budget spent"
        if was_cut and self.ended_by is not None:
            return self.ended_by
        if len(self.rows) >= settings.epochs:
            return "all epochs done"
        if should_stop_early(self.rows, settings.early_stopping):
            return "early stopping"
        if self.ended_by is None and is_spent:
            return "privacy budget spent"
        return self.ended_by

    def how_to_go_on(self, ending: Ending, settings: TrainingConfig) -> str:
        """What a resume that found nothing to do would have to change."""
        by_callback = f"training.epochs above {max(settings.epochs, self.planned_epochs)} goes on"
        if not self.planned_epochs:
            by_callback = "an earlier version noted that, and not after how many epochs it may go on"
        return {
            "all epochs done": f"training.epochs above {settings.epochs} goes on",
            "early stopping": "a larger training.early_stopping.patience goes on, or enabled: false",
            "time limit": f"training.max_training_time_s above {math.ceil(self.seconds)} goes on",
            "ended by a callback": by_callback,
            "privacy budget spent": "a larger privacy.max_epsilon goes on, where that was the limit",
            "stopped": "",
        }[ending]

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], metric: str | None) -> Progress:
        """From what a checkpoint's `state.json` holds.

        Checkpoints of before did not say which epoch was kept: then it was the best by `metric`.
        """
        rows = from_rows(plain["rows"])
        before: dict[str, Any] = {"kept_epoch": best_epoch(rows, metric), "digests": [""] * len(rows)}
        values: dict[str, Any] = before | dict(plain) | {"rows": rows}
        return cls(**values)


def weights_digest(weights: Mapping[str, NDArray[Any]]) -> str:
    """The same for the same weights, to the bit."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + b"\0" + np.ascontiguousarray(weights[name]).tobytes())
    return digest.hexdigest()
