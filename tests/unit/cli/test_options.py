"""Every option of every verb, with values that nobody should give: an answer, or a refusal in one line."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import click
import pytest

from runner import __main__ as main_module
from runner.cli import cli
from tests.unit.cli.commands import write_job, write_records

NASTY = (
    "",
    " ",
    "\\t",
    "||",
    '"',
    "\n",
    "é",
    "😀",
    "\udcff",
    "-1",
    "0",
    "1e-400",
    "1e999",
    "nan",
    "9" * 5000,
    "x" * 300,
    "a,,b",
    "a.b=c",
    "a.b={c: [}",
    "model.layers=&a [*a]",
    "s3:/x",
    "s3://out.csv",
    "~nobody-of-this-name/x",
    "[",
    "../..",
)
GOOD = {
    "init": ["job2.yaml"],
    "import": ["source.csv", "imported/"],
    "submit": ["job.yaml", "--dry-run"],
    "resume": ["nowhere"],
    "status": ["nowhere"],
    "list": [],
    "logs": ["nowhere"],
    "stop": ["nowhere"],
    "generate": ["nowhere"],
    "report": ["nowhere"],
    "epsilon": ["-n", "1000", "--batch-size", "10", "--steps", "1", "--noise-multiplier", "1"],
    "audit": ["nowhere"],
    "validate": ["job.yaml"],
    "schema": [],
}
"""Of each verb but `doctor`, whose answers are those of the network: arguments of a command that is quick."""
OPTIONS = [
    (verb, parameter)
    for verb in GOOD
    for parameter in cli.commands[verb].params
    if not (isinstance(parameter, click.Option) and (parameter.is_flag or parameter.opts == ["--address"]))
]


def test_every_verb_and_option_is_tried() -> None:
    assert set(GOOD) == set(cli.commands) - {"doctor"}
    assert {parameter.opts[-1] for _, parameter in OPTIONS} > {"--columns", "--set", "--temperature", "path", "job"}


@pytest.mark.parametrize(
    ("verb", "parameter"), OPTIONS, ids=[f"{verb}{parameter.opts[-1]}" for verb, parameter in OPTIONS]
)
def test_no_value_of_an_option_ends_in_what_nobody_expected(
    here: Path, monkeypatch: pytest.MonkeyPatch, verb: str, parameter: click.Parameter
) -> None:
    """The screen is one of bytes, as a shell's: a name that is no Unicode must not end the command either."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    write_records(here / "records", 130)
    write_job(here / "job.yaml")
    (here / "source.csv").write_text("a,b\n1,2\n")
    for value in NASTY:
        arguments = list(GOOD[verb])
        if isinstance(parameter, click.Option):
            arguments += [parameter.opts[0], value]
        else:
            places = [each for each in cli.commands[verb].params if isinstance(each, click.Argument)]
            place = places.index(parameter)
            arguments = [*arguments[:place], "--", value, *arguments[place + 1 :]]
        out, error = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="") for _ in range(2))
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", error)
        error.reconfigure(errors="backslashreplace")
        monkeypatch.setattr(sys, "argv", ["runner", verb, *arguments])
        with pytest.raises(SystemExit) as ended:
            main_module.main()
        error.flush()
        said = error.buffer.getvalue().decode()
        assert ended.value.code in (0, 2, 3), (value, said)
        assert "unexpected:" not in said, (value, said)
        if ended.value.code:
            assert len(said.splitlines()) == 1, (value, said)
