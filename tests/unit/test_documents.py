"""Job files are YAML 1.2: what is written means what its core schema says, and texts stay as written."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.config import load_job, parse_job, read_document, write_document
from runner.config.document import Written, resolve
from runner.errors import ConfigError

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
LOOKALIKES = st.from_regex(
    r"[-+]?(0[ob]?)?[0-9_.:]{1,6}([eE][-+]?[0-9]{1,3})?|[~=<y]|yes|No|on|OFF|nUll|TRUE|\.nan", fullmatch=True
)

CORE_SCHEMA = [
    # YAML 1.2.2, section 10.3.2, with the examples there and in 10.3.1.
    (None, ["", "~", "null", "Null", "NULL"]),
    (True, ["true", "True", "TRUE"]),
    (False, ["false", "False", "FALSE"]),
    (0, ["0", "-0", "0o0", "0x0", "00"]),
    (7, ["0o7", "0x7", "007", "+7"]),
    (58, ["0x3A", "058"]),
    (-19, ["-19", "-019"]),
    (math.inf, [".inf", ".Inf", "+.INF"]),
    (-math.inf, ["-.Inf"]),
    (0.5, ["0.5", ".5", "+0.5e0", "5E-1"]),
    (12e03, ["12e03", "+12e03", "12000.", "1.2e4"]),
    (-2e05, ["-2E+05"]),
]
TEXTS = [  # What version 1.1 or Python takes for something else, and next to it.
    *["nULL", "None", "n", "N", "y", "Y", "yes", "Yes", "NO", "no", "on", "off", "tRUE", "+", ".", "..", "-."],
    *["e1", "1e", "1e+", ".e1", "0o8", "0O7", "0b1", "0xG", "+0x1", "-0o7", "1_000", "0x_F", "1:30", "190:20:30"],
    *["2024-01-01", "2001-12-14t21:59:43.10-05:00", ".iNF", "++1", "1.2.3", "nan", "inf", "1e3x", "\uff11", "=", "<<"],
]


@pytest.mark.parametrize(("text", "meaning"), [(text, meaning) for meaning, texts in CORE_SCHEMA for text in texts])
def test_scalars_mean_what_the_core_schema_says(text: str, meaning: Any) -> None:
    found = resolve(text)
    assert found == (None if meaning is None else Written(text, meaning))
    assert found is None or type(found.value) is type(meaning)
    assert read_document(f"- {text}\n") == [found]


def test_not_a_number_is_read_as_that() -> None:
    assert all(math.isnan(resolve(text).value) for text in (".nan", ".NaN", ".NAN"))


@pytest.mark.parametrize("text", TEXTS)
def test_what_only_other_versions_take_for_something_is_a_text(text: str) -> None:
    assert read_document(f"- {text}\n- {{a: {text}}}") == [text, {"a": text}]


@given(st.text("0123456789+-.eExXob_aAfFnN~", min_size=1, max_size=7))
def test_numbers_are_those_of_json_and_of_c(text: str) -> None:
    """Judged by the specification's own expressions, in other words."""
    found = resolve(text)
    value = found.value if isinstance(found, Written) else found
    if isinstance(value, int):
        assert value == int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    elif isinstance(value, float) and math.isfinite(value):
        assert value == float(text)
        assert "_" not in text
    elif not isinstance(value, float):
        assert not text.lstrip("+-").isdigit()


@settings(max_examples=60)
@given(st.lists(ANY_TEXT | LOOKALIKES, max_size=3))
def test_texts_read_back_as_they_are_by_todays_and_yesterdays_reader(texts: list[str]) -> None:
    document = {"list": texts, "mapping": {f"_{text}": text for text in texts}, "text": "".join(texts)}
    written = write_document(document)
    assert read_document(written) == document
    assert yaml.safe_load(written) == document


@settings(max_examples=50)
@given(st.recursive(st.none() | ANY_TEXT, lambda one: st.lists(one) | st.dictionaries(ANY_TEXT, one), max_leaves=4))
def test_json_is_read_as_it_is(value: Any) -> None:
    """YAML 1.2 contains JSON; its escapes of two halves are one character."""
    assert read_document(json.dumps(value)) == value


# Fields that take texts, numbers and switches


def job_file(folder: Path, *lines: str) -> Path:
    path = folder / "job.yaml"
    path.write_text("\n".join(["name: demo", "data: {uri: records/}", *lines]))
    return path


AS_WRITTEN = [
    *["02116", "02134", "no", "2024-01-01", "1_000", "0x1F", "1.10", "0.10", "1e3", "1:30", "+1", "true", "0o17", "-0"],
    *[".inf", "y", "=", "123456789012345678901"],
]
ALLOWED = f"{{zip: {{allowed: [{', '.join(AS_WRITTEN)}]}}}}"


