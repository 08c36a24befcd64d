"""A job that something else starts, and starts again until it has succeeded: the RayJob of `--on kubernetes`.

python -m runner.scheduled JOB_FILE

The file is the whole truth: a run that is not there is begun, one that was cut off is continued, one that is done is
left alone. So is one that another job continued since: this one comes too late.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path

from runner.config import NAMESPACE_VARIABLE, JobConfig, load_job
from runner.driver import check, check_changes, check_free, claim, drive
from runner.errors import JobStoppedError, NothingNewError, OvertakenError
from runner.run_directory import LOST_AFTER_S, RunDirectory, Status
from runner.train.background import run_as_job

CLUSTER_VARIABLE = "RAY_CLUSTER_NAME"
"""KubeRay's; a RayJob's clusters have its name, and a suffix for each attempt."""

log = logging.getLogger(__name__)


def bring_about(job_file: str, stop: threading.Event) -> Status | None:
    """Take a job's run to its end from wherever it is; None when `data.since` finds nothing new.

    What a user asked to stop ends well and stays stopped: a failure would be started again.

    Raises:
        ConfigError: the run was begun by a job that differs in more than a resume can change.
        OvertakenError: another job, or `runner resume`, has continued this one's run.
        RunnerError: as for `drive`.
    """
    submission = submission_of(os.environ)
    config = load_job(Path(job_file), environment={})
    if config.data.since is not None:
        from runner.train.series import with_definite_since

        config = with_definite_since(config, submission)
    directory = RunDirectory.of(config)
    if not directory.exists():
        check_free(config)
        try:
            check(config)
        except NothingNewError as nothing:
            log.info("nothing to do: %s", nothing)
            return None
        directory = claim(config, "kubernetes")
        directory.update_status(submission=submission)
    else:
        status = _take_over(directory, config, submission)
        if status.state in ("done", "stopped"):
            return status
    try:
        return drive(directory.uri, stop, local=False)
    except JobStoppedError:
        if not directory.stop_requested():
            raise
        return directory.current_status()


def submission_of(environment: Mapping[str, str]) -> dict[str, str]:
    """The namespace and name of the RayJob that a process with this environment runs in.

    >>> submission_of({"RUNNER_NAMESPACE": "team", "RAY_CLUSTER_NAME": "runner-demo-1a2b3c4d-x7f2q"})
    {'namespace': 'team', 'id': 'runner-demo-1a2b3c4d'}
    """
    name = re.sub("(-raycluster)?-[a-z0-9]{5}$", "", environment.get(CLUSTER_VARIABLE, ""))
    return {"namespace": environment.get(NAMESPACE_VARIABLE, ""), "id": name}


def _take_over(directory: RunDirectory, config: JobConfig, submission: dict[str, str]) -> Status:
    """Make a run that was begun ours to go on with; its status says whether there is anything left to do."""
    status = directory.current_status()
    if status.state == "pending" and status.has(submission):
        return status  # `runner submit` or `resume` claimed it for us.
    if status.had(submission) and not status.has(submission):
        raise OvertakenError(
            f"{directory.uri}: the run was continued {_by_whom(status)} after {submission['id']} had it; "
            f"`runner resume {directory.uri}` goes on from there"
        )
    before = directory.read_config()
    check_changes(before, config)
    directory.wait_until_left(LOST_AFTER_S + 20)
    status = directory.current_status()
    if status.state == "done" and config == before:
        return status
    if status.state == "lost" and directory.stop_requested():
        return directory.update_status(state="stopped", message="killed while it was asked to stop")
    if config != before:
        directory.write_config(config)
    if status.has(submission):
        submission = status.submission  # It may also say which server has us.
    return directory.begin_again("kubernetes", submission)


def _by_whom(status: Status) -> str:
    return f"by {status.submission['id']}" if status.submission else "elsewhere"


if __name__ == "__main__":
    run_as_job(bring_about)
