"""The section `fields` that `runner init --data FOLDER` writes: a kind for each column, and what was found.

    for name, proposed in propose(schema, summaries).items():
        print(name, proposed.values, proposed.note)   # age {'kind': 'integer', 'range': [17, 90]} 74 distinct

The kind goes by the column's type, and by its values where those say more:

- numbers are `integer` where all are whole, of whatever type, else `number`;
- moments that are all at midnight are `date`;
- texts are numbers or dates if all are written so; else `category` where the values that ten records or more have are
  nearly all of the records; else `text`;
- keys are `id`: texts without spaces, UUIDs, and whole numbers, where no two rows have the same one though chance would
  have repeated some.

Only what ten records have in common is written: rarer values are counted, not named.
"""

# pyarrow.compute makes its functions when it is imported, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from runner.config.fields import (
    LARGEST_UNITS,
    BooleanField,
    CategoryField,
    DateField,
    DatetimeField,
    FieldConfig,
    IdField,
    IntegerField,
    NumberField,
    TextField,
)
from runner.data.schema.completion import CompleteField, complete_field
from runner.data.schema.found import ENDS, MOST_VALUES, ColumnSummary
from runner.data.schema.moment_texts import ISO
from runner.data.schema.reading import TEXT, is_missing, is_numeric, plain_type, written_types
from runner.data.texts import is_string, is_text

MOST_LISTED = 50
"""Values that a job file lists; more are left to be found."""
MOST_CATEGORIES = 10_000
COVERED = 0.95
"""Of the records must have values that `ENDS` records have, or a text is no category."""
ROWS_A_VALUE = 5
"""A few values that so many rows have on average are categories, even where many are rare."""
ROWS_A_BIN = 25
"""Parts of a range with fewer rows on average are learned row by row."""
FEWEST_BINS = 12
MOSTLY_DISTINCT = 0.5
"""Where more values than that share of the rows differ, digits inside a part say no more than whose row it was."""
DISTINCT = 0.99
"""Of a key's values; a merge of two tables may have repeated a few."""
EXPECTED_REPEATS = 100
"""Whole numbers without a repeat are keys where chance would have repeated so many; the years of a table are fewer."""
LONGEST_KEY = 64
LONG_TEXT = 200
"""Bytes above which a text's tokens should be pieces of words."""

ORDER = (
    "values",
    "range",
    "decimals",
    "bins",
    "exact",
    "resolution",
    "format",
    "tokenizer",
    "max_tokens",
    "made",
    "outside",
    "nullable",
)
"""Of what an entry says, as a reader wants it."""

WRITTEN = (
    "{kind: integer, range: [0, 120]}, {kind: number, range: [0, 5000], decimals: 2} "
    "or {kind: date, range: [2001-01-01, 2024-12-31]}"
)
"""What a column of texts may be that are written numbers or dates, which nobody looked at."""

UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
KEY_NAME = re.compile(r"(?:^|[\W_])(?:id|key|uuid|guid|index|rownum)$|[a-z](?:Id|ID|Key)$", re.ASCII)


@dataclass(frozen=True)
class Proposal:
    """An entry of `fields`, and a comment for it."""

    field: FieldConfig
    note: str

    @property
    def values(self) -> dict[str, Any]:
        """What differs from the kind's defaults, as a job file has it."""
        plain = self.field.model_dump(mode="json", exclude_defaults=True)
        return {"kind": self.field.kind, **{name: plain[name] for name in ORDER if name in plain}}


def propose(schema: pa.Schema, summaries: Mapping[str, ColumnSummary]) -> dict[str, Proposal]:
    """A field for each column of a table.

    Raises:
        DataError: a column holds what no field can.
    """
    return {name: _propose(summaries[name]) for name in schema.names}


def propose_unseen(schema: pa.Schema) -> dict[str, Proposal]:
    """The same by the types alone, for records that are private: what is to be declared is asked for.

    Raises:
        DataError: a column is of a type that no field can hold.
    """
    for column in schema:
        ColumnSummary.of(column.name, None, column.type)
    return {column.name: _propose_unseen(column) for column in schema}


