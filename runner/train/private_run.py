"""The privacy side of a run's start and end: the plan, the charge, the run's ledger, and the report.

budget = check_privacy(config, records, files)                   # before anything is written
open_ledger(config, directory, tokens_key, files, budget)        # the driver, before workers start
buy_schema(config, directory)                                    # the driver, where something is to be looked up
settle(config, directory, ledger)                                # the first worker, at the end
charge_report(config, directory, release)                        # before a shareable report counts
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from runner.config import JobConfig
from runner.data.batches import plan_batches
from runner.data.files import SourceFile
from runner.data.prepare import bought_key
from runner.data.schema import Schema
from runner.data.survey import columns_read
from runner.data.units import plan_table
from runner.errors import DataError, PrivacyError, RunnerError
from runner.privacy.accountant import Mechanism, Release, Spent, epsilon, plain_epsilon, spent_by
from runner.privacy.budget import Budget, SpendingLedger, costliest, plan_budget, plan_delta, plan_mechanism
from runner.privacy.contributions import counted_of
from runner.privacy.endings import check_no_time_limit
from runner.privacy.entries import Entry, check_unit, spent_before
from runner.privacy.figures import epsilon_in_words
from runner.privacy.ledger import PRIVATE_FOLDER, LedgerState, RunLedger
from runner.privacy.lookups import SCHEMA, bought_fields, count_lookups, lookups_of, plan_schema
from runner.privacy.marginals import COLUMNS, plan_marginals, plan_rest
from runner.privacy.releases import drawn_at, find_released, released_once
from runner.privacy.report import privacy_report, to_files
from runner.run_directory import RunDirectory
from runner.storage import open_folder
from runner.train.series import chain_of_run

log = logging.getLogger(__name__)


def counted_records(config: JobConfig, units: int, persons: Mapping[int, int] | None) -> int:
    """How many records the draws of a run are made by, about. units, persons: see `check_privacy`."""
    trained = plan_batches(config, units).training_examples
    return trained if persons is None else max(1, counted_of(persons, config.privacy.sensitivity) * trained // units)


def check_privacy(
    config: JobConfig,
    records: int,
    files: Sequence[SourceFile],
    schema: Schema | None = None,
    persons: Mapping[int, int] | None = None,
) -> Budget:
    """Whether the privacy that the job asks for can be had; writes nothing. schema: of a table, where it is known.
    records: or persons, where these are protected; `persons` says how many have how many records.

    Raises:
        PrivacyError: in one line.
        CorruptError: the ledger over runs does not verify.
    """
    check_no_time_limit(config)
    trained = plan_batches(config, records).training_examples
    looked_up = records if lookups_of(config) else 0
    delta = plan_delta(config, trained, looked_up)
    releases, rest, mechanism = plan_schema(config, delta), (), None
    if config.trains_on_draws and schema is None:
        rest = plan_rest(config, delta, releases)
    elif config.trains_on_draws and schema is not None:
        rest = plan_marginals(config, schema, delta, counted_records(config, records, persons), releases)
    if config.takes_private_steps and (schema is not None or not config.trains_on_draws):
        mechanism, delta = plan_mechanism(config, trained, (*releases, *rest), looked_up)
    fingerprints = _fingerprints(files)
    entries = SpendingLedger(open_folder(config.storage.uri, patient=False)).of_files(fingerprints).read()
    histories = spent_before(entries, fingerprints, unit=config.unit or "")
    budget = plan_budget(config, mechanism, delta, histories, releases=(*releases, *rest))
    if schema is None:
        budget = replace(budget, releases=releases)
    if budget.allowed_steps is not None and budget.allowed_steps < budget.planned_steps:
        log.warning(
            "the privacy budget pays for %d of %d planned steps: the run will end there",
            budget.allowed_steps,
            budget.planned_steps,
        )
    return budget


def planned_epsilon(config: JobConfig, budget: Budget) -> float:
    """What the run costs if it takes every step that is planned and paid for, what it looks up included."""
    releases = budget.releases
    if config.trains_on_draws and not any(release.name == COLUMNS for release in releases):
        releases = (*releases, *plan_rest(config, budget.delta, releases))
    spent = spent_by(releases, budget.mechanism, budget.charged_steps)
    return epsilon(spent, budget.delta, config.privacy.accountant)


def charge_marginals(
    config: JobConfig, directory: RunDirectory, schema: Schema, records: int, persons: Mapping[int, int] | None = None
) -> None:
    """Charge a run whose schema was bought for the counts that its draws are made by, and for the steps that follow on
    texts, where it is not yet; they take the place of what was reserved for them before the schema was bought. records:
    how many have tokens, or how many persons; `persons` says how many of them have how many.

    Raises:
        PrivacyError: they cost more than was reserved, because the job's privacy is another now.
    """
    ledger = RunLedger.open(directory.folder, writes=True)
    state = ledger.state
    if any(release.name == COLUMNS for release in state.releases):
        return
    counts = plan_marginals(config, schema, state.delta, counted_records(config, records, persons), state.releases)
    releases = (*state.releases, *(replace(release, place=state.place) for release in counts))
    mechanism = None
    if config.takes_private_steps:
        trained = plan_batches(config, records).training_examples
        mechanism, _ = plan_mechanism(config, trained, releases, looked_up=records)
    state = replace(state, releases=releases, mechanism=mechanism)
    agreed: list[Budget] = []

    def decide(entries: Sequence[Entry]) -> Entry:
        before = _before(config, entries, state)
        agreed.append(plan_budget(config, mechanism, state.delta, before, releases=releases))
        return _entry(config, state, agreed[-1].charged_steps)

    _spending(config, state).charge(decide)
    ledger.change(releases=releases, mechanism=mechanism, **_limits(agreed[-1]))


def open_ledger(
    config: JobConfig,
    directory: RunDirectory,
    tokens_key: str,
    files: Sequence[SourceFile],
    budget: Budget | None,
) -> None:
    """Charge the run for all that it plans, and write its ledger, or bring the one of a resumed run up to date.

    `budget`: of `check_privacy`, for a run that begins. Where the schema is still to be bought, what follows is
    charged too: a schema is worth nothing to a run that cannot pay for the rest.

    Raises:
        PrivacyError: another run has just taken the rest of the budget.
        CorruptError: the ledger of a resumed run is missing, or does not verify, or is an old copy.
    """
    if budget is not None:
        state = LedgerState(
            run_id=uuid.uuid4().hex,
            tokens=tokens_key,
            mechanism=budget.mechanism,
            delta=budget.delta,
            accountant=config.privacy.accountant,
            limit=None,
            before=(),
            allowed_steps=None,
            files=_fingerprints(files),
            releases=tuple(replace(release, place=directory.uri) for release in budget.releases),
            place=directory.uri,
            unit=budget.unit,
        )
        # Before the charge: a run that is killed in between goes on with it, and is not charged again as another run.
        ledger = RunLedger.create(directory.folder, state)
    else:
        ledger = RunLedger.open(directory.folder, writes=True)
        folder = directory.folder.private_child(PRIVATE_FOLDER)
        releases = tuple(drawn_at(directory.uri, folder, release) for release in ledger.state.releases)
        state = replace(ledger.state, place=directory.uri, releases=releases)
        _spending(config, state).check_newest(state.run_id, state.place, state.steps_by_branch)
    agreed: list[Budget] = []
    rest = _counts_to_come(config, state)

    def decide(entries: Sequence[Entry]) -> Entry:
        before, releases = _before(config, entries, state), (*state.releases, *rest)
        agreed.append(
            plan_budget(config, state.mechanism, state.delta, before, begins=not state.branches, releases=releases)
        )
        if rest:
            return replace(_entry(config, state, 1), mechanism=_reservation(rest))
        return _entry(config, state, max(agreed[-1].charged_steps, state.reserved_steps))

    try:
        _spending(config, state).charge(decide)
    except PrivacyError:
        if budget is not None:
            ledger.discard()
        raise
    ledger.change(place=state.place, releases=state.releases, **_limits(agreed[-1]))


def buy_schema(
    config: JobConfig, directory: RunDirectory, files: tuple[SourceFile, ...], records: int
) -> tuple[Schema, str]:
    """The schema of the run's release, which is drawn and stored the first time; and the SHA-256 of what is stored.

    records: how many are counted, which is public. The run's ledger has been charged for it and for what follows: see
    `open_ledger`. The rest is given back where the run ends here, since its schema is never another.

    Raises:
        DataError: what is open cannot be had from noisy counts.
        CorruptError: what is stored does not verify.
    """
    assert config.fields is not None
    state = RunLedger.open(directory.folder).state
    release = next(release for release in state.releases if release.name == SCHEMA)
    columns = plan_table(config.data, files, columns_read(config.fields)).schema
    released = released_once(
        directory.folder.private_child(PRIVATE_FOLDER),
        release,
        lambda: count_lookups(config, files, columns, release, records),
    )
    try:
        found = bought_fields(config, release, released.histograms, records)
    except DataError:
        _spending(config, state).charge(lambda _entries: _entry(config, state, state.reserved_steps))
        raise
    schema = Schema.of(config.fields, columns, found, texts_last=config.trains_texts_apart)
    return schema, released.sha256


def find_tokens_key(config: JobConfig, key: str, directory: RunDirectory | None) -> str | None:
    """The name of the tokens of a job or run; None where it depends on a schema that is still to be bought."""
    if not lookups_of(config):
        return key
    sha256 = None if directory is None else find_released(directory.folder.private_child(PRIVATE_FOLDER), SCHEMA)
    return None if sha256 is None else bought_key(key, sha256)


def check_same_records(directory: RunDirectory, tokens_key: str) -> None:
    """Refuse to go on with other records than the run began with, before they are tokenized.

    Raises:
        DataError: the records changed.
    """
    if RunLedger.open(directory.folder).state.tokens != tokens_key:
        raise DataError(f"{directory.uri}: the records changed since this run began; start a new run, or put them back")


def charge_again(config: JobConfig, ledger: RunLedger) -> None:
    """Count the steps that a new branch repeats, before it takes any.

    Raises:
        PrivacyError: they would pass the limit, because another run took of the same files meanwhile.
    """
    state = ledger.state
    assert state.mechanism is not None
    planned = state.counted(config.training.epochs * state.mechanism.steps_per_epoch)
    wanted = planned if state.allowed_steps is None else min(planned, state.allowed_steps)
    wanted = max(wanted, state.reserved_steps)

    def decide(entries: Sequence[Entry]) -> Entry:
        before = _before(config, entries, state)
        allowed = plan_budget(
            config, state.mechanism, state.delta, before, begins=False, releases=state.releases
        ).allowed_steps
        if allowed is not None and wanted > max(allowed, state.reserved_steps):
            raise PrivacyError(
                "another run took of the privacy budget of the same files just now: resume this run again, "
                "for as many steps as are left"
            )
        return _entry(config, state, wanted)

    _spending(config, state).charge(decide)


def settle(
    config: JobConfig, directory: RunDirectory, ending: str, measured: Mapping[str, Any] | None = None
) -> dict[str, bytes]:
    """Charge the run, which ended so, for the steps it took, and write its report; returns the report's files.

    `measured`: what its canaries showed, None where there were none.
    """
    state = RunLedger.open(directory.folder).state
    _spending(config, state).charge(lambda _entries: _entry(config, state, state.reserved_steps))
    return _write_statement(config, directory, state, ending, measured)


def charge_report(config: JobConfig, directory: RunDirectory, release: Release) -> None:
    """Charge a run that has ended for the counts of a shareable report, where it is not yet, and say so in its
    statement.

    Raises:
        PrivacyError: `privacy.max_epsilon` does not pay for them.
    """
    ledger = RunLedger.open(directory.folder, writes=True)
    without = ledger.state
    if release not in without.releases:
        others = (each for each in without.releases if each.name != release.name)
        state = replace(without, releases=(*others, release))
        most = config.privacy.max_epsilon
        agreed: list[Spent] = []

        def cost(spent: Spent) -> float:
            return epsilon(spent, state.delta, state.accountant)

        def decide(entries: Sequence[Entry]) -> Entry:
            agreed[:] = _before(config, entries, state)
            check_unit(agreed, config.unit, most)
            before = costliest(agreed, state.delta, state.accountant, state.spent)
            if most is not None and cost([*before, *state.spent]) > most:
                taken, wanted = (plain_epsilon(cost([*before, *each.spent])) for each in (without, state))
                raise PrivacyError(
                    f"privacy.max_epsilon {most:g} does not pay for the report: this run and others on the same files "
                    f"took epsilon {epsilon_in_words(taken, 3)}, and with the report it would be "
                    f"{epsilon_in_words(wanted, 3)}; ask for less"
                )
            return _entry(config, state, state.reserved_steps)

        _spending(config, state).charge(decide)
        before = costliest(agreed, state.delta, state.accountant, state.spent)
        ledger.change(releases=state.releases, before=tuple(before), histories=_different(agreed))
    before = json.loads(directory.folder.read("privacy.json"))
    _write_statement(config, directory, ledger.state, before.get("ended"), before.get("measured"))


def _write_statement(
    config: JobConfig,
    directory: RunDirectory,
    state: LedgerState,
    ending: str | None,
    measured: Mapping[str, Any] | None,
) -> dict[str, bytes]:
    """The statement's files."""
    if state.histories:
        before = costliest(state.histories, state.delta, state.accountant, state.spent)
        state = replace(state, before=tuple(before))
    chain = chain_of_run(config, directory)
    files = to_files(privacy_report(config, state, ending=ending, chain=chain, measured=measured))
    for name, content in files.items():
        directory.folder.write(name, content)
    return files


