"""The training loop: epochs, steps, validation, checkpoints, and the ways a run can end.

What the loop has come to is plain data (`Progress`) and goes into every checkpoint beside the weights; with the
batches a pure function of the position, a run that was killed anywhere goes on as if it had not been.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import keras
import numpy as np
from numpy.typing import NDArray

from runner.config import TrainingConfig
from runner.errors import JobFailedError
from runner.model.network import Network
from runner.privacy.accountant import epsilon, plain_epsilon
from runner.privacy.figures import epsilon_in_words
from runner.privacy.ledger import RunLedger
from runner.run_directory import RunDirectory
from runner.train.callbacks import (
    EpochState,
    call_user,
    put_back,
    should_stop_early,
    snapshot,
)
from runner.train.checkpoint import BackgroundWriter, Checkpoint, prune_checkpoints, save_checkpoint
from runner.train.feed import Feed
from runner.train.heartbeat import Heartbeat
from runner.train.history import EpochRow, best_epoch, from_rows, to_csv
from runner.train.step import StepSums, TrainingStep
from runner.train.tracking import Tracker

Ending = Literal[
    "all epochs done", "early stopping", "time limit", "ended by a callback", "privacy budget spent", "stopped"
]
Weights = dict[str, NDArray[Any]]

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far the run is, as plain values. Sums are those of the current epoch; times are seconds of training."""

    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    epoch_loss: float = 0.0
    epoch_right: float = 0.0
    epoch_tokens: int = 0
    ended_by: Ending | None = None
    rows: list[EpochRow] = field(default_factory=list[EpochRow])

    def add(self, sums: StepSums, tokens: int, seconds: float) -> None:
        """Count a step."""
        self.step += 1
        self.total_steps += 1
        self.epoch_loss += sums.loss
        self.epoch_right += sums.right
        self.epoch_tokens += tokens
        self.seconds += seconds
        self.epoch_seconds += seconds

    def begin_epoch(self) -> None:
        """Start the next epoch's sums."""
        self.epoch += 1
        self.step = self.epoch_tokens = 0
        self.epoch_loss = self.epoch_right = self.epoch_seconds = 0.0

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Progress:
        """From what a checkpoint's `state.json` holds."""
        values: dict[str, Any] = plain | {"rows": from_rows(plain["rows"])}
        return cls(**values)


