"""What a private sweep costs: its trials together, because the choice among them depends on all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from runner.config import JobConfig
from runner.privacy.accountant import Mechanism, Release, Spent
from runner.privacy.budget import SpendingLedger, costliest
from runner.privacy.entries import Entry, spent_before
from runner.privacy.ledger import LedgerState, RunLedger
from runner.privacy.report import privacy_report, to_files
from runner.privacy.statement import read_statement
from runner.storage import open_folder
from runner.sweep.space import metric_of, sweep_of
from runner.sweep.table import Trial, trial_directory


def sweep_statement(config: JobConfig, best: Trial, trials: Sequence[Trial]) -> dict[str, bytes]:
    """The files of the sweep's privacy statement: the best trial's, at the epsilon of all trials."""
    directories = {trial.number: trial_directory(config, trial.number) for trial in trials}
    states = {
        number: RunLedger.open(directory.folder).state
        for number, directory in directories.items()
        if RunLedger.exists(directory.folder)
    }
    own = states.pop(best.number)
    others = [spent for state in states.values() for spent in state.spent]
    metric, _ = metric_of(sweep_of(config))
    touched = (
        f"{len(trials)} trials, of which the one with the best {metric} is in model/; epsilon is that of all their "
        "steps and releases together, and does not cover that choice, which looked at exact metrics"
    )
    job = directories[best.number].read_config().model_copy(update={"name": config.name})
    own = replace(own, before=_before(config, own, others, list(states.values())))
    best_statement, _ = read_statement(directories[best.number])
    chain, ending = best_statement.get("chain", []), best_statement.get("ended")
    measured = best_statement.get("measured")
    return to_files(privacy_report(job, own, others, sweep=touched, ending=ending, chain=chain, measured=measured))


def _before(
    config: JobConfig, own: LedgerState, others: Spent, trials: Sequence[LedgerState]
) -> tuple[tuple[Mechanism | Release, int], ...]:
    """What runs outside the sweep took of the same files: the costliest, after `own` and the `others` of the sweep.

    Copies of the other trials' directories are outside, too.
    """
    entries = SpendingLedger(open_folder(config.storage.uri)).of_files(own.files).read()
    run_ids = {trial.run_id for trial in trials}

    def taken(state: LedgerState, entries: Sequence[Entry]) -> list[Spent]:
        """Of the files of `state`, but for what its own directory took."""
        itself = (state.run_id, state.place, state.steps_by_branch, state.releases)
        return list(spent_before(entries, state.files, *itself, unit=config.unit or ""))

    histories = taken(own, [entry for entry in entries if entry.run_id not in run_ids])
    for trial in trials:
        copies = taken(trial, [entry for entry in entries if entry.run_id == trial.run_id])
        spent = costliest(copies, own.delta, own.accountant, [*others, *own.spent])
        histories = [[*history, *spent] for history in histories]
    return tuple(costliest(histories, own.delta, own.accountant, [*others, *own.spent]))
