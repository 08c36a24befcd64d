"""Runs that go on from one another: every record is trained on once, whatever `max_records` cuts."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from runner.config import JobConfig, parse_job
from runner.data.files import SourceFile, list_files
from runner.data.prepare import token_key
from runner.data.records import read_records, read_unit
from runner.data.tokenizers.characters import ByteTokenizer
from runner.errors import ConfigError, CorruptError, DataError, NothingNewError, StorageError
from runner.generation.records import are_in
from runner.generation.training_records import hash_records
from runner.privacy.file_marks import FileMarks
from runner.run_directory import RunDirectory
from runner.storage import publish
from runner.train.facade import check_job
from runner.train.private_run import note_plain_run
from runner.train.series import (
    chain_of_run,
    check_previous,
    files_so_far,
    first_weights,
    reading_version,
    record_files,
    source_files,
)
from tests.unit.parquet_files import texts, write


def config_of(name: str, folder: Path, **data: Any) -> JobConfig:
    job: dict[str, Any] = {
        "name": name,
        "data": {"uri": str(folder / "records"), **data},
        "tokenizer": {"kind": "byte"},
        "training": {"batch_size": 1, "validation_split": False, "early_stopping": {"metric": "loss"}},
        "storage": {"uri": str(folder / "runs")},
    }
    return parse_job(job, environment={})


def begin(config: JobConfig) -> tuple[RunDirectory, list[str]]:
    """What the driver does up to the tokens, and a model as if trained; returns the records as the survey's units."""
    checked = check_job(config)
    directory = RunDirectory.of(config)
    directory.claim(config, "local")
    record_files(config, directory, checked.files, checked.used)
    directory.folder.write("model/manifest.json", b"{}")
    publish(directory.folder.child("tokenizer"), ByteTokenizer().to_files())
    assert checked.survey is not None
    found = [
        text for unit in checked.survey.units for rows in read_unit(config.data, unit) for text in rows.to_pylist()
    ]
    return directory, [text for text in found if text is not None]


def add(folder: Path, name: str, records: list[str | None]) -> None:
    write(folder / "records" / f"{name}.parquet", texts(records))


def listed(directory: RunDirectory, which: str = "own") -> list[str]:
    return [file["name"] for file in json.loads(directory.folder.read("files.json"))[which]]


def test_a_run_lists_the_files_that_it_came_to_and_the_next_one_trains_on_the_rest(tmp_path: Path) -> None:
    for name in "abc":
        add(tmp_path, name, [f"{name}{number}" for number in range(30)])
    first, records = begin(config_of("first", tmp_path, max_records=30))
    assert records == [f"a{number}" for number in range(30)]
    assert (listed(first), listed(first, "left")) == (["a.parquet"], ["b.parquet", "c.parquet"])
    second, records = begin(config_of("second", tmp_path, since="first"))
    assert records == [f"{name}{number}" for name in "bc" for number in range(30)]
    assert [file.name for file in files_so_far(second)] == ["a.parquet", "b.parquet", "c.parquet"]


def test_a_file_used_in_part_is_gone_on_with(tmp_path: Path) -> None:
    add(tmp_path, "a", ["a0", None, "a1", "a2", "a3"])
    begin(config_of("first", tmp_path, max_records=2))
    second, records = begin(config_of("second", tmp_path, since="first", max_records=1))
    assert records == ["a2"]
    assert [(file.start, file.stop) for file in files_so_far(second)] == [(3, 4)]
    _, records = begin(config_of("third", tmp_path, since="second"))
    assert records == ["a3"]
    with pytest.raises(NothingNewError):
        check_job(config_of("fourth", tmp_path, since="third"))


@given(
    st.lists(st.lists(st.none() | st.just("x"), max_size=5), min_size=1, max_size=3),
    st.lists(st.none() | st.integers(1, 6), min_size=1, max_size=4),
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_series_trains_on_every_record_once(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[str | None]], limits: list[int | None]
) -> None:
    folder = tmp_path_factory.mktemp("series")
    expected: list[str] = []
    for number, rows in enumerate(files):
        named = [text and f"{number}.{row}" for row, text in enumerate(rows)]
        add(folder, str(number), named)
        expected += [text for text in named if text]
    trained: list[str] = []
    since: dict[str, str] = {}
    for number, limit in enumerate([*limits, None]):
        config = config_of(f"run{number}", folder, max_records=limit, **since)
        rest = expected[len(trained) :]
        if not rest:
            return
        directory, records = begin(config)
        assert records == rest[:limit]
        assert records == [
            text
            for rows in read_records(config.data, source_files(config, directory))
            for text in rows.drop_null().to_pylist()
        ], "as the report reads them"
        trained += records
        since = {"since": f"run{number}"}
    with pytest.raises(NothingNewError):
        check_job(config_of("last", folder, **since))


