"""Reading a job: the file, the environment and the command line put together, and each mistake as one line."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import ValidationError

from runner.config.document import Written, parse_document, read_document, resolve, write_inline
from runner.config.job import JobConfig
from runner.config.section import FORMS, Section, alternatives, item_kinds
from runner.config.sweep import ParameterConfig
from runner.errors import ConfigError

ENVIRONMENT_PREFIX = "RUNNER_"
OF_A_NAME = "of letters, digits, '.', '_' and '-', starting with a letter or digit"
TAG = "kind"
"""The key by which one of several sections says which it is."""
LONGEST_SHOWN = 1000
"""Characters of a message, and of a wrong value in it: a text may be a million."""


def load_job(path: Path, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> JobConfig:
    """Read and check a job file; `overrides` are `a.b=value`, as given to `--set`.

    Raises:
        ConfigError: with one line for each mistake.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such job file; `runner init {path}` writes one") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    document = read_document(text, str(path))
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a job is a mapping of sections (name, data, training, ...), not {_kind(document)}")
    config = parse_job(document, overrides, environment, source=str(path))
    delimiter = config.data.field_delimiter
    if delimiter is not None and re.fullmatch(r"\\[a-z0-9].*", delimiter):
        # Not in the schema: records of runs that are there may have been joined by it.
        raise ConfigError(
            f"{path}: data.field_delimiter: {delimiter} is a backslash and {delimiter[1:]!r}; "
            f'for an escape use double quotes: "{delimiter}"'
        )
    if config.privacy.schema_epsilon is not None and not config.privacy.enabled:
        raise ConfigError(
            f"{path}: privacy.schema_epsilon: it pays for what is looked up with noise, and privacy.enabled is false; "
            "leave it out, or enable privacy"
        )
    return config


