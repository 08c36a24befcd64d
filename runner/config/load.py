"""Reading a job: the file, the environment and the command line put together, and each mistake as one line."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import ValidationError

from runner.config.job import JobConfig
from runner.config.section import Section
from runner.errors import ConfigError

ENVIRONMENT_PREFIX = "RUNNER_"


class _Loader(yaml.SafeLoader):
    """Takes `=` for a text, as all of YAML but its version 1.1 does."""


_Loader.add_constructor("tag:yaml.org,2002:value", _Loader.construct_scalar)


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
        document = _Loader(text).get_single_data()
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
        return _Loader(text).get_single_data()
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
        if get_origin(annotation) in (dict, tuple):
            next(parts, None)  # the user's key, or the number in a list
        candidates = [annotation, *get_args(annotation)]
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, Section))
    return list(section.model_fields)


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)