def test_a_resume_has_the_files_and_the_key_that_the_run_began_with(tmp_path: Path) -> None:
    for name in "abc":
        add(tmp_path, name, [f"{name}{number}" for number in range(3)])
    for name, data in (("first", {"max_records": 4}), ("second", {"since": "first", "max_records": 2})):
        config = config_of(name, tmp_path, **data)
        begun = check_job(config)
        directory, _ = begin(config)
        add(tmp_path, f"0 before {name}", ["new"])
        resumed = check_job(config, directory=directory)
        assert (resumed.key, resumed.used) == (begun.key, begun.used)
        assert [file.stop for file in resumed.used] == [file.stop for file in begun.used]
        (tmp_path / "records" / f"0 before {name}.parquet").unlink()


def test_an_empty_file_is_in_no_run_until_it_is_filled(tmp_path: Path) -> None:
    add(tmp_path, "a", ["x"])
    add(tmp_path, "b", [])
    first, _ = begin(config_of("first", tmp_path))
    assert listed(first) == ["a.parquet"]
    with pytest.raises(NothingNewError, match="the files have no rows"):
        check_job(config_of("second", tmp_path, since="first"))
    add(tmp_path, "b", ["y"])
    assert begin(config_of("second", tmp_path, since="first"))[1] == ["y"]


def test_files_corrected_before_the_first_checkpoint_are_those_of_the_run(tmp_path: Path) -> None:
    """Killed, corrected, resumed: the next run of the series must not take them for changed since."""
    add(tmp_path, "a", ["x"])
    config = config_of("first", tmp_path)
    directory, _ = begin(config)
    add(tmp_path, "a", ["corrected"])
    checked = check_job(config, directory=directory)
    assert record_files(config, directory, checked.files, checked.used)
    add(tmp_path, "b", ["y"])
    assert begin(config_of("second", tmp_path, since="first"))[1] == ["y"]
    directory.folder.write("checkpoints/step-000000000001/state.json", b"{}")
    assert not record_files(config, directory, checked.files, source_files(config_of("other", tmp_path)))


def test_no_record_of_a_series_is_let_through_as_new(tmp_path: Path) -> None:
    """What `max_records` took depends on the runs before: all records of the folder count as known."""
    for name in "ab":
        add(tmp_path, name, [f"{name}{number}" for number in range(3)])
    begin(config_of("first", tmp_path, max_records=3))
    config = config_of("second", tmp_path, since="first", max_records=2)
    _, records = begin(config)
    assert all(are_in(hash_records(config.data), records))


FILES = (SourceFile("a.parquet", 10, "f0"), SourceFile("b.parquet", 20, "f1"))


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ({}, "76e21dccc592e4fe32ef27ff70791d87"),
        ({"max_records": 5}, "67161e0ed340c1006007371fa93349fc"),
        ({"columns": ["a", "b"], "field_delimiter": ","}, "586dece2aa647e56a44b41bc8817ada6"),
    ],
)
def test_a_run_of_version_1_keeps_its_key(tmp_path: Path, data: dict[str, Any], key: str) -> None:
    """As version 1 made them: its runs resume, and tokens that mean something else now are made again."""
    config = parse_job(
        {"name": "claims", "data": {"uri": "/records", **data}, "tokenizer": {"kind": "byte"}}, environment={}
    )
    old = tuple(SourceFile(file.name, file.size, file.fingerprint, version=1) for file in FILES)
    assert token_key(config, old) == key
    assert (token_key(config, FILES) == key) == (data == {})
    rest = (FILES[0], replace(FILES[1], start=5))
    assert token_key(config, rest) != token_key(config, FILES), "the rest of a file is not the file"


