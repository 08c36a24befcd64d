"""What a private run may cost: its own settings, and what earlier runs took of the same files.

Beside the runs of a storage folder lies one ledger for all of them, `.privacy/`: entries that are only ever added,
each with its own SHA-256 and that of the one before. An entry says how many steps of which mechanism a run takes of
which files, by marks of the files. An entry is created under the next free number or not at all, so of two
runs that race for the last of a budget the second sees the first one's.

A run is charged for all its planned steps before it starts, and at its end for the steps that it took. What it looks
up in the records is charged before it is looked up, and stays charged. A record's budget is its file's.

A run that goes on from an old copy of its ledger, at the place where it went further, is refused. For that,
`.privacy/steps/` has the steps that each run has now. A copy at another place is counted: see `runner.privacy.entries`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, replace
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
)
from runner.privacy.entries import Entry, check_unit
from runner.privacy.entries import spent_before as spent_before
from runner.privacy.figures import epsilon_in_words
from runner.privacy.file_marks import FileMarks, check_comparable
from runner.privacy.releases import is_for_report
from runner.privacy.unit import PrivacyUnit
from runner.storage import Folder
from runner.storage.manifest import contents_sha256, sha256

SPENDING_FOLDER = ".privacy"
"""Under `storage.uri`, beside the runs."""
STEPS_FOLDER = "steps"
"""In it: the steps that runs may have taken by now, a file a run and place, rewritten."""
PLAIN_FOLDER = "plain"
"""In it: what runs without privacy were trained on, a file for each set of files."""
WITHOUT_PRIVACY = Mechanism(examples=1, batch_size=1, noise_multiplier=0.0)
"""What such a run counts as, with one step."""
READERS = 16


class SpendingLedger:
    """What all runs of a storage folder took of which files.

    In storage files are named by marks (`runner.privacy.file_marks`), in memory by their fingerprints: those of
    `of_files`. Other files keep the names that they have in storage. Entries of earlier versions have fingerprints.
    """

    def __init__(self, storage: Folder) -> None:
        self._folder = storage.child(SPENDING_FOLDER)
        self._files: tuple[str, ...] = ()

    def of_files(self, files: Iterable[str]) -> SpendingLedger:
        """The ledger, where entries name these files (fingerprints) as such."""
        ledger = copy(self)
        ledger._files = tuple(files)
        return ledger

    def note_plain_run(self, name: str, files: Iterable[str]) -> None:
        """Note that a run without privacy was trained on these files, once for each set of them."""
        marks = FileMarks.of(self._folder)
        found = sorted({marks.mark(file) for file in files})
        document: dict[str, Any] = {"name": name, "files": found, "time": time.time()}
        signed = document | {"sha256": contents_sha256(document)}
        self._folder.child(PLAIN_FOLDER).create(sha256("\n".join(found).encode()), json.dumps(signed).encode())

    def read(self) -> list[Entry]:
        """All entries in order; then those of runs without privacy, whose epsilon is infinite.

        Raises:
            CorruptError: one is missing, or was changed; or the secret of the files' marks is.
        """
        entries = self._read()[0]
        return self._named([*entries, *self._plain_runs()])

    def charge(self, decide: Callable[[Sequence[Entry]], Entry | None]) -> Entry | None:
        """Add the entry that `decide` makes of the entries so far; it is asked again when another run was faster.

        What `decide` raises is raised here, and nothing is added; None adds nothing either.
        """
        while True:
            entries, last = self._read()
            entry = decide(self._named([*entries, *self._plain_runs()]))
            if entry is None:
                return None
            marks = FileMarks.of(self._folder)
            marked = replace(entry, files=tuple(sorted(marks.mark(file) for file in entry.files)))
            document: dict[str, Any] = {"previous": last, **marked.to_plain()}
            signed = document | {"sha256": contents_sha256(document)}
            if self._folder.create(_name(len(entries) + 1), json.dumps(signed, sort_keys=True).encode()):
                return entry

    def keep_steps(self, run_id: str, place: str, steps: Mapping[str, int]) -> None:
        """Keep how many steps a run may have taken by now, by branch: outside of its directory, for `check_newest`."""
        document = {"run_id": run_id, "place": place, "steps": dict(steps)}
        signed = document | {"sha256": contents_sha256(document)}
        self._folder.write(_steps_name(run_id, place), json.dumps(signed).encode())

    def check_newest(self, run_id: str, place: str, steps: Mapping[str, int]) -> None:
        """Refuse a run that goes on from an old copy of its ledger, whose `steps` by branch are fewer than there were.

        Raises:
            CorruptError: steps are missing.
        """
        known = [dict(entry.branches) for entry in self.read() if (entry.run_id, entry.place) == (run_id, place)]
        content = self._folder.read_if_exists(_steps_name(run_id, place))
        if content is not None:
            try:
                document = dict(json.loads(content))
                is_intact = document.pop("sha256") == contents_sha256(document)
                known.append(document["steps"])
            except (ValueError, TypeError, KeyError):
                is_intact = False
            if not is_intact:
                raise CorruptError(
                    f"{self._folder.uri}/{_steps_name(run_id, place)} is damaged: what {place} has cost is unknown; "
                    "restore it from a backup or start a new run"
                )
        for branch, taken in ((branch, taken) for each in known for branch, taken in each.items()):
            if steps.get(branch, 0) < taken:
                raise CorruptError(
                    f"{place}: its ledger is an old copy: the run took {taken} steps of a branch of which the copy has "
                    f"{steps.get(branch, 0)}; put the newest private/ back, with the checkpoints, or start a new run"
                )

    def _named(self, entries: list[Entry]) -> list[Entry]:
        """With the fingerprints of `of_files` instead of their marks."""
        marks = FileMarks.find(self._folder)
        check_comparable(marks, (file for entry in entries for file in entry.files), self._folder.uri)
        if marks is None:
            return entries
        known = {marks.mark(file): file for file in self._files}
        return [replace(entry, files=tuple(sorted(known.get(file, file) for file in entry.files))) for entry in entries]

    def _plain_runs(self) -> list[Entry]:
        """An entry for each set of files that runs without privacy were trained on."""
        folder = self._folder.child(PLAIN_FOLDER)
        names = [entry.name for entry in folder.list()]
        with ThreadPoolExecutor(READERS) as pool:
            files = list(pool.map(folder.read, names))
        return [_plain_run(content, f"{folder.uri}/{name}") for name, content in zip(names, files, strict=True)]

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


def _plain_run(content: bytes, where: str) -> Entry:
    try:
        document = dict(json.loads(content))
        is_intact = document.pop("sha256") == contents_sha256(document)
        entry = Entry(where, document["name"], tuple(document["files"]), WITHOUT_PRIVACY, 1, document["time"])
    except (ValueError, TypeError, KeyError):
        is_intact, entry = False, None
    if entry is None or not is_intact:
        raise CorruptError(
            f"{where} is damaged: which files runs without privacy used is unknown; restore it from a backup"
        )
    return entry


def costliest(histories: Sequence[Spent], delta: float, accountant: Accountant, own: Spent = ()) -> Spent:
    """Of different histories the one with the largest epsilon after `own`, which follows on each; nothing of none.

    The order by epsilon is not that of the histories alone.
    """
    if len(histories) < 2:
        return [*histories, []][0]
    return max(histories, key=lambda spent: epsilon([*spent, *own], delta, accountant))


@dataclass(frozen=True)
class Budget:
    """A run's mechanism and how long it may run, after its `releases`; None where it takes no private steps.

    `before`: of the `histories` of its files the costliest, after this run. `limit`: the epsilon that may not be
    passed; `allowed_steps`: what it pays for; both None without a limit. `unit`: what is protected, where that is not
    a single record.
    """

    mechanism: Mechanism | None
    delta: float
    limit: float | None
    planned_steps: int
    before: Spent
    allowed_steps: int | None
    releases: tuple[Release, ...] = ()
    histories: Sequence[Spent] = ()
    unit: PrivacyUnit | None = None

    @property
    def charged_steps(self) -> int:
        """Steps that the run is charged for before it starts."""
        return self.planned_steps if self.allowed_steps is None else min(self.planned_steps, self.allowed_steps)


def plan_delta(config: JobConfig, examples: int, looked_up: int = 0) -> float:
    """The job's delta with so many training examples. `looked_up`: records that something is looked up in. Of persons,
    where these are protected, either is their number.

    Raises:
        PrivacyError: it is not below one in all of them.
    """
    privacy = config.privacy
    delta = default_delta(max(examples, looked_up)) if privacy.delta is None else privacy.delta
    units = "records" if config.unit is None else "persons"
    check_delta(delta, max(examples, looked_up), f"{units} that are looked at" if looked_up else f"training {units}")
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

    check_unit(histories, config.unit, privacy.max_epsilon)
    released = spent_by(releases)
    limits = [limit for limit in (privacy.target_epsilon, privacy.max_epsilon) if limit is not None]
    if mechanism is None:
        before = costliest(histories, delta, privacy.accountant, released)
        if begins and privacy.max_epsilon is not None and cost([*before, *released]) > privacy.max_epsilon:
            raise PrivacyError(
                f"privacy.max_epsilon {privacy.max_epsilon:g} does not pay for the run: earlier runs on the same files "
                f"took epsilon {in_words(before)}, and with this one it would be {in_words([*before, *released])}; "
                "raise it, or lower target_epsilon"
            )
        return Budget(None, delta, min(limits, default=None), 0, before, None, releases, histories)
    planned = config.training.epochs * mechanism.steps_per_epoch
    allowed: list[int] = []
    if privacy.target_epsilon is not None:
        of_model = spent_by([release for release in releases if not is_for_report(release)])
        allowed.append(steps_within(mechanism, privacy.target_epsilon, delta, privacy.accountant, of_model))
    if privacy.max_epsilon is not None:
        taken = [[*history, *released] for history in histories or [[]]]
        allowed.append(_steps_within_all(mechanism, privacy.max_epsilon, delta, privacy.accountant, taken))
        if begins and allowed[-1] == 0:
            before = costliest(histories, delta, privacy.accountant, spent_by(releases, mechanism, 1))
            used = f"earlier runs on the same files took epsilon {in_words(before)}, and " if before else ""
            used += f"what is looked up in the records takes {in_words(released)}, and " if released else ""
            raise PrivacyError(
                f"privacy.max_epsilon {privacy.max_epsilon:g} does not pay for a single step: {used}one step more "
                f"would make it {in_words([*before, *released, (mechanism, 1)])}; raise it, or use more noise"
            )
    allowed_steps = min(allowed, default=None)
    charged = planned if allowed_steps is None else min(planned, allowed_steps)
    before = costliest(histories, delta, privacy.accountant, spent_by(releases, mechanism, charged))
    limit = min(limits, default=None)
    return Budget(mechanism, delta, limit, planned, before, allowed_steps, releases, histories)


def _steps_within_all(
    mechanism: Mechanism, limit: float, delta: float, accountant: Accountant, histories: Sequence[Spent]
) -> int:
    """How many steps of `mechanism` a budget of `limit` pays for after any of these histories."""
    first, *others = histories
    steps = steps_within(mechanism, limit, delta, accountant, first)
    for history in others:
        if epsilon([*history, (mechanism, steps)], delta, accountant) > limit:
            steps = steps_within(mechanism, limit, delta, accountant, history)
    return steps


def _name(number: int) -> str:
    return f"{number:012d}.json"


def _steps_name(run_id: str, place: str) -> str:
    return f"{STEPS_FOLDER}/{run_id}-{sha256(place.encode())[:16]}"
