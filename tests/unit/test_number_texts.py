"""The texts of numbers in a range: Python reads every one as a number in it, and plain ones are all there."""

from __future__ import annotations

import math
from decimal import Decimal
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.config import ColumnRule
from runner.generation.alphabet import Characters
from runner.generation.language import Language
from runner.generation.number_texts import MOST_DIGITS, numbers_between
from runner.generation.validators import value_rules
from tests.walks import draw_text, holds

LETTERS = "0123456789+-.eEx_inf "
WRITTEN = Characters(LETTERS)
bounds = (
    st.none()
    | st.integers(-1200, 1200).map(float)
    | st.floats(-1e6, 1e6)
    | st.floats(allow_nan=False, width=32).filter(math.isfinite)
)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[float | None, float | None]:
    low, high = draw(bounds), draw(bounds)
    return (high, low) if low is not None and high is not None and low > high else (low, high)


def numbers(bounds: tuple[float | None, float | None]) -> Language:
    return WRITTEN.spell_language(numbers_between(*bounds))


def is_valid(bounds: tuple[float | None, float | None], text: str) -> bool:
    """As the validator sees it."""
    return all(wrong(text) is None for wrong in value_rules(ColumnRule(range=bounds)))


def is_within(bounds: tuple[float | None, float | None], number: Decimal) -> bool:
    low, high = (
        Decimal(end) if bound is None else Decimal(repr(bound))
        for bound, end in zip(bounds, ("-1.7976931348623157e308", "1.7976931348623157e308"), strict=True)
    )
    return low <= number <= high


def near(bounds: tuple[float | None, float | None]) -> st.SearchStrategy[Decimal]:
    """Decimals of few digits, many of them close to a bound."""
    ends = [Decimal(repr(bound)) for bound in bounds if bound is not None]
    few = st.decimals(-2000, 2000, places=2) | st.integers(-2000, 2000).map(Decimal)
    if not ends:
        return few
    steps = st.sampled_from([Decimal(step).scaleb(-place) for step in (-1, 0, 1) for place in (0, 1, 2, 9)])
    return few | st.builds(lambda end, step: end + step, st.sampled_from(ends), steps)


@settings(max_examples=25, deadline=None)
@given(bounds=ranges(), seed=st.integers(0, 9))
def test_every_text_is_a_number_in_the_range(bounds: tuple[float | None, float | None], seed: int) -> None:
    language, random = numbers(bounds), Random(seed)
    for _ in range(20):
        text = "".join(LETTERS[symbol] for symbol in draw_text(language, random))
        assert is_valid(bounds, text), text


@settings(max_examples=60, deadline=None)
@given(data=st.data(), bounds=ranges())
def test_every_plain_decimal_is_there_when_it_is_in_the_range(
    data: st.DataObject, bounds: tuple[float | None, float | None]
) -> None:
    number = data.draw(near(bounds))
    plain = f"{abs(number):f}"
    sign = "-" if number.is_signed() else data.draw(st.sampled_from(["", "+"]))
    zeros = "0" * data.draw(st.integers(0, 2))
    point = "" if "." in plain else data.draw(st.sampled_from(["", ".", ".0"]))
    for text in {sign + zeros + plain + point, sign + plain.removeprefix("0") if "." in plain else sign + plain}:
        assert holds(numbers(bounds), WRITTEN.spell(text)) == is_within(bounds, number), text


@settings(max_examples=60, deadline=None)
@given(data=st.data(), bounds=ranges())
def test_every_float_is_there_as_python_writes_it(
    data: st.DataObject, bounds: tuple[float | None, float | None]
) -> None:
    language = numbers(bounds)
    number = data.draw(st.floats(allow_nan=False, allow_infinity=False) | near(bounds).map(float))
    for text in (repr(number), f"{number:.3e}", f"{number:E}"):
        if float(text):
            assert holds(language, WRITTEN.spell(text)) == is_within(bounds, Decimal(text)), text


@pytest.mark.parametrize(
    "text", ["", "-", ".", "-.", "e5", "1e", "1e+", "1.2.3", "--1", "1-", "inf", "nan", " 1", "1_0", "0x1"]
)
def test_other_texts_are_no_numbers(text: str) -> None:
    assert not is_valid((None, None), text)
    assert not holds(numbers((None, None)), WRITTEN.spell(text))


def test_a_number_without_bounds_is_finite_and_has_no_end_of_digits_behind_its_point() -> None:
    language = numbers((None, None))
    assert holds(language, WRITTEN.spell("9" * MOST_DIGITS + "." + "9" * 100))
    assert [holds(language, WRITTEN.spell(text)) for text in ("1.7e308", "-1.7e308", "1.8e308", "1e-400")] == [
        True,
        True,
        False,
        True,
    ]


def test_a_bound_is_the_decimal_that_it_is_written_as() -> None:
    assert Decimal.from_float(0.3) < Decimal("0.3")
    assert holds(numbers((0.3, 0.3)), WRITTEN.spell("0.30"))
    assert not holds(numbers((0.3, 0.3)), WRITTEN.spell("0.29999"))