def _spending(config: JobConfig, state: LedgerState) -> SpendingLedger:
    return SpendingLedger(open_folder(config.storage.uri)).of_files(state.files)


def keep_steps_outside(config: JobConfig, ledger: RunLedger) -> None:
    """From now on, let the ledger over runs know the run's steps whenever its own ledger does."""
    ledger.tell_steps = partial(_spending(config, ledger.state).keep_steps, ledger.state.run_id, ledger.state.place)


def note_plain_run(config: JobConfig, files: Sequence[SourceFile]) -> None:
    """Let the ledger over runs know that a run without privacy is trained on these files; it does not fail for that."""
    try:
        SpendingLedger(open_folder(config.storage.uri)).note_plain_run(config.name, _fingerprints(files))
    except RunnerError as error:
        log.warning("privacy statements of later runs on these files will not mention this run: %s", error)


def _counts_to_come(config: JobConfig, state: LedgerState) -> tuple[Release, ...]:
    """Of a run on draws: what it will take in counts that cannot be named before its schema is bought."""
    if not config.trains_on_draws or any(release.name == COLUMNS for release in state.releases):
        return ()
    return plan_rest(config, state.delta, state.releases)


def _reservation(rest: tuple[Release, ...]) -> Mechanism:
    """One step on all records with the noise of this: other than a release, a step is given back by a later entry."""
    (histogram,) = (each for release in rest for each in release.histograms)
    return Mechanism(1, 1, histogram.noise.multiplier())


