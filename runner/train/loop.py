"""The training loop: epochs, steps, validation, checkpoints, and the ways a run can end.

What the loop has come to is plain data (`Progress`) and goes into every checkpoint beside the weights; with the
batches a pure function of the position, a run that was killed anywhere goes on as if it had not been.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import keras
import numpy as np
from numpy.typing import NDArray

from runner.config import TrainingConfig
from runner.errors import JobFailedError
from runner.model.network import Network
from runner.privacy.accountant import epsilon, plain_epsilon, spent_by
from runner.privacy.figures import epsilon_in_words
from runner.privacy.ledger import LedgerState, RunLedger
from runner.run_directory import RunDirectory
from runner.train.callback_state import Snapshot, UserCallback
from runner.train.callbacks import EpochState, call_user
from runner.train.checkpoint import BackgroundWriter, Checkpoint, prune_checkpoints, save_checkpoint
from runner.train.feed import Feed
from runner.train.heartbeat import Heartbeat
from runner.train.history import EpochRow, to_csv
from runner.train.keras_callbacks import KerasCallbacks
from runner.train.progress import Ending, Progress, weights_digest
from runner.train.step import StepSums, TrainingStep
from runner.train.tracking import Tracker

Weights = dict[str, NDArray[Any]]

log = logging.getLogger(__name__)


@dataclass
class TrainingLoop:
    """One worker's part of a run; every worker goes through the same steps, the chief writes.

    `identity` is what must not change between a checkpoint and a resume. `ledger`: of a run of private steps, begun.
    `released`: of a private run that trains on draws, what they cost.
    """

    settings: TrainingConfig
    network: Network
    optimizer: keras.optimizers.Optimizer
    step: TrainingStep
    feed: Feed
    directory: RunDirectory
    heartbeat: Heartbeat
    callbacks: Sequence[UserCallback]
    epoch_callback: Callable[[EpochState], Any] | None
    is_chief: bool
    identity: dict[str, Any]
    ledger: RunLedger | None = None
    released: LedgerState | None = None
    tracker: Tracker | None = None
    progress: Progress = field(default_factory=Progress)
    kept_weights: Weights | None = None
    saved_callbacks: Snapshot | None = None

    def __post_init__(self) -> None:
        self._writer = BackgroundWriter()
        self._checkpoints = self.directory.folder.child("checkpoints")
        self._last_checkpoint = self._began = time.monotonic()
        self._epoch_cost: tuple[int, float] | None = None
        self._keras = KerasCallbacks(
            self.callbacks, self.network, epochs=self.settings.epochs, steps=self.feed.plan.training_steps
        )

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
        # Without the optimizer's own name: Keras once chose it, by what a process had made before.
        optimizer = {_inside(path): value for path, value in _with_prefix(checkpoint.tensors, "optimizer/").items()}
        for variable in self.optimizer.variables:
            variable.assign(optimizer[_inside(variable.path)])
        self.kept_weights = _with_prefix(checkpoint.tensors, "kept/") or None
        state = checkpoint.state
        self.progress = Progress.from_plain(state["progress"], self.kept_metric)
        self.progress.go_on(self.settings)
        places = state.get("callback_arrays", [])
        arrays = [checkpoint.tensors[f"callbacks/{number}"] for number in range(len(places))]
        self.saved_callbacks = Snapshot(state["callbacks"], places, arrays)
        log.info("continuing from step %d (epoch %d)", checkpoint.step, self.progress.epoch)

    def run(self) -> Ending:
        """Train until something ends the run; `progress` and `kept_weights` are what it came to."""
        self._began = time.monotonic() - self.progress.seconds
        self.network.stop_training = False
        try:
            self._keras.begin(self.saved_callbacks)
            while (ending := self._why_over()) is None:
                if self._train_epoch() == "stopped":
                    ending = "stopped"
                    break
                self._close_epoch()
            if ending != "stopped":
                self._end_callbacks()
            elif self.is_chief:
                self._checkpoint()
            if self.ledger is not None:
                self.ledger.write_digests()
                self.ledger.settle(self.progress.total_steps)
        finally:
            self._writer.close()
        return ending

    def write_history(self) -> None:
        """Leave the epochs so far, with the one whose weights are kept."""
        self.directory.folder.write("history.csv", to_csv(self.progress.rows, self.progress.kept_epoch))

    def _why_over(self) -> Ending | None:
        return self.progress.why_over(self.settings, self.feed.plan.training_steps, is_spent=self._is_spent())

    def _train_epoch(self) -> Literal["whole", "cut short", "stopped"]:
        progress = self.progress
        if progress.step == 0:
            self._keras.tell("on_epoch_begin", progress.epoch)
        clock = time.perf_counter()
        for share in self.feed.training(progress.epoch, progress.step):
            if self.ledger is not None:
                if self._is_spent():
                    return "cut short"
                self.ledger.reserve(progress.total_steps, self.settings.epochs * self.feed.plan.training_steps)
            self._keras.tell("on_train_batch_begin", share.step)
            sums = self.step.train(
                share.batches,
                share.tokens,
                noise=share.noise,
                digest=share.digest,
                stop=self.heartbeat.stop.is_set(),
                late=self._is_late(),
            )
            if self.ledger is None:
                self._check_finite(sums)
            else:
                self.ledger.compare(progress.total_steps, sums.released)
            now = time.perf_counter()
            progress.add(sums, share.tokens, now - clock)
            clock = now
            self._keras.tell("on_train_batch_end", share.step, logs=progress.means())
            self._report()
            # What cuts the epoch comes before a stop: a resume would not meet it again.
            if self._keras and self.step.is_agreed(self.network.stop_training):
                return "cut short"
            if sums.late_votes:
                progress.end("time limit", self.settings)
                return "cut short"
            if sums.stop_votes:
                return "stopped"
            if self.is_chief:
                self._checkpoint_when_due()
        return "whole"

    def _close_epoch(self) -> None:
        """Validate, write the epoch's row, tell the callbacks, and keep it all in a checkpoint."""
        progress = self.progress
        means = progress.means()
        if self.ledger is not None:
            self.ledger.write_digests()
        with self._averaged_weights():
            self._check_weights()
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
                delta=None if self._spending is None else self._spending.delta,
            )
            weights = self.network.weights_dict()
            if progress.close_epoch(row, self.kept_metric, weights_digest(weights) if self._keras else ""):
                self.kept_weights = weights
        log.info("epoch %d: %s", row.epoch, _in_words(row))
        self._keras.tell("on_epoch_end", row.epoch, logs=_logs(row))
        if self.epoch_callback is not None and self.is_chief:
            state = EpochState(
                row.epoch, row.loss, row.accuracy, row.val_loss, row.val_accuracy, row.epsilon, row.delta
            )
            call_user(self.epoch_callback, "training.epoch_callback", state)
        if self.step.is_agreed(self.network.stop_training):
            progress.end("ended by a callback", self.settings)
        if self.step.is_agreed(self._is_late()):
            progress.end("time limit", self.settings)
        progress.begin_epoch()
        if self.is_chief:
            self._checkpoint()

    def _end_callbacks(self) -> None:
        """`on_train_end`, as `fit` calls it: with the last epoch's weights, and what it leaves is the model.

        A resume with more epochs goes on from the checkpoint before, as if the run had not ended here.
        """
        progress = self.progress
        if not self._keras:
            return
        if self.optimizer.use_ema:
            self.optimizer.finalize_variable_values(self.network.trainable_variables)
        before = weights_digest(self.network.weights_dict())
        self._keras.tell("on_train_end", logs=_logs(progress.rows[-1]) if progress.rows else None)
        weights = self.network.weights_dict()
        after = weights_digest(weights)
        if after == before or not progress.rows:
            return
        self._check_weights()
        self.kept_weights = weights
        progress.kept_epoch = progress.digests.index(after) if after in progress.digests else None
        which = "of no epoch" if progress.kept_epoch is None else f"of epoch {progress.kept_epoch}"
        log.info("a callback changed the weights at the end: those in model/ are %s", which)

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
        means: dict[str, float] = {}
        if not self.feed.plan.validation_steps:
            return None, None
        self.network.stop_evaluating = False
        self._keras.tell("on_test_begin")
        for share in self.feed.validation():
            self._keras.tell("on_test_batch_begin", share.step)
            sums = self.step.evaluate(share.batches)
            loss, right, tokens = loss + sums.loss, right + sums.right, tokens + share.tokens
            means = {"accuracy": right / max(tokens, 1), "loss": loss / max(tokens, 1)}
            self._keras.tell("on_test_batch_end", share.step, logs=means)
            if self._keras and self.step.is_agreed(self.network.stop_evaluating):
                break
        self._keras.tell("on_test_end", logs=means)
        return (means["loss"], means["accuracy"]) if tokens else (None, None)

    def _checkpoint_when_due(self) -> None:
        due = time.monotonic() - self._last_checkpoint >= self.settings.checkpoint_every_s
        if due and self._writer.is_idle:
            self._checkpoint()

    def _checkpoint(self) -> None:
        """Hand everything the next step depends on to the writer, and the history with it."""
        progress = self.progress
        progress.seconds = time.monotonic() - self._began
        if self.ledger is not None:
            self.ledger.write_digests(checkpoint=progress.total_steps)
        kept = self._keras.snapshot()
        tensors: Weights = {f"weights/{name}": value for name, value in self.network.weights_dict().items()}
        for variable in self.optimizer.variables:
            tensors[f"optimizer/{variable.path}"] = np.asarray(variable)
        tensors |= {f"kept/{name}": value for name, value in (self.kept_weights or {}).items()}
        tensors |= {f"callbacks/{number}": array for number, array in enumerate(kept.arrays)}
        state = self.identity | {
            "progress": asdict(progress),
            "callbacks": kept.attributes,
            "callback_arrays": kept.places,
        }
        rows, ends_epoch = list(progress.rows), progress.step == 0
        history = to_csv(rows, progress.kept_epoch)
        self._writer.submit(self._write, progress.total_steps, _copied(tensors), state, history, rows, ends_epoch)
        self._last_checkpoint = time.monotonic()

    def _write(
        self,
        step: int,
        tensors: Weights,
        state: dict[str, Any],
        history: bytes,
        rows: list[EpochRow],
        ends_epoch: bool,
    ) -> None:
        save_checkpoint(self._checkpoints, step, tensors, state, ends_epoch=ends_epoch)
        self.directory.folder.write("history.csv", history)
        if ends_epoch and self.tracker is not None:
            self.tracker.epochs(rows)
        prune_checkpoints(self._checkpoints, step, keep_epochs=self.settings.save_all_checkpoints)

    def _is_spent(self) -> bool:
        return self.ledger is not None and self.ledger.is_spent(self.progress.total_steps)

    def _epsilon(self, step: int) -> float | None:
        """What the run will have cost at `step`; None when it is not private. Only asked for at epochs' ends."""
        state = self._spending
        if state is None:
            return None
        return epsilon(spent_by(state.releases, state.mechanism, state.counted(step)), state.delta, state.accountant)

    @property
    def _spending(self) -> LedgerState | None:
        """The ledger of a private run."""
        return self.released if self.ledger is None else self.ledger.state

    def _is_late(self) -> bool:
        self.progress.seconds = time.monotonic() - self._began
        return self.progress.is_late(self.settings)

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
            **progress.means(),
            **self._cost(),
            "tokens_per_second": speed,
            "eta_s": steps_left * progress.epoch_seconds / max(progress.step, 1),
        }
        self.heartbeat.report("training", progress=figures)
        if self.tracker is not None:
            self.tracker.now(figures)

    def _cost(self) -> dict[str, float]:
        """Epsilon at the end of this epoch, for the live line: computed once an epoch."""
        if self._spending is None:
            return {}
        progress = self.progress
        if self._epoch_cost is None or self._epoch_cost[0] != progress.epoch:
            end = progress.total_steps + self.feed.plan.training_steps - progress.step
            self._epoch_cost = (progress.epoch, self._epsilon(end) or 0.0)
        return {"epsilon": self._epoch_cost[1], "delta": self._spending.delta}

    def _check_finite(self, sums: StepSums) -> None:
        if not math.isfinite(sums.loss):
            raise JobFailedError(
                f"the loss became {sums.loss} at step {self.progress.total_steps + 1} "
                f"(epoch {self.progress.epoch}); lower training.optimizer.learning_rate"
            )

    def _check_weights(self) -> None:
        """Whether the weights may be kept: a step can spoil them whose own loss was finite.

        A private run looks at nothing else: single losses, which any one record can spoil, must not end it.
        """
        if not self.step.has_finite_weights():
            raise JobFailedError(
                f"the weights are no longer finite after epoch {self.progress.epoch}; "
                "lower training.optimizer.learning_rate"
            )


def _copied(weights: Weights) -> Weights:
    return {name: np.array(value) for name, value in weights.items()}


def _logs(row: EpochRow) -> dict[str, float]:
    """A row's figures as callbacks know them."""
    names = ("accuracy", "loss", "val_accuracy", "val_loss")
    return {name: value for name in names if (value := getattr(row, name)) is not None}


def _with_prefix(tensors: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _inside(path: str) -> str:
    """Of `adam/iteration`: `iteration`."""
    return path.partition("/")[2]


def _in_words(row: EpochRow) -> str:
    text = f"loss {row.loss:.4f}, accuracy {row.accuracy:.4f}"
    if row.val_loss is not None:
        text += f", val_loss {row.val_loss:.4f}, val_accuracy {row.val_accuracy:.4f}"
    if row.epsilon is not None:
        text += f", epsilon {epsilon_in_words(plain_epsilon(row.epsilon), 3)}"
    return f"{text}, {row.tokens_per_second:,.0f} tokens/s"
