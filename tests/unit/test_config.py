"""A job file is checked whole: every mistake gets its line, and what passes reads back the same."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import yaml
from annotated_types import Ge, Gt, Le, Lt

from runner.config import json_schema, parse_job
from tests.unit.jobs import FIELDS, JOB, SECTIONS, job_with, refusal

NUMBERS = {
    path: field for path, field in FIELDS.items() if {int, float} & {field.annotation, *get_args(field.annotation)}
}


# What the schema promises


@pytest.mark.parametrize("path", FIELDS)
def test_every_field_says_in_one_line_what_it_is_for(path: str) -> None:
    description = FIELDS[path].description
    assert description
    assert "\n" not in description
    assert len(description) <= 100


@pytest.mark.parametrize("path", NUMBERS)
def test_every_number_is_bounded_and_refused_beyond_its_bounds(path: str) -> None:
    kinds = {type(bound): bound for bound in NUMBERS[path].metadata}
    lower, upper = kinds.get(Ge) or kinds.get(Gt), kinds.get(Le) or kinds.get(Lt)
    assert lower is not None
    low = lower.ge - 1 if isinstance(lower, Ge) else lower.gt
    (line,) = refusal(job_with(path, low))
    assert line.startswith(f"job: {path}: ")
    assert line.endswith(f"got {low!r}")
    assert upper is not None
    high = upper.le + 1 if isinstance(upper, Le) else upper.lt
    assert refusal(job_with(path, high))[0].startswith(f"job: {path}: ")


@pytest.mark.parametrize("path", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "many", [1], {"a": 1}])
def test_what_is_not_a_finite_number_is_refused_where_a_number_belongs(path: str, value: Any) -> None:
    lines = refusal(job_with(path, value))
    assert len(lines) == 1
    assert lines[0].startswith(f"job: {path}: ")


@pytest.mark.parametrize("path", [path for path, field in FIELDS.items() if field.annotation in (str, bool)])
def test_texts_and_switches_take_nothing_else(path: str) -> None:
    (line,) = refusal(job_with(path, [1]))
    assert line.startswith(f"job: {path}: ")
    assert line.endswith("got a list")


def test_no_field_could_hold_a_credential() -> None:
    suspicious = ("key", "secret", "password", "credential", "auth")
    names = {path.rpartition(".")[2] for path in FIELDS}
    assert not [name for name in names for word in suspicious if word in name]


def test_a_job_cannot_be_changed() -> None:
    config = parse_job(JOB, environment={})
    with pytest.raises(ValueError, match="frozen"):
        config.training.epochs = 3  # type: ignore[misc]


# Unknown keys


@pytest.mark.parametrize("section", SECTIONS)
def test_an_unknown_key_is_refused_at_every_depth_with_the_closest_right_one(section: str) -> None:
    for right in [path for path in FIELDS if path.startswith(section) and "." not in path[len(section) :]]:
        name = right[len(section) :]
        wrong = f"{section}{name[:-1]}{'q' if len(name) < 6 else ''}"
        (line,) = refusal(job_with(wrong, 1))
        assert line == f"job: {wrong}: unknown key; did you mean {name}?"


@pytest.mark.parametrize("section", SECTIONS)
def test_a_key_that_resembles_none_is_answered_with_those_there_are(section: str) -> None:
    (line,) = refusal(job_with(f"{section}zzzzzz", 1))
    names = [path[len(section) :] for path in FIELDS if path.startswith(section)]
    assert line == f"job: {section}zzzzzz: unknown key; known here: {', '.join(n for n in names if '.' not in n)}"


def test_each_mistake_has_its_line() -> None:
    job = {
        "name": "no spaces please",
        "data": {"url": "records/"},
        "training": {"epochs": 0, "optimizer": {"name": "adamw"}},
        "modell": {},
    }
    lines = refusal(job)
    assert sorted(line.split(": ")[1] for line in lines) == [
        "data.uri",
        "data.url",
        "modell",
        "name",
        "training.epochs",
        "training.optimizer.name",
    ]
    assert all(line.startswith("job: ") for line in lines)


@pytest.mark.parametrize(
    ("job", "line"),
    [
        ({"data": {"uri": "r/"}}, "job: name: required, but not set"),
        ({"name": "demo"}, "job: data: required, but not set"),
        (job_with("training", 3), "job: training: should be a mapping of epochs, batch_size,"),
        (
            job_with("training.optimizer", "adam"),
            "job: training.optimizer: should be a mapping of name, learning",
        ),
        (
            job_with("tokenizer.kind", "chars"),
            "input should be 'char', 'byte', 'sentencepiece' or 'fields', got 'chars'",
        ),
        (job_with("training.epochs", 3.5), "job: training.epochs: "),
        (job_with("training.epochs", None), "got nothing"),
        (
            job_with("training.epoch_callback", "mine.py"),
            "'mine.py' does not have the form package.module:function",
        ),
        (
            job_with("training.callbacks", ["a:b", "c"]),
            "job: training.callbacks.1: 'c' does not have the form",
        ),
        (job_with("data.columns", ["a", "b"]), "job: data: columns need a field_delimiter to join them"),
        (job_with("data.columns", []), "job: data.columns: "),
        (job_with("data.field_delimiter", ""), "job: data.field_delimiter: "),
        (
            job_with("tokenizer", {"kind": "char", "uri": "m"}),
            "uri names a SentencePiece model, but kind is char",
        ),
        (
            job_with("training.validation_split", False),
            "metric is val_loss, but validation_split is off; use loss",
        ),
        (job_with("resources", {"strategy": "mirrored", "workers": 2}), "mirrored is for one worker"),
        (job_with("sweep", {}), "job: sweep.parameters: required"),
        (job_with("sweep", {"parameters": {"model.layers": {"one_of": [1]}}}), "one_of: unknown key"),
        (job_with("name", "../escape"), "'../escape' does not have the form of letters, digits"),
        (job_with("name", ".."), "does not have the form"),
        (job_with("name", "a/b"), "does not have the form"),
        (job_with("name", "a\n"), "does not have the form"),
        (job_with("name", "a" * 64), "at most 63 characters"),
        ({1: 2, **JOB}, "job: 1: keys should be strings"),
    ],
)
def test_wrong_values_are_refused_in_one_line_that_names_them(job: Any, line: str) -> None:
    (found,) = refusal(job)
    assert line in found


def test_validation_may_be_off_when_no_metric_needs_it() -> None:
    without = {"validation_split": False}
    parse_job(job_with("training", without | {"early_stopping": {"metric": "loss"}}), environment={})
    parse_job(
        job_with("training", without | {"save_best": False, "early_stopping": {"enabled": False}}),
        environment={},
    )


# Privacy


def private_job(privacy: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    """A good private job, with sections replaced and fields of `privacy` put in."""
    job: dict[str, Any] = {**JOB, "tokenizer": {"kind": "byte"}, **sections}
    return job | {"privacy": {"enabled": True, "noise_multiplier": 1.0} | (privacy or {})}


@pytest.mark.parametrize(
    ("job", "line"),
    [
        (
            private_job({"noise_multiplier": None}),
            "job: privacy: enabled needs noise_multiplier, or target_epsilon to find it",
        ),
        (
            private_job({"target_epsilon": 3}),
            "job: privacy: noise_multiplier and target_epsilon exclude each other; set one to null",
        ),
        (
            private_job({"noise_multiplier": 0, "max_epsilon": 3}),
            "job: privacy: noise_multiplier 0 gives no privacy: max_epsilon 3 cannot be kept",
        ),
        (
            private_job({"noise_multiplier": 0, "target_epsilon": 3}),
            "job: privacy: noise_multiplier and target_epsilon exclude each other; set one to null",
        ),
        (
            private_job(examples={"packing": "stream"}),
            "job: privacy.enabled needs examples.packing records, not stream: a record must be one example",
        ),
        (
            private_job(examples={"seq_length": 1}),
            "job: privacy.enabled needs examples.seq_length of 2 or more: an emptied record must show as one",
        ),
        (
            private_job(tokenizer={}),
            "job: privacy.enabled: a sentencepiece vocabulary would be made from the private records; use kind byte, "
            "kind char with an alphabet, or a public model as tokenizer.uri, or set privacy.vocabulary to private: "
            "epsilon then does not cover it",
        ),
        (private_job(tokenizer={"kind": "char"}), "a char vocabulary would be made from the private records"),
        (
            private_job({"vocabulary": "public"}, tokenizer={"kind": "char"}),
            "a char vocabulary would be made from the private records",
        ),
        (
            private_job(tokenizer={"uri": "some.model"}),
            "job: privacy.enabled: say where tokenizer.uri is from: set privacy.vocabulary to public "
            "(made without these records) or private",
        ),
        (private_job(tokenizer={"kind": "byte", "alphabet": "abc"}), "an alphabet is for kind char, but kind is byte"),
        (private_job({"accountant": "moments"}), "job: privacy.accountant: input should be 'pld' or 'rdp'"),
        (private_job({"delta": 1}), "job: privacy.delta: input should be less than 1, got 1"),
        (
            private_job({"unit": "customer"}),
            "job: privacy: unit customer needs max_records_per_unit: how many records of one value may count",
        ),
        (
            private_job({"max_records_per_unit": 3}),
            "job: privacy: max_records_per_unit needs unit, the column that tells whose a record is",
        ),
        (
            private_job({"unit": "customer", "max_records_per_unit": 3, "noise_multiplier": 0}),
            "job: privacy: noise_multiplier 0 protects no customer; give noise, or leave out unit",
        ),
        (
            private_job({"unit": "customer", "max_records_per_unit": 3}, data={"uri": "records/", "since": "a"}),
            "job: privacy.unit: one customer may have records in this run and in those before it, and pay for each; "
            "leave out data.since, and train on all files together",
        ),
        (
            private_job({"unit": "customer", "max_records_per_unit": 3, "canaries": 100}),
            "job: privacy.canaries: a canary is a record, and privacy.unit protects persons; set one of the two",
        ),
        (
            private_job({"unit": "customer", "max_records_per_unit": 3}, examples={"packing": "stream"}),
            "job: privacy.enabled needs examples.packing records, not stream: a record must be one example",
        ),
        (
            private_job(training={"save_best": True, "validation_split": False}),
            "job: training.early_stopping.metric is val_loss, but validation_split is off; use loss",
        ),
    ],
)
def test_what_a_privacy_claim_rules_out_is_refused_in_one_line(job: Any, line: str) -> None:
    (found,) = refusal(job)
    assert line in found


@pytest.mark.parametrize(
    "job",
    [
        private_job(),
        private_job({"noise_multiplier": None, "target_epsilon": 3, "max_epsilon": 5}),
        private_job({"noise_multiplier": 0}),  # to measure what noise costs in quality
        private_job(tokenizer={"kind": "char", "alphabet": "abc"}),
        private_job({"vocabulary": "private"}, tokenizer={"kind": "char"}),
        private_job({"vocabulary": "private"}, tokenizer={}),
        private_job({"vocabulary": "public"}, tokenizer={"uri": "some.model"}),
        private_job({"vocabulary": "private"}, tokenizer={"uri": "some.model"}),
        private_job(training={"validation_split": False}),
    ],
)
def test_what_a_privacy_claim_allows_is_accepted(job: Any) -> None:
    assert parse_job(job, environment={}).privacy.enabled


def test_settings_of_privacy_bind_nothing_while_it_is_off() -> None:
    parse_job(job_with("privacy", {"noise_multiplier": 0, "target_epsilon": 3, "max_epsilon": 3}), environment={})


@pytest.mark.parametrize(("job", "selects"), [(JOB, True), (private_job(), False)])
def test_selection_by_a_metric_is_on_unless_the_run_is_private(job: Any, selects: bool) -> None:
    training = parse_job(job, environment={}).training
    assert (training.save_best, training.early_stopping.enabled) == (selects, selects)


@pytest.mark.parametrize("job", [JOB, private_job()])
@pytest.mark.parametrize("selects", [True, False])
def test_selection_that_is_set_stays_as_it_is_set(job: Any, selects: bool) -> None:
    overrides = [f"training.save_best={selects}", f"training.early_stopping.enabled={selects}"]
    training = parse_job(job, overrides, {}).training
    assert (training.save_best, training.early_stopping.enabled) == (selects, selects)


# Generation


def generation(**section: Any) -> dict[str, Any]:
    data = {"uri": "records/", "columns": ["age", "code"], "field_delimiter": ","}
    return {"name": "demo", "data": data, "generation": section}


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({"columns": {"aeg": {}}}, "job: generation.columns.aeg: no such column; there are age, code"),
        (
            {"columns": {"code": {"pattern": "[A-Z"}}},
            "job: generation.columns.code.pattern: '[A-Z' is not a regular expression: unterminated character set at "
            "position 0",
        ),
        (
            {"columns": {"age": {"range": [120, 0]}}},
            "job: generation.columns.age.range: [120, 0] is empty: the least number comes first",
        ),
        ({"columns": {"age": {"rang": [0, 1]}}}, "job: generation.columns.age.rang: unknown key; did you mean range?"),
        (
            {"columns": {"code": {"allowed": [1, True, 0.5]}}},
            "job: generation.columns.code.allowed: put true, 0.5 in quotes, as the records write it",
        ),
        (
            {"fields": ["a"]},
            "generation.fields: they are for a text_column whose fields data.field_delimiter separates",
        ),
    ],
    ids=["column", "pattern", "range", "key", "allowed", "fields"],
)
def test_rules_that_no_record_can_be_held_to_are_refused_in_one_line(section: dict[str, Any], line: str) -> None:
    (found,) = refusal(generation(**section))
    assert line in found


def test_rules_read_back_equal_and_take_whole_numbers_as_texts() -> None:
    rules = {"age": {"range": [0, None]}, "code": {"pattern": r"[A-Z]\d+", "allowed": [1, "b"]}}
    config = parse_job(generation(columns=rules, max_invalid=0.1), environment={})
    assert config.generation.columns["code"].allowed == ("1", "b")
    assert parse_job(yaml.safe_load(config.to_yaml()), environment={}) == config


def test_fields_of_a_text_column_have_rules_of_their_own() -> None:
    job = {"name": "demo", "data": {"uri": "r", "field_delimiter": ","}}
    section = {"fields": ["age", "code"], "columns": {"age": {"range": [0, 120]}}}
    assert parse_job({**job, "generation": section}, environment={}).generation.fields == ("age", "code")
    (line,) = refusal({**job, "generation": {"fields": ["age", "age"]}})
    assert line == "job: generation.fields: age is named twice"


# Bounds


def every_shape(shape: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every type in a JSON Schema, with where it is."""
    if isinstance(shape, dict):
        if isinstance(shape.get("type"), str):
            yield path, shape
        for key, inner in shape.items():
            if key not in ("default", "enum", "if", "then", "allOf"):
                yield from every_shape(inner, f"{path}.{key}")
    elif isinstance(shape, list):
        for inner in shape:
            yield from every_shape(inner, path)