def _entry(config: JobConfig, state: LedgerState, steps: int) -> Entry:
    return Entry(
        state.run_id,
        config.name,
        state.files,
        state.mechanism,
        steps,
        time.time(),
        state.releases,
        state.place,
        tuple(state.steps_by_branch.items()),
        config.unit or "",
    )


def _before(config: JobConfig, entries: Sequence[Entry], state: LedgerState) -> list[Spent]:
    """What other runs, and other copies of this one, took of its files: see `spent_before`."""
    own = (state.run_id, state.place, state.steps_by_branch, state.releases)
    return spent_before(entries, state.files, *own, unit=config.unit or "")


def _limits(budget: Budget) -> dict[str, Any]:
    """What a run's ledger has of its budget."""
    return {
        "limit": budget.limit,
        "before": tuple(budget.before),
        "histories": _different(budget.histories),
        "allowed_steps": budget.allowed_steps,
    }


def _different(histories: Sequence[Spent]) -> tuple[Any, ...]:
    """For a run's ledger, which keeps them only where files differ in what was taken of them."""
    return tuple(tuple(history) for history in histories) if len(histories) > 1 else ()


def _fingerprints(files: Sequence[SourceFile]) -> tuple[str, ...]:
    return tuple(sorted({file.fingerprint for file in files}))