def test_the_files_of_a_run_of_version_1_are_read_by_its_rules(tmp_path: Path) -> None:
    add(tmp_path, "a", [None, "x", "y"])
    config = config_of("old", tmp_path, max_records=2)
    directory = RunDirectory.of(config)
    directory.claim(config, "local")
    own = [{"name": file.name, "size": file.size, "fingerprint": file.fingerprint} for file in source_files(config)]
    directory.folder.write("files.json", json.dumps({"since": None, "own": own, "before": []}).encode())
    (file,) = source_files(config, directory)
    assert file.version == 1
    assert check_job(config, directory=directory).records == 1, "max_records counted rows"
    assert check_job(config).records == 2
    assert (reading_version(directory), reading_version(RunDirectory.of(config_of("none", tmp_path)))) == (1, 2)


def test_copies_are_found_by_the_rules_that_the_run_read_its_records_by(tmp_path: Path) -> None:
    columns = pa.table({"a": [4915112345678.0], "b": ["x"]})
    write(tmp_path / "records" / "a.parquet", columns)
    config = config_of("any", tmp_path, columns=["a", "b"], field_delimiter="|")
    assert all(are_in(hash_records(config.data), ["4915112345678|x"]))
    assert all(are_in(hash_records(config.data, version=1), ["4.915112345678e+12|x"]))


def test_a_table_goes_on_only_from_a_run_with_the_same_fields(tmp_path: Path) -> None:
    """Whose schema, with what was found, it takes over."""
    storage = {"uri": str(tmp_path / "runs")}
    fields = {"age": {"kind": "integer", "range": [0, 99]}}
    first = parse_job({"name": "first", "data": {"uri": "r/"}, "fields": fields, "storage": storage}, environment={})
    directory = RunDirectory.of(first)
    directory.claim(first, "local")
    directory.folder.write("model/manifest.json", b"{}")
    for bound, refused in ((99, False), (120, True)):
        fields["age"]["range"] = [0, bound]
        document = {"name": "second", "data": {"uri": "r/", "since": "first"}, "fields": fields, "storage": storage}
        second = parse_job(document, environment={})
        with pytest.raises(ConfigError, match="fields differs from run first") if refused else nullcontext():
            check_previous(second)


def test_the_files_of_a_run_are_named_by_marks_and_earlier_versions_plain_names_are_known(tmp_path: Path) -> None:
    add(tmp_path, "a", ["x"])
    first, _ = begin(config_of("first", tmp_path))
    (file,) = list_files(str(tmp_path / "records"))
    assert file.fingerprint not in first.folder.read("files.json").decode()
    add(tmp_path, "b", ["y"])
    second = config_of("second", tmp_path, since="first")
    assert [each.name for each in source_files(second)] == ["b.parquet"]
    plain = json.loads(first.folder.read("files.json"))
    plain["own"][0]["fingerprint"] = file.fingerprint
    first.folder.write("files.json", json.dumps(plain).encode())
    assert [each.name for each in source_files(second)] == ["b.parquet"]
    begun, _ = begin(second)
    assert file.fingerprint not in begun.folder.read("files.json").decode(), "nor in the next run's"
    for fingerprint in ("0" * 64, FileMarks(b"0" * 64).mark(file.fingerprint)):
        plain["own"][0]["fingerprint"] = fingerprint
        first.folder.write("files.json", json.dumps(plain).encode())
        with pytest.raises((DataError, CorruptError)):
            source_files(second)


def test_a_run_without_privacy_goes_on_where_it_cannot_have_the_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_ledger: Any) -> None:
        raise StorageError("runs/.privacy/secret/key: permission denied")

    monkeypatch.setattr(FileMarks, "of", refuse)
    add(tmp_path, "a", ["x"])
    run, _ = begin(config_of("first", tmp_path))
    note_plain_run(config_of("first", tmp_path), list_files(str(tmp_path / "records")))
    assert run.folder.exists("files.json")
    assert len([line for line in caplog.messages if "permission denied" in line]) == 2
    assert len(caplog.messages) == 2


