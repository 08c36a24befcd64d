"""Every option of every verb, with values that nobody should give: an answer, or a refusal in one line."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import click
import pyarrow.parquet as pq
import pytest

from runner import __main__ as main_module
from runner.cli import cli
from runner.config import load_job
from tests.unit.cli.commands import Run, one_line, tree, write_job, write_records

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
    "init": (["job2.yaml"], []),
    "import": (["source.csv", "imported/"], []),
    "submit": (["job.yaml"], ["--dry-run"]),
    "resume": (["nowhere"], []),
    "status": (["nowhere"], []),
    "list": (["runs/"], []),
    "logs": (["nowhere"], []),
    "stop": (["nowhere"], []),
    "generate": (["nowhere"], []),
    "report": (["nowhere"], []),
    "epsilon": ([], ["-n", "1000", "--batch-size", "10", "--steps", "1", "--noise-multiplier", "1"]),
    "audit": (["nowhere"], []),
    "validate": (["job.yaml"], []),
    "plan": (["nowhere.yaml"], []),
    "schema": ([], []),
}
"""Of each verb but `doctor`, whose answers are those of the network: arguments and options that are quick."""
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
    fields = ("data.uri", "storage.uri", "tokenizer.uri", "data.since", "data.field_delimiter")
    settings = (
        [f"{field}={value}" for field in fields for value in NASTY]
        if (verb, parameter.name) == ("submit", "overrides")
        else []
    )
    for value in (*NASTY, *settings):
        places, options = list(GOOD[verb][0]), list(GOOD[verb][1])
        if isinstance(parameter, click.Option):
            options += [parameter.opts[0], value]
        else:
            arguments = [each for each in cli.commands[verb].params if isinstance(each, click.Argument)]
            places[arguments.index(parameter)] = value
        out, error = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="") for _ in range(2))
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", error)
        error.reconfigure(errors="backslashreplace")
        monkeypatch.setattr(sys, "argv", ["runner", verb, *options, "--", *places])
        with pytest.raises(SystemExit) as ended:
            main_module.main()
        error.flush()
        said = error.buffer.getvalue().decode()
        assert ended.value.code in (0, 2, 3), (value, said)
        assert "unexpected:" not in said, (value, said)
        if ended.value.code:
            assert len(said.splitlines()) == 1, (value, said)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["import", "source.csv", "out/", "--csv-delimiter", "||"], "'||' cannot be: give one character"),
        (["import", "source.csv", "out/", "--csv-delimiter", '"'], "'\"' cannot be: give one character, no quote"),
        (["import", "source.csv", "out/", "--csv-delimiter", "\n"], "'\\n' cannot be: give one character, no quote"),
        (["import", "source.csv", "out/", "--csv-delimiter", "\\n"], "'\\\\n' cannot be: give one character"),
        (["import", "source.csv", "out/", "--csv-delimiter", ""], "it is empty."),
        (
            ["import", "source.csv", "out/", "--field-delimiter", "\\n"],
            "'\\\\n' is a backslash and 'n'; only",
        ),
        (["import", "source.csv", "out/", "--field-delimiter", "123456789"], "it has 9 characters, but at most 8"),
        (["import", "source.csv", "out/", "--text-column", ""], "it is empty."),
        (["import", "source.csv", "out/", "--columns", "a,b,a"], "a is named twice."),
        (["import", "source.csv", "out/", "--columns", "a,,b"], "a name is empty: there is a comma too many."),
        (["import", "source.csv", "out/", "--columns", "a,b,"], "a name is empty: there is a comma too many."),
        (["import", "source.csv", "out/", "--columns", "a, b"], "' b' begins or ends with a space; write a,b,c."),
        (["import", "source.csv", "out/", "--columns", ""], "it is empty."),
        (["import", "source.csv", "out/", "--rows-per-shard", "9" * 30], "is not in the range 1<=x<=10000000"),
        (["init", "job2.yaml", "--columns", "a,a", "--field-delimiter", ","], "a is named twice."),
        (["init", "job2.yaml", "--columns", "a,", "--field-delimiter", ","], "a name is empty"),
        (["init", "job2.yaml", "--field-delimiter", ""], "it is empty."),
        (["submit", "job.yaml", "--since", ""], "it is empty."),
        (["generate", "demo", "-o", ""], "it is empty."),
        (["generate", "demo", "--prompt-column", ""], "it is empty."),
        (["report", "demo", "--synthetic", "\udcff"], "'\\udcff' is not valid Unicode text."),
        (["list", "x" * 5000], "it has 5,000 characters, but at most 4,096 are possible."),
    ],
)
def test_a_value_that_an_option_cannot_have_is_refused_by_name(
    run: Run, here: Path, arguments: list[str], line: str
) -> None:
    (here / "source.csv").write_text("a,b\n1,2\n")
    write_job(here / "job.yaml")
    before = tree(here)
    found = one_line(run(*arguments), 2)
    assert found.startswith("Invalid value for ")
    assert line in found
    assert tree(here) == before


@pytest.mark.parametrize("tab", ["\t", "\\t"])
def test_a_tab_may_be_written_as_an_escape(run: Run, here: Path, tab: str) -> None:
    (here / "source.csv").write_text("a\tb\n1\t2\n")
    arguments = ["source.csv", "out/", "--csv-delimiter", tab, "--columns", "b,a", "--field-delimiter", tab]
    assert run("import", *arguments).code == 0
    assert pq.read_table(here / "out").to_pydict() == {"text": ["2\t1"]}
    assert run("init", "job.yaml", "--data", "out/", "--columns", "b,a", "--field-delimiter", tab).code == 0
    assert load_job(here / "job.yaml", environment={}).data.field_delimiter == "\t"


def test_a_run_is_meant_by_its_name_whatever_yaml_takes_it_for(run: Run, here: Path) -> None:
    write_records(here / "records")
    write_job(here / "job.yaml")
    for name in ("null", "2024", "1e3", "a: b", "#5"):
        plan = run("submit", "job.yaml", "--since", name, "--dry-run", "--json")
        assert plan.answer["job"]["data"]["since"] == name


def test_a_path_that_is_no_unicode_is_printed_as_it_is(here: Path) -> None:
    """In a process of its own: the screen is one of bytes."""
    program = [sys.executable, "-m", "runner"]
    done = subprocess.run([*program, "init", b"\xff.yaml"], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"wrote \xff.yaml; ")
    done = subprocess.run([*program, "init", b"\xff.yaml"], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: \\udcff.yaml: exists; ")
