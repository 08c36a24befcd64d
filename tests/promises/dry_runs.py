"""Private runs without a network: what is charged and written down around steps that are not taken.

Everything goes by the functions that the driver and the first worker call, in their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.config import JobConfig
from runner.data.files import list_files
from runner.privacy.budget import Entry, SpendingLedger
from runner.privacy.ledger import RunLedger
from runner.run_directory import RunDirectory
from runner.storage import open_folder
from runner.train import private_run
from tests.promises.private_runs import RECORDS, config_of, private_job

CONDITIONS = "those of this machine"


@dataclass(frozen=True)
class DryRun:
    """A run that has begun: it is charged, and has a ledger."""

    config: JobConfig
    directory: RunDirectory

    @classmethod
    def found(cls, run: Path) -> DryRun:
        """A run that was made otherwise."""
        directory = RunDirectory.find(str(run))
        return cls(directory.read_config(), directory)

    @property
    def ledger(self) -> RunLedger:
        return RunLedger.open(self.directory.folder)

    @classmethod
    def begin(cls, name: str, records: Path, runs: Path, *, overwrite: bool = False, **privacy: Any) -> DryRun:
        job = private_job(name, records, runs, {"accountant": "rdp"} | privacy)
        job["storage"]["overwrite"] = overwrite
        config = config_of(job)
        files = list_files(config.data.uri)
        budget = private_run.check_privacy(config, RECORDS, files)
        directory = RunDirectory.of(config)
        directory.claim(config, "local")
        directory = directory.enter(directory.term)
        private_run.open_ledger(config, directory, "tokens", files, budget)
        return cls(config, directory)

    def resume(self) -> None:
        """As the driver does before its workers start again."""
        private_run.open_ledger(self.config, self.directory, "tokens", list_files(self.config.data.uri), None)

    def take(self, steps: int, conditions: str = CONDITIONS, checkpoint: tuple[int, int] | None = None) -> RunLedger:
        """A process that takes so many steps from its checkpoint on, and may then die."""
        ledger = RunLedger.open(self.directory.folder, writes=True)
        ledger.begin(conditions, checkpoint)
        first = checkpoint[1] if checkpoint else 0
        for step in range(first, first + steps):
            ledger.reserve(step, first + steps)
            assert self.written.branches[-1].reserved > step, "a step is written down before it is taken"
        return ledger

    def end(self, ledger: RunLedger, step: int) -> None:
        """In good order, at a step of the run."""
        ledger.settle(step)
        private_run.settle(self.config, self.directory, "stopped")
        self.directory.update_status(state="done")

    @property
    def written(self) -> Any:
        """What the run's ledger says in storage."""
        return RunLedger.open(self.directory.folder).state


def charged(runs: Path) -> list[Entry]:
    """The ledger over runs: of each run its latest entry."""
    return [*{entry.run_id: entry for entry in SpendingLedger(open_folder(str(runs))).read()}.values()]
