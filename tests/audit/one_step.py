"""One private step on thousands of canaries, and the bound of epsilon that its noisy sum alone gives (white box).

Every canary is a record of random bytes, as in a run with `privacy.canaries`, with coins tossed by the run's key; all
join the step (q = 1). The score of a canary is the part of the noisy sum along its own gradient, without what the
gradients of all have in common: the strongest that there is. The gradients come from automatic differentiation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from runner.data.batches import PoissonPlan
from runner.data.canaries import WithCanaries, random_texts
from runner.data.tokenizers.characters import ByteTokenizer
from runner.model.network import Network
from runner.privacy.accountant import Mechanism, epsilon
from runner.privacy.grid import grid_of
from runner.privacy.noise import RunKey, draw_noise
from runner.privacy.one_run import Measured, measure_canaries, toss_coins
from runner.train.feed import Feed
from runner.train.step import TrainingStep
from tests.audit.canaries import SEQ_LENGTH, no_examples, weights_of

CANARIES = 4000
CLIP = 0.1
CLAIMED = Mechanism(CANARIES, CANARIES, 1.0, CLIP)
DELTA = 1e-4
PROVEN = epsilon([(CLAIMED, 1)], DELTA, "pld")
HALF_THE_NOISE = replace(CLAIMED, noise_multiplier=0.5)


@dataclass(frozen=True)
class OneStep:
    """What all runs have in common: first weights, canaries, and `units` (canaries, d), their unit gradients."""

    network: Network
    rows: list[NDArray[np.int32]]
    units: NDArray[np.float32]

    @classmethod
    def prepare(cls) -> OneStep:
        """Takes seconds: a gradient for each canary."""
        vocab_size, end_id = ByteTokenizer.vocab_size, ByteTokenizer.end_id
        network = Network(
            vocab_size=vocab_size,
            embedding_dim=16,
            rnn_units=24,
            layers=1,
            dropout_rate=0,
            seed=0,
            use_kernels=True,
        )
        rows = random_texts(CANARIES, vocab_size, end_id, SEQ_LENGTH)
        units = _gradients(network, np.stack(rows))
        norms = np.linalg.norm(units, axis=1)
        assert norms.min() > 1.5 * CLIP, "a canary whose gradient is not cut shows less than there is to see"
        return cls(network, rows, units / norms[:, np.newaxis])

    def measure(self, mechanism: Mechanism, seed: int) -> Measured:
        """What a step shows that does as `mechanism` says, with the run's key of this seed."""
        key = RunKey(f"{seed:064x}")
        coins = toss_coins(key, CANARIES)
        first = weights_of(self.network)
        variables = [variable.numpy() for variable in self.network.trainable_variables]
        optimizer = keras.optimizers.SGD(1.0)
        optimizer.build(self.network.trainable_variables)
        step = TrainingStep(
            self.network, optimizer, tf.distribute.get_strategy(), 500, mechanism=mechanism, seq_length=SEQ_LENGTH
        )
        sigma = grid_of(mechanism, first.size).sigma
        noise = partial(draw_noise, key.for_noise(0, "one step"), sigma=sigma, count=first.size)
        plan = PoissonPlan(0, CANARIES, 0, validation_split=False, canaries=CANARIES, key=key.for_sampling(0))
        examples = WithCanaries(no_examples(ByteTokenizer.end_id), self.rows, coins)
        (share,) = Feed(examples, plan, range(1), 1, noise).training(0, 0)
        step.train(share.batches, share.tokens, noise=share.noise)
        released = (first - weights_of(self.network)) * CANARIES
        for variable, value in zip(self.network.trainable_variables, variables, strict=True):
            variable.assign(value)
        alone = self.units - self.units.mean(axis=0)
        return measure_canaries(alone @ released, coins, DELTA)


def _gradients(network: Network, rows: NDArray[np.int32]) -> NDArray[np.float32]:
    """rows (n, T + 1) -> the gradient (n, d) of each one's loss."""

    @tf.function(input_signature=[tf.TensorSpec((SEQ_LENGTH + 1,), tf.int32)], autograph=False)
    def gradient_of(row: tf.Tensor) -> tf.Tensor:
        variables = [variable.value for variable in network.trainable_variables]
        with tf.GradientTape() as tape:
            logits = tf.reshape(network(row[tf.newaxis, :-1]), (SEQ_LENGTH, -1))
            loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(row[1:], logits)) / SEQ_LENGTH
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, variables)]
        return tf.concat([tf.reshape(gradient, [-1]) for gradient in gradients], axis=0)

    return np.stack([gradient_of(tf.constant(row)).numpy() for row in rows])
