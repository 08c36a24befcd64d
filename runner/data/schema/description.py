"""A table's schema for a reader, a line a column: `runner validate` prints it.

describe(fields, schema, summaries)[0]
# {"column": "age", "kind": "integer", "tokens": [74], "values": "[17, 90]", "is": "declared", "null": 0, ...}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import pyarrow as pa

from runner.config import FieldConfig, undeclared
from runner.data.schema.category import CategoryCodec
from runner.data.schema.codec import Codec
from runner.data.schema.completion import complete_field, declared
from runner.data.schema.found import ColumnSummary
from runner.data.schema.identifier import IdCodec
from runner.data.schema.number import NumberCodec
from runner.data.schema.refusals import count_missing
from runner.data.schema.schema import Schema, make_codec
from runner.data.schema.text import TextCodec
from runner.screen import Column, side_by_side

MOST_SHOWN = 48
"""Characters of a field's values."""
COUNTS = {"null": "null", "rare": "rare", "clip": "clipped", "rounded": "rounded"}
"""What becomes of values, in words that follow their number."""


def describe(
    fields: Mapping[str, FieldConfig],
    schema: Schema | None,
    summaries: Mapping[str, ColumnSummary],
    bought: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Of each field, as plain values: its tokens slot by slot, what it may hold, whether that was declared, found in
    the records or is bought, and how many records do not come back as they are.

    schema: None where a part of it is still to be bought. summaries: those of the columns that were read. bought: of a
    private job, what is bought of each column, in words; None of others.
    """
    codecs = {codec.name: codec for codec in schema.codecs} if schema is not None else _declared(fields, summaries)
    return [
        {"column": name, "kind": field.kind}
        | (_describe_codec(codecs[name]) if name in codecs else {})
        | {"is": _origin(field) if bought is None else bought.get(name, "declared")}
        | (_count(field, summaries[name], is_private=bought is not None) if name in summaries else {})
        for name, field in fields.items()
    ]


def _declared(fields: Mapping[str, FieldConfig], summaries: Mapping[str, ColumnSummary]) -> dict[str, Codec]:
    """The codecs of the fields that leave nothing open."""
    found = declared(fields)
    return {
        name: make_codec(fields[name], pa.field(name, summary.kind), found[name])
        for name, summary in summaries.items()
        if not undeclared(fields[name])
    }


def in_lines(described: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The same as a table."""
    columns = {
        "column": [field["column"] for field in described],
        "kind": [field["kind"] for field in described],
        "tokens": [_summed(field.get("tokens", ())) for field in described],
        "values": [field.get("values", "") for field in described],
        "schema": [field["is"] for field in described],
        "records": [
            ", ".join(f"{field[key]:,} {words}" for key, words in COUNTS.items() if field.get(key))
            for field in described
        ],
    }
    table = side_by_side([Column(name, values) for name, values in columns.items()], most=None)
    yield from (f"  {line}" for line in table.split("\n"))


def _summed(sizes: Sequence[int]) -> str:
    """
    >>> _summed([130, 2, 10, 10, 10])
    '130 + 2 + 3 x 10'
    """
    runs = [(size, len(list(run))) for size, run in groupby(sizes)]
    return " + ".join(f"{many} x {size}" if many > 1 else str(size) for size, many in runs) or "-"


def _origin(field: FieldConfig) -> str:
    left = undeclared(field)
    return f"found: {', '.join(left)}" if left else "declared"


def _describe_codec(codec: Codec) -> dict[str, Any]:
    return {"tokens": list(codec.slots), "values": _values(codec)}


def _values(codec: Codec) -> str:
    match codec:
        case CategoryCodec():
            listed = ", ".join(codec.values)
            if len(listed) > MOST_SHOWN:
                listed = (
                    f"{listed[:MOST_SHOWN].rpartition(', ')[0] or listed[:MOST_SHOWN]}, ... ({len(codec.values):,})"
                )
            return listed or "none"
        case NumberCodec():
            return codec.bounds_words()
        case TextCodec():
            return f"texts of up to {codec.max_tokens} tokens ({codec.tokenizer.kind})"
        case IdCodec():
            return "left out" if codec.made is None else f"made anew: {codec.made}"
        case _:
            return codec.range_words()


def _count(field: FieldConfig, summary: ColumnSummary, *, is_private: bool) -> dict[str, int]:
    """By what becomes of them, the records that do not come back as they are; `null`: with those that are null."""
    counts = {"null": count_missing(field, summary)}
    if (outside := getattr(field, "outside", None)) is not None and summary.outside:
        counts[outside] = counts.get(outside, 0) + summary.outside
    if is_private or field.kind == "id":  # What is bought is not looked up beside that.
        return counts
    found = complete_field(field, summary)
    more = {"rare": found.rare_records, "clip": found.clipped, "rounded": found.rounded}
    return counts | {key: counts.get(key, 0) + count for key, count in more.items() if count}
