"""The texts of the numbers between two bounds, digit by digit.

- decimals in ASCII digits: a sign or none, zeros in front or none, a point or none (`5`, `-0.50`, `.5`, `+007.`);
- scientific notation with one digit before the point, and not zero (`1e-05`, `-2.5E+16`).

Of what else Python reads as a number, other digits than ASCII's and such as `12e3` and `0.1e1` are left out. A bound is
the decimal that it is written as (0.3, not the binary fraction beside it): as rounding keeps the order, a text between
two bounds is read as a number between them.

>>> numbers_between(0, 20).following.shape  # states, classes of characters
(39, 21)
"""

from __future__ import annotations

import sys
from decimal import Decimal
from typing import NamedTuple, Protocol

import numpy as np

from runner.generation.language import CharacterLanguage, explore

MOST_DIGITS = 40
"""Before the point, where a bound is missing: more than Arrow's decimals of 128 bits have."""
MOST_EXPONENT = 999
"""Of a number close to zero, where zero is in range."""

_CHARACTERS = "+-.Ee0123456789"


def numbers_between(least: float | None, largest: float | None) -> CharacterLanguage:
    """The texts of the numbers in [least, largest]; None: no bound on this side."""
    codes = [ord(character) for character in _CHARACTERS]
    first = np.unique([0, *codes, *(code + 1 for code in codes)])
    characters = [chr(code) if code in codes else None for code in first]

    def step(state: _State) -> list[_State | None]:
        return [state.read(character) if character else None for character in characters]

    low, high = (None if bound is None else Decimal(repr(float(bound))) for bound in (least, largest))
    start: _State = _Start(_Bounds(low, high), _Bounds(_negative(high), _negative(low)))
    following, final = explore(start, step, lambda state: state.is_number)
    return CharacterLanguage(first, np.arange(len(first)), following, final)


def _negative(bound: Decimal | None) -> Decimal | None:
    return None if bound is None else -bound


class _State(Protocol):
    """What was read of a number's text."""

    @property
    def is_number(self) -> bool: ...

    def read(self, character: str) -> _State | None:
        """The state after a character; None: no number in range begins so."""
        ...

    def __hash__(self) -> int: ...


class _Bounds(NamedTuple):
    """Of a number with its sign taken away."""

    low: Decimal | None
    high: Decimal | None

    def begin(self) -> _State | None:
        """Before the first digit or point."""
        if self.high is not None and self.high < 0:
            return None
        low = max(self.low or Decimal(0), Decimal(0))
        decimal = _Decimal(_digits(low), _digits(Decimal(10) ** MOST_DIGITS if self.high is None else self.high))
        high = Decimal(repr(sys.float_info.max)) if self.high is None else self.high
        return _Either(decimal, _Mantissa(low, high) if high else None)


class _Start(NamedTuple):
    """Nothing yet. `positive`, `negative`: the bounds with and without a minus sign."""

    positive: _Bounds
    negative: _Bounds
    is_number: bool = False

    def read(self, character: str) -> _State | None:
        if character in "+-":
            return (self.negative if character == "-" else self.positive).begin()
        positive = self.positive.begin()
        return positive and positive.read(character)


class _Either(NamedTuple):
    """Two ways to go on, one of which may have ended."""

    decimal: _State | None
    scientific: _State | None

    @property
    def is_number(self) -> bool:
        return any(way is not None and way.is_number for way in self)

    def read(self, character: str) -> _State | None:
        decimal, scientific = (way and way.read(character) for way in self)
        return _Either(decimal, scientific) if decimal or scientific else None


