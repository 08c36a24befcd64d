"""What a private run may cost: its own settings, and what earlier runs took of the same files.

Beside the runs of a storage folder lies one ledger for all of them, `.privacy/`: entries that are only ever added,
each with its own SHA-256 and that of the one before. An entry says how many steps of which mechanism a run takes of
which files, by the fingerprints of the files; a later entry of the same run replaces its earlier ones. An entry is
created under the next free number or not at all, so of two runs that race for the last of a budget the second sees
the first one's.

A run is charged for all its planned steps before it starts, and at its end for the steps that it took. What it looks
up in the records is charged before it is looked up, and stays charged. A record's budget is its file's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

from runner.config import JobConfig
from runner.errors import CorruptError, PrivacyError
from runner.privacy.accountant import (
    Accountant,
    Mechanism,
    Release,
    Spent,
    check_delta,
    default_delta,
    epsilon,
    find_noise,
    plain_epsilon,
    spent_by,
    steps_within,
    without_empty_releases,
)
from runner.privacy.figures import epsilon_in_words
from runner.privacy.releases import is_for_report
from runner.storage import Folder
from runner.storage.manifest import contents_sha256, sha256

SPENDING_FOLDER = ".privacy"
"""Under `storage.uri`, beside the runs."""
READERS = 16


@dataclass(frozen=True)
class Entry:
    """A run's total: `steps` of `mechanism`, and `releases`, on the files with these fingerprints. A run that trains on
    draws has no mechanism.

    `time`: seconds since 1970.
    """

    run_id: str
    name: str
    files: tuple[str, ...]
    mechanism: Mechanism | None
    steps: int
    time: float
    releases: tuple[Release, ...] = ()

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Entry:
        """From the values of an entry's JSON."""
        values = dict(plain) | {
            "files": tuple(plain["files"]),
            "mechanism": None if plain["mechanism"] is None else Mechanism(**plain["mechanism"]),
            "releases": tuple(Release.from_plain(release) for release in plain.get("releases", ())),
        }
        return cls(**values)

    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON; an entry without releases is as it was before there were any."""
        return without_empty_releases(asdict(self))

    @property
    def spent(self) -> Spent:
        """What the run took."""
        return spent_by(self.releases, self.mechanism, self.steps)


class SpendingLedger:
    """What all runs of a storage folder took of which files."""

    def __init__(self, storage: Folder) -> None:
        self._folder = storage.child(SPENDING_FOLDER)

    def read(self) -> list[Entry]:
        """All entries in order.

        Raises:
            CorruptError: one is missing, or was changed.
        """
        return self._read()[0]

    def charge(self, decide: Callable[[Sequence[Entry]], Entry | None]) -> Entry | None:
        """Add the entry that `decide` makes of the entries so far; it is asked again when another run was faster.

        What `decide` raises is raised here, and nothing is added; None adds nothing either.
        """
        while True:
            entries, last = self._read()
            entry = decide(entries)
            if entry is None:
                return None
            document: dict[str, Any] = {"previous": last, **entry.to_plain()}
            signed = document | {"sha256": contents_sha256(document)}
            if self._folder.create(_name(len(entries) + 1), json.dumps(signed, sort_keys=True).encode()):
                return entry

    def _read(self) -> tuple[list[Entry], str]:
        """The entries, and the SHA-256 of the last one's file."""
        names = [entry.name for entry in self._folder.list() if entry.name.endswith(".json")]
        with ThreadPoolExecutor(READERS) as pool:
            files = list(pool.map(self._folder.read, names))
        entries: list[Entry] = []
        last = ""
        for name, content in zip(names, files, strict=True):
            where = f"{self._folder.uri}/{name}"
            expected = _name(len(entries) + 1)
            if name != expected:
                raise CorruptError(
                    f"{self._folder.uri}/{expected} is missing: the privacy ledger does not verify; "
                    "restore it from a backup"
                )
            try:
                document = dict(json.loads(content))
                is_intact = document.pop("sha256") == contents_sha256(document)
                previous = document.pop("previous")
                entries.append(Entry.from_plain(document))
            except (ValueError, TypeError, KeyError, PrivacyError) as error:
                raise CorruptError(
                    f"{where} is damaged: the privacy ledger does not verify; restore it from a backup"
                ) from error
            if not is_intact:
                raise CorruptError(f"{where} was changed: the privacy ledger does not verify; restore it from a backup")
            if previous != last:
                raise CorruptError(
                    f"{where} does not follow the entry before it: the privacy ledger does not verify; "
                    "restore it from a backup"
                )
            last = sha256(content)
        return entries, last


def spent_before(entries: Sequence[Entry], files: Sequence[str], run_id: str | None = None) -> list[Spent]:
    """What other runs took of these files: for each different history that a file has, all that was taken of it."""
    latest: dict[str, Entry] = {}
    for entry in entries:
        if entry.run_id != run_id:
            released = latest[entry.run_id].releases if entry.run_id in latest else ()
            # What was released stays so, whatever a later entry says.
            kept = tuple(release for release in released if release not in entry.releases)
            latest[entry.run_id] = replace(entry, releases=(*kept, *entry.releases))
    histories = {
        tuple(each for entry in latest.values() if file in set(entry.files) for each in entry.spent)
        for file in set(files)
    }
    return [list(history) for history in histories]


