"""Batches on time: a thread loads the coming batches while a step runs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from runner.data.batches import (
    ROW_STEPS,
    Batch,
    BatchPlan,
    FieldOrder,
    PoissonPlan,
    is_empty,
    load_batch,
    pad_alike,
    step_digest,
)
from runner.data.examples import Examples

AHEAD = 4
"""Batches loaded before they are asked for."""
DROPOUT, FIELD_ORDER, VALIDATION_FIELD_ORDER = 1 << 63, 1 << 62, 1 << 61
"""Added to the seed, below 2^32: what is drawn with it for a step is not what else is drawn with the seed."""


@dataclass(frozen=True)
class Share:
    """Step `step` of an epoch as one worker sees it: a batch for each local replica.

    `tokens` and `examples` count the whole logical batch, over all workers. `noise`, `digest`: see
    `TrainingStep.train`.
    """

    step: int
    batches: tuple[Batch, ...]
    tokens: int
    examples: int
    noise: NDArray[np.signedinteger] | None = None
    digest: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Feed:
    """Makes a worker's shares. `replicas` are the worker's own, of `total_replicas`.

    `noise`, for the worker with the first replica of a private run: from the step of the run to its noise. `fields`
    (V,), to train on a table's fields in any order: see `FieldOrder`. Training orders are those of the step, validation
    orders the same in every epoch. `branch`: what this worker takes for the branch of a private run.
    `records_of_person`: where the plan's positions are those of persons, how many records of each are in a batch.
    """

    examples: Examples
    plan: BatchPlan
    replicas: Sequence[int]
    total_replicas: int
    noise: Callable[[int], NDArray[np.signedinteger]] | None = None
    fields: NDArray[np.int32] | None = None
    branch: str | None = None
    records_of_person: int | None = None

    def training(self, epoch: int, first_step: int) -> Iterator[Share]:
        """The rest of an epoch, from a step on."""
        steps = self.plan.training_steps
        return _ahead(lambda step: self._training_share(epoch, step), range(first_step, steps))

    def validation(self) -> Iterator[Share]:
        """One pass over the validation examples."""
        return _ahead(self._validation_share, range(self.plan.validation_steps))

    def _training_share(self, epoch: int, step: int) -> Share:
        total_step = epoch * self.plan.training_steps + step
        positions = self.plan.training_positions(epoch, step)
        if self.records_of_person is not None:
            assert self.examples.persons is not None
            assert isinstance(self.plan, PoissonPlan)
            persons, most = self.examples.persons, self.records_of_person
            positions = persons.draw(positions, total_step, most, self.plan.key)
        share = self._share(
            step,
            positions,
            (DROPOUT | self.plan.seed, total_step),
            (FIELD_ORDER | self.plan.seed, total_step),
        )
        return replace(
            share,
            noise=None if self.noise is None else self.noise(total_step),
            digest=None if self.branch is None else step_digest(self.branch, total_step, positions),
        )

    def _validation_share(self, step: int) -> Share:
        order = (VALIDATION_FIELD_ORDER | self.plan.seed, step)
        positions = self.plan.validation_positions(step)
        if self.records_of_person is not None:
            assert self.examples.persons is not None
            positions = self.examples.persons.first(positions, self.records_of_person)
        return self._share(step, positions, (0, 0), order)

    def _share(
        self, step: int, positions: NDArray[np.int64], dropout: tuple[int, int], order: tuple[int, int]
    ) -> Share:
        batches = [
            load_batch(
                self.examples,
                positions,
                replica,
                self.total_replicas,
                dropout,
                skip_empty=self._is_private,
                field_order=None if self.fields is None else FieldOrder(self.fields, order),
            )
            for replica in self.replicas
        ]
        # A plain batch has as many rows as the next; a Poisson batch has not.
        expected = -(-self.plan.batch_size // self.total_replicas)
        row_unit = -(-expected // ROW_STEPS) * (self.records_of_person or 1) if self._is_private else 1
        found = positions[positions >= 0]
        lengths = self.examples.lengths[found]
        if self._is_private:
            lengths = lengths[~is_empty(lengths, self.examples.tokens.seq_length)]
        return Share(step, pad_alike(batches, row_unit), int(lengths.sum()), found.size)

    @property
    def _is_private(self) -> bool:
        return self.plan.sampler == "poisson"


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
