"""Texts back to values: the inverse of `runner.data.texts`.

>>> from_texts(pa.array(["12:30:00.000", None], pa.large_string()), pa.time32("ms")).to_pylist()
[datetime.time(12, 30), None]
"""

from __future__ import annotations

import uuid
from decimal import Decimal

import pyarrow as pa
from pyarrow import types

from runner.data.texts import TEXT


def from_texts(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Values of a type from large strings, as `to_texts` writes them; nulls stay. A dictionary has no value twice.

    Raises:
        ValueError: a text is no value of that type.
    """
    if types.is_dictionary(kind):
        distinct = texts.dictionary_encode()
        indices = distinct.indices.cast(kind.index_type)
        return pa.DictionaryArray.from_arrays(
            indices, from_texts(distinct.dictionary, kind.value_type), ordered=kind.ordered
        )
    if isinstance(kind, pa.UuidType):
        listed = [None if text is None else uuid.UUID(text).bytes for text in texts.to_pylist()]
        return pa.ExtensionArray.from_storage(kind, pa.array(listed, pa.binary(16)))
    if isinstance(kind, pa.Bool8Type):
        return pa.ExtensionArray.from_storage(kind, texts.cast(pa.bool_()).cast(pa.int8()))
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, from_texts(texts, kind.storage_type))
    if types.is_null(kind):
        return pa.nulls(len(texts))
    if types.is_time(kind):
        days = pa.array([None if text is None else f"1970-01-01 {text}" for text in texts.to_pylist()], TEXT)
        return days.cast(pa.timestamp(kind.unit)).cast(kind)
    if types.is_duration(kind):
        places = {"s": 0, "ms": 3, "us": 6, "ns": 9}[kind.unit]
        try:
            seconds = [None if text is None else Decimal(text).scaleb(places) for text in texts.to_pylist()]
        except ArithmeticError:
            raise ValueError("no number of seconds") from None
        return pa.array([None if each is None else int(each) for each in seconds], pa.int64()).cast(kind)
    return texts.cast(kind)
