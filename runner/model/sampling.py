"""Generation: batches of records, one token per step, until every record of the batch has ended.

Record i is a function of (seed, i): its random numbers are hashes of (seed, i, step), so it does not matter
how many records are made with it, in which batches or on which worker. (Logits may differ in the last bit
between batch sizes, which changes a token only where its random number falls within that bit of a boundary.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from runner.errors import ConfigError
from runner.model.dropout import mix_bits_tensor
from runner.model.network import Network

Chooser = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""From logits (B, V) and numbers u (B) in [0, 1) to token ids (B), by the inverse of the CDF at u."""

_TOP_CANDIDATES = 128  # nucleus sampling sorts all logits only when this many do not reach top_p
_GOLDEN_RATIO = 0x9E3779B9


def sample(network: Network, n: int, **settings: Any) -> list[list[int]]:
    """`n` records as token ids; keyword arguments as for `sample_batches`."""
    return [record for batch in sample_batches(network, n, **settings) for record in batch]


def sample_batches(
    network: Network,
    n: int,
    *,
    end_id: int,
    max_length: int,
    prompt_ids: Sequence[int] = (),
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 256,
    first: int = 0,
) -> Iterator[list[list[int]]]:
    """Yield records first, ..., first + n - 1 in batches of `batch_size`, as lists of token ids.

    A record starts with `prompt_ids`, holds at most `max_length` tokens, and stops before `end_id`. Logits
    are divided by `temperature` (0: always the most likely token), cut to the `top_k` largest, then to the
    smallest set of the most likely tokens whose probabilities reach `top_p`. ConfigError for a setting out of
    range.
    """
    vocab_size = network.vocab_size
    _check_settings(vocab_size, end_id, max_length, prompt_ids, temperature, top_k, top_p, batch_size)
    batch_size = min(batch_size, max(n, 1))
    choose = make_chooser(vocab_size, temperature, top_k, top_p)
    run_batch = _compile_batch(network, end_id, max_length, prompt_ids, choose)
    for start in range(0, n, batch_size):
        rows = np.arange(first + start, first + start + batch_size, dtype=np.uint64)
        tokens = run_batch(tf.constant(row_keys(seed, rows))).numpy()
        yield [_until(record, end_id) for record in tokens[: n - start]]


def row_keys(seed: int, rows: np.ndarray) -> np.ndarray:
    """Two random uint32 per record, (len(rows), 2): splitmix64 of (seed, row) (Steele, Lea & Flood 2014)."""
    key = _splitmix64(np.full(1, seed % 2**64, np.uint64))
    mixed = _splitmix64(rows.astype(np.uint64) ^ key)
    return np.stack([mixed & np.uint64(0xFFFFFFFF), mixed >> np.uint64(32)], axis=1).astype(np.uint32)


def uniform(keys: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
    """One number in [0, 1) per record and step, from keys (B, 2) uint32: (B) float32, multiples of 2^-24."""
    counter = tf.cast(step, tf.uint32) * tf.constant(_GOLDEN_RATIO, tf.uint32)
    bits = mix_bits_tensor(tf.bitwise.bitwise_xor(mix_bits_tensor(keys[:, 0] + counter), keys[:, 1]))
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24


def make_chooser(vocab_size: int, temperature: float, top_k: int | None, top_p: float) -> Chooser:
    """The function that draws tokens: see `Chooser` and, for the settings, `sample_batches`."""

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
    """The first index (B) at which the cumulative sum of mass (B, n) exceeds u times its total."""
    cumulative = tf.cumsum(mass, axis=1)
    passed = cumulative <= u[:, tf.newaxis] * cumulative[:, -1:]
    return tf.reduce_sum(tf.cast(passed, tf.int32), axis=1)


def _compile_batch(
    network: Network, end_id: int, max_length: int, prompt_ids: Sequence[int], choose: Chooser
) -> Callable[[tf.Tensor], tf.Tensor]:
    """A compiled function from row keys (B, 2) to token ids (B, <= max_length), padded with `end_id`."""
    forced = tf.constant([*prompt_ids, *[-1] * (max_length - len(prompt_ids))], tf.int32)

    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.uint32)])
    def run_batch(keys: tf.Tensor) -> tf.Tensor:
        rows = tf.shape(keys)[0]

        def step(t, ids, ended, state, tokens):
            logits, state = network.step(ids, state)
            ids = tf.where(forced[t] >= 0, forced[t], choose(logits, uniform(keys, t)))
            ids = tf.where(ended, end_id, ids)
            return t + 1, ids, ended | (ids == end_id), state, tokens.write(t, ids)

        *_, tokens = tf.while_loop(
            lambda t, _, ended, *__: (t < max_length) & ~tf.reduce_all(ended),
            step,
            (
                0,
                tf.fill([rows], end_id),
                tf.fill([rows], value=False),
                network.initial_state(rows),
                tf.TensorArray(tf.int32, size=0, dynamic_size=True, element_shape=(None,)),
            ),
        )
        return tf.transpose(tokens.stack())

    return run_batch


def _until(record: np.ndarray, end_id: int) -> list[int]:
    """The tokens before the first `end_id`."""
    ends = np.flatnonzero(record == end_id)
    return record[: ends[0] if len(ends) else None].tolist()


def _splitmix64(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _check_settings(
    vocab_size: int,
    end_id: int,
    max_length: int,
    prompt_ids: Sequence[int],
    temperature: float,
    top_k: int | None,
    top_p: float,
    batch_size: int,
) -> None:
    requirements = {
        f"temperature must be a number of at least 0, not {temperature}": 0 <= temperature < float("inf"),
        f"top_k must be at least 1, not {top_k}": top_k is None or top_k >= 1,
        f"top_p must be above 0 and at most 1, not {top_p}": 0 < top_p <= 1,
        f"batch_size must be at least 1, not {batch_size}": batch_size >= 1,
        f"max_length must be at least 1, not {max_length}": max_length >= 1,
        f"the prompt has {len(prompt_ids)} tokens, a record at most {max_length}": len(prompt_ids) < max_length,
        f"the prompt holds the end-of-record token {end_id}": end_id not in prompt_ids,
        f"token ids must be below the vocabulary's size {vocab_size}": (
            min((end_id, *prompt_ids)) >= 0 and max((end_id, *prompt_ids)) < vocab_size
        ),
    }
    for message, satisfied in requirements.items():
        if not satisfied:
            raise ConfigError(message)
