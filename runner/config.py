"""The job a user writes: one YAML file, checked whole before any work starts.

    >>> config = parse_job({"name": "demo", "data": {"uri": "records/"}})
    >>> config.training.batch_size
    64
    >>> config = parse_job({"name": "demo", "data": {"uri": "records/"}}, overrides=["training.batch_size=32"])
    >>> config.training.batch_size
    32

A value comes from, in this order: `--set a.b=c`, the environment variable `RUNNER_A__B`, the file, the default.
Every field has a bound and a one-line description; `runner init` writes the descriptions as comments and
`runner schema` prints the JSON Schema. Credentials are never part of a job.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from runner.errors import ConfigError

ENVIRONMENT_PREFIX = "RUNNER_"

Importable = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
"""A Python object as `package.module:name`."""


class Section(BaseModel):
    """A part of the job: immutable, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _empty_section_has_defaults(cls, values: Any) -> Any:
        """`training:` with nothing below it, as YAML reads it."""
        return {} if values is None else values

    @field_validator("*", mode="before")
    @classmethod
    def _yes_is_not_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python takes true for 1."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and {int, float} & {annotation, *get_args(annotation)}:
            raise ValueError(f"input should be a number, got {str(value).lower()}")
        return value


class DataConfig(Section):
    """Where the records are."""

    uri: str = Field(min_length=1, description="folder of Parquet files, local or s3://bucket/prefix")
    text_column: str = Field(default="text", min_length=1, description="the column that holds the records")
    columns: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="columns joined by field_delimiter into one record, instead of text_column",
    )
    field_delimiter: str | None = Field(
        default=None,
        min_length=1,
        max_length=8,
        description="what separates the fields of a record; null: plain text",
    )
    max_records: int | None = Field(default=None, ge=1, description="use only the first so many records; null: all")
    since: str | None = Field(
        default=None,
        min_length=1,
        description="train on files that this run (or the last of this name) did not have, from its model; null: all",
    )
    cache_gib: float = Field(
        default=50,
        ge=0,
        le=100_000,
        description="keep a local copy of the tokens up to this size; above: read by ranges",
    )

    @model_validator(mode="after")
    def _columns_need_a_delimiter(self) -> DataConfig:
        if self.columns is not None and self.field_delimiter is None:
            raise ValueError("columns need a field_delimiter to join them")
        return self


class TokenizerConfig(Section):
    """How records become token ids."""

    kind: Literal["char", "byte", "sentencepiece"] = Field(
        default="sentencepiece", description="char, byte or sentencepiece"
    )
    vocab_size: int = Field(
        default=2000, ge=4, le=1_000_000, description="largest number of token ids (byte always has 257)"
    )
    character_coverage: float = Field(
        default=1.0,
        ge=0.9,
        le=1.0,
        description="share of characters sentencepiece must cover without falling back to bytes",
    )
    max_training_records: int = Field(
        default=1_000_000,
        ge=1,
        le=100_000_000,
        description="train the vocabulary on a seeded sample of at most so many",
    )
    uri: str | None = Field(
        default=None, min_length=1, description="a SentencePiece model to use instead of training one"
    )
    alphabet: str | None = Field(
        default=None, min_length=1, description="kind char: the characters to know, instead of those in the records"
    )

    @model_validator(mode="after")
    def _model_needs_sentencepiece(self) -> TokenizerConfig:
        if self.uri is not None and self.kind != "sentencepiece":
            raise ValueError(f"uri names a SentencePiece model, but kind is {self.kind}")
        if self.alphabet is not None and self.kind != "char":
            raise ValueError(f"an alphabet is for kind char, but kind is {self.kind}")
        return self


class ExamplesConfig(Section):
    """How token ids become training examples."""

    packing: Literal["records", "stream"] = Field(
        default="records", description="records: one record an example; stream: windows over concatenated records"
    )
    seq_length: int = Field(default=100, ge=1, le=16_384, description="tokens in an example; longer records are cut")


class ModelConfig(Section):
    """The network: embedding, LSTM layers, logits."""

    embedding_dim: int = Field(default=256, ge=1, le=16_384, description="width of the token embedding")
    rnn_units: int = Field(default=256, ge=1, le=16_384, description="width of each LSTM layer")
    layers: int = Field(default=2, ge=1, le=16, description="number of LSTM layers")
    dropout_rate: float = Field(default=0.2, ge=0, lt=1, description="share of activations dropped in training")
    rnn_initializer: Literal[
        "glorot_uniform",
        "glorot_normal",
        "he_uniform",
        "he_normal",
        "lecun_uniform",
        "lecun_normal",
        "orthogonal",
    ] = Field(default="glorot_uniform", description="Keras initializer of the LSTM input weights")


