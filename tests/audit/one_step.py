"""One private step on thousands of canaries, and the bound of epsilon that what it releases gives (white box).

Every canary is a reserved token, twice, so that their gradients have next to nothing in common; the run's key
tosses their coins, and all join the step (q = 1). The score of a canary is how much its loss falls by the step. The
step is plain SGD, so to first order that is the part of the noisy sum along the canary's own gradient: the strongest
score that there is.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from runner.data.batches import PoissonPlan
from runner.data.canaries import WithCanaries
from runner.model.network import Network
from runner.privacy.accountant import Mechanism, epsilon
from runner.privacy.grid import grid_of
from runner.privacy.noise import RunKey, draw_noise
from runner.privacy.one_run import Measured, measure_canaries, toss_coins
from runner.train.audit import mean_losses
from runner.train.feed import Feed
from runner.train.step import TrainingStep
from tests.audit.canaries import no_examples

CANARIES = 8000
"""The worst of 1,000 ideal audits of half the noise measures mu 1.045, where 1 is claimed; of 5,000 canaries 0.97."""
VOCAB_SIZE, END, SEQ_LENGTH = CANARIES + 1, 0, 2
CLIP = 0.1
CLAIMED = Mechanism(CANARIES, CANARIES, 1.0, CLIP)
DELTA = 1e-4
PROVEN = epsilon([(CLAIMED, 1)], DELTA, "pld")
HALF_THE_NOISE = replace(CLAIMED, noise_multiplier=0.5)
LEARNING_RATE = 20.0
"""Of the noisy sum over the batch: losses move by much more than they are rounded."""


class OneStep:
    """The network and the canaries of all steps; each begins with the same weights."""

    def __init__(self) -> None:
        self.network = Network(
            vocab_size=VOCAB_SIZE,
            embedding_dim=16,
            rnn_units=24,
            layers=1,
            dropout_rate=0,
            seed=0,
            use_kernels=True,
        )
        self.first = self.network.weights_dict()
        self.rows = [np.array([END] + [1 + number] * SEQ_LENGTH, np.int32) for number in range(CANARIES)]
        self.losses = self._losses()

    def measure(self, mechanism: Mechanism, seed: int) -> Measured:
        """What a step shows that does as `mechanism` says, with the run's key of this seed."""
        key = RunKey(f"{seed:064x}")
        coins = toss_coins(key, CANARIES)
        optimizer = keras.optimizers.SGD(LEARNING_RATE)
        optimizer.build(self.network.trainable_variables)
        step = TrainingStep(
            self.network, optimizer, tf.distribute.get_strategy(), 1000, mechanism=mechanism, seq_length=SEQ_LENGTH
        )
        count = sum(weights.size for weights in self.first.values())
        noise = partial(draw_noise, key.for_noise(0, "one step"), sigma=grid_of(mechanism, count).sigma, count=count)
        plan = PoissonPlan(0, CANARIES, 0, validation_split=False, canaries=CANARIES, key=key.for_sampling(0))
        (share,) = Feed(self._examples(coins), plan, range(1), 1, noise).training(0, 0)
        step.train(share.batches, share.tokens, noise=share.noise)
        fallen = self.losses - self._losses()
        self.network.load_weights_dict(self.first)
        return measure_canaries(fallen, coins, DELTA)

    def _losses(self) -> NDArray[np.float32]:
        examples = self._examples(np.ones(CANARIES, bool))
        return mean_losses(self.network, examples, examples.canary_positions)

    def _examples(self, coins: NDArray[np.bool_]) -> WithCanaries:
        return WithCanaries(no_examples(VOCAB_SIZE, END), self.rows, coins)
