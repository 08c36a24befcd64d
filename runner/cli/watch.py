"""Verbs that read a run, or ask it to stop: from its run directory alone."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from runner.cli.options import Text, answer, common_options, runs_option
from runner.screen import show

if TYPE_CHECKING:
    from runner.run_directory import RunDirectory, Status


@click.command()
@click.argument("run", type=Text(4096))
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
    answer(as_json, _status_dict(directory.uri, found), describe(found))


@click.command("list")
@click.argument("uri", type=Text(4096), default="runs/", envvar="RUNNER_STORAGE__URI")
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
    answer(as_json, {"runs": rows}, text)


@click.command()
@click.argument("run", type=Text(4096))
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
            show(json.dumps({name: text.decode(errors="replace") for name, text in texts.items()}))
            return
        for name, text in texts.items():
            whole = text.rfind(b"\n") + 1  # A line that is still being written waits for its end.
            new = text[shown.get(name, 0) : whole]
            shown[name] = whole
            for line in new.decode(errors="replace").split("\n")[:-1]:
                show(f"{name.removesuffix('.log')} | {line}")
        if not follow or not found.is_active:
            return
        time.sleep(1)
        found = directory.status() or found


@click.command()
@click.argument("run", type=Text(4096))
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
    answer(as_json, _status_dict(directory.uri, found), message)


def _run_and_status(run: str, runs_uri: str) -> tuple[RunDirectory, Status]:
    from runner.run_directory import RunDirectory

    directory = RunDirectory.find(run, runs_uri, generations=True)
    return directory, directory.current_status()


def _status_dict(uri: str, status: Status) -> dict[str, Any]:
    from dataclasses import asdict

    return {"run": uri, **asdict(status)}
