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
from numpy.typing import NDArray

from runner.data.automaton import NEVER, Automaton, Paths
from runner.data.splitmix import GOLDEN_GAMMA, mix_bits_64
from runner.errors import ConfigError
from runner.model.choice import check_choice
from runner.model.chooser import Chooser, Rules, make_chooser
from runner.model.dropout import mix_bits_tensor
from runner.model.network import Network

BATCH_SIZE = 256
STEPS_AT_ONCE = 32
"""Steps between two looks at what has ended."""

_LARGEST_TABLE_BYTES = 1 << 26
_GOLDEN_RATIO = 0x9E3779B9


class _Lanes(NamedTuple):
    """The records in the making, one a lane (B). `records`: their numbers; from n on a lane is idle."""

    records: Any
    keys: Any  # (B, 2)
    positions: Any
    ids: Any  # the token last written; end_id before the first
    places: Any  # states of the automaton; 0 without one
    state: Any  # of the network


class Sampler:
    """Draws records from a network, with the weights that it has when the sampler is made.

    A record holds at most `max_length` tokens and stops before `end_id`. Logits are divided by `temperature`
    (0: always the most likely token), cut to the `top_k` largest, then to the smallest set of the most likely
    tokens whose probabilities reach `top_p`.

    With an `automaton`, only tokens are drawn that it allows and after which a record can still end within
    `max_length`; all of the above is then about these. So no record is cut. `routed`: the records' parts come in orders
    of their own (see `batches`); `max_length` must then have room for the longest record and its end.

    Raises:
        ConfigError: a setting is out of range, or the automaton has no record of at most `max_length` tokens.
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
        automaton: Automaton | None = None,
        routed: bool = False,
    ) -> None:
        check_choice(temperature, top_k, top_p)
        _check(
            {
                f"batch_size must be at least 1, not {batch_size}": batch_size >= 1,
                f"max_length must be at least 1, not {max_length}": max_length >= 1,
                f"token ids must be below the vocabulary's size {network.vocab_size}": (
                    0 <= end_id < network.vocab_size
                ),
                "a network that reads the next slot needs an automaton that has slots": network.next_slot is None
                or (automaton is not None and automaton.slots is not None),
            }
        )
        self.network = network
        self.end_id = end_id
        self.max_length = max_length
        self.batch_size = batch_size
        self._start = 0 if automaton is None else automaton.start
        self._paths = None if automaton is None else Paths(automaton, end_id)
        self._check_lengths(((),))
        rules = None if self._paths is None else Rules.of(self._paths)
        self._joints = None
        if routed:
            assert automaton is not None
            assert automaton.joints is not None
            rules, self._joints = Rules.routed(automaton), automaton.joints
        chooser = make_chooser(network.vocab_size, temperature, top_k, top_p)
        self._run = _compile_steps(network, end_id, max_length, chooser, rules, self._start, self._joints)

    def batches(
        self,
        n: int,
        *,
        seed: int = 0,
        first: int = 0,
        prompts: Sequence[Sequence[int]] = ((),),
        routes: NDArray[np.int32] | None = None,
    ) -> Iterator[list[list[int]]]:
        """Yield records first, ..., first + n - 1 in order, as lists of token ids, some at a time.

        A record starts with its prompt: `prompts` has one for all, or one for each. routes (1 or n, J), of a `routed`
        sampler: for each record the states that take the places of the automaton's joints (see `Automaton.routes`).

        Raises:
            ConfigError: a prompt is too long, holds what is no token of a text, or begins no record of the automaton.
        """
        if self._joints is None:
            routes = np.array([[self._start]], np.int32)
        elif routes is None:
            routes = self._joints[np.newaxis]
        self.check_prompts(prompts)
        forced, ways = tf.constant(_padded(prompts)), tf.constant(routes)
        lanes = self._first_lanes(min(self.batch_size, n), seed, first, ways)
        begun = len(lanes.keys)
        parts: dict[int, list[int]] = {}
        yielded = 0
        while yielded < n:
            most = STEPS_AT_ONCE * len(lanes.keys) + 1
            rows = np.arange(first + begun, first + begun + most, dtype=np.uint64)
            lanes, begun, tokens, owners = self._run(lanes, begun, n, tf.constant(row_keys(seed, rows)), forced, ways)
            begun, records = int(begun), lanes.records.numpy()
            _collect(parts, tokens.numpy(), owners.numpy(), n)
            working = set(records.tolist())
            ready: list[list[int]] = []
            while yielded < n and yielded in parts and yielded not in working:
                ready.append(self._text(parts.pop(yielded)))
                yielded += 1
            if ready:
                yield ready
            if 2 * np.count_nonzero(records < n) <= len(records):
                lanes = _without_idle(lanes, np.flatnonzero(records < n))

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
        if self._joints is None:
            self._check_lengths(prompts)

    def _check_lengths(self, prompts: Sequence[Sequence[int]]) -> None:
        """That a record of the automaton begins with each prompt, and is not too long; in the automaton's own order."""
        shortest = [] if self._paths is None else self._paths.shortest(prompts).tolist()
        for prompt, length in zip(prompts, shortest, strict=False):
            beginning = f" that begins with the tokens {list(prompt)}" if prompt else ""
            _check(
                {
                    f"the automaton has no record{beginning}": length != NEVER,
                    f"a record{beginning} has {length} tokens or more, but may have {self.max_length}": (
                        length <= self.max_length
                    ),
                }
            )

    def _first_lanes(self, count: int, seed: int, first: int, routes: tf.Tensor) -> _Lanes:
        rows = np.arange(first, first + count, dtype=np.uint64)
        return _Lanes(
            tf.range(count),
            tf.constant(row_keys(seed, rows)),
            tf.zeros(count, tf.int32),
            tf.fill([count], self.end_id),
            tf.gather(routes[:, 0], tf.minimum(tf.range(count), tf.shape(routes)[0] - 1)),
            self.network.initial_state(count),
        )

    def _text(self, tokens: list[int]) -> list[int]:
        return tokens[:-1] if tokens[-1] == self.end_id else tokens


