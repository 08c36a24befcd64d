"""The section `sweep`: a search for the best settings."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from runner.config.section import Section

Whole = Annotated[int, Field(ge=-(2**53), le=2**53)]
"""JSON's readers keep no larger ones exactly."""


class ParameterConfig(Section):
    """The values a sweep tries for one field: exactly one of these."""

    model_config = ConfigDict(serialize_by_alias=True)

    uniform: tuple[float, float] | None = Field(default=None, description="[low, high): every number as likely")
    log_uniform: tuple[float, float] | None = Field(default=None, description="[low, high): every magnitude as likely")
    integers: tuple[Whole, Whole] | None = Field(default=None, alias="int", description="[low, high]: both included")
    choice: tuple[Any, ...] | None = Field(default=None, min_length=1, max_length=10_000, description="one of these")

    @model_serializer(mode="wrap")
    def _only_what_is_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}

    @model_validator(mode="after")
    def _one_range_with_something_in_it(self) -> ParameterConfig:
        given = self.model_dump()
        if len(given) != 1:
            raise ValueError(f"takes exactly one of uniform, log_uniform, int and choice, not {len(given)}")
        [(kind, values)] = given.items()
        if kind == "choice":
            _check_plain(values)
            return self
        low, high = values
        if not (low <= high if kind == "int" else low < high):
            raise ValueError(f"{kind}: the range from {low} to {high} is empty")
        if kind == "log_uniform" and low <= 0:
            raise ValueError(f"log_uniform: must start above 0, not at {low}")
        return self


def _check_plain(value: Any) -> None:
    """Raises ValueError: a value that no file could hold; a field's own type is checked for each trial."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"choice: {value} is not a finite number")
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"choice: {value!r} is not valid Unicode")
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple)):
        for each in value:
            _check_plain(each)


class SweepConfig(Section):
    """A search for the best settings: many runs, ranked."""

    parameters: dict[str, ParameterConfig] = Field(
        min_length=1, max_length=1000, description="from a field's path, as training.batch_size, to the values to try"
    )
    trials: int | None = Field(
        default=None, ge=1, le=10_000, description="runs to make; null: 10, or with search grid all combinations"
    )
    max_concurrent: int | None = Field(
        default=None, ge=1, le=10_000, description="runs at a time; null: as many as fit"
    )
    metric: Literal["val_loss", "val_accuracy", "loss", "accuracy"] | None = Field(
        default=None, description="what ranks the runs; null: val_loss, but a private sweep has to say"
    )
    mode: Literal["min", "max"] | None = Field(default=None, description="null: max for accuracies, min for losses")
    scheduler: Literal["fifo", "asha"] = Field(
        default="fifo", description="asha ends runs that are behind others at the same epoch"
    )
    search: Literal["random", "grid", "optuna"] = Field(default="random", description="random, grid or optuna")
    seed: int = Field(default=0, ge=0, lt=2**32, description="fixes the values that are tried")

    @model_validator(mode="after")
    def _grid_has_points(self) -> SweepConfig:
        if self.search == "grid":
            for path, parameter in self.parameters.items():
                if parameter.uniform or parameter.log_uniform:
                    raise ValueError(f"search grid needs choice or int for every parameter, but {path} is continuous")
        return self