class OptimizerConfig(Section):
    """The optimizer, with Keras's own defaults beside the learning rate."""

    name: Literal["rmsprop", "adam", "sgd"] = Field(default="rmsprop", description="rmsprop, adam or sgd")
    learning_rate: float = Field(default=0.01, gt=0, le=100, description="step size")
    ema_momentum: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="validate and keep a moving average of the weights, of which a step keeps so much; null: none",
    )


class EarlyStoppingConfig(Section):
    """When to end before the last epoch."""

    enabled: bool | None = Field(
        default=None, description="end when the metric stops improving; null: true, but false when private"
    )
    metric: Literal["val_loss", "val_accuracy", "loss", "accuracy"] = Field(
        default="val_loss", description="the metric that picks the best epoch"
    )
    patience: int = Field(default=5, ge=1, le=100_000, description="epochs without improvement before ending")
    min_delta: float = Field(default=0.001, ge=0, description="smallest change that counts as an improvement")
    restore_best: bool = Field(default=True, description="leave the best epoch's weights in model/")


class TrainingConfig(Section):
    """The training loop."""

    epochs: int = Field(default=15, ge=1, le=1_000_000, description="passes over the training examples")
    batch_size: int = Field(
        default=64, ge=1, le=1_048_576, description="examples of one optimizer step, over all workers"
    )
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig, description="how weights are updated")
    validation_split: bool = Field(default=True, description="keep every 5th batch for validation, never trained on")
    early_stopping: EarlyStoppingConfig = Field(
        default_factory=EarlyStoppingConfig, description="when to end before the last epoch"
    )
    max_training_time_s: float | None = Field(default=None, gt=0, description="end after so many seconds of training")
    save_best: bool | None = Field(
        default=None,
        description="leave the best epoch's weights in model/, else the last one's; null: true, but false when private",
    )
    save_all_checkpoints: bool = Field(default=False, description="keep a checkpoint of every epoch")
    checkpoint_every_s: float = Field(
        default=300, gt=0, le=86_400, description="seconds between checkpoints in an epoch"
    )
    microbatch_size: int | None = Field(
        default=None, ge=1, le=1_048_576, description="examples a replica holds at once; null: chosen from memory"
    )
    epoch_callback: Importable | None = Field(
        default=None, description="package.module:function, called with an EpochState after every epoch"
    )
    callbacks: tuple[Importable, ...] = Field(
        default=(), description="package.module:factory of Keras callbacks, each called without arguments"
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="fixes the split, the order, the weights and the dropout")


class PrivacyConfig(Section):
    """Differential privacy."""

    enabled: bool = Field(default=False, description="train with differential privacy")
    noise_multiplier: float | None = Field(default=None, ge=0, description="noise standard deviation over l2_norm_clip")
    target_epsilon: float | None = Field(
        default=None, gt=0, description="find the noise that ends at this epsilon; never pass it"
    )
    l2_norm_clip: float = Field(default=1.0, gt=0, description="largest norm of one record's gradient")
    delta: float | None = Field(default=None, gt=0, lt=1, description="null: 1/n^1.1, rounded down to one digit")
    accountant: Literal["pld", "rdp"] = Field(default="pld", description="how epsilon is computed: pld or rdp")
    max_epsilon: float | None = Field(
        default=None, gt=0, description="never pass this epsilon, earlier runs on the same files included"
    )
    vocabulary: Literal["public", "private"] | None = Field(
        default=None,
        description="public: tokenizer.uri was made without these records; private: accept a vocabulary made from them",
    )

    @model_validator(mode="after")
    def _noise_or_target(self) -> PrivacyConfig:
        if not self.enabled:
            return self
        if self.noise_multiplier is None and self.target_epsilon is None:
            raise ValueError("enabled needs noise_multiplier, or target_epsilon to find it")
        if self.noise_multiplier is not None and self.target_epsilon is not None:
            raise ValueError("noise_multiplier and target_epsilon exclude each other; set one to null")
        if self.noise_multiplier == 0 and self.max_epsilon is not None:
            raise ValueError(f"noise_multiplier 0 gives no privacy: max_epsilon {self.max_epsilon:g} cannot be kept")
        return self


