"""The walks of a field's states are its values: each value that there is, once."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.data.schema.codec import DONE, Codec
from runner.data.schema.intervals import plan_intervals
from runner.data.schema.moment import MomentCodec, count_steps
from runner.data.schema.number import NumberCodec


def all_walks(codec: Codec) -> np.ndarray:
    """Every walk of a field without texts, as tokens in the columns of their slots: (walks, slots)."""
    states = codec.states()
    found: list[list[int]] = []
    open_walks: list[tuple[int, list[int]]] = [(0, [-1] * len(codec.slots))]
    while open_walks:
        place, tokens = open_walks.pop()
        state = states[place]
        for token in np.flatnonzero(state.allowed).tolist():
            walk = [token if slot == state.slot else each for slot, each in enumerate(tokens)]
            after = int(state.following[token])
            if after == DONE:
                found.append(walk)
            else:
                open_walks.append((after, walk))
    return np.array(found, np.int32)


@settings(max_examples=30)
@given(st.integers(-(10**6), 10**6), st.integers(0, 700), st.integers(2, 40))
def test_every_number_of_a_range_is_one_walk(low: int, more: int, bins: int) -> None:
    high = low + more
    codec = NumberCodec("c", pa.int64(), low, high, intervals=plan_intervals(low, high, bins), nullable=False)
    walks = all_walks(codec)
    values = codec.decode(walks, np.arange(len(walks))).to_pylist()
    assert sorted(values) == list(range(low, high + 1))
    assert (codec.encode(pa.array(values, pa.int64())) == walks).all()


@settings(max_examples=15)
@given(st.dates(dt.date(1890, 1, 1), dt.date(2110, 1, 1)), st.integers(0, 800))
def test_every_day_of_a_range_is_one_walk(first: dt.date, more: int) -> None:
    days = [first + dt.timedelta(days=number) for number in range(more + 1)]
    codec = MomentCodec("c", pa.date32(), count_steps(days[0], "day"), count_steps(days[-1], "day"), nullable=False)
    walks = all_walks(codec)
    assert sorted(codec.decode(walks, np.arange(len(walks))).to_pylist()) == days


@settings(max_examples=15)
@given(st.integers(-(10**9), 10**9), st.integers(0, 3000))
def test_every_minute_of_a_range_is_one_walk(first: int, more: int) -> None:
    codec = MomentCodec("c", pa.timestamp("s"), first, first + more, nullable=False, resolution="minute")
    walks = all_walks(codec)
    minutes = codec.decode(walks, np.arange(len(walks))).cast(pa.int64()).to_numpy() // 60
    assert sorted(minutes.tolist()) == list(range(first, first + more + 1))
