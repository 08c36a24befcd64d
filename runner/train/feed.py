"""Batches on time: a thread loads the coming batches while a step runs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runner.data.batches import Batch, BatchPlan, load_batch
from runner.data.examples import Examples

AHEAD = 4
"""Batches loaded before they are asked for."""


@dataclass(frozen=True)
class Share:
    """Step `step` of an epoch as one worker sees it: a batch for each local replica.

    `tokens` and `examples` count the whole logical batch, over all workers.
    """

    step: int
    batches: tuple[Batch, ...]
    tokens: int
    examples: int


@dataclass(frozen=True)
class Feed:
    """Makes a worker's shares. `replicas` are the worker's own, of `total_replicas`."""

    examples: Examples
    plan: BatchPlan
    replicas: Sequence[int]
    total_replicas: int

    def training(self, epoch: int, first_step: int) -> Iterator[Share]:
        """The rest of an epoch, from a step on."""
        steps = self.plan.training_steps
        return _ahead(lambda step: self._training_share(epoch, step), range(first_step, steps))

    def validation(self) -> Iterator[Share]:
        """One pass over the validation examples."""
        return _ahead(self._validation_share, range(self.plan.validation_steps))

    def _training_share(self, epoch: int, step: int) -> Share:
        # The seed's high bit keeps dropout apart from the orders that are drawn with the seed.
        key = (1 << 63 | self.plan.seed, epoch * self.plan.training_steps + step)
        return self._share(step, self.plan.training_positions(epoch, step), key)

    def _validation_share(self, step: int) -> Share:
        return self._share(step, self.plan.validation_positions(step), (0, 0))

    def _share(self, step: int, positions: NDArray[np.int64], key: tuple[int, int]) -> Share:
        batches = tuple(
            load_batch(self.examples, positions, replica, self.total_replicas, key) for replica in self.replicas
        )
        return Share(step, batches, int(self.examples.lengths[positions].sum()), len(positions))


def _ahead(load: Callable[[int], Share], steps: range) -> Iterator[Share]:
    """`load` of every step, in order, up to `AHEAD` of them early; what it raises is raised here."""
    loaded: queue.Queue[Share | BaseException | None] = queue.Queue(AHEAD)
    closed = threading.Event()

    def put(item: Share | BaseException | None) -> bool:
        while not closed.is_set():
            with suppress(queue.Full):
                loaded.put(item, timeout=0.2)
                return True
        return False

    def fill() -> None:
        try:
            for step in steps:
                if not put(load(step)):
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that asked
            put(error)

    threading.Thread(target=fill, name="batch-feed", daemon=True).start()
    try:
        while (item := loaded.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
