"""Values of a column as numbers that can be counted and ordered: by the column's type, or by how texts are written.

>>> to_numbers(pa.array(["0.50", "1.25"]).cast(pa.decimal128(10, 2))).to_pylist()  # in units of the type
[50, 125]
>>> [str(kind) for kind in written_types(pa.array(["77516", "83311"], pa.large_string()))]
['int64', 'double']

`runner import` makes every column one of texts. A text counts as a whole number, a date or a moment only where it is
written exactly as `runner.data.texts` writes that, so that reading and writing give it back: `007` is a text. Numbers
with decimals are written in more than one way in one column: pandas writes `3.0` beside `3.25`, others `3` beside
`3.50`, or with spaces around. They are read as floats, which are written with the fewest digits. Dates and
moments of one column may have a format of their own, see `moment_texts`. `MISSING` texts among numbers, dates and
moments are values that are missing.
"""

# pyarrow.compute makes its functions when it is imported, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types

from runner.data.schema.moment_texts import format_of, plain_moments
from runner.data.texts import NoTextError, to_texts

UNITS_A_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
MOST_DECIMALS = 18
FINER = MOST_DECIMALS + 1
"""The place of numbers with more decimals than that."""

DRIFT = 4
"""Units in the last place of a float that sums of such numbers may have lost."""

TEXT = pa.large_string()
DECIMAL = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
"""How a number is written, by one program or another."""
MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?")
"""What programs write where there is no number, date or moment."""


def plain_type(kind: pa.DataType) -> pa.DataType:
    """What a dictionary's or an extension type's values are."""
    if isinstance(kind, pa.Bool8Type):
        return pa.bool_()
    if isinstance(kind, pa.DictionaryType):
        return plain_type(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType) and not isinstance(kind, pa.UuidType):
        return plain_type(kind.storage_type)
    return kind


def is_numeric(kind: pa.DataType) -> bool:
    """Whether `to_numbers` takes values of this plain type. It does not take uint64, which int64 cannot hold."""
    if types.is_uint64(kind):
        return False
    if types.is_decimal(kind):
        return 0 <= kind.scale <= MOST_DECIMALS and not types.is_decimal256(kind)
    return types.is_integer(kind) or types.is_floating(kind) or types.is_date(kind) or types.is_timestamp(kind)


def to_numbers(column: pa.Array) -> pa.Array:
    """int64: whole numbers, decimals in units of their scale, days since 1970, moments in units of their type; float64
    for floats. What is no number (NaN, infinities) is null.

    Raises:
        NoTextError: a decimal has more digits than an int64, a date or moment is in no calendar.
    """
    kind = plain_type(column.type)
    values = column if kind.equals(column.type) else column.cast(kind)
    if types.is_float64(kind):
        return _finite(values)
    if types.is_floating(kind):
        return _finite(to_texts(values).cast(pa.float64()))  # 0.1, not 0.10000000149.
    if types.is_date(kind):
        return values.cast(pa.date32()).cast(pa.int32()).cast(pa.int64())
    if types.is_decimal(kind):
        try:
            return _rescaled(values.cast(pa.decimal128(38, kind.scale)), 0).cast(pa.int64())
        except pa.ArrowInvalid:
            raise NoTextError(f"is {kind} and holds a number of more than 18 digits") from None
    return values.cast(pa.int64())


def from_numbers(numbers: pa.Array, kind: pa.DataType) -> pa.Array:
    """Values of a plain type, of what `to_numbers` made of them."""
    if types.is_date(kind):
        return numbers.cast(pa.int32()).cast(pa.date32()).cast(kind)
    if types.is_decimal(kind):
        return _rescaled(numbers.cast(pa.decimal128(38, 0)), kind.scale).cast(kind)
    return numbers.cast(kind)


def written_types(texts: pa.Array) -> dict[pa.DataType, pa.Array]:
    """The types as whose values all texts (large strings without nulls) are written, and their numbers.

    Where there are several, the first has all of them as they are written.
    """
    found: dict[pa.DataType, pa.Array] = {}
    first = texts[0].as_py() if len(texts) else ""
    places = len(first.partition(".")[2].rstrip("Z"))
    moments = plain_moments(texts, format_of(first))
    candidates = [pa.int64(), pa.float64(), pa.date32(), pa.timestamp({3: "ms", 6: "us", 9: "ns"}.get(places, "s"))]
    if places:
        candidates.insert(1, pa.decimal128(MOST_DECIMALS, min(places, MOST_DECIMALS)))
    for kind in candidates:
        try:
            if types.is_floating(kind):
                bare = pc.utf8_trim_whitespace(texts)
                numbers = to_numbers(bare.cast(kind))
                is_written = not numbers.null_count and pc.all(pc.match_substring_regex(bare, DECIMAL)).as_py()
            else:
                plain = moments if types.is_temporal(kind) else texts
                numbers = to_numbers(plain.cast(kind))
                is_written = not plain.null_count and to_texts(from_numbers(numbers, kind)).equals(plain)
            if is_written:
                found[kind] = numbers
        except (pa.ArrowException, NoTextError):
            continue
    return found


def is_missing(texts: pa.Array) -> NDArray[np.bool_]:
    """(n,): which texts say that there is no value."""
    return pc.is_in(pc.utf8_trim_whitespace(texts), pa.array(MISSING, texts.type)).to_numpy(zero_copy_only=False)


def places_of(numbers: NDArray[np.int64] | NDArray[np.float64], kind: pa.DataType) -> NDArray[np.int64]:
    """How finely each number of a plain type is written.

    Floats and decimals: places after the point that it needs, `FINER` where 18 are not enough; 0.1 + 0.2, which is
    0.30000000000000004, needs one. Moments: 0 for midnight,
    1 for a full hour, then minute, second, millisecond, microsecond and nanosecond. 0 for all others.
    """
    if types.is_timestamp(kind):
        second = UNITS_A_SECOND[kind.unit]
        steps = [86_400 * second, 3_600 * second, 60 * second]
        steps += [second // part for part in (1, 10**3, 10**6, 10**9) if part <= second]
        return _first_that_divides(numbers, steps)
    if types.is_decimal(kind):
        return _first_that_divides(numbers, [10**place for place in range(kind.scale, -1, -1)])
    if not types.is_floating(kind):
        return np.zeros(len(numbers), np.int64)
    places = np.full(len(numbers), FINER, np.int64)
    left = np.arange(len(numbers))
    for place in range(MOST_DECIMALS + 1):
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = np.round(numbers[left] * 10.0**place)
        near = np.abs(scaled / 10.0**place - numbers[left]) <= DRIFT * np.spacing(np.abs(numbers[left]))
        fits = near & (np.abs(scaled) < 2**53)
        places[left[fits]] = place
        left = left[~fits]
    whole = np.round(numbers[left]) == numbers[left]
    places[left[whole]] = 0
    return places


def _first_that_divides(numbers: NDArray[np.int64] | NDArray[np.float64], steps: list[int]) -> NDArray[np.int64]:
    places = np.full(len(numbers), len(steps) - 1, np.int64)
    for place in reversed(range(len(steps))):
        places[numbers % steps[place] == 0] = place
    return places


def _finite(values: pa.Array) -> pa.Array:
    """Without NaN and infinities, and with one zero."""
    return pc.if_else(pc.is_finite(values), pc.add(values, 0.0), pa.scalar(None, pa.float64()))


def _rescaled(values: pa.Array, scale: int) -> pa.Array:
    """The same digits with the point elsewhere."""
    return pa.Array.from_buffers(
        pa.decimal128(38, scale), len(values), values.buffers(), values.null_count, values.offset
    )
