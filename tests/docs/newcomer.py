"""A newcomer who follows a page: an empty folder, `runner` on the path, and the page's blocks one after another.

Commands run as they are written. Jobs are made small by `RUNNER_...` variables, which the product knows; a page's
addresses are replaced by those of the servers that the tests start.
"""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.docs.pages import ROOT, blocks

SMALL = {
    "RUNNER_TOKENIZER__VOCAB_SIZE": "400",
    "RUNNER_MODEL__EMBEDDING_DIM": "16",
    "RUNNER_MODEL__RNN_UNITS": "32",
    "RUNNER_MODEL__LAYERS": "1",
    "RUNNER_TRAINING__EPOCHS": "4",
}
"""A job of a page, as small as it can be and still learn what a record looks like."""
FOREIGN = ("AWS_", "KUBECONFIG", "MLFLOW_", "RAY_", "RUNNER_")
"""Beginnings of variables that would change what commands do; a newcomer has none of them."""


@dataclass
class Newcomer:
    """Someone in a folder, with a shell that keeps its variables from block to block.

    `replaced` says what the page's words stand for here, such as the address of a cluster.
    """

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)
    replaced: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        own = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        path = f"{Path(sys.executable).parent}:{own['PATH']}"
        self.variables = own | {"PATH": path, "PYTHONPATH": str(ROOT)} | self.variables

    def follow(self, page: Path) -> None:
        """Write the files that the page shows and run its commands, in its order."""
        ran = 0
        for block in blocks(page):
            if block.file_name is not None:
                (self.folder / block.file_name).write_text(self.in_place(block.text))
            elif block.language == "bash" and block.reason_not_to_run is None:
                self.run(block.text, exit_code=block.exit_code, where=f"{block.page}:{block.line}")
                ran += 1
        assert ran, f"{page.name} has no commands"

    def in_place(self, text: str) -> str:
        """A page's text with what its words stand for here."""
        for written, here in self.replaced.items():
            text = text.replace(written, here)
        return text

    def run(self, commands: str, *, exit_code: int = 0, where: str = "the test", timeout_s: float = 540) -> str:
        """Run commands in the folder, check what they end with, and return what they print."""
        commands = self.in_place(commands)
        kept = self.folder.parent / f"{self.folder.name}.environment"
        shell = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", f"{commands}\nenv -0 > '{kept}'"],
            cwd=self.folder,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            printed, _ = shell.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(shell.pid, signal.SIGKILL)
            printed = f"{shell.communicate()[0]}\nnot done after {timeout_s} s"
        assert shell.returncode == exit_code, f"{where}: exit code {shell.returncode}\n{commands}\n{printed}"
        if exit_code == 0:
            self.variables = dict(entry.split("=", 1) for entry in kept.read_text().split("\0") if entry)
        return printed


def write_claims(path: Path, count: int = 2400) -> None:
    """A CSV file with the columns that the pages speak of, and rows that a small model learns in seconds."""
    draw = random.Random(7)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["age", "code", "amount"])
        for _ in range(count):
            age, code = draw.choice([25, 37, 49, 50]), draw.choice(["A10", "B20", "C30", "J45"])
            writer.writerow([age, code, f"{draw.randrange(10, 30)}.50"])