class _Decimal(NamedTuple):
    """Digits and a point, compared with those of the bounds: each the digits before its point and behind it.

    `place`: how many digits were read, without zeros in front, before the point; how many behind it once `has_point`.
    `low`, `high`: -1, 0 or 1, whether these are less than as many of the bound's, the same or more.
    """

    low_digits: tuple[str, str]
    high_digits: tuple[str, str]
    place: int = 0
    low: int = 0
    high: int = 0
    has_point: bool = False
    has_digit: bool = False
    is_whole: bool = False
    """No point may follow."""

    @property
    def is_number(self) -> bool:
        whole = self if self.has_point else self._end_whole()
        return self.has_digit and whole is not None and (whole.low > 0 or whole.place >= len(self.low_digits[1]))

    def read(self, character: str) -> _Decimal | None:
        if character == ".":
            return None if self.has_point or self.is_whole else self._end_whole()
        if not character.isdigit():
            return None
        if self.has_point:
            return self._read_fraction(character)
        if character == "0" and not self.place:
            return self._replace(has_digit=True)
        if self.place == len(self.high_digits[0]):
            return None
        return self._replace(
            place=self.place + 1,
            low=self.low or _compare(character, self.low_digits[0], self.place),
            high=self.high or _compare(character, self.high_digits[0], self.place),
            has_digit=True,
        )._settled()

    def _settled(self) -> _Decimal:
        return self._replace(low=1) if self.place > len(self.low_digits[0]) else self

    def _end_whole(self) -> _Decimal | None:
        low = -1 if self.place < len(self.low_digits[0]) else self.low
        high = -1 if self.place < len(self.high_digits[0]) else self.high
        return None if low < 0 or high > 0 else self._replace(place=0, low=low, high=high, has_point=True)

    def _read_fraction(self, digit: str) -> _Decimal | None:
        low = self.low or _compare(digit, self.low_digits[1], self.place)
        high = self.high or _compare(digit, self.high_digits[1], self.place)
        if low < 0 or high > 0:
            return None
        behind = max(len(self.low_digits[1]), len(self.high_digits[1]))
        place = 0 if low and high else min(self.place + 1, behind)
        return self._replace(place=place, low=low, high=high, has_digit=True)


class _Mantissa(NamedTuple):
    """A digit other than zero, perhaps a point and more digits; compared with the digits of the bounds as above."""

    lower: Decimal
    upper: Decimal
    place: int = 0
    low: int = 0
    high: int = 0
    has_point: bool = False
    is_number: bool = False

    def read(self, character: str) -> _State | None:
        if character in "eE":
            return self._end() if self.place else None
        if character == ".":
            return self._replace(has_point=True) if self.place and not self.has_point else None
        if not character.isdigit() or (self.place and not self.has_point) or (character == "0" and not self.place):
            return None
        lower, upper = _significant(self.lower), _significant(self.upper)
        low = self.low or _compare(character, lower, self.place)
        high = self.high or _compare(character, upper, self.place)
        place = 1 if low and high else min(self.place + 1, max(len(lower), len(upper)))
        return self._replace(place=place, low=low, high=high)

    def _end(self) -> _State | None:
        highest = self.upper.adjusted() - (self.high > 0)
        lowest = -MOST_EXPONENT
        if self.lower:
            reaches = self.low > 0 or (self.low == 0 and self.place >= len(_significant(self.lower)))
            lowest = self.lower.adjusted() + (not reaches)
        return _Exponent(lowest, highest) if lowest <= highest else None


class _Exponent(NamedTuple):
    """Nothing of an exponent yet."""

    lowest: int
    highest: int
    is_number: bool = False

    def read(self, character: str) -> _State | None:
        if character not in "+-":
            return (positive := self.read("+")) and positive.read(character)
        low, high = (self.lowest, self.highest) if character == "+" else (-self.highest, -self.lowest)
        if high < 0:
            return None
        return _Decimal(_digits(Decimal(max(low, 0))), _digits(Decimal(high)), is_whole=True)


def _digits(number: Decimal) -> tuple[str, str]:
    """The digits before the point and behind it, without zeros around."""
    whole, _, fraction = f"{number:f}".partition(".")
    return whole.lstrip("-0"), fraction.rstrip("0")


def _significant(number: Decimal) -> str:
    """The digits without zeros around."""
    return "".join(map(str, number.as_tuple().digits)).strip("0")


def _compare(digit: str, digits: str, place: int) -> int:
    """Whether a digit is less than the one at its place, the same or more: -1, 0 or 1."""
    other = digits[place] if place < len(digits) else "0"
    return (digit > other) - (digit < other)
