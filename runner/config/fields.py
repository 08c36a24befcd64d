"""The section `fields`: the schema of a table, one entry a column.

What an entry leaves open (null) is found in the records. A private job has to declare it, or to buy it.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from runner.config.section import Section

Resolution = Literal["hour", "minute", "second", "millisecond", "microsecond", "nanosecond"]
Outside = Literal["refuse", "null", "rare", "clip"]

Value = Annotated[str, Field(max_length=16_384)]


class FieldSection(Section):
    """What the fields of all kinds have."""

    nullable: bool | None = Field(default=None, description="whether it may be null; null: as found in the records")


class CategoryField(FieldSection):
    """One of a set of values, of any type; they are written as texts."""

    kind: Literal["category"] = Field(description="one of a set of values")
    values: tuple[Value, ...] | None = Field(
        default=None, min_length=1, max_length=1_000_000, description="the values there may be; null: those found"
    )
    min_count: int = Field(default=10, ge=1, le=10**9, description="values found in fewer records are never generated")
    outside: Literal["refuse", "null", "rare"] = Field(
        default="refuse", description="other values than those listed: an error, taken as null, or as one rare value"
    )


class BooleanField(FieldSection):
    """True or false."""

    kind: Literal["boolean"] = Field(description="true or false")


class IntegerField(FieldSection):
    """A whole number."""

    kind: Literal["integer"] = Field(description="a whole number")
    range: tuple[int, int] | None = Field(default=None, description="[least, largest]; null: as found")
    bins: int = Field(default=128, ge=2, le=10_000, description="about how many parts the range is cut into")
    exact: bool = Field(default=True, description="learn the digits inside a part; false: any of them is as likely")
    outside: Literal["refuse", "null", "clip"] = Field(
        default="refuse", description="values out of range: an error, taken as null, or as the nearest bound"
    )


class NumberField(FieldSection):
    """A number with decimals."""

    kind: Literal["number"] = Field(description="a number with decimals")
    range: tuple[float, float] | None = Field(default=None, description="[least, largest]; null: as found")
    decimals: int | None = Field(default=None, ge=0, le=18, description="places after the point; null: as found")
    bins: int = Field(default=128, ge=2, le=10_000, description="about how many parts the range is cut into")
    exact: bool = Field(default=True, description="learn the digits inside a part; false: any of them is as likely")
    outside: Literal["refuse", "null", "clip"] = Field(
        default="refuse", description="values out of range: an error, taken as null, or as the nearest bound"
    )


class DateField(FieldSection):
    """A day."""

    kind: Literal["date"] = Field(description="a day")
    range: tuple[date, date] | None = Field(default=None, description="[first, last]; null: as found")
    outside: Literal["refuse", "null", "clip"] = Field(
        default="refuse", description="days out of range: an error, taken as null, or as the nearest bound"
    )


class DatetimeField(FieldSection):
    """A moment: a day and a time of day."""

    kind: Literal["datetime"] = Field(description="a day and a time of day")
    range: tuple[datetime, datetime] | None = Field(default=None, description="[first, last]; null: as found")
    resolution: Resolution | None = Field(default=None, description="the smallest part that is kept; null: as found")
    outside: Literal["refuse", "null", "clip"] = Field(
        default="refuse", description="moments out of range: an error, taken as null, or as the nearest bound"
    )


class TextField(FieldSection):
    """Free text."""

    kind: Literal["text"] = Field(description="free text")
    tokenizer: Literal["byte", "char", "sentencepiece"] = Field(default="byte", description="how it becomes tokens")
    alphabet: str | None = Field(
        default=None, min_length=1, max_length=1_000_000, description="tokenizer char: the characters to know"
    )
    vocab_size: int = Field(default=1000, ge=4, le=1_000_000, description="largest number of its token ids")
    max_tokens: int = Field(default=100, ge=1, le=16_384, description="longer texts are cut")


class IdField(FieldSection):
    """What names a row: never learned."""

    kind: Literal["id"] = Field(description="what names a row, such as a customer's number: never learned")
    made: Literal["sequence", "uuid"] | None = Field(
        default=None, description="what generated rows have: 1, 2, 3 ..., or random UUIDs; null: no such column"
    )


FieldConfig: TypeAlias = Annotated[
    CategoryField | BooleanField | IntegerField | NumberField | DateField | DatetimeField | TextField | IdField,
    Field(discriminator="kind"),
]