@dataclass
class TrainingLoop:
    """One worker's part of a run; every worker goes through the same steps, the chief writes.

    `identity` is what must not change between a checkpoint and a resume. `ledger`: of a private run, begun.
    """

    settings: TrainingConfig
    network: Network
    optimizer: keras.optimizers.Optimizer
    step: TrainingStep
    feed: Feed
    directory: RunDirectory
    heartbeat: Heartbeat
    callbacks: list[keras.callbacks.Callback]
    epoch_callback: Callable[[EpochState], Any] | None
    is_chief: bool
    identity: dict[str, Any]
    ledger: RunLedger | None = None
    tracker: Tracker | None = None
    progress: Progress = field(default_factory=Progress)
    kept_weights: Weights | None = None
    saved_callbacks: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def __post_init__(self) -> None:
        self._writer = BackgroundWriter()
        self._checkpoints = self.directory.folder.child("checkpoints")
        self._last_checkpoint = time.monotonic()
        self._epoch_cost: tuple[int, float] | None = None
        self._keras = keras.callbacks.CallbackList(self.callbacks, model=self.network)

    @property
    def kept_metric(self) -> str | None:
        """The metric that picks the epoch whose weights are kept; None: the last epoch's are."""
        stopping = self.settings.early_stopping
        picks = self.settings.save_best or (stopping.enabled and stopping.restore_best)
        return stopping.metric if picks else None

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint."""
        weights = _with_prefix(checkpoint.tensors, "weights/")
        self.network.load_weights_dict(weights)
        for variable in self.optimizer.variables:
            variable.assign(checkpoint.tensors[f"optimizer/{variable.path}"])
        self.kept_weights = _with_prefix(checkpoint.tensors, "kept/") or None
        self.progress = Progress.from_plain(checkpoint.state["progress"])
        if self.progress.ended_by == "time limit" and not self._is_late():
            self.progress.ended_by = None  # The limit was raised since.
        self.saved_callbacks = checkpoint.state["callbacks"]
        log.info("continuing from step %d (epoch %d)", checkpoint.step, self.progress.epoch)

    def run(self) -> Ending:
        """Train until something ends the run; `progress.rows` and `kept_weights` are what it came to."""
        self.network.stop_training = False
        self._keras.on_train_begin()
        put_back(self.callbacks, self.saved_callbacks)
        try:
            while (ending := self._ending()) is None:
                if self._train_epoch() == "stopped":
                    ending = "stopped"
                    break
                self._close_epoch()
            self._keras.on_train_end()
            if self.is_chief:
                self._checkpoint()
            if self.ledger is not None:
                self.ledger.settle(self.progress.total_steps)
        finally:
            self._writer.close()
        return ending

    def _ending(self) -> Ending | None:
        """Why the run is over, seen from what it has come to, so that a finished run stays finished."""
        rows = self.progress.rows
        if self._is_spent() and rows and rows[-1].steps < self.feed.plan.training_steps:
            return "privacy budget spent"
        if len(rows) >= self.settings.epochs:
            return "all epochs done"
        if should_stop_early(self.progress.rows, self.settings.early_stopping):
            return "early stopping"
        if self.progress.ended_by is None and self._is_spent():
            return "privacy budget spent"
        return self.progress.ended_by

    def _train_epoch(self) -> Literal["whole", "cut short", "stopped"]:
        progress = self.progress
        if progress.step == 0:
            self._keras.on_epoch_begin(progress.epoch)
        clock = time.perf_counter()
        for share in self.feed.training(progress.epoch, progress.step):
            if self.ledger is not None:
                if self._is_spent():
                    return "cut short"
                self.ledger.reserve(progress.total_steps, self.settings.epochs * self.feed.plan.training_steps)
            self._keras.on_train_batch_begin(share.step)
            sums = self.step.train(
                share.batches,
                share.tokens,
                noise=share.noise,
                stop=self.heartbeat.stop.is_set(),
                late=self._is_late(),
            )
            if self.ledger is None:
                self._check_finite(sums)
            now = time.perf_counter()
            progress.add(sums, share.tokens, now - clock)
            clock = now
            self._keras.on_train_batch_end(share.step, self._running_means())
            self._report()
            if sums.stop_votes:
                return "stopped"
            if sums.late_votes:
                progress.ended_by = "time limit"
                return "cut short"
            if self.is_chief:
                self._checkpoint_when_due()
        return "whole"

    def _close_epoch(self) -> None:
        """Validate, write the epoch's row, tell the callbacks, and keep it all in a checkpoint."""
        progress = self.progress
        means = self._running_means()
        with self._averaged_weights():
            validation = self._validate()
            row = EpochRow(
                progress.epoch,
                means["loss"],
                means["accuracy"],
                *validation,
                steps=progress.step,
                seconds=progress.epoch_seconds,
                tokens_per_second=progress.epoch_tokens / max(progress.epoch_seconds, 1e-9),
                epsilon=self._epsilon(progress.total_steps),
                delta=None if self.ledger is None else self.ledger.state.delta,
            )
            if self.ledger is not None:
                self._check_weights()
            progress.rows.append(row)
            if best_epoch(progress.rows, self.kept_metric) == len(progress.rows) - 1:
                self.kept_weights = _copied(self.network.weights_dict())
        log.info("epoch %d: %s", row.epoch, _in_words(row))
        logs = {name: value for name, value in asdict(row).items() if "loss" in name or "accuracy" in name}
        self._keras.on_epoch_end(row.epoch, {name: value for name, value in logs.items() if value is not None})
        if self.epoch_callback is not None and self.is_chief:
            state = EpochState(
                row.epoch, row.loss, row.accuracy, row.val_loss, row.val_accuracy, row.epsilon, row.delta
            )
            call_user(self.epoch_callback, "training.epoch_callback", state)
        if self.network.stop_training and progress.ended_by is None:
            progress.ended_by = "ended by a callback"
        progress.begin_epoch()
        if self.is_chief:
            self._checkpoint()

    @contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        """While open, the network has the optimizer's moving average of the weights, where it keeps one."""
        if not self.optimizer.use_ema:
            yield
            return
        weights = _copied(self.network.weights_dict())
        self.optimizer.finalize_variable_values(self.network.trainable_variables)
        yield
        self.network.load_weights_dict(weights)

    def _validate(self) -> tuple[float | None, float | None]:
        """Token averages of loss and accuracy over the validation examples."""
        loss = right = 0.0
        tokens = 0
        for share in self.feed.validation():
            sums = self.step.evaluate(share.batches)
            loss, right, tokens = loss + sums.loss, right + sums.right, tokens + share.tokens
        return (loss / tokens, right / tokens) if tokens else (None, None)

    def _checkpoint_when_due(self) -> None:
        due = time.monotonic() - self._last_checkpoint >= self.settings.checkpoint_every_s
        if due and self._writer.is_idle:
            self._checkpoint()

    def _checkpoint(self) -> None:
        """Hand everything the next step depends on to the writer, and the history with it."""
        progress = self.progress
        tensors: Weights = {f"weights/{name}": value for name, value in self.network.weights_dict().items()}
        for variable in self.optimizer.variables:
            tensors[f"optimizer/{variable.path}"] = np.asarray(variable)
        tensors |= {f"kept/{name}": value for name, value in (self.kept_weights or {}).items()}
        state = self.identity | {"progress": asdict(progress), "callbacks": snapshot(self.callbacks)}
        rows, ends_epoch = list(progress.rows), progress.step == 0
        self._writer.submit(self._write, progress.total_steps, _copied(tensors), state, rows, ends_epoch)
        self._last_checkpoint = time.monotonic()

    def _write(
        self, step: int, tensors: Weights, state: dict[str, Any], rows: list[EpochRow], ends_epoch: bool
    ) -> None:
        save_checkpoint(self._checkpoints, step, tensors, state, ends_epoch=ends_epoch)
        self.directory.folder.write("history.csv", to_csv(rows, best_epoch(rows, self.kept_metric)))
        if ends_epoch and self.tracker is not None:
            self.tracker.epochs(rows)
        prune_checkpoints(self._checkpoints, step, keep_epochs=self.settings.save_all_checkpoints)

    def _is_spent(self) -> bool:
        return self.ledger is not None and self.ledger.is_spent(self.progress.total_steps)

    def _epsilon(self, step: int) -> float | None:
        """What the run will have cost at `step`; None when it is not private. Only asked for at epochs' ends."""
        if self.ledger is None:
            return None
        state = self.ledger.state
        return epsilon([(state.mechanism, state.counted(step))], state.delta, state.accountant)

    def _is_late(self) -> bool:
        limit = self.settings.max_training_time_s
        return limit is not None and self.progress.seconds > limit

    def _report(self) -> None:
        progress, plan = self.progress, self.feed.plan
        speed = progress.epoch_tokens / max(progress.epoch_seconds, 1e-9)
        steps_left = (self.settings.epochs - progress.epoch) * plan.training_steps - progress.step
        figures = {
            "epoch": progress.epoch,
            "epochs": self.settings.epochs,
            "step": progress.step,
            "steps": plan.training_steps,
            "total_steps": progress.total_steps,
            **self._running_means(),
            **self._cost(),
            "tokens_per_second": speed,
            "eta_s": steps_left * progress.epoch_seconds / max(progress.step, 1),
        }
        self.heartbeat.report("training", progress=figures)
        if self.tracker is not None:
            self.tracker.now(figures)

    def _running_means(self) -> dict[str, float]:
        tokens = max(self.progress.epoch_tokens, 1)
        return {"loss": self.progress.epoch_loss / tokens, "accuracy": self.progress.epoch_right / tokens}

    def _cost(self) -> dict[str, float]:
        """Epsilon at the end of this epoch, for the live line: computed once an epoch."""
        if self.ledger is None:
            return {}
        progress = self.progress
        if self._epoch_cost is None or self._epoch_cost[0] != progress.epoch:
            end = progress.total_steps + self.feed.plan.training_steps - progress.step
            self._epoch_cost = (progress.epoch, self._epsilon(end) or 0.0)
        return {"epsilon": self._epoch_cost[1], "delta": self.ledger.state.delta}

    def _check_finite(self, sums: StepSums) -> None:
        if not math.isfinite(sums.loss):
            raise JobFailedError(
                f"the loss became {sums.loss} at step {self.progress.total_steps + 1} "
                f"(epoch {self.progress.epoch}); lower training.optimizer.learning_rate"
            )

    def _check_weights(self) -> None:
        """A private run does not look at single losses, which any one record can spoil, but at what it releases."""
        if not all(np.isfinite(value).all() for value in self.network.weights_dict().values()):
            raise JobFailedError(
                f"the weights are no longer finite after epoch {self.progress.epoch}; "
                "lower training.optimizer.learning_rate"
            )


def _copied(weights: Weights) -> Weights:
    return {name: np.array(value) for name, value in weights.items()}


def _with_prefix(tensors: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _in_words(row: EpochRow) -> str:
    text = f"loss {row.loss:.4f}, accuracy {row.accuracy:.4f}"
    if row.val_loss is not None:
        text += f", val_loss {row.val_loss:.4f}, val_accuracy {row.val_accuracy:.4f}"
    if row.epsilon is not None:
        text += f", epsilon {epsilon_in_words(plain_epsilon(row.epsilon), 3)}"
    return f"{text}, {row.tokens_per_second:,.0f} tokens/s"
