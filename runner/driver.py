"""The driver of what was submitted: a run, or a sweep of them.

drive(run_uri, stop)              # in the user's process, or in a cluster's job:
python -m runner.driver RUN_URI
"""

from __future__ import annotations

import threading

from runner.config import JobConfig
from runner.run_directory import RunDirectory, Status
from runner.storage import open_folder
from runner.train.background import run_as_job
from runner.train.facade import CheckedJob, check_job, check_storage, drive_run


def check(config: JobConfig) -> CheckedJob:
    """Look at everything a run or sweep depends on, without writing.

    Raises:
        RunnerError: in one line for each mistake.
    """
    if config.sweep is not None:
        from runner.sweep.space import check_sweep

        check_sweep(config)
    return check_job(config)


def check_free(config: JobConfig) -> None:
    """Whether the directories of a run, or of a sweep and its trials, are free, and storage can be written."""
    check_storage(config)
    if config.sweep is not None:
        from runner.sweep.table import check_trials_free

        check_trials_free(config)


def claim(config: JobConfig, target: str) -> RunDirectory:
    """Take the run's directory, or the sweep's.

    Raises:
        RunExistsError: another submitter was faster.
    """
    directory = RunDirectory.of(config)
    directory.claim(config, target)
    if config.sweep is not None and config.storage.overwrite:
        from runner.sweep.table import delete_trials

        delete_trials(config)
    return directory


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


if __name__ == "__main__":
    run_as_job(lambda run_uri, stop: drive(run_uri, stop, local=False))
