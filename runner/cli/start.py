"""Verbs that start a job: training, or generating."""

from __future__ import annotations

import json
from pathlib import Path

import click

from runner.cli.options import Text, answer, load_own_job, runs_option, set_option, with_launch
from runner.errors import ConfigError
from runner.screen import show_records, tell
from runner.submit.launch import Launch


@click.command()
@click.argument("job", type=click.Path(path_type=Path))
@set_option
@click.option(
    "--since", type=Text(), metavar="RUN", help="Train on files that RUN (or: last) did not have, from its model."
)
@with_launch
def submit(
    job: Path,
    overrides: tuple[str, ...],
    since: str | None,
    launch: Launch,
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
    from runner.submit.start import start_run

    config = load_own_job(job, overrides if since is None else (*overrides, f"data.since={json.dumps(since)}"))
    answer(as_json, *start_run(config, launch))


@click.command()
@click.argument("run", type=Text(4096))
@runs_option
@set_option
@with_launch
def resume(
    run: str,
    runs_uri: str,
    overrides: tuple[str, ...],
    launch: Launch,
    as_json: bool,
) -> None:
    """Continue a run that was stopped, killed or failed, from its newest good checkpoint.

    Only training.epochs, training.max_training_time_s, training.early_stopping, training.checkpoint_every_s,
    training.save_all_checkpoints, privacy.max_epsilon, resources, data.cache_gib, generation and kubernetes can be
    changed.

    \b
    Example:
      runner resume runs/demo
      runner resume runs/demo --set training.epochs=30
    """
    from runner.run_directory import RunDirectory
    from runner.submit.start import resume_run

    directory = RunDirectory.find(run, runs_uri)
    answer(as_json, *resume_run(directory, overrides, launch))


@click.command()
@click.argument("run", type=Text(4096))
@click.option(
    "-n",
    "count",
    type=click.IntRange(1, 1_000_000_000),
    help="Records of each prompt, or of each row of --given-file.  [default: 10, of a row 1]",
)
@click.option(
    "-o",
    "output",
    type=Text(4096),
    help="File to write (.csv, .jsonl, .parquet), or FOLDER/ for Parquet shards; local or s3://; default: the screen.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
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
    type=click.IntRange(0, 2**64 - 1),
    default=0,
    show_default=True,
    help="The same seed gives the same records.",
)
@click.option("--prompt", help="How every record begins.")
@click.option(
    "--prompts",
    "prompts_uri",
    type=Text(4096),
    help="File of prompts: .parquet, .csv, .jsonl, or .txt with one a line.",
)
@click.option("--prompt-column", type=Text(), default="prompt", show_default=True, help="The column of --prompts.")
@click.option(
    "--given",
    type=Text(100_000),
    multiple=True,
    metavar="COLUMN=VALUE,...",
    help="Of a table: what all rows have; repeatable.",
)
@click.option(
    "--given-file",
    type=Text(4096),
    help="Of a table: rows whose missing columns and nulls are drawn; .parquet, .csv or .jsonl.",
)
@click.option(
    "--rebalance",
    type=Text(100_000),
    multiple=True,
    metavar="COLUMN=VALUE:SHARE,...",
    help="Of a table: the share of the rows that have a value; repeatable.",
)
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
@with_launch
def generate(
    run: str,
    count: int | None,
    output: str | None,
    overwrite: bool,
    temperature: float,
    top_k: int | None,
    top_p: float,
    seed: int,
    prompt: str | None,
    prompts_uri: str | None,
    prompt_column: str,
    given: tuple[str, ...],
    given_file: str | None,
    rebalance: tuple[str, ...],
    unique: bool,
    not_in_training: bool,
    rows_per_shard: int,
    runs_uri: str,
    overrides: tuple[str, ...],
    launch: Launch,
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
      runner generate table -n 1000 --given 'sex=Female,income=>50K'
      runner generate table --given-file people.parquet -o whole.parquet
      runner generate table -n 1000 --rebalance 'income=>50K:0.5'
      runner generate demo -n 1000000 -o s3://bucket/out/ --on ray --address http://head:8265
    """
    from runner.run_directory import RunDirectory

    if prompt is not None and prompts_uri is not None:
        raise ConfigError("give --prompt or --prompts, not both")
    if count is None:
        count = 10 if given_file is None else 1
    directory = RunDirectory.find(run, runs_uri)

    from runner.generation.settings import SamplingSettings
    from runner.generation.tally import describe_left_out
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
        overwrite=overwrite,
        given=given,
        given_file=given_file,
        rebalance=rebalance,
    )
    values, text = generate_from(directory, request, launch)
    for line in describe_left_out(values) if "invalid" in values else ():
        tell(line)
    if as_json or "texts" not in values:
        answer(as_json, values, text)
    else:
        show_records(values["texts"])
