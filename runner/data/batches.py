"""Which examples make step k: batches as a pure function of (seed, epoch, step), for any number of workers.

Positions are permuted once with the seed and cut into batches; every 5th of these, from the first, is for
validation and never trained on. The others' positions are shuffled anew each epoch and cut again, or, for a private
run, drawn anew for each step (`PoissonPlan`).

    >>> plan = BatchPlan(examples=100, batch_size=10, seed=0, validation_split=True)
    >>> plan.validation_steps, plan.training_steps
    (2, 8)
    >>> set(plan.validation_positions(0)) & set(plan.training_positions(3, 7))
    set()
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from runner.data.examples import Examples

VALIDATION_EVERY = 5
SAMPLING_BLOCK = 1 << 16
"""Positions that are sampled from one generator."""
LENGTH_STEPS = 16
"""A physical batch is trimmed to one of so many lengths."""
ROW_STEPS = 8
"""Poisson batches of several local replicas are padded to multiples of the expected rows over this."""


@dataclass(frozen=True)
class BatchPlan:
    """The order of all examples in a run. `batch_size` is the logical one."""

    examples: int
    batch_size: int
    seed: int
    validation_split: bool
    canaries: int = 0
    """Positions behind all examples that are trained on, too: see `runner.data.canaries`."""

    sampler: ClassVar[str] = "shuffle"

    @property
    def training_examples(self) -> int:
        """Examples that are trained on."""
        return len(self._split[0])

    @property
    def training_steps(self) -> int:
        """Steps in an epoch; the last may have fewer examples."""
        return -(-self.training_examples // self.batch_size)

    @property
    def validation_steps(self) -> int:
        """Batches in one pass over the validation examples."""
        return -(-len(self._split[1]) // self.batch_size)

    def training_positions(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Positions of the examples of a training step; epochs and steps count from 0."""
        return _slice(self._epoch_order(epoch), step, self.batch_size)

    def validation_positions(self, step: int) -> NDArray[np.int64]:
        """Positions of the examples of a validation batch, the same in every epoch."""
        return _slice(self._split[1], step, self.batch_size)

    @cached_property
    def _split(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(training, validation) positions."""
        order = np.random.Generator(np.random.Philox(key=[self.seed, 0])).permutation(self.examples)
        for_validation = (np.arange(self.examples) // self.batch_size) % VALIDATION_EVERY == 0
        for_validation &= self.validation_split
        canaries = self.examples + np.arange(self.canaries)
        return np.append(order[~for_validation], canaries), order[for_validation]

    @lru_cache(maxsize=2)  # noqa: B019 - one plan lives as long as its run
    def _epoch_order(self, epoch: int) -> NDArray[np.int64]:
        generator = np.random.Generator(np.random.Philox(key=[self.seed, 1 + epoch]))
        return generator.permutation(self._split[0])


@dataclass(frozen=True)
class PoissonPlan(BatchPlan):
    """Every training example joins every step on its own, with probability q = batch_size / training examples.

    Batches vary in size and can be empty; an epoch is round(1 / q) steps. The draw of a step is a pure function of
    (key, step): in fixed blocks of positions a binomial count, then that many without replacement, which is the
    same distribution as a coin for each example and costs O(q n).

        >>> plan = PoissonPlan(examples=1000, batch_size=50, seed=0, validation_split=False, key=(1, 2))
        >>> plan.training_steps, [plan.training_positions(0, step).size for step in range(3)]
        (20, [54, 47, 41])
    """

    key: tuple[int, int] = (0, 0)
    """Two secret numbers below 2^64."""

    sampler: ClassVar[str] = "poisson"

    @property
    def sampling_probability(self) -> float:
        """q."""
        return self.batch_size / self.training_examples

    @property
    def training_steps(self) -> int:
        """Steps in an epoch, in which an example is expected once."""
        return max(1, round(self.training_examples / self.batch_size))

    def training_positions(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Positions of the examples of a training step, ascending within a block."""
        if not 0 <= step < self.training_steps:
            raise IndexError(f"no step {step}: an epoch has {self.training_steps}")
        total_step = epoch * self.training_steps + step
        candidates = self._split[0]
        chosen = [
            block + self._draw(total_step, block, min(SAMPLING_BLOCK, candidates.size - block))
            for block in range(0, candidates.size, SAMPLING_BLOCK)
        ]
        return candidates[np.concatenate(chosen)]

    def _draw(self, total_step: int, block: int, size: int) -> NDArray[np.int64]:
        """Which of a block's `size` places join the step."""
        bits = np.random.Philox(key=np.array(self.key, np.uint64), counter=[0, 0, block, total_step])
        generator = np.random.Generator(bits)
        count = generator.binomial(size, self.sampling_probability)
        return np.sort(generator.choice(size, count, replace=False, shuffle=False))


def step_digest(branch: str, step: int, positions: NDArray[np.int64]) -> NDArray[np.float32]:
    """(8,) whole numbers below 2^16 that tell a step's batch from any other: what all workers must have in common."""
    digest = hashlib.sha256(f"{branch} {step} ".encode() + positions.astype("<i8").tobytes()).digest()
    return np.frombuffer(digest[:16], "<u2").astype(np.float32)


def _slice(order: NDArray[np.int64], step: int, batch_size: int) -> NDArray[np.int64]:
    positions = order[step * batch_size : (step + 1) * batch_size]
    if not positions.size:
        raise IndexError(f"no step {step}: {order.size} examples make {-(-order.size // batch_size)}")
    return positions


@dataclass(frozen=True)
class Batch:
    """What one replica holds of a logical batch: B rows, trimmed to T positions.

    `inputs`, `targets` (B, T) int32; `weights` (B, T) float32, 0 on padding; `dropout_keys` (B, T) uint32, a random
    number for every position that depends on the seed, the step and the row's place in the logical batch only.
    """

    inputs: NDArray[np.int32]
    targets: NDArray[np.int32]
    weights: NDArray[np.float32]
    dropout_keys: NDArray[np.uint32]


def load_batch(
    examples: Examples,
    positions: NDArray[np.int64],
    replica: int,
    replicas: int,
    dropout_key: Sequence[int],
    *,
    skip_empty: bool = False,
    field_order: FieldOrder | None = None,
) -> Batch:
    """Replica `replica`'s share of a logical batch: rows `replica`, `replica + replicas`, ... of `positions`.

    `positions` (P,), or (P, K) of up to K examples of each of P persons, -1 for none: these stay together, and the
    share has K rows for each. A share without a row gets one that is all padding, or K of them.

    `dropout_key` is two numbers below 2^64. With `skip_empty` a record without text, whose only target is the end, is
    padding too: emptied, a record contributes nothing. With a `field_order` each record's fields change places.
    """
    seq_length = examples.tokens.seq_length

    def share(of_all: NDArray[Any]) -> NDArray[Any]:
        """What this replica has of one value (or row of values) for each of the positions."""
        return of_all.reshape(*positions.shape, *of_all.shape[1:])[replica::replicas].reshape(-1, *of_all.shape[1:])

    own = share(positions.reshape(-1))
    rows = examples.rows(own[own >= 0])
    longest = max((row.size - 1 for row in rows), default=1)
    width = trimmed_length(longest, seq_length)
    ids = np.zeros((own.size or math.prod(positions.shape[1:]), width + 1), np.int32)
    lengths = np.zeros(ids.shape[0], np.int32)
    for index, row in zip(np.flatnonzero(own >= 0).tolist(), rows, strict=True):
        ids[index, : row.size] = row
        lengths[index] = row.size - 1
    if field_order is not None and own.size:
        ids = shuffle_fields(ids, field_order.fields, share(field_order.draw(positions.size)))
    if skip_empty:
        lengths[is_empty(lengths, seq_length)] = 0
    weights = (np.arange(width) < lengths[:, None]).astype(np.float32)
    inputs = np.where(weights > 0, ids[:, :-1], 0).astype(np.int32)
    keys = share(dropout_keys(dropout_key, positions.size, seq_length))[:, :width]
    if not own.size:
        keys = np.zeros((ids.shape[0], width), np.uint32)
    return Batch(inputs, ids[:, 1:], weights, np.ascontiguousarray(keys))


@dataclass(frozen=True)
class FieldOrder:
    """An order of the fields for each record of a logical batch: a function of `key`, two numbers below 2^64, alone.

    `fields` (V,): the number of the field that a token belongs to, -1 for the end.
    """

    fields: NDArray[np.int32]
    key: tuple[int, int]

    def draw(self, rows: int) -> NDArray[np.uint64]:
        """(rows, fields): a record has its fields by ascending numbers.

        Every second record has them in the schema's order: rows are drawn in it unless values are given, and of records
        in random orders alone it would be learned no better than any other.
        """
        generator = np.random.Generator(np.random.Philox(key=np.array(self.key, np.uint64)))
        order = generator.integers(1, 2**63, (rows, int(self.fields.max()) + 1), np.uint64)
        order[::2] = np.arange(order.shape[1])
        return order


def shuffle_fields(ids: NDArray[np.int32], fields: NDArray[np.int32], order: NDArray[np.uint64]) -> NDArray[np.int32]:
    """ids (B, T + 1) with the fields of each record by its row of `order` (B, fields); see `FieldOrder`.

    The first id and the ends stay where they are, and a field's tokens together and in their order.

        >>> ids, fields = np.array([[0, 1, 2, 3, 0, 0]], np.int32), np.array([-1, 0, 0, 1], np.int32)
        >>> shuffle_fields(ids, fields, np.array([[9, 4]], np.uint64)).tolist()
        [[0, 3, 1, 2, 0, 0]]
    """
    field = fields[ids]
    places = np.where(field < 0, np.iinfo(np.uint64).max, np.take_along_axis(order, np.maximum(field, 0), axis=1))
    places[:, 0] = 0
    return np.take_along_axis(ids, np.argsort(places, axis=1, kind="stable"), axis=1)


def pad_alike(batches: Sequence[Batch], row_unit: int) -> tuple[Batch, ...]:
    """The shares of one worker's replicas, padded to a common shape with a multiple of `row_unit` rows.

    TensorFlow traces the step of several replicas anew for each combination of shapes; one share is left as it is.
    """
    if len(batches) == 1:
        return tuple(batches)
    rows, width = np.max([batch.inputs.shape for batch in batches], axis=0)
    rows = -(-rows // row_unit) * row_unit

    def padded(batch: Batch) -> Batch:
        missing = [(0, rows - batch.inputs.shape[0]), (0, width - batch.inputs.shape[1])]
        return Batch(**{name: np.pad(array, missing) for name, array in vars(batch).items()})

    return tuple(padded(batch) for batch in batches)


def is_empty(lengths: NDArray[np.int32], seq_length: int) -> NDArray[np.bool_]:
    """Which examples of packing `records` are records without text, by their number of targets: the end alone.

    Of examples that hold one target in any case nothing can be told.
    """
    return (lengths <= 1) & (seq_length > 1)


def dropout_keys(key: Sequence[int], rows: int, seq_length: int) -> NDArray[np.uint32]:
    """(rows, seq_length) uint32 of a counter-based generator: the same for every worker, whatever it trims."""
    generator = np.random.Generator(np.random.Philox(key=np.array(key, np.uint64)))
    return generator.integers(0, 2**32, (rows, seq_length), np.uint32)


def trimmed_length(longest: int, seq_length: int) -> int:
    """The shortest of `LENGTH_STEPS` fixed lengths that holds the longest row.

    >>> [trimmed_length(longest, 100) for longest in (1, 7, 8, 50, 99, 100)]
    [7, 7, 14, 56, 100, 100]
    """
    unit = -(-seq_length // LENGTH_STEPS)
    return min(-(-longest // unit) * unit, seq_length)
