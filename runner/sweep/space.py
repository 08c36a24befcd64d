"""What a sweep tries: the values of each trial, and the job that a trial runs.

    >>> config = parse_job({"name": "demo", "data": {"uri": "records/"}, "sweep": {
    ...     "parameters": {"model.rnn_units": {"choice": [64, 128]}, "model.dropout_rate": {"uniform": [0, 0.5]}}}})
    >>> draw_values(sweep_of(config), 0)
    {'model.rnn_units': 64, 'model.dropout_rate': 0.12077459828135906}
    >>> trial_job(config, 3, {"model.rnn_units": 64}).name
    'demo-003'

Random and grid values are pure functions of the sweep's section and the trial's number.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from runner.config import JobConfig, ParameterConfig, Section, SweepConfig, parse_job
from runner.errors import ConfigError

DEFAULT_TRIALS = 10
MOST_TRIALS = 10_000
FIXED = ("name", "sweep", "storage", "resources")
"""Sections that are the sweep's own."""
MAKES_TOKENS = ("data", "fields", "tokenizer", "examples")
"""Sections that tokens depend on."""
LONGEST_NAME = 63

Values = dict[str, Any]
"""From a field's path to its value in a trial."""


def sweep_of(config: JobConfig) -> SweepConfig:
    """The job's sweep, which must be there."""
    assert config.sweep is not None
    return config.sweep


def trial_count(sweep: SweepConfig) -> int:
    """How many trials are made; a grid has at most as many as it has points."""
    if sweep.search != "grid":
        return sweep.trials or DEFAULT_TRIALS
    points = math.prod(len(_points(parameter)) for parameter in sweep.parameters.values())
    return min(sweep.trials or points, points)


def metric_of(sweep: SweepConfig) -> tuple[str, bool]:
    """The metric that ranks the trials, and whether larger is better."""
    metric = sweep.metric or "val_loss"
    return metric, sweep.mode == "max" if sweep.mode else metric.endswith("accuracy")


def longest_trial(config: JobConfig) -> int:
    """The most epochs that a trial may take."""
    parameter = sweep_of(config).parameters.get("training.epochs")
    return config.training.epochs if parameter is None else int(max(_ends(parameter)))


def draw_values(sweep: SweepConfig, number: int) -> Values:
    """The values of trial `number`, of search random or grid."""
    if sweep.search == "grid":
        values: Values = {}
        for path, parameter in reversed(sweep.parameters.items()):  # The last parameter changes fastest.
            points = _points(parameter)
            number, place = divmod(number, len(points))
            values[path] = points[place]
        return dict(reversed(values.items()))
    generator = np.random.Generator(np.random.Philox(key=[sweep.seed, number]))
    return {path: _draw(parameter, generator) for path, parameter in sweep.parameters.items()}


def trial_job(config: JobConfig, number: int, values: Mapping[str, Any]) -> JobConfig:
    """The job of a trial: a run of its own beside the sweep's directory, named after it.

    Raises:
        ConfigError: the values do not make a job.
    """
    document = config.model_dump(mode="json") | {"sweep": None, "name": trial_name(config, number)}
    for path, value in values.items():
        section = document
        *sections, field = path.split(".")
        for name in sections:
            section = section[name]
        section[field] = value
    shown = ", ".join(f"{path} {value!r}" for path, value in values.items())
    return parse_job(document, environment={}, source=f"sweep ({shown})")


def trial_name(config: JobConfig, number: int) -> str:
    """The same however many trials there are: a resume can add more."""
    return f"{config.name}-{number:03d}"


def token_jobs(config: JobConfig) -> list[JobConfig]:
    """Jobs that between them need all tokens that the trials will."""
    sweep = sweep_of(config)
    paths = [path for path in sweep.parameters if path.split(".")[0] in MAKES_TOKENS]
    if sweep.search == "optuna":
        points = itertools.product(*(_points(sweep.parameters[path]) for path in paths))
        values = [dict(zip(paths, point, strict=True)) for point in points]
    else:
        drawn = (draw_values(sweep, number) for number in range(trial_count(sweep) if paths else 1))
        values = [{path: each[path] for path in paths} for each in drawn]
    different = {exact_text(each): each for each in values}
    return [trial_job(config, 0, each) for each in different.values()]


def token_settings(job: JobConfig) -> str:
    """The settings that the job's tokens depend on, the same text for the same settings."""
    return exact_text(job.model_dump(mode="json", include=set(MAKES_TOKENS)))


def value_at(job: JobConfig, path: str) -> Any:
    """A field's value as the job's file has it."""
    value: Any = job.model_dump(mode="json")
    for name in path.split("."):
        value = value[name]
    return value


