"""Verbs before a run: a job file, records, a plan of the budget, a look at the machine."""

from __future__ import annotations

import json
import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runner.cli.options import (
    Delimiter,
    Histograms,
    Names,
    Text,
    answer,
    common_options,
    load_own_job,
    runs_option,
    set_option,
)
from runner.screen import show

if TYPE_CHECKING:
    from runner.data.first_look import FirstLook
    from runner.privacy.accountant import Release


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", type=Text(), default="my-run", show_default=True, help="The run's name.")
@click.option(
    "--data",
    "data_uri",
    type=Text(4096),
    default="records/",
    show_default=True,
    help="Folder of Parquet files, or s3://.",
)
@click.option("--columns", type=Names(), help="Use only these columns.")
@click.option(
    "--field-delimiter",
    type=Delimiter(),
    help="Records are texts, and this separates their fields; \\t: a tab; default: what import joined by.",
)
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
    columns: tuple[str, ...] | None,
    field_delimiter: str | None,
    template: str,
    force: bool,
    as_json: bool,
) -> None:
    """Write a job file with every field, a value for it and what it is for.

    A folder of Parquet files with several columns is a table: it is read, and each column becomes an entry of `fields`
    that says what was found. With --template private no value is read, and what has to be declared is asked for.

    \b
    Example:
      runner init job.yaml --name claims --data claims/ --template private
      runner init job.yaml --name claims --data s3://bucket/claims/ --columns age,code --field-delimiter ,
    """
    from runner.config import parse_job
    from runner.errors import ConfigError, StorageError
    from runner.storage import open_parent
    from runner.table_settings import table_settings
    from runner.templates import commented_yaml, job_values

    data: dict[str, Any] = {"uri": data_uri, "field_delimiter": field_delimiter}
    look, unseen = None, None
    if field_delimiter is None:
        try:
            look = _look_at_table(data, columns, private=template == "private")
        except StorageError as error:  # The job may be for machines that reach it.
            unseen = str(error)
    if columns is not None and look is None:
        data["columns"] = list(columns)
    values = job_values(name, data, template)
    if look is not None:
        fields = {each: entry.values for each, entry in look.fields.items()}
        values = job_values(name, data, template, fields, look.all_rows)
        if template == "default":
            has_texts = any(entry["kind"] == "text" for entry in fields.values())
            values |= table_settings(look.all_rows, has_texts=has_texts)
    # A private table is refused until the user has declared what is asked for.
    parse_job(values | ({"privacy": None} if look is not None else {}), environment={})
    if not path.parent.is_dir():
        raise StorageError(f"{path}: cannot be written: there is no folder {path.parent}; create it first")
    notes = {each: entry.note for each, entry in look.fields.items()} if look is not None else {}
    (folder, file), text = open_parent(str(path.absolute())), commented_yaml(values, notes).encode()
    if force:
        folder.write(file, text)
    elif not folder.create(file, text):
        raise ConfigError(f"{path}: exists; choose another name or add --force")
    told: dict[str, Any] = {"path": str(path)}
    lines = [f"wrote {path}; `runner submit {path}` trains it"]
    if look is not None:
        told |= {"fields": len(look.fields), "rows": look.rows, "left_out": list(look.left_out)}
        lines += look.in_lines()
    if unseen is not None:
        told["not_looked_at"] = unseen
        lines.append(f"the records were not looked at: {unseen}")
    answer(as_json, told, "\n".join(lines))


def _look_at_table(data: dict[str, Any], columns: tuple[str, ...] | None, *, private: bool) -> FirstLook | None:
    """What a folder's table holds; None where it has none. Sets by what an import joined the fields of texts."""
    from runner.config import DataConfig
    from runner.data.first_look import look_at
    from runner.data.joined import find_field_delimiter

    if columns is None:
        data["field_delimiter"] = find_field_delimiter(Path(data["uri"]))
        if data["field_delimiter"] is not None:
            return None
    return look_at(DataConfig(uri=data["uri"]), columns, private=private)


