"""What the ledger over runs promises, local or on S3: inherit the class and give it a `folder` fixture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest

from runner.errors import CorruptError, PrivacyError
from runner.privacy.accountant import Mechanism, epsilon, steps_within
from runner.privacy.budget import SPENDING_FOLDER, SpendingLedger
from runner.privacy.entries import Entry, spent_before
from runner.storage import Folder

MECHANISM = Mechanism(examples=400, batch_size=20, noise_multiplier=2.0)
DELTA = 1e-4


def entry(run_id: str, steps: int, files: Sequence[str] = ("a",)) -> Entry:
    return Entry(run_id, f"the run {run_id}", tuple(files), MECHANISM, steps, 1.5e9)


def charge(folder: Folder, *entries: Entry) -> None:
    for each in entries:
        assert SpendingLedger(folder).charge(lambda _before, each=each: each) == each


class SpendingContract:
    """The promises, one test each; `folder` is empty at the start."""

    def test_nothing_was_spent_in_a_new_folder(self, folder: Folder) -> None:
        assert SpendingLedger(folder).read() == []

    def test_entries_are_read_back_in_order(self, folder: Folder) -> None:
        entries = [entry("a", 10), entry("b", 20, ["a", "b"]), entry("a", 9)]
        charge(folder, *entries)
        assert SpendingLedger(folder).read() == entries

    def test_a_decision_sees_all_entries_before_its_own(self, folder: Folder) -> None:
        charge(folder, entry("a", 10))
        seen: list[Entry] = []
        SpendingLedger(folder).charge(lambda entries: seen.extend(entries))
        assert seen == SpendingLedger(folder).read() == [entry("a", 10)]

    def test_a_refused_charge_adds_nothing(self, folder: Folder) -> None:
        def refuse(_entries: Sequence[Entry]) -> Entry:
            raise PrivacyError("no")

        with pytest.raises(PrivacyError, match="no"):
            SpendingLedger(folder).charge(refuse)
        assert SpendingLedger(folder).read() == []

    def test_of_racing_charges_every_one_lands_once(self, folder: Folder) -> None:
        racers, each = 8, 3
        barrier = Barrier(racers)

        def race(racer: int) -> None:
            ledger = SpendingLedger(folder)
            barrier.wait()
            for turn in range(each):
                ledger.charge(lambda _entries: entry(f"{racer}-{turn}", racer))

        with ThreadPoolExecutor(racers) as pool:
            list(pool.map(race, range(racers)))
        landed = [found.run_id for found in SpendingLedger(folder).read()]
        assert sorted(landed) == sorted(f"{racer}-{turn}" for racer in range(racers) for turn in range(each))

    def test_two_runs_that_race_cannot_pass_the_limit_together(self, folder: Folder) -> None:
        limit = epsilon([(MECHANISM, 50)], DELTA, "rdp")
        racers = 4
        barrier = Barrier(racers)

        def race(racer: int) -> int:
            def decide(entries: Sequence[Entry]) -> Entry | None:
                (before,) = spent_before(entries, ["a"]) or [[]]
                allowed = steps_within(MECHANISM, limit, DELTA, "rdp", before)
                return entry(str(racer), min(20, allowed)) if allowed else None

            barrier.wait()
            found = SpendingLedger(folder).charge(decide)
            return 0 if found is None else found.steps

        with ThreadPoolExecutor(racers) as pool:
            taken = list(pool.map(race, range(racers)))
        assert sum(taken) == 50
        assert sorted(taken) == [0, 10, 20, 20]

    @pytest.mark.parametrize("lost", [1, 2, 3])
    def test_a_removed_entry_is_refused(self, folder: Folder, lost: int) -> None:
        charge(folder, *(entry(str(number), number) for number in range(4)))
        folder.child(SPENDING_FOLDER).delete(f"{lost:012d}.json")
        for use in (SpendingLedger(folder).read, lambda: charge(folder, entry("x", 1))):
            with pytest.raises(CorruptError, match=rf"{lost:012d}\.json is missing"):
                use()

    @pytest.mark.parametrize("changed", [1, 2, 3])
    def test_a_changed_entry_is_refused(self, folder: Folder, changed: int) -> None:
        """The last one among them, which no other vouches for."""
        charge(folder, *(entry(str(number), 10 + number) for number in range(3)))
        spending, name = folder.child(SPENDING_FOLDER), f"{changed:012d}.json"
        document = json.loads(spending.read(name))
        document["steps"] = 1
        spending.write(name, json.dumps(document, sort_keys=True).encode())
        with pytest.raises(CorruptError, match="does not verify"):
            SpendingLedger(folder).read()

    def test_swapped_entries_are_refused(self, folder: Folder) -> None:
        charge(folder, *(entry(str(number), number) for number in range(3)))
        spending = folder.child(SPENDING_FOLDER)
        one, two = (spending.read(f"{number:012d}.json") for number in (1, 2))
        spending.write(f"{1:012d}.json", two)
        spending.write(f"{2:012d}.json", one)
        with pytest.raises(CorruptError, match="does not verify"):
            SpendingLedger(folder).read()

    @pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b'"x"', b"\xff"])
    def test_an_unreadable_entry_is_refused(self, folder: Folder, content: bytes) -> None:
        charge(folder, entry("a", 1), entry("b", 1))
        folder.child(SPENDING_FOLDER).write(f"{1:012d}.json", content)
        with pytest.raises(CorruptError, match="does not verify"):
            SpendingLedger(folder).read()

    def test_the_ledgers_of_two_storage_folders_are_apart(self, folder: Folder) -> None:
        charge(folder.child("one"), entry("a", 1))
        assert SpendingLedger(folder.child("two")).read() == []

    def test_a_run_s_last_entry_replaces_its_earlier_ones(self, folder: Folder) -> None:
        charge(folder, entry("a", 100), entry("b", 5), replace(entry("a", 40), time=2e9))
        assert spent_before(SpendingLedger(folder).read(), ["a"]) == [[(MECHANISM, 40), (MECHANISM, 5)]]
