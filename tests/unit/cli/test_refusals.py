"""Wrong input: one line, the right exit code, nothing written."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from runner import __main__ as main_module
from runner.run_directory import RunDirectory
from tests.unit.cli.commands import Refused, Run, one_line, take_run, tree, write_job, write_records


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("training.epoch=3", "--set training.epoch=3: training.epoch: unknown key; did you mean epochs?"),
        ("training.epochs=many", "--set training.epochs=many: training.epochs: input should be a valid integer"),
        ("training.epochs=0", "--set training.epochs=0: training.epochs: input should be greater than or equal to 1"),
        ("training.epochs", "--set training.epochs: write it as section.field=value"),
        ("data.uri=nowhere/", "/nowhere: no Parquet files (*.parquet) here"),
        ("data.uri=gs://bucket/x", "gs://bucket/x"),
        ("data.text_column=note", "/records/a.parquet: no column note; found: text (string)"),
        ("data.max_records=100", "records: 100 records, but training.batch_size 64 needs 128"),
        ("training.batch_size=1000", "300 records, but training.batch_size 1000 needs 2000"),
        ("training.epoch_callback=no_such_module:f", "training.epoch_callback: cannot import no_such_module"),
        ("training.epoch_callback=json:nothing", "training.epoch_callback: module json has no nothing"),
        ("training.callbacks=[no_such_module:f]", "training.callbacks: cannot import no_such_module"),
        ("tokenizer.uri=nowhere.model", "nowhere.model: no such SentencePiece model"),
        ("privacy.enabled=true", "enabled needs noise_multiplier, or target_epsilon to find it"),
    ],
)
def test_a_wrong_setting_is_answered_in_one_line(refused: Refused, override: str, line: str) -> None:
    assert line in refused("--set", override)


def test_a_missing_job_file_is_answered_in_one_line(refused: Refused, here: Path) -> None:
    (here / "job.yaml").unlink()
    assert refused() == "job.yaml: no such job file; `runner init job.yaml` writes one"


def test_each_mistake_in_a_job_has_a_line(run: Run, here: Path) -> None:
    write_job(here / "job.yaml", training={"epochs": 0, "sed": 1}, modell={})
    result = run("submit", "job.yaml")
    assert result.code == 2
    assert sorted(line.split(": ")[2] for line in result.err.splitlines()) == [
        "modell",
        "training.epochs",
        "training.sed",
    ]
    assert all(line.startswith("error: job.yaml: ") for line in result.err.splitlines())


def test_an_empty_folder_is_answered_in_one_line(refused: Refused, here: Path) -> None:
    (here / "records/a.parquet").unlink()
    assert "no Parquet files" in refused()


def test_a_corrupt_file_is_named(refused: Refused, here: Path) -> None:
    path = here / "records/b.parquet"
    path.write_bytes((here / "records/a.parquet").read_bytes()[:-9])
    assert refused().startswith(f"{path}: not a readable Parquet file")


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (pa.array(range(300)), "column text is int64, not text"),
        (pa.array([None] * 300, pa.string()), "no records: all 300 rows are null in column text"),
        (pa.array([], pa.string()), "no records: the files have no rows"),
        (["x"] * 5, "5 records, but training.batch_size 64 needs 128"),
    ],
    ids=["numbers", "nulls", "none", "few"],
)
def test_records_that_cannot_be_used_are_answered_in_one_line(
    refused: Refused, here: Path, rows: Any, line: str
) -> None:
    write_records(here / "records", rows)
    assert line in refused()


def test_invalid_utf8_is_named_by_file_and_row(refused: Refused, here: Path) -> None:
    binary = pa.array([b"good"] * 299 + [b"caf\xe9"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 300, binary.buffers())
    path = write_records(here / "records", text)
    assert refused() == f"{path}: row 299 of column text is not valid UTF-8"


def test_a_run_that_exists_is_not_touched(refused: Refused, here: Path) -> None:
    take_run(here, state="done")
    assert "runs/demo: this run exists; `runner resume` continues it, storage.overwrite=true" in refused()


def test_a_run_that_is_alive_is_not_overwritten(refused: Refused, here: Path, another_process: int) -> None:
    take_run(here, state="training", pid=another_process)
    assert "this run is training; `runner stop" in refused("--set", "storage.overwrite=true")


def test_a_failing_job_does_not_cost_the_run_it_would_overwrite(refused: Refused, here: Path) -> None:
    take_run(here, state="done")
    refused("--set", "storage.overwrite=true", "--set", "training.batch_size=1000")


def test_storage_that_cannot_be_written_is_the_infrastructures_fault(refused: Refused, here: Path) -> None:
    (here / "taken").write_text("a file")
    assert "is a file, not a folder" in refused("--set", "storage.uri=taken/runs", code=3)
    assert "permission denied: /proc" in refused("--set", "storage.uri=/proc/runs", code=3)


@pytest.mark.parametrize("section", ["data", "storage"])
def test_missing_credentials_are_answered_in_one_line(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, section: str
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    line = refused("--set", f"{section}.uri=s3://no-such-bucket-of-runner/x", code=3)
    assert line.startswith("no AWS credentials found: s3://no-such-bucket-of-runner")


def test_storage_that_does_not_answer_is_given_up_on_soon(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)
    started = time.monotonic()
    assert "storage cannot be reached" in refused("--set", "storage.uri=s3://bucket/runs", code=3)
    assert time.monotonic() - started < 30


def test_a_cluster_that_does_not_answer_is_the_infrastructures_fault(refused: Refused) -> None:
    line = refused("--on", "ray", "--address", "http://127.0.0.1:9", code=3)
    assert line.startswith("http://127.0.0.1:9: no Ray cluster answers here; check --address")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--on", "slurm"], "--on slurm: no such target; choose local, ray or kubernetes"),
        (["--on", "ray"], "--on ray: no cluster named; give --address"),
        (
            ["--on", "ray", "--address", "ray://head:10001"],
            "--address ray://head:10001: the Jobs API speaks HTTP",
        ),
    ],
)
def test_an_unknown_target_is_answered_in_one_line(refused: Refused, arguments: list[str], line: str) -> None:
    assert refused(*arguments).startswith(line)


def test_debug_adds_the_traceback(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["runner", "submit", "job.yaml", "--debug"])
    with pytest.raises(Exception, match="no such job file"):
        main_module.main()


def test_what_nobody_expected_is_one_line_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("first\nlast words")

    monkeypatch.setattr("runner.config.json_schema", fail)
    assert one_line(run("schema"), 1) == "unexpected: RuntimeError: last words"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--prompt", "x", "--prompts", "p.csv"], "give --prompt or --prompts, not both"),
        (["--temperature", "-1"], "temperature must be a number of at least 0, not -1.0"),
        (["-o", "out.xlsx"], "-o out.xlsx: a file must end in .csv, .jsonl or .parquet, and a folder in /"),
        (["-o", "out/"], "runs/demo/model: no model here; a run leaves one when it ends"),
    ],
)
def test_records_that_cannot_be_generated_are_answered_in_one_line(
    run: Run, here: Path, arguments: list[str], line: str
) -> None:
    take_run(here, state="stopped")
    before = tree(here)
    assert line in one_line(run("generate", "demo", *arguments), 2)
    assert tree(here) == before


def test_stop_and_status_know_a_folder_of_shards(run: Run, here: Path, another_process: int) -> None:
    books = RunDirectory(take_run(here).folder.child("out").child("_generation"))
    books.folder.write("settings.json", b"{}")
    progress = {"records": 500, "of_records": 2000, "shards": 1, "of_shards": 4, "records_per_second": 100, "eta_s": 15}
    books.update_status(state="generating", progress=progress, pid=another_process, name="out")
    out = f"{here}/runs/demo/out"
    assert run("status", out).out == "out: 500/2,000 records  shard 1/4  100 records/s  ETA 0:15\n"
    assert "stops after its next shard; the same command continues it" in run("stop", out).out
    assert books.stop_requested()
    assert "no run here" in one_line(run("report", out), 2)


@pytest.mark.parametrize("verb", ["status", "logs", "stop", "resume", "generate", "report", "audit"])
def test_a_run_that_is_not_there_is_answered_in_one_line(run: Run, here: Path, verb: str) -> None:
    assert one_line(run(verb, "nowhere"), 2).startswith("runs/nowhere: no run here; `runner list`")
    assert tree(here) == {}


PRIVATE = (
    "tokenizer.kind=byte",
    "privacy.enabled=true",
    "training.batch_size=32",
    "training.epochs=2",
)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["privacy.noise_multiplier=1", "privacy.delta=0.01"],
            "privacy.delta 0.01 is not below 1/n = 0.00424 for 236 training records; lower it, or leave it out",
        ),
        (
            ["privacy.noise_multiplier=1", "training.batch_size=400", "training.validation_split=false"],
            "records: 300 records, but training.batch_size 400 needs 400",
        ),
        (
            ["privacy.target_epsilon=0.001", "privacy.delta=1e-12"],
            "privacy.target_epsilon 0.001 cannot be reached in 14 steps of 32 of 236 records at delta 1e-12; raise it",
        ),
        (
            ["privacy.noise_multiplier=1", "privacy.max_epsilon=0.001"],
            "privacy.max_epsilon 0.001 does not pay for a single step: one step more would make it",
        ),
        (["privacy.noise_multiplier=1", "tokenizer.kind=char"], "a char vocabulary would be made from the private"),
        (["privacy.noise_multiplier=1", "examples.packing=stream"], "privacy.enabled needs examples.packing records"),
    ],
    ids=["delta", "batch", "target", "budget", "vocabulary", "packing"],
)
def test_privacy_that_cannot_be_had_is_refused_in_one_line(refused: Refused, overrides: list[str], line: str) -> None:
    arguments = [word for override in (*PRIVATE, *overrides) for word in ("--set", override)]
    assert line in refused(*arguments)