def _propose(summary: ColumnSummary) -> Proposal:
    kind = _kind_of(summary)
    if isinstance(kind, CategoryField) and not _has_values(summary):
        found = CompleteField(kind.model_copy(update={"nullable": summary.nulls + summary.not_numbers > 0}))
    else:
        found = complete_field(kind, summary)
    field = found.field
    if isinstance(field, CategoryField):
        listed = field.values if field.values and len(field.values) <= MOST_LISTED else None
        outside = ("rare" if found.rare else field.outside) if listed else "refuse"
        field = field.model_copy(update={"values": listed, "outside": outside})
    elif not found.clipped and hasattr(field, "outside"):
        field = field.model_copy(update={"outside": "null" if summary.not_numbers else "refuse"})
    if isinstance(field, IntegerField | NumberField):
        field = field.model_copy(update=dict(_cuts(field, summary)))
    return Proposal(field, ", ".join(_notes(summary, found)))


def _cuts(field: IntegerField | NumberField, summary: ColumnSummary) -> Iterator[tuple[str, Any]]:
    """How a number becomes tokens, where that is not the default."""
    values, counts = summary.counts() or summary.sampled()
    bins = max(summary.rows // ROWS_A_BIN, FEWEST_BINS)
    if bins < min(len(values), field.bins):
        yield "bins", bins
    if len(values) > MOSTLY_DISTINCT * counts.sum() and len(values) > bins:
        yield "exact", False


def _kind_of(summary: ColumnSummary) -> FieldConfig:
    plain = plain_type(summary.kind)
    if types.is_boolean(plain):
        return BooleanField(kind="boolean")
    if (made := _key(summary)) is not None:
        return IdField(kind="id", made=made)
    written = next(iter(summary.ends), None) if types.is_uint64(plain) or is_string(plain) else plain
    if written is not None and is_numeric(written) and summary.filled >= 2 * ENDS and not _is_large(summary, written):
        return _measured_kind(written, summary)
    if not summary.values or _is_category(summary):
        return CategoryField(kind="category")
    if is_text(plain) and not isinstance(plain, pa.UuidType):
        return _text(summary)
    return IdField(kind="id", made="uuid" if isinstance(plain, pa.UuidType) else None)


def _measured_kind(kind: pa.DataType, summary: ColumnSummary) -> FieldConfig:
    places = summary.ends[kind].places
    if types.is_temporal(kind):
        whole_days = types.is_date(kind) or (not places[1:].any() and getattr(kind, "tz", None) is None)
        return DateField(kind="date") if whole_days else DatetimeField(kind="datetime")
    if places[1:].any():
        return NumberField(kind="number")
    return IntegerField(kind="integer")


def _key(summary: ColumnSummary) -> Literal["sequence", "uuid"] | None:
    """By what the keys of a column are to be made; None where it holds none."""
    values, counts = summary.counts() or summary.sampled()
    plain = plain_type(summary.kind)
    if summary.empty:
        filled = ~is_missing(values)
        values, counts = values.filter(pa.array(filled)), counts[filled]
    rows = int(counts.sum())
    if len(values) < DISTINCT * rows or rows < 2 * ENDS:
        return None
    if pa.int64() in summary.ends and summary.counted_type == TEXT:
        values = written_types(values)[pa.int64()]
    if values.type == pa.int64() and (types.is_integer(plain) or is_string(plain)):
        numbers = np.sort(values.to_numpy())
        width = int(numbers[-1]) - int(numbers[0]) + 1
        repeats = rows**2 / (2 * width)  # The birthday problem.
        named = KEY_NAME.search(summary.name) is not None
        is_key = repeats >= EXPECTED_REPEATS or width > LARGEST_UNITS
        return "sequence" if named or (len(values) == rows and is_key) else None
    if summary.ends or not (is_string(plain) or isinstance(plain, pa.UuidType) or types.is_uint64(plain)):
        return None
    texts = values.to_pylist()
    if all(ISO.match(text) for text in texts):
        return None
    if all(UUID.fullmatch(text) for text in texts):
        return "uuid"
    return None if summary.longest > LONGEST_KEY or any(re.search(r"\s", text) for text in texts) else "sequence"


def _is_large(summary: ColumnSummary, kind: pa.DataType) -> bool:
    """Whether some numbers are beyond what a field can hold."""
    ends = summary.ends[kind]
    return not types.is_temporal(kind) and max(-float(ends.least[0]), float(ends.largest[-1])) > LARGEST_UNITS


def _is_category(summary: ColumnSummary) -> bool:
    counted = summary.counts()
    if counted is None:
        return False
    counts = counted[1]
    kept = counts[counts >= ENDS]
    if 0 < len(kept) <= len(counts) <= min(MOST_LISTED, counts.sum() / ROWS_A_VALUE):
        return True
    return len(kept) <= MOST_CATEGORIES and kept.sum() >= COVERED * counts.sum()


def _text(summary: ColumnSummary) -> TextField:
    lengths = pc.binary_length(summary.sample.trimmed().values)
    longest = int(np.ceil(np.quantile(lengths.to_numpy(), 0.999) / 10) * 10)
    if longest <= LONG_TEXT:
        return TextField(kind="text", max_tokens=max(longest, 10))
    return TextField(kind="text", tokenizer="sentencepiece", max_tokens=longest // 2)


def _has_values(summary: ColumnSummary) -> bool:
    """Whether a category has values that can be named."""
    counted = summary.counts()
    return counted is not None and bool((counted[1] >= ENDS).any())


def _notes(summary: ColumnSummary, found: CompleteField) -> Iterator[str]:
    counted = summary.counts()
    distinct = f"{len(counted[0]):,} distinct" if counted else f"over {MOST_VALUES:,} distinct"
    if not summary.values:
        yield "null in every row" if summary.nulls == summary.rows else "no number in any row"
        return
    if isinstance(found.field, IdField):
        what = "left out: no kind of field holds so many" if found.field.made is None else "a key, never learned"
        yield f"{distinct} in {_rows(summary.values)}: {what}"
    elif counted and len(counted[0]) == 1:
        yield "the same in every row" if summary.values == summary.rows else "the same wherever it is not null"
    else:
        yield distinct
    if found.rare_records:
        yield f"{_rows(found.rare_records)} with values of fewer than {ENDS} rows, which are never generated"
    if found.clipped:
        yield f"{_rows(found.clipped)} beyond the range, taken as its ends"
    if found.rounded:
        yield f"{_rows(found.rounded)} with more decimals, which are rounded"
    if isinstance(found.field, TextField):
        yield f"up to {summary.longest:,} bytes"
    if summary.nulls:
        yield f"{_rows(summary.nulls)} null"
    if summary.empty and not isinstance(found.field, CategoryField | TextField | IdField):
        yield f"{_rows(summary.empty)} empty or of no value, taken as null"
    if summary.not_numbers:
        yield f"{_rows(summary.not_numbers)} not a number or infinite, taken as null"


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"


def _propose_unseen(column: pa.Field) -> Proposal:
    kind, common = plain_type(column.type), _nullable(column)
    if types.is_boolean(kind):
        return Proposal(BooleanField(kind="boolean", **common), "by its type")
    if types.is_null(kind):
        return Proposal(CategoryField(kind="category"), "null in every row, by its type; leave it out")
    if isinstance(kind, pa.UuidType):
        return Proposal(IdField(kind="id", made="uuid"), "by its type; never learned")
    if types.is_int8(kind) or types.is_uint8(kind):
        bounds = (-128, 127) if types.is_int8(kind) else (0, 255)
        return Proposal(IntegerField(kind="integer", range=bounds, **common), "by its type; a narrower range serves")
    if types.is_integer(kind):
        return Proposal(IntegerField(kind="integer", **common), _asked("range: [0, 120]"))
    if types.is_floating(kind) or types.is_decimal(kind):
        decimals = kind.scale if types.is_decimal(kind) and 0 <= kind.scale <= 18 else None
        example = "range: [0, 5000]" + ("" if decimals is not None else ", decimals: 2")
        return Proposal(NumberField(kind="number", decimals=decimals, **common), _asked(example))
    if types.is_date(kind):
        return Proposal(DateField(kind="date", **common), _asked("range: [2001-01-01, 2024-12-31]"))
    if types.is_timestamp(kind):
        example = "range: [2001-01-01T00:00:00, 2024-12-31T23:59:59], resolution: second"
        return Proposal(DatetimeField(kind="datetime", **common), _asked(example))
    note = "add values: [A, B], say, or a part of epsilon is spent on looking them up; or take kind id"
    if is_string(kind):
        note += f" or text; if they are numbers or dates, as an import writes them, {WRITTEN}"
    return Proposal(CategoryField(kind="category", **common), note)


def _nullable(column: pa.Field) -> dict[str, Any]:
    return {} if column.nullable else {"nullable": False}


def _asked(example: str) -> str:
    return f"add {example}, say: from public knowledge, not from the records"
