"""The step ledger never counts fewer steps than were released, whatever happened to the run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.data.batches import BatchPlan, PoissonPlan
from runner.errors import CorruptError, PrivacyError
from runner.privacy import ledger as ledger_module
from runner.privacy.accountant import Mechanism
from runner.privacy.ledger import LedgerState, RunLedger
from runner.privacy.unit import PrivacyUnit
from runner.storage import Folder, open_folder

STATE = LedgerState(
    run_id="a run",
    tokens="some tokens",
    mechanism=Mechanism(examples=400, batch_size=20, noise_multiplier=1.0),
    delta=1e-4,
    accountant="pld",
    limit=None,
    before=((Mechanism(400, 10, 2.0), 7),),
    allowed_steps=None,
    files=("one", "two"),
)
LAST = 10_000


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = open_folder(str(tmp_path))
    RunLedger.create(folder, STATE)
    return folder


def attempt(folder: Folder, conditions: str, checkpoint: tuple[int, int] | None = None) -> RunLedger:
    """A process that goes on with the run."""
    ledger = RunLedger.open(folder, writes=True)
    ledger.begin(conditions, checkpoint)
    return ledger


def take(ledger: RunLedger, steps: Sequence[int]) -> None:
    for step in steps:
        ledger.reserve(step, LAST)


def stored(folder: Folder) -> LedgerState:
    return RunLedger.open(folder).state


def spans(folder: Folder) -> list[tuple[str, int, int, int]]:
    return [(b.conditions, b.parent, b.first_step, b.reserved) for b in stored(folder).branches]


def test_what_is_written_is_read_back(folder: Folder) -> None:
    assert stored(folder) == STATE
    ledger = attempt(folder, "x")
    ledger.change(limit=2.5, allowed_steps=12)
    assert stored(folder) == ledger.state
    assert RunLedger.open(folder).key == ledger.key
    assert RunLedger.exists(folder)


def test_the_unit_of_privacy_is_kept_and_one_record_is_not_written_as_one(tmp_path: Path) -> None:
    assert "unit" not in STATE.to_plain()
    unit = PrivacyUnit("customer", most_records=3, persons=80, persons_above=7, nobodys=2)
    folder = open_folder(str(tmp_path))
    RunLedger.create(folder, replace(STATE, unit=unit))
    assert stored(folder).unit == unit


def test_the_key_is_written_once(folder: Folder) -> None:
    key = RunLedger.open(folder).key
    assert RunLedger.create(folder, STATE).key == key


def test_a_step_is_in_storage_before_it_is_taken_and_after_a_kill(folder: Folder) -> None:
    ledger = attempt(folder, "x")
    for step in range(200):
        take(ledger, [step])
        assert stored(folder).branches[-1].reserved > step


def test_reservations_grow_so_that_storage_is_written_rarely(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, writes = attempt(folder, "x"), []
    monkeypatch.setattr(ledger, "_write", lambda: writes.append(1))
    take(ledger, range(5000))
    assert len(writes) < 120


@pytest.mark.parametrize("steps", [1, 40, 3000])
def test_what_a_killed_run_is_charged_for_does_not_depend_on_how_long_steps_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    charged = []
    for step_s in (0.001, 60):
        clock = count(step=step_s)
        monkeypatch.setattr("time.monotonic", lambda clock=clock: next(clock))
        folder = open_folder(str(tmp_path / f"{step_s}"))
        RunLedger.create(folder, STATE)
        take(attempt(folder, "x"), range(steps))
        charged.append(stored(folder).reserved_steps)
    assert charged[0] == charged[1] <= steps + max(16, steps // 32)


def test_reservations_end_at_the_run_s_last_step(folder: Folder) -> None:
    ledger = attempt(folder, "x")
    for step in range(20):
        ledger.reserve(step, 20)
    assert stored(folder).reserved_steps == 20


def test_a_run_that_goes_on_as_it_was_stays_in_its_branch_and_repeats_for_free(folder: Folder) -> None:
    take(attempt(folder, "x"), range(30))
    before = spans(folder)
    for checkpoint in (None, (0, 10), (0, 25)):
        again = attempt(folder, "x", checkpoint)
        assert again.branch == 0
        take(again, range(checkpoint[1] if checkpoint else 0, 30))
        assert spans(folder) == before


def test_a_run_under_other_conditions_opens_a_branch_and_counts_its_steps_again(folder: Folder) -> None:
    first = attempt(folder, "x")
    take(first, range(30))
    first.settle(30)
    second = attempt(folder, "y", (0, 20))
    assert second.branch == 1
    take(second, range(20, 50))
    second.settle(50)
    assert spans(folder) == [("x", -1, 0, 30), ("y", 0, 20, 50)]
    assert stored(folder).reserved_steps == 60
    assert [stored(folder).counted(step) for step in (20, 21, 50)] == [30, 31, 60]


def test_going_back_to_the_old_conditions_is_a_new_branch(folder: Folder) -> None:
    take(attempt(folder, "x"), range(5))
    take(attempt(folder, "y", (0, 4)), range(4, 9))
    third = attempt(folder, "x", (0, 4))
    assert third.branch == 2


def test_a_branch_killed_before_its_first_checkpoint_is_repeated(folder: Folder) -> None:
    take(attempt(folder, "x"), range(5))
    take(attempt(folder, "y", (0, 4)), range(4, 9))
    assert attempt(folder, "y", (0, 4)).branch == 1
    assert attempt(folder, "y", (0, 3)).branch == 2, "from another step its steps would be others"


def test_a_checkpoint_of_an_older_branch_opens_a_branch(folder: Folder) -> None:
    """The newer checkpoints are damaged: what follows the old one is not what the newest branch released."""
    take(attempt(folder, "x"), range(10))
    take(attempt(folder, "y", (0, 8)), range(8, 20))
    again = attempt(folder, "y", (0, 5))
    assert (again.branch, again.state.branches[-1].parent) == (2, 0)


def test_settling_takes_back_only_what_this_process_wrote_ahead(folder: Folder) -> None:
    killed = attempt(folder, "x")
    take(killed, range(3))
    ahead = stored(folder).reserved_steps
    assert ahead > 5
    resumed = attempt(folder, "x", (0, 2))
    take(resumed, range(2, 5))
    resumed.settle(5)
    assert stored(folder).reserved_steps == ahead, "the killed process may have taken them"
    further = attempt(folder, "x", (0, 5))
    take(further, range(5, ahead + 3))
    further.settle(ahead + 3)
    assert stored(folder).reserved_steps == ahead + 3


def test_a_worker_that_does_not_write_has_the_chief_s_branch(folder: Folder) -> None:
    take(attempt(folder, "x"), range(10))
    chief = attempt(folder, "y", (0, 8))
    worker = RunLedger.open(folder)
    assert worker.branch == chief.branch == 1
    assert worker.branch_key == chief.branch_key
    assert worker.state == chief.state
    before = spans(folder)
    take(worker, range(8, 100))
    worker.compare(8, "a digest")
    worker.write_digests()
    worker.settle(9)
    assert spans(folder) == before
    assert b"a digest" not in folder.child("private").read("steps.json")


def test_two_branches_have_no_key_in_common_even_with_the_same_conditions(folder: Folder, tmp_path: Path) -> None:
    """Opened by two copies of a run directory, say."""
    copy = open_folder(str(tmp_path / "copy"))
    for name in ("key", "ledger.json"):
        copy.child("private").write(name, folder.child("private").read(name))
    one, other = attempt(folder, "x"), attempt(copy, "x")
    assert one.key == other.key
    assert one.branch_key != other.branch_key
    assert one.branch_key.for_sampling(0) != other.branch_key.for_sampling(0)
    assert one.branch_key.for_noise(0, "x") != other.branch_key.for_noise(0, "x")


def test_the_budget_is_checked_before_a_step_and_repeated_steps_count(folder: Folder) -> None:
    RunLedger.open(folder, writes=True).change(allowed_steps=12)
    ledger = attempt(folder, "x")
    taken = next(step for step in range(100) if ledger.is_spent(step) or take(ledger, [step]))
    assert taken == 12
    assert stored(folder).reserved_steps == 12
    RunLedger.open(folder, writes=True).change(allowed_steps=15)
    other = attempt(folder, "y", (0, 10))
    taken = next(step for step in range(10, 100) if other.is_spent(step) or take(other, [step]))
    assert taken == 13
    assert stored(folder).reserved_steps == 15


# Refusals


@pytest.mark.parametrize("name", ["ledger.json", "key"])
def test_a_missing_file_is_refused(folder: Folder, name: str) -> None:
    folder.child("private").delete(name)
    with pytest.raises(CorruptError, match="what this run has cost is unknown"):
        RunLedger.open(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b"\xff", b'{"version": 1'])
def test_an_unreadable_ledger_is_refused(folder: Folder, content: bytes) -> None:
    folder.child("private").write("ledger.json", content)
    with pytest.raises(CorruptError, match="does not verify"):
        RunLedger.open(folder)


@pytest.mark.parametrize(
    "path", [("mechanism", "noise_multiplier"), ("delta",), ("branches", 0, "reserved"), ("version",)]
)
def test_a_changed_number_is_refused(folder: Folder, path: tuple[Any, ...]) -> None:
    take(attempt(folder, "x"), range(3))
    document = json.loads(folder.child("private").read("ledger.json"))
    part = document
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] *= 2
    folder.child("private").write("ledger.json", json.dumps(document).encode())
    with pytest.raises(CorruptError, match="does not match its own SHA-256"):
        RunLedger.open(folder)


def test_an_old_copy_is_refused_by_the_checkpoint_that_is_ahead_of_it(folder: Folder) -> None:
    take(attempt(folder, "x"), range(3))
    old = folder.child("private").read("ledger.json")
    reserved = stored(folder).reserved_steps
    take(attempt(folder, "x", (0, 3)), range(3, 200))
    take(attempt(folder, "y", (0, 200)), range(200, 210))
    folder.child("private").write("ledger.json", old)
    for checkpoint in ((0, reserved + 1), (1, 205)):
        with pytest.raises(CorruptError, match="does not verify: the checkpoint of step"):
            attempt(folder, "y", checkpoint)
    with pytest.raises(CorruptError, match="is not in it"):
        RunLedger.create(open_folder(f"{folder.uri}/new"), STATE).begin("x", (0, 1))


def test_batches_that_are_not_those_accounted_for_are_refused(folder: Folder) -> None:
    ledger = attempt(folder, "x")
    ledger.check_sampler(PoissonPlan(400, 20, 0, validation_split=False))
    others = [
        BatchPlan(400, 20, 0, validation_split=False),
        PoissonPlan(400, 21, 0, validation_split=False),
        PoissonPlan(401, 20, 0, validation_split=False),
        PoissonPlan(400, 20, 0, validation_split=True),
        cast(BatchPlan, SimpleNamespace(sampler="poisson", training_examples=400, batch_size=20, training_steps=10)),
    ]
    for plan in others:
        with pytest.raises(PrivacyError, match="but the ledger accounts for"):
            ledger.check_sampler(plan)


# Any history


class History:
    """Attempts of one run: what each released, as (conditions, where its state came from, step)."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.released: set[tuple[Any, ...]] = set()
        self.checkpoints: list[tuple[int, int, tuple[Any, ...]]] = []
        """Branch, step, and the path of releases that led there."""

    def live(self, conditions: str, back: int, steps: int, checkpoint_every: int, ends_well: bool) -> None:
        """One process: from its `back`-th newest checkpoint, so many steps, then killed or ended."""
        kept = self.checkpoints[: len(self.checkpoints) - back] if back else self.checkpoints
        branch, step, path = kept[-1] if kept else (-1, 0, ())
        self.checkpoints = list(kept)
        ledger = RunLedger.open(self.folder, writes=True)
        ledger.begin(conditions, (branch, step) if kept else None)
        noise_of = ledger.branch_key.for_noise(ledger.branch, conditions)
        for _ in range(steps):
            if ledger.is_spent(step):
                break
            ledger.reserve(step, 60)
            # What is released follows from the state before, the noise and the step alone.
            path = (*path, (noise_of, step))
            self.released.add(path)
            step += 1
            if step % checkpoint_every == 0:
                self.checkpoints.append((ledger.branch, step, path))
        if ends_well:
            ledger.settle(step)
            self.checkpoints.append((ledger.branch, step, path))


