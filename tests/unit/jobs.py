"""Jobs to try the config on: the smallest one with a value put in, every field, and the lines of a refusal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic.fields import FieldInfo

from runner.config import JobConfig, Section, parse_job
from runner.errors import ConfigError

JOB: dict[str, Any] = {"name": "demo", "data": {"uri": "records/"}}


def every_field(section: type[Section] = JobConfig, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Path and definition of each field, sections included."""
    for name, field in section.model_fields.items():
        yield prefix + name, field
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, Section):
            yield from every_field(nested, f"{prefix}{name}.")


FIELDS = dict(every_field())
SECTIONS = [
    "",
    *(
        f"{path}."
        for path, field in FIELDS.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    ),
]


def job_with(path: str, value: Any) -> dict[str, Any]:
    """The smallest job, with one value put in."""
    job: dict[str, Any] = {"name": "demo", "data": {"uri": "records/"}}
    section = job
    *parents, name = path.split(".")
    for parent in parents:
        section = section.setdefault(parent, {})
    section[name] = value
    return job


def value_at(config: JobConfig, path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def refusal(job: Any, *overrides: str, environment: dict[str, str] | None = None) -> list[str]:
    """The lines with which a job is refused."""
    with pytest.raises(ConfigError) as caught:
        parse_job(job, overrides, environment or {})
    assert caught.value.exit_code == 2
    return str(caught.value).splitlines()
