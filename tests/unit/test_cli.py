"""The command line: its surface, its exit codes, and one line for everything that is wrong."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from runner import cli as cli_module
from runner.cli import cli
from runner.config import parse_job
from runner.errors import ClusterError
from runner.run_directory import RunDirectory
from runner.submit import ray_jobs, start
from runner.submit.follow import describe, duration
from tests.report_runs import STATEMENT, write_statement, write_synthetic
from tests.report_runs import take_run as take_reported_run

SURFACE = {
    "init": "PATH --name --data --columns --field-delimiter --template --force --json --debug",
    "import": "SOURCE TARGET --format --no-header --csv-delimiter --text-column --columns --field-delimiter "
    "--allow-delimiter-in-fields --rows-per-shard --overwrite --json --debug",
    "submit": "JOB --set --since --on --address --detach --dry-run --quiet --json --debug",
    "resume": "RUN --runs --set --on --address --detach --dry-run --quiet --json --debug",
    "status": "RUN --runs --json --debug",
    "list": "URI --json --debug",
    "logs": "RUN -f/--follow --runs --json --debug",
    "stop": "RUN --runs --json --debug",
    "generate": "RUN -n -o --temperature --top-k --top-p --seed --prompt --prompts --prompt-column --unique "
    "--not-in-training --rows-per-shard --runs --set --on --address --detach --dry-run --quiet --json --debug",
    "report": "RUN --target --synthetic -n --runs --json --debug",
    "epsilon": "-n --batch-size --epochs --steps --noise-multiplier --target-epsilon --delta --json --debug",
    "audit": "RUN --runs --json --debug",
    "validate": "JOB --set --json --debug",
    "doctor": "--address --runs --json --debug",
    "schema": "--json --debug",
}


@dataclass(frozen=True)
class Result:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def answer(self) -> Any:
        """The one JSON object of `--json`."""
        assert len(self.out.splitlines()) == 1
        return json.loads(self.out)


Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs `runner ARGUMENTS` in this process, as the installed command would, in an empty folder."""
    folder = tmp_path / "work of ä"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in os.environ if name.startswith(("RUNNER_", "AWS_", "RAY_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RUNNER_JOB_FOLDER", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(cli_module, "_silence_native_code", lambda: None)  # it would silence pytest, too
    logger = logging.getLogger("runner")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate

    def restore_logging() -> None:
        logger.handlers, logger.level, logger.propagate = list(handlers), level, propagate

    def run_command(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["runner", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli_module.main()
        restore_logging()
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Result(ended.value.code, said.out, said.err)

    yield run_command
    restore_logging()


@pytest.fixture
def here(run: Run) -> Path:
    """The folder in which `run` runs."""
    return Path.cwd()


def write_records(folder: Path, rows: Any = 300, column: str = "text") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    values = [f"record {number}" for number in range(rows)] if isinstance(rows, int) else rows
    pq.write_table(pa.table({column: values}), folder / "a.parquet")
    return folder / "a.parquet"


def write_job(path: Path, **changes: Any) -> Path:
    """A good job, with whole sections replaced."""
    job: dict[str, Any] = {"name": "demo", "data": {"uri": "records/"}}
    path.write_text(yaml.safe_dump(job | changes))
    return path


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything under a folder, with its content."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def one_line(result: Result, code: int) -> str:
    """The single line of an error, without its `error: `."""
    assert result.code == code, result
    assert result.out == ""
    (line,) = result.err.splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in line
    return line.removeprefix("error: ")


def take_run(here: Path, name: str = "demo", **status: Any) -> RunDirectory:
    """A run directory by hand, under `runs/`."""
    config = parse_job({"name": name, "data": {"uri": str(here / "records")}}, environment={})
    config = config.model_copy(update={"storage": config.storage.model_copy(update={"uri": str(here / "runs")})})
    directory = RunDirectory.of(config)
    directory.claim(config, "local")
    found = directory.status()
    assert found is not None
    directory.write_status(replace(found, **status))
    return directory


@pytest.fixture
def another_process() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.kill()
    process.wait()


# The surface


def test_the_verbs_and_their_options_are_these() -> None:
    """Scripts rely on them: whoever removes or renames one changes this list and the docs."""
    found = {
        name: " ".join(
            parameter.name.upper() if isinstance(parameter, click.Argument) else "/".join(parameter.opts)
            for parameter in command.params
            if parameter.name
        )
        for name, command in cli.commands.items()
    }
    assert found == SURFACE


@pytest.mark.parametrize("verb", SURFACE)
def test_every_verb_has_help_with_an_example(run: Run, verb: str) -> None:
    result = run(verb, "--help")
    assert (result.code, result.err) == (0, "")
    assert "Example:\n" in result.out
    assert f"runner {verb}" in result.out.partition("Example:")[2]
    for parameter in cli.commands[verb].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


@pytest.mark.parametrize("verb", SURFACE)
def test_the_examples_in_the_help_are_commands_that_parse(verb: str) -> None:
    lines = (cli.commands[verb].help or "").partition("Example:")[2].splitlines()
    examples = [line.split(" > ")[0].split()[1:] for line in lines if line.strip().startswith("runner ")]
    assert examples
    for example in examples:
        name, *arguments = example
        cli.commands[name].make_context(name, arguments)


def test_help_imports_nothing_heavy_and_reads_no_config() -> None:
    program = (
        "import sys\n"
        "from runner.cli import main\n"
        "sys.argv = ['runner', *sys.argv[1:]]\n"
        "try:\n    main()\n"
        "finally:\n    print(sorted(set(sys.modules) & set("
        "['tensorflow', 'keras', 'ray', 'pyarrow', 'numpy', 'pydantic', 'yaml', 'boto3', 'rich'])))"
    )
    for arguments in (["--help"], ["submit", "--help"], ["generate", "--help"], ["epsilon", "--help"]):
        said = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
        assert said.stdout.splitlines()[-1] == "[]"


def test_wrong_input_is_found_without_tensorflow_and_ray(here: Path) -> None:
    write_records(here / "records", 3)
    write_job(here / "job.yaml")
    program = (
        "import sys\n"
        "from runner.cli import main\n"
        "sys.argv = ['runner', 'submit', 'job.yaml']\n"
        "try:\n    main()\n"
        "finally:\n    print(sorted(set(sys.modules) & {'tensorflow', 'keras', 'ray'}))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (2, "[]\n")
    assert "3 records" in said.stderr


def test_the_command_is_installed_under_its_name() -> None:
    said = subprocess.run(
        [Path(sys.executable).parent / "runner", "--version"], capture_output=True, text=True, check=True
    )
    assert said.stdout.startswith("runner, version ")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nosuch"], "No such command 'nosuch'."),
        (["submit"], "Missing argument 'JOB'."),
        (["submit", "--frobnicate", "x"], "No such option '--frobnicate'."),
        (["generate", "x", "-n", "0"], "Invalid value for '-n'"),
        (["import", "a", "b", "--format", "xml"], "Invalid value for '--format'"),
    ],
)
def test_a_wrong_command_line_is_answered_in_one_line(run: Run, arguments: list[str], line: str) -> None:
    assert one_line(run(*arguments), 2).startswith(line)


def test_no_verb_shows_the_help(run: Run) -> None:
    result = run()
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("Usage: ")
    assert "Commands:\n" in result.err


# Wrong input: one line, the right exit code, nothing written


@pytest.fixture
def refused(run: Run, here: Path, tmp_path: Path) -> Callable[..., str]:
    """Submits what is wrong and returns the line; fails when anything was written."""

    def submit(*arguments: str, code: int = 2) -> str:
        before = tree(tmp_path)
        line = one_line(run("submit", "job.yaml", *arguments), code)
        assert tree(tmp_path) == before
        return line

    write_records(here / "records")
    write_job(here / "job.yaml")
    return submit


Refused = Callable[..., str]


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
        (["--on", "slurm"], "--on slurm: no such target; choose local or ray"),
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
        cli_module.main()


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
        (["-o", "out/"], "runs/demo/model: no model here; the run has not finished an epoch"),
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


# Private jobs that cannot have what they ask for

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


# Plans


def test_a_dry_run_prints_the_exact_request_and_writes_nothing(run: Run, here: Path, tmp_path: Path) -> None:
    write_job(here / "job.yaml", training={"epochs": 7})
    before = tree(tmp_path)
    result = run("submit", "job.yaml", "--dry-run")
    assert (result.code, result.err) == (0, "")
    plan = yaml.safe_load(result.out)
    assert (plan["target"], plan["run_uri"]) == ("local", str(here / "runs/demo"))
    assert plan["job"]["training"]["epochs"] == 7
    assert plan["job"]["data"]["uri"] == str(here / "records")
    arguments = ["--on", "ray", "--address", "http://head:8265", "--json"]
    plan = run("submit", "job.yaml", "--dry-run", *arguments).answer
    assert plan["address"] == "http://head:8265"
    assert plan["entrypoint"] == f"python -m runner.driver '{here}/runs/demo'"
    assert plan["runtime_env"] == {"py_modules": [str(Path(cli_module.__file__).parent)]}
    assert tree(tmp_path) == before


def test_the_cluster_may_be_named_by_the_environment(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_job(here / "job.yaml")
    monkeypatch.setenv("RAY_ADDRESS", "http://named:8265")
    assert run("submit", "job.yaml", "--dry-run", "--on", "ray", "--json").answer["address"] == "http://named:8265"


def test_the_users_modules_travel_to_the_cluster_and_installed_ones_do_not(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (here / "users_own_module.py").write_text("def after(state): pass\n")
    (here / "users_own_folder").mkdir()
    (here / "users_own_folder/inner.py").write_text("def make(): return []\n")
    callbacks = ["users_own_folder.inner:make", "json:dumps", "click:echo", "builtins:print"]
    write_job(here / "job.yaml", training={"epoch_callback": "users_own_module:after", "callbacks": callbacks})
    plan = run("submit", "job.yaml", "--dry-run", "--json", "--on", "ray", "--address", "http://head:8265").answer
    package, *modules = plan["runtime_env"]["py_modules"]
    assert package == str(Path(cli_module.__file__).parent)
    assert sorted(modules) == [str(here / "users_own_folder"), str(here / "users_own_module.py")]
    for name in [name for name in sys.modules if name.startswith("users_own")]:
        del sys.modules[name]


class FakeCluster:
    """A Jobs API that takes what it is sent, or refuses."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.stopped: list[str] = []
        self.refuses = refuses

    def submit_job(self, **job: Any) -> str:
        if self.refuses:
            raise RuntimeError("Request failed with status code 500\nno room")
        self.jobs.append(job)
        return job["submission_id"]

    def stop_job(self, submission_id: str) -> bool:
        self.stopped.append(submission_id)
        return True


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, here: Path) -> FakeCluster:
    cluster = FakeCluster()
    monkeypatch.setattr(ray_jobs, "connect", lambda _: cluster)
    write_records(here / "records")
    write_job(here / "job.yaml")
    return cluster


ON_RAY = ("--on", "ray", "--address", "http://head:8265", "--detach")


def test_a_detached_run_waits_for_its_cluster_without_this_process(run: Run, here: Path, cluster: FakeCluster) -> None:
    result = run("submit", "job.yaml", *ON_RAY, "--json")
    (job,) = cluster.jobs
    assert result.answer["id"] == job["submission_id"]
    status = run("status", "demo", "--json").answer
    assert status["state"] == "pending"
    assert status["submission"] == {"address": "http://head:8265", "id": job["submission_id"]}
    assert status["pid"] == 0  # this process may end, and the run is not lost by that


def test_a_waiting_run_is_withdrawn_from_its_cluster(run: Run, cluster: FakeCluster) -> None:
    run("submit", "job.yaml", *ON_RAY)
    assert "withdrawn before it began" in run("stop", "demo").out
    assert cluster.stopped == [cluster.jobs[0]["submission_id"]]
    assert run("status", "demo", "--json").answer["state"] == "stopped"


def test_a_job_that_the_cluster_refuses_has_failed(run: Run, cluster: FakeCluster) -> None:
    cluster.refuses = True
    line = one_line(run("submit", "job.yaml", *ON_RAY), 3)
    assert line == "http://head:8265: RuntimeError: no room"
    status = run("status", "demo", "--json").answer
    assert (status["state"], status["error"]) == ("failed", line)


def test_a_refused_token_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(ClusterError, match="refused the token; set RAY_AUTH_MODE=token"),
        ray_jobs._in_one_line("a"),
    ):
        raise RuntimeError("Request failed with status code 401: Unauthorized")


# Resuming


def test_a_resume_changes_nothing_that_the_weights_depend_on(run: Run, here: Path) -> None:
    take_run(here, state="stopped")
    before = tree(here)
    for override in (
        "training.batch_size=8",
        "model.layers=3",
        "data.uri=x",
        "training.seed=1",
        "name=other",
    ):
        line = one_line(run("resume", "demo", "--set", override), 2)
        assert line.startswith(f"--set {override.partition('=')[0]}: a resume cannot change this")
    assert tree(here) == before


@pytest.mark.parametrize("override", ["training.epochs=30", "resources.workers=2", "data.cache_gib=0"])
def test_a_resume_may_change_how_long_and_where(run: Run, here: Path, override: str) -> None:
    take_run(here, state="stopped")
    before = tree(here)
    plan = run("resume", "demo", "--set", override, "--dry-run", "--json").answer
    section, name = override.partition("=")[0].split(".")
    assert plan["job"][section][name] == int(override.partition("=")[2])
    assert tree(here) == before


def test_a_finished_run_has_nothing_to_resume(run: Run, here: Path) -> None:
    take_run(here, state="done", message="all epochs done")
    before = tree(here)
    result = run("resume", "demo")
    assert (result.code, result.out.splitlines()[0]) == (0, f"all epochs done: {here}/runs/demo")
    assert tree(here) == before


def test_a_run_that_is_alive_is_not_resumed(
    run: Run, here: Path, another_process: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "KILLED_RUN_ENDS_WITHIN_S", 0)
    take_run(here, state="training", pid=another_process)
    before = tree(here)
    assert "this run is training, last seen" in one_line(run("resume", "demo"), 2)
    assert tree(here) == before


# Reading a run


PROGRESS = {
    "epoch": 2,
    "epochs": 15,
    "step": 30,
    "steps": 120,
    "loss": 1.23456,
    "accuracy": 0.5678,
    "tokens_per_second": 12345.6,
    "eta_s": 3725.0,
}
LINE = "demo: epoch 3/15  step 30/120  loss 1.2346  12,346 tokens/s  ETA 1:02:05"


def test_status_shows_how_far_a_run_is(run: Run, here: Path, another_process: int) -> None:
    directory = take_run(here, state="training", progress=PROGRESS, pid=another_process)
    assert run("status", "demo") == Result(0, LINE + "\n", "")
    assert run("status", directory.uri).out == LINE + "\n"
    answer = run("status", "demo", "--json").answer
    assert (answer["run"], answer["state"], answer["progress"]) == (directory.uri, "training", PROGRESS)


@pytest.mark.parametrize(
    ("status", "line"),
    [
        ({"state": "done", "message": "early stopping"}, "demo: done - early stopping"),
        ({"state": "failed", "error": "the disk is full"}, "demo: failed - the disk is full"),
        ({"state": "stopped"}, "demo: stopped"),
        (
            {"state": "preparing", "message": "tokenized 3 of 7 parts"},
            "demo: preparing - tokenized 3 of 7 parts",
        ),
        (
            {"state": "training", "message": "compiling the first step"},
            "demo: training - compiling the first step",
        ),
    ],
)
def test_status_says_what_a_run_does_in_one_line(run: Run, here: Path, status: dict[str, Any], line: str) -> None:
    take_run(here, **status)
    assert run("status", "demo").out == line + "\n"


def test_a_killed_run_is_shown_as_lost(run: Run, here: Path) -> None:
    take_run(here, state="training", heartbeat=time.time() - 3600, host="gone")
    assert run("status", "demo").out.startswith("demo: lost - no sign of life for 36")


def test_list_shows_the_runs_of_a_folder(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("list") == Result(0, "no runs in runs/\n", "")
    take_run(here, "b", state="done", message="all epochs done")
    take_run(here, "a", state="failed", error="too little memory")
    text = "a: failed - too little memory\nb: done - all epochs done\n"
    assert run("list").out == run("list", "runs").out == text
    answer = run("list", "runs", "--json").answer
    assert [(row["name"], row["state"]) for row in answer["runs"]] == [("a", "failed"), ("b", "done")]
    monkeypatch.chdir("/")
    monkeypatch.setenv("RUNNER_STORAGE__URI", str(here / "runs"))
    assert run("list").out == text
    assert run("status", "b").out == "b: done - all epochs done\n"


def test_logs_prints_what_every_process_wrote(run: Run, here: Path) -> None:
    directory = take_run(here, state="done")
    assert run("logs", "demo") == Result(0, "", "")
    directory.folder.write("logs/1-driver.log", "first\nsecond ä\n".encode())
    directory.folder.write("logs/2-worker-0.log", b"not utf-8 \xff\n")
    assert run("logs", "demo").out == "1-driver | first\n1-driver | second ä\n2-worker-0 | not utf-8 \ufffd\n"
    assert run("logs", "demo", "--json").answer == {
        "1-driver.log": "first\nsecond ä\n",
        "2-worker-0.log": "not utf-8 \ufffd\n",
    }


def test_followed_logs_end_with_the_run_and_repeat_nothing(
    run: Run, here: Path, another_process: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = take_run(here, state="training", pid=another_process)
    directory.folder.write("logs/1-driver.log", b"first\n")
    moments = iter(
        [
            lambda: directory.folder.write("logs/1-driver.log", b"first\nsecond\n"),
            lambda: (
                directory.folder.write("logs/1-driver.log", b"first\nsecond\nlast\n"),
                directory.update_status(state="done"),
            ),
        ]
    )
    monkeypatch.setattr(cli_module, "time", SimpleNamespace(sleep=lambda _: next(moments)()))
    result = run("logs", "-f", "demo")
    assert (result.code, result.out) == (0, "1-driver | first\n1-driver | second\n1-driver | last\n")


def test_stop_asks_a_run_that_is_alive(run: Run, here: Path, another_process: int) -> None:
    directory = take_run(here, state="training", pid=another_process)
    result = run("stop", "demo")
    assert (result.code, directory.stop_requested()) == (0, True)
    assert "stops at its next step; `runner resume" in result.out
    assert run("stop", "demo", "--json").answer["state"] == "training"


def test_stop_has_nothing_to_do_for_a_run_that_has_ended(run: Run, here: Path) -> None:
    directory = take_run(here, state="done")
    assert "nothing to stop, the run is done" in run("stop", "demo").out
    assert not directory.stop_requested()


# Privacy

PLANNED = ("epsilon", "-n", "50000", "--batch-size", "256", "--epochs", "20", "--delta", "1e-6")


def test_epsilon_says_what_a_noise_costs(run: Run, here: Path) -> None:
    result = run(*PLANNED, "--noise-multiplier", "1", "--json")
    assert (result.code, result.err) == (0, "")
    plan = result.answer
    assert plan["epsilon_pld"] == pytest.approx(1.998, abs=0.001)
    assert plan["epsilon_rdp"] == pytest.approx(2.228, abs=0.001)
    assert plan["epsilon_unamplified"] == pytest.approx(30.58, abs=0.01)
    assert {name: value for name, value in plan.items() if not name.startswith("epsilon_")} == {
        "delta": 1e-6,
        "noise_multiplier": 1.0,
        "steps": 3900,
        "epochs": 20,
        "n": 50_000,
        "batch_size": 256,
        "q": 0.00512,
    }
    lines = run(*PLANNED, "--noise-multiplier", "1").out.splitlines()
    assert lines[0].split() == ["epsilon", "(PLD)", "1.9980"]
    assert lines[-1].startswith("Whatever a reader of the model concludes, emptying one record changes the odds")
    assert tree(here) == {}


def test_epsilon_finds_the_noise_of_a_target(run: Run) -> None:
    plan = run(*PLANNED, "--target-epsilon", "2", "--json").answer
    assert 1.99 < plan["epsilon_pld"] <= 2
    assert plan["noise_multiplier"] == pytest.approx(1.0, abs=0.01)


def test_epsilon_counts_steps_and_finds_a_delta(run: Run) -> None:
    arguments = ("epsilon", "-n", "1000", "--batch-size", "50", "--noise-multiplier", "1", "--json")
    plan = run(*arguments, "--steps", "30").answer
    assert (plan["steps"], plan["epochs"], plan["delta"]) == (30, 1.5, 5e-4)
    assert run(*arguments, "--epochs", "2").answer["steps"] == 40


def test_no_noise_is_no_privacy(run: Run) -> None:
    plan = run(*PLANNED, "--noise-multiplier", "0", "--json").answer
    assert {plan[f"epsilon_{by}"] for by in ("pld", "rdp", "unamplified")} == {"infinite"}
    assert run(*PLANNED, "--noise-multiplier", "0").out.endswith("Without noise there is no privacy.\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "give --noise-multiplier to learn its cost, or --target-epsilon to find it: one of them"),
        (["--noise-multiplier", "1", "--target-epsilon", "1"], "give --noise-multiplier"),
        (["--noise-multiplier", "1", "--steps", "3"], "give --epochs or --steps: one of them"),
        (["--noise-multiplier", "1", "--delta", "0.1"], "privacy.delta 0.1 is not below 1/n = 2e-05 for 50000"),
        (["--noise-multiplier", "1", "-n", "100"], "training.batch_size is 256, but there are 100 training records"),
        (["--target-epsilon", "1e-4"], "privacy.target_epsilon 0.0001 cannot be reached in 3900 steps of 256 of 50000"),
        (["--noise-multiplier", "-1"], "Invalid value for '--noise-multiplier'"),
        (["--target-epsilon", "0"], "Invalid value for '--target-epsilon'"),
        (["--noise-multiplier", "nan"], "--noise-multiplier nan: give a finite number"),
        (["--target-epsilon", "inf"], "--target-epsilon inf: give a finite number"),
        (["--noise-multiplier", "1", "--delta", "nan"], "--delta nan: give a finite number"),
    ],
)
def test_a_plan_that_cannot_be_made_is_answered_in_one_line(run: Run, arguments: list[str], line: str) -> None:
    assert one_line(run(*PLANNED, *arguments), 2).startswith(line)


def test_epsilon_imports_neither_tensorflow_nor_ray() -> None:
    program = (
        "import sys\n"
        "from runner.cli import main\n"
        "sys.argv = ['runner', *sys.argv[1:]]\n"
        "try:\n    main()\n"
        "finally:\n    print(sorted(set(sys.modules) & {'tensorflow', 'keras', 'ray', 'pyarrow'}))"
    )
    arguments = ["epsilon", "-n", "100", "--batch-size", "10", "--steps", "3", "--noise-multiplier", "2"]
    said = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "[]"


def private_run(here: Path) -> RunDirectory:
    """A private run directory by hand, with its statement."""
    privacy = {"enabled": True, "noise_multiplier": 1.0}
    job = {"name": "demo", "data": {"uri": "r"}, "tokenizer": {"kind": "byte"}, "privacy": privacy}
    config = parse_job(job | {"storage": {"uri": str(here / "runs")}}, environment={})
    directory = RunDirectory.of(config)
    directory.claim(config, "local")
    return directory


def test_report_writes_its_page_and_prints_the_statement_of_a_private_run(run: Run, here: Path) -> None:
    privacy = {"enabled": True, "noise_multiplier": 1.0}
    directory = take_reported_run(here, [f"{number},x" for number in range(50)], privacy=privacy)
    file = write_synthetic(here / "synthetic.parquet", ["1,x", "2,x"])
    write_statement(directory)
    said = run("report", "demo", "--synthetic", file)
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("# Statement\n\nε is 1.5\n\ncompared: 2 synthetic records")
    path = f"{directory.uri}/report.html"
    assert said.out.splitlines()[-1] == f"report: {path}"
    assert Path(path).read_text().startswith("<!DOCTYPE html>")
    answer = run("report", directory.uri, "--json", "--synthetic", file).answer
    assert STATEMENT.items() <= answer.items()
    assert answer["report"] == path
    assert answer["quality"]["synthetic_records"] == 2
    directory.folder.write("privacy.json", b"{")
    assert "runs/demo/privacy.json is damaged" in one_line(run("report", "demo"), 3)


def test_report_without_a_model_warns_in_one_line_and_writes_what_there_is(run: Run, here: Path) -> None:
    take_reported_run(here, [f"{number},x" for number in range(50)])
    said = run("report", "demo")
    assert said.code == 0
    (warning,) = said.err.splitlines()
    assert warning.startswith("warning: the report compares no records: ")
    assert "no model here" in warning
    assert (here / "runs" / "demo" / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--target", "age"], "--target age: no such column; the run's records have field_1, field_2"),
        (["--target", "field_2"], "no model here; the run has not finished an epoch"),
        (["--synthetic", "gone.csv"], "--synthetic gone.csv: no such file"),
        (["--synthetic", "other.csv"], "other.csv: has the columns a, b, but the run's records have text"),
        (["--synthetic", "other.xls"], "--synthetic other.xls: the file must end in .csv, .jsonl or .parquet"),
        (["--synthetic", "other.csv", "-n", "5"], "-n is for generated records; leave it out with --synthetic"),
    ],
)
def test_what_a_report_cannot_use_is_one_line(run: Run, here: Path, arguments: list[str], line: str) -> None:
    take_reported_run(here, [f"{number},x" for number in range(50)])
    (here / "other.csv").write_text("a,b\n1,2\n")
    assert line in one_line(run("report", "demo", *arguments), 2)
    assert not (here / "runs" / "demo" / "report.html").exists()


def test_report_of_a_run_without_an_epoch_is_one_line(run: Run, here: Path) -> None:
    take_run(here, state="preparing")
    for arguments in ([], ["--json"]):
        line = one_line(run("report", "demo", *arguments), 2)
        assert line.endswith("runs/demo: nothing to report yet: no epoch is done; see `runner status`")


@pytest.mark.parametrize("contradicted", [False, True])
def test_an_audit_that_contradicts_the_statement_fails(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch, contradicted: bool
) -> None:
    directory = private_run(here)
    answer = {"run": directory.uri, "contradicted": contradicted}
    attacked: list[str] = []

    def audit_run(directory: RunDirectory) -> tuple[dict[str, Any], str]:
        attacked.append(directory.uri)
        return answer, "what was found"

    monkeypatch.setitem(sys.modules, "runner.train.audit", SimpleNamespace(audit_run=audit_run))
    assert run("audit", "demo") == Result(int(contradicted), "what was found\n", "")
    result = run("audit", "demo", "--json")
    assert (result.code, result.answer) == (int(contradicted), answer)
    assert attacked == [directory.uri] * 2


def test_a_duration_reads_like_a_clock() -> None:
    assert [duration(seconds) for seconds in (0, 59.4, 59.6, 3599.6, 86_400)] == [
        "0:00",
        "0:59",
        "1:00",
        "1:00:00",
        "24:00:00",
    ]


def test_describe_needs_no_progress(here: Path) -> None:
    status = take_run(here).current_status()
    assert describe(status) == "demo: pending"
    assert describe(replace(status, state="training", progress=PROGRESS)) == LINE
    assert status.host == socket.gethostname()


# Jobs, records, schema


def test_init_writes_a_job_that_is_good_and_explained(run: Run, here: Path) -> None:
    result = run("init", "job.yaml", "--name", "claims", "--data", "s3://bucket/claims/")
    assert result == Result(0, "wrote job.yaml; `runner submit job.yaml` trains it\n", "")
    text = (here / "job.yaml").read_text()
    plan = run("submit", "job.yaml", "--dry-run", "--json").answer
    assert (plan["job"]["name"], plan["job"]["data"]["uri"]) == ("claims", "s3://bucket/claims/")
    assert "# passes over the training examples" in text
    assert "job.yaml: exists; choose another name or add --force" in one_line(run("init", "job.yaml"), 2)
    assert (here / "job.yaml").read_text() == text
    assert run("init", "job.yaml", "--force", "--json").answer == {"path": "job.yaml"}
    assert (here / "job.yaml").read_text() != text


def test_init_writes_a_private_job_that_validates(run: Run, here: Path) -> None:
    write_records(here / "records", 5000)
    assert run("init", "job.yaml", "--template", "private", "--field-delimiter", ",").code == 0
    found = run("validate", "job.yaml", "--json").answer
    assert found["records"] == 5000
    assert found["planned_epsilon"] <= 8
    assert "Invalid value for '--template'" in one_line(run("init", "a.yaml", "--template", "secret"), 2)


def test_init_refuses_a_bad_name_and_a_folder_that_is_not_there(run: Run, here: Path) -> None:
    assert "'no spaces' does not have the form" in one_line(run("init", "job.yaml", "--name", "no spaces"), 2)
    assert "cannot be written" in one_line(run("init", "nowhere/job.yaml"), 3)
    assert tree(here) == {}


def test_import_makes_records_that_validate_accepts(run: Run, here: Path) -> None:
    (here / "claims.csv").write_text("age,code\n" + "".join(f"{n},c{n % 7}\n" for n in range(200)))
    result = run("import", "claims.csv", "records/", "--columns", "age,code")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("200 records in 1 files in records/; columns: ")
    (here / "lines.txt").write_text("one\ntwo\n")
    answer = run("import", "lines.txt", "lines/", "--json").answer
    assert (answer["records"], answer["files"]) == (2, 1)
    write_job(here / "job.yaml")
    before = tree(here)
    found = run("validate", "job.yaml", "--json").answer
    assert (found["job"], found["records"], found["null_rows"]) == ("demo", 200, 0)
    assert "records: 200\n" in run("validate", "job.yaml").out
    assert tree(here) == before


def test_import_of_a_missing_file_is_answered_in_one_line(run: Run, here: Path) -> None:
    assert "nowhere.csv" in one_line(run("import", "nowhere.csv", "records/"), 2)
    assert tree(here) == {}


def test_validate_refuses_what_submit_refuses(run: Run, here: Path) -> None:
    write_records(here / "records", 5)
    write_job(here / "job.yaml")
    before = tree(here)
    assert "5 records, but training.batch_size 64 needs 128" in one_line(run("validate", "job.yaml"), 2)
    assert "unknown key" in one_line(run("validate", "job.yaml", "--set", "training.epoch=1"), 2)
    assert tree(here) == before


def test_schema_is_a_json_schema_on_one_line_or_many(run: Run) -> None:
    schema = json.loads(run("schema").out)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert run("schema", "--json").answer == schema


def test_doctor_says_what_is_wrong_and_ends_as_infrastructure(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runner import doctor

    monkeypatch.setattr(doctor, "_tensorflow", lambda: "2.21, no GPU")
    monkeypatch.setattr(doctor, "_version", lambda _: "1.0")
    before = tree(here)
    result = run("doctor")
    assert result.code == 0
    assert f"ok    storage: {here}/runs can be written\n" in result.out
    result = run("doctor", "--runs", "/proc/runs", "--json")
    assert result.code == 3
    assert result.answer["storage"]["ok"] is False
    assert result.answer["python"]["ok"] is True
    assert tree(here) == before
