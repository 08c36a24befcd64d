"""What a column holds, counted in bounded memory and in any order: what a job left open is found in it.

>>> first = ColumnSummary.of("age", None, pa.int64()).add(pa.array([17, 90, None]), first_row=0)
>>> both = first + ColumnSummary.of("age", None, pa.int64()).add(pa.array([17]), first_row=3)
>>> both.rows, both.nulls, both.counts()
(4, 1, (<pyarrow.lib.Int64Array object at ...>
[
  17,
  90
], array([2, 1])))

Sums are the same whatever the order of the parts and wherever they were cut: values are counted exactly while there
are few distinct ones, the ends are exact always, and the rows of the sample are chosen by their numbers.
"""

# pyarrow.compute makes its functions when it is imported, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from runner.config.fields import FieldConfig
from runner.data.schema.moment_texts import format_of
from runner.data.schema.outside import Declared
from runner.data.schema.reading import (
    FINER,
    TEXT,
    is_missing,
    is_numeric,
    places_of,
    plain_type,
    to_numbers,
    written_types,
)
from runner.data.splitmix import GOLDEN_GAMMA, mix_bits_64
from runner.data.texts import NoTextError, find_invalid, to_texts
from runner.errors import DataError

MOST_VALUES = 100_000
"""Distinct values that are counted, and the bytes of texts that they may have together."""
MOST_BYTES = 32 << 20
SAMPLE_ROWS = 32_768
SAMPLE_CHARACTERS = 1_024
"""Texts in the sample are cut there."""
NO_BOUND = np.uint64(2**64 - 1)
ENDS = 10
"""So many of the smallest and of the largest values are kept: the last of them is no single record's."""
EXAMPLES = 3

Counts = tuple[pa.Array, NDArray[np.int64]]
Numbers: TypeAlias = NDArray[Any]
"""int64 or float64."""


@dataclass(frozen=True)
class Ends:
    """Of numbers of one type: the `ENDS` smallest and largest, in ascending order, and how many have which place.

    `places`: see `runner.data.schema.reading.places_of`.
    """

    least: Numbers
    largest: Numbers
    places: NDArray[np.int64]

    @classmethod
    def of(cls, numbers: Numbers, counts: NDArray[np.int64], kind: pa.DataType) -> Ends:
        """Of distinct numbers and how often each is there."""
        order = np.argsort(numbers, kind="stable")
        few, repeats = numbers[order], np.minimum(counts[order], ENDS)
        return cls(
            np.repeat(few[:ENDS], repeats[:ENDS])[:ENDS],
            np.repeat(few[-ENDS:], repeats[-ENDS:])[-ENDS:],
            np.bincount(places_of(numbers, kind), counts, FINER + 1).astype(np.int64),
        )

    def __add__(self, other: Ends) -> Ends:
        return Ends(
            np.sort(np.concatenate([self.least, other.least]))[:ENDS],
            np.sort(np.concatenate([self.largest, other.largest]))[-ENDS:],
            self.places + other.places,
        )


@dataclass(frozen=True)
class Sample:
    """`SAMPLE_ROWS` values, those of the rows whose scrambled numbers are the smallest; more until it is trimmed.

    `bound`: rows of larger ones are not among them.
    """

    keys: NDArray[np.uint64]
    values: pa.Array
    bound: np.uint64 = NO_BOUND

    def __add__(self, other: Sample) -> Sample:
        both = Sample(
            np.concatenate([self.keys, other.keys]),
            pa.concat_arrays([self.values, other.values]),
            min(self.bound, other.bound),
        )
        return both.trimmed() if len(both.keys) > 2 * SAMPLE_ROWS else both

    def trimmed(self) -> Sample:
        """The sample itself, in the order of the keys."""
        order = np.argsort(self.keys)[:SAMPLE_ROWS]
        keys = self.keys[order]
        bound = keys[-1] if len(keys) == SAMPLE_ROWS else self.bound
        return Sample(keys, self.values.take(pa.array(order)), bound)


