"""The command line: parse, call, print. Decides nothing.

Nothing heavy is imported before a verb needs it: `runner --help` answers without TensorFlow, Ray or pyarrow.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from runner.errors import JobFailedError, RunnerError, last_line

if TYPE_CHECKING:
    from runner.run_directory import RunDirectory, Status

Command = TypeVar("Command", bound=Callable[..., Any])


def common_options(command: Command) -> Command:
    """`--json` and `--debug`, which every verb takes."""
    debug = click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
    command = debug(command)
    return click.option("--json", "as_json", is_flag=True, help="Answer with one JSON object.")(command)


set_option = click.option(
    "--set", "overrides", multiple=True, metavar="A.B=VALUE", help="Override a field of the job; repeatable."
)
target_options = [
    click.option("--on", "target", default="local", show_default=True, help="Where to run: local or ray."),
    click.option("--address", help="The cluster's Jobs API, http://HEAD:8265; default: RAY_ADDRESS."),
    click.option("--detach", is_flag=True, help="Return once the cluster has the job."),
    click.option("--dry-run", is_flag=True, help="Print the exact request and send nothing."),
    click.option("--quiet", is_flag=True, help="No progress."),
]
runs_option = click.option(
    "--runs",
    "runs_uri",
    default="runs/",
    show_default=True,
    envvar="RUNNER_STORAGE__URI",
    help="Where runs are kept.",
)


def with_target(command: Command) -> Command:
    """The options of verbs that start a job."""
    for option in reversed(target_options):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("runner"), package_name="runner")
def cli() -> None:
    """Train LSTM text generators on Parquet records, here or on a Ray cluster.

    \b
    Example:
      runner init job.yaml --data records/
      runner submit job.yaml
      runner generate demo -n 1000 -o synthetic.parquet
    """


@cli.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", default="my-run", show_default=True, help="The run's name.")
@click.option("--data", "data_uri", default="records/", show_default=True, help="Folder of Parquet files, or s3://.")
@click.option("--columns", help="Columns (a,b,c) to join into one record; default: one column, text.")
@click.option("--field-delimiter", help="What separates the fields of a record.")
@click.option(
    "--template",
    type=click.Choice(["default", "private"]),
    default="default",
    show_default=True,
    help="private: with differential privacy, and settings that suit it.",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@common_options
def init(
    path: Path,
    name: str,
    data_uri: str,
    columns: str | None,
    field_delimiter: str | None,
    template: str,
    force: bool,
    as_json: bool,
) -> None:
    """Write a job file with every field, a value for it and what it is for.

    \b
    Example:
      runner init job.yaml --name claims --data s3://bucket/claims/ --columns age,code --field-delimiter ,
      runner init job.yaml --name claims --data claims/ --template private
    """
    from runner.config import parse_job
    from runner.errors import ConfigError, StorageError
    from runner.templates import commented_yaml, job_values

    data: dict[str, Any] = {"uri": data_uri, "field_delimiter": field_delimiter}
    if columns is not None:
        data["columns"] = columns.split(",")
    values = job_values(name, data, template)
    parse_job(values, environment={})
    if path.exists() and not force:
        raise ConfigError(f"{path}: exists; choose another name or add --force")
    try:
        path.write_text(commented_yaml(values), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error
    _answer(as_json, {"path": str(path)}, f"wrote {path}; `runner submit {path}` trains it")


@cli.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target")
@click.option("--format", "kind", type=click.Choice(["csv", "jsonl", "text"]), help="Default: by the file's suffix.")
@click.option("--no-header", is_flag=True, help="The CSV file has no header line.")
@click.option("--csv-delimiter", help="What separates CSV fields; default: a comma, or a tab for .tsv.")
@click.option("--text-column", default="text", show_default=True, help="Name of the column of records.")
@click.option("--columns", help="Join these columns (a,b,c) into one text column.")
@click.option("--field-delimiter", default=",", show_default=True, help="What joins the columns.")
@click.option("--allow-delimiter-in-fields", is_flag=True, help="Join even fields that hold the delimiter.")
@click.option("--rows-per-shard", type=click.IntRange(1), default=100_000, show_default=True, help="Rows in a file.")
@click.option("--overwrite", is_flag=True, help="Replace Parquet files that are there.")
@common_options
def import_(
    source: Path,
    target: str,
    kind: str | None,
    no_header: bool,
    csv_delimiter: str | None,
    text_column: str,
    columns: str | None,
    field_delimiter: str,
    allow_delimiter_in_fields: bool,
    rows_per_shard: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Turn CSV, JSON Lines or text (one record a line) into Parquet shards.

    \b
    Example:
      runner import claims.csv records/ --columns age,code,amount
    """
    from dataclasses import asdict

    from runner.data.importing import Join, import_records

    join = Join(tuple(columns.split(",")), field_delimiter, allow_delimiter_in_fields) if columns else None
    summary = import_records(
        source,
        target,
        format=kind,
        header=not no_header,
        csv_delimiter=csv_delimiter,
        text_column=text_column,
        join=join,
        rows_per_shard=rows_per_shard,
        overwrite=overwrite,
    )
    text = f"{summary.records:,} records in {summary.files} files in {target}; columns: {', '.join(summary.columns)}"
    _answer(as_json, asdict(summary), text)


