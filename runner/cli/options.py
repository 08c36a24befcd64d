"""What the verbs share: options, and the answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import click

from runner.screen import show
from runner.submit.launch import Launch

Command = TypeVar("Command", bound=Callable[..., Any])


def common_options(command: Command) -> Command:
    """`--json` and `--debug`, which every verb takes."""
    debug = click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
    command = debug(command)
    return click.option("--json", "as_json", is_flag=True, help="Answer with one JSON object.")(command)


set_option = click.option(
    "--set", "overrides", multiple=True, metavar="A.B=VALUE", help="Override a field of the job; repeatable."
)
runs_option = click.option(
    "--runs",
    "runs_uri",
    default="runs/",
    show_default=True,
    envvar="RUNNER_STORAGE__URI",
    help="Where runs are kept.",
)


def with_launch(command: Callable[..., None]) -> Callable[..., None]:
    """The options of verbs that start a job, as one `launch`; an answer in JSON has no progress beside it."""

    @click.option("--on", "target", default="local", show_default=True, help="Where to run: local, ray or kubernetes.")
    @click.option("--address", help="The cluster's Jobs API, http://HEAD:8265; default: RAY_ADDRESS.")
    @click.option("--detach", is_flag=True, help="Return once the cluster has the job.")
    @click.option("--dry-run", is_flag=True, help="Print the exact request and send nothing.")
    @click.option("--quiet", is_flag=True, help="No progress.")
    @common_options
    @wraps(command)
    def with_options(
        *,
        target: str,
        address: str | None,
        detach: bool,
        dry_run: bool,
        quiet: bool,
        as_json: bool,
        **others: Any,
    ) -> None:
        launch = Launch(target, address, detach=detach, dry_run=dry_run, quiet=quiet or as_json)
        command(launch=launch, as_json=as_json, **others)

    return with_options


def answer(as_json: bool, values: dict[str, Any], text: str) -> None:
    """Print the one JSON object of `--json`, or its text for people."""
    show(json.dumps(values) if as_json else text)