def parse_job(
    document: Mapping[str, Any],
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    source: str = "job",
) -> JobConfig:
    """Check a job given as nested mappings, after the environment's and the command line's values are put in."""
    merged = _copy(document)
    sources: dict[str, str] = {}  # who set a field, where it was not the file
    for variable, words, value in _environment_values(os.environ if environment is None else environment):
        name = f"environment variable {variable}"
        key = _as_path(words, "__", merged, name)
        sources |= dict.fromkeys(_put(merged, key, _parse_value(value, name), name), name)
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {override}: write it as section.field=value")
        name = f"--set {override}"
        path = _as_path(key.split("."), ".", merged, name)
        sources |= dict.fromkeys(_put(merged, path, _parse_value(value, name), name), name)
    try:
        return JobConfig.model_validate(_settle(merged, JobConfig))
    except ValidationError as error:
        mistakes = [
            dict(item) | {"loc": _locate(item["loc"])[0], "tagged": item["loc"]} for item in _own_mistakes(error)
        ]
        raise ConfigError(
            *(f"{sources.get(_path(item), source)}: {_explain(item, merged)}" for item in mistakes)
        ) from None


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a job file, for editors and checks elsewhere."""
    return JobConfig.model_json_schema()


def _environment_values(environment: Mapping[str, str]) -> Iterator[tuple[str, list[str], str]]:
    """Variable, words and value of each `RUNNER_TRAINING__EPOCHS=3`.

    Variables without `__` are not ours: GitHub's CI sets RUNNER_NAME, for one.
    """
    for variable, value in sorted(environment.items()):
        words = variable.removeprefix(ENVIRONMENT_PREFIX).split("__")
        if variable.startswith(ENVIRONMENT_PREFIX) and len(words) > 1:
            yield variable, words, value


def _as_path(words: Sequence[str], mark: str, document: Mapping[str, Any], source: str) -> list[str]:
    """The keys that words between such marks lead to: `RUNNER_FIELDS__Age__RANGE` and `--set fields.Age.range`.

    A variable has the names of a section's fields in either case. Of a user's own keys, such as those of columns, the
    job's are known, also where they have the mark inside or, in a variable, are written in another case.
    """
    kind: Any = JobConfig
    place: Any = document
    left, path = list(words), list[str]()
    is_variable = mark == "__"
    while left:
        sections, own = _sections_of(kind), place if isinstance(place, dict) else {}
        size, key = 1, left[0].lower() if sections and is_variable else left[0]
        if not sections:
            size, key = _own_key(left, mark, own, source if is_variable else None) or (1, key)
        path.append(key)
        left, place = left[size:], own.get(key)
        inner = [_kinds_of(section).get(key, Any) for section in sections]
        kind = inner[0] if inner else _item_kind(kind)
    return path


def _own_key(words: Sequence[str], mark: str, own: Mapping[str, Any], variable: str | None) -> tuple[int, str] | None:
    """How many of the words are one of a user's own keys, and which; of several the longest. None for a new one.

    Raises:
        ConfigError: two keys differ from a variable's in their case alone.
    """
    for size in range(len(words), 0, -1):
        name = mark.join(words[:size])
        if name in own:
            return size, name
        alike = [key for key in own if variable is not None and key.lower() == name.lower()]
        if len(alike) > 1:
            raise ConfigError(f"{variable}: it may mean {' or '.join(alike)}; write it as in the job")
        if alike:
            return size, alike[0]
    return None


def _parse_value(text: str, source: str) -> Any:
    """The value as in a YAML file; but what is neither in quotes nor a list or mapping is taken whole.

    So a delimiter such as `|`, `#` or `: `, which YAML gives a meaning, is itself.
    """
    if not any(character.isalnum() or character in "[{\"'" for character in text):
        return text or None
    if text[0] in "[{\"'":
        try:
            return parse_document(text, source)
        except yaml.YAMLError:
            return text
    value = resolve(text.strip())
    return text if isinstance(value, str) else Written(text, value.value) if isinstance(value, Written) else value


def _put(document: dict[str, Any], key: Sequence[str], value: Any, source: str) -> list[str]:
    """Set a field, or each field that a mapping gives for a section; returns their paths."""
    path = ".".join(key)
    kind = _kind_at(path)
    inside = _section_of(kind)
    if inside is not None and isinstance(value, dict) and value:
        return [each for name, inner in value.items() for each in _put(document, [*key, name], inner, source)]
    if inside is not None and not value and NoneType not in alternatives(kind):
        field = next(iter(_kinds_of(inside)))
        raise ConfigError(f"{source}: {path} is a section; set its fields, such as {path}.{field}")
    section = document
    for part in key[:-1]:
        if section.get(part) is None:
            section[part] = {}
        section = section[part]
        if not isinstance(section, dict):
            raise ConfigError(f"{source}: {part} is not a section")
    section[key[-1]] = value
    return [path]


def _copy(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, dict) else value for key, value in document.items()}


def _settle(value: Any, kind: Any, place: Sequence[str] = ()) -> Any:
    """Each `Written` in a value at `place` as what `kind`, a field's type, takes: its text, or what it means."""
    kinds = alternatives(kind)
    if isinstance(value, Written):
        takes_text = any(each is str or get_origin(each) is Literal for each in kinds)
        return value.text if takes_text and not {int, float, bool} & set(kinds) else value.value
    if isinstance(value, list):
        return [_settle(each, inner, place) for each, inner in zip(value, item_kinds(kind, len(value)), strict=True)]
    if not isinstance(value, dict):
        return value
    section = _section_of(kind, value.get(TAG))
    inner = _item_kind(kind)
    settled: dict[str, Any] = {}
    for key, each in value.items():
        if section is ParameterConfig and key == "choice":
            inner_kind = tuple[_kind_at(place[-1]), ...]  # What the swept field takes.
            each = _as_read(each)
        else:
            inner_kind = inner if section is None else _kinds_of(section).get(key, Any)
        settled[key] = _settle(each, inner_kind, (*place, str(key)))
    return settled


def _as_read(value: Any) -> Any:
    """Plain numbers and switches as they are written in a file, and read from it again."""
    if isinstance(value, list):
        return [_as_read(each) for each in value]
    return Written(write_inline(value), value) if isinstance(value, (bool, int, float)) else value


def _kinds_of(section: type[Section]) -> dict[str, Any]:
    """From each key of a section to its type."""
    return {field.alias or name: field.annotation for name, field in section.model_fields.items()}


def _sections_of(kind: Any) -> list[type[Section]]:
    """The sections that a field of this type may hold; of several, each says by its `kind` which it is."""
    return [each for each in alternatives(kind) if isinstance(each, type) and issubclass(each, Section)]


