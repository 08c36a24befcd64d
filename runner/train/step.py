"""The optimizer step, over all replicas of a strategy.

A replica takes the gradient of its examples' summed loss, times one over the tokens of the whole logical batch; the
optimizer adds the replicas' gradients. So a logical batch gives the same update however it is spread. Keras's
optimizers do that addition inside `apply`: gradients must come to it unreduced.

A private step adds up clipped gradients instead, and one replica's share carries the noise for all: so the sum has it
once, whatever the number of replicas and microbatches. Shares are rounded to a grid before they are added up
(`runner.privacy.grid`). Before the update the replicas compare what they take for the step's batch, and afterwards the
step tells a digest of what they added up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from runner.data.batches import Batch
from runner.errors import JobFailedError, OutOfMemoryError
from runner.model.gradients import with_own_gradients
from runner.model.network import Network
from runner.privacy.accountant import Mechanism
from runner.privacy.clipping import clipped_sum
from runner.privacy.grid import Grid, grid_of

FIELDS = {"inputs": tf.int32, "targets": tf.int32, "weights": tf.float32, "dropout_keys": tf.uint32}
"""A batch's arrays, each (B, T)."""
DISAGREE = "the workers do not agree on the batch of a private step"


@dataclass(frozen=True)
class StepSums:
    """Sums over the logical batch: cross-entropy in nats and right predictions; and over the replicas: their votes.

    `noises`: replicas whose share carried noise. `released`: a digest of the noisy sum of a private step.
    """

    loss: float
    right: float
    stop_votes: float = 0.0
    late_votes: float = 0.0
    noises: float = 0.0
    released: str = ""