def costliest(histories: Sequence[Spent], delta: float, accountant: Accountant) -> Spent:
    """Of different histories the one with the largest epsilon; nothing of none."""
    return max(histories, key=lambda spent: epsilon(spent, delta, accountant), default=[])


@dataclass(frozen=True)
class Budget:
    """A run's mechanism and how long it may run, after its `releases`; None where it takes no private steps.

    `before`: the costliest history among its files. `limit`: the epsilon that may not be passed; `allowed_steps`: what
    it pays for; both None without a limit.
    """

    mechanism: Mechanism | None
    delta: float
    limit: float | None
    planned_steps: int
    before: Spent
    allowed_steps: int | None
    releases: tuple[Release, ...] = ()

    @property
    def charged_steps(self) -> int:
        """Steps that the run is charged for before it starts."""
        return self.planned_steps if self.allowed_steps is None else min(self.planned_steps, self.allowed_steps)


def plan_delta(config: JobConfig, examples: int, looked_up: int = 0) -> float:
    """The job's delta with so many training examples. `looked_up`: records that something is looked up in.

    Raises:
        PrivacyError: it is not below one in all these records.
    """
    privacy = config.privacy
    delta = default_delta(max(examples, looked_up)) if privacy.delta is None else privacy.delta
    check_delta(delta, max(examples, looked_up), "records that are looked at" if looked_up else "training records")
    return delta


def plan_mechanism(
    config: JobConfig, examples: int, releases: tuple[Release, ...] = (), looked_up: int = 0
) -> tuple[Mechanism, float]:
    """The job's mechanism on so many training examples, and its delta. A target pays for the `releases` first.

    Raises:
        PrivacyError: batch_size > n, delta >= 1/n, or a target that no noise reaches.
    """
    privacy, training = config.privacy, config.training
    delta = plan_delta(config, examples, looked_up)
    mechanism = Mechanism(examples, training.batch_size, privacy.noise_multiplier or 0.0, privacy.l2_norm_clip)
    if privacy.target_epsilon is None:
        return mechanism, delta
    steps = training.epochs * mechanism.steps_per_epoch
    noise = find_noise(
        examples,
        training.batch_size,
        steps,
        privacy.target_epsilon,
        delta,
        privacy.accountant,
        spent_by(releases),
    )
    return replace(mechanism, noise_multiplier=noise), delta


def plan_budget(
    config: JobConfig,
    mechanism: Mechanism | None,
    delta: float,
    histories: Sequence[Spent],
    *,
    begins: bool = True,
    releases: tuple[Release, ...] = (),
) -> Budget:
    """What the job may cost, after what earlier runs took of its files and after its own `releases`.

    A target epsilon is for the run's model alone; `max_epsilon` is for all runs on the same files together, and for
    their shareable reports.

    Raises:
        PrivacyError: a run that `begins` cannot take a single step. (One that goes on may have steps to repeat.)
    """
    privacy = config.privacy

    def cost(spent: Spent) -> float:
        return epsilon(spent, delta, privacy.accountant)

    def in_words(spent: Spent) -> str:
        return epsilon_in_words(plain_epsilon(cost(spent)), 3)

    before = costliest(histories, delta, privacy.accountant)
    released = spent_by(releases)
    limits = [limit for limit in (privacy.target_epsilon, privacy.max_epsilon) if limit is not None]
    if mechanism is None:
        if begins and privacy.max_epsilon is not None and cost([*before, *released]) > privacy.max_epsilon:
            raise PrivacyError(
                f"privacy.max_epsilon {privacy.max_epsilon:g} does not pay for the run: earlier runs on the same files "
                f"took epsilon {in_words(before)}, and with this one it would be {in_words([*before, *released])}; "
                "raise it, or lower target_epsilon"
            )
        return Budget(None, delta, min(limits, default=None), 0, before, None, releases)
    allowed: list[int] = []
    if privacy.target_epsilon is not None:
        of_model = spent_by([release for release in releases if not is_for_report(release)])
        allowed.append(steps_within(mechanism, privacy.target_epsilon, delta, privacy.accountant, of_model))
    if privacy.max_epsilon is not None:
        taken = [*before, *released]
        allowed.append(steps_within(mechanism, privacy.max_epsilon, delta, privacy.accountant, taken))
        if begins and allowed[-1] == 0:
            used = f"earlier runs on the same files took epsilon {in_words(before)}, and " if before else ""
            used += f"what is looked up in the records takes {in_words(released)}, and " if released else ""
            raise PrivacyError(
                f"privacy.max_epsilon {privacy.max_epsilon:g} does not pay for a single step: {used}one step more "
                f"would make it {in_words([*taken, (mechanism, 1)])}; raise it, or use more noise"
            )
    planned = config.training.epochs * mechanism.steps_per_epoch
    return Budget(mechanism, delta, min(limits, default=None), planned, before, min(allowed, default=None), releases)


def _name(number: int) -> str:
    return f"{number:012d}.json"