def test_what_the_runs_of_a_private_series_claim_is_kept_and_one_without_noise_ends_it(tmp_path: Path) -> None:
    def private(name: str, noise: float, **data: Any) -> JobConfig:
        config = config_of(name, tmp_path, **data)
        privacy = config.privacy.model_copy(update={"enabled": True, "noise_multiplier": noise})
        return config.model_copy(update={"privacy": privacy})

    def leave_model(directory: RunDirectory, epsilon: float | str, **more: Any) -> None:
        statement = {"run": directory.folder.uri.rpartition("/")[2], "epsilon": epsilon, "delta": 1e-5, **more}
        publish(directory.folder.child("model"), {"privacy.json": json.dumps(statement).encode()})

    directory = RunDirectory.of(private("first", 1.0))
    for number, name in enumerate(["first", "second", "third"]):
        add(tmp_path, name, ["x"])
        config = private(name, 1.0, **({"since": ["first", "second"][number - 1]} if number else {}))
        check_previous(config)
        directory = RunDirectory.of(config)
        directory.claim(config, "local")
        files = source_files(config)
        record_files(config, directory, files, files)
        chain = chain_of_run(config, directory)
        assert [(link["run"], link["epsilon"]) for link in chain] == [("first", 2.5), ("second", 0.5)][:number]
        assert not record_files(config, directory, files, files), "resumed at once"
        leave_model(directory, [2.5, 2.5, 2.5][number], epsilon_of_run=[2.5, 0.5, 0.1][number], chain=chain)
    leave_model(RunDirectory.of(private("first", 1.0)), 99.0)
    assert chain_of_run(private("third", 1.0, since="second"), directory)[0]["epsilon"] == 2.5, "as it began"

    by_person = private("persons", 1.0)
    privacy = by_person.privacy.model_copy(update={"unit": "customer", "max_records_per_unit": 2})
    by_person = by_person.model_copy(update={"privacy": privacy})
    RunDirectory.of(by_person).claim(by_person, "local")
    leave_model(RunDirectory.of(by_person), 1.0)
    with pytest.raises(ConfigError, match="run persons protects each customer"):
        check_previous(private("of-records", 1.0, since="persons"))

    leave_model(directory, "infinite")
    with pytest.raises(ConfigError, match=r"run third claims no privacy.*can claim none"):
        check_previous(private("fourth", 1.0, since="third"))
    check_previous(private("fourth", 0.0, since="third"))
    directory.folder.write("model/privacy.json", b"{")
    publish(directory.folder.child("model"), {"weights.safetensors": b""})
    with pytest.raises(DataError, match="nobody can tell what this run claims"):
        check_previous(private("fourth", 1.0, since="third"))


def test_a_run_that_was_killed_early_claims_what_the_model_claims_that_it_begins_with(tmp_path: Path) -> None:
    """The run before it goes on meanwhile: resumed, this one begins with another model. Later it keeps what it has."""

    def leave_model(epsilon: float) -> None:
        statement = {"run": "first", "epsilon": epsilon, "delta": 1e-5}
        weights = save({"dense/bias": np.full(1, epsilon, np.float32)})
        files = {"privacy.json": json.dumps(statement).encode(), "weights.safetensors": weights}
        publish(RunDirectory.of(config_of("first", tmp_path)).folder.child("model"), files)

    def begins() -> tuple[float, float]:
        """Of a process of the second run: what it begins with, and what its statement says of that."""
        record_files(second, directory, files, files)
        found = first_weights(second, directory)
        assert found is not None
        return float(found["dense/bias"][0]), chain_of_run(second, directory)[0]["epsilon"]

    add(tmp_path, "a", ["x"])
    begin(config_of("first", tmp_path))
    leave_model(0.5)
    add(tmp_path, "b", ["y"])
    config = config_of("second", tmp_path, since="first")
    second = config.model_copy(update={"privacy": config.privacy.model_copy(update={"enabled": True})})
    directory = RunDirectory.of(second)
    directory.claim(second, "local")
    files = source_files(second)
    assert begins() == (0.5, 0.5)
    leave_model(2.5)
    with pytest.raises(DataError, match="run first has just gone on; resume this run"):
        first_weights(second, directory)
    assert record_files(second, directory, files, files), "it is written again"
    assert begins() == (2.5, 2.5)
    directory.folder.write("checkpoints/step-000000000008/state.json", b"{}")
    leave_model(9.0)
    record_files(second, directory, files, files)
    assert chain_of_run(second, directory)[0]["epsilon"] == 2.5
