"""The section `fields`: the schema of a table, one entry a column.

What an entry leaves open (null) is found in the records. A private job has to declare it, or to buy it.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from runner.config.section import Section, differ

Resolution = Literal["hour", "minute", "second", "millisecond", "microsecond", "nanosecond"]

MOST_VALUES = 65_536
"""Values that a category may have: each is a token with weights of its own."""
LARGEST_UNITS = 10**18
"""Numbers are whole multiples of 10^-decimals, of at most so many: they fit in 64 bits, with room to add."""

Value = Annotated[str, Field(max_length=16_384)]
Whole = Annotated[int, Field(ge=-LARGEST_UNITS, le=LARGEST_UNITS)]
Real = Annotated[float, Field(ge=-LARGEST_UNITS, le=LARGEST_UNITS)]


def _day(value: Any) -> Any:
    """Pydantic takes numbers for seconds since 1970."""
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        return date.fromisoformat(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    raise ValueError(f"{value!r} is no day; write it as 2024-12-31")


def _moment(value: Any) -> Any:
    if isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\d", value):
        return datetime.fromisoformat(value)
    if isinstance(value, datetime):
        return value
    raise ValueError(f"{value!r} is no moment; write it as 2024-12-31 or 2024-12-31T23:59:59")


def _to_its_end(bounds: Any) -> Any:
    """A last day that is no moment is in the range until it ends."""
    if isinstance(bounds, (list, tuple)) and len(bounds) == 2 and isinstance(bounds[1], str) and len(bounds[1]) == 10:
        return (bounds[0], f"{bounds[1]}T23:59:59.999999")
    return bounds


def _format(value: str) -> str:
    parts = [part for part in MOMENT_PART.split(value) if MOMENT_PART.fullmatch(part)]
    times = "".join(part[1] for part in parts if part not in DAY_PARTS)
    if sorted(parts) != sorted({*parts, *DAY_PARTS}) or "%" in MOMENT_PART.sub("", value):
        raise ValueError(f"{value!r} does not have %Y, %m and %d once each, or another part than %H, %M, %S and %f")
    if "".join(sorted(times, key="HMSf".index)) not in ("", "HM", "HMS", "HMSf"):
        raise ValueError(f"{value!r} has a part of the time without those before it: %H, %M, %S, %f")
    return value


DAY_PARTS = ("%Y", "%m", "%d")
MOMENT_PART = re.compile(r"(%[YmdHMSf])")
"""What a format of texts has of a date or moment; as in strftime."""

Format = Annotated[str, Field(min_length=8, max_length=100), AfterValidator(_format)]
Written = Annotated[str, Field(max_length=40)]
Day = Annotated[date, BeforeValidator(_day, json_schema_input_type=Written)]
Moment = Annotated[datetime, BeforeValidator(_moment, json_schema_input_type=Written)]
Bound = TypeVar("Bound", int, float, date, datetime)


def _ordered(bounds: tuple[Bound, Bound] | None) -> tuple[Bound, Bound] | None:
    """Raises ValueError: the range is empty."""
    if bounds is None:
        return None
    low, high = bounds
    if isinstance(low, datetime) and isinstance(high, datetime) and (low.tzinfo is None) != (high.tzinfo is None):
        raise ValueError("give both bounds an offset from UTC, or none")
    if low > high:
        raise ValueError(f"[{low}, {high}] is empty: the least comes first")
    return bounds


class FieldSection(Section):
    """What the fields of all kinds have."""

    nullable: bool | None = Field(default=None, description="whether it may be null; null: as found in the records")

    @field_validator("outside", mode="before", check_fields=False)
    @classmethod
    def _null_needs_no_quotes(cls, outside: Any) -> Any:
        """`outside: null`, as YAML reads it."""
        return "null" if outside is None else outside

    @model_validator(mode="after")
    def _null_is_a_value(self) -> FieldSection:
        if getattr(self, "outside", None) == "null" and self.nullable is False:
            raise ValueError("outside is null, but nullable is false")
        return self


class CategoryField(FieldSection):
    """One of a set of values, of any type; they are written as texts."""

    kind: Literal["category"] = Field(description="one of a set of values")
    values: Annotated[tuple[Value, ...], Field(min_length=1, max_length=MOST_VALUES), AfterValidator(differ)] | None = (
        Field(default=None, description="the values there may be; null: those found")
    )
    min_count: int = Field(default=10, ge=1, le=10**9, description="values found in fewer records are never generated")
    outside: Literal["refuse", "null", "rare"] = Field(
        default="refuse", description="other values than those listed: an error, taken as null, or as one rare value"
    )


class BooleanField(FieldSection):
    """True or false."""

    kind: Literal["boolean"] = Field(description="true or false")


class _NumericField(FieldSection):
    """What numbers with and without decimals have."""

    bins: int = Field(default=128, ge=2, le=10_000, description="about how many parts the range is cut into")
    exact: bool = Field(default=True, description="learn the digits inside a part; false: any of them is as likely")
    outside: Literal["refuse", "null", "clip"] = Field(
        default="refuse", description="values out of range: an error, taken as null, or as the nearest bound"
    )


class IntegerField(_NumericField):
    """A whole number."""

    kind: Literal["integer"] = Field(description="a whole number")
    range: Annotated[tuple[Whole, Whole], AfterValidator(_ordered)] | None = Field(
        default=None, description="[least, largest]; null: as found"
    )


class NumberField(_NumericField):
    """A number with decimals."""

    kind: Literal["number"] = Field(description="a number with decimals")
    range: Annotated[tuple[Real, Real], AfterValidator(_ordered)] | None = Field(
        default=None, description="[least, largest]; null: as found"
    )
    decimals: int | None = Field(
        default=None, ge=0, le=18, description="places after the point that are kept; null: as found"
    )

    @model_validator(mode="after")
    def _units_fit(self) -> NumberField:
        if self.range is not None and self.decimals is not None:
            largest = max(abs(Decimal(repr(bound))) for bound in self.range)
            if largest.scaleb(self.decimals) > LARGEST_UNITS:
                raise ValueError(
                    f"{largest.normalize():f} with {self.decimals} decimals has over 18 digits; keep fewer decimals"
                )
        return self


class DateField(FieldSection):
    """A day."""

    kind: Literal["date"] = Field(description="a day")
    range: Annotated[tuple[Day, Day], AfterValidator(_ordered)] | None = Field(
        default=None, description="[first, last]; null: as found"
    )
    format: Format | None = Field(
        default=None, description="of texts: how they are written, such as '%d.%m.%Y'; null: as found, or 2024-12-31"
    )
    outside: Literal["refuse", "null", "clip"] = Field(
        default="refuse", description="days out of range: an error, taken as null, or as the nearest bound"
    )


class DatetimeField(FieldSection):
    """A moment: a day and a time of day."""

    kind: Literal["datetime"] = Field(description="a day and a time of day")
    range: Annotated[tuple[Moment, Moment], BeforeValidator(_to_its_end), AfterValidator(_ordered)] | None = Field(
        default=None, description="[first, last], a last day to its end; in UTC where there is a zone; null: as found"
    )
    resolution: Resolution | None = Field(default=None, description="the smallest part that is kept; null: as found")
    format: Format | None = Field(
        default=None,
        description="of texts: how they are written, such as '%Y-%m-%dT%H:%M:%SZ'; null: as found, or as that without "
        "T and Z",
    )
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
    max_tokens: int = Field(default=100, ge=1, le=4096, description="longer texts are cut")

    @model_validator(mode="after")
    def _alphabet_is_for_char(self) -> TextField:
        if self.alphabet is not None and self.tokenizer != "char":
            raise ValueError(f"an alphabet is for tokenizer char, but tokenizer is {self.tokenizer}")
        return self


class IdField(Section):
    """What names a row: never learned."""

    kind: Literal["id"] = Field(description="what names a row, such as a customer's number: never learned")
    made: Literal["sequence", "uuid"] | None = Field(
        default=None, description="what generated rows have: 1, 2, 3 ..., or random UUIDs; null: no such column"
    )


def _kind_of(value: Any) -> str | None:
    """The key that says of which kind a field is; by a function, since `Section` looks at all keys first."""
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return kind if kind is None else str(kind)


FieldConfig: TypeAlias = Annotated[
    Annotated[CategoryField, Tag("category")]
    | Annotated[BooleanField, Tag("boolean")]
    | Annotated[IntegerField, Tag("integer")]
    | Annotated[NumberField, Tag("number")]
    | Annotated[DateField, Tag("date")]
    | Annotated[DatetimeField, Tag("datetime")]
    | Annotated[TextField, Tag("text")]
    | Annotated[IdField, Tag("id")],
    Discriminator(_kind_of),
]


BOUGHT = ("values", "decimals", "resolution")
"""What noisy histograms of private records can tell of what is left open."""


def undeclared(field: FieldConfig) -> tuple[str, ...]:
    """What a field leaves to be looked up in the records, by the names of its keys.

    Whether it may be null is not among them: what is not declared may be, which costs a token and says nothing.

    >>> undeclared(NumberField(kind="number", range=(0, 1))), undeclared(BooleanField(kind="boolean"))
    (('decimals',), ())
    """
    match field:
        case CategoryField():
            keys = ("values",)
        case IntegerField() | DateField():
            keys = ("range",)
        case NumberField():
            keys = ("range", "decimals")
        case DatetimeField():
            keys = ("range", "resolution")
        case TextField(tokenizer="char"):
            keys = ("alphabet",)
        case TextField(tokenizer="sentencepiece"):
            return ("tokenizer",)
        case _:
            keys = ()
    return tuple(key for key in keys if getattr(field, key) is None)
