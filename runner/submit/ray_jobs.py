"""A job on a Ray cluster, through its Jobs API (token authentication through RAY_AUTH_TOKEN, as Ray reads it)."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from runner.errors import ClusterError, last_line
from runner.run_directory import RunDirectory
from runner.submit.follow import follow_run
from runner.submit.plan import Plan

CLUSTER_STARTS_WITHIN_S = 60.0

FINAL = ("SUCCEEDED", "FAILED", "STOPPED")


def connect(address: str) -> Any:
    """A client of the cluster's Jobs API.

    Raises:
        ClusterError: nothing answers there, or it refuses the token.
    """
    from ray.job_submission import JobSubmissionClient

    with _in_one_line(address):
        client = JobSubmissionClient(address)
    logging.getLogger("ray").setLevel(logging.ERROR)  # The client tells of every upload, and sets its own level.
    return client


def send(plan: Plan, client: Any) -> None:
    """Submit the planned job.

    Raises:
        ClusterError: the cluster does not take it.
    """
    modules = plan.runtime_env["py_modules"]
    folders = [module for module in modules if not module.endswith(".py")]
    with tempfile.TemporaryDirectory(prefix="runner-modules-") as files, _in_one_line(str(plan.address)):
        runtime_env: dict[str, Any] = {"py_modules": folders}
        if len(folders) < len(modules):  # Ray takes single files only as part of a working directory.
            for module in set(modules) - set(folders):
                shutil.copy(module, files)
            runtime_env["working_dir"] = files
        _submit(client, plan, runtime_env)


def _submit(client: Any, plan: Plan, runtime_env: dict[str, Any]) -> None:
    """Submit, with patience for a cluster that has only just started and has no agent yet."""
    deadline = time.monotonic() + CLUSTER_STARTS_WITHIN_S
    while True:
        try:
            client.submit_job(entrypoint=plan.entrypoint, submission_id=plan.submission_id, runtime_env=runtime_env)
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(1)
        else:
            return


def follow_job(client: Any, plan: Plan, directory: RunDirectory, *, quiet: bool) -> None:
    """Show the run's progress until the cluster's job has ended.

    Raises:
        ClusterError: the job ended without leaving a word in the run directory.
    """
    checked_at, state = 0.0, "PENDING"

    def is_over() -> bool:
        nonlocal checked_at, state
        if time.monotonic() - checked_at > 2:
            with _in_one_line(str(plan.address)):
                state = str(client.get_job_status(plan.submission_id).value)
            checked_at = time.monotonic()
        return state in FINAL

    follow_run(directory, is_over, quiet=quiet)
    status = directory.status()
    if status is not None and status.state in ("done", "stopped", "failed"):
        return
    with _in_one_line(str(plan.address)):
        said = [line for line in client.get_job_logs(plan.submission_id).splitlines() if line.strip()]
        details = client.get_job_info(plan.submission_id).message or ""
    raise ClusterError(f"{plan.address}: job {plan.submission_id} ended as {state}: {(said or [details])[-1]}")


def stop_job(address: str, submission_id: str) -> None:
    """End a job that has not begun to train, or does not react."""
    with _in_one_line(address):
        connect(address).stop_job(submission_id)


@contextmanager
def _in_one_line(address: str) -> Iterator[None]:
    """Ray's errors, and requests', as one line that says what to do."""
    try:
        yield
    except ClusterError:
        raise
    except Exception as error:
        text = str(error)
        if any(sign in text for sign in ("401", "403", "Unauthorized", "Forbidden", "authentication")):
            raise ClusterError(
                f"{address}: the cluster refused the token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to its own"
            ) from error
        if isinstance(error, ConnectionError) or "Failed to connect" in text or "Connection" in type(error).__name__:
            raise ClusterError(
                f"{address}: no Ray cluster answers here; check --address and that the dashboard runs"
            ) from error
        raise ClusterError(f"{address}: {last_line(error)}") from error
