"""The section `generation`: which generated records are valid."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, field_validator

from runner.config.section import ColumnName, ColumnNames, Importable, Section


class ColumnRule(Section):
    """What the values of a column must be like; all that is set must hold."""

    pattern: str | None = Field(
        default=None, min_length=1, max_length=10_000, description="regular expression that the whole value must match"
    )
    range: tuple[float | None, float | None] | None = Field(
        default=None, description="[least, largest] number; null: no bound on this side"
    )
    # As many as a category of values may have; a value is at most as long as a record of as many bytes.
    allowed: tuple[Annotated[str, Field(max_length=16_384)], ...] | None = Field(
        default=None, min_length=1, max_length=1_000_000, description="the values there may be"
    )

    @field_validator("allowed", mode="before")
    @classmethod
    def _numbers_are_texts(cls, values: Any) -> Any:
        """YAML reads 1 as a number; but not every number is written back as it was read."""
        if not isinstance(values, (list, tuple)):
            return values
        if odd := [value for value in values if isinstance(value, (bool, float))]:
            raise ValueError(f"put {', '.join(str(value).lower() for value in odd)} in quotes, as the records write it")
        return tuple(str(value) if isinstance(value, int) else value for value in values)

    @field_validator("pattern")
    @classmethod
    def _pattern_compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"{(pattern or '')[:200]!r} is not a regular expression: {error}") from None
        return pattern

    @field_validator("range")
    @classmethod
    def _range_holds_something(
        cls, bounds: tuple[float | None, float | None] | None
    ) -> tuple[float | None, float | None] | None:
        if bounds is not None and bounds[0] is not None and bounds[1] is not None and bounds[0] > bounds[1]:
            raise ValueError(f"[{bounds[0]:g}, {bounds[1]:g}] is empty: the least number comes first")
        return bounds


class GenerationConfig(Section):
    """Which generated records are valid. An invalid one is counted and another is drawn in its place."""

    fields: ColumnNames | None = Field(
        default=None,
        description="names of the fields in text_column: records are split at field_delimiter into these columns",
    )
    columns: dict[ColumnName, ColumnRule] = Field(
        default={},
        max_length=16_384,
        description="rules by column, such as {age: {range: [0, 120]}, sex: {allowed: [m, f]}}",
    )
    validator: Importable | None = Field(
        default=None,
        description="package.module:function, called with {column: text}; returns None, or why it is invalid",
    )
    max_invalid: float | None = Field(
        default=None,
        ge=0,
        le=0.99,
        description="give up when a larger share is invalid; null: when hardly one in ten is valid",
    )
    calibrate: bool | None = Field(
        default=None,
        description="of a table: keep to the counts of its columns and pairs; null: from 1,000 records on",
    )
    actors: int | None = Field(
        default=None, ge=1, le=4096, description="processes that generate shards; null: one for each core"
    )
