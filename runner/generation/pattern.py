"""Regular expressions as automata: Python's own syntax, and its meaning of `re.fullmatch`.

Python's parser reads the pattern, and Python's matcher says which characters a class holds under its flags. What looks
around or back, possessive quantifiers and atomic groups depend on more than a state and the next character: no
automaton says them.

>>> language = pattern_language(r"\\d{2}|x")
>>> language.following.shape, language.final.tolist()  # digits, x and all others
((3, 3), [False, True, False])
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import Enum, auto
from functools import cache, lru_cache
from re import _compiler, _constants, _parser  # pyright: ignore[reportAttributeAccessIssue]  # no public parser
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from runner.generation.language import CODE_POINTS, CharacterLanguage, TooLargeError, explore

MOST_PLACES = 20_000
"""In a pattern with its repetitions written out."""

sre: Any = _constants


class PatternError(Exception):
    """No automaton says a pattern; the message is what it uses."""


def pattern_language(pattern: str) -> CharacterLanguage:
    """The texts that the whole pattern matches.

    Raises:
        PatternError: it uses what no automaton says.
        TooLargeError: its automaton is too large.
    """
    try:
        tree = _parser.parse(pattern)
        places = _Places()
        places.end = places.add(tree, tree.state.flags, 0)
    except RecursionError:
        raise TooLargeError("nested too deeply") from None
    first, kind, members = _classes(places.sets)
    walk = _Walk(places, members)
    return CharacterLanguage(first, kind, *explore(walk.start, walk.step, walk.is_final))


class _Places:
    """The pattern as places between which its characters lead (Thompson 1968); 0 is the first.

    By place: `steps` to others, `tests` of what is around, and `reads` of a character of a set. `sets`: where the code
    points of each begin and stop, ascending. `around`: the sets that tests ask for: see `_Around`.
    """

    def __init__(self) -> None:
        self.steps: list[list[int]] = [[]]
        self.tests: list[list[tuple[_Anchor, bool, int]]] = [[]]
        self.reads: list[list[tuple[int, int]]] = [[]]
        self.sets: list[NDArray[np.int64]] = [np.array([0, CODE_POINTS])]  # All, for a pattern that reads nothing.
        self.end = 0
        self.around: list[int] = []
        self._numbers: dict[tuple[Any, int], int] = {}

    def add(self, items: Iterable[Any], flags: int, at: int) -> int:
        """Put items one behind the other from a place; the place behind them."""
        for operation, argument in items:
            if operation in (sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN):
                target = self._new()
                item = operation, tuple(argument) if operation is sre.IN else argument
                self.reads[at].append((self.number_of(item, flags), target))
                at = target
            elif operation is sre.BRANCH:
                end = self._new()
                for branch in argument[1]:
                    self.steps[self.add(branch, flags, at)].append(end)
                at = end
            elif operation is sre.SUBPATTERN:
                _, added, removed, inner = argument
                kept = flags & ~_parser.TYPE_FLAGS if added & _parser.TYPE_FLAGS else flags
                at = self.add(inner, (kept | added) & ~removed, at)
            elif operation in (sre.MAX_REPEAT, sre.MIN_REPEAT):
                least, most, inner = argument
                at = self._repeat(least, most, inner, flags, at)
            elif operation is sre.AT:
                word = (sre.IN, ((sre.CATEGORY, sre.CATEGORY_WORD),))
                sets = ((sre.LITERAL, ord("\n")), 0), (word, re.UNICODE), (word, re.ASCII)
                self.around = [self.number_of(item, flags) for item, flags in sets]
                target = self._new()
                self.tests[at].append((_anchor(argument, flags), bool(flags & re.ASCII), target))
                at = target
            else:
                raise PatternError(_REFUSED.get(operation, str(operation).lower()))
        return at

    def number_of(self, item: tuple[Any, Any], flags: int) -> int:
        """The number of a set."""
        if (item, flags) not in self._numbers:
            self._numbers[item, flags] = len(self.sets)
            self.sets.append(_bounds(item, flags))
        return self._numbers[item, flags]

    def _repeat(self, least: int, most: int, inner: Sequence[Any], flags: int, at: int) -> int:
        for _ in range(least):
            before, at = at, self.add(inner, flags, at)
            if at == before:  # What is empty may be there as often as it likes.
                return at
        end = self._new()
        if most is sre.MAXREPEAT:
            loop = self._new()
            self.steps[at].append(loop)
            self.steps[self.add(inner, flags, loop)].append(loop)
            at = loop
        else:
            for _ in range(most - least):
                self.steps[at].append(end)
                before, at = at, self.add(inner, flags, at)
                if at == before:
                    break
        self.steps[at].append(end)
        return end

    def _new(self) -> int:
        if len(self.steps) >= MOST_PLACES:
            raise TooLargeError(f"more than {MOST_PLACES:,} characters with its repetitions")
        for edges in (self.steps, self.tests, self.reads):
            edges.append([])
        return len(self.steps) - 1


_REFUSED = {
    sre.ASSERT: "looks around",
    sre.ASSERT_NOT: "looks around",
    sre.GROUPREF: "refers back to a group",
    sre.GROUPREF_IGNORE: "refers back to a group",
    sre.GROUPREF_EXISTS: "asks for a group",
    sre.ATOMIC_GROUP: "has an atomic group",
    sre.POSSESSIVE_REPEAT: "has a possessive quantifier",
}


class _Anchor(Enum):
    """What is asked of the place between two characters."""

    START = auto()
    LINE_START = auto()
    END = auto()
    LINE_END = auto()
    LAST_LINE_END = auto()
    BOUNDARY = auto()
    NO_BOUNDARY = auto()


def _anchor(code: Any, flags: int) -> _Anchor:
    by_line = bool(flags & re.MULTILINE)
    return {
        sre.AT_BEGINNING: _Anchor.LINE_START if by_line else _Anchor.START,
        sre.AT_BEGINNING_STRING: _Anchor.START,
        sre.AT_END: _Anchor.LINE_END if by_line else _Anchor.LAST_LINE_END,
        sre.AT_END_STRING: _Anchor.END,
        sre.AT_BOUNDARY: _Anchor.BOUNDARY,
        sre.AT_NON_BOUNDARY: _Anchor.NO_BOUNDARY,
    }[code]


@lru_cache(maxsize=256)
def _bounds(item: tuple[Any, Any], flags: int) -> NDArray[np.int64]:
    """Where a set's code points begin and stop, ascending."""
    operation, argument = item
    if operation is sre.LITERAL and not flags & re.IGNORECASE:
        return np.array([argument, argument + 1])
    state = _parser.State()
    repeated = [(sre.MAX_REPEAT, (1, sre.MAXREPEAT, _parser.SubPattern(state, [item])))]
    matcher = _compiler.compile(_parser.SubPattern(state, repeated), flags)
    return np.array([match.span() for match in matcher.finditer(_all_characters())], np.int64).ravel()


