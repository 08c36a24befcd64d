"""Verbs that judge a run: its records, and its privacy."""

from __future__ import annotations

import sys

import click

from runner.cli.options import Text, answer, common_options, runs_option


@click.command()
@click.argument("run", type=Text(4096))
@click.option(
    "--target",
    type=Text(),
    metavar="COLUMN",
    help="Also try synthetic records as training data to predict this column.",
)
@click.option(
    "--synthetic", type=Text(4096), metavar="FILE", help="Compare the records of this file, instead of generating some."
)
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

    answer(as_json, *report_run(directory, target=target, synthetic_uri=synthetic, count=count))


@click.command()
@click.argument("run", type=Text(4096))
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

    values, text = audit_run(directory)
    answer(as_json, values, text)
    if values["contradicted"]:
        sys.exit(1)
