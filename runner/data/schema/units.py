"""Numbers as whole units of 10^-decimals, and back to the type that they have.

>>> to_units(pa.array([0.1, None, 12.345]), 2)
(array([  10,    0, 1234]), array([False, False, False]))
>>> from_units(np.array([10, 1234]), 2, pa.float32()).to_pylist()
[0.10000000149011612, 12.34000015258789]
"""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types

from runner.config.fields import LARGEST_UNITS
from runner.data.schema.codec import Mask

LARGEST_OF_FLOATS = 2**53
"""Units that a double still tells apart."""
BEYOND = LARGEST_UNITS + 1
"""Stands for all numbers of more units than there may be."""
DECIMALS_OF_FLOATS = 18


def is_number(kind: pa.DataType) -> bool:
    """Whether it has units."""
    return types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)


def most_decimals(kind: pa.DataType) -> int:
    """Places after the point that a type has, below 0 where it has none and not all before it."""
    return 0 if types.is_integer(kind) else kind.scale if types.is_decimal(kind) else DECIMALS_OF_FLOATS


def largest_units(kind: pa.DataType, decimals: int) -> tuple[int, int]:
    """The least and the largest number of units that a type has."""
    if types.is_floating(kind):
        most = min(int(np.finfo(kind.to_pandas_dtype()).max) * 10**decimals, LARGEST_OF_FLOATS)
        return -most, most
    if types.is_integer(kind):
        info = np.iinfo(kind.to_pandas_dtype())
        return max(int(info.min), -LARGEST_UNITS), min(int(info.max), LARGEST_UNITS)
    most = min(10 ** (kind.precision - kind.scale + decimals) - 1, LARGEST_UNITS)
    return -most, most


def to_units(column: pa.Array, decimals: int) -> tuple[NDArray[np.int64], Mask]:
    """Units (n,), rounded half to even, 0 for null; and which values are no number. Beyond what there is, all have
    `BEYOND` or -`BEYOND`."""
    kind = column.type
    no_number = np.zeros(len(column), bool)
    if types.is_integer(kind):
        numbers = column.fill_null(0).to_numpy(zero_copy_only=False)
        return np.clip(numbers, None if numbers.dtype.kind == "u" else -BEYOND, BEYOND).astype(np.int64), no_number
    if types.is_floating(kind):
        numbers = column.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore", invalid="ignore"):
            units = np.rint(numbers * 10.0**decimals)
        no_number = ~np.isfinite(numbers)
        return np.clip(np.where(no_number, 0, units), -BEYOND, BEYOND).astype(np.int64), no_number
    return _units_of_decimals(column, decimals), no_number


def from_units(units: NDArray[np.int64], decimals: int, kind: pa.DataType, null: Mask | None = None) -> pa.Array:
    """Numbers of a type, (n,)."""
    if types.is_integer(kind):
        return pa.array(units, pa.int64(), mask=null).cast(kind)
    if types.is_floating(kind):
        numbers = units / 10.0**decimals
        return pa.array(numbers.astype(kind.to_pandas_dtype()), kind, mask=null)
    words = np.stack([units, units >> 63], axis=1)
    validity = None if null is None else pa.array(~null).buffers()[1]
    wide = pa.Array.from_buffers(pa.decimal128(38, decimals), len(units), [validity, pa.py_buffer(words.tobytes())])
    return wide.cast(kind)


def _units_of_decimals(column: pa.Array, decimals: int) -> NDArray[np.int64]:
    kind = column.type
    if decimals < kind.scale:
        column = pc.round(column.cast(pa.decimal256(76, kind.scale)), ndigits=decimals, round_mode="half_to_even")
    wide = column.cast(pa.decimal256(76, decimals))
    words = np.frombuffer(wide.buffers()[1], "<i8").reshape(-1, 4)[wide.offset : wide.offset + len(wide)]
    null = wide.is_null().to_numpy(zero_copy_only=False)
    units = np.where(null, 0, words[:, 0])
    sign = units >> 63
    is_wide = (words[:, 1:] != sign[:, None]).any(axis=1) & ~null
    return np.where(is_wide, np.where(words[:, 3] < 0, -BEYOND, BEYOND), np.clip(units, -BEYOND, BEYOND))
