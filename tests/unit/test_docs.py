"""The pages say what the code does: references in step, links that lead somewhere, commands that parse."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import click
import pytest

from runner.cli import cli
from tests.docs.pages import PAGES, ROOT, RUN_ELSEWHERE, Block, blocks, commands_of

RUNNER = re.compile(r"(?:\$ )?(?:[A-Z_]+=\S* )*(?:\.venv/bin/)?runner (?P<arguments>.+)")
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")


class Shown(NamedTuple):
    """A `runner` command as a page shows it."""

    page: str
    line: int
    arguments: str


def write_reference() -> ModuleType:
    """`docs/write_reference.py`, which is a script and not in a package."""
    spec = importlib.util.spec_from_file_location("write_reference", ROOT / "docs" / "write_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code_lines(page: Path) -> Iterator[tuple[int, str]]:
    """The lines inside fenced blocks with their numbers; a line that ends in a backslash goes on in the next."""
    for block in blocks(page):
        begun = ""
        for number, line in enumerate(block.text.splitlines(), block.line):
            if line.endswith("\\"):
                begun += line.strip().removesuffix("\\")
            else:
                yield number, begun + line.strip()
                begun = ""


def shown_commands() -> list[Shown]:
    """Every `runner VERB ...` in a fenced block of any page."""
    return [
        Shown(page.name, number, match["arguments"])
        for page in PAGES
        for number, line in code_lines(page)
        if (match := RUNNER.fullmatch(line))
    ]


def words(arguments: str) -> list[str]:
    """The command's own words: what comes after a pipe, a redirection or `&&` is not its business."""
    lexer = shlex.shlex(arguments, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[str] = []
    for word in lexer:
        if word in ("|", ">", ">>", "&&", ";", "&"):
            break
        found.append(word)
    return found


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    texts = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts}


@pytest.mark.parametrize("name", ["docs/config.md", "docs/cli.md", "helm/runner/values.schema.json"])
def test_generated_pages_are_in_step_with_the_code(name: str) -> None:
    page = write_reference().PAGES[name]()
    assert (ROOT / name).read_text(encoding="utf-8") == page, "run `make docs`"


def run_with_reference(program: str, **environment: str) -> str:
    """What a process of its own prints that has `docs/write_reference.py` as `w`."""
    command = [sys.executable, "-c", f"import sys, write_reference as w; {program}"]
    done = subprocess.run(
        command, cwd=ROOT / "docs", env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_generated_pages_do_not_depend_on_terminal_or_environment() -> None:
    show = "print(w.config_page(), w.cli_page())"
    narrow = run_with_reference(show, COLUMNS="20")
    assert run_with_reference(show, COLUMNS="200", RUNNER_STORAGE__URI="elsewhere/", PYTHONHASHSEED="7") == narrow


def test_references_import_neither_tensorflow_nor_ray() -> None:
    program = "w.config_page(), w.cli_page(); print({'ray', 'tensorflow'} & set(sys.modules))"
    assert run_with_reference(program).strip() == "set()"


def test_every_verb_is_in_the_table_of_the_readme() -> None:
    rows = re.findall(r"^\| `(?:runner )?([a-z]+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(cli.commands) <= set(rows)


def test_every_field_is_in_the_reference_of_jobs() -> None:
    """Against a generator that loses a section."""
    page = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    reference = write_reference()
    for title, section in reference.sections(reference.JobConfig):
        assert f"## {title or 'Top level'}\n" in page
        assert all(f"`{field.alias or name}`" in page for name, field in section.model_fields.items())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    for match in LINK.finditer(page.read_text(encoding="utf-8")):
        target = match["target"]
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.is_relative_to(ROOT), target
        assert found.exists(), f"{page.name}: {target} leads nowhere"
        if anchor:
            assert anchor in headings(found), f"{page.name}: {target}: no such heading"


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in readme] == []


def test_pages_show_commands() -> None:
    """Against a pattern that finds nothing, with which the next test could not fail."""
    pages = {command.page for command in shown_commands()}
    assert {"README.md", "own-data.md", "ray-cluster.md", "s3.md", "resume.md", "cli.md"} <= pages


@pytest.mark.parametrize("command", shown_commands(), ids=lambda command: f"{command.page}:{command.line}")
def test_every_command_shown_parses(command: Shown) -> None:
    verb, *arguments = words(command.arguments)
    if verb in ("--help", "--version"):
        return
    assert verb in cli.commands, f"no verb {verb}"
    try:
        cli.commands[verb].make_context(verb, arguments)
    except click.UsageError as error:
        pytest.fail(error.format_message())
    except click.exceptions.Exit:  # --help
        pass


def test_commands_that_do_not_parse_are_found() -> None:
    with pytest.raises(click.UsageError):
        cli.commands["status"].make_context("status", words("demo --follow | head"))
    assert words("a --set 'x.y=[b, c]' > out # why") == ["a", "--set", "x.y=[b, c]"]


NOT_RUN = {
    "benchmarks.md": 1,
    "kubernetes.md": 3,
    "privacy.md": 1,
    "quality-report.md": 1,
    "ray-cluster.md": 2,
    "tracking.md": 1,
}
"""How many blocks of a page say that no test runs them, with a reason; another one is not to slip in."""


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    reasons = [
        (block.page, reason)
        for page in PAGES
        for block in commands_of(page)
        if (reason := block.reason_not_to_run) is not None and reason not in RUN_ELSEWHERE.values()
    ]
    assert Counter(page for page, _ in reasons) == NOT_RUN
    assert all(len(reason.split()) > 3 for _, reason in reasons)


def test_every_page_with_commands_is_followed_by_a_test() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "docs").glob("test_*.py"))
    runnable = {block.page for page in PAGES for block in commands_of(page) if block.reason_not_to_run is None}
    assert {"README.md", "own-data.md", "s3.md", "kubernetes.md"} <= runnable
    assert [page for page in sorted(runnable) if f'page_named("{page}")' not in tests] == []


def test_what_a_page_says_about_a_block_is_read(tmp_path: Path) -> None:
    """Against a reader that runs nothing, or expects every block to succeed."""
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- exit code: 2 -->\n```bash\nfalse\n```\n\n<!-- not run: too loud -->\n\n```bash\nbeep\n```\n"
        "- in a list:\n\n  ```bash\n  make a\n    b\n  ```\n```bash\nmake a\nb\n```\n```yaml\n# job.yaml\na: 1\n```\n"
        "```bash\n# job.yaml\n```\n"
    )
    found = list(blocks(page))
    assert [block.exit_code for block in found] == [2, 0, 0, 0, 0, 0]
    assert [block.reason_not_to_run for block in found[:4]] == [None, "too loud", None, None]
    assert found[2] == Block("page.md", 14, "bash", "make a\n  b\n", "- in a list:")
    assert [block.file_name for block in found] == [None, None, None, None, "job.yaml", None]
    assert Block("", 1, "bash", "make a\nsudo make \\\n b\n", "").reason_not_to_run == RUN_ELSEWHERE["make"]


def test_nothing_installs_what_others_published_under_the_project_s_name() -> None:
    """PyPI has another package that is called `runner`."""
    texts = {path: path.read_text() for path in (*PAGES, *(ROOT / "runner").rglob("*.py"))}
    assert [path for path, text in texts.items() if re.search(r"pip install\s+['\"]?runner\b", text)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_holds_a_path_of_the_writer_s_machine(page: Path) -> None:
    assert not re.search(r"(?<![\w.])/(?:work|root|home|tmp)/", page.read_text(encoding="utf-8"))