ENDS = {
    "integer": ("minimum", "maximum"),
    "number": ("minimum", "maximum"),
    "string": ("maxLength",),
    "array": ("maxItems",),
}
WITHOUT_END = ("ColumnRule.properties.range", "uniform", "tolerations", "node_selector", "properties.value")
"""Numbers of the user's own scale, ranges whose ends are checked by their field, labels whose pattern ends them."""


def test_every_text_list_and_number_of_the_schema_has_an_end() -> None:
    unbounded = []
    for path, shape in every_shape(json_schema()):
        if "enum" in shape or "const" in shape or any(each in path for each in WITHOUT_END):
            continue
        ends = ENDS.get(shape["type"], ())
        if shape["type"] == "object" and "properties" not in shape:
            ends = ("maxProperties",)
        unbounded += [path for end in ends if end not in shape and f"exclusive{end.capitalize()}" not in shape]
    assert unbounded == []


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("data.columns", ["b", "a", "b"], "b is named twice"),
        ("data.columns", ["a", ""], "string should have at least 1 character, got ''"),
        ("generation.fields", ["a", "b", "a"], "a is named twice"),
        ("kubernetes.secrets", ["s", "s"], "s is named twice"),
        ("kubernetes.image_pull_secrets", ["s", "s"], "s is named twice"),
        ("data.uri", "a\0b", "'a\\x00b' does not have the form of a text without the character NUL"),
        ("data.uri", "x" * 5000, "string should have at most 4096 characters, got 'xxx"),
        ("data.max_records", 10**400, "input should be less than or equal to 1000000000000, got 1000"),
        ("kubernetes.image", "an image", "'an image' does not have the form of an image's name, as registry/name:tag"),
        ("privacy.noise_multiplier", 1e-200, "1e-200 is next to no noise; give at least 0.001, or 0 for none"),
        ("training.epochs", "1_0", "input should be a valid integer, got '1_0'"),
        (
            "tokenizer.alphabet",
            "\udcff",
            "input should be a valid string, unable to parse raw data as a unicode",
        ),
        ("sweep", {"parameters": {"model.layers": {"choice": [math.nan]}}}, "choice: nan is not a finite number"),
        ("sweep", {"parameters": {"model.layers": {"choice": [["\udcff"]]}}}, "choice: '\\udcff' is not valid Unicode"),
        ("sweep", {"parameters": {"model.layers": {"int": [0, 10**30]}}}, "should be less than or equal to 9007199"),
        ("generation.columns", {"text": {"pattern": "a{" + "9" * 30 + "}"}}, "is not a regular expression"),
        ("generation.columns", {"text": {"pattern": "(" * 5000 + ")" * 5000}}, "is not a regular expression"),
    ],
)
def test_what_no_field_should_hold_is_refused_in_one_line(path: str, value: Any, line: str) -> None:
    (found,) = refusal(job_with(path, value))
    assert found.startswith(f"job: {path}")
    assert line in found
    assert len(found) < 1200
