"""Values that a job's fields refuse, a line a column.

check_declared(config.fields, summaries)
# DataError: column age: 3 of 9 values are outside the schema, such as '95'; declare them, or set fields.age.outside ...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa
from pyarrow import types

from runner.config.fields import (
    DateField,
    DatetimeField,
    FieldConfig,
    IdField,
    IntegerField,
    NumberField,
    undeclared,
)
from runner.data.schema.found import ColumnSummary
from runner.data.schema.reading import is_numeric, plain_type
from runner.data.schema.schema import make_codec
from runner.data.schema.units import is_number
from runner.data.texts import is_text
from runner.errors import DataError

LONGEST_SHOWN = 60
"""Characters of a value."""


def check_declared(
    fields: Mapping[str, FieldConfig], summaries: Mapping[str, ColumnSummary], *, is_private: bool = False
) -> None:
    """Whether the values are what the fields say, where they refuse others.

    Raises:
        DataError: a line for each column where they are not, with some of the values unless they are private. Of
            private records nothing is found, not even that what is no number is to be null.
    """
    mistakes = [
        mistake
        for name, field in fields.items()
        if name in summaries and not isinstance(field, IdField)
        for mistake in _undeclared_values(field, summaries[name], is_private=is_private)
    ]
    if mistakes:
        raise DataError(*mistakes)


def _undeclared_values(field: FieldConfig, summary: ColumnSummary, *, is_private: bool) -> Iterator[str]:
    key, missing = f"fields.{summary.name}", count_missing(field, summary)
    if missing and getattr(field, "nullable", None) is False:
        what = "null" if summary.nulls else "empty" if summary.empty else "not a number, or infinite"
        yield (
            f"column {summary.name}: {missing:,} of {summary.rows:,} values are {what}, but {key}.nullable is false; "
            "make it true"
        )
    if is_private and (is_text(summary.kind) or plain_type(summary.kind) in summary.ends):
        try:
            if isinstance(field, IntegerField | NumberField | DateField | DatetimeField):
                reading_of(field, summary)
        except DataError as error:
            yield str(error)
    form = field.format if isinstance(field, DateField | DatetimeField) else None
    if is_private and form is None and summary.format is not None and isinstance(field, DateField | DatetimeField):
        yield (
            f"column {summary.name}: texts are read as 2024-12-31 or 2024-12-31 23:59:59; "
            f"say how they are written in {key}.format, such as '%Y-%m-%dT%H:%M:%SZ'"
        )
    if is_private and summary.not_numbers and getattr(field, "outside", "refuse") == "refuse":
        yield (
            f"column {summary.name}: {summary.not_numbers:,} of {summary.rows:,} values are not a number, or infinite; "
            f"set {key}.outside to null"
        )
    if summary.outside and getattr(field, "outside", "refuse") == "refuse":
        instead = {"category": "rare or null", "boolean": ""}.get(field.kind, "clip or null")
        examples = f", such as {', '.join(map(_shortened, summary.outside_examples))}" if not is_private else ""
        yield (
            f"column {summary.name}: {summary.outside:,} of {summary.rows:,} values are outside the schema{examples}; "
            "declare them" + (f", or set {key}.outside to {instead}" if instead else " as a category")
        )


def check_lookups(fields: Mapping[str, FieldConfig], columns: pa.Schema) -> None:
    """Whether columns of these types can be what the fields say, of which noisy counts are to tell the rest.

    Raises:
        DataError: one cannot; nothing was looked up yet.
    """
    for column in columns:
        left = undeclared(field := fields[column.name])
        for key in left:
            if key != "values" and not is_numeric(plain_type(column.type)):
                raise DataError(
                    f"column {column.name} is {column.type}: its {key} cannot be looked up; "
                    f"declare fields.{column.name}.{key}"
                )
        if "values" not in left:
            some = {"decimals": 0, "resolution": "hour"}
            make_codec(field.model_copy(update={key: some[key] for key in left}), column)


def count_missing(field: FieldConfig, summary: ColumnSummary) -> int:
    """Values that are taken as null: nulls, floats that are no number, and empty texts where there should be one."""
    is_read = isinstance(field, IntegerField | NumberField | DateField | DatetimeField)
    return summary.nulls + summary.not_numbers + (summary.empty if is_read else 0)


def _shortened(value: str) -> str:
    """For messages."""
    return repr(value if len(value) <= LONGEST_SHOWN else f"{value[:LONGEST_SHOWN]}...")


def reading_of(field: FieldConfig, summary: ColumnSummary) -> pa.DataType:
    """The type as which a column's values are taken for a field of numbers, dates or moments.

    Raises:
        DataError: they are no such values.
    """
    accepts = {
        "integer": lambda kind: is_number(kind) and not summary.ends[kind].places[1:].any(),
        "number": is_number,
        "date": lambda kind: types.is_date(kind) or _is_midnights(kind, summary),
        "datetime": lambda kind: types.is_date(kind) or types.is_timestamp(kind),
    }[field.kind]
    found = next((kind for kind in summary.ends if accepts(kind)), None)
    if found is None and not summary.filled:
        found = {"integer": pa.int64(), "number": pa.float64()}.get(field.kind, pa.timestamp("s"))
    if found is None:
        article = "an" if field.kind == "integer" else "a"
        raise DataError(
            f"column {summary.name} is {summary.kind}, and not each of its values is {article} {field.kind}; "
            f"declare another kind in fields.{summary.name}"
        )
    return found


def _is_midnights(kind: pa.DataType, summary: ColumnSummary) -> bool:
    return types.is_timestamp(kind) and not summary.ends[kind].places[1:].any()
