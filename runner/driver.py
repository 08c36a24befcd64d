"""The driver of what was submitted: a run, or a sweep of them.

drive(run_uri, stop)              # in the user's process, or in a cluster's job:
python -m runner.driver RUN_URI
"""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from typing import Any

from runner.config import JobConfig
from runner.errors import ConfigError, DataError, NothingNewError, RunnerError, TokenizerError
from runner.privacy.budget import SPENDING_FOLDER
from runner.privacy.endings import check_no_time_limit
from runner.privacy.ledger import RunLedger
from runner.run_directory import RunDirectory, Status
from runner.storage import open_folder, path_below
from runner.train.background import run_as_job
from runner.train.checkpoint import checkpoint_steps
from runner.train.facade import TOKEN_CACHE, CheckedJob, check_job, check_storage, drive_run

CHANGEABLE = (
    "training.epochs",
    "training.max_training_time_s",
    "training.early_stopping",
    "training.checkpoint_every_s",
    "training.save_all_checkpoints",
    "privacy.max_epsilon",
    "resources",
    "data.cache_gib",
    "generation",
    "kubernetes",
)
"""What a resume may change: nothing that the weights so far depend on."""

CHANGEABLE_IN_A_SWEEP = ("sweep.trials", "sweep.max_concurrent", "resources", "kubernetes")
"""What the resume of a sweep may change: its trials began with the rest."""

log = logging.getLogger(__name__)


def check(config: JobConfig) -> CheckedJob:
    """Look at everything a run or sweep depends on, without writing; of a sweep, at the records as its trials use them.

    Raises:
        RunnerError: in one line for each mistake; of a sweep, where no trial would get tokens.
    """
    if config.sweep is None:
        return check_job(config)
    from runner.sweep.space import check_sweep, token_jobs

    check_sweep(config)
    mistakes: list[RunnerError] = []
    for job in token_jobs(config):
        try:
            checked = check_job(job.model_copy(update={"name": config.name}))
        except (ConfigError, DataError, TokenizerError) as error:
            if isinstance(error, NothingNewError):
                raise
            mistakes.append(error)
            continue
        for mistake in mistakes:
            log.warning("a part of the trials will fail: %s", mistake)
        return replace(checked, config=config)
    raise mistakes[0]


def check_free(config: JobConfig) -> None:
    """Whether the directories of a run, or of a sweep and its trials, are free and apart from what the job reads, and
    storage can be written."""
    check_apart(config)
    check_storage(config)
    if config.sweep is not None:
        from runner.sweep.table import check_trials_free

        check_trials_free(config)


def check_apart(config: JobConfig) -> None:
    """Whether what a job reads and where it writes are apart: else its files become records, or replace what it reads.

    Raises:
        ConfigError: records or tokenizer are in a folder that the job writes to, or the records' folder holds a run's;
            or the run would replace the one that it goes on from.
    """
    if config.data.since == config.name:
        raise ConfigError(f"data.since: {config.name} is the run's own name; choose another name")
    storage, names = open_folder(config.storage.uri, patient=False), [config.name]
    if config.sweep is not None:
        from runner.sweep.space import trial_count, trial_name

        names += [trial_name(config, number) for number in range(trial_count(config.sweep))]
    for name in [*names, TOKEN_CACHE, SPENDING_FOLDER]:
        place = storage.child(name).uri
        for setting, uri in (("data.uri", config.data.uri), ("tokenizer.uri", config.tokenizer.uri)):
            if uri is not None and path_below(place, uri) is not None:
                raise ConfigError(
                    f"{setting}: {uri} is in {place}, where this job writes; choose another storage.uri or name"
                )
        below = path_below(config.data.uri, place)
        if below is not None and not any(part.startswith(("_", ".")) for part in below):
            raise ConfigError(
                f"data.uri: {config.data.uri} holds {place}, where this job writes: its files would become records; "
                "choose another storage.uri, or give the records a folder of their own"
            )


def claim(config: JobConfig, target: str) -> RunDirectory:
    """Take the run's directory, or the sweep's.

    Raises:
        RunExistsError: another submitter was faster.
    """
    directory = RunDirectory.of(config)
    if config.sweep is not None and config.storage.overwrite:
        from runner.sweep.table import remove_trials

        directory.claim(config, target, make_room=lambda: remove_trials(config))
    else:
        directory.claim(config, target)
    return directory


def release(config: JobConfig, directory: RunDirectory) -> None:
    """Take back a claim that came to nothing, with what was written since; one that trained anything stays."""
    if config.sweep is None:
        # A ledger has been charged for: a resume takes its steps without another charge.
        began = bool(checkpoint_steps(directory.folder.child("checkpoints"))) or RunLedger.exists(directory.folder)
    else:
        from runner.sweep.table import read_trials

        began = bool(read_trials(config))
    if not began:
        directory.release()


def drive(run_uri: str, stop: threading.Event, *, checked: CheckedJob | None = None, local: bool = True) -> Status:
    """Take a claimed run or sweep to its end; `stop` ends it at the next step with a checkpoint.

    Raises:
        JobStoppedError: it was stopped and can be resumed.
        RunnerError: what went wrong, which `status.json` says too.
    """
    if RunDirectory(open_folder(run_uri)).read_config().sweep is None:
        return drive_run(run_uri, stop, checked=checked, local=local)
    from runner.sweep.driver import drive_sweep

    return drive_sweep(run_uri, stop, local=local)


def check_changes(before: JobConfig, after: JobConfig) -> None:
    """Whether a resume may change `before` into `after`.

    Raises:
        ConfigError: the weights so far depend on what differs.
        PrivacyError: it would limit private steps by time.
        RunExistsError: another run has the name of a trial that it would add.
    """
    changeable = CHANGEABLE if before.sweep is None else CHANGEABLE_IN_A_SWEEP
    for path in _differences(before.model_dump(), after.model_dump()):
        if not any(path == field or path.startswith(field + ".") for field in changeable):
            raise ConfigError(
                f"--set {path}: a resume cannot change this, the weights so far depend on it; "
                f"it can change {', '.join(changeable)}"
            )
    if before.training.max_training_time_s is None:
        check_no_time_limit(after)
    if before.sweep is not None and after.sweep is not None:
        from runner.sweep.space import trial_count
        from runner.sweep.table import check_trials_free

        begun = trial_count(before.sweep)
        if trial_count(after.sweep) < begun:
            raise ConfigError(
                f"--set sweep.trials: a resume can add trials to the {begun} that count, not take any away"
            )
        check_trials_free(after, begun)


def _differences(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for name, old in before.items():
        new = after.get(name)
        if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
            found += _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append(prefix + name)
    return found


if __name__ == "__main__":
    run_as_job(lambda run_uri, stop: drive(run_uri, stop, local=False))
