"""Run directories are copied, backed up and put back: what was released is counted, or the run is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.config import JobConfig, parse_job
from runner.data.files import SourceFile
from runner.errors import CorruptError, RepeatedOtherwiseError
from runner.privacy.accountant import Histogram, Mechanism, Release
from runner.privacy.budget import SpendingLedger, plan_budget
from runner.privacy.entries import spent_before
from runner.privacy.ledger import PRIVATE_FOLDER, RunLedger
from runner.privacy.releases import Counts, released_once
from runner.run_directory import RunDirectory
from runner.storage import open_folder
from runner.sweep.privacy import _before
from runner.train import private_run

MECHANISM = Mechanism(examples=400, batch_size=20, noise_multiplier=2.0)
FILE = SourceFile("part.parquet", 1, "f" * 64)
CHECKPOINTS = "taken.json"
"""What stands for a run's checkpoints: branch, step, and the chain of the releases that led there."""


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """No disk is waited for, and no statement written."""
    with patch("os.fsync"), patch.object(private_run, "privacy_report"), patch.object(private_run, "to_files", dict):
        yield


class World:
    """A storage folder with a run, and all that was ever released of its records."""

    def __init__(self, place: Path, *, begins: bool = True) -> None:
        self.place = place
        self.released: set[str] = set()
        self.noises: set[tuple[Any, ...]] = set()
        self.config = self._config()
        if begins:
            budget = plan_budget(self.config, MECHANISM, 1e-4, [[]])
            private_run.open_ledger(self.config, self.directory("a"), "tokens", [FILE], budget)

    def _config(self) -> JobConfig:
        return parse_job(
            {
                "name": "a",
                "data": {"uri": "records/"},
                "tokenizer": {"kind": "byte"},
                "training": {"epochs": 2, "batch_size": 20},
                "storage": {"uri": str(self.place / "runs")},
                "privacy": {"enabled": True, "noise_multiplier": 2.0},
            },
            environment={},
        )

    def path(self, name: str) -> Path:
        return self.place / "runs" / name

    def directory(self, name: str) -> RunDirectory:
        return RunDirectory(open_folder(str(self.path(name))))

    def go_on(
        self, name: str, steps: int, *, machine: str = "x", back: int = 0, every: int = 4, ends: bool = True
    ) -> None:
        """A process: from the `back`-th newest checkpoint, so many steps; killed unless it `ends` well."""
        directory = self.directory(name)
        private_run.open_ledger(self.config, directory, "tokens", [FILE], None)
        file = self.path(name) / CHECKPOINTS
        kept: list[list[Any]] = json.loads(file.read_text()) if file.exists() else []
        kept = kept[: len(kept) - back]
        branch, step, chain = kept[-1] if kept else (-1, 0, "")
        ledger = RunLedger.open(directory.folder, writes=True)
        private_run.keep_steps_outside(self.config, ledger)
        ledger.begin(machine, (branch, step) if kept else None)
        if ledger.branch > 0:
            private_run.charge_again(self.config, ledger)
        noise = ledger.branch_key.for_noise(ledger.branch, machine)
        for _ in range(steps):
            ledger.reserve(step, 40)
            chain = hashlib.sha256(f"{chain} {noise} {step}".encode()).hexdigest()
            ledger.compare(step, chain)
            self.released.add(chain)
            self.noises.add((noise, step))
            step += 1
            if step % every == 0:
                ledger.write_digests(checkpoint=step)
                kept.append([ledger.branch, step, chain])
                file.write_text(json.dumps(kept))
        if ends:
            ledger.write_digests()
            ledger.settle(step)
            kept.append([ledger.branch, step, chain])
            file.write_text(json.dumps(kept))
            private_run.settle(self.config, directory, "stopped")

    def copy(self, name: str, to: str) -> None:
        shutil.rmtree(self.path(to), ignore_errors=True)
        shutil.copytree(self.path(name), self.path(to))

    @property
    def counted(self) -> int:
        """Steps that another run on the same file takes into account."""
        (history,) = spent_before(
            SpendingLedger(open_folder(str(self.path("")))).of_files([FILE.fingerprint]).read(), [FILE.fingerprint]
        )
        return sum(steps for _, steps in history)

    def check(self) -> None:
        assert self.counted >= len(self.released)
        assert len(self.noises) == len(self.released), "no noise is used for two different states"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize("first", ["a", "copy"])
@pytest.mark.parametrize("machine", ["x", "y"])
def test_a_copy_and_the_run_are_both_counted_to_the_step(world: World, first: str, machine: str) -> None:
    world.go_on("a", 8)
    world.copy("a", "copy")
    for name in (first, {"a": "copy", "copy": "a"}[first]):
        world.go_on(name, 16, machine="x" if name == "a" else machine)
    world.check()
    assert world.counted == len(world.released) == 40


def test_a_copy_takes_what_the_run_took_for_an_earlier_run_s(world: World) -> None:
    world.go_on("a", 8)
    world.copy("a", "copy")
    world.go_on("a", 16)
    world.go_on("copy", 16)
    state = RunLedger.open(world.directory("copy").folder).state
    assert state.before == ((MECHANISM, 16),)
    assert state.reserved_steps == 24


@pytest.mark.parametrize("ends", [True, False])
def test_a_run_whose_backup_was_put_back_is_refused(world: World, ends: bool) -> None:
    """Of a run that was killed, too."""
    world.go_on("a", 8)
    world.copy("a", "backup")
    world.go_on("a", 16, ends=ends)
    world.copy("backup", "a")
    with pytest.raises(CorruptError, match=r"old copy.*put the newest private/ back"):
        world.go_on("a", 8, machine="y")
    world.check()


