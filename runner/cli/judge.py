"""Verbs that judge a run: its records, and its privacy."""

from __future__ import annotations

import math
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
@click.option(
    "--shareable", is_flag=True, help="Of a private table: write a page whose figures of private records are noisy."
)
@click.option(
    "--epsilon",
    type=click.FloatRange(0, min_open=True, max=100),
    metavar="NUMBER",
    help="With --shareable: what its counts may cost, beside what the run did.",
)
@runs_option
@common_options
def report(
    run: str,
    target: str | None,
    synthetic: str | None,
    count: int | None,
    shareable: bool,
    epsilon: float | None,
    runs_uri: str,
    as_json: bool,
) -> None:
    """Write a run's quality report, and print a private run's privacy statement.

    report.html in the run's directory has the training's curves, and compares synthetic records with the run's own.
    Keep it with the records.

    With --shareable it is shareable.html, which may be read by whoever may read the model: it has nothing of private
    records but noisy counts. They are charged to the run's privacy budget, once; asked again, they are read back.

    \b
    Example:
      runner report demo
      runner report s3://bucket/runs/demo --json
      runner report claims --target amount --synthetic synthetic.parquet
      runner report claims --shareable --epsilon 0.5
    """
    if epsilon is not None and math.isnan(epsilon):
        raise click.UsageError("--epsilon is no number.")
    if shareable != (epsilon is not None):
        raise click.UsageError("--shareable and --epsilon are given together, or not at all.")
    if shareable and (target is not None or synthetic is not None):
        raise click.UsageError("--shareable compares what the run's model generates: leave out --target, --synthetic.")

    from runner.run_directory import RunDirectory

    directory = RunDirectory.find(run, runs_uri)  # before the heavy imports: the answer comes at once

    if epsilon is not None:
        from runner.report.shareable import share_report

        answer(as_json, *share_report(directory, target=epsilon, count=count))
        return

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