def exact_text(value: Any) -> str:
    """A value as JSON: unlike values, the texts of 1, true and 1.0 differ.

    >>> exact_text([1, True, 1.0, None]), exact_text({"b": "ü", "a": float("nan")})
    ('[1, true, 1.0, null]', '{"a": NaN, "b": "\\\\u00fc"}')
    """
    return json.dumps(value, sort_keys=True, default=str)


def check_sweep(config: JobConfig) -> None:
    """Whether the sweep can be made: every path is a field, and the ends of every range make a job.

    Raises:
        ConfigError: in one line for each mistake.
    """
    sweep = sweep_of(config)
    if trial_count(sweep) > MOST_TRIALS:
        raise ConfigError(f"sweep: {trial_count(sweep):,} trials are more than {MOST_TRIALS:,}; set sweep.trials")
    if len(trial_name(config, trial_count(sweep) - 1)) > LONGEST_NAME:
        raise ConfigError(f"name: {config.name} and a trial's number have more than {LONGEST_NAME} characters")
    if config.privacy.enabled and sweep.metric is None:
        raise ConfigError(
            "sweep.metric: a private sweep has to say by which metric it picks: it is exact, and epsilon does not "
            "cover that choice"
        )
    if sweep.search == "optuna" and find_spec("optuna") is None:
        raise ConfigError("sweep.search is optuna, which is not installed; pip install optuna")
    metric, _ = metric_of(sweep)
    if metric.startswith("val_") and not config.training.validation_split:
        raise ConfigError(f"sweep.metric is {metric}, but training.validation_split is off; use loss")
    for path, parameter in sweep.parameters.items():
        _check_path(path)
        if sweep.search == "optuna" and path.split(".")[0] in MAKES_TOKENS and _is_continuous(parameter):
            raise ConfigError(f"sweep.parameters: with search optuna, {path} needs choice or int")
    mistakes: list[str] = []
    for path, parameter in sweep.parameters.items():
        for value in _ends(parameter):
            try:
                trial_job(config, 0, {path: value})
            except ConfigError as error:
                mistakes.append(str(error))
    if not mistakes and sweep.search != "optuna":
        for number in range(trial_count(sweep)):  # Values that are fine alone may not be so together.
            trial_job(config, number, draw_values(sweep, number))
    if mistakes:
        raise ConfigError(*dict.fromkeys(mistakes))


def _check_path(path: str) -> None:
    if path.split(".")[0] in FIXED:
        raise ConfigError(f"sweep.parameters: {path} cannot be swept; all trials share {', '.join(FIXED)}")
    if path == "privacy.enabled":
        raise ConfigError(f"sweep.parameters: {path} cannot be swept; all trials are private, or none is")
    if path == "privacy.unit":
        raise ConfigError(f"sweep.parameters: {path} cannot be swept; what trials cost adds up for one unit alone")
    section: type[Section] | None = JobConfig
    for name in path.split("."):
        if section is None or name not in section.model_fields:
            known = [] if section is None else section.model_fields
            hint = f"; known there: {', '.join(known)}" if known else ""
            raise ConfigError(f"sweep.parameters: {path} is not a field of a job{hint}")
        kind = section.model_fields[name].annotation
        section = kind if isinstance(kind, type) and issubclass(kind, Section) else None
    if section is not None:
        raise ConfigError(f"sweep.parameters: {path} is a section; name one of {', '.join(section.model_fields)}")


def _draw(parameter: ParameterConfig, generator: np.random.Generator) -> Any:
    if parameter.choice is not None:
        return parameter.choice[int(generator.integers(len(parameter.choice)))]
    if parameter.integers is not None:
        return int(generator.integers(*parameter.integers, endpoint=True))
    if parameter.uniform is not None:
        low, last = _ends(parameter)
        return min(float(generator.uniform(*parameter.uniform)), last)
    assert parameter.log_uniform is not None
    low, last = _ends(parameter)
    return min(max(float(np.exp(generator.uniform(*np.log(parameter.log_uniform)))), low), last)


def _points(parameter: ParameterConfig) -> Any:
    """The values of a grid, of a parameter that is not continuous."""
    if parameter.choice is not None:
        return parameter.choice
    assert parameter.integers is not None
    return range(parameter.integers[0], parameter.integers[1] + 1)


def _is_continuous(parameter: ParameterConfig) -> bool:
    return parameter.choice is None and parameter.integers is None


def _ends(parameter: ParameterConfig) -> tuple[Any, ...]:
    """Values that stand for all: every choice, or the least and the largest that is drawn of a range."""
    if (given := parameter.choice or parameter.integers) is not None:
        return given
    between = parameter.uniform or parameter.log_uniform
    assert between is not None
    low, high = between
    return low, math.nextafter(high, low)  # Rounded, a number drawn below high can be high.
