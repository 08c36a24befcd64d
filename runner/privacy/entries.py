"""What the entries of the ledger over runs add up to.

Of its steps an entry names those that the run's ledger had by then, by branch: they stay, whatever a later entry says.
The others are planned, and the next entry from the same place (the run directory's URI) replaces them. So a copy of a
run directory adds the branches that it opens and the steps that it plans, and neither takes back what the other took.

A record is in one file, so what it costs is what was taken of that file. A person may have records in all of a run's
files, so what was taken of any of them adds up. Where an earlier run protects another unit than the run that asks,
nothing follows from what it took: one person's records emptied is no neighbor there, nor is one record here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from runner.errors import PrivacyError
from runner.privacy.accountant import Mechanism, Release, Spent, spent_by, without_empty_releases

OF_ANOTHER_UNIT = Mechanism(examples=1, batch_size=1, noise_multiplier=0.0, sampler="another unit")
"""What a run counts as, with one step, for a run that protects something else."""


@dataclass(frozen=True)
class Entry:
    """A run's total: `steps` of `mechanism`, and `releases`, on the files with these fingerprints. A run that trains on
    draws has no mechanism.

    `time`: seconds since 1970. `place`: the run directory's URI; empty in entries from before there were places.
    `branches`: those of the steps that may have been taken by then, by the branch's name. `unit`: the column by whose
    values records are protected together; empty where each record is.
    """

    run_id: str
    name: str
    files: tuple[str, ...]
    mechanism: Mechanism | None
    steps: int
    time: float
    releases: tuple[Release, ...] = ()
    place: str = ""
    branches: tuple[tuple[str, int], ...] = ()
    unit: str = ""

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Entry:
        """From the values of an entry's JSON."""
        values = dict(plain) | {
            "files": tuple(plain["files"]),
            "mechanism": None if plain["mechanism"] is None else Mechanism(**plain["mechanism"]),
            "releases": tuple(Release.from_plain(release) for release in plain.get("releases", ())),
            "branches": tuple((str(name), int(steps)) for name, steps in plain.get("branches", ())),
        }
        return cls(**values)

    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON; what an entry does not have is left out, as before there was such a thing."""
        plain = without_empty_releases(asdict(self))
        return {name: value for name, value in plain.items() if value or name not in ("place", "branches", "unit")}

    @property
    def planned(self) -> int:
        """Steps that had not been taken by then, at least as far as is known."""
        return self.steps - sum(steps for _, steps in self.branches)


@dataclass
class _Total:
    """All entries of a run: what they add up to.

    `taken`: by branch, the most that any entry has. `planned`: by place, as its latest entry says.
    `before_places`: what the latest entry from before there were places says of the whole run.
    """

    last: Entry
    files: set[str] = field(default_factory=set[str])
    releases: tuple[Release, ...] = ()
    taken: dict[str, int] = field(default_factory=dict[str, int])
    planned: dict[str, int] = field(default_factory=dict[str, int])
    before_places: int = 0

    def add(self, entry: Entry) -> None:
        self.last = entry
        self.files.update(entry.files)
        # What was released stays so, whatever a later entry says.
        kept = tuple(release for release in self.releases if release not in entry.releases)
        self.releases = (*kept, *entry.releases)
        if not entry.place:
            self.before_places = entry.steps
            return
        self.planned[entry.place] = entry.planned
        for branch, steps in entry.branches:
            self.taken[branch] = max(steps, self.taken.get(branch, 0))

    def spent(self) -> Spent:
        steps = max(self.before_places, sum(self.taken.values()) + sum(self.planned.values()))
        return spent_by(self.releases, self.last.mechanism, steps)

    def spent_elsewhere(self, place: str, steps: Mapping[str, int], releases: Collection[Release]) -> Spent:
        """What copies of the run took and plan, besides the `steps` by branch and `releases` of the one here."""
        taken = sum(max(0, most - steps.get(branch, 0)) for branch, most in self.taken.items())
        planned = sum(planned for elsewhere, planned in self.planned.items() if elsewhere != place)
        others = [release for release in self.releases if release not in releases]
        return spent_by(others, self.last.mechanism, taken + planned)


def has_no_noise(spent: Spent) -> bool:
    """Whether any step had none, so that nothing can be claimed after it."""
    return any(isinstance(what, Mechanism) and what.noise_multiplier == 0 for what, _ in spent)


def spent_before(
    entries: Sequence[Entry],
    files: Sequence[str],
    run_id: str | None = None,
    place: str = "",
    steps: Mapping[str, int] | None = None,
    releases: Collection[Release] = (),
    unit: str = "",
) -> list[Spent]:
    """What other runs took of these files: for each different history that a file has, all that was taken of it; of
    all files together where the unit is not the record.

    run_id: the run that asks; place, steps, releases: where it is, its steps by branch and what it draws once. Other
    copies of it are other runs. unit: what it protects, see `Entry`.
    """
    totals: dict[str, _Total] = {}
    for entry in entries:
        totals.setdefault(entry.run_id, _Total(entry)).add(entry)
    spent = {
        each: total.spent() if each != run_id else total.spent_elsewhere(place, steps or {}, releases)
        for each, total in totals.items()
    }
    for each, total in totals.items():
        if spent[each] and total.last.unit != unit and not has_no_noise(spent[each]):
            spent[each] = [(OF_ANOTHER_UNIT, 1)]
    together = [set(files)] if unit else [{file} for file in set(files)]
    histories = {
        tuple(part for each, total in totals.items() if some & total.files for part in spent[each]) for some in together
    }
    return [list(history) for history in histories]


def uncounted_in_words(before: Spent, unit: str | None) -> dict[str, str]:
    """Of earlier runs on the same files of which no epsilon holds, for the statement of a run that protects `unit`:
    those without privacy or noise, and those that protect something else."""
    unbounded = [what for what, _ in before if isinstance(what, Mechanism) and what.noise_multiplier == 0]
    others = unbounded.count(OF_ANOTHER_UNIT)
    plain = len(unbounded) - others
    so = "so with earlier runs epsilon is infinite"
    of_others = f"{others}, on the same files: what they took of one {unit or 'record'} is unknown, {so}"
    of_plain = f"{plain}, on the same files: their models may tell any record, {so}"
    found = {"earlier runs without privacy": of_plain} if plain else {}
    return found | ({"earlier runs that protect another unit": of_others} if others else {})


def check_unit(histories: Sequence[Spent], unit: str | None, max_epsilon: float | None) -> None:
    """Refuse a limit for all runs on the same files together where some of them do not protect `unit`.

    Raises:
        PrivacyError: in one line.
    """
    if max_epsilon is not None and any(what == OF_ANOTHER_UNIT for history in histories for what, _ in history):
        raise PrivacyError(
            f"privacy.max_epsilon {max_epsilon:g} cannot be kept: earlier runs on the same files protect another unit "
            f"than one {unit or 'record'}, so what they cost does not add up with this; leave max_epsilon out, or set "
            "privacy.unit to theirs"
        )
