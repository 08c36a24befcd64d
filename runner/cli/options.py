"""What the verbs share: options, and the answer."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from runner.screen import Json, show
from runner.submit.launch import Launch

if TYPE_CHECKING:
    from runner.config import JobConfig

MOST_HISTOGRAMS = 100_000
Command = TypeVar("Command", bound=Callable[..., Any])


def common_options(command: Command) -> Command:
    """`--json` and `--debug`, which every verb takes."""
    debug = click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
    command = debug(command)
    return click.option("--json", "as_json", is_flag=True, help="Answer with one JSON object.")(command)


class Text(click.ParamType):
    """A text that is not empty; an argument of bytes that are no text is refused."""

    name = "text"

    def __init__(self, longest: int = 1000) -> None:
        self.longest = longest

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not value:
            self.fail("it is empty.", param, ctx)
        if len(value) > self.longest:
            self.fail(f"it has {len(value):,} characters, but at most {self.longest:,} are possible.", param, ctx)
        if any("\ud800" <= character <= "\udfff" or character == "\0" for character in value):
            self.fail(f"{value!r} is not valid Unicode text.", param, ctx)
        return value


class Delimiter(Text):
    """A text between fields; `\\t`, as shells hand it on, is a tab. A CSV file's has one character."""

    def __init__(self, *, of_csv: bool = False) -> None:
        super().__init__(longest=8)
        self.of_csv = of_csv

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text: str = "\t" if value == "\\t" else super().convert(value, param, ctx)
        if self.of_csv and (len(text) != 1 or text in '"\r\n'):
            self.fail(
                f"{value!r} cannot be: give one character, no quote and no line break; \\t for a tab.", param, ctx
            )
        if text[0] == "\\" and text[1:2].isalnum():
            self.fail(f"{value!r} is a backslash and {text[1:]!r}; only \\t, a tab, can be written so.", param, ctx)
        return text


class Names(Text):
    """Different names with commas between them, as a tuple; one with a comma inside is in double quotes."""

    name = "a,b,c"

    def __init__(self) -> None:
        super().__init__(longest=100_000)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        from runner.config.section import find_repeat  # Not before it is needed: `--help` answers without pydantic.

        try:
            text = super().convert(value, param, ctx)
            names = tuple(next(csv.reader([text], strict=True))) if text.strip() else (text,)
        except csv.Error as error:
            self.fail(f"{error}; write a,b,c, and a name with a comma as '\"a,b\",c'.", param, ctx)
        for name in names:
            if not name.strip():
                self.fail("a name is empty: there is a comma too many.", param, ctx)
            if name != name.strip():
                self.fail(f"{name!r} begins or ends with a space; write a,b,c.", param, ctx)
        if (name := find_repeat(names)) is not None:
            self.fail(f"{name} is named twice.", param, ctx)
        return names


class Histograms(click.ParamType):
    """Noisy histograms of one noise, as a release: SIGMA, SIGMA:COUNT or SIGMA:COUNT:THRESHOLD."""

    name = "sigma[:count[:threshold]]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from runner.privacy.accountant import Histogram, Release
        from runner.privacy.discrete_gaussian import LARGEST_SIGMA, SMALLEST_SIGMA

        sigma, *others = value.split(":")
        try:
            noise, (count, *thresholds) = float(sigma), [int(other) for other in others] or [1]
        except ValueError:
            self.fail(f"{value!r}: give SIGMA, SIGMA:COUNT or SIGMA:COUNT:THRESHOLD.", param, ctx)
        if len(thresholds) > 1 or not 1 <= count <= MOST_HISTOGRAMS or not all(each >= 2 for each in thresholds):
            self.fail(f"{value!r}: COUNT is 1 to {MOST_HISTOGRAMS:,}, and THRESHOLD at least 2.", param, ctx)
        if not SMALLEST_SIGMA <= noise <= LARGEST_SIGMA:
            self.fail(f"{value!r}: SIGMA is {SMALLEST_SIGMA:g} to {LARGEST_SIGMA:g} records.", param, ctx)
        threshold = thresholds[0] if thresholds else None
        return Release(value, tuple(Histogram(f"{value} {number}", noise, threshold) for number in range(count)))


set_option = click.option(
    "--set", "overrides", multiple=True, metavar="A.B=VALUE", help="Override a field of the job; repeatable."
)
runs_option = click.option(
    "--runs",
    "runs_uri",
    type=Text(4096),
    default="runs/",
    show_default=True,
    envvar="RUNNER_STORAGE__URI",
    help="Where runs are kept.",
)


def with_launch(command: Callable[..., None]) -> Callable[..., None]:
    """The options of verbs that start a job, as one `launch`; an answer in JSON has no progress beside it."""

    @click.option("--on", "target", default="local", show_default=True, help="Where to run: local, ray or kubernetes.")
    @click.option("--address", type=Text(), help="The cluster's Jobs API, http://HEAD:8265; default: RAY_ADDRESS.")
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


def load_own_job(path: Path, overrides: Sequence[str]) -> JobConfig:
    """The job of a file; modules that it names are looked for beside it, too."""
    from runner.config import load_job
    from runner.run_directory import JOB_FOLDER_VARIABLE

    os.environ[JOB_FOLDER_VARIABLE] = str(path.resolve().parent)
    return load_job(path, overrides)


def answer(as_json: bool, values: dict[str, Any], text: str) -> None:
    """Print the one JSON object of `--json`, or its text for people."""
    if as_json:
        parts = (value.text if isinstance(value, Json) else json.dumps(value) for value in values.values())
        text = ", ".join(f"{json.dumps(name)}: {part}" for name, part in zip(values, parts, strict=True))
        text = f"{{{text}}}"
    show(text)
