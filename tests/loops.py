"""The training loop by itself: a small network whose steps are made up, so that a run takes milliseconds.

A step moves the weights by the learning rate and its number, and its loss is a function of the weights: forget either
in a resume, and the history differs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf

from runner.config import parse_job
from runner.errors import RunnerError
from runner.model.network import Network
from runner.run_directory import RunDirectory
from runner.storage import LocalFolder
from runner.train.callback_state import UserCallback
from runner.train.checkpoint import newest_checkpoint
from runner.train.feed import Feed, Share
from runner.train.heartbeat import Heartbeat
from runner.train.history import EpochRow, from_csv
from runner.train.loop import TrainingLoop
from runner.train.optimizer import build_optimizer
from runner.train.progress import Ending, weights_digest
from runner.train.step import StepSums, TrainingStep

STEPS, VALIDATION_STEPS = 4, 2
TOKENS = 10

Factory = Callable[[], Any]


@dataclass
class MadeUpFeed:
    """Shares with nothing in them."""

    training_steps: int = STEPS
    validation_steps: int = VALIDATION_STEPS

    @property
    def plan(self) -> MadeUpFeed:
        return self

    def training(self, _epoch: int, first_step: int) -> Iterator[Share]:
        return (Share(step, (), TOKENS, TOKENS) for step in range(first_step, self.training_steps))

    def validation(self) -> Iterator[Share]:
        return (Share(step, (), TOKENS, TOKENS) for step in range(self.validation_steps))


class MadeUpStep(TrainingStep):
    """Only training and evaluation are made up; `after`: what else happens in a step."""

    def __init__(self, network: Network, optimizer: keras.optimizers.Optimizer, after: Callable[[], None]) -> None:
        super().__init__(network, optimizer, tf.distribute.get_strategy())
        self.network, self.optimizer, self.after = network, optimizer, after

    def train(
        self, shares: Any, tokens: int, *, noise: Any = None, digest: Any = None, stop: bool = False, late: bool = False
    ) -> StepSums:
        iterations = self.optimizer.iterations
        iterations.assign_add(1)
        move = float(np.sin(int(iterations) * 7.0)) * float(np.asarray(self.optimizer.learning_rate))
        bias = self.network.dense.bias
        bias.assign(np.asarray(bias) * np.float32(0.9) + np.float32(move))
        self.after()
        return StepSums(*self._figures(), stop_votes=stop, late_votes=late)

    def evaluate(self, shares: Any) -> StepSums:
        return StepSums(*self._figures())

    def _figures(self) -> tuple[float, float]:
        loss = float(np.abs(np.asarray(self.network.dense.bias)).sum())
        return loss * TOKENS, TOKENS / (1 + loss)


class Signs:
    """In the place of a heartbeat; a stop is asked for before the step of this number."""

    def __init__(self, stop_before: int | None) -> None:
        self.stop = threading.Event()
        self._steps_left = stop_before

    def report(self, *_: Any, **__: Any) -> None:
        if self._steps_left is not None:
            self._steps_left -= 1
            if self._steps_left <= 0:
                self.stop.set()


class QuickFolder(LocalFolder):
    """Waits for no disk."""

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        super().write(name, data, durable=False)

    def child(self, name: str) -> LocalFolder:
        return QuickFolder(self.local_path(name))


@dataclass
class LoopRun:
    """A run in a folder, begun or gone on with by `go`."""

    folder: Path
    callbacks: Sequence[Factory] = ()
    training: dict[str, Any] = field(default_factory=dict[str, Any])
    after_step: Callable[[], None] = lambda: None
    epoch_callback: Callable[[Any], Any] | None = None
    loop: TrainingLoop = field(init=False)

    def go(self, *, stop_after: int | None = None, **training: Any) -> Ending:
        """Train until the end, or until so many steps of this process are done."""
        self.training |= training
        job = {"name": "loop", "data": {"uri": "nowhere"}, "training": {"optimizer": {"name": "sgd"}} | self.training}
        job["training"]["optimizer"] = {"learning_rate": 0.5} | job["training"]["optimizer"]
        settings = parse_job(job, environment={}).training
        network = Network(vocab_size=5, embedding_dim=2, rnn_units=3, layers=1, dropout_rate=0, seed=1)
        optimizer = build_optimizer(settings.optimizer, settings.epochs * STEPS)
        optimizer.build(network.trainable_variables)
        network.compile(optimizer=optimizer)
        self.loop = TrainingLoop(
            settings=settings,
            network=network,
            optimizer=optimizer,
            step=MadeUpStep(network, optimizer, self.after_step),
            feed=cast(Feed, MadeUpFeed()),
            directory=RunDirectory(QuickFolder(self.folder)),
            heartbeat=cast(Heartbeat, Signs(stop_after)),
            callbacks=[UserCallback("mine:make", make()) for make in self.callbacks],
            epoch_callback=self.epoch_callback,
            is_chief=True,
            identity={},
        )
        checkpoint = newest_checkpoint(LocalFolder(self.folder / "checkpoints"))
        if checkpoint is not None:
            self.loop.restore(checkpoint)
        ending = self.loop.run()
        self.loop.write_history()
        return ending

    def fail(self, **options: Any) -> RunnerError:
        """Train until an error; it is returned."""
        try:
            ending = self.go(**options)
        except RunnerError as error:
            return error
        raise AssertionError(f"no error, but {ending}")

    @property
    def rows(self) -> list[EpochRow]:
        """The rows of history.csv, without timings."""
        return [replace(row, seconds=0, tokens_per_second=0) for row in self._history[0]]

    @property
    def best(self) -> int | None:
        """The row that history.csv marks."""
        return self._history[1]

    @property
    def _history(self) -> tuple[list[EpochRow], int | None]:
        return from_csv((self.folder / "history.csv").read_bytes())

    @property
    def kept(self) -> str:
        """The digest of the weights that go into model/."""
        assert self.loop.kept_weights is not None
        return weights_digest(self.loop.kept_weights)

    @property
    def outcome(self) -> tuple[list[EpochRow], int | None, str]:
        """All that a stopped and a whole run must have alike."""
        return self.rows, self.best, self.kept
