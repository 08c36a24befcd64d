"""Generation: many records at once, one token per step; a record that ends makes room for the next.

Record i is a function of (seed, i): its random numbers are hashes of (seed, i, position), so it does not matter
how many records are made with it, in which batches or on which worker. (Logits may differ in the last bit
between batch sizes, which changes a token only where its random number falls within that bit of a boundary.)

    sampler = Sampler(network, end_id=1, max_length=100, temperature=0.8)
    for records in sampler.batches(1000, seed=7): ...    # lists of token ids, in order
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from runner.errors import ConfigError
from runner.model.choice import check_choice
from runner.model.dropout import mix_bits_tensor
from runner.model.network import Network

Chooser = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""From logits (B, V) and numbers u (B) in [0, 1) to token ids (B), by the inverse of the CDF at u."""

BATCH_SIZE = 256
STEPS_AT_ONCE = 32
"""Steps between two looks at what has ended."""

_TOP_CANDIDATES = 128  # nucleus sampling sorts all logits only when this many do not reach top_p
_BLOCK = 32
_LARGEST_TABLE_BYTES = 1 << 26
_GOLDEN_RATIO = 0x9E3779B9


class _Slots(NamedTuple):
    """The records in the making, one a slot (B). `records`: their numbers; from n on a slot is idle."""

    records: Any
    keys: Any  # (B, 2)
    positions: Any
    ids: Any  # the token last written; end_id before the first
    state: Any