def test_texts_are_as_written_in_a_file_on_the_command_line_and_in_the_environment(tmp_path: Path) -> None:
    column = "data: {uri: r/, text_column: zip}"
    path = tmp_path / "job.yaml"
    path.write_text(f"name: demo\n{column}\ngeneration: {{columns: {ALLOWED}}}")
    config = load_job(path, environment={})
    assert config.generation.columns["zip"].allowed == tuple(AS_WRITTEN)
    path.write_text(f"name: demo\n{column}")
    assert load_job(path, [f"generation.columns={ALLOWED}"], {}) == config
    assert load_job(path, [], {"RUNNER_GENERATION__COLUMNS": ALLOWED}) == config
    assert parse_job(read_document(config.to_yaml()), environment={}) == config
    assert parse_job(yaml.safe_load(config.to_yaml()), environment={}) == config
    assert parse_job(config.model_dump(mode="json"), ["training.epochs=15"], {}) == config


def test_keys_are_texts_as_written(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        "name: 007\ndata: {uri: r/, columns: [on, 010, 1.0, ~x], field_delimiter: ','}\n"
        "generation: {columns: {on: {allowed: [yes]}, 010: {range: [010, 0x1F]}, 1.0: {}}}"
    )
    config = load_job(path, environment={})
    assert (config.name, config.data.columns) == ("007", ("on", "010", "1.0", "~x"))
    assert set(config.generation.columns) == {"on", "010", "1.0"}
    assert config.generation.columns["on"].allowed == ("yes",)
    assert config.generation.columns["010"].range == (10, 31)


@pytest.mark.parametrize(
    ("written", "number"), [("010", 10), ("0o10", 8), ("0x1F", 31), ("+1", 1), ("1e3", 1000), ("'64'", 64), ("12.", 12)]
)
def test_a_number_is_the_one_of_the_core_schema(tmp_path: Path, written: str, number: int) -> None:
    config = load_job(job_file(tmp_path, f"training: {{batch_size: {written}}}"), environment={})
    assert config.training.batch_size == number
    config = parse_job({"name": "demo", "data": {"uri": "r/"}}, [f"training.batch_size={written}"], {})
    assert config.training.batch_size == number


@pytest.mark.parametrize(
    "written", ["1_000", "1:30", "0b11", "'1_000'", "' 1'", "\uff11\uff12", "no", "2024-01-01", "1.5", ".inf"]
)
def test_a_number_that_is_none_is_refused_as_it_is_written(tmp_path: Path, written: str) -> None:
    for lines, overrides in [([f"training: {{epochs: {written}}}"], []), ([], [f"training.epochs={written}"])]:
        with pytest.raises(ConfigError, match=r"training\.epochs: ") as caught:
            load_job(job_file(tmp_path, *lines), overrides, {})
        assert len(str(caught.value).splitlines()) == 1
        assert str(caught.value).endswith(f"got {written}") or repr(written.strip("'")) in str(caught.value)


def test_numbers_in_lists_are_no_switches_and_have_no_underscores(tmp_path: Path) -> None:
    for wrong in ("[true, 2]", "[1_000, 2_000]", "[0, ' 1']"):
        path = job_file(tmp_path, f"generation: {{columns: {{text: {{range: {wrong}}}}}}}")
        with pytest.raises(ConfigError, match=r"generation\.columns\.text\.range: input should be a "):
            load_job(path, environment={})


def test_a_sweeps_choice_is_what_its_field_takes(tmp_path: Path) -> None:
    parameters = (
        "{tokenizer.alphabet: {choice: [0123456789, 01]}, training.batch_size: {choice: [010, 0x1F]}, "
        "training.optimizer.ema_momentum: {choice: [0.50, null]}}"
    )
    config = load_job(job_file(tmp_path, f"sweep: {{parameters: {parameters}}}"), environment={})
    assert config.sweep is not None
    assert [each.choice for each in config.sweep.parameters.values()] == [("0123456789", "01"), (10, 31), (0.5, None)]
    assert parse_job(yaml.safe_load(config.to_yaml()), environment={}) == config


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("data.field_delimiter= | ", ("data", "field_delimiter"), " | "),
        ("data.field_delimiter=: ", ("data", "field_delimiter"), ": "),
        ("data.field_delimiter=a: b", ("data", "field_delimiter"), "a: b"),
        ("data.since=#5", ("data", "since"), "#5"),
        ("data.since=02116", ("data", "since"), "02116"),
        ("data.since=2024-01-01", ("data", "since"), "2024-01-01"),
        ("tokenizer={kind: char, alphabet: 0123456789}", ("tokenizer", "alphabet"), "0123456789"),
        ('data.since="\\ud83d\\ude00"', ("data", "since"), "😀"),
    ],
)
def test_a_value_of_the_command_line_is_taken_whole(override: str, path: tuple[str, str], value: str) -> None:
    config = parse_job({"name": "demo", "data": {"uri": "r/"}}, [override], {})
    assert getattr(getattr(config, path[0]), path[1]) == value