@dataclass(frozen=True)
class ColumnSummary:
    """Of the rows so far. `kind`: the column's type; `field`: its declaration in the job, None where there is none.

    `rows`, of which `nulls` are null and `not_numbers` NaN or infinite. `outside`: those that the declaration rules
    out, with the first few by their texts. `empty`: texts that say that there is no value. `longest`: bytes of a text.
    `ends`: of a column of numbers, dates or moments; of texts, under each type as which all so far are written.
    """

    name: str
    field: FieldConfig | None
    kind: pa.DataType
    rows: int = 0
    nulls: int = 0
    not_numbers: int = 0
    outside: int = 0
    outside_examples: tuple[str, ...] = ()
    empty: int = 0
    longest: int = 0
    format: str | None = None
    ends: dict[pa.DataType, Ends] = dataclasses.field(default_factory=dict)
    exact: Counts | None = None
    sample: Sample = dataclasses.field(repr=False, kw_only=True)

    @classmethod
    def of(cls, name: str, field: FieldConfig | None, kind: pa.DataType) -> ColumnSummary:
        """Of no rows yet.

        Raises:
            DataError: a field cannot hold such a column.
        """
        values = pa.array([], _counted_type(kind))
        try:
            to_texts(pa.array([], kind))
        except (NoTextError, pa.ArrowException):
            raise DataError(
                f"column {name} is {kind}, which no field can hold; leave it out, or store it flat"
            ) from None
        none = np.zeros(0, np.int64)
        return cls(name, field, kind, exact=(values, none), sample=Sample(none.astype(np.uint64), values))

    @property
    def values(self) -> int:
        """Rows that have a value."""
        return self.rows - self.nulls - self.not_numbers

    @property
    def filled(self) -> int:
        """Those that are no texts for a missing value."""
        return self.values - self.empty

    @property
    def counted_type(self) -> pa.DataType:
        """The type of values in counts and sample: int64 or float64 (see `reading.to_numbers`), or large strings."""
        return self.sample.values.type

    def counts(self) -> Counts | None:
        """The distinct values in their order and how many rows have each; None where they are too many to count."""
        if self.exact is None:
            return None
        values, counts = self.exact
        order = pc.sort_indices(values)
        return values.take(order), counts[order.to_numpy()]

    def sampled(self) -> Counts:
        """The same of the sample."""
        return _counted([self.sample.trimmed().values], None)

    def add(self, column: pa.Array, first_row: int) -> ColumnSummary:
        """With these rows, too; `first_row` is the number of the first one among all rows of all files.

        Raises:
            DataError: a value that cannot be read: bytes that are no UTF-8, a day that no calendar has.
        """
        if not len(column):
            return self
        try:
            return self + self._of_rows(column, first_row)
        except NoTextError as error:
            raise DataError(f"column {self.name} {error}; leave it out, or make it kind id") from None

    def __add__(self, other: ColumnSummary) -> ColumnSummary:
        if not self.filled or not other.filled:
            ends, form = (self.ends, self.format) if self.filled else (other.ends, other.format)
        else:
            kinds = [kind for kind in self.ends if kind in other.ends]
            if self.format != other.format:
                kinds = [kind for kind in kinds if not pa.types.is_temporal(kind)]
            ends, form = {kind: self.ends[kind] + other.ends[kind] for kind in kinds}, self.format
        return replace(
            self,
            rows=self.rows + other.rows,
            nulls=self.nulls + other.nulls,
            not_numbers=self.not_numbers + other.not_numbers,
            outside=self.outside + other.outside,
            outside_examples=tuple(sorted({*self.outside_examples, *other.outside_examples})[:EXAMPLES]),
            empty=self.empty + other.empty,
            longest=max(self.longest, other.longest),
            format=form,
            ends=ends,
            exact=_added(self.exact, other.exact),
            sample=self.sample + other.sample,
        )

    def _of_rows(self, column: pa.Array, first_row: int) -> ColumnSummary:
        is_text = self.counted_type == TEXT
        counted = to_texts(column) if is_text else to_numbers(column)
        distinct, counts = _counted([counted.drop_null()], None)
        declared = Declared.of(self.field, self.kind)
        is_outside = declared.outside(distinct)
        examples = declared.to_texts(distinct.filter(pa.array(is_outside)))
        return replace(
            self._of_texts(distinct, counts) if is_text else self._of_numbers(distinct, counts),
            rows=len(column),
            nulls=column.null_count,
            not_numbers=counted.null_count - column.null_count,
            outside=int(counts[is_outside].sum()),
            outside_examples=tuple(sorted(examples.to_pylist())[:EXAMPLES]),
            exact=_bounded((distinct, counts)),
            sample=self._sampled(counted, first_row),
        )

    def _of_numbers(self, distinct: pa.Array, counts: NDArray[np.int64]) -> ColumnSummary:
        kind = plain_type(self.kind)
        return replace(self, ends={kind: Ends.of(distinct.to_numpy(), counts, kind)})

    def _of_texts(self, distinct: pa.Array, counts: NDArray[np.int64]) -> ColumnSummary:
        """Under each type that may still be the column's: one that failed before is not tried again."""
        if find_invalid(distinct).any():
            raise NoTextError("holds bytes that are not valid UTF-8")
        sizes = pc.binary_length(distinct).to_numpy()
        filled = ~is_missing(distinct)
        values = distinct.filter(pa.array(filled))
        written = written_types(values) if self.ends or not self.filled else {}
        return replace(
            self,
            empty=int(counts[~filled].sum()),
            longest=int(sizes.max(initial=0)),
            format=format_of(values[0].as_py()) if len(values) else None,
            ends={kind: Ends.of(numbers.to_numpy(), counts[filled], kind) for kind, numbers in written.items()},
        )

    def _sampled(self, counted: pa.Array, first_row: int) -> Sample:
        """The rows of a batch that may be in the sample."""
        numbers = np.arange(first_row + 1, first_row + 1 + len(counted), dtype=np.uint64)
        keys = mix_bits_64(numbers * GOLDEN_GAMMA)
        chosen = counted.is_valid().to_numpy(zero_copy_only=False) & (keys <= self.sample.bound)
        values = counted.filter(pa.array(chosen))
        if self.counted_type == TEXT:
            values = pc.utf8_slice_codeunits(values, 0, SAMPLE_CHARACTERS)
        return Sample(keys[chosen], values)


def _counted_type(kind: pa.DataType) -> pa.DataType:
    plain = plain_type(kind)
    if not is_numeric(plain):
        return TEXT
    return pa.float64() if pa.types.is_floating(plain) else pa.int64()


def _counted(values: list[pa.Array], counts: list[NDArray[np.int64]] | None) -> Counts:
    """The distinct ones and how often each is there; `counts`: how often each of the `values` is."""
    encoded = pa.concat_arrays(values).dictionary_encode()
    weights = None if counts is None else np.concatenate(counts)
    found = np.bincount(encoded.indices.to_numpy(), weights, len(encoded.dictionary))
    return encoded.dictionary, found.astype(np.int64)


def _added(one: Counts | None, other: Counts | None) -> Counts | None:
    if one is None or other is None:
        return None
    if not len(one[0]) or not len(other[0]):
        return one if len(one[0]) else other
    return _bounded(_counted([one[0], other[0]], [one[1], other[1]]))


def _bounded(counts: Counts) -> Counts | None:
    values = counts[0]
    if len(values) > MOST_VALUES:
        return None
    size = pc.sum(pc.binary_length(values)).as_py() if values.type == TEXT else 0
    return None if (size or 0) > MOST_BYTES else counts