class TrainingStep:
    """One network and its optimizer; created once a run, inside or outside `strategy.scope()`."""

    def __init__(
        self,
        network: Network,
        optimizer: keras.optimizers.Optimizer,
        strategy: tf.distribute.Strategy,
        microbatch_size: int | None = None,
        local_replicas: int = 1,
        mechanism: Mechanism | None = None,
        seq_length: int = 1,
        records_of_person: int = 1,
        trained: NDArray[np.bool_] | None = None,
    ) -> None:
        """`microbatch_size`: rows a replica holds at once; larger shares accumulate gradients. None: all.

        `local_replicas` are those of this worker. `mechanism`: what a private step releases; None: not private. A
        private record's loss is the sum over its positions divided by `seq_length`. `records_of_person`: how many rows
        behind one another are clipped together; `microbatch_size` has whole persons, and at least one. `trained`: of a
        private step, the tokens that are trained alone, see `clipped_sum`; None: the whole network is.
        """
        self._trained = None if trained is None else tf.constant(trained)
        self._masks = None if trained is None else network.masks_of(trained)
        self._mechanism = mechanism
        self._records_of_person = records_of_person
        self._seq_length = seq_length
        self._network = network
        self._optimizer = optimizer
        self._strategy = strategy
        self._microbatch_size = microbatch_size and max(microbatch_size // records_of_person, 1) * records_of_person
        # One trace for batches of any shape; values of several replicas have no signature and are traced anew.
        batch = [tf.TensorSpec((None, None), dtype) for dtype in FIELDS.values()]
        one = local_replicas == 1
        train, evaluate = (with_own_gradients(each) for each in (self._train_replicas, self._evaluate_replicas))
        self._is_alone = strategy.num_replicas_in_sync == local_replicas
        weights = network.count_params()
        replicas = strategy.num_replicas_in_sync
        self._grid = None if mechanism is None else grid_of(mechanism, weights, replicas, records_of_person)
        self._noise_dtype = np.dtype(np.int32) if self._grid is None else self._grid.noise_dtype
        numbers = [tf.TensorSpec(shape, tf.float32) for shape in ((), (2,))]
        numbers += [tf.TensorSpec((None,), dtype) for dtype in (self._noise_dtype, tf.float32)]
        self._train = tf.function(train, batch + numbers if one else None, autograph=False)
        self._evaluate = tf.function(evaluate, batch[:3] if one else None, autograph=False)
        self._sum_votes = tf.function(self._sum_replicas, [tf.TensorSpec((), tf.float32)], autograph=False)

    def train(
        self,
        shares: Sequence[Batch],
        tokens: int,
        *,
        noise: NDArray[np.signedinteger] | None = None,
        digest: NDArray[np.float32] | None = None,
        stop: bool = False,
        late: bool = False,
    ) -> StepSums:
        """Update the weights by one logical batch of `tokens` real tokens; `shares` are the local replicas'.

        `noise`: integers for the grid, one for each weight, on the worker that has the first replica of a private
        run. `digest` (k,): whole numbers below 2^24 that name the batch; replicas whose numbers differ make no update
        and raise JobFailedError. `stop` and `late` are this worker's votes to end after this step: every worker sees
        the sums of all votes, so that all end at the same step.
        """
        scale = tf.constant(1.0 / max(tokens, 1), tf.float32)
        votes = tf.constant([stop, late], tf.float32)
        inputs, targets, weights, keys = self._distribute(_fields(shares))
        nothing = np.zeros(0, self._noise_dtype)
        first = nothing if noise is None else noise
        (noises,) = self._distribute({"noise": [first] + [nothing] * (len(shares) - 1)})
        digest = np.zeros(0, np.float32) if digest is None else digest
        (digests,) = self._distribute({"digest": [digest] * len(shares)})
        try:
            found = self._train(inputs, targets, weights, keys, scale, votes, noises, digests).numpy().tolist()
        except tf.errors.ResourceExhaustedError as error:
            rows = max(len(share.inputs) for share in shares)
            raise OutOfMemoryError.of(min(rows, self._microbatch_size or rows), self._records_of_person) from error
        except tf.errors.InvalidArgumentError as error:
            if DISAGREE in str(error):
                raise JobFailedError(f"{DISAGREE}: nothing was updated; report this bug") from error
            raise
        sums = StepSums(*found[:5], released="".join(f"{int(part):04x}" for part in found[5:]))
        if sums.noises != (0 if self._mechanism is None else 1):
            raise JobFailedError(f"{sums.noises:.0f} replicas added noise to a private step, not one: report this bug")
        return sums

    def evaluate(self, shares: Sequence[Batch]) -> StepSums:
        """The sums without dropout and without an update."""
        inputs, targets, weights, _keys = self._distribute(_fields(shares))
        return StepSums(*self._evaluate(inputs, targets, weights).numpy().tolist())

    def is_agreed(self, vote: bool) -> bool:
        """Whether any worker votes so. Each has to ask at the same place: where there are several, they wait here."""
        if self._is_alone:
            return vote
        return bool(self._sum_votes(tf.constant(vote, tf.float32)).numpy() > 0)

    def has_finite_weights(self) -> bool:
        """Whether the network's weights are all numbers: neither NaN nor infinite."""
        weights = [tf.convert_to_tensor(variable) for variable in self._network.trainable_variables]
        return bool(tf.reduce_all([tf.reduce_all(tf.math.is_finite(weight)) for weight in weights]).numpy())

    def _distribute(self, fields: Mapping[str, list[Any]]) -> list[Any]:
        """Each field, given for every local replica, as a value of the local replicas."""
        if all(len(values) == 1 for values in fields.values()):
            return [tf.constant(values[0]) for values in fields.values()]
        return [
            self._strategy.experimental_distribute_values_from_function(
                lambda context, values=values: tf.constant(values[context.replica_id_in_sync_group])
            )
            for values in fields.values()
        ]

    def _train_replicas(
        self,
        inputs: Any,
        targets: Any,
        weights: Any,
        keys: Any,
        scale: tf.Tensor,
        votes: tf.Tensor,
        noise: Any,
        digest: Any,
    ) -> Any:
        def replica(
            inputs: tf.Tensor,
            targets: tf.Tensor,
            weights: tf.Tensor,
            keys: tf.Tensor,
            noise: tf.Tensor,
            digest: tf.Tensor,
        ) -> tf.Tensor:
            gradients, sums = self._gradients(inputs, targets, weights, keys, scale)
            released = tf.zeros(0)
            if self._grid is not None:
                gradients = _privatized(gradients, noise, self._grid)
                if self._masks is not None:  # No noise for weights that are not trained.
                    gradients = [tf.where(mask, g, 0) for g, mask in zip(gradients, self._masks, strict=True)]
                gradients = _once_agreed(gradients, digest, self._strategy.num_replicas_in_sync)
                released = _digest(gradients)
            self._optimizer.apply(gradients, self._network.trainable_variables)
            noised = tf.cast(tf.size(noise) > 0, tf.float32)
            return tf.concat([sums, votes, [noised], released], axis=0)

        sums = self._strategy.run(replica, args=(inputs, targets, weights, keys, noise, digest))
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)

    def _evaluate_replicas(self, inputs: Any, targets: Any, weights: Any) -> Any:
        def replica(inputs: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
            return tf.stack(self._network.loss_sums(inputs, targets, weights))

        sums = self._strategy.run(replica, args=(inputs, targets, weights))
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)

    def _sum_replicas(self, vote: tf.Tensor) -> Any:
        votes = self._strategy.run(lambda: vote)
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, votes, axis=None)

    def _gradients(
        self, inputs: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor, keys: tf.Tensor, scale: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """The share's gradients and [summed loss, right predictions]; in microbatches where needed.

        Of scale x summed loss; the clipped sum, without `scale`, when private.
        """
        size = self._microbatch_size
        if size is None:
            return self._add_up(inputs, targets, weights, keys, scale)
        variables = self._network.trainable_variables

        def add(start: tf.Tensor, sums: tf.Tensor, *totals: tf.Tensor) -> tuple[Any, ...]:
            part = slice(start, start + size)
            gradients, more = self._add_up(inputs[part], targets[part], weights[part], keys[part], scale)
            return start + size, sums + more, *(a + tf.cast(b, a.dtype) for a, b in zip(totals, gradients, strict=True))

        # What many private microbatches add up to may be off by no more than one of them.
        zeros = [tf.zeros(variable.shape, tf.float64 if self._grid else variable.dtype) for variable in variables]
        rows = tf.shape(inputs)[0]
        _, sums, *totals = tf.while_loop(
            lambda start, *_: start < rows, add, (0, tf.zeros(2), *zeros), parallel_iterations=1
        )
        return totals, sums

    def _add_up(
        self, inputs: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor, keys: tf.Tensor, scale: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Gradients and sums of a physical batch."""
        if self._mechanism is None:
            return summed_gradients(self._network, inputs, targets, weights, keys, scale)
        clipped = clipped_sum(
            self._network,
            inputs,
            targets,
            weights,
            keys,
            clip=self._mechanism.l2_norm_clip,
            scale=1 / self._seq_length,
            records_of_person=self._records_of_person,
            trained=self._trained,
        )
        return clipped.gradients, clipped.sums


def _fields(shares: Sequence[Batch]) -> dict[str, list[Any]]:
    """Each of `FIELDS`, of every share."""
    return {name: [getattr(share, name) for share in shares] for name in FIELDS}


def _privatized(gradients: Sequence[tf.Tensor], noise: tf.Tensor, grid: Grid) -> list[tf.Tensor]:
    """The share's clipped sums over the expected batch size, rounded to the grid; with noise where the share has it.

    noise (d,) integers for the d weights together, or (0,). The result is float64: multiples of the grid's spacing,
    which the optimizer adds up over the replicas without rounding, before it makes float32 of their sum.
    """
    counts = [tf.round(tf.cast(g, tf.float64) / (grid.batch_size * grid.spacing)) for g in gradients]

    def with_noise() -> list[tf.Tensor]:
        parts = tf.split(noise, [count.shape.num_elements() for count in counts])
        return [n + tf.cast(tf.reshape(part, n.shape), n.dtype) for n, part in zip(counts, parts, strict=True)]

    # Where replicas are traced apart, an empty noise is known to be so, and cannot be split.
    noisy = counts if noise.shape[0] == 0 else tf.cond(tf.size(noise) > 0, with_noise, lambda: counts)
    return [count * grid.spacing for count in noisy]


def _once_agreed(gradients: Sequence[tf.Tensor], digest: tf.Tensor, replicas: int) -> list[tf.Tensor]:
    """The gradients, to be had only where all replicas have the same `digest` (k,)."""
    if replicas == 1:
        return list(gradients)
    context = tf.distribute.get_replica_context()
    row = tf.one_hot(context.replica_id_in_sync_group, replicas)
    digests = context.all_reduce(tf.distribute.ReduceOp.SUM, row[:, None] * digest[None, :])
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(digests == digests[:1]), [DISAGREE])]):
        return [tf.identity(gradient) for gradient in gradients]


def _digest(gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    """(8,) numbers from 0 to 255 that change when a bit of the gradients does. Over replicas they are added up."""
    parts = [tf.fingerprint(tf.reshape(gradient, [1, -1])) for gradient in gradients]
    return tf.cast(tf.fingerprint(tf.concat(parts, axis=1))[0], tf.float32)


def summed_gradients(
    network: Network,
    inputs: tf.Tensor,
    targets: tf.Tensor,
    weights: tf.Tensor,
    keys: tf.Tensor,
    scale: tf.Tensor,
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Gradients of scale x the summed loss of a physical batch (B, T), and [summed loss, right predictions]."""
    variables = [variable.value for variable in network.trainable_variables]
    with tf.GradientTape() as tape:
        loss, right = network.loss_sums(inputs, targets, weights, keys)
        objective = loss * scale
    gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(objective, variables)]
    return gradients, tf.stack([loss, right])


def microbatch_that_fits(rows: int, bytes_per_row: int, memory_bytes: int) -> int | None:
    """Rows to hold at once so that activations take at most half the memory; None: all of them fit.

    >>> microbatch_that_fits(64, 10**6, 10**9), microbatch_that_fits(64, 10**8, 10**9)
    (None, 5)
    """
    fitting = max(1, memory_bytes // (2 * bytes_per_row))
    return None if rows <= fitting else int(fitting)


def activation_bytes(
    logits: int, embedding_dim: int, rnn_units: int, layers: int, seq_length: int, records_of_person: int = 1
) -> int:
    """Roughly what one row of a physical batch takes in a training step.

    `logits`: those of a position, all ids or of a table the largest slot's. Each position keeps logits and their
    gradient with one temporary, and for each layer input, mask, gates, cell and output, and their gradients. Of several
    records of a person, each position has a dot product with all positions of all of them, in four Gram matrices.
    """
    floats = 3 * logits + 3 * embedding_dim + layers * 20 * rnn_units
    floats += 4 * seq_length * records_of_person if records_of_person > 1 else 0
    return int(np.dtype(np.float32).itemsize) * seq_length * floats