# What is refused


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: 2\na: 3", "job, line 3: the key a is there already, in line 1; remove one"),
        ("a:\n  b: 1\n  c: 2\n  b: 1", "job, line 4: the key b is there already, in line 2; remove one"),
        ("a: [{b: 1, b: 2}]", "job, line 1: the key b is there already, in line 1; remove one"),
        ("{1: a,\n '1': b}", "job, line 2: the key 1 is there already, in line 1; remove one"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n  b: 2", "job, line 3: YAML 1.2 has no key << that merges; write the fields out"),
        ("a: &x [*x]", "job, line 1: a value holds itself by its alias"),
        ("a: *x", "job: not valid YAML: found undefined alias 'x', line 1, column 4"),
        ("a: !!python/name:os.system x", "job, line 1: !!python/name:os.system is no tag of a job's values"),
        ("a: !!binary aGk=", "job, line 1: !!binary is no tag of a job's values"),
        ("a: !!timestamp 2024-01-01", "job, line 1: !!timestamp is no tag of a job's values"),
        ("a: !mine x", "job, line 1: !mine is no tag of a job's values"),
        ("a: 1\n---\nb: 2", "job: not valid YAML: expected a single document in the stream but found another document"),
        ("a:\n\tb: 1", "job: not valid YAML: while scanning for the next token found character '\\t' that"),
        ("? [a, b]\n: 1", "job, line 1: a key is a text, without a tag"),
        ("a: \x07", "job: not valid YAML: unacceptable character #x0007"),
        ("a: b\u2028c: d", 'job, line 1: holds U+2028, which ends a line for some readers; write it as "\\u2028"'),
        ('a: "\\ud83d"', "job, line 1: an escape names half a surrogate pair, which is no character"),
        ("[" * 1000, "job: nested too deeply"),
    ],
)
def test_what_a_job_file_cannot_hold_is_refused_in_one_line(text: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_document(text)
    assert str(caught.value).startswith(line)
    assert len(str(caught.value).splitlines()) == 1


def test_a_second_section_is_refused_and_not_taken_for_the_first(tmp_path: Path) -> None:
    path = job_file(tmp_path, "privacy: {enabled: true, noise_multiplier: 1}", "privacy:", "  max_epsilon: 3")
    with pytest.raises(ConfigError, match=r"job\.yaml, line 4: the key privacy is there already, in line 3"):
        load_job(path, environment={})


def test_a_key_given_twice_is_refused_on_the_command_line_and_in_the_environment_too() -> None:
    job = {"name": "demo", "data": {"uri": "r/"}}
    with pytest.raises(ConfigError, match=r"^--set training={seed: 1, seed: 2}, line 1: the key seed is there already"):
        parse_job(job, ["training={seed: 1, seed: 2}"], {})
    with pytest.raises(ConfigError, match=r"^environment variable RUNNER_TRAINING__OPTIMIZER, line 1: the key name"):
        parse_job(job, [], {"RUNNER_TRAINING__OPTIMIZER": "{name: sgd, name: adam}"})


def test_aliases_may_repeat_a_value_but_not_a_billion_times() -> None:
    assert read_document("a: &x [one]\nb: *x") == {"a": ["one"], "b": ["one"]}
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10))]
    with pytest.raises(ConfigError, match="aliases stand for more than 10,000 values; write less"):
        read_document("\n".join(lines))


def test_a_byte_order_mark_is_no_part_of_a_job(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: demo\ndata: {uri: r/}\n")
    assert load_job(path, environment={}).name == "demo"


def test_an_escape_outside_of_double_quotes_is_refused_with_what_to_write(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    for written, good in [("'\\t'", False), ('"\\t"', True), ("\\n", False), ("\\", True), ("\\|", True)]:
        path.write_text(f"name: demo\ndata: {{uri: r/, field_delimiter: {written}}}")
        if good:
            assert load_job(path, environment={}).data.field_delimiter in ("\t", "\\", "\\|")
        else:
            with pytest.raises(ConfigError, match=r"is a backslash and '.'; for an escape use double quotes: \"\\.\"$"):
                load_job(path, environment={})


def test_a_run_that_was_begun_with_such_a_delimiter_can_be_read() -> None:
    document = {"name": "demo", "data": {"uri": "r/", "field_delimiter": "\\t"}}
    assert parse_job(document, environment={}).data.field_delimiter == "\\t"


# Runs of yesterday


def test_a_job_that_was_written_as_yaml_1_1_is_read_with_the_same_meaning() -> None:
    """What PyYAML's own writer leaves without quotes, as 1e3 and 0o7, it reads back as texts."""
    job = {
        "name": "1e3",
        "data": {"uri": "0o7", "columns": ["09", "1e5", "0o17", "+.5", "a"], "field_delimiter": "="},
        "training": {"optimizer": {"learning_rate": 1e-5}, "max_training_time_s": 1e9},
        "sweep": {"parameters": {"tokenizer.alphabet": {"choice": ["08", "no", "ab"]}}},
    }
    config = parse_job(job, environment={})
    written = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    assert "- 1e5\n" in written
    assert parse_job(read_document(written), environment={}) == config
