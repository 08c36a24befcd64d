"""Jobs with the schema of a table: each kind has its own keys, and what is for texts is refused beside it."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from runner.config import JobConfig, parse_job, read_document, undeclared
from tests.unit.jobs import JOB, refusal

FIELDS = """
age: {kind: integer, range: [17, 90], nullable: false}
workclass: {kind: category, values: [Private, 02116, no, 1.10, true]}
joined: {kind: date, range: [2001-01-01, 2024-12-31]}
paid: {kind: number, range: [0, 5e3], decimals: 2}
seen: {kind: datetime, range: [2001-01-01, 2024-12-31T23:59:59], resolution: minute}
active: {kind: boolean}
note: {kind: text, max_tokens: 80}
customer: {kind: id, made: sequence}
"""


def table(fields: str = FIELDS, **sections: Any) -> dict[str, Any]:
    """A job of a table."""
    return {**JOB, "fields": read_document(fields), **sections}


def parsed(fields: str = FIELDS, *overrides: str, **sections: Any) -> JobConfig:
    return parse_job(table(fields, **sections), overrides, {})


def test_a_table_has_the_tokenizer_of_fields_and_reads_back_equal() -> None:
    config = parsed()
    assert config.tokenizer.kind == "fields"
    assert parse_job(read_document(config.to_yaml()), environment={}) == config
    assert parse_job(config.model_dump(mode="json"), environment={}) == config
    assert list(config.fields or {}) == list(read_document(FIELDS))


def test_values_are_texts_as_they_are_written() -> None:
    fields = parsed().fields
    assert fields is not None
    assert fields["workclass"].values == ("Private", "02116", "no", "1.10", "true")  # type: ignore[union-attr]


def test_a_last_day_of_moments_counts_to_its_end() -> None:
    fields = parsed("{a: {kind: datetime, range: [2020-01-01, 2020-12-31]}}").fields
    assert fields is not None
    assert fields["a"].range == (dt.datetime(2020, 1, 1), dt.datetime(2020, 12, 31, 23, 59, 59, 999_999))  # type: ignore[union-attr]


def test_a_field_can_be_set_on_the_command_line_and_by_the_environment() -> None:
    config = parse_job(
        table("{a: {kind: boolean}}"),
        ["fields.b={kind: category, values: [01, 2]}", "fields.c.kind=integer", "fields.c.range=[1, 2]"],
        {"RUNNER_FIELDS__a__NULLABLE": "false"},
    )
    fields = config.fields
    assert fields is not None
    assert fields["a"].nullable is False  # type: ignore[union-attr]
    assert fields["b"].values == ("01", "2")  # type: ignore[union-attr]
    assert fields["c"].range == (1, 2)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        ({"data": {"uri": "r/", "text_column": "words"}}, "data.text_column: a job with fields has its columns there"),
        ({"data": {"uri": "r/", "columns": ["a"], "field_delimiter": ","}}, "data.columns: a job with fields has its"),
        ({"data": {"uri": "r/", "field_delimiter": ","}}, "data.field_delimiter: fields are never joined to a text"),
        ({"tokenizer": {"kind": "byte"}}, "tokenizer.kind: a job with fields has kind fields, not byte; leave it out"),
        ({"tokenizer": {"uri": "model"}}, "tokenizer.uri: a job with fields makes its tokens of their values"),
        ({"examples": {"packing": "stream"}}, "examples.packing: a job with fields needs records, not stream"),
        ({"generation": {"columns": {"agee": {}}}}, "generation.columns.agee: no such column; there are"),
        ({"generation": {"fields": ["age"]}}, "generation.fields: a job with fields has its columns there"),
    ],
)
def test_what_is_for_texts_is_refused_beside_fields(sections: dict[str, Any], line: str) -> None:
    (found,) = refusal(table(**sections))
    assert found.startswith(f"job: {line}")


def test_the_tokenizer_of_fields_is_refused_without_them() -> None:
    (line,) = refusal({**JOB, "tokenizer": {"kind": "fields"}})
    assert line == "job: tokenizer.kind is fields, but there is no section fields; list the columns there"


@pytest.mark.parametrize(
    ("field", "line"),
    [
        (
            "{kind: integre}",
            "job: fields.c.kind: there is no 'integre'; it is one of category, boolean, integer, number,",
        ),
        ("{range: [1, 2]}", "job: fields.c.kind: required, but not set; it is one of category, boolean,"),
        ("3", "job: fields.c: should be a mapping with the key kind, one of category, boolean,"),
        ("{kind: integer, bnis: 3}", "job: fields.c.bnis: unknown key; did you mean bins?"),
        ("{kind: id, nullable: true}", "job: fields.c.nullable: unknown key; known here: kind, made"),
        ("{kind: integer, range: [90, 17]}", "job: fields.c.range: [90, 17] is empty: the least comes first"),
        ("{kind: integer, range: [0, x]}", "job: fields.c.range: input should be a valid integer, got 'x'"),
        ("{kind: integer, range: [0, 1.5]}", "job: fields.c.range.1: input should be a valid integer"),
        ("{kind: integer, range: [0, 1e19]}", "job: fields.c.range.1: unable to parse input string as an integer"),
        (
            "{kind: number, range: [0, 1e15], decimals: 9}",
            "job: fields.c: 1000000000000000 with 9 decimals has over 18",
        ),
        ("{kind: number, decimals: 19}", "job: fields.c.decimals: input should be less than or equal to 18, got 19"),
        ("{kind: date, range: [2020-02-01, 2020-01-01]}", "job: fields.c.range: [2020-02-01, 2020-01-01] is empty"),
        (
            "{kind: date, range: [20200101, 2021-01-01]}",
            "job: fields.c.range.0: 20200101 is no day; write it as 2024-12-31",
        ),
        ("{kind: date, range: [2020-13-01, 2021-01-01]}", "job: fields.c.range.0: month must be in 1..12"),
        (
            "{kind: datetime, range: [x, 2021-01-01]}",
            "job: fields.c.range.0: 'x' is no moment; write it as 2024-12-31 or",
        ),
        ("{kind: datetime, range: [2020-01-01T00:00Z, 2021-01-01]}", "job: fields.c.range: give both bounds an offset"),
        ("{kind: category, values: [a, b, a]}", "job: fields.c.values: a is named twice"),
        ("{kind: category, values: []}", "job: fields.c.values: tuple should have at least 1 item"),
        ("{kind: category, outside: 'null', nullable: false}", "job: fields.c: outside is null, but nullable is false"),
        ("{kind: text, alphabet: ab}", "job: fields.c: an alphabet is for tokenizer char, but tokenizer is byte"),
        ("{kind: id}", "job: fields: all are of kind id, which is never learned; add a column to learn"),
    ],
)
def test_a_field_that_makes_no_sense_is_refused_by_its_key(field: str, line: str) -> None:
    (found,) = refusal(table(f"{{c: {field}}}"))
    assert found.startswith(line)


def test_a_private_table_declares_what_would_be_looked_up() -> None:
    private = {"privacy": {"enabled": True, "noise_multiplier": 1.0}}
    parsed(**private)
    unknowable = """
    a: {kind: integer}
    b: {kind: number, decimals: 2}
    c: {kind: datetime, resolution: minute}
    d: {kind: text, tokenizer: sentencepiece}
    e: {kind: text, tokenizer: char}
    f: {kind: boolean}
    g: {kind: id}
    """
    (line,) = refusal(table(unknowable, **private))
    assert line.endswith(
        "declare fields.a.range, fields.b.range, fields.c.range, fields.d.tokenizer, fields.e.alphabet"
    )
    countable = """
    a: {kind: category}
    b: {kind: number, range: [0, 1]}
    c: {kind: datetime, range: [2020-01-01, 2020-12-31]}
    """
    (line,) = refusal(table(countable, **private))
    assert "declare fields.a.values, fields.b.decimals, fields.c.resolution" in line


@pytest.mark.parametrize("name", read_document(FIELDS))
def test_a_field_with_everything_declared_leaves_nothing_open(name: str) -> None:
    fields = parsed().fields
    assert fields is not None
    assert undeclared(fields[name]) == ()