def row_keys(seed: int, rows: np.ndarray) -> np.ndarray:
    """Two random uint32 per record, (len(rows), 2): splitmix64 of (seed, row) (Steele, Lea & Flood 2014)."""
    key = mix_bits_64(np.full(1, seed % 2**64, np.uint64) + GOLDEN_GAMMA)
    mixed = mix_bits_64((rows.astype(np.uint64) ^ key) + GOLDEN_GAMMA)
    return np.stack([mixed & np.uint64(0xFFFFFFFF), mixed >> np.uint64(32)], axis=1).astype(np.uint32)


def uniform(keys: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    """One number in [0, 1) per record, from keys (B, 2) uint32 and positions (B) or (): (B) float32, multiples of
    2^-24."""
    counter = tf.cast(positions, tf.uint32) * tf.constant(_GOLDEN_RATIO, tf.uint32)
    bits = mix_bits_tensor(tf.bitwise.bitwise_xor(mix_bits_tensor(keys[:, 0] + counter), keys[:, 1]))
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24


def _compile_steps(
    network: Network,
    end_id: int,
    max_length: int,
    choose: Chooser,
    rules: Rules | None,
    start: int,
    joints: NDArray[np.int32] | None,
) -> Callable[..., Any]:
    """A compiled function that takes STEPS_AT_ONCE steps, fewer when all records are done.

    From lanes, the number of the next record, how many there are, the keys of the next records (M, 2), the prompts
    (1 or n, L), padded by -1, and the routes (1 or n, J) it makes the next lanes, the next number, and the token and
    the record that every lane wrote at every step, (steps, B) each.
    """
    joint_of = None if rules is None or joints is None else _joint_of(joints, len(rules.following))
    table_bytes = 16 * network.vocab_size * network.rnn_units
    token_inputs = network.token_inputs() if table_bytes <= _LARGEST_TABLE_BYTES else None
    slot_inputs = network.slot_inputs()

    @tf.function(
        autograph=False,
        input_signature=[
            _Lanes(
                tf.TensorSpec([None], tf.int32),
                tf.TensorSpec([None, 2], tf.uint32),
                tf.TensorSpec([None], tf.int32),
                tf.TensorSpec([None], tf.int32),
                tf.TensorSpec([None], tf.int32),
                [(tf.TensorSpec([None, network.rnn_units]),) * 2 for _ in network.lstms],
            ),
            tf.TensorSpec([], tf.int32),
            tf.TensorSpec([], tf.int32),
            tf.TensorSpec([None, 2], tf.uint32),
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([None, None], tf.int32),
        ],
    )
    def run(
        lanes: _Lanes, begun: tf.Tensor, n: tf.Tensor, new_keys: tf.Tensor, forced: tf.Tensor, routes: tf.Tensor
    ) -> Any:
        last_prompt, last_position = tf.unstack(tf.shape(forced) - 1)
        last_route = tf.shape(routes)[0] - 1
        first_new = begun

        def begin(records: tf.Tensor) -> tf.Tensor | int:
            return start if joint_of is None else tf.gather(routes[:, 0], tf.minimum(records, last_route))

        def step(t: Any, lanes: _Lanes, begun: tf.Tensor, tokens: tf.TensorArray, owners: tf.TensorArray) -> Any:
            records, keys, positions, ids, places, state = lanes
            next_slots = None if rules is None or rules.slots is None else tf.gather(rules.slots, places)
            logits, state = network.step(ids, state, token_inputs, next_slots, slot_inputs)
            u = uniform(keys, positions)
            if rules is None:
                drawn = choose(logits, u)
            else:
                drawn = rules.choose(choose, logits, u, places, max_length - 1 - positions)
            prompt = tf.stack([tf.minimum(records, last_prompt), tf.minimum(positions, last_position)], axis=1)
            prescribed = tf.gather_nd(forced, prompt)
            ids = tf.where(prescribed >= 0, prescribed, drawn)
            if rules is not None:
                places = rules.follow(places, ids)
            if joint_of is not None:
                joint = tf.gather(joint_of, places)
                led = tf.stack([tf.minimum(records, last_route), tf.maximum(joint, 0)], axis=1)
                places = tf.where(joint >= 0, tf.gather_nd(routes, led), places)
            tokens, owners = tokens.write(t, ids), owners.write(t, records)
            positions += 1
            ended = tf.logical_or(tf.equal(ids, end_id), positions >= max_length)
            successors = begun + tf.cumsum(tf.cast(ended, tf.int32), exclusive=True)
            goes_on = tf.cast(tf.logical_not(ended), network.compute_dtype)[:, tf.newaxis]
            lanes = _Lanes(
                tf.where(ended, successors, records),
                tf.where(ended[:, tf.newaxis], tf.gather(new_keys, successors - first_new), keys),
                tf.where(ended, 0, positions),
                tf.where(ended, end_id, ids),
                tf.where(ended, begin(successors), places),
                [(h * goes_on, c * goes_on) for h, c in state],
            )
            return t + 1, lanes, begun + tf.reduce_sum(tf.cast(ended, tf.int32)), tokens, owners

        def column() -> tf.TensorArray:
            return tf.TensorArray(tf.int32, size=0, dynamic_size=True, element_shape=(None,))

        _, lanes, begun, tokens, owners = tf.while_loop(
            lambda t, lanes, *_: (t < STEPS_AT_ONCE) & tf.reduce_any(lanes.records < n),
            step,
            (0, lanes, begun, column(), column()),
        )
        return lanes, begun, tokens.stack(), owners.stack()

    return run


def _joint_of(joints: NDArray[np.int32], states: int) -> tf.Tensor:
    """The number of the joint that a state is, (S), -1 for others."""
    numbers = np.full(states, -1, np.int32)
    numbers[joints] = np.arange(len(joints))
    return tf.constant(numbers)


def _collect(parts: dict[int, list[int]], tokens: np.ndarray, owners: np.ndarray, n: int) -> None:
    """Add what the lanes wrote, (steps, B), to the records that it belongs to, below n."""
    tokens, owners = tokens.T.ravel(), owners.T.ravel()
    starts = np.flatnonzero(np.diff(owners, prepend=-1))  # A lane's steps on one record are side by side.
    written = tokens.tolist()
    stops = [*starts[1:].tolist(), len(written)]
    for record, start, stop in zip(owners[starts].tolist(), starts.tolist(), stops, strict=True):
        if record < n:
            parts.setdefault(record, []).extend(written[start:stop])


def _without_idle(lanes: _Lanes, working: np.ndarray) -> _Lanes:
    return tf.nest.map_structure(lambda values: tf.gather(values, working), lanes)


def _padded(prompts: Sequence[Sequence[int]]) -> np.ndarray:
    """The prompts side by side, (P, longest + 1), padded by -1: at least one in each row."""
    table = np.full((len(prompts), max(map(len, prompts)) + 1), -1, np.int32)
    for row, prompt in zip(table, prompts, strict=True):
        row[: len(prompt)] = prompt
    return table


def _check(requirements: dict[str, bool]) -> None:
    for message, satisfied in requirements.items():
        if not satisfied:
            raise ConfigError(message)