def _section_of(kind: Any, tag: Any = None) -> type[Section] | None:
    """The section that a field of this type holds, if any; of several the one with this tag."""
    sections = _sections_of(kind)
    tag = tag.text if isinstance(tag, Written) else tag
    return next((each for each in sections if len(sections) == 1 or tag in _tags(each)), None)


def _tags(section: type[Section]) -> tuple[Any, ...]:
    """What the key `kind` of one of several sections may say."""
    return get_args(section.model_fields[TAG].annotation)


def _item_kind(kind: Any) -> Any:
    """The type of a mapping's values, or of a list's items; Any where it is none."""
    inner = [get_args(each) for each in alternatives(kind) if get_origin(each) in (dict, tuple)]
    return next((each[1] if len(each) == 2 and each[1] is not Ellipsis else each[0] for each in inner), Any)


def _kind_at(path: str) -> Any:
    """The type of the field at a path such as `model.layers`; Any where there is none."""
    kind: Any = JobConfig
    for name in path.split("."):
        section = _section_of(kind)
        kind = Any if section is None else _kinds_of(section).get(name, Any)
    return kind


def _locate(place: Sequence[str | int]) -> tuple[tuple[str | int, ...], Any]:
    """A place in the job by its keys alone, and its type: pydantic names between them which of several sections one is.

    >>> _locate(("fields", "age", "integer", "bins"))
    (('fields', 'age', 'bins'), <class 'int'>)
    """
    kind: Any = JobConfig
    path: list[str | int] = []
    for part in place:
        if len(_sections_of(kind)) > 1:
            kind = _section_of(kind, part)
            continue
        path.append(part)
        section = _section_of(kind)
        kind = _item_kind(kind) if section is None else _kinds_of(section).get(str(part), Any)
    return tuple(path), kind


def _as_written(document: Any, error: Mapping[str, Any]) -> str:
    """The value that an error is about, in the user's words."""
    value = document
    for part in error["loc"]:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return _kind(error["input"])
    return _kind(value if isinstance(value, Written) else error["input"])


def _own_mistakes(error: ValidationError) -> list[Any]:
    """The errors, without those of lists that are too short because their items are wrong."""
    found = error.errors()
    inner = {each["loc"][:-1] for each in found}
    return [each for each in found if each["type"] != "too_short" or each["loc"] not in inner]


def _path(error: Mapping[str, Any]) -> str:
    return ".".join(str(part) for part in error["loc"])


def _explain(error: dict[str, Any], document: Mapping[str, Any]) -> str:
    """One pydantic error as `section.field: what is wrong`."""
    where, found = _shortened(_path(error)), _as_written(document, error)
    path = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        known = _field_names(error["tagged"][:-1])
        close = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
        return f"{where}: unknown key; {hint}"
    if error["type"] == "model_type":
        return f"{where}: should be a mapping of {', '.join(_field_names(error['tagged']))}, got {found}"
    if error["type"] == "missing":
        return f"{where}: required, but not set"
    if error["type"].startswith("union_tag_"):
        known = ", ".join(tag for each in _sections_of(_locate(error["tagged"])[1]) for tag in _tags(each))
        if not isinstance(error["input"], dict):
            return f"{where}: should be a mapping with the key {TAG}, one of {known}; got {found}"
        tag = error["input"].get(TAG)
        return (
            f"{where}.{TAG}: {'required, but not set' if tag is None else f'there is no {tag!r}'}; it is one of {known}"
        )
    if error["type"] == "string_pattern_mismatch" and "pattern" in error.get("ctx", {}):
        form = FORMS.get(error["ctx"]["pattern"], OF_A_NAME)
        return f"{where}: {found} does not have the form {form}"
    message = _shortened(error["msg"].removeprefix("Value error, "))
    if error["type"] == "value_error":
        return f"{where}: {message}" if where else message
    message = message[0].lower() + message[1:]
    return f"{where}: {message}, got {found}"


def _field_names(place: Sequence[str | int]) -> list[str]:
    """The keys that the section at a place may have."""
    section = _section_of(_locate(place)[1])
    return [] if section is None else list(section.model_fields)


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    return _shortened(value.text if isinstance(value, Written) else repr(value))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}... ({len(text):,} characters)"
