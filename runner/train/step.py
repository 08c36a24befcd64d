"""The optimizer step, over all replicas of a strategy.

A replica takes the gradient of its examples' summed loss, times one over the tokens of the whole logical batch; the
optimizer adds the replicas' gradients. So a logical batch gives the same update however it is spread. Keras's
optimizers do that addition inside `apply`: gradients must come to it unreduced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from runner.data.batches import Batch
from runner.model.network import Network

FIELDS = {"inputs": tf.int32, "targets": tf.int32, "weights": tf.float32, "dropout_keys": tf.uint32}
"""A batch's arrays, each (B, T)."""


@dataclass(frozen=True)
class StepSums:
    """Sums over the logical batch: cross-entropy in nats and right predictions; and over the replicas: their votes."""

    loss: float
    right: float
    stop_votes: float = 0.0
    late_votes: float = 0.0


class TrainingStep:
    """One network and its optimizer; created once a run, inside or outside `strategy.scope()`."""

    def __init__(
        self,
        network: Network,
        optimizer: keras.optimizers.Optimizer,
        strategy: tf.distribute.Strategy,
        microbatch_size: int | None = None,
        local_replicas: int = 1,
    ) -> None:
        """`microbatch_size`: rows a replica holds at once; larger shares accumulate gradients. None: all.

        `local_replicas` are those of this worker.
        """
        self._network = network
        self._optimizer = optimizer
        self._strategy = strategy
        self._microbatch_size = microbatch_size
        # One trace for batches of any shape; values of several replicas have no signature and are traced anew.
        batch = [tf.TensorSpec((None, None), dtype) for dtype in FIELDS.values()]
        numbers = [tf.TensorSpec((), tf.float32), tf.TensorSpec((2,), tf.float32)]
        one = local_replicas == 1
        self._train = tf.function(self._train_replicas, batch + numbers if one else None, autograph=False)
        self._evaluate = tf.function(self._evaluate_replicas, batch[:3] if one else None, autograph=False)

    def train(self, shares: Sequence[Batch], tokens: int, *, stop: bool = False, late: bool = False) -> StepSums:
        """Update the weights by one logical batch of `tokens` real tokens; `shares` are the local replicas'.

        `stop` and `late` are this worker's votes to end after this step: every worker sees the sums of all votes,
        so that all end at the same step.
        """
        scale = tf.constant(1.0 / tokens, tf.float32)
        votes = tf.constant([stop, late], tf.float32)
        inputs, targets, weights, keys = self._distribute(shares)
        return StepSums(*self._train(inputs, targets, weights, keys, scale, votes).numpy().tolist())

    def evaluate(self, shares: Sequence[Batch]) -> StepSums:
        """The sums without dropout and without an update."""
        inputs, targets, weights, _keys = self._distribute(shares)
        return StepSums(*self._evaluate(inputs, targets, weights).numpy().tolist())

    def _distribute(self, shares: Sequence[Batch]) -> list[Any]:
        """Each field of the shares as a value of the local replicas."""
        fields = [[getattr(share, name) for share in shares] for name in FIELDS]
        if len(shares) == 1:
            return [tf.constant(field[0]) for field in fields]
        return [
            self._strategy.experimental_distribute_values_from_function(
                lambda context, field=field: tf.constant(field[context.replica_id_in_sync_group])
            )
            for field in fields
        ]

    def _train_replicas(
        self, inputs: Any, targets: Any, weights: Any, keys: Any, scale: tf.Tensor, votes: tf.Tensor
    ) -> Any:
        def replica(inputs: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
            gradients, sums = self._gradients(inputs, targets, weights, keys, scale)
            self._optimizer.apply(gradients, self._network.trainable_variables)
            return tf.concat([sums, votes], axis=0)

        sums = self._strategy.run(replica, args=(inputs, targets, weights, keys))
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)

    def _evaluate_replicas(self, inputs: Any, targets: Any, weights: Any) -> Any:
        def replica(inputs: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
            return tf.stack(self._network.loss_sums(inputs, targets, weights))

        sums = self._strategy.run(replica, args=(inputs, targets, weights))
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)

    def _gradients(
        self, inputs: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor, keys: tf.Tensor, scale: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Gradients of scale x summed loss, and [summed loss, right predictions]; in microbatches where needed."""
        size = self._microbatch_size
        if size is None:
            return summed_gradients(self._network, inputs, targets, weights, keys, scale)
        variables = self._network.trainable_variables

        def add(start: tf.Tensor, sums: tf.Tensor, *totals: tf.Tensor) -> tuple[Any, ...]:
            part = slice(start, start + size)
            gradients, more = summed_gradients(
                self._network, inputs[part], targets[part], weights[part], keys[part], scale
            )
            return start + size, sums + more, *(a + b for a, b in zip(totals, gradients, strict=True))

        zeros = [tf.zeros(variable.shape, variable.dtype) for variable in variables]
        rows = tf.shape(inputs)[0]
        _, sums, *totals = tf.while_loop(
            lambda start, *_: start < rows, add, (0, tf.zeros(2), *zeros), parallel_iterations=1
        )
        return totals, sums


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


def activation_bytes(vocab_size: int, embedding_dim: int, rnn_units: int, layers: int, seq_length: int) -> int:
    """Roughly what one row of a physical batch takes in a training step.

    Each position keeps logits and their gradient with one temporary, and for each layer input, mask, gates, cell
    and output, and their gradients.
    """
    floats = 3 * vocab_size + 3 * embedding_dim + layers * 20 * rnn_units
    return int(np.dtype(np.float32).itemsize) * seq_length * floats