def test_settled_steps_stay_whatever_later_entries_say(world: World) -> None:
    world.go_on("a", 30)
    spending = SpendingLedger(open_folder(str(world.path("")))).of_files([FILE.fingerprint])
    last = spending.read()[-1]
    spending.charge(lambda _entries: replace(last, steps=0, branches=()))
    assert world.counted == 30


def test_a_run_at_another_place_opens_a_branch(world: World) -> None:
    world.go_on("a", 8, ends=False)
    world.copy("a", "moved")
    world.go_on("moved", 8)
    assert len(RunLedger.open(world.directory("moved").folder).state.branches) == 2


def test_a_damaged_record_of_the_steps_is_refused(world: World) -> None:
    world.go_on("a", 8)
    (file,) = (world.path("") / ".privacy" / "steps").iterdir()
    file.write_text(file.read_text().replace('"steps": {', '"steps": {"b": 0, '))
    with pytest.raises(CorruptError, match="is damaged"):
        world.go_on("a", 8)


def test_a_step_that_is_taken_again_and_gives_something_else_closes_its_branch(world: World) -> None:
    world.go_on("a", 8, every=4)
    directory = world.directory("a")
    private_run.open_ledger(world.config, directory, "tokens", [FILE], None)
    ledger = RunLedger.open(directory.folder, writes=True)
    ledger.begin("x", (0, 4))
    assert ledger.branch == 0
    with pytest.raises(RepeatedOtherwiseError, match="step 4, taken again"):
        ledger.compare(4, "something else")
    ledger = RunLedger.open(directory.folder, writes=True)
    ledger.begin("x", (0, 4))
    assert ledger.branch == 1
    ledger.compare(4, "something else")
    assert ledger.state.reserved_steps == 8


def test_a_run_that_goes_back_further_than_it_can_compare_opens_a_branch(world: World) -> None:
    world.go_on("a", 20, every=4)
    for back, branches in ((2, 1), (4, 2)):
        world.copy("a", "kept")
        world.go_on("a", 0, back=back, ends=False)
        assert len(RunLedger.open(world.directory("a").folder).state.branches) == branches


NAMES = st.sampled_from("abc")
OPERATIONS = st.one_of(
    st.tuples(
        st.just("go on"),
        NAMES,
        st.integers(0, 20),
        st.sampled_from("xy"),
        st.integers(0, 2),
        st.sampled_from([3, 8]),
        st.booleans(),
    ),
    st.tuples(st.just("copy"), NAMES, NAMES),
)


@settings(max_examples=60)
@given(st.lists(OPERATIONS, min_size=3, max_size=9))
def test_no_history_of_copies_and_kills_counts_fewer_steps_than_were_released(
    operations: list[tuple[Any, ...]],
) -> None:
    with TemporaryDirectory() as place:
        world = World(Path(place))
        for what, name, *arguments in operations:
            if not world.path(name).exists():
                continue
            if what == "copy":
                if arguments[0] != name:
                    world.copy(name, arguments[0])
                continue
            steps, machine, back, every, ends = arguments
            try:
                world.go_on(name, steps, machine=machine, back=back, every=every, ends=ends)
            except CorruptError:
                continue
            world.check()


@pytest.mark.parametrize("copied", ["before it is drawn", "when it is drawn"])
def test_what_is_looked_up_is_counted_for_each_time_that_it_is_drawn(world: World, copied: str) -> None:
    release = Release("schema", (Histogram("age", 20.0),))
    config = world.config
    budget = plan_budget(config, MECHANISM, 1e-4, [[]], releases=(release,))
    private_run.open_ledger(config, world.directory("b"), "tokens", [FILE], budget)

    def draw(name: str) -> str:
        private_run.open_ledger(config, world.directory(name), "tokens", [FILE], None)
        (planned,) = RunLedger.open(world.directory(name).folder).state.releases
        counts = Counts(np.arange(1000, dtype=np.int64))
        folder = world.directory(name).folder.private_child(PRIVATE_FOLDER)
        return released_once(folder, planned, lambda: {"age": counts}).sha256

    drawn = set[str]()
    if copied == "when it is drawn":
        drawn.add(draw("b"))
    world.copy("b", "copy")
    drawn |= {draw(name) for name in ("copy", "b", "copy")}
    entries = SpendingLedger(open_folder(str(world.path("")))).of_files([FILE.fingerprint]).read()
    (history,) = spent_before(entries, [FILE.fingerprint])
    assert len(drawn) == sum(isinstance(what, Release) for what, _ in history)
    assert len(drawn) == (1 if copied == "when it is drawn" else 2)
    state = RunLedger.open(world.directory("copy").folder).state
    assert sum(isinstance(what, Release) for what, _ in state.before) == len(drawn) - 1


def test_a_copy_of_a_trial_is_in_the_statement_of_its_sweep(world: World) -> None:
    """Of the trial that was chosen, and of another: what their own directories took is in the sweep's cost already."""
    budget = plan_budget(world.config, MECHANISM, 1e-4, [[]])
    private_run.open_ledger(world.config, world.directory("b"), "tokens", [FILE], budget)
    for name in ("a", "b"):
        world.go_on(name, 8)
        world.copy(name, f"copy of {name}")
    best, other = (RunLedger.open(world.directory(name).folder).state for name in ("a", "b"))
    assert _before(world.config, best, other.spent, [other]) == ()
    for steps, name in ((10, "a"), (20, "b")):
        world.go_on(f"copy of {name}", steps)
    before = _before(world.config, best, other.spent, [other])
    assert sum(steps for _, steps in before) == 30
