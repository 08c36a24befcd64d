"""Whose a record is: marks that compare as values do, and which of a person's records a step has."""

from __future__ import annotations

import uuid
from collections import Counter
from datetime import UTC, date, datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from runner.data.persons import (
    Persons,
    count_persons,
    mark_persons,
    number_persons,
    person_family,
    person_texts,
    persons_above,
)

KEY = b"a secret of the storage".ljust(32, b".")


def marks_of(column: pa.Array, key: bytes = KEY) -> NDArray[np.uint8]:
    return mark_persons(person_texts(column).drop_null(), key)


COLUMNS = [
    pa.array(["a", "b", None, "a"]),
    pa.array(["a", "b", None, "a"], pa.large_string()),
    pa.array(["a", "b", None, "a"], pa.string_view()),
    pa.array(["a", "b", None, "a"]).dictionary_encode(),
    pa.array([7, 8, None, 7], pa.int8()),
    pa.array([7, 2**63, None, 7], pa.uint64()),
    pa.array([0.5, -1e300, None, 0.5]),
    pa.array([Decimal("1.10"), Decimal("2.00"), None, Decimal("1.10")]),
    pa.array([b"a", b"\xff", None, b"a"]),
    pa.array([True, False, None, True]),
    pa.array([date(2024, 1, 1), date(2024, 1, 2), None, date(2024, 1, 1)]),
    pa.array(
        [datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC), None, datetime(2024, 1, 1, tzinfo=UTC)]
    ),
    pa.ExtensionArray.from_storage(
        pa.uuid(), pa.array([uuid.UUID(int=n).bytes if n else None for n in (1, 2, 0, 1)], pa.binary(16))
    ),
]


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: str(column.type))
def test_values_of_any_type_are_one_person_where_they_are_equal(column: pa.Array) -> None:
    assert person_texts(column).is_null().to_pylist() == [False, False, True, False]
    assert number_persons(marks_of(column)).tolist() == [0, 1, 0]


WHOLE = st.integers(-(2**53), 2**53)


@given(st.lists(WHOLE, min_size=1, max_size=20))
def test_a_number_is_the_same_person_in_every_type_of_number(values: list[int]) -> None:
    """A file whose column has nulls gives pandas floats."""
    columns = [
        pa.array(values, pa.int64()),
        pa.array([float(value) for value in values]),
        pa.array([Decimal(value) for value in values], pa.decimal128(38, 4)),
        pa.array(values, pa.int64()).dictionary_encode(),
    ]
    expected, *others = [marks_of(column).tolist() for column in columns]
    assert all(found == expected for found in others)
    assert len({tuple(mark) for mark in expected}) == len(set(values))


@given(st.lists(st.one_of(st.floats(allow_nan=False, allow_infinity=False), WHOLE.map(float)), max_size=20))
def test_different_floats_are_different_persons(values: list[float]) -> None:
    assert len({bytes(mark) for mark in marks_of(pa.array(values, pa.float64()))}) == len(set(values))


def test_no_value_and_not_a_number_are_nobody() -> None:
    assert person_texts(pa.array([float("nan"), None, 1.0])).to_pylist() == [None, None, "1"]
    assert person_texts(pa.array([None, None])).null_count == 2
    for kind in (pa.string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())):
        assert person_texts(pa.array(["", " ", None, "a"]).cast(kind)).to_pylist() == [None, " ", None, "a"]


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        (pa.int8(), pa.float32(), True),
        (pa.string(), pa.dictionary(pa.int32(), pa.large_string()), True),
        (pa.string(), pa.int64(), False),
        (pa.timestamp("ms"), pa.timestamp("us"), False),
        (pa.binary(), pa.string(), False),
    ],
)
def test_columns_of_different_files_are_compared_only_where_their_values_can_be(
    one: pa.DataType, two: pa.DataType, same: bool
) -> None:
    assert (person_family(one) == person_family(two)) == same


def test_a_mark_tells_nothing_without_the_secret() -> None:
    column = pa.array(["4711"])
    (mark,) = marks_of(column)
    assert mark.size == 16
    assert bytes(mark) not in (sha256(b"4711").digest()[:16], sha256(KEY + b"4711").digest()[:16])
    assert bytes(mark) != bytes(marks_of(column, KEY[::-1])[0])
    assert b"4711" not in bytes(mark)


OWNERS = st.lists(st.integers(0, 5), min_size=1, max_size=40)


@given(OWNERS)
def test_persons_are_counted_by_their_records(owners: list[int]) -> None:
    marks = marks_of(pa.array(owners))
    counts = count_persons([marks[:3], marks[3:]])
    expected = Counter(Counter(owners).values())
    assert counts == expected
    for most in range(5):
        assert persons_above(counts, most) == sum(n for records, n in expected.items() if records > most)


@given(OWNERS, st.integers(1, 4), st.integers(0, 3))
def test_a_drawn_person_brings_records_of_his_own_and_no_more_than_the_bound(
    owners: list[int], most: int, step: int
) -> None:
    persons = Persons.of(marks_of(pa.array(owners)))
    everyone = np.arange(persons.count)
    for positions in (persons.draw(everyone, step, most, (1, 2)), persons.first(everyone, most)):
        assert positions.shape == (persons.count, most)
        for person, row in enumerate(positions.tolist()):
            own = [position for position, number in enumerate(persons.numbers) if number == person]
            found = [position for position in row if position >= 0]
            assert len(found) == len(set(found)) == min(len(own), most)
            assert set(found) <= set(own)
    kept = persons.among_first(most)
    assert np.bincount(persons.numbers[kept]).max() <= most
    assert kept.sum() == sum(min(count, most) for count in np.bincount(persons.numbers))


def draw(persons: Persons, numbers: list[int], step: int = 0, key: tuple[int, int] = (1, 2)) -> list[Any]:
    return persons.draw(np.array(numbers), step, 2, key).tolist()


def test_which_records_a_step_has_depends_on_key_step_and_person_alone() -> None:
    one = Persons(np.repeat(np.arange(3), 40))
    assert draw(one, [0, 1, 2])[::-1] == draw(one, [2, 1, 0])
    assert draw(one, [1]) != draw(one, [1], step=1)
    assert draw(one, [1]) != draw(one, [1], key=(1, 3))
    within = [np.array(each) - 40 * number for number, each in enumerate(draw(one, [0, 1, 2]))]
    assert len({tuple(each.tolist()) for each in within}) > 1, "each person has a draw of his own"


def test_every_subset_of_a_person_s_records_is_as_likely() -> None:
    persons, steps = Persons(np.zeros(5, np.int64)), 4000
    seen = Counter(tuple(draw(persons, [0], step)[0]) for step in range(steps))
    assert len(seen) == 10
    expected = steps / 10
    assert sum((count - expected) ** 2 / expected for count in seen.values()) < 28  # chi-squared, 9 degrees: 1e-3