class ResourcesConfig(Section):
    """What the job asks of the machine or the cluster."""

    workers: int = Field(default=1, ge=1, le=4096, description="Ray Train workers")
    cpus_per_worker: int | None = Field(
        default=None, ge=1, le=1024, description="cores of a worker; null: an even share here, 1 on a cluster"
    )
    gpus_per_worker: int = Field(default=0, ge=0, le=64, description="GPUs of a worker")
    strategy: Literal["auto", "mirrored", "multi_worker"] = Field(
        default="auto", description="auto, mirrored (one worker) or multi_worker"
    )
    max_failures: int = Field(default=3, ge=0, le=1000, description="restarts after a lost worker before giving up")

    @model_validator(mode="after")
    def _mirrored_is_one_worker(self) -> ResourcesConfig:
        if self.strategy == "mirrored" and self.workers > 1:
            raise ValueError(f"strategy mirrored is for one worker, but workers is {self.workers}")
        return self


class ColumnRule(Section):
    """What the values of a column must be like; all that is set must hold."""

    pattern: str | None = Field(
        default=None, min_length=1, description="regular expression that the whole value must match"
    )
    range: tuple[float | None, float | None] | None = Field(
        default=None, description="[least, largest] number; null: no bound on this side"
    )
    allowed: tuple[str, ...] | None = Field(default=None, min_length=1, description="the values there may be")

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
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
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

    fields: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="names of the fields in text_column: records are split at field_delimiter into these columns",
    )
    columns: dict[str, ColumnRule] = Field(
        default={}, description="rules by column, such as {age: {range: [0, 120]}, sex: {allowed: [m, f]}}"
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
    actors: int | None = Field(
        default=None, ge=1, le=4096, description="processes that generate shards; null: one for each core"
    )

    @field_validator("fields")
    @classmethod
    def _names_differ(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if twice := [name for name in names or () if names is not None and names.count(name) > 1]:
            raise ValueError(f"{twice[0]} is named twice")
        return names


class StorageConfig(Section):
    """Where runs are kept."""

    uri: str = Field(
        default="runs/", min_length=1, description="folder of run directories, local or s3://bucket/prefix"
    )
    overwrite: bool = Field(default=False, description="delete a run of the same name first")


class ParameterConfig(Section):
    """The values a sweep tries for one field: exactly one of these."""

    model_config = ConfigDict(serialize_by_alias=True)

    uniform: tuple[float, float] | None = Field(default=None, description="[low, high): every number as likely")
    log_uniform: tuple[float, float] | None = Field(default=None, description="[low, high): every magnitude as likely")
    integers: tuple[int, int] | None = Field(default=None, alias="int", description="[low, high]: both included")
    choice: tuple[Any, ...] | None = Field(default=None, min_length=1, description="one of these")

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
            return self
        low, high = values
        if not (low <= high if kind == "int" else low < high):
            raise ValueError(f"{kind}: the range from {low} to {high} is empty")
        if kind == "log_uniform" and low <= 0:
            raise ValueError(f"log_uniform: must start above 0, not at {low}")
        return self


class SweepConfig(Section):
    """A search for the best settings: many runs, ranked."""

    parameters: dict[str, ParameterConfig] = Field(
        min_length=1, description="from a field's path, as training.batch_size, to the values to try"
    )
    trials: int | None = Field(
        default=None, ge=1, le=100_000, description="runs to make; null: 10, or with search grid all combinations"
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


class JobConfig(Section):
    """A job: what `runner submit` takes."""

    name: str = Field(
        min_length=1,
        max_length=63,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="the run's name, and its folder under storage.uri",
    )
    data: DataConfig = Field(description="where the records are")
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
    storage: StorageConfig = Field(default_factory=StorageConfig, description="where runs are kept")

    @model_validator(mode="after")
    def _fits_together(self) -> JobConfig:
        settings, stopping = self.training, self.training.early_stopping
        default = not self.privacy.enabled
        stops = default if stopping.enabled is None else stopping.enabled
        selects = default if settings.save_best is None else settings.save_best
        if (stops or selects) and not settings.validation_split and stopping.metric.startswith("val_"):
            raise ValueError(
                f"training.early_stopping.metric is {stopping.metric}, but validation_split is off; use loss"
            )
        self._check_generation()
        if self.privacy.enabled:
            self._check_private()
        stopping = stopping.model_copy(update={"enabled": stops})
        settings = settings.model_copy(update={"save_best": selects, "early_stopping": stopping})
        return self.model_copy(update={"training": settings})

    def _check_generation(self) -> None:
        """Rules are for columns that there are."""
        fields = self.generation.fields
        if fields is not None and (self.data.columns is not None or self.data.field_delimiter is None):
            raise ValueError(
                "generation.fields: they are for a text_column whose fields data.field_delimiter separates"
            )
        columns = fields or self.data.columns or (self.data.text_column,)
        for name in self.generation.columns:
            if name not in columns:
                raise ValueError(f"generation.columns.{name}: no such column; there are {', '.join(columns)}")

    def _check_private(self) -> None:
        """What a privacy claim rules out."""
        if self.examples.packing != "records":
            raise ValueError(
                f"privacy.enabled needs examples.packing records, not {self.examples.packing}: "
                "a record must be one example"
            )
        if self.examples.seq_length < 2:
            raise ValueError(
                "privacy.enabled needs examples.seq_length of 2 or more: an emptied record must show as one"
            )
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
        return yaml.dump(self.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Writes every kind of line break as an escape: YAML would read it back as a space or another one."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if set(text) & set("\n\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _represent_text)


def load_job(path: Path, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> JobConfig:
    """Read and check a job file; `overrides` are `a.b=value`, as given to `--set`.

    Raises:
        ConfigError: with one line for each mistake.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such job file; `runner init {path}` writes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a job is a mapping of sections (name, data, training, ...), not {_kind(document)}")
    return parse_job(document, overrides, environment, source=str(path))


def parse_job(
    document: Mapping[str, Any],
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    source: str = "job",
) -> JobConfig:
    """Check a job given as nested mappings, after the environment's and the command line's values are put in."""
    merged = _copy(document)
    sources: dict[str, str] = {}  # who set a field, where it was not the file
    for key, value in _environment_values(os.environ if environment is None else environment):
        sources[".".join(key)] = f"environment variable {ENVIRONMENT_PREFIX}{'__'.join(key).upper()}"
        _put(merged, key, value, sources[".".join(key)])
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {override}: write it as section.field=value")
        sources[key] = f"--set {override}"
        _put(merged, key.split("."), _parse_value(value), sources[key])
    try:
        return JobConfig.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(
            *(f"{sources.get(_path(item), source)}: {_explain(dict(item))}" for item in error.errors())
        ) from None


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a job file, for editors and checks elsewhere."""
    return JobConfig.model_json_schema()


def _environment_values(environment: Mapping[str, str]) -> Iterator[tuple[list[str], Any]]:
    """Pairs of (path, value) for `RUNNER_TRAINING__EPOCHS=3`.

    Variables without `__` are not ours: GitHub's CI sets RUNNER_NAME, for one.
    """
    for variable, value in sorted(environment.items()):
        key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        if variable.startswith(ENVIRONMENT_PREFIX) and len(key) > 1:
            yield key, _parse_value(value)


def _parse_value(text: str) -> Any:
    """The value as in a YAML file; but a delimiter such as `|` or `#`, which YAML gives a meaning, is itself."""
    if not any(character.isalnum() or character in "[{\"'" for character in text):
        return text or None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _put(document: dict[str, Any], key: Sequence[str], value: Any, source: str) -> None:
    section = document
    for part in key[:-1]:
        if section.get(part) is None:
            section[part] = {}
        section = section[part]
        if not isinstance(section, dict):
            raise ConfigError(f"{source}: {part} is not a section")
    section[key[-1]] = value


def _copy(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, dict) else value for key, value in document.items()}


def _path(error: Mapping[str, Any]) -> str:
    return ".".join(str(part) for part in error["loc"])


def _explain(error: dict[str, Any]) -> str:
    """One pydantic error as `section.field: what is wrong`."""
    where = _path(error)
    path = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        known = _field_names(path[:-1])
        close = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
        return f"{where}: unknown key; {hint}"
    if error["type"] == "model_type":
        return f"{where}: should be a mapping of {', '.join(_field_names(path))}, got {_kind(error['input'])}"
    if error["type"] == "missing":
        return f"{where}: required, but not set"
    if error["type"] == "string_pattern_mismatch" and "pattern" in error.get("ctx", {}):
        return f"{where}: {error['input']!r} does not have the form {_form(error['ctx']['pattern'])}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{where}: {message}" if where else message
    message = message[0].lower() + message[1:]
    return f"{where}: {message}, got {_kind(error['input'])}"


def _form(pattern: str) -> str:
    if ":" in pattern:
        return "package.module:function"
    return "of letters, digits, '.', '_' and '-', starting with a letter or digit"


def _field_names(path: Sequence[str]) -> list[str]:
    section: type[Section] = JobConfig
    parts = iter(path)
    for part in parts:
        annotation = section.model_fields[part].annotation
        if get_origin(annotation) is dict:
            next(parts, None)  # the user's key
        candidates = [annotation, *get_args(annotation)]
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, Section))
    return list(section.model_fields)


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)
