"""Promise 15, around steps that are not taken: a run is charged before it begins, where all runs look, and for good."""

from __future__ import annotations

from pathlib import Path

from runner.privacy.accountant import Mechanism, epsilon
from runner.privacy.budget import SpendingLedger
from runner.storage import open_folder
from tests.promises.dry_runs import DryRun, charged
from tests.promises.private_runs import BATCH, NOISE, STEPS, TRAINED
from tests.promises.test_looked_up import refusal

PLANNED = 3 * STEPS
MECHANISM = Mechanism(TRAINED, BATCH, NOISE)


def test_15_a_run_is_charged_for_all_its_steps_before_it_begins(records: Path, tmp_path: Path) -> None:
    DryRun.begin("first", records, tmp_path)
    found = [(entry.name, entry.steps, entry.mechanism, len(entry.files)) for entry in charged(tmp_path)]
    assert found == [("first", PLANNED, MECHANISM, len(list(records.iterdir())))]


def test_15_at_its_end_a_run_is_charged_for_what_it_took(records: Path, tmp_path: Path) -> None:
    run = DryRun.begin("first", records, tmp_path)
    run.end(run.take(5), 5)
    assert [entry.steps for entry in charged(tmp_path)] == [5]
    assert run.written.reserved_steps == 5


def test_15_what_a_killed_run_may_have_taken_stays_charged(records: Path, tmp_path: Path) -> None:
    """Killed twice, the second time elsewhere; a process that ends in good order takes back its own steps alone."""
    run = DryRun.begin("killed", records, tmp_path)
    run.take(5)
    first = run.written.reserved_steps
    assert first >= 5
    run.resume()
    assert [entry.steps for entry in charged(tmp_path)] == [PLANNED]
    run.end(run.take(2), 2)
    assert run.written.reserved_steps == first, "it repeats steps of the one before, which may have taken more"
    run.take(4, "those of another machine", (0, 2))
    second = run.written.reserved_steps
    assert second >= first + 4
    run.resume()
    assert charged(tmp_path)[0].steps >= max(second, PLANNED)
    run.end(run.take(1, "those of a third one", (1, 3)), 4)
    assert [entry.steps for entry in charged(tmp_path)] == [second + 1]


def test_15_a_run_that_takes_another_s_name_pays_for_it_too(records: Path, tmp_path: Path) -> None:
    run = DryRun.begin("same", records, tmp_path)
    run.end(run.take(6), 6)
    run = DryRun.begin("same", records, tmp_path, overwrite=True)
    run.end(run.take(3), 3)
    assert [entry.steps for entry in charged(tmp_path)] == [6, 3]
    paid = {"delta": 0.003, "max_epsilon": epsilon([(MECHANISM, 9)], 0.003, "rdp") * 1.0001}
    for name in ("third", "same"):
        refused = refusal(lambda name=name: DryRun.begin(name, records, tmp_path, overwrite=True, **paid))
        assert "earlier runs on the same files took" in refused
    limited = DryRun.begin(
        "third", records, tmp_path, delta=0.003, max_epsilon=epsilon([(MECHANISM, 11)], 0.003, "rdp")
    )
    assert limited.written.allowed_steps == 2


def test_15_nothing_that_was_charged_is_ever_taken_out(records: Path, tmp_path: Path) -> None:
    """Entries are only added, whatever becomes of the runs; each file is named."""
    before: list[object] = []
    for name, overwrite in (("one", False), ("two", False), ("one", True)):
        run = DryRun.begin(name, records, tmp_path, overwrite=overwrite)
        run.end(run.take(2), 2)
        entries = SpendingLedger(open_folder(str(tmp_path))).read()
        assert entries[: len(before)] == before
        assert len(entries) == len(before) + 2
        before = [*entries]
