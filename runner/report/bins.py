"""Columns of any Arrow type to a few bins, in which distributions of one, two and three columns are counted.

    >>> real = pa.chunked_array([[1.0, 2.0, 2.0, None]])
    >>> bins = find_bins(real)
    >>> bins.codes(real).tolist(), bins.codes(pa.chunked_array([[0.5, 9.0]])).tolist(), bins.size
    ([0, 1, 1, 2], [0, 1], 3)

The bins are those of mostlyai-qa (`_accuracy.py` of 1.10.11), so that figures agree with its: of numbers, dates and
times about ten ranges that hold as many real values each, of categories the ten most frequent values, each of at least
five records, then one bin for all others. Empty texts and nulls have bins of their own. Of free text a word of each
record, drawn at random, is the category; mostlyai-qa draws a token of GPT-2's.
"""

# pyarrow.compute makes its functions when it is imported, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types

from runner.data.texts import NoTextError, to_texts
from runner.report.table import find_kind, to_numbers

RANGES = 10
VALUES = 10
FEWEST_RECORDS = 5
"""A category has a bin of its own when so many real records hold it."""
UNIQUE_SHARE = 0.05
"""Texts are free texts when more than this share of the records hold one that no other holds."""
MOST_SEARCHES = 1_000
WORD = re.compile(r"\w+|[^\w\s]+")

Codes = NDArray[np.int64]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Bins:
    """The bins of a column: `codes` gives each value's (n,), from 0 to below `size`; the last one is for nulls."""

    size: int
    codes: Callable[[pa.ChunkedArray], Codes]


def find_bins(real: pa.ChunkedArray, seed: int = 0) -> Bins:
    """The bins of a column of real records, which synthetic values of the same type are put into.

    seed: of the words that are drawn from free texts.
    """
    kind = real.type.value_type if isinstance(real.type, pa.DictionaryType) else real.type
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return _ranges(real, _to_floats, moments=False)
    if types.is_temporal(kind):
        return _ranges(real, _to_moments, moments=True)
    texts = _to_texts(real)
    known = texts.drop_null()
    if find_kind(known.to_pylist()) == "number":
        return _ranges(texts, lambda column: _parse(_to_texts(column)), moments=False)
    counts = pc.value_counts(known)
    alone = pc.equal(counts.field("counts"), 1).true_count
    if alone > UNIQUE_SHARE * len(texts):
        return _categories(_words(texts, seed), lambda column: _words(_to_texts(column), seed))
    return _categories(texts, _to_texts)


def _ranges(real: pa.ChunkedArray, convert: Callable[[pa.ChunkedArray], Numbers], *, moments: bool) -> Bins:
    """Bins between breaks: a value counts to the last break that is not above it, those outside to the outermost."""
    numbers = convert(real)
    distinct = np.unique(numbers[~np.isnan(numbers)])
    if distinct.size <= RANGES and not moments:
        inner = distinct[1:]
    else:
        breaks = _find_breaks(np.sort(numbers[~np.isnan(numbers)]))
        inner = (breaks if moments else _round_down(breaks))[1:-1]
    size = inner.size + 2

    def codes(column: pa.ChunkedArray) -> Codes:
        found = convert(column)
        return np.where(np.isnan(found), size - 1, np.searchsorted(inner, found, "right"))

    return Bins(size, codes)


def _find_breaks(ordered: Numbers) -> Numbers:
    """The fewest evenly spaced quantiles of which more than `RANGES` differ, the lowest and highest value included."""
    breaks = ordered[:1]
    for count in range(RANGES, max(RANGES + 1, min(MOST_SEARCHES, ordered.size + 1))):
        places = np.linspace(0, ordered.size - 1, count).astype(int)
        breaks = np.unique(ordered[places]) if ordered.size else ordered
        if breaks.size > RANGES:
            break
    return breaks


def _round_down(breaks: Numbers) -> Numbers:
    """All but the last break with as few decimals as tell them apart."""
    with np.errstate(over="ignore", invalid="ignore"):
        for decimals in range(20):
            floors = np.floor(breaks * 10.0**decimals) / 10.0**decimals
            if np.unique(floors).size == breaks.size:
                return np.append(floors[:-1], breaks[-1:])
    return breaks


def _categories(real: pa.ChunkedArray, convert: Callable[[pa.ChunkedArray], pa.ChunkedArray]) -> Bins:
    """Bins of the most frequent values, then of empty texts, of all other values and of nulls."""
    counts = pc.value_counts(real).to_pylist()
    counts.sort(key=lambda entry: (-entry["counts"], entry["values"] is not None, entry["values"] or ""))
    frequent = [entry["values"] for entry in counts[:VALUES] if entry["counts"] >= FEWEST_RECORDS]
    levels = [*(value for value in frequent if value), ""]
    known = pa.array(levels, pa.large_string())

    def codes(column: pa.ChunkedArray) -> Codes:
        texts = convert(column)
        places = pc.fill_null(pc.index_in(texts, value_set=known), len(levels))
        return np.where(_missing(texts), len(levels) + 1, places.to_numpy()).astype(np.int64)

    return Bins(len(levels) + 2, codes)


def _missing(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    return column.is_null().to_numpy()


def _to_floats(column: pa.ChunkedArray) -> Numbers:
    """Numbers and booleans; nulls are not a number."""
    values = _plain(column)
    if types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    return values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)


def _to_moments(column: pa.ChunkedArray) -> Numbers:
    """Dates, times and durations in units of their own from where they count; nulls are not a number."""
    values = _plain(column)
    if types.is_date32(values.type) or types.is_time32(values.type):
        values = values.cast(pa.int32())
    return values.cast(pa.int64()).cast(pa.float64(), safe=False).to_numpy().astype(np.float64)


def _parse(texts: pa.ChunkedArray) -> Numbers:
    """Texts that are numbers, and not a number for others."""
    return to_numbers([text or "" for text in texts.to_pylist()])


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if isinstance(column.type, pa.DictionaryType) else column


def _to_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values as texts; nested ones, which have none, as Python writes them."""
    try:
        return pa.chunked_array([to_texts(chunk) for chunk in column.chunks], pa.large_string())
    except NoTextError:
        return pa.chunked_array(
            [[None if value is None else str(value) for value in column.to_pylist()]], pa.large_string()
        )


def _words(texts: pa.ChunkedArray, seed: int) -> pa.ChunkedArray:
    """A word or punctuation mark of each text; null where there is none."""
    draw = np.random.default_rng(seed).random(len(texts))
    found = (WORD.findall(text or "") for text in texts.to_pylist())
    drawn = [words[int(share * len(words))] if words else None for words, share in zip(found, draw, strict=True)]
    return pa.chunked_array([drawn], pa.large_string())
