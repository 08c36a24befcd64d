"""Whose a record is: a column's values as marks, and what a person's records are.

A *person* is a value of the column `privacy.unit`: whoever or whatever it names. Records without a value are nobody's.

    marks = mark_persons(person_texts(column).drop_null(), key)   # (n, 16) bytes, stored beside the tokens
    persons = Persons.of(marks)                                    # numbered in the order in which they first occur
    persons.draw(np.array([0, 7]), step=3, most=2, key=(1, 2))     # (2, 2) positions of records, -1 for none

A mark is an HMAC, with a secret of the storage: a plain digest would tell whoever has a guess at a customer's number
whether it occurs.

    >>> Persons(np.array([0, 1, 0, 0, 1])).draw(np.array([1, 0]), 0, 3, (1, 2)).tolist()
    [[1, 4, -1], [0, 2, 3]]
"""

# pyarrow.compute makes its functions when it is imported, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types

from runner.data.texts import is_string, to_texts

MARK_BYTES = 16
DRAW_RECORDS = 1
"""In the counter of a generator: what tells the draw of a person's records from that of a step's persons."""


def person_family(kind: pa.DataType) -> str | None:
    """What columns of a person must have in common for their values to be compared; None for a column of nulls.

    Whole numbers, decimals and floats are compared as numbers, and texts as texts; other types with their own alone.

    >>> person_family(pa.int32()) == person_family(pa.float64()), person_family(pa.date32())
    (True, 'date32[day]')
    """
    if isinstance(kind, pa.DictionaryType):
        return person_family(kind.value_type)
    if types.is_null(kind):
        return None
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "number"
    if is_string(kind):
        return "text"
    return str(kind)


def person_texts(column: pa.Array) -> pa.Array:
    """One text for each person (large strings), whatever the column's type in a file; null where there is none.

    Numbers are the same person where they are equal: 5, 5.0 and 5.00. NaN is no person, nor is an empty text, which
    stands for no value in CSV files.

    Raises:
        NoTextError: the type has no text, or a value has none.
    """
    kind = column.type
    if isinstance(kind, pa.DictionaryType):
        return person_texts(column.dictionary).take(column.indices)
    if types.is_floating(kind):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
    texts = to_texts(column)
    if person_family(kind) == "text":
        return pc.if_else(pc.equal(pc.binary_length(texts), 0), pa.scalar(None, texts.type), texts)
    if person_family(kind) != "number":
        return texts
    plain = pc.replace_substring_regex(texts, r"^(-?\d+\.\d*?)0+$", r"\1")
    plain = pc.replace_substring_regex(plain, r"\.$", "")
    return pc.replace_substring_regex(plain, "^-0$", "0")


def mark_persons(texts: pa.Array, key: bytes) -> NDArray[np.uint8]:
    """(n, 16): the mark of each text; texts has no nulls."""
    encoded = texts.dictionary_encode()
    marks = b"".join(hmac.digest(key, each.as_buffer(), "sha256")[:MARK_BYTES] for each in encoded.dictionary)
    return _rows(marks)[encoded.indices.to_numpy()]


def number_persons(marks: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(n,): a number for each mark, from 0 in the order in which they first occur, whatever the key."""
    content = pa.py_buffer(np.ascontiguousarray(marks))
    column = pa.Array.from_buffers(pa.binary(MARK_BYTES), len(marks), [None, content])
    return column.dictionary_encode().indices.to_numpy().astype(np.int64)


def count_persons(marks: Iterable[NDArray[np.uint8]]) -> dict[int, int]:
    """How many persons have how many records, ascending."""
    numbers = number_persons(np.concatenate([np.zeros((0, MARK_BYTES), np.uint8), *marks]))
    return dict(sorted(Counter(np.bincount(numbers).tolist()).items()))


def persons_above(counts: Mapping[int, int], most: int) -> int:
    """How many persons have more records than `most`.

    >>> persons_above({1: 10, 3: 2, 9: 1}, 2)
    3
    """
    return sum(persons for records, persons in counts.items() if records > most)


@dataclass(frozen=True)
class Persons:
    """Whose each record is: `numbers` (n,), by position. All numbers below `count` occur."""

    numbers: NDArray[np.int64]

    @classmethod
    def of(cls, marks: NDArray[np.uint8]) -> Persons:
        """Of the marks (n, 16) of records, by position."""
        return cls(number_persons(marks))

    @property
    def count(self) -> int:
        """How many there are."""
        return self._counts.size

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        return np.bincount(self.numbers)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum(self._counts) - self._counts

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        """Positions by person, a person's own ascending."""
        return np.argsort(self.numbers, kind="stable")

    def first(self, persons: NDArray[np.int64], most: int) -> NDArray[np.int64]:
        """(P, most): the positions of each person's first records, -1 where there are no more."""
        within = np.arange(most)
        places = self._starts[persons][:, None] + within
        is_there = within < self._counts[persons][:, None]
        return np.where(is_there, self._order[np.where(is_there, places, 0)], -1)

    def draw(self, persons: NDArray[np.int64], step: int, most: int, key: tuple[int, int]) -> NDArray[np.int64]:
        """(P, most): the positions of up to `most` records of each person in a step of the run, -1 for none.

        Of a person with more, a subset that is drawn by (key, step, person) alone, every one as likely.
        """
        found = self.first(persons, most)
        for row in np.flatnonzero(self._counts[persons] > most):
            person = int(persons[row])
            bits = np.random.Philox(key=np.array(key, np.uint64), counter=[0, DRAW_RECORDS, person, step])
            chosen = np.random.Generator(bits).choice(self._counts[person], most, replace=False, shuffle=False)
            found[row] = self._order[self._starts[person] + np.sort(chosen)]
        return found

    def among_first(self, most: int) -> NDArray[np.bool_]:
        """(n,): which records are among the first `most` of their person: the same for all that is counted."""
        kept = np.zeros(self.numbers.size, bool)
        positions = self.first(np.arange(self.count), most)
        kept[positions[positions >= 0]] = True
        return kept


def _rows(marks: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(marks, np.uint8).reshape(-1, MARK_BYTES)
