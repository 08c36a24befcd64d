"""An empirical audit of the private step: what it leaks of records that were made to be found.

Every record is a canary: one reserved token, over and over. A coin decides for each canary whether it is in or is an
empty record (the neighbour of the privacy claim), and all join every step (q = 1). The auditor sees the weights before
and after each step, so the noisy sum g~_t of the step, and knows each canary's unit gradient u_t at those weights. A
canary's score over T steps is

    S = sum_t <g~_t, u_t> / (sigma C sqrt(T))

Noise of standard deviation sigma C gives it variance 1, and a canary that is in and whose gradient is cut to the norm
C shifts it by sqrt(T) / sigma: the most that T steps of the Gaussian mechanism can shift anything, mu in the words of
Gaussian differential privacy (Dong et al. 2022, arXiv:1905.02383). Other canaries' gradients are nearly orthogonal,
and shift the scores of those in and those out alike. So the scores estimate mu, as the difference of the two groups'
means over their standard deviation; a step that leaks more than it claims shows a larger one. Many canaries at once,
each with a coin of its own: Steinke et al. 2023, arXiv:2305.08846.

The gradients come from automatic differentiation of the network, not from the clipped sum that is audited.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from runner.data.batches import PoissonPlan
from runner.data.examples import Examples
from runner.data.packing import Packer
from runner.model.network import Network
from runner.privacy.accountant import Mechanism
from runner.privacy.grid import grid_of
from runner.privacy.noise import RunKey, draw_noise
from runner.train.feed import Feed
from runner.train.step import TrainingStep

CANARIES = 64
SEQ_LENGTH = 8
STEPS = 9
NOISE_MULTIPLIER = 1.5
CLIP = 0.5
"""Far below a canary's gradient, so that each is cut to exactly this norm."""
CLAIMED = Mechanism(CANARIES, CANARIES, NOISE_MULTIPLIER, CLIP)
CLAIMED_MU = math.sqrt(STEPS) / NOISE_MULTIPLIER
LEARNING_RATE = 1.0
END = 0


@dataclass(frozen=True)
class Scores:
    """Scores of the canaries that were in, and of those that were out."""

    inside: NDArray[np.float64]
    outside: NDArray[np.float64]

    def __add__(self, other: Scores) -> Scores:
        return Scores(np.append(self.inside, other.inside), np.append(self.outside, other.outside))


@dataclass(frozen=True)
class Estimate:
    """An estimate of mu and its standard error."""

    mu: float
    error: float


def estimate_mu(scores: Scores) -> Estimate:
    """The shift of the scores in units of their standard deviation (Cohen's d, and its usual standard error)."""
    n, m = scores.inside.size, scores.outside.size
    variance = ((n - 1) * scores.inside.var(ddof=1) + (m - 1) * scores.outside.var(ddof=1)) / (n + m - 2)
    mu = float((scores.inside.mean() - scores.outside.mean()) / math.sqrt(variance))
    return Estimate(mu, math.sqrt(1 / n + 1 / m + mu**2 / (2 * (n + m - 2))))


def audit_step(mechanism: Mechanism, seed: int, microbatch_size: int | None = None) -> Scores:
    """Train with what runs train with, let the step do as `mechanism` says, and score by what is claimed.

    seed: of the network, the coins and the run's key.
    """
    coins = np.random.default_rng(seed).random(CANARIES) < 0.5
    tokens = 1 + np.arange(CANARIES)
    examples = _examples([[token] * SEQ_LENGTH if coin else [] for token, coin in zip(tokens, coins, strict=True)])
    network = Network(
        vocab_size=1 + CANARIES, embedding_dim=32, rnn_units=48, layers=1, dropout_rate=0, seed=seed, use_kernels=True
    )
    optimizer = keras.optimizers.SGD(LEARNING_RATE)
    optimizer.build(network.trainable_variables)
    step = TrainingStep(
        network, optimizer, tf.distribute.get_strategy(), microbatch_size, mechanism=mechanism, seq_length=SEQ_LENGTH
    )
    key = RunKey(f"{seed:064x}")
    plan = PoissonPlan(CANARIES, CANARIES, seed, validation_split=False, key=key.for_sampling(0))
    count = _weights(network).size
    noise = partial(draw_noise, key.for_noise(0, "canaries"), sigma=grid_of(mechanism, count).sigma, count=count)
    feed = Feed(examples, plan, range(1), 1, noise)
    gradients_of = _gradients(network)
    scores = np.zeros(CANARIES)
    for epoch in range(STEPS):
        units = gradients_of(tokens)
        norms = np.linalg.norm(units, axis=1)
        assert norms.min() > 1.5 * CLIP, "a canary whose gradient is not cut shows less than there is to see"
        units /= norms[:, np.newaxis]
        before = _weights(network)
        (share,) = feed.training(epoch, 0)
        step.train(share.batches, share.tokens, noise=share.noise)
        noisy_sum = (before - _weights(network)) * CLAIMED.batch_size / LEARNING_RATE
        scores += units @ noisy_sum / (CLAIMED.noise_multiplier * CLAIMED.l2_norm_clip * math.sqrt(STEPS))
    return Scores(scores[coins], scores[~coins])


def _gradients(network: Network) -> Any:
    """A function from canaries' tokens (n,) to the gradients (n, d) of each one's loss, one by one."""

    @tf.function(input_signature=[tf.TensorSpec((), tf.int32)], autograph=False)
    def gradient_of(token: tf.Tensor) -> tf.Tensor:
        targets = tf.fill((1, SEQ_LENGTH), token)
        inputs = tf.concat([[[END]], targets[:, :-1]], axis=1)
        variables = [variable.value for variable in network.trainable_variables]
        with tf.GradientTape() as tape:
            logits = tf.reshape(network(inputs), (SEQ_LENGTH, -1))
            entropies = tf.nn.sparse_softmax_cross_entropy_with_logits(targets[0], logits)
            loss = tf.reduce_sum(entropies) / SEQ_LENGTH
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, variables)]
        return tf.concat([tf.reshape(gradient, [-1]) for gradient in gradients], axis=0)

    return lambda tokens: np.stack([gradient_of(tf.constant(token, tf.int32)).numpy() for token in tokens])


def _weights(network: Network) -> NDArray[np.float32]:
    """All weights behind one another (d,)."""
    return np.concatenate([np.asarray(variable).reshape(-1) for variable in network.trainable_variables])


def _examples(records: list[list[int]]) -> Examples:
    """Records of token ids as a run's examples, in memory."""
    packer = Packer("records", SEQ_LENGTH, END)
    packer.add(np.array([token for record in records for token in record], np.int32), np.array(list(map(len, records))))
    packed = packer.take()
    rows = np.split(packed.ids, np.cumsum(packed.lengths + 1)[:-1])
    tokens = SimpleNamespace(seq_length=SEQ_LENGTH)
    return cast(
        Examples,
        SimpleNamespace(rows=lambda positions: [rows[p] for p in positions], lengths=packed.lengths, tokens=tokens),
    )


def no_examples(vocab_size: int, end_id: int) -> Examples:
    """None: canaries alone are trained on."""
    tokens = SimpleNamespace(seq_length=SEQ_LENGTH, vocab_size=vocab_size, end_id=end_id)
    return cast(Examples, SimpleNamespace(rows=lambda _positions: [], lengths=np.zeros(0, np.int32), tokens=tokens))