ATTEMPTS = st.tuples(
    st.sampled_from(["one worker", "two workers"]),
    st.integers(0, 3),
    st.integers(0, 25),
    st.integers(1, 9),
    st.booleans(),
)


@settings(max_examples=150)
@given(st.lists(ATTEMPTS, min_size=1, max_size=7), st.sampled_from([None, 20, 45]))
def test_no_history_of_kills_and_resumes_counts_fewer_steps_than_it_released(
    attempts: list[tuple[str, int, int, int, bool]], allowed: int | None
) -> None:
    with TemporaryDirectory() as path:
        folder = open_folder(path)
        RunLedger.create(folder, STATE).change(allowed_steps=allowed)
        history = History(folder)
        for conditions, back, steps, every, ends_well in attempts:
            history.live(conditions, back, steps, every, ends_well)
            counted = stored(folder).reserved_steps
            assert counted >= len(history.released)
            if allowed is not None:
                assert counted <= allowed
        noises = [path[-1] for path in history.released]
        assert len(set(noises)) == len(noises), "no noise is used for two different states"


def test_the_tests_write_a_few_steps_at_a_time() -> None:
    """The histories above are shorter than what a ledger writes ahead at most, and longer than at first."""
    assert ledger_module.FIRST_RESERVATION < 25
