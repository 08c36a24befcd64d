"""Whatever the JSON Schema takes is a job that is written, planned and checked, or is refused line by line."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
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
from tests.unit.jobs import FIELDS
from tests.unit.schema_values import ODD, values

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
    max_examples=10,
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
    document = {"name": "demo", "data": {"uri": "records/"} | ({} if section == "fields" else {"field_delimiter": ","})}
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


KEYS = {
    "fields": "integer",
    "generation.columns": "text",
    "sweep.parameters": "tokenizer.alphabet",
    "kubernetes.environment": "X",
    "kubernetes.volume_claims": "claim",
    "kubernetes.head.node_selector": "disk",
    "kubernetes.worker.node_selector": "disk",
}
"""Of mappings with keys of the user's: one that fits."""
Path = tuple[str | int, ...]


def leaves(shape: dict[str, Any], path: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every place of a job that holds no more places, with what the schema says of it."""
    if "$ref" in shape:
        yield from leaves(SCHEMA["$defs"][shape["$ref"].rpartition("/")[2]], path)
    elif "anyOf" in shape:
        for each in shape["anyOf"]:
            yield from leaves(each, path)
    elif "oneOf" in shape:  # Of the kinds of fields, each in a column named after it.
        for each in shape["oneOf"]:
            kind = SCHEMA["$defs"][each["$ref"].rpartition("/")[2]]["properties"]["kind"]["const"]
            yield from leaves(each, (*path[:-1], kind))
    elif "properties" in shape:
        for name, each in shape["properties"].items():
            yield from leaves(each, (*path, name))
    elif shape.get("type") == "array" and "items" in shape:
        yield path, shape
        yield from leaves(shape["items"], (*path, 0))
    elif shape.get("type") == "array":
        for place in range(2):
            yield from leaves(shape["prefixItems"][place], (*path, place))
    elif shape.get("type") == "object":
        inner = shape.get("additionalProperties") or next(iter(shape["patternProperties"].values()))
        yield path, shape
        yield from leaves(inner, (*path, KEYS[".".join(map(str, path))]))
    else:
        yield path, shape


def job_of(path: Path, value: Any) -> dict[str, Any]:
    """The smallest job with a value at a place; the other end of a range is far away."""
    for part in reversed(path):
        value = {part: value} if isinstance(part, str) else [value, 1e6] if part == 0 else [1, value]
    document = {"name": "demo", "data": {"uri": "r/", "field_delimiter": ","}, **value}
    if path[0] == "fields":
        del document["data"]["field_delimiter"]
        if len(path) > 2:
            document["fields"][path[1]].setdefault("kind", path[1])
    if path[0] == "data":
        document["data"] = {"uri": "r/", "field_delimiter": ",", **value["data"]}
    if path[-1] == 0 and path[-2] not in ("range", "uniform", "log_uniform", "int"):
        place = document
        for part in path[:-2]:
            place = place[part]
        del place[path[-2]][1]
    return document


def edges(shape: dict[str, Any]) -> list[Any]:
    """Values at the ends of what a place takes, beyond them, and of other types."""
    kind = shape.get("type")
    found: list[Any] = [None, True, 0, -0.0, 1.5, math.nan, math.inf, "", [], {}, 10**400, *ODD]
    if kind in ("integer", "number"):
        ends = [shape[each] for each in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum") if each in shape]
        found += [1, 5e-324, 1e-40, 1e308, "1", "1_0", *ends, *(end + sign for end in ends for sign in (1, -1))]
        found += [math.nextafter(end, towards) for end in ends for towards in (math.inf, -math.inf)]
    if kind == "string":
        found += ["x" * length for length in (1, 8, shape.get("maxLength", 0), shape.get("maxLength", 0) + 1)]
    if kind == "array":
        found += [["a"], ["a", "a"], ["a:b", "a:b"], [""], ["x"] * 3]
    if kind == "object":
        found += [{"": {}}, {"a": "b"}, {"\udcff": "x"}, {"x" * 2000: {}}, {"a": None}]
    return found


PLACES: dict[Path, list[Any]] = {}
for place, shape in leaves(SCHEMA):
    PLACES.setdefault(place, []).extend(edges(shape))


def test_every_field_of_a_job_is_one_of_the_places() -> None:
    paths = {".".join(map(str, place)) for place in PLACES}
    assert paths >= {path for path in FIELDS if not any(other.startswith(f"{path}.") for other in FIELDS)} - {
        "sweep",
        "kubernetes",
    }
    assert {"sweep.parameters.tokenizer.alphabet.choice", "kubernetes.head.tolerations.0.key"} < paths


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_no_value_of_a_field_ends_in_what_nobody_expected(place: Path) -> None:
    for value in {repr(each): each for each in PLACES[place]}.values():
        document = job_of(place, value)
        try:
            config = parse_job(document, environment={})
        except RunnerError as error:
            check_line_by_line(error, "job: ")
            continue
        check_reads_back(config)
        if config.sweep is not None:
            try:
                check_sweep(config)
            except RunnerError as error:
                check_line_by_line(error)


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
