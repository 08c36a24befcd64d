"""A job comes from a file, the environment and the command line, and reads back as it was resolved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from runner.config import json_schema, load_job, parse_job
from runner.errors import ConfigError
from runner.templates import TEMPLATES, commented_yaml, job_values
from tests.unit.jobs import FIELDS, JOB, job_with, refusal, value_at

REPOSITORY = Path(__file__).parents[2]


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


@pytest.mark.parametrize(
    ("variable", "column"),
    [("Age", "Age"), ("AGE", "Age"), ("x__y", "x__y"), ("X__Y", "x__y"), ("a.b", "a.b"), ("new", "new")],
)
def test_a_variable_finds_a_column_of_any_name(variable: str, column: str) -> None:
    job = JOB | {"fields": {name: {"kind": "category"} for name in ("Age", "x", "x__y", "a.b", "B", "b")}}
    environment = {f"RUNNER_FIELDS__{variable}__KIND": "integer", f"RUNNER_FIELDS__{variable}__BINS": "7"}
    fields = parse_job(job, environment=environment).fields
    assert fields is not None
    assert [name for name, field in fields.items() if getattr(field, "bins", None) == 7] == [column]
    assert parse_job(job, environment={"RUNNER_FIELDS__b": "{kind: id}"}).fields == (
        parse_job(job, ["fields.b={kind: id}"], {}).fields
    )


def test_a_variable_that_may_mean_two_columns_is_refused() -> None:
    job = JOB | {"fields": {"age": {"kind": "category"}, "aGe": {"kind": "category"}}}
    assert refusal(job, environment={"RUNNER_FIELDS__AGE__NULLABLE": "true"}) == [
        "environment variable RUNNER_FIELDS__AGE__NULLABLE: it may mean age or aGe; write it as in the job"
    ]


def test_set_finds_a_column_with_a_dot_in_its_name() -> None:
    job = JOB | {"fields": {"a.b": {"kind": "category"}, "a": {"kind": "category"}}}
    fields = parse_job(job, ["fields.a.b.min_count=4", "fields.a.min_count=3"], {}).fields
    assert {name: getattr(field, "min_count", None) for name, field in (fields or {}).items()} == {"a.b": 4, "a": 3}


def test_what_pays_for_lookups_is_refused_without_privacy(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("name: demo\ndata: {uri: r}\nfields: {a: {kind: category}}\nprivacy: {schema_epsilon: 0.1}\n")
    with pytest.raises(ConfigError, match=r"privacy\.schema_epsilon: .* privacy\.enabled is false") as caught:
        load_job(path, environment={})
    assert len(str(caught.value).splitlines()) == 1
    assert load_job(path, ["privacy.enabled=true", "privacy.target_epsilon=1"], {}).privacy.schema_epsilon == 0.1


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
        ("data.text_column= 1 ", "data.text_column", " 1 "),
        ("training.optimizer={name: adam}", "training.optimizer.name", "adam"),
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
        ("training=", "--set training=: training is a section; set its fields, such as training.epochs"),
        ("training={}", "--set training={}: training is a section; set its fields, such as training.epochs"),
        ("training={epochs: 0}", "--set training={epochs: 0}: training.epochs: input should be greater than"),
    ],
)
def test_a_wrong_override_is_refused_in_one_line(override: str, line: str) -> None:
    (found,) = refusal(JOB, override)
    assert found.startswith(line)


def test_a_mapping_for_a_section_sets_its_fields_and_leaves_the_others() -> None:
    """Else `--set 'privacy={max_epsilon: 3}'` would turn privacy off."""
    document = JOB | {"privacy": {"enabled": True, "noise_multiplier": 1.0}, "tokenizer": {"kind": "byte"}}
    privacy = parse_job(document, ["privacy={max_epsilon: 3}"], {}).privacy
    assert (privacy.enabled, privacy.noise_multiplier, privacy.max_epsilon) == (True, 1.0, 3)
    rules = JOB | {"data": {"uri": "r", "columns": ["a", "b"], "field_delimiter": ","}}
    both = [f"generation={{columns: {{{name}: {{pattern: x}}}}}}" for name in "ab"]
    assert list(parse_job(rules, both, {}).generation.columns) == ["b"], "a mapping of the user's own keys is one value"


def test_a_variable_gives_the_user_s_own_keys_as_they_are() -> None:
    document = JOB | {"kubernetes": {}, "data": {"uri": "r", "columns": ["Age"], "field_delimiter": ","}}
    config = parse_job(
        document,
        [],
        {"RUNNER_KUBERNETES__ENVIRONMENT__HF_HOME": "/x", "RUNNER_GENERATION__COLUMNS__Age__PATTERN": "x"},
    )
    assert config.kubernetes is not None
    assert config.kubernetes.environment == {"HF_HOME": "/x"}
    assert config.generation.columns["Age"].pattern == "x"


def test_a_wrong_variable_is_refused_by_its_name() -> None:
    (line,) = refusal(JOB, environment={"RUNNER_NAME__FIRST": "x"})
    assert line == "environment variable RUNNER_NAME__FIRST: name is not a section"
    (line,) = refusal(JOB, environment={"RUNNER_TRAINING__EPOCH": "3"})
    assert line == "environment variable RUNNER_TRAINING__EPOCH: training.epoch: unknown key; did you mean epochs?"


# Reading back


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
PATHS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)
JOBS = st.fixed_dictionaries(
    {
        "name": NAMES,
        "data": st.fixed_dictionaries(
            {"uri": PATHS},
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
