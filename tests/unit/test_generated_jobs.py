"""Whatever the JSON Schema takes is a job that is written, planned and checked, or is refused line by line."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.config import JobConfig, json_schema, parse_job, read_document
from runner.errors import RunnerError
from runner.submit.plan import plan_submission
from runner.sweep.space import check_sweep
from tests.unit.schema_values import values

SCHEMA = json_schema()
SECTIONS = sorted(set(SCHEMA["properties"]) - {"name", "data"})
SWEPT = (
    "model.dropout_rate",
    "model.layers",
    "training.epochs",
    "training.optimizer.learning_rate",
    "training.optimizer.ema_momentum",
    "training.epoch_callback",
    "tokenizer.alphabet",
    "examples.seq_length",
    "privacy.delta",
    "privacy.noise_multiplier",
    "data.columns",
    "generation.columns",
    "training.optimizer",
    "no.such",
)
MOST_TRIALS = 5
OLD_READER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Of YAML 1.1: other software, and this project once."""
QUICK = settings(
    max_examples=int(__import__("os").environ.get("N", "20")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


def shape_of(section: str) -> dict[str, Any]:
    return SCHEMA["properties"][section]


def with_swept_fields(document: dict[str, Any], draw: Any) -> dict[str, Any]:
    """The document with a sweep over fields that there are, and of few trials."""
    if document.get("sweep"):
        parameters = document["sweep"]["parameters"]
        paths = draw(st.lists(st.sampled_from(SWEPT), min_size=len(parameters), max_size=len(parameters), unique=True))
        document["sweep"]["parameters"] = dict(zip(paths, parameters.values(), strict=True))
        document["sweep"]["trials"] = min(document["sweep"].get("trials") or MOST_TRIALS, MOST_TRIALS)
    return document


@st.composite
def jobs(draw: Any) -> dict[str, Any]:
    return with_swept_fields(draw(values(SCHEMA, SCHEMA["$defs"])), draw)


@st.composite
def jobs_with(draw: Any, section: str) -> dict[str, Any]:
    """A job that is good but for one section, of which nobody knows."""
    document = {"name": "demo", "data": {"uri": "records/", "field_delimiter": ","}}
    return with_swept_fields(document | {section: draw(values(shape_of(section), SCHEMA["$defs"]))}, draw)


def check_line_by_line(error: RunnerError, start: str = "") -> None:
    lines = str(error).splitlines()
    assert error.exit_code == 2
    assert lines
    assert all(line.startswith(start) and line == line.strip() and len(line) < 3000 for line in lines)


def check(document: dict[str, Any]) -> bool:
    """A job that reads back as it is, can be planned and has a sweep that can be made; or lines that say why not.

    Returns whether it is a job.
    """
    before = copy.deepcopy(document)
    try:
        config = parse_job(document, environment={})
    except RunnerError as error:
        check_line_by_line(error, "job: ")
        return False
    assert document == before
    check_reads_back(config)
    for target, address in [("local", None), ("ray", "http://head:8265"), ("kubernetes", None)]:
        try:
            plan = plan_submission(config, target, address=address, environment={})
        except RunnerError as error:
            check_line_by_line(error)
        else:
            shown = list(yaml.load_all(plan.to_yaml(), OLD_READER))
            assert shown == list(plan.manifests or [plan.to_dict()])
    if config.sweep is not None:
        try:
            check_sweep(config)
        except RunnerError as error:
            check_line_by_line(error)
    return True


def check_reads_back(config: JobConfig) -> None:
    text = config.to_yaml()
    assert parse_job(read_document(text), environment={}) == config
    assert parse_job(yaml.load(text, OLD_READER), environment={}) == config


@QUICK
@given(jobs())
def test_any_job_that_the_schema_takes_is_one_or_refused(document: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    check(document)


@pytest.mark.parametrize("section", SECTIONS)
def test_any_section_that_the_schema_takes_is_one_or_refused(section: str) -> None:
    outcomes: list[bool] = []

    @QUICK
    @given(jobs_with(section))
    def check_each(document: dict[str, Any]) -> None:
        outcomes.append(check(document))

    check_each()
    assert any(outcomes), "or nothing but refusals was looked at"
