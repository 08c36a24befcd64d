"""The whole job: its sections, and what must agree between them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from runner.config.document import write_document
from runner.config.fields import BOUGHT, FieldConfig, undeclared
from runner.config.generation import GenerationConfig
from runner.config.kubernetes import KubernetesConfig
from runner.config.section import ColumnName, Section
from runner.config.sweep import SweepConfig
from runner.config.training import (
    DataConfig,
    ExamplesConfig,
    ModelConfig,
    PrivacyConfig,
    ResourcesConfig,
    StorageConfig,
    TokenizerConfig,
    TrainingConfig,
)


class JobConfig(Section):
    """A job: what `runner submit` takes."""

    name: str = Field(
        min_length=1,
        max_length=63,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="the run's name, and its folder under storage.uri",
    )
    data: DataConfig = Field(description="where the records are")
    fields: dict[ColumnName, FieldConfig] | None = Field(
        default=None,
        min_length=1,
        max_length=16_384,
        description="the schema of a table, such as {age: {kind: integer}}; null: records are texts",
    )
    tokenizer: TokenizerConfig = Field(default_factory=TokenizerConfig, description="how records become token ids")
    examples: ExamplesConfig = Field(default_factory=ExamplesConfig, description="how tokens become examples")
    model: ModelConfig = Field(default_factory=ModelConfig, description="the network")
    training: TrainingConfig = Field(default_factory=TrainingConfig, description="the training loop")
    privacy: PrivacyConfig = Field(default_factory=PrivacyConfig, description="differential privacy")
    resources: ResourcesConfig = Field(default_factory=ResourcesConfig, description="workers, cores and GPUs")
    generation: GenerationConfig = Field(
        default_factory=GenerationConfig, description="which generated records are valid"
    )
    sweep: SweepConfig | None = Field(default=None, description="a search over fields of this job; null: one run")
    kubernetes: KubernetesConfig | None = Field(default=None, description="the pods of --on kubernetes; null: defaults")
    storage: StorageConfig = Field(default_factory=StorageConfig, description="where runs are kept")

    @model_validator(mode="after")
    def _fits_together(self) -> JobConfig:
        settings, stopping = self.training, self.training.early_stopping
        method = self._privacy_method()
        default = not self.privacy.enabled or method == "marginals"
        stops = default if stopping.enabled is None else stopping.enabled
        selects = default if settings.save_best is None else settings.save_best
        if (stops or selects) and not settings.validation_split and stopping.metric.startswith("val_"):
            raise ValueError(
                f"training.early_stopping.metric is {stopping.metric}, but validation_split is off; use loss"
            )
        if self.fields is not None:
            self._check_table()
        elif self.tokenizer.kind == "fields":
            raise ValueError("tokenizer.kind is fields, but there is no section fields; list the columns there")
        elif self.examples.field_order == "random":
            raise ValueError("examples.field_order: only a job with fields has fields to put in another order")
        self._check_generation()
        if self.privacy.enabled:
            self._check_private()
        stopping = stopping.model_copy(update={"enabled": stops})
        settings = settings.model_copy(update={"save_best": selects, "early_stopping": stopping})
        kind = self.tokenizer.kind if self.fields is None else "fields"
        tokenizer = self.tokenizer.model_copy(update={"kind": kind})
        privacy = self.privacy.model_copy(update={"method": method})
        return self.model_copy(update={"training": settings, "tokenizer": tokenizer, "privacy": privacy})

    @property
    def trains_on_draws(self) -> bool:
        """Whether noisy counts alone are taken of the records, and training sees what is drawn by them."""
        return self.privacy.enabled and self.privacy.method == "marginals"

    @property
    def takes_private_steps(self) -> bool:
        """Whether every training step has noise of its own."""
        return self.privacy.enabled and not self.trains_on_draws

    @property
    def unit(self) -> str | None:
        """The column that tells whose a record is, where privacy is for all records of a person; else None."""
        return self.privacy.unit if self.privacy.enabled else None

    def _privacy_method(self) -> Literal["steps", "marginals"] | None:
        """That of the job; None where it is not private, or says nothing and is not a table."""
        privacy = self.privacy
        has_text = self.fields is None or any(field.kind == "text" for field in self.fields.values())
        if not privacy.enabled or (privacy.method is None and self.fields is None):
            return privacy.method
        if privacy.method is None:
            return "steps" if has_text or privacy.target_epsilon is None else "marginals"
        if privacy.method == "marginals":
            if has_text:
                why = "fields" if self.fields is None else "fields of other kinds than text"
                raise ValueError(f"privacy.method: marginals are of a table's columns and need {why}; take steps")
            if privacy.target_epsilon is None:
                raise ValueError("privacy.method: marginals need target_epsilon, which says how much noise they get")
        return privacy.method

    def _check_table(self) -> None:
        """What is for records that are texts."""
        data, tokenizer = self.data, self.tokenizer
        if data.text_column != DataConfig.model_fields["text_column"].default:
            raise ValueError("data.text_column: a job with fields has its columns there; leave it out")
        if data.columns is not None:
            raise ValueError("data.columns: a job with fields has its columns there; leave it out")
        if data.field_delimiter is not None:
            raise ValueError("data.field_delimiter: fields are never joined to a text; leave it out")
        if "kind" in tokenizer.model_fields_set and tokenizer.kind != "fields":
            raise ValueError(f"tokenizer.kind: a job with fields has kind fields, not {tokenizer.kind}; leave it out")
        if tokenizer.uri is not None:
            raise ValueError("tokenizer.uri: a job with fields makes its tokens of their values; leave it out")
        if self.examples.packing != "records":
            raise ValueError(f"examples.packing: a job with fields needs records, not {self.examples.packing}")
        if self.generation.fields is not None:
            raise ValueError("generation.fields: a job with fields has its columns there; leave it out")
        assert self.fields is not None
        if all(field.kind == "id" for field in self.fields.values()):
            raise ValueError("fields: all are of kind id, which is never learned; add a column to learn")

    def _check_generation(self) -> None:
        """Rules are for columns that there are."""
        fields = self.generation.fields
        if fields is not None and (self.data.columns is not None or self.data.field_delimiter is None):
            raise ValueError(
                "generation.fields: they are for a text_column whose fields data.field_delimiter separates"
            )
        columns = fields or self.data.columns or (self.data.text_column,)
        if self.fields is not None:
            columns = [name for name, field in self.fields.items() if field.kind != "id"]
        for name in self.generation.columns:
            if name not in columns:
                raise ValueError(f"generation.columns.{name}: no such column; there are {', '.join(columns)}")

    def _check_private(self) -> None:
        """What a privacy claim rules out."""
        if self.privacy.canaries and self.privacy.unit is not None:
            raise ValueError(
                "privacy.canaries: a canary is a record, and privacy.unit protects persons; set one of the two"
            )
        if self.privacy.canaries and self._privacy_method() == "marginals":
            raise ValueError(
                "privacy.canaries: noisy counts are kept in model/, and made-up records would be in them; "
                "set privacy.method to steps, or canaries to 0"
            )
        if self.examples.packing != "records":
            raise ValueError(
                f"privacy.enabled needs examples.packing records, not {self.examples.packing}: "
                "a record must be one example"
            )
        if self.examples.seq_length < 2:
            raise ValueError(
                "privacy.enabled needs examples.seq_length of 2 or more: an emptied record must show as one"
            )
        if self.privacy.unit is not None and self.data.since is not None:
            raise ValueError(
                f"privacy.unit: one {self.privacy.unit} may have records in this run and in those before it, and pay "
                "for each; leave out data.since, and train on all files together"
            )
        if self.fields is not None:
            left = [(name, key) for name, field in self.fields.items() for key in undeclared(field)]
            if unknowable := [f"fields.{name}.{key}" for name, key in left if key not in BOUGHT]:
                raise ValueError(
                    "privacy.enabled: what is null would be looked up in the private records, and no noisy counts "
                    f"tell it; declare {', '.join(unknowable)}"
                )
            if left and self.privacy.schema_epsilon is None and self.privacy.target_epsilon is None:
                raise ValueError(
                    "privacy.enabled: what is null would be looked up in the private records; declare "
                    f"{', '.join(f'fields.{name}.{key}' for name, key in left)}, or set privacy.schema_epsilon to what "
                    "it may cost"
                )
            return
        if self.privacy.schema_epsilon is not None:
            raise ValueError("privacy.schema_epsilon: it pays for what is looked up for fields; leave it out")
        tokenizer = self.tokenizer
        made_from_records = tokenizer.uri is None and (
            tokenizer.kind == "sentencepiece" or (tokenizer.kind == "char" and tokenizer.alphabet is None)
        )
        if made_from_records and self.privacy.vocabulary != "private":
            raise ValueError(
                f"privacy.enabled: a {tokenizer.kind} vocabulary would be made from the private records; use "
                "kind byte, kind char with an alphabet, or a public model as tokenizer.uri, or set privacy.vocabulary "
                "to private: epsilon then does not cover it"
            )
        if tokenizer.uri is not None and self.privacy.vocabulary is None:
            raise ValueError(
                "privacy.enabled: say where tokenizer.uri is from: set privacy.vocabulary to public "
                "(made without these records) or private"
            )

    def to_yaml(self) -> str:
        """The resolved job; reading it back gives an equal job."""
        return write_document(self.model_dump(mode="json"))
