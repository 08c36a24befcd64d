"""The verbs, their options and their help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from runner.cli import cli
from tests.unit.cli.commands import Run, one_line, write_job, write_records

SURFACE = {
    "init": "PATH --name --data --columns --field-delimiter --template --force --json --debug",
    "import": "SOURCE TARGET --format --no-header --csv-delimiter --text-column --columns --field-delimiter "
    "--allow-delimiter-in-fields --rows-per-shard --overwrite --json --debug",
    "submit": "JOB --set --since --on --address --detach --dry-run --quiet --json --debug",
    "resume": "RUN --runs --set --on --address --detach --dry-run --quiet --json --debug",
    "status": "RUN --runs --json --debug",
    "list": "URI --json --debug",
    "logs": "RUN -f/--follow --runs --json --debug",
    "stop": "RUN --runs --json --debug",
    "generate": "RUN -n -o --overwrite --temperature --top-k --top-p --seed --prompt --prompts --prompt-column "
    "--given --given-file --rebalance "
    "--unique --not-in-training --rows-per-shard --runs --set --on --address --detach --dry-run --quiet --json --debug",
    "report": "RUN --target --synthetic -n --shareable --epsilon --runs --json --debug",
    "epsilon": "-n --batch-size --epochs --steps --noise-multiplier --target-epsilon --delta --release "
    "--records-per-person --json --debug",
    "audit": "RUN --runs --json --debug",
    "validate": "JOB --set --json --debug",
    "plan": "JOB --steps --price-per-hour --set --json --debug",
    "doctor": "--address --runs --json --debug",
    "schema": "--json --debug",
}


def test_the_verbs_and_their_options_are_these() -> None:
    """Scripts rely on them: whoever removes or renames one changes this list and the docs."""
    found = {
        name: " ".join(
            parameter.name.upper() if isinstance(parameter, click.Argument) else "/".join(parameter.opts)
            for parameter in command.params
            if parameter.name
        )
        for name, command in cli.commands.items()
    }
    assert found == SURFACE


@pytest.mark.parametrize("verb", SURFACE)
def test_every_verb_has_help_with_an_example(run: Run, verb: str) -> None:
    result = run(verb, "--help")
    assert (result.code, result.err) == (0, "")
    assert "Example:\n" in result.out
    assert f"runner {verb}" in result.out.partition("Example:")[2]
    for parameter in cli.commands[verb].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


@pytest.mark.parametrize("verb", SURFACE)
def test_the_examples_in_the_help_are_commands_that_parse(verb: str) -> None:
    lines = (cli.commands[verb].help or "").partition("Example:")[2].splitlines()
    examples = [line.split(" > ")[0].split()[1:] for line in lines if line.strip().startswith("runner ")]
    assert examples
    for example in examples:
        name, *arguments = example
        cli.commands[name].make_context(name, arguments)


def test_help_imports_nothing_heavy_and_reads_no_config() -> None:
    program = (
        "import sys\n"
        "from runner.__main__ import main\n"
        "sys.argv = ['runner', *sys.argv[1:]]\n"
        "try:\n    main()\n"
        "finally:\n    print(sorted(set(sys.modules) & set("
        "['tensorflow', 'keras', 'ray', 'pyarrow', 'numpy', 'pydantic', 'yaml', 'boto3', 'rich'])))"
    )
    for arguments in (["--help"], ["submit", "--help"], ["generate", "--help"], ["epsilon", "--help"]):
        said = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
        assert said.stdout.splitlines()[-1] == "[]"


def test_wrong_input_is_found_without_tensorflow_and_ray(here: Path) -> None:
    write_records(here / "records", 3)
    write_job(here / "job.yaml")
    program = (
        "import sys\n"
        "from runner.__main__ import main\n"
        "sys.argv = ['runner', 'submit', 'job.yaml']\n"
        "try:\n    main()\n"
        "finally:\n    print(sorted(set(sys.modules) & {'tensorflow', 'keras', 'ray'}))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (2, "[]\n")
    assert "3 records" in said.stderr


def test_the_command_is_installed_under_its_name() -> None:
    said = subprocess.run(
        [Path(sys.executable).parent / "runner", "--version"], capture_output=True, text=True, check=True
    )
    assert said.stdout.startswith("runner, version ")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nosuch"], "No such command 'nosuch'."),
        (["submit"], "Missing argument 'JOB'."),
        (["submit", "--frobnicate", "x"], "No such option '--frobnicate'."),
        (["generate", "x", "-n", "0"], "Invalid value for '-n'"),
        (["import", "a", "b", "--format", "xml"], "Invalid value for '--format'"),
    ],
)
def test_a_wrong_command_line_is_answered_in_one_line(run: Run, arguments: list[str], line: str) -> None:
    assert one_line(run(*arguments), 2).startswith(line)


def test_no_verb_shows_the_help(run: Run) -> None:
    result = run()
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("Usage: ")
    assert "Commands:\n" in result.err
