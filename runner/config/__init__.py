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

from runner.config.document import read_document, write_document, write_inline
from runner.config.fields import FieldConfig, undeclared
from runner.config.generation import ColumnRule, GenerationConfig
from runner.config.job import JobConfig
from runner.config.kubernetes import NAMESPACE_VARIABLE, KubernetesConfig, PodConfig
from runner.config.load import json_schema, load_job, parse_job
from runner.config.section import Section
from runner.config.sweep import ParameterConfig, SweepConfig
from runner.config.training import DataConfig, EarlyStoppingConfig, ResourcesConfig, TrainingConfig

__all__ = [
    "NAMESPACE_VARIABLE",
    "ColumnRule",
    "DataConfig",
    "EarlyStoppingConfig",
    "FieldConfig",
    "GenerationConfig",
    "JobConfig",
    "KubernetesConfig",
    "ParameterConfig",
    "PodConfig",
    "ResourcesConfig",
    "Section",
    "SweepConfig",
    "TrainingConfig",
    "json_schema",
    "load_job",
    "parse_job",
    "read_document",
    "undeclared",
    "write_document",
    "write_inline",
]