@click.command("import")
@click.argument("source", type=Text(4096))
@click.argument("target", type=Text(4096))
@click.option(
    "--format", "kind", type=click.Choice(["csv", "jsonl", "parquet", "text"]), help="Default: by the file's suffix."
)
@click.option("--no-header", is_flag=True, help="The CSV file has no header line.")
@click.option(
    "--csv-delimiter",
    type=Delimiter(of_csv=True),
    help="What separates CSV fields; default: a comma, or a tab for .tsv.",
)
@click.option("--text-column", type=Text(), default="text", show_default=True, help="Name of the column of records.")
@click.option("--columns", type=Names(), help="Join these columns into one text column.")
@click.option(
    "--field-delimiter", type=Delimiter(), default=",", show_default=True, help="What joins the columns; \\t: a tab."
)
@click.option("--allow-delimiter-in-fields", is_flag=True, help="Join even fields that hold the delimiter.")
@click.option(
    "--rows-per-shard", type=click.IntRange(1, 10_000_000), default=100_000, show_default=True, help="Rows in a file."
)
@click.option("--overwrite", is_flag=True, help="Replace Parquet files that are there.")
@common_options
def import_(
    source: str,
    target: str,
    kind: str | None,
    no_header: bool,
    csv_delimiter: str | None,
    text_column: str,
    columns: tuple[str, ...] | None,
    field_delimiter: str,
    allow_delimiter_in_fields: bool,
    rows_per_shard: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Turn CSV, JSON, Parquet or text (one record a line) into Parquet shards of texts.

    \b
    Example:
      runner import claims.csv records/ --columns age,code,amount
      runner import s3://bucket/claims.jsonl.gz s3://bucket/records/
    """
    from dataclasses import asdict

    from runner.data.importing import Join, import_records
    from runner.data.table import list_names

    join = Join(columns, field_delimiter, allow_delimiter_in_fields) if columns else None
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
    text = f"{summary.records:,} records in {summary.files} files in {target}; columns: {list_names(summary.columns)}"
    if join is not None and len(join.columns) > 1:
        text += f"; for `runner init`: --field-delimiter {shlex.quote(field_delimiter)}"
    answer(as_json, asdict(summary), "\n".join([text, *summary.notes]))


@click.command()
@click.argument("job", type=click.Path(path_type=Path))
@set_option
@common_options
def validate(job: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check a job and read all its records once, without writing anything.

    \b
    Example:
      runner validate job.yaml
    """
    from runner.driver import check, check_free
    from runner.train.findings import describe_check, in_lines

    config = load_own_job(job, overrides)
    check_free(config)
    found = describe_check(check(config))
    answer(as_json, found, "\n".join(in_lines(found)))


@click.command()
@click.argument("job", type=click.Path(path_type=Path))
@click.option("--steps", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Steps to time.")
@click.option("--price-per-hour", type=click.FloatRange(0, 1e9), help="What a worker costs an hour, in any currency.")
@set_option
@common_options
def plan(job: Path, steps: int, price_per_hour: float | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Estimate what a job takes: memory, steps, hours and money, without starting it.

    Reads the records as `validate` does, and times some steps of the job's network here, on the job's first
    records. Run it on a machine like those that will train. Preparing the records is not in it, nor that several
    workers add up their sums; early stopping may end the run before. A sweep's trials are taken to be as long as
    the job itself.

    \b
    Example:
      runner plan job.yaml --price-per-hour 2.50
    """
    from runner.driver import check
    from runner.sweep.space import trial_count
    from runner.train.cost import check_cost, describe_cost, estimate_cost, in_lines

    if price_per_hour is not None and math.isnan(price_per_hour):
        raise click.UsageError("--price-per-hour is no number.")
    config = load_own_job(job, overrides)
    trials = 1 if config.sweep is None else trial_count(config.sweep)
    found = describe_cost(estimate_cost(check(config), steps), trials, price_per_hour)
    answer(as_json, found, "\n".join(in_lines(found)))
    check_cost(found, config.resources.max_cost)


@click.command()
@common_options
def schema(as_json: bool) -> None:
    """Print the JSON Schema of a job file.

    \b
    Example:
      runner schema > job.schema.json
    """
    from runner.config import json_schema

    show(json.dumps(json_schema(), indent=None if as_json else 2))


@click.command()
@click.option("-n", "examples", type=click.IntRange(1, 10**12), required=True, help="TRAINING records; see above.")
@click.option("--batch-size", type=click.IntRange(1, 1_048_576), help="Expected records of a step.")
@click.option("--epochs", type=click.IntRange(1, 1_000_000), help="Passes over the training records.")
@click.option("--steps", type=click.IntRange(1, 10**12), help="Steps, instead of epochs.")
@click.option("--noise-multiplier", type=click.FloatRange(0, 1e6), help="Noise over clip: say what it costs.")
@click.option("--target-epsilon", type=click.FloatRange(1e-6), help="Find the noise for this epsilon.")
@click.option(
    "--delta", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Default: 1/n^1.1, rounded down."
)
@click.option(
    "--release",
    "releases",
    type=Histograms(),
    multiple=True,
    help="COUNT noisy histograms, default 1, with discrete Gaussian noise of SIGMA records; repeatable.",
)
@click.option(
    "--records-per-person",
    type=click.IntRange(1, 100),
    multiple=True,
    help="Also what so many records of one person cost together; repeatable.",
)
@common_options
def epsilon(
    examples: int,
    batch_size: int | None,
    epochs: int | None,
    steps: int | None,
    noise_multiplier: float | None,
    target_epsilon: float | None,
    delta: float | None,
    releases: tuple[Release, ...],
    records_per_person: tuple[int, ...],
    as_json: bool,
) -> None:
    """Plan a privacy budget: what a noise costs, or which noise a budget needs.

    Reads no records. -n counts the records that are trained on: with training.validation_split that is 4/5 of all.
    For a job with privacy.unit, -n and --batch-size count the values of that column, such as customers.
    --release is for noisy counts, as privacy.json lists them: of a schema that was looked up, or of a run on draws,
    which takes no steps. THRESHOLD: the noisy count from which a value that occurs is released.

    \b
    Example:
      runner epsilon -n 50000 --batch-size 256 --epochs 20 --noise-multiplier 1 --delta 1e-6
      runner epsilon -n 50000 --batch-size 256 --epochs 20 --target-epsilon 4 --records-per-person 5
      runner epsilon -n 24421 --release 40:15 --release 22.5:105 --delta 1e-5
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
        releases=releases,
        records_per_person=records_per_person,
    )
    answer(as_json, plan, describe_plan(plan))


@click.command()
@click.option("--address", type=Text(), help="Also ask the Jobs API of this cluster.")
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
    answer(as_json, {check.name: {"ok": check.is_fine, "finding": check.finding} for check in checks}, text)
    if not all(check.is_fine for check in checks):
        sys.exit(3)
