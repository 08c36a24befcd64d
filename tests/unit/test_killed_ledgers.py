"""A run is killed at each single write of its ledgers, and goes on: no step is free, and none is paid for twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from runner.errors import CorruptError, PrivacyError
from runner.privacy.budget import SpendingLedger, plan_budget
from runner.privacy.ledger import RunLedger
from runner.storage import open_folder
from runner.storage.local import LocalFolder
from runner.train import private_run
from tests.unit.test_copied_runs import FILE, MECHANISM, World
from tests.unit.test_copied_runs import quick as quick

WRITES = ("write", "create", "delete", "remove")
PROCESSES = ((3, "x", False), (2, "y", True))
"""Steps, machine, and whether the process ends in good order."""


class KilledError(BaseException):
    """Stands for the end of a process, which nothing can hold up."""


@contextmanager
def killed_at(number: int) -> Iterator[list[str]]:
    """The process dies before its write of this number (from 0); gives what was written until then."""
    written: list[str] = []

    def counting(original: Any) -> Any:
        def write(folder: LocalFolder, name: Any, *arguments: Any, **options: Any) -> Any:
            if len(written) == number:
                raise KilledError
            written.append(f"{original.__name__} {folder.uri} {name}")
            return original(folder, name, *arguments, **options)

        return write

    with pytest.MonkeyPatch.context() as patch:
        for name in WRITES:
            patch.setattr(LocalFolder, name, counting(getattr(LocalFolder, name)))
        yield written


def begin(world: World) -> None:
    """As the driver: the budget is asked for a run that has no ledger."""
    directory = world.directory("a")
    budget = None
    if not RunLedger.exists(directory.folder):
        budget = plan_budget(world.config, MECHANISM, 1e-4, [[]])
    private_run.open_ledger(world.config, directory, "tokens", [FILE], budget)


def live(world: World) -> None:
    """All processes of a run, each from where the last one was killed."""
    begin(world)
    for steps, machine, ends in PROCESSES:
        world.go_on("a", steps, machine=machine, ends=ends)


def test_killed_at_any_write_a_run_goes_on_and_every_step_is_counted_once(tmp_path: Path) -> None:
    """It stays one run, and is charged for what its own ledger has: no charge is left that came to nothing."""
    number = 0
    while True:
        world = World(tmp_path / str(number), begins=False)
        with killed_at(number) as written, suppress(KilledError):
            live(world)
            break
        if RunLedger.exists(world.directory("a").folder):
            world.check()
        live(world)
        world.check()
        spending = SpendingLedger(open_folder(str(world.path("")))).of_files([FILE.fingerprint])
        state = RunLedger.open(world.directory("a").folder).state
        where = f"killed before write {number}, after {written[-1:]}"
        assert {entry.run_id for entry in spending.read()} == {state.run_id}, where
        assert world.counted == state.reserved_steps, where
        number += 1
    assert number > 14, "what was killed are the writes of all processes"


def test_a_run_that_is_refused_has_not_begun(tmp_path: Path) -> None:
    """Another run took the rest of the budget between the check and the charge."""
    world = World(tmp_path, begins=False)
    directory = world.directory("a")
    limited = world.config.model_copy(
        update={"privacy": world.config.privacy.model_copy(update={"max_epsilon": 1e-3, "delta": 1e-4})}
    )
    budget = plan_budget(world.config, MECHANISM, 1e-4, [[]])
    with pytest.raises(PrivacyError, match="does not pay for a single step"):
        private_run.open_ledger(limited, directory, "tokens", [FILE], budget)
    assert not RunLedger.exists(directory.folder)
    live(world)
    world.check()


@pytest.mark.parametrize("content", ["", "5e" * 16, "5e" * 31 + "0", "5e" * 33, "é" * 64])
def test_a_key_that_was_cut_off_is_refused(tmp_path: Path, content: str) -> None:
    """A killed write can leave nothing of it, where a file system has no links: the noise of that is everybody's."""
    world = World(tmp_path)
    (world.path("a") / "private" / "key").write_text(content)
    with pytest.raises(CorruptError, match=r"private/key is damaged.*start a new run"):
        world.go_on("a", 4)
    (world.path("a") / "private" / "ledger.json").unlink()
    with pytest.raises(CorruptError, match="private/key is damaged"):
        begin(world)
