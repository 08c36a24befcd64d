"""A job file is checked whole: every mistake gets its line, and what passes reads back the same."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import yaml
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import given
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from runner.config import JobConfig, Section, json_schema, load_job, parse_job
from runner.errors import ConfigError
from runner.templates import TEMPLATES, commented_yaml, job_values

JOB: dict[str, Any] = {"name": "demo", "data": {"uri": "records/"}}
REPOSITORY = Path(__file__).parents[2]


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
NUMBERS = {
    path: field for path, field in FIELDS.items() if {int, float} & {field.annotation, *get_args(field.annotation)}
}


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
            "input should be 'char', 'byte' or 'sentencepiece', got 'chars'",
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


# Files


def test_a_missing_job_file_is_answered_with_the_command_that_writes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"job.yaml: no such job file; `runner init .*job.yaml` writes one"):
        load_job(tmp_path / "job.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [", "not valid YAML"),
        (b"a: b: c", "not valid YAML"),
        (b"", "a job is a mapping of sections .* not nothing"),
        (b"- 1\n- 2\n", "a job is a mapping of sections .* not a list"),
        (b"just words", "a job is a mapping of sections .* not 'just words'"),
        (b"name: caf\xe9", "cannot be read"),
    ],
)
def test_a_file_that_is_no_job_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_job(path, environment={})
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith(str(path))


def test_a_folder_is_no_job_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_job(tmp_path)


def test_yaml_cannot_build_objects(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"name: !!python/object/apply:os.mkdir ['{tmp_path}/made']\ndata: {{uri: r}}\n")
    with pytest.raises(ConfigError, match=r"line 1: !!python/object/apply:os\.mkdir is no tag of a job's values"):
        load_job(path, environment={})
    assert not (tmp_path / "made").exists()


def test_a_section_with_nothing_in_it_has_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("name: demo\ndata: {uri: r}\ntraining:\n  # epochs: 3\n")
    assert load_job(path, environment={}).training.epochs == 15
    assert load_job(path, ["training.epochs=4"], environment={}).training.epochs == 4


# Precedence


def test_a_delimiter_that_old_yaml_gives_a_meaning_is_itself(tmp_path: Path) -> None:
    """Helm writes it like this."""
    path = tmp_path / "job.yaml"
    path.write_text("name: a\ndata: {uri: r/, field_delimiter: =}\nstorage: {uri: s/}\n")
    config = load_job(path, environment={})
    assert config.data.field_delimiter == "="
    assert parse_job(yaml.safe_load(config.to_yaml()), environment={}) == config


def test_the_command_line_beats_the_environment_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("name: demo\ndata: {uri: r}\ntraining: {epochs: 2, batch_size: 2, seed: 2}\n")
    environment = {"RUNNER_TRAINING__EPOCHS": "3", "RUNNER_TRAINING__BATCH_SIZE": "3"}
    training = load_job(path, ["training.epochs=4"], environment).training
    assert (training.epochs, training.batch_size, training.seed) == (4, 3, 2)
    assert training.checkpoint_every_s == 300


def test_of_two_overrides_of_one_field_the_last_counts() -> None:
    assert parse_job(JOB, ["training.epochs=4", "training.epochs=5"], {}).training.epochs == 5


def test_the_processes_environment_is_read_unless_another_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_TRAINING__EPOCHS", "9")
    assert parse_job(JOB).training.epochs == 9
    assert parse_job(JOB, environment={}).training.epochs == 15


def test_variables_of_other_software_are_left_alone() -> None:
    environment = {
        "RUNNER_NAME": "GitHub Actions 2",
        "RUNNER_OS": "Linux",
        "RUNNER_JOB_FOLDER": "/x",
        "NOT_RUNNER_TRAINING__EPOCHS": "1",
        "HOME": "/root",
    }
    assert parse_job(JOB, environment=environment) == parse_job(JOB, environment={})


def test_overrides_do_not_change_the_document_they_are_put_in() -> None:
    document = {"name": "demo", "data": {"uri": "r"}, "training": {"optimizer": {"name": "sgd"}}}
    before = yaml.safe_dump(document)
    parse_job(document, ["training.optimizer.name=adam", "data.uri=x"], {})
    assert yaml.safe_dump(document) == before


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("training.optimizer.learning_rate=1e-3", "training.optimizer.learning_rate", 0.001),
        ("training.validation_split=true", "training.validation_split", True),
        ("training.max_training_time_s=null", "training.max_training_time_s", None),
        ("data.uri=s3://b/a=b", "data.uri", "s3://b/a=b"),
        ("training.callbacks=[a:b, c.d:e]", "training.callbacks", ("a:b", "c.d:e")),
        ("data.field_delimiter=|", "data.field_delimiter", "|"),
        ("data.field_delimiter=#", "data.field_delimiter", "#"),
        ("data.field_delimiter=,", "data.field_delimiter", ","),
        ("data.field_delimiter=~", "data.field_delimiter", "~"),
        ("data.field_delimiter=\t", "data.field_delimiter", "\t"),
        ('data.field_delimiter="\\t"', "data.field_delimiter", "\t"),
        ("data.field_delimiter=", "data.field_delimiter", None),
    ],
)
def test_values_on_the_command_line_read_as_in_the_file(override: str, path: str, value: Any) -> None:
    assert value_at(parse_job(JOB, [override], {}), path) == value
    section, _, rest = override.partition("=")
    assert value_at(parse_job(JOB, [], {f"RUNNER_{section.replace('.', '__').upper()}": rest}), path) == value


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("training.epochs", "--set training.epochs: write it as section.field=value"),
        ("=3", "--set =3: write it as section.field=value"),
        ("name.first=x", "--set name.first=x: name is not a section"),
        ("training.epoch=3", "--set training.epoch=3: training.epoch: unknown key; did you mean epochs?"),
        ("training.epochs=0", "--set training.epochs=0: training.epochs: input should be greater than or equal to 1"),
        ("training=3", "--set training=3: training: should be a mapping"),
    ],
)
def test_a_wrong_override_is_refused_in_one_line(override: str, line: str) -> None:
    (found,) = refusal(JOB, override)
    assert found.startswith(line)


def test_a_wrong_variable_is_refused_by_its_name() -> None:
    (line,) = refusal(JOB, environment={"RUNNER_NAME__FIRST": "x"})
    assert line == "environment variable RUNNER_NAME__FIRST: name is not a section"
    (line,) = refusal(JOB, environment={"RUNNER_TRAINING__EPOCH": "3"})
    assert line == "environment variable RUNNER_TRAINING__EPOCH: training.epoch: unknown key; did you mean epochs?"


# Reading back


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
JOBS = st.fixed_dictionaries(
    {
        "name": NAMES,
        "data": st.fixed_dictionaries(
            {"uri": TEXTS},
            optional={"text_column": TEXTS, "field_delimiter": TEXTS, "cache_gib": st.floats(0, 1e5)},
        ),
    },
    optional={
        "training": st.fixed_dictionaries(
            {},
            optional={
                "epochs": st.integers(1, 1_000_000),
                "optimizer": st.fixed_dictionaries(
                    {"learning_rate": st.floats(1e-12, 100)},
                ),
                "max_training_time_s": st.none() | st.floats(1e-300, 3e9),
                "callbacks": st.lists(st.sampled_from(["a:b", "c.d:e"]), max_size=2),
                "seed": st.integers(0, 2**32 - 1),
            },
        ),
    },
)


@pytest.mark.parametrize("text", ["\x85", "a\u2028b", "\u2029", "a\nb\n\nc", "\r", "\ufeff", "ä ", " #"])
def test_texts_with_any_line_break_read_back_as_they_are(text: str) -> None:
    config = parse_job(job_with("tokenizer", {"kind": "char", "alphabet": text}), environment={})
    assert parse_job(yaml.safe_load(config.to_yaml()), environment={}).tokenizer.alphabet == text
    assert yaml.safe_load(commented_yaml(config.model_dump()))["tokenizer"]["alphabet"] == text


@given(JOBS)
def test_the_resolved_job_reads_back_equal(job: dict[str, Any]) -> None:
    config = parse_job(job, environment={})
    assert parse_job(yaml.safe_load(config.to_yaml()), environment={}) == config


@given(JOBS)
def test_the_commented_job_reads_back_equal_and_shows_every_field(job: dict[str, Any]) -> None:
    text = commented_yaml(job)
    document = yaml.safe_load(text)
    assert parse_job(document, environment={}) == parse_job(job, environment={})
    for path, field in FIELDS.items():
        section = document
        for name in path.split("."):
            assert name in section
            section = section[name]
        assert f"# {field.description}\n" in text


def test_names_that_yaml_takes_for_something_else_read_back_as_names() -> None:
    for name in ("123", "1e5", "true", "null", "2024-01-01", "0x10", "1_000"):
        config = parse_job(job_with("name", name), environment={})
        assert parse_job(yaml.safe_load(config.to_yaml()), environment={}).name == name
        assert parse_job(yaml.safe_load(commented_yaml({**JOB, "name": name})), environment={}).name == name


def test_the_schema_accepts_the_quickstart_and_refuses_what_the_config_refuses() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    quickstart = yaml.safe_load((REPOSITORY / "examples/quickstart.yaml").read_text())
    validator.validate(quickstart)
    validator.validate(yaml.safe_load(commented_yaml(quickstart)))
    for path, value in [
        ("training.epoch", 3),
        ("training.epochs", 0),
        ("training.epochs", "many"),
        ("tokenizer.kind", "chars"),
        ("name", "no spaces please"),
        ("training.epoch_callback", "mine.py"),
    ]:
        assert not validator.is_valid(job_with(path, value)), path
    assert not validator.is_valid({"name": "demo"})


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template_is_a_good_job(template: str) -> None:
    text = commented_yaml(job_values("demo", {"uri": "records/"}, template))
    config = parse_job(yaml.safe_load(text), environment={})
    assert config.privacy.enabled == (template == "private")


def test_the_private_template_releases_only_what_epsilon_covers() -> None:
    config = parse_job(job_values("demo", {"uri": "records/"}, "private"), environment={})
    assert (config.training.save_best, config.training.early_stopping.enabled) == (False, False)
    assert config.privacy.vocabulary is None
    assert config.privacy.target_epsilon is not None


def test_the_quickstart_is_a_good_job() -> None:
    load_job(REPOSITORY / "examples/quickstart.yaml", environment={})


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
