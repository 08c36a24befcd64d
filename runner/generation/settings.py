"""What synthetic records depend on besides the model."""

from __future__ import annotations

from dataclasses import dataclass, field

from runner.config import GenerationConfig
from runner.generation.shares import ValueShare
from runner.model.choice import check_choice


@dataclass(frozen=True)
class SamplingSettings:
    """What records depend on besides the model. For the first four see `runner.model.sampling`.

    `prompts`: how records begin, `records_per_prompt` of them each; of a table, what is given of rows, each an object
    in JSON of texts by column. `rebalance`: of a table, shares of one column's values. `unique`: drop repeated records.
    `not_in_training`: drop those that are a record of the job's data.

    Raises:
        ConfigError: a setting is out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0
    prompts: tuple[str, ...] = ("",)
    records_per_prompt: int = 10
    unique: bool = False
    not_in_training: bool = False
    validation: GenerationConfig = field(default_factory=GenerationConfig)
    rebalance: tuple[ValueShare, ...] = ()

    def __post_init__(self) -> None:
        check_choice(self.temperature, self.top_k, self.top_p)

    @property
    def records(self) -> int:
        """Records in all."""
        return self.records_per_prompt * len(self.prompts)
