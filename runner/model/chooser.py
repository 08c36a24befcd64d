"""Drawing the next token from logits: temperature, top-k and top-p, and what an automaton allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from runner.data.automaton import Automaton, Paths

Chooser = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""From logits (B, V) and numbers u (B) in [0, 1) to token ids (B), by the inverse of the CDF at u."""

_TOP_CANDIDATES = 128  # nucleus sampling sorts all logits only when this many do not reach top_p
_BLOCK = 32


def make_chooser(vocab_size: int, temperature: float, top_k: int | None, top_p: float) -> Chooser:
    """The function that draws tokens: see `Chooser` and, for the settings, `runner.model.sampling.Sampler`."""

    def choose_sorted(logits: tf.Tensor, u: tf.Tensor, candidates: int) -> tf.Tensor:
        values, ids = tf.math.top_k(logits, candidates)
        if top_k is None:
            mass = tf.exp(values - tf.reduce_logsumexp(logits, axis=1, keepdims=True))
        else:
            mass = tf.nn.softmax(values)
        before = tf.cumsum(mass, axis=1, exclusive=True)
        rank = _inverse_cdf(tf.where(before < top_p, mass, 0.0), u)
        return tf.gather(ids, rank, batch_dims=1)

    def choose(logits: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        if temperature == 0:
            return tf.argmax(logits, axis=1, output_type=tf.int32)
        logits = logits / temperature
        if top_k is not None:
            return choose_sorted(logits, u, min(top_k, vocab_size))
        if top_p == 1:
            return _inverse_cdf(tf.nn.softmax(logits), u)
        if vocab_size <= _TOP_CANDIDATES:
            return choose_sorted(logits, u, vocab_size)
        reached = tf.reduce_sum(tf.math.top_k(tf.nn.softmax(logits), _TOP_CANDIDATES).values, axis=1)
        return tf.cond(
            tf.reduce_min(reached) > top_p,
            lambda: choose_sorted(logits, u, _TOP_CANDIDATES),
            lambda: choose_sorted(logits, u, vocab_size),
        )

    return choose


def _inverse_cdf(mass: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
    """The first index (B) at which the cumulative sum of mass (B, n) exceeds u times its total.

    TensorFlow's cumulative sum is slow: of many numbers only the sums of blocks are summed up, then one block.
    """
    count = mass.shape[1]
    assert count is not None
    if count <= 4 * _BLOCK:
        cumulative = tf.cumsum(mass, axis=1)
        return _first_above(cumulative, u * cumulative[:, -1])
    blocks = tf.reshape(tf.pad(mass, [[0, 0], [0, -count % _BLOCK]]), (-1, -(-count // _BLOCK), _BLOCK))
    sums = tf.reduce_sum(blocks, axis=2)
    cumulative = tf.cumsum(sums, axis=1)
    target = u * cumulative[:, -1]
    block = _first_above(cumulative, target)
    inside = tf.cumsum(tf.gather(blocks, block, batch_dims=1), axis=1)
    rest = target - tf.gather(tf.cumsum(sums, axis=1, exclusive=True), block, batch_dims=1)
    # Rounding must not lead to an index without mass, before the block's first or behind its last.
    rest = tf.clip_by_value(rest, 0.0, inside[:, -1] * (1 - 2.0**-22))
    return tf.minimum(block * _BLOCK + _first_above(inside, rest), count - 1)


def _first_above(ascending: tf.Tensor, bound: tf.Tensor) -> tf.Tensor:
    """The first index (B) at which ascending (B, n) exceeds its bound (B)."""
    return tf.reduce_sum(tf.cast(ascending <= bound[:, tf.newaxis], tf.int32), axis=1)


class Rules(NamedTuple):
    """What an automaton allows, for `runner.model.sampling`: see `Paths`, whose `left` is here, and `Automaton`.

    `nearest` (S): of each state's tokens the one that is nearest to the end.
    """

    left: tf.Tensor
    following: tf.Tensor
    nearest: tf.Tensor
    slots: tf.Tensor | None

    @classmethod
    def of(cls, paths: Paths) -> Rules:
        """The tables as tensors."""
        automaton = paths.automaton
        return cls(
            tf.constant(paths.left),
            tf.constant(automaton.following),
            tf.constant(paths.left.argmin(axis=1).astype(np.int32)),
            None if automaton.slots is None else tf.constant(automaton.slots),
        )

    @classmethod
    def routed(cls, automaton: Automaton) -> Rules:
        """Of an automaton whose parts come in other orders, too: how far the end is, no state says."""
        return cls(
            tf.constant(np.where(automaton.allowed, np.uint8(0), np.iinfo(np.uint8).max)),
            tf.constant(automaton.following),
            tf.constant(automaton.allowed.argmax(axis=1).astype(np.int32)),
            None if automaton.slots is None else tf.constant(automaton.slots),
        )

    def choose(self, choose: Chooser, logits: tf.Tensor, u: tf.Tensor, places: tf.Tensor, room: tf.Tensor) -> tf.Tensor:
        """Draw one of the tokens that are allowed in the states `places` (B), by logits (B, V) and u (B).

        room (B): how many tokens may still follow. What is drawn is looked up once more: where neither the network nor
        rounding leads to a token that is allowed, as with logits that are no numbers, it is the one nearest to the end.
        """
        kind = self.left.dtype
        room = tf.cast(tf.minimum(room, kind.max - 1), kind)
        allowed = tf.gather(self.left, places) <= room[:, tf.newaxis]
        drawn = choose(tf.where(allowed, logits, -np.inf), u)
        is_allowed = tf.gather(allowed, drawn, batch_dims=1)
        return tf.where(is_allowed, drawn, tf.gather(self.nearest, places))

    def follow(self, places: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        """The states after the tokens `ids` (B)."""
        return tf.gather_nd(self.following, tf.stack([places, ids], axis=1))