class Sampler:
    """Draws records from a network, with the weights that it has when the sampler is made.

    A record holds at most `max_length` tokens and stops before `end_id`. Logits are divided by `temperature`
    (0: always the most likely token), cut to the `top_k` largest, then to the smallest set of the most likely
    tokens whose probabilities reach `top_p`.

    Raises:
        ConfigError: a setting is out of range.
    """

    def __init__(
        self,
        network: Network,
        *,
        end_id: int,
        max_length: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        check_choice(temperature, top_k, top_p)
        _check(
            {
                f"batch_size must be at least 1, not {batch_size}": batch_size >= 1,
                f"max_length must be at least 1, not {max_length}": max_length >= 1,
                f"token ids must be below the vocabulary's size {network.vocab_size}": (
                    0 <= end_id < network.vocab_size
                ),
            }
        )
        self.network = network
        self.end_id = end_id
        self.max_length = max_length
        self.batch_size = batch_size
        self._run = _compile_steps(
            network, end_id, max_length, make_chooser(network.vocab_size, temperature, top_k, top_p)
        )

    def batches(
        self, n: int, *, seed: int = 0, first: int = 0, prompts: Sequence[Sequence[int]] = ((),)
    ) -> Iterator[list[list[int]]]:
        """Yield records first, ..., first + n - 1 in order, as lists of token ids, some at a time.

        A record starts with its prompt: `prompts` has one for all, or one for each.

        Raises:
            ConfigError: a prompt is too long, or holds what is no token of a text.
        """
        self.check_prompts(prompts)
        forced = tf.constant(_padded(prompts))
        slots = self._first_slots(min(self.batch_size, n), seed, first)
        begun = len(slots.keys)
        parts: dict[int, list[int]] = {}
        yielded = 0
        while yielded < n:
            most = STEPS_AT_ONCE * len(slots.keys) + 1
            rows = np.arange(first + begun, first + begun + most, dtype=np.uint64)
            slots, begun, tokens, owners = self._run(slots, begun, n, tf.constant(row_keys(seed, rows)), forced)
            begun, records = int(begun), slots.records.numpy()
            _collect(parts, tokens.numpy(), owners.numpy(), n)
            working = set(records.tolist())
            ready: list[list[int]] = []
            while yielded < n and yielded in parts and yielded not in working:
                ready.append(self._text(parts.pop(yielded)))
                yielded += 1
            if ready:
                yield ready
            if 2 * np.count_nonzero(records < n) <= len(records):
                slots = _without_idle(slots, np.flatnonzero(records < n))

    def check_prompts(self, prompts: Sequence[Sequence[int]]) -> None:
        """Raise ConfigError for a prompt that no record of this sampler can start with."""
        longest = max(map(len, prompts), default=0)
        ids = {token for prompt in prompts for token in prompt}
        vocab_size = self.network.vocab_size
        _check(
            {
                f"the prompt has {longest} tokens, a record at most {self.max_length}": longest < self.max_length,
                f"the prompt holds the end-of-record token {self.end_id}": self.end_id not in ids,
                f"token ids must be below the vocabulary's size {vocab_size}": (
                    min(ids, default=0) >= 0 and max(ids, default=0) < vocab_size
                ),
            }
        )

    def _first_slots(self, count: int, seed: int, first: int) -> _Slots:
        rows = np.arange(first, first + count, dtype=np.uint64)
        return _Slots(
            tf.range(count),
            tf.constant(row_keys(seed, rows)),
            tf.zeros(count, tf.int32),
            tf.fill([count], self.end_id),
            self.network.initial_state(count),
        )

    def _text(self, tokens: list[int]) -> list[int]:
        return tokens[:-1] if tokens[-1] == self.end_id else tokens


def row_keys(seed: int, rows: np.ndarray) -> np.ndarray:
    """Two random uint32 per record, (len(rows), 2): splitmix64 of (seed, row) (Steele, Lea & Flood 2014)."""
    key = _splitmix64(np.full(1, seed % 2**64, np.uint64))
    mixed = _splitmix64(rows.astype(np.uint64) ^ key)
    return np.stack([mixed & np.uint64(0xFFFFFFFF), mixed >> np.uint64(32)], axis=1).astype(np.uint32)


def uniform(keys: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    """One number in [0, 1) per record, from keys (B, 2) uint32 and positions (B) or (): (B) float32, multiples of
    2^-24."""
    counter = tf.cast(positions, tf.uint32) * tf.constant(_GOLDEN_RATIO, tf.uint32)
    bits = mix_bits_tensor(tf.bitwise.bitwise_xor(mix_bits_tensor(keys[:, 0] + counter), keys[:, 1]))
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24


def make_chooser(vocab_size: int, temperature: float, top_k: int | None, top_p: float) -> Chooser:
    """The function that draws tokens: see `Chooser` and, for the settings, `Sampler`."""

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


def _compile_steps(network: Network, end_id: int, max_length: int, choose: Chooser) -> Callable[..., Any]:
    """A compiled function that takes STEPS_AT_ONCE steps, fewer when all records are done.

    From slots, the number of the next record, how many there are, the keys of the next records (M, 2) and the
    prompts (1 or n, L), padded by -1, it makes the next slots, the next number, and the token and the record that
    every slot wrote at every step, (steps, B) each.
    """
    table_bytes = 16 * network.vocab_size * network.rnn_units
    token_inputs = network.token_inputs() if table_bytes <= _LARGEST_TABLE_BYTES else None

    @tf.function(
        autograph=False,
        input_signature=[
            _Slots(
                tf.TensorSpec([None], tf.int32),
                tf.TensorSpec([None, 2], tf.uint32),
                tf.TensorSpec([None], tf.int32),
                tf.TensorSpec([None], tf.int32),
                [(tf.TensorSpec([None, network.rnn_units]),) * 2 for _ in network.lstms],
            ),
            tf.TensorSpec([], tf.int32),
            tf.TensorSpec([], tf.int32),
            tf.TensorSpec([None, 2], tf.uint32),
            tf.TensorSpec([None, None], tf.int32),
        ],
    )
    def run(slots: _Slots, begun: tf.Tensor, n: tf.Tensor, new_keys: tf.Tensor, forced: tf.Tensor) -> Any:
        last_prompt, last_position = tf.unstack(tf.shape(forced) - 1)
        first_new = begun

        def step(t: Any, slots: _Slots, begun: tf.Tensor, tokens: tf.TensorArray, owners: tf.TensorArray) -> Any:
            records, keys, positions, ids, state = slots
            logits, state = network.step(ids, state, token_inputs)
            prompt = tf.stack([tf.minimum(records, last_prompt), tf.minimum(positions, last_position)], axis=1)
            prescribed = tf.gather_nd(forced, prompt)
            ids = tf.where(prescribed >= 0, prescribed, choose(logits, uniform(keys, positions)))
            tokens, owners = tokens.write(t, ids), owners.write(t, records)
            positions += 1
            ended = tf.logical_or(tf.equal(ids, end_id), positions >= max_length)
            successors = begun + tf.cumsum(tf.cast(ended, tf.int32), exclusive=True)
            goes_on = tf.cast(tf.logical_not(ended), network.compute_dtype)[:, tf.newaxis]
            slots = _Slots(
                tf.where(ended, successors, records),
                tf.where(ended[:, tf.newaxis], tf.gather(new_keys, successors - first_new), keys),
                tf.where(ended, 0, positions),
                tf.where(ended, end_id, ids),
                [(h * goes_on, c * goes_on) for h, c in state],
            )
            return t + 1, slots, begun + tf.reduce_sum(tf.cast(ended, tf.int32)), tokens, owners

        def column() -> tf.TensorArray:
            return tf.TensorArray(tf.int32, size=0, dynamic_size=True, element_shape=(None,))

        _, slots, begun, tokens, owners = tf.while_loop(
            lambda t, slots, *_: (t < STEPS_AT_ONCE) & tf.reduce_any(slots.records < n),
            step,
            (0, slots, begun, column(), column()),
        )
        return slots, begun, tokens.stack(), owners.stack()

    return run


def _collect(parts: dict[int, list[int]], tokens: np.ndarray, owners: np.ndarray, n: int) -> None:
    """Add what the slots wrote, (steps, B), to the records that it belongs to, below n."""
    tokens, owners = tokens.T.ravel(), owners.T.ravel()
    starts = np.flatnonzero(np.diff(owners, prepend=-1))  # A slot's steps on one record are side by side.
    written = tokens.tolist()
    stops = [*starts[1:].tolist(), len(written)]
    for record, start, stop in zip(owners[starts].tolist(), starts.tolist(), stops, strict=True):
        if record < n:
            parts.setdefault(record, []).extend(written[start:stop])


def _without_idle(slots: _Slots, working: np.ndarray) -> _Slots:
    return tf.nest.map_structure(lambda values: tf.gather(values, working), slots)


def _padded(prompts: Sequence[Sequence[int]]) -> np.ndarray:
    """The prompts side by side, (P, longest + 1), padded by -1: at least one in each row."""
    table = np.full((len(prompts), max(map(len, prompts)) + 1), -1, np.int32)
    for row, prompt in zip(table, prompts, strict=True):
        row[: len(prompt)] = prompt
    return table


def _splitmix64(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _check(requirements: dict[str, bool]) -> None:
    for message, satisfied in requirements.items():
        if not satisfied:
            raise ConfigError(message)