@cli.command()
@click.argument("job", type=click.Path(path_type=Path))
@set_option
@click.option("--since", metavar="RUN", help="Train on files that RUN (or: last) did not have, from its model.")
@with_target
@common_options
def submit(
    job: Path,
    overrides: tuple[str, ...],
    since: str | None,
    target: str,
    address: str | None,
    detach: bool,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train a job to a model, here or on a cluster.

    Ctrl-C stops a local run at its next step, with a checkpoint; a run on a cluster goes on.

    \b
    Example:
      runner submit job.yaml --set training.epochs=3
      runner submit job.yaml --on ray --address http://head:8265
      runner submit job.yaml --since last
    """
    from runner.config import load_job
    from runner.run_directory import JOB_FOLDER_VARIABLE
    from runner.submit.start import start_run

    os.environ[JOB_FOLDER_VARIABLE] = str(job.resolve().parent)
    config = load_job(job, (*overrides, f"data.since={since}") if since else overrides)
    _start(
        lambda: start_run(config, target, address, detach=detach, dry_run=dry_run, quiet=quiet or as_json),
        as_json,
    )


@cli.command()
@click.argument("run")
@runs_option
@set_option
@with_target
@common_options
def resume(
    run: str,
    runs_uri: str,
    overrides: tuple[str, ...],
    target: str,
    address: str | None,
    detach: bool,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Continue a run that was stopped, killed or failed, from its newest good checkpoint.

    Only training.epochs, training.max_training_time_s, training.early_stopping, training.checkpoint_every_s,
    training.save_all_checkpoints, privacy.max_epsilon, resources, data.cache_gib and generation can be changed.

    \b
    Example:
      runner resume runs/demo
      runner resume runs/demo --set training.epochs=30
    """
    from runner.run_directory import RunDirectory
    from runner.submit.start import resume_run

    directory = RunDirectory.find(run, runs_uri)
    _start(
        lambda: resume_run(
            directory, overrides, target, address, detach=detach, dry_run=dry_run, quiet=quiet or as_json
        ),
        as_json,
    )


@cli.command()
@click.argument("run")
@runs_option
@common_options
def status(run: str, runs_uri: str, as_json: bool) -> None:
    """Show how far a run is, from its run directory alone.

    \b
    Example:
      runner status demo
      runner status s3://bucket/runs/demo --json
    """
    from runner.submit.follow import describe

    directory, found = _run_and_status(run, runs_uri)
    _answer(as_json, _status_dict(directory.uri, found), describe(found))


@cli.command("list")
@click.argument("uri", default="runs/", envvar="RUNNER_STORAGE__URI")
@common_options
def list_(uri: str, as_json: bool) -> None:
    """List the runs of a folder.

    \b
    Example:
      runner list s3://bucket/runs/
    """
    from runner.run_directory import list_runs
    from runner.submit.follow import describe

    found = list_runs(uri)
    rows = [_status_dict(directory.uri, status) for directory, status in found]
    text = "\n".join(describe(status) for _, status in found) or f"no runs in {uri}"
    _answer(as_json, {"runs": rows}, text)


@cli.command()
@click.argument("run")
@click.option("-f", "--follow", is_flag=True, help="Go on printing until the run ends.")
@runs_option
@common_options
def logs(run: str, follow: bool, runs_uri: str, as_json: bool) -> None:
    """Print what the run's processes wrote, from its run directory alone.

    \b
    Example:
      runner logs demo -f
    """
    directory, found = _run_and_status(run, runs_uri)
    shown: dict[str, int] = {}
    while True:
        texts = directory.logs()
        if as_json:
            click.echo(json.dumps({name: text.decode(errors="replace") for name, text in texts.items()}))
            return
        for name, text in texts.items():
            whole = text.rfind(b"\n") + 1  # A line that is still being written waits for its end.
            new = text[shown.get(name, 0) : whole]
            shown[name] = whole
            for line in new.decode(errors="replace").splitlines():
                click.echo(f"{name.removesuffix('.log')} | {line}")
        if not follow or not found.is_active:
            return
        time.sleep(1)
        found = directory.status() or found


@cli.command()
@click.argument("run")
@runs_option
@common_options
def stop(run: str, runs_uri: str, as_json: bool) -> None:
    """Ask a run to stop at its next step, with a checkpoint.

    \b
    Example:
      runner stop demo
    """
    from runner.submit.start import stop_run

    directory, found = _run_and_status(run, runs_uri)
    message = stop_run(directory, found)
    _answer(as_json, _status_dict(directory.uri, found), message)


@cli.command()
@click.argument("run")
@click.option(
    "-n", "count", type=click.IntRange(1, 1_000_000_000), default=10, show_default=True, help="Records of each prompt."
)
@click.option(
    "-o",
    "output",
    help="File to write (.csv, .jsonl, .parquet), or FOLDER/ for Parquet shards; local or s3://; default: the screen.",
)
@click.option(
    "--temperature",
    type=float,
    default=1.0,
    show_default=True,
    help="Below 1: more typical; 0: the most likely.",
)
@click.option("--top-k", type=int, help="Draw from the k most likely tokens only.")
@click.option(
    "--top-p",
    type=float,
    default=1.0,
    show_default=True,
    help="Draw from the likeliest tokens up to this share.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="The same seed gives the same records.",
)
@click.option("--prompt", help="How every record begins.")
@click.option("--prompts", "prompts_uri", help="File of prompts: .parquet, .csv, .jsonl, or .txt with one a line.")
@click.option("--prompt-column", default="prompt", show_default=True, help="The column of --prompts.")
@click.option("--unique", is_flag=True, help="Drop exact copies; across shards, fewer records may remain.")
@click.option("--not-in-training", is_flag=True, help="Drop exact copies of the job's records.")
@click.option(
    "--rows-per-shard",
    type=click.IntRange(1, 10_000_000),
    default=10_000,
    show_default=True,
    help="Records in a file of FOLDER/.",
)
@runs_option
@click.option(
    "--set", "overrides", multiple=True, metavar="A.B=VALUE", help="Override a field of generation; repeatable."
)
@with_target
@common_options
def generate(
    run: str,
    count: int,
    output: str | None,
    temperature: float,
    top_k: int | None,
    top_p: float,
    seed: int,
    prompt: str | None,
    prompts_uri: str | None,
    prompt_column: str,
    unique: bool,
    not_in_training: bool,
    rows_per_shard: int,
    runs_uri: str,
    overrides: tuple[str, ...],
    target: str,
    address: str | None,
    detach: bool,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write synthetic records from a run's model.

    Records that the job's generation section calls invalid are counted, and others drawn in their place. A FOLDER/ is
    written by a pool of processes; killed or stopped, the same command goes on with the shards that are missing.

    \b
    Example:
      runner generate demo -n 1000 -o synthetic.parquet --temperature 0.8
      runner generate demo -n 1000000 -o s3://bucket/synthetic/ --unique
      runner generate demo -n 20 -o out.csv --prompts ages.csv --prompt-column age
      runner generate demo -n 1000000 -o s3://bucket/out/ --on ray --address http://head:8265
    """
    from runner.errors import ConfigError
    from runner.run_directory import RunDirectory

    if prompt is not None and prompts_uri is not None:
        raise ConfigError("give --prompt or --prompts, not both")
    directory = RunDirectory.find(run, runs_uri)

    from runner.generation.records import SamplingSettings, describe_left_out
    from runner.submit.generate import Request
    from runner.submit.generate import generate as generate_from

    settings = SamplingSettings(
        temperature, top_k, top_p, seed, (prompt or "",), count, unique=unique, not_in_training=not_in_training
    )
    request = Request(
        settings,
        output,
        rows_per_shard=rows_per_shard,
        prompts=None if prompts_uri is None else (prompts_uri, prompt_column),
        overrides=overrides,
        target=target,
        address=address,
        detach=detach,
        dry_run=dry_run,
        quiet=quiet or as_json,
    )
    answer, text = generate_from(directory, request)
    for line in describe_left_out(answer) if "invalid" in answer else ():
        click.echo(line, err=True)
    _answer(as_json, answer, text)


@cli.command()
@click.argument("run")
@click.option("--target", metavar="COLUMN", help="Also try synthetic records as training data to predict this column.")
@click.option("--synthetic", metavar="FILE", help="Compare the records of this file, instead of generating some.")
@click.option("-n", "count", type=click.IntRange(1, 1_000_000), help="Records to generate; default: up to 5,000.")
@runs_option
@common_options
def report(
    run: str, target: str | None, synthetic: str | None, count: int | None, runs_uri: str, as_json: bool
) -> None:
    """Write a run's quality report, and print a private run's privacy statement.

    report.html in the run's directory has the training's curves, and compares synthetic records with the run's own.
    Keep it with the records.

    \b
    Example:
      runner report demo
      runner report s3://bucket/runs/demo --json
      runner report claims --target amount --synthetic synthetic.parquet
    """
    from runner.run_directory import RunDirectory

    directory = RunDirectory.find(run, runs_uri)  # before the heavy imports: the answer comes at once

    from runner.report.facade import report_run

    _answer(as_json, *report_run(directory, target=target, synthetic_uri=synthetic, count=count))


@cli.command()
@click.option("-n", "examples", type=click.IntRange(1), required=True, help="TRAINING records; see above.")
@click.option("--batch-size", type=click.IntRange(1), required=True, help="Expected records of a step.")
@click.option("--epochs", type=click.IntRange(1), help="Passes over the training records.")
@click.option("--steps", type=click.IntRange(1), help="Steps, instead of epochs.")
@click.option("--noise-multiplier", type=click.FloatRange(0), help="Noise over clip: say what it costs.")
@click.option("--target-epsilon", type=click.FloatRange(0, min_open=True), help="Find the noise for this epsilon.")
@click.option(
    "--delta", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Default: 1/n^1.1, rounded down."
)
@common_options
def epsilon(
    examples: int,
    batch_size: int,
    epochs: int | None,
    steps: int | None,
    noise_multiplier: float | None,
    target_epsilon: float | None,
    delta: float | None,
    as_json: bool,
) -> None:
    """Plan a privacy budget: what a noise costs, or which noise a budget needs.

    Reads no records. -n counts the records that are trained on: with training.validation_split that is 4/5 of all.

    \b
    Example:
      runner epsilon -n 50000 --batch-size 256 --epochs 20 --noise-multiplier 1 --delta 1e-6
      runner epsilon -n 50000 --batch-size 256 --epochs 20 --target-epsilon 4
    """
    from runner.privacy.planning import describe_plan, plan_epsilon

    plan = plan_epsilon(
        examples,
        batch_size,
        noise_multiplier=noise_multiplier,
        target_epsilon=target_epsilon,
        epochs=epochs,
        steps=steps,
        delta=delta,
    )
    _answer(as_json, plan, describe_plan(plan))


@cli.command()
@click.argument("run")
@runs_option
@common_options
def audit(run: str, runs_uri: str, as_json: bool) -> None:
    """Attack a model by membership inference, and hold what is found against its privacy claim.

    Exits with code 1 when what is found contradicts the statement.

    \b
    Example:
      runner audit demo
    """
    from runner.run_directory import RunDirectory

    directory = RunDirectory.find(run, runs_uri)  # before TensorFlow's import: the answer comes at once

    from runner.train.audit import audit_run

    answer, text = audit_run(directory)
    _answer(as_json, answer, text)
    if answer["contradicted"]:
        sys.exit(1)


@cli.command()
@click.argument("job", type=click.Path(path_type=Path))
@set_option
@common_options
def validate(job: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check a job and read all its records once, without writing anything.

    \b
    Example:
      runner validate job.yaml
    """
    from runner.config import load_job
    from runner.driver import check, check_free
    from runner.run_directory import JOB_FOLDER_VARIABLE
    from runner.train.facade import describe_check

    os.environ[JOB_FOLDER_VARIABLE] = str(job.resolve().parent)
    config = load_job(job, overrides)
    check_free(config)
    found = describe_check(check(config))
    _answer(as_json, found, "\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in found.items()))


@cli.command()
@click.option("--address", help="Also ask the Jobs API of this cluster.")
@runs_option
@common_options
def doctor(address: str | None, runs_uri: str, as_json: bool) -> None:
    """Check this machine: versions, devices, storage, and a cluster if one is named.

    \b
    Example:
      runner doctor --runs s3://bucket/runs/
    """
    from runner.doctor import examine

    checks = examine(runs_uri, address)
    text = "\n".join(f"{'ok  ' if check.is_fine else 'FAIL'}  {check.name}: {check.finding}" for check in checks)
    _answer(as_json, {check.name: {"ok": check.is_fine, "finding": check.finding} for check in checks}, text)
    if not all(check.is_fine for check in checks):
        sys.exit(3)


@cli.command()
@common_options
def schema(as_json: bool) -> None:
    """Print the JSON Schema of a job file.

    \b
    Example:
      runner schema > job.schema.json
    """
    from runner.config import json_schema

    click.echo(json.dumps(json_schema(), indent=None if as_json else 2))


def _start(start: Callable[[], tuple[dict[str, Any], str]], as_json: bool) -> None:
    _answer(as_json, *start())


def _run_and_status(run: str, runs_uri: str) -> tuple[RunDirectory, Status]:
    from runner.run_directory import RunDirectory

    directory = RunDirectory.find(run, runs_uri, generations=True)
    return directory, directory.current_status()


def _status_dict(uri: str, status: Status) -> dict[str, Any]:
    from dataclasses import asdict

    return {"run": uri, **asdict(status)}


def _answer(as_json: bool, answer: dict[str, Any], text: str) -> None:
    click.echo(json.dumps(answer) if as_json else text)


def _silence_native_code() -> None:
    """Keep what C++ libraries write to standard error off the screen: TensorFlow has no switch for all of it.

    Python's own standard error still reaches the screen. `--debug` leaves everything as it is.
    """
    if "--debug" in sys.argv:
        return
    screen = os.dup(2)
    sys.stderr = os.fdopen(screen, "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _show_warnings() -> None:
    """The project's own warnings as plain lines on standard error; errors are `main`'s to show."""

    class OnScreen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno == logging.WARNING:
                click.echo(f"warning: {record.getMessage()}", err=True)

    logging.getLogger("runner").addHandler(OnScreen())
    logging.getLogger("runner").propagate = False


def main() -> None:
    """The `runner` command: one line for an error, and the exit code of its kind."""
    _silence_native_code()
    _show_warnings()
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        code = 1
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = 2
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
        code = 2
    except Exception as error:
        shown = error if isinstance(error, RunnerError) else JobFailedError(f"unexpected: {last_line(error)}")
        for line in str(shown).splitlines():
            click.echo(f"error: {line}", err=True)
        if "--debug" in sys.argv:
            raise
        code = shown.exit_code
    else:
        code = 0
    sys.exit(code)
