"""The fenced blocks of README.md and docs/*.md, and what a page says about running them.

A comment in the line before a block, which readers do not see, says what is special about it:

    <!-- exit code: 2 -->          the block is meant to fail, as the output below it says
    <!-- not run: REASON -->       the block cannot be run by tests

Blocks of `RUN_ELSEWHERE`'s programs alone need no such comment.

A block that is no command and begins with the comment `# NAME.yaml` (or .py, .csv) is that file.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

FENCE = re.compile(r" *```(?P<language>\w*)")
EXIT_CODE = re.compile(r" *<!-- exit code: (\d+) -->")
NOT_RUN = re.compile(r" *<!-- not run: (.+) -->")
RUN_ELSEWHERE = {
    "docker": "tests/image builds the image and starts it with the options that docs/image.md shows",
    "make": ".ci/run has these commands, and docs/tests.md those that it leaves out",
    "sudo": "a suite as root: docs/tests.md has it",
}
FILE_NAME = re.compile(r"# ([\w.-]+\.\w+)\n")


class Block(NamedTuple):
    """A fenced block of a page. `line` is that of its first content, from 1; `comment` the line before the fence."""

    page: str
    line: int
    language: str
    text: str
    comment: str

    @property
    def exit_code(self) -> int:
        """What its commands end with, as the page says."""
        match = EXIT_CODE.fullmatch(self.comment)
        return int(match[1]) if match else 0

    @property
    def reason_not_to_run(self) -> str | None:
        """Why no test here runs it; None where one does."""
        if match := NOT_RUN.fullmatch(self.comment):
            return match[1]
        programs = [line.split()[0] for line in self.text.replace("\\\n", "").splitlines()]
        return RUN_ELSEWHERE[programs[0]] if RUN_ELSEWHERE.keys() >= set(programs) else None

    @property
    def file_name(self) -> str | None:
        """The file that it shows, if it says so."""
        match = FILE_NAME.match(self.text) if self.language != "bash" else None
        return match[1] if match else None


def blocks(page: Path) -> Iterator[Block]:
    """The page's fenced blocks in order, without the indentation that lists give them."""
    comment, lines = "", iter(enumerate(page.read_text(encoding="utf-8").splitlines(), 1))
    for number, line in lines:
        if opened := FENCE.fullmatch(line):
            content: list[str] = []
            for _, inside in lines:
                if FENCE.fullmatch(inside):
                    break
                content.append(inside)
            text = textwrap.dedent("\n".join(content)) + "\n"
            yield Block(page.name, number + 1, opened["language"], text, comment)
        if line:
            comment = line


def page_named(name: str) -> Path:
    """The page with this file name."""
    return next(page for page in PAGES if page.name == name)


def commands_of(page: Path) -> list[Block]:
    """The page's blocks of shell commands."""
    return [block for block in blocks(page) if block.language == "bash"]
