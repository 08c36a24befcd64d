"""Values that a job's fields refuse, a line a column.

check_declared(config.fields, summaries)
# DataError: column age: 3 of 9 values are outside the schema, such as '95'; declare them, or set fields.age.outside ...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from runner.config.fields import DateField, DatetimeField, FieldConfig, IdField, IntegerField, NumberField
from runner.data.schema.found import ColumnSummary
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


def count_missing(field: FieldConfig, summary: ColumnSummary) -> int:
    """Values that are taken as null: nulls, floats that are no number, and empty texts where there should be one."""
    is_read = isinstance(field, IntegerField | NumberField | DateField | DatetimeField)
    return summary.nulls + summary.not_numbers + (summary.empty if is_read else 0)


def _shortened(value: str) -> str:
    """For messages."""
    return repr(value if len(value) <= LONGEST_SHOWN else f"{value[:LONGEST_SHOWN]}...")
