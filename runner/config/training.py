"""What is trained on, and how: the sections of every job."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from runner.config.section import ColumnName, ColumnNames, Importable, Section, Uri

LEAST_NOISE = 1e-3
"""Costs an epsilon of millions; the accountants' squares of much less overflow."""


class DataConfig(Section):
    """Where the records are."""

    uri: Uri = Field(description="folder of Parquet files, local or s3://bucket/prefix")
    text_column: ColumnName = Field(default="text", description="the column that holds the records")
    columns: ColumnNames | None = Field(
        default=None,
        description="columns joined by field_delimiter into one record, instead of text_column",
    )
    field_delimiter: str | None = Field(
        default=None,
        min_length=1,
        max_length=8,
        description="what separates the fields of a record; null: plain text",
    )
    max_records: int | None = Field(
        default=None, ge=1, le=10**12, description="use only the first so many records; null: all"
    )
    since: Uri | None = Field(
        default=None,
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

    kind: Literal["char", "byte", "sentencepiece", "fields"] = Field(
        default="sentencepiece", description="char, byte or sentencepiece; fields: those of a table"
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
    uri: Uri | None = Field(default=None, description="a SentencePiece model to use instead of training one")
    # No vocabulary is larger than vocab_size may be.
    alphabet: str | None = Field(
        default=None,
        min_length=1,
        max_length=1_000_000,
        description="kind char: the characters to know, instead of those in the records",
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
    field_order: Literal["schema", "random"] = Field(
        default="schema",
        description="schema, or random: every second record in any order, for `generate --given`; takes more epochs",
    )


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


class ScheduleConfig(Section):
    """How the learning rate changes over the planned steps: epochs x steps of an epoch."""

    name: Literal["constant", "cosine"] = Field(
        default="cosine", description="after the warm-up: constant, or along half a cosine down to the final rate"
    )
    warmup: float = Field(
        default=0.05, ge=0, lt=1, description="share of the planned steps in which the rate rises to learning_rate"
    )
    final: float = Field(
        default=0.0, ge=0, le=1, description="cosine: the rate at the end, as a share of learning_rate"
    )


class OptimizerConfig(Section):
    """The optimizer, with Keras's own defaults beside the learning rate."""

    name: Literal["rmsprop", "adam", "sgd"] = Field(default="rmsprop", description="rmsprop, adam or sgd")
    # float32 weights of 0.01 are 1e-9 apart: smaller steps train nothing.
    learning_rate: float = Field(default=0.01, ge=1e-12, le=100, description="step size")
    # Nearer to 1 a step's share is lost in float32, whose numbers below 1 are 6e-8 apart.
    ema_momentum: float | None = Field(
        default=None,
        ge=0,
        le=0.999999,
        description="validate and keep a moving average of the weights, of which a step keeps so much; null: none",
    )
    schedule: ScheduleConfig | None = Field(
        default=None, description="how the learning rate changes over the run; null: it does not"
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
    min_delta: float = Field(default=0.001, ge=0, le=1e6, description="smallest change that counts as an improvement")
    restore_best: bool = Field(default=True, description="leave the best epoch's weights in model/")


class TrainingConfig(Section):
    """The training loop."""

    epochs: int = Field(default=15, ge=1, le=1_000_000, description="passes over the training examples")
    batch_size: int = Field(
        default=64,
        ge=1,
        le=1_048_576,
        description="examples of one optimizer step, over all workers; with privacy.unit so many of its values",
    )
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig, description="how weights are updated")
    validation_split: bool = Field(default=True, description="keep every 5th batch for validation, never trained on")
    early_stopping: EarlyStoppingConfig = Field(
        default_factory=EarlyStoppingConfig, description="when to end before the last epoch"
    )
    max_training_time_s: float | None = Field(
        default=None,
        gt=0,
        le=3_153_600_000,
        description="end after so many seconds, over all resumes; null: no limit, as private steps need it",
    )
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
        default=(),
        max_length=1000,
        description="package.module:factory of Keras callbacks, each called without arguments",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="fixes the split, the order, the weights and the dropout")


class PrivacyConfig(Section):
    """Differential privacy."""

    enabled: bool = Field(default=False, description="train with differential privacy")
    unit: ColumnName | None = Field(
        default=None,
        description="protect all records with the same value of this column together, such as a customer's; null: each",
    )
    max_records_per_unit: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="with unit: how many records of one value are looked at together; more are left out",
    )
    method: Literal["steps", "marginals"] | None = Field(
        default=None,
        description="steps: noise in each; marginals: train on draws by noisy counts; null: these for a table",
    )
    draws: int = Field(
        default=150_000, ge=1_000, le=2_000_000, description="method marginals: records to draw and train on"
    )
    # Its largest: 1e6 makes epsilon 0 in 4 digits, and times the largest clip and 5 deviations still is a float32.
    noise_multiplier: float | None = Field(
        default=None, ge=0, le=1e6, description="noise standard deviation over l2_norm_clip"
    )
    # Below it the accountants say 0, or nothing.
    target_epsilon: float | None = Field(
        default=None, ge=1e-6, le=1e9, description="find the noise that ends at this epsilon; never pass it"
    )
    # Sums of clipped float32 gradients neither vanish nor overflow in between.
    l2_norm_clip: float = Field(
        default=1.0, ge=1e-12, le=1e12, description="largest norm of the gradient of a record, or of a unit's"
    )
    delta: float | None = Field(default=None, gt=0, lt=1, description="null: 1/n^1.1, rounded down to one digit")
    accountant: Literal["pld", "rdp"] = Field(default="pld", description="how epsilon is computed: pld or rdp")
    max_epsilon: float | None = Field(
        default=None, gt=0, le=1e9, description="never pass this epsilon, earlier runs on the same files included"
    )
    schema_epsilon: float | None = Field(
        default=None,
        ge=1e-6,
        le=1e9,
        description="of fields: what is looked up in the records costs this; null: 20% of target_epsilon, where any is",
    )
    canaries: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="made-up records to train on, each by a secret coin, to measure what the run leaks; 0: none",
    )
    vocabulary: Literal["public", "private"] | None = Field(
        default=None,
        description="public: tokenizer.uri was made without these records; private: accept a vocabulary made from them",
    )

    @property
    def sensitivity(self) -> int:
        """The most records of one unit in a count of records: by how much emptying them changes it."""
        return self.max_records_per_unit or 1

    @field_validator("noise_multiplier")
    @classmethod
    def _noise_can_be_accounted_for(cls, noise: float | None) -> float | None:
        if noise is not None and 0 < noise < LEAST_NOISE:
            raise ValueError(f"{noise:g} is next to no noise; give at least {LEAST_NOISE:g}, or 0 for none")
        return noise

    @model_validator(mode="after")
    def _unit_and_its_bound(self) -> PrivacyConfig:
        if self.unit is not None and self.max_records_per_unit is None:
            raise ValueError(f"unit {self.unit} needs max_records_per_unit: how many records of one value may count")
        if self.unit is None and self.max_records_per_unit is not None:
            raise ValueError("max_records_per_unit needs unit, the column that tells whose a record is")
        if self.enabled and self.unit is not None and self.noise_multiplier == 0:
            raise ValueError(f"noise_multiplier 0 protects no {self.unit}; give noise, or leave out unit")
        return self

    @model_validator(mode="after")
    def _noise_or_target(self) -> PrivacyConfig:
        if not self.enabled:
            return self
        if self.noise_multiplier is None and self.target_epsilon is None:
            raise ValueError("enabled needs noise_multiplier, or target_epsilon to find it")
        if self.noise_multiplier is not None and self.target_epsilon is not None:
            raise ValueError("noise_multiplier and target_epsilon exclude each other; set one to null")
        part, whole = self.schema_epsilon, self.target_epsilon
        if part is not None and whole is not None and part >= whole:
            raise ValueError(f"schema_epsilon {part:g} is a part of target_epsilon {whole:g}; give less than that")
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


class StorageConfig(Section):
    """Where runs are kept."""

    uri: Uri = Field(default="runs/", description="folder of run directories, local or s3://bucket/prefix")
    overwrite: bool = Field(default=False, description="replace a run of the same name; other files stay")