@cache
def _all_characters() -> str:
    return np.arange(CODE_POINTS, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")


def _classes(sets: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64], list[list[bool]]]:
    """Intervals of code points and the class of each, by the sets that they are in; and whether each set has each
    class."""
    first = np.unique(np.concatenate([np.zeros(1, np.int64), *sets]))
    first = first[first < CODE_POINTS]
    within = [np.searchsorted(bounds, first, "right") % 2 == 1 for bounds in sets]
    members, kind = np.unique(np.array(within), axis=1, return_inverse=True)
    return first, kind.ravel(), members.tolist()


_Around: TypeAlias = "tuple[bool, ...] | None"
"""Whether a character is a newline, and part of a word by Unicode and by ASCII; None: there is none."""
_State: TypeAlias = tuple[frozenset[tuple[int, int]], _Around]
"""Places, each with what may follow: see `_ANYTHING`; and the character before, if anything tests it."""

_ANYTHING, _NEWLINE, _NOTHING = range(3)
"""What may follow a place where `$` was passed before the last newline: that newline alone, then nothing."""


class _Walk:
    """Sets of places as states (Rabin & Scott 1959)."""

    def __init__(self, places: _Places, members: list[list[bool]]) -> None:
        self._places = places
        self._members = members
        self._has_tests = any(places.tests)
        self._closed: dict[tuple[tuple[int, int], ...], frozenset[tuple[int, int]]] = {}
        count = len(members[0])
        self._around: list[_Around] = [None] * count
        if self._has_tests:
            self._around = [tuple(members[number][kind] for number in places.around) for kind in range(count)]
        self.start: _State = (self._close(((0, _ANYTHING),)), None)

    def step(self, state: _State) -> list[_State | None]:
        """The states after a character of each class."""
        reading: dict[_Around, list[tuple[int, int, int]]] = {}
        targets: list[_State | None] = []
        for kind, around in enumerate(self._around):
            if around not in reading:
                passed = self._pass_tests(state, around) if self._has_tests else state[0]
                reading[around] = [
                    (number, target, rest)
                    for place, rest in passed
                    for number, target in self._places.reads[place]
                    if rest == _ANYTHING or (rest == _NEWLINE and around and around[0])
                ]
            after = tuple(
                (target, _NOTHING if rest else _ANYTHING)
                for number, target, rest in reading[around]
                if self._members[number][kind]
            )
            targets.append((self._close(after), around) if after else None)
        return targets

    def is_final(self, state: _State) -> bool:
        passed = self._pass_tests(state, None) if self._has_tests else state[0]
        return any(place == self._places.end and rest != _NEWLINE for place, rest in passed)

    def _close(self, places: tuple[tuple[int, int], ...]) -> frozenset[tuple[int, int]]:
        """All that steps lead to, without the places that have nothing but steps."""
        if places not in self._closed:
            found = set(places)
            left = list(found)
            while left:
                place, rest = left.pop()
                new = {(target, rest) for target in self._places.steps[place]} - found
                found |= new
                left += new
            reads, tests, end = self._places.reads, self._places.tests, self._places.end
            self._closed[places] = frozenset(
                each for each in found if reads[each[0]] or tests[each[0]] or each[0] == end
            )
        return self._closed[places]

    def _pass_tests(self, state: _State, after: _Around) -> frozenset[tuple[int, int]]:
        """With all places that tests lead to, between the character before and the one after."""
        found, before = state
        left = list(found)
        while left:
            place, rest = left.pop()
            for anchor, is_ascii, target in self._places.tests[place]:
                if not _holds(anchor, is_ascii, before, after):
                    continue
                is_before_newline = anchor is _Anchor.LAST_LINE_END and after is not None
                new = self._close(((target, (rest or _NEWLINE) if is_before_newline else rest),)) - found
                found |= new
                left += new
        return found


def _holds(anchor: _Anchor, is_ascii: bool, before: _Around, after: _Around) -> bool:
    """Whether an anchor matches between two characters; before a newline the last one, too."""
    is_word = [around is not None and around[1 + is_ascii] for around in (before, after)]
    # In a text without characters Python finds neither a boundary nor a place that is none.
    is_empty = before is None and after is None
    return {
        _Anchor.START: before is None,
        _Anchor.LINE_START: before is None or before[0],
        _Anchor.END: after is None,
        _Anchor.LINE_END: after is None or after[0],
        _Anchor.LAST_LINE_END: after is None or after[0],
        _Anchor.BOUNDARY: not is_empty and is_word[0] != is_word[1],
        _Anchor.NO_BOUNDARY: not is_empty and is_word[0] == is_word[1],
    }[anchor]
