"""What callbacks keep comes back equal, in type and content, or is refused; nothing changes without a word."""

from __future__ import annotations

import collections
import copy
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import JobFailedError
from runner.train.callback_state import Snapshot, UserCallback, odd_data, put_back, snapshot


class Callback:
    """As bare as Keras's own base class."""

    def __init__(self, **attributes: Any) -> None:
        self.params = self._model = None
        vars(self).update(attributes)


def users(*callbacks: Any) -> list[UserCallback]:
    return [UserCallback("mine:make", callback) for callback in callbacks]


def through_json(taken: Snapshot) -> Snapshot:
    attributes, places = json.loads(json.dumps([taken.attributes, taken.places]))
    return Snapshot(attributes, places, taken.arrays)


def after_a_resume(before: Any, fresh: Any, at_start: dict[str, Any] | None = None) -> Any:
    put_back(users(fresh), through_json(snapshot(users(before), [at_start or {}])))
    return fresh


def refusal(**attributes: Any) -> str:
    with pytest.raises(JobFailedError) as caught:
        snapshot(users(Callback(**attributes)), [{}])
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# Whatever Python holds

NUMBERS = st.integers() | st.floats() | st.booleans() | st.none()
TEXTS = st.text(st.characters(exclude_categories=()))
ARRAYS = st.sampled_from(["float32", "float16", "float64", "int8", "uint64", "bool"]).flatmap(
    lambda kind: st.lists(st.integers(0, 1), max_size=4).map(lambda values: np.array(values, kind))
)
SCALARS = st.floats(width=32).map(np.float32) | st.integers(-9, 9).map(np.int64)
KEPT = st.recursive(
    NUMBERS | TEXTS | ARRAYS | SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)
ODD = st.recursive(
    st.tuples(NUMBERS) | st.sets(st.integers(), max_size=3) | st.binary(max_size=3) | st.complex_numbers(),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, min_size=1, max_size=3)
        | st.dictionaries(st.integers() | st.none(), NUMBERS, min_size=1, max_size=3)
        | st.lists(NUMBERS, max_size=3).map(collections.deque)
        | st.dictionaries(TEXTS, NUMBERS, max_size=3).map(collections.OrderedDict)
        | st.tuples(inner)
    ),
    max_leaves=4,
)


def assert_alike(one: Any, other: Any) -> None:
    """Equal to the bit, and of the same types, all the way down: by NumPy's own judge and Python's."""
    assert type(one) is type(other)
    if isinstance(one, (np.ndarray, np.generic)):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key, value in one.items():
            assert_alike(value, other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for item, found in zip(one, other, strict=True):
            assert_alike(item, found)
    else:
        assert repr(one) == repr(other)


@given(KEPT)
def test_what_is_kept_comes_back_equal_to_the_last_type(value: Any) -> None:
    assert_alike(after_a_resume(Callback(state=value), Callback()).state, value)


@given(ODD)
def test_data_that_json_would_change_is_refused_in_one_line(value: Any) -> None:
    assert refusal(state=value).startswith("training.callbacks mine:make: Callback.state has come to hold a")


@given(ODD)
def test_data_that_stays_as_it_was_when_training_began_is_no_state(value: Any) -> None:
    callback = Callback(state=value)
    at_start = odd_data(callback)
    callback.state = copy.deepcopy(value)
    fresh = after_a_resume(callback, Callback(state="as the factory made it"), at_start)
    assert fresh.state == "as the factory made it"


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({0: 1.0}, "a dictionary with the key 0"),
        ({"a": [{None: 1}]}, "a dictionary with the key None"),
        ([1, (2, 3)], "a tuple"),
        ({"a": {1, 2}}, "a set"),
        (collections.defaultdict(int), "a defaultdict"),
        (collections.Counter("ab"), "a Counter"),
        (np.array(["a"]), "an array of <U1"),
        (np.array([None]), "an array of object"),
        (np.longdouble(1), "a longdouble"),
    ],
)
def test_the_line_names_what_is_refused(value: Any, named: str) -> None:
    assert f" {named}, which a resume would not get back" in refusal(state=value)


def test_changes_inside_data_that_was_there_from_the_start_are_noticed() -> None:
    callback = Callback(seen=set(), table={0: [1.0]}, same=(float("nan"), np.arange(3)))
    at_start = odd_data(callback)
    snapshot(users(callback), [at_start])
    callback.table[0].append(2.0)
    with pytest.raises(JobFailedError, match=r"Callback.table"):
        snapshot(users(callback), [at_start])


@pytest.mark.parametrize("make", [lambda: print, io.StringIO, Callback, lambda: [(1, print)]])
def test_handles_are_left_as_the_factory_makes_them(make: Callable[[], Any]) -> None:
    fresh = make()
    assert after_a_resume(Callback(handle=make()), Callback(handle=fresh)).handle is fresh


def test_what_every_start_sets_is_not_put_back() -> None:
    old, new = Callback(), Callback()
    old.params, new.params = {"epochs": 3}, {"epochs": 9}
    assert after_a_resume(old, new).params == {"epochs": 9}
    put_back(users(new), Snapshot([{"params": None, "wait": 2}]))  # as checkpoints of before have it
    assert (new.params, new.wait) == ({"epochs": 9}, 2)


# As callbacks use it


class Plateau:
    """Keeps what Keras's ReduceLROnPlateau keeps."""

    def __init__(self) -> None:
        self.monitor, self.factor, self.patience, self.verbose = "val_loss", 0.1, 2, 0
        self.best: Any = float("inf")
        self.wait = self.cooldown_counter = 0
        self.monitor_op: Any = np.less
        self._model: Any = object()
        self.history: dict[str, Any] = {}
        self.params: Any = None
        self.seen: list[Any] = []

    def on_epoch_end(self, value: Any) -> None:
        self.seen.append(float(value))
        if self.monitor_op(value, self.best):
            self.best, self.wait = value, 0
        else:
            self.wait += 1


def test_a_callback_goes_on_where_its_snapshot_was_taken() -> None:
    values = [np.float32(3.3), np.float64(4.1), np.float32(2.7), 2.9, 3.1]
    straight = Plateau()
    for value in values:
        straight.on_epoch_end(value)
    for cut in range(len(values) + 1):
        before = Plateau()
        for value in values[:cut]:
            before.on_epoch_end(value)
        after = after_a_resume(before, Plateau())
        for value in values[cut:]:
            after.on_epoch_end(value)
        assert (after.best, after.wait, after.seen) == (straight.best, straight.wait, straight.seen)
        assert after.monitor_op is np.less


def test_a_snapshot_does_not_change_with_the_callback() -> None:
    callback = Callback(seen=[1.0], best=[np.zeros(2)])
    taken = snapshot(users(callback), [{}])
    callback.seen.append(0.5)
    callback.best[0] += 1
    assert taken.attributes[0]["seen"] == [1.0]
    assert taken.arrays[0].tolist() == [0, 0]


def test_each_callback_gets_its_own_back() -> None:
    one, two = Callback(wait=1, best=[np.ones(1)]), Callback(wait=2, best=[np.zeros(1), np.ones(2)])
    fresh = [Callback(), Callback()]
    put_back(users(*fresh), through_json(snapshot(users(one, two), [{}, {}])))
    assert [callback.wait for callback in fresh] == [1, 2]
    assert [len(callback.best) for callback in fresh] == [1, 2]
    put_back(users(*fresh), Snapshot())
    assert [callback.wait for callback in fresh] == [1, 2]
