"""The run's step ledger: which steps were taken on the records, under what conditions; epsilon comes from it alone.

    private/key            the secret of noise and sampling, written once
    private/ledger.json    what a step is, the budget, and the branches of the run
    private/steps.json     what the last steps released: see `runner.privacy.step_digests`

Steps are written down before they are taken, some at a time, so that a killed run can only have taken fewer. A *branch*
is a stretch of the run whose every step is a pure function of (key, branch, step). A run that goes on as it was goes
on in its branch: the steps that it repeats release the same numbers again and cost nothing. A run that goes on
otherwise (another number of workers, say, or at another place) opens a new branch with noise and batches of its own,
and all the steps that were written down in the old one stay counted. A branch has a random name, from which its keys
are derived: so two copies of a run directory share nothing but the branches that they had when they were copied.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

from runner.data.batches import BatchPlan
from runner.errors import CorruptError, ObjectNotFoundError, PrivacyError, RepeatedOtherwiseError
from runner.privacy.accountant import (
    Accountant,
    Mechanism,
    Release,
    Spent,
    spent_by,
    spent_from_plain,
    without_empty_releases,
)
from runner.privacy.noise import RunKey
from runner.privacy.step_digests import StepDigests
from runner.privacy.unit import PrivacyUnit
from runner.storage import Folder
from runner.storage.manifest import contents_sha256

PRIVATE_FOLDER = "private"
KEY_FILE = "key"
LEDGER_FILE = "ledger.json"
VERSION = 1

FIRST_RESERVATION, SHARE_OF_STEPS = 16, 32
"""A reservation is a 32nd of the steps before it, but at least 16 steps. How long steps take does not count: that
depends on the records, and by the steps that a killed run is charged for it would be seen."""


@dataclass(frozen=True)
class Branch:
    """Steps `first_step` to `reserved` (exclusive) of the run, all under the same `conditions` (a fingerprint).

    `parent`: the number of the branch whose checkpoint at `first_step` it began from, -1 for the run's beginning.
    `nonce`: its random name, empty where it was opened before branches had one. `place`: the run directory's URI then.
    `is_closed`: a step that was taken again released something else.
    """

    conditions: str
    parent: int
    first_step: int
    reserved: int
    nonce: str = ""
    place: str = ""
    is_closed: bool = False


@dataclass(frozen=True)
class LedgerState:
    """What `ledger.json` holds. `limit`: the epsilon that may not be passed, None for no limit.

    `tokens` names the records and `files` their files (fingerprints), `before` lists what
    earlier runs took of the same files, and `allowed_steps` is what the limit pays for in all; None for no limit.
    `histories`: what they took of each file, where files differ in that; `before` is the one that costs most with this
    run's planned steps. `releases`: what the run looks up in the records. `mechanism` is None where it takes no private
    steps. `place`: the run directory's URI, as the driver of the latest attempt knows it. `unit`: what is protected,
    where that is not a single record.
    """

    run_id: str
    tokens: str
    mechanism: Mechanism | None
    delta: float
    accountant: Accountant
    limit: float | None
    before: tuple[tuple[Mechanism | Release, int], ...]
    allowed_steps: int | None
    files: tuple[str, ...]
    branches: tuple[Branch, ...] = ()
    releases: tuple[Release, ...] = ()
    histories: tuple[tuple[tuple[Mechanism | Release, int], ...], ...] = ()
    place: str = ""
    unit: PrivacyUnit | None = None

    def name_of(self, branch: int) -> str:
        """A branch's name in the ledger over runs."""
        return self.branches[branch].nonce or str(branch)

    @property
    def steps_by_branch(self) -> dict[str, int]:
        """Steps that were taken at most, by the branches' names."""
        return {self.name_of(n): branch.reserved - branch.first_step for n, branch in enumerate(self.branches)}

    def counted(self, step: int) -> int:
        """Steps to account for when the newest branch stands at `step` of the run, repeated ones of others included."""
        if not self.branches:
            return step
        *earlier, newest = self.branches
        return sum(branch.reserved - branch.first_step for branch in earlier) + step - newest.first_step

    @property
    def reserved_steps(self) -> int:
        """Steps that were taken at most."""
        return sum(branch.reserved - branch.first_step for branch in self.branches)

    @property
    def spent(self) -> Spent:
        """What the run has taken of its records at most."""
        return spent_by(self.releases, self.mechanism, self.reserved_steps)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> LedgerState:
        """From the JSON of `to_plain`."""
        values = dict(plain) | {
            "mechanism": None if plain["mechanism"] is None else Mechanism(**plain["mechanism"]),
            "before": spent_from_plain(plain["before"]),
            "histories": tuple(spent_from_plain(history) for history in plain.get("histories", ())),
            "files": tuple(plain["files"]),
            "branches": tuple(Branch(**branch) for branch in plain["branches"]),
            "releases": tuple(Release.from_plain(release) for release in plain.get("releases", ())),
            "unit": PrivacyUnit.from_plain(plain.get("unit")),
        }
        return cls(**values)

    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON; without a unit as before there was one."""
        plain = without_empty_releases(asdict(self))
        return {name: value for name, value in plain.items() if name != "unit" or value is not None}


class RunLedger:
    """One run's ledger in storage. Every worker reads it; the chief alone writes."""

    tell_steps: Callable[[Mapping[str, int]], None] | None = None
    """Told `steps_by_branch` whenever it changes, so that it is also known outside of the run directory."""

    def __init__(self, folder: Folder, key: RunKey, state: LedgerState, *, writes: bool) -> None:
        self.key = key
        self.state = state
        self._digests = StepDigests.read(folder)
        self._folder = folder
        self._writes = writes
        self._found_reserved = state.branches[-1].reserved if state.branches else 0

    @classmethod
    def create(cls, run_folder: Folder, state: LedgerState) -> RunLedger:
        """Begin a run's ledger, with a fresh key."""
        folder = run_folder.private_child(PRIVATE_FOLDER)
        folder.create(KEY_FILE, RunKey.new().hexadecimal.encode())
        ledger = cls(folder, _read_key(folder), state, writes=True)
        ledger._write()
        return ledger

    def discard(self) -> None:
        """Forget a ledger for which nothing was charged: the run has not begun."""
        self._folder.delete(LEDGER_FILE)

    @classmethod
    def exists(cls, run_folder: Folder) -> bool:
        """Whether the run has begun a ledger."""
        return run_folder.private_child(PRIVATE_FOLDER).exists(LEDGER_FILE)

    @classmethod
    def open(cls, run_folder: Folder, *, writes: bool = False) -> RunLedger:
        """Read a ledger back.

        Raises:
            CorruptError: it is missing, or does not verify: without it nobody knows what the run has cost.
        """
        folder = run_folder.private_child(PRIVATE_FOLDER)
        where = f"{folder.uri}/{LEDGER_FILE}"
        try:
            document = json.loads(folder.read(LEDGER_FILE))
            key = _read_key(folder)
        except ObjectNotFoundError as error:
            raise CorruptError(
                f"{where} or its key is missing: what this run has cost is unknown; start a new run"
            ) from error
        except ValueError as error:
            raise CorruptError(
                f"{where} does not verify: {error}; restore it from a backup or start a new run"
            ) from error
        recorded = document.pop("sha256", None) if isinstance(document, dict) else None
        if recorded is None or recorded != contents_sha256(cast(dict[str, Any], document)):
            raise CorruptError(
                f"{where} does not verify: it does not match its own SHA-256; "
                "restore it from a backup or start a new run"
            )
        if document.pop("version") != VERSION:
            raise CorruptError(f"{where} is of another version; this runner reads version {VERSION}")
        return cls(folder, key, LedgerState.from_plain(document), writes=writes)

    def change(self, **changes: Any) -> None:
        """Replace fields of the state, durably."""
        self.state = replace(self.state, **changes)
        self._write()

    @property
    def branch(self) -> int:
        """The number of the newest branch."""
        return len(self.state.branches) - 1

    @property
    def branch_key(self) -> RunKey:
        """The secret of the newest branch, from which its batches and noise are drawn."""
        nonce = self.state.branches[-1].nonce
        if not nonce:
            return self.key
        return RunKey(hashlib.sha256(json.dumps([self.key.hexadecimal, "branch", nonce]).encode()).hexdigest())

    def begin(self, conditions: str, checkpoint: tuple[int, int] | None) -> None:
        """Go on in the newest branch where every step will be as it was or would have been, else open a new one.

        Only the chief calls this; the other workers open the ledger afterwards.

        `checkpoint`: the branch and the step of the checkpoint that the run goes on from, None for its beginning.

        Raises:
            CorruptError: the checkpoint is ahead of the ledger, which must then be an old copy.
        """
        assert self._writes
        parent, step = checkpoint or (-1, 0)
        branches = self.state.branches
        if parent >= len(branches) or (parent >= 0 and step > branches[parent].reserved):
            raise CorruptError(
                f"{self._folder.uri}/{LEDGER_FILE} does not verify: the checkpoint of step {step} is not in it; "
                "restore it from a backup or start a new run"
            )
        if branches:
            newest = branches[-1]
            continues = parent == len(branches) - 1 and step >= newest.first_step
            repeats = (parent, step) == (newest.parent, newest.first_step)
            is_as_it_was = (newest.conditions, newest.place, newest.is_closed) == (conditions, self.state.place, False)
            can_compare = self._digests is not None and self._digests.knows_from(self.state.name_of(self.branch), step)
            if is_as_it_was and can_compare and (continues or repeats):
                return
        self._found_reserved = step
        branch = Branch(conditions, parent, step, step, nonce=RunKey.new().hexadecimal[:32], place=self.state.place)
        self._digests = StepDigests(self._folder, branch.nonce, step, [])
        self._digests.write()
        self.change(branches=(*branches, branch))

    def compare(self, step: int, digest: str) -> None:
        """Whether a step, taken again, released what it did before; every worker asks.

        Raises:
            RepeatedOtherwiseError: it did not. The branch is closed: the run's next start opens another.
        """
        assert self._digests is not None
        try:
            self._digests.compare(step, digest, keep=self._writes)
        except RepeatedOtherwiseError:
            if self._writes:
                *earlier, newest = self.state.branches
                self.change(branches=(*earlier, replace(newest, is_closed=True)))
            raise

    def write_digests(self, *, checkpoint: int | None = None) -> None:
        """Write down what the steps so far released, before anything is published; `checkpoint`: at this step."""
        if not self._writes:
            return
        assert self._digests is not None
        if checkpoint is not None:
            self._digests.forget_before_checkpoints(checkpoint)
        self._digests.write()

    def check_sampler(self, plan: BatchPlan) -> None:
        """Refuse to train with other batches than those that are accounted for.

        Raises:
            PrivacyError: another sampler, or another probability.
        """
        mechanism = self.state.mechanism
        assert mechanism is not None
        runs = (plan.sampler, plan.training_examples, plan.batch_size, plan.training_steps)
        accounted = (mechanism.sampler, mechanism.examples, mechanism.batch_size, mechanism.steps_per_epoch)
        if runs != accounted:
            raise PrivacyError(
                f"the batches are drawn by {runs}, but the ledger accounts for {accounted} (sampler, examples, "
                "batch size, steps of an epoch): nothing was trained"
            )

    def reserve(self, step: int, last_step: int) -> None:
        """Write down, before it is taken, that `step` (from 0) may be; and some more, up to `last_step` (exclusive)."""
        state = self.state
        if not self._writes or step < state.branches[-1].reserved:
            return
        if state.allowed_steps is not None:
            last_step = min(last_step, step + state.allowed_steps - state.counted(step))
        self.write_digests()
        ahead = max(FIRST_RESERVATION, step // SHARE_OF_STEPS)
        self._set_reserved(max(step + 1, min(step + ahead, last_step)))

    def settle(self, step: int) -> None:
        """The run ends in good order at `step`: what this process wrote down beyond that was not taken.

        What a process that was killed may have taken stays.
        """
        if self._writes and step < self.state.branches[-1].reserved:
            self._set_reserved(max(step, self._found_reserved))

    def is_spent(self, step: int) -> bool:
        """Whether the budget does not pay for one more step when the run stands at `step`."""
        allowed = self.state.allowed_steps
        return allowed is not None and self.state.counted(step) + 1 > allowed

    def _set_reserved(self, step: int) -> None:
        """In the run's ledger and outside, where never more may be known, or the run would look like an old copy."""
        *earlier, newest = self.state.branches
        changed = replace(self.state, branches=(*earlier, replace(newest, reserved=step)))
        if self.tell_steps is not None and step < newest.reserved:
            self.tell_steps(changed.steps_by_branch)
        self.change(branches=changed.branches)
        if self.tell_steps is not None and step > newest.reserved:
            self.tell_steps(changed.steps_by_branch)

    def _write(self) -> None:
        if self._writes:
            document = {"version": VERSION, **self.state.to_plain()}
            signed = document | {"sha256": contents_sha256(document)}
            self._folder.write(LEDGER_FILE, json.dumps(signed, indent=1).encode())


def _read_key(folder: Folder) -> RunKey:
    """The run's secret. Of one that was cut off, noise could be guessed.

    Raises:
        CorruptError: it is not 256 bits.
        ObjectNotFoundError: there is none.
    """
    content = folder.read(KEY_FILE)
    if not re.fullmatch(rb"[0-9a-f]{64}", content):
        raise CorruptError(
            f"{folder.uri}/{KEY_FILE} is damaged: it is not 64 hexadecimal digits; restore it from a backup or start a "
            "new run"
        )
    return RunKey(content.decode())
