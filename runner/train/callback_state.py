"""What callbacks keep over a stop and a resume: those of their attributes that a checkpoint gives back equal.

Kept: None, booleans, numbers, texts and NumPy arrays of numbers, also in lists, and in dictionaries with text keys.
Refused: other data (tuples, sets, bytes, other keys), as soon as it is not what it was when training began.
Left as the factory makes it: objects of any other class, such as functions, open files and models.
"""

from __future__ import annotations

import cmath
import collections
import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from runner.errors import JobFailedError

SET_BY_KERAS = ("params", "_model")
"""Attributes that every start sets anew."""
_PLAIN = (type(None), bool, int, float, str)
_OTHER_DATA = (*_PLAIN, complex, bytes, bytearray, np.ndarray, np.generic)
_COLLECTIONS = (list, tuple, set, frozenset, dict, collections.deque)

Fate = Literal["kept", "refused", "left"]
Place = list[str | int]
"""Of an array: the callback's number, the attribute, and the keys and positions inside it."""


@dataclass(frozen=True)
class UserCallback:
    """A Keras callback, and the reference in `training.callbacks` that made it."""

    reference: str
    callback: Any

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"training.callbacks {self.reference}: {type(self.callback).__name__}"


@dataclass(frozen=True)
class Snapshot:
    """The kept attributes of each callback, as JSON can hold them, and apart from these the arrays in them."""

    attributes: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    places: list[Place] = field(default_factory=list[Place])
    arrays: list[NDArray[Any]] = field(default_factory=list[NDArray[Any]])


def odd_data(callback: Any) -> dict[str, Any]:
    """Copies of the attributes that a checkpoint cannot give back: harmless for as long as they stay like this."""
    return {name: copy.deepcopy(value) for name, value in _own(callback).items() if _fate(value) == "refused"}


def snapshot(users: Sequence[UserCallback], at_start: Sequence[dict[str, Any]]) -> Snapshot:
    """What a checkpoint keeps of the callbacks; `at_start`: the `odd_data` of each when training began.

    Raises:
        JobFailedError: an attribute has become something that a resume would not get back equal.
    """
    taken = Snapshot()
    for number, (user, odd) in enumerate(zip(users, at_start, strict=True)):
        kept: dict[str, Any] = {}
        for name, value in _own(user.callback).items():
            fate = _fate(value)
            if fate == "kept":
                kept[name] = _take(value, [number, name], taken)
            elif fate == "refused" and not (name in odd and _same(value, odd[name])):
                raise JobFailedError(
                    f"{user.label}.{name} has come to hold {_refused_part(value)}, which a resume would not get back "
                    "as it was; keep numbers, texts, lists, arrays, or dictionaries with text keys"
                )
        taken.attributes.append(kept)
    return taken


def put_back(users: Sequence[UserCallback], saved: Snapshot) -> None:
    """Give each callback the attributes that `snapshot` took.

    Keras's callbacks that watch a metric set themselves up at their first epoch's end, and change `min_delta` in
    doing so: those that had done it, and so saved no `monitor_op`, do it again before.
    """
    attributes = copy.deepcopy(saved.attributes)
    for (number, *path, last), array in zip(saved.places, saved.arrays, strict=True):
        place: Any = attributes[number]  # pyright: ignore[reportArgumentType, reportCallIssue]
        for key in path:
            place = place[key]
        place[last] = np.array(array)[()]  # Of no dimensions it was, or is as good as, one of NumPy's numbers.
    for user, kept in zip(users, attributes, strict=False):
        callback = user.callback
        if getattr(callback, "monitor_op", kept) is None and "monitor_op" not in kept:
            callback._set_monitor_op()
        vars(callback).update({name: value for name, value in kept.items() if name not in SET_BY_KERAS})


def _own(callback: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(callback).items() if name not in SET_BY_KERAS}


def _fate(value: Any) -> Fate:
    if isinstance(value, (np.ndarray, np.generic)):
        return "kept" if value.dtype.kind in "biuf" and value.dtype.itemsize <= 8 else "refused"
    if type(value) in _PLAIN:
        return "kept"
    if isinstance(value, _COLLECTIONS):
        inside = [_fate(item) for item in (value.values() if isinstance(value, dict) else value)]
        if isinstance(value, dict):
            inside += ["kept" if type(key) is str else _fate_of_key(key) for key in value]
        if "left" in inside:
            return "left"
        return "kept" if type(value) in (list, dict) and "refused" not in inside else "refused"
    return "refused" if isinstance(value, _OTHER_DATA) else "left"


def _fate_of_key(key: Any) -> Fate:
    return "left" if _fate(key) == "left" else "refused"


def _take(value: Any, place: Place, taken: Snapshot) -> Any:
    """A kept value without its arrays, which go to `taken` with their places."""
    if isinstance(value, (np.ndarray, np.generic)):
        taken.places.append(place)
        taken.arrays.append(np.array(value))
        return None
    if isinstance(value, list):
        return [_take(item, [*place, index], taken) for index, item in enumerate(value)]
    if isinstance(value, dict):
        return {key: _take(item, [*place, key], taken) for key, item in value.items()}
    return value


def _same(one: Any, other: Any) -> bool:
    """Whether two pieces of data are equal in type and content; NaN equals itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple, collections.deque)):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other or (isinstance(one, (float, complex)) and cmath.isnan(one) and cmath.isnan(other))


def _refused_part(value: Any) -> str:
    """The innermost thing that is refused, in words."""
    if isinstance(value, (list, tuple, dict)):
        items = value.values() if isinstance(value, dict) else value
        if type(value) in (list, dict):
            for item in items:
                if _fate(item) == "refused":
                    return _refused_part(item)
        if type(value) is dict:
            key = next(key for key in value if type(key) is not str)
            return f"a dictionary with the key {key!r}"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    return f"a {type(value).__name__}"
