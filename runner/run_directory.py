"""A run's directory: who may take it, how far the run is, and how it is asked to stop.

    job.yaml        the resolved job, written first: its creation claims the directory
    status.json     state, progress, heartbeat, last error; rewritten as the run goes
    stop            present when someone asked the run to stop
    writer          the latest attempt, and a random name of its first worker that started last: they alone may write;
                    with job.yaml it tells a run from a folder of the user's (see `runner.run_files`)
    logs/           one text file for each process
    history.csv, tokenizer/, model/, checkpoints/   see `runner.train`

Everything here is read from storage alone, so it works when the cluster is gone.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from runner.config import JobConfig, parse_job, read_document
from runner.errors import (
    CorruptError,
    JobFailedError,
    ObjectNotFoundError,
    OvertakenError,
    RunExistsError,
    RunnerError,
    RunNotFoundError,
)
from runner.run_files import JOB, RUN_FILES, STATUS, UNBEGUN, WRITER, clear_run, is_ours, is_run, remove_run
from runner.storage import FencedFolder, Folder, open_folder, shown_name

State = Literal["pending", "preparing", "training", "generating", "done", "stopped", "failed", "lost"]
ACTIVE: tuple[State, ...] = ("pending", "preparing", "training", "generating")

JOB_FOLDER_VARIABLE = "RUNNER_JOB_FOLDER"
"""Tells this process and its workers where the job file is, for callbacks that are beside it."""

GENERATION = "_generation"
"""In a folder of generated shards: its bookkeeping, whose status and stop are those of a run."""

HEARTBEAT_EVERY_S = 2.0
KILLED_RUN_ENDS_WITHIN_S = 20.0
"""What a resume waits for the processes of a killed run."""
LOST_AFTER_S = 60.0
"""A run whose heartbeat is older was killed, or cannot reach storage any more."""


@dataclass(frozen=True)
class Status:
    """What `status.json` holds. Times are seconds since 1970; `progress` is what the live line shows.

    `job_folder` is where the job file was: the user's callbacks may be beside it. `submission` says which job of a
    cluster has the run, with its `id`; `earlier` has the ids of those that had it in earlier attempts.
    """

    name: str
    state: State
    target: str
    attempt: int = 1
    message: str = ""
    error: str | None = None
    exit_code: int = 0
    may_pass: bool = False
    job_folder: str = ""
    host: str = ""
    pid: int = 0
    created: float = 0.0
    heartbeat: float = 0.0
    progress: dict[str, Any] = field(default_factory=dict[str, Any])
    submission: dict[str, str] = field(default_factory=dict[str, str])
    earlier: list[str] = field(default_factory=list[str])

    @property
    def term(self) -> str:
        """Which attempt at which run this is: a text that sorts after those of all before it."""
        return _term(f"{self.created:017.6f}", self.attempt)

    @property
    def is_active(self) -> bool:
        """Whether a process still works on the run, as far as can be told."""
        return self.state in ACTIVE and not self._is_lost()

    def seen_now(self) -> Status:
        """As a reader should see it: an active run without a living process is lost."""
        if self.state in ACTIVE and self._is_lost():
            return replace(self, state="lost", message=f"no sign of life for {time.time() - self.heartbeat:.0f} s")
        return self

    def has(self, submission: Mapping[str, str]) -> bool:
        """Whether this cluster's job has the run; the status may know more of it, such as its server."""
        return submission.items() <= self.submission.items()

    def had(self, submission: Mapping[str, str]) -> bool:
        """Whether it has, or had in an earlier attempt."""
        return self.has(submission) or submission["id"] in self.earlier

    def to_error(self, where: str = "") -> RunnerError:
        """The error that ended the run, with its exit code; `where` begins each of its lines."""
        error = JobFailedError(*(where + line for line in (self.error or self.state).splitlines()))
        error.exit_code = self.exit_code or JobFailedError.exit_code
        error.may_pass = self.may_pass
        return error

    def _is_lost(self) -> bool:
        if self.pid and self.host == socket.gethostname() and not _is_process(self.pid):
            return True
        waits_for_cluster = self.state == "pending" and bool(self.submission)
        return not waits_for_cluster and time.time() - self.heartbeat > LOST_AFTER_S


class RunDirectory:
    """One run's directory on local disk or S3."""

    def __init__(self, folder: Folder, term: str = "") -> None:
        """`term`: of the attempt that holds it, see `enter`."""
        self.folder = folder
        self.term = term

    @classmethod
    def of(cls, config: JobConfig, *, patient: bool = True) -> RunDirectory:
        """Where the job's run is kept: `storage.uri/name`."""
        return cls(open_folder(config.storage.uri, patient=patient).child(config.name))

    @classmethod
    def find(cls, run: str, storage_uri: str = "runs/", *, generations: bool = False) -> RunDirectory:
        """The run a user means by a path, an s3:// address or a name under `storage_uri`.

        With `generations` a folder of generated shards will do, too.

        Raises:
            RunNotFoundError: there is no run.
        """
        try:
            candidates = [run] if "/" in run or Path(run).is_dir() else []
        except OSError:  # No folder has such a long name.
            candidates = []
        if "/" not in run:
            candidates.append(f"{storage_uri.rstrip('/')}/{run}")
        for uri in candidates:
            directory = cls(open_folder(uri, patient=False))
            if directory.exists():
                return directory
            directory = cls(directory.folder.child(GENERATION))
            if generations and directory.folder.exists("settings.json"):
                return directory
        raise RunNotFoundError(f"{candidates[-1]}: no run here; `runner list` shows the runs of a folder")

    @property
    def uri(self) -> str:
        return self.folder.uri

    @property
    def is_generation(self) -> bool:
        """Whether this is the bookkeeping of generated shards."""
        return self.uri.endswith(f"/{GENERATION}")

    def exists(self) -> bool:
        """Whether a run has taken this directory: a `job.yaml` that is no run's does not count."""
        return is_run(self.folder)

    def check_free(self, *, overwrite: bool) -> None:
        """Raise RunExistsError when the directory is taken and may not be overwritten, or is no run's and not empty."""
        if not self.exists():
            self._check_empty(overwrite=overwrite)
            return
        status = self.status()
        if status is not None and status.is_active:
            raise RunExistsError(f"{self.uri}: this run is {status.state}; `runner stop {self.uri}` ends it")
        if not overwrite:
            raise RunExistsError(
                f"{self.uri}: this run exists; `runner resume` continues it, storage.overwrite=true replaces it, "
                "or choose another name"
            )

    def _check_empty(self, *, overwrite: bool) -> None:
        """Raise RunExistsError for a folder that is not empty, unless what it holds is left of a run.

        That is `writer`, and more where the user removed `job.yaml`; files of the user's beside it stay.
        """
        if not is_ours(self.folder):
            if (found := self.folder.find_file()) is not None:
                raise RunExistsError(
                    f"{self.uri}: not empty and no run: it holds {shown_name(found)}; choose another name or "
                    "storage.uri, or move what is there away"
                )
        elif not overwrite and (left := set(RUN_FILES.names_in(self.folder)) - {WRITER}):
            raise RunExistsError(
                f"{self.uri}: holds what is left of a run, such as {min(left)}; storage.overwrite=true replaces it, "
                "or choose another name"
            )

    def claim(self, config: JobConfig, target: str, make_room: Callable[[], None] | None = None) -> None:
        """Take the directory for a new run; of several racing submitters one gets it.

        What a run that is overwritten wrote goes; other files in its directory stay. `make_room` removes what it left
        elsewhere: before the new run is there, so that it is never taken for the new one's.

        Raises:
            RunExistsError: it is taken and `storage.overwrite` is off, it is no run's and not empty, or another
                submitter was faster.
        """
        self.check_free(overwrite=config.storage.overwrite)
        replaces = is_ours(self.folder)
        status = self._first_status(config, target)
        self.term = status.term
        self.folder.create(WRITER, UNBEGUN)
        try:
            if config.storage.overwrite and (replaces or make_room):
                clear_run(self.enter(self.term).folder)
                if make_room:
                    make_room()
            is_first = self.folder.create(JOB, config.to_yaml().encode())
            if is_first:
                self.enter(self.term).write_status(status)
        except OvertakenError:
            is_first = False
        if not is_first:
            raise RunExistsError(f"{self.uri}: another submission took this name just now; choose another name")

    def release(self) -> None:
        """Take back a claim of this process: what the run wrote goes, and nothing else.

        Raises:
            OvertakenError: a later attempt has begun, whose files these are now.
        """
        remove_run(self.enter(self.term).folder)

    def _first_status(self, config: JobConfig, target: str) -> Status:
        now = time.time()
        return Status(
            config.name,
            "pending",
            target,
            job_folder=os.environ.get(JOB_FOLDER_VARIABLE, ""),
            host=socket.gethostname(),
            pid=os.getpid(),
            # Later than what it replaces, also where another machine's clock was ahead.
            created=max(now, *(begun + 1e-3 for begun in self._begun())),
            heartbeat=now,
        )

    def _begun(self) -> list[float]:
        """When the runs began that the directory has had, as far as it says, in seconds since 1970."""
        before = self.status()
        latest = FencedFolder.latest_term(self.folder, WRITER).partition("-")[0]
        return [float(latest or 0), before.created if before is not None else 0.0]

    def enter(self, term: str | None = None) -> RunDirectory:
        """The directory for an attempt, by default the latest: all that an earlier one started can then write no more.

        Raises:
            OvertakenError: a later attempt has begun.
        """
        term = term or self._latest_term()
        return RunDirectory(FencedFolder.enter(self.folder, WRITER, term), term)

    def _latest_term(self) -> str:
        """The status alone may be an earlier attempt's: the last thing that it wrote."""
        return max(self.current_status().term, FencedFolder.latest_term(self.folder, WRITER))

    def take_over(self, term: str) -> RunDirectory:
        """The directory for an attempt's one writer: a worker that was thought lost, and is not, is then shut out, too.

        Raises:
            OvertakenError: a later attempt has begun.
        """
        return RunDirectory(FencedFolder.take(self.folder, WRITER, term), term)

    def check_mine(self) -> None:
        """Raise OvertakenError when this is an attempt's directory, and a later attempt has begun."""
        if isinstance(self.folder, FencedFolder):
            self.folder.check()

    def read_model_config(self) -> JobConfig:
        """The job that trained the model here: of a sweep, its own with the values of the best trial."""
        config = self.read_config()
        if config.sweep is None or not self.folder.exists("sweep.json"):
            return config
        table = json.loads(self.folder.read("sweep.json"))
        values = {trial["run"]: trial["values"] for trial in table["trials"]}.get(table["best"], {})
        overrides = [f"{path}={json.dumps(value)}" for path, value in values.items()]
        document = config.model_dump(mode="json") | {"sweep": None}
        return parse_job(document, overrides, environment={}, source=f"{self.uri}/sweep.json")

    def read_config(self) -> JobConfig:
        """The job as it was resolved at submission."""
        source = f"{self.uri}/{JOB}"
        return parse_job(read_document(self.folder.read(JOB).decode(), source), environment={}, source=source)

    def write_config(self, config: JobConfig) -> None:
        """Replace the job, for a resume with changed settings."""
        self.folder.write(JOB, config.to_yaml().encode())

    def status(self) -> Status | None:
        """The last status written, None where there is none yet."""
        try:
            return Status(**json.loads(self.folder.read(STATUS)))
        except ObjectNotFoundError:
            return None
        except (TypeError, ValueError) as error:
            raise CorruptError(f"{self.uri}/{STATUS} is damaged: {error}; delete it, and try again") from error

    def current_status(self) -> Status:
        """The status as a reader should see it: see `Status.seen_now`."""
        status = self.status()
        if status is None:
            return Status(self.uri.rpartition("/")[2], "lost", "local", message="no status was ever written")
        return status.seen_now()

    def write_status(self, status: Status, *, durable: bool = True) -> None:
        """Replace the status."""
        self.folder.write(STATUS, json.dumps(asdict(status), indent=1).encode(), durable=durable)

    def update_status(self, **changes: Any) -> Status:
        """Change some fields of the status, with a fresh heartbeat from this process."""
        old = self.status() or Status(self.uri.rpartition("/")[2], "pending", "local")
        now = {"heartbeat": time.time(), "host": socket.gethostname(), "pid": os.getpid()}
        status = replace(old, **(now | changes))
        self.write_status(status)
        return status

    def say(self, message: str) -> None:
        """What the driver is at, before training begins."""
        self.update_status(state="preparing", message=message)

    def write_failure(self, error: RunnerError) -> Status:
        """Say what ended the run."""
        return self.update_status(
            state="failed", message="", error=str(error), exit_code=error.exit_code, may_pass=error.may_pass
        )

    def request_stop(self) -> None:
        """Ask the run to stop at its next step, with a checkpoint."""
        self.folder.write("stop", b"")

    def stop_requested(self) -> bool:
        """Whether someone asked."""
        return self.folder.exists("stop")

    def clear_stop(self) -> None:
        """Forget the request, before a resume."""
        self.folder.delete("stop")

    def begin_again(self, target: str, submission: Mapping[str, str] | None = None) -> Status:
        """Make a run that has ended pending, for another attempt, by a cluster's job or without one."""
        before = self.current_status()
        run, _, attempt_before = self._latest_term().rpartition("-")
        attempt = int(attempt_before) + 1
        entered = self.enter(_term(run, attempt))
        entered.clear_stop()
        return entered.update_status(
            state="pending",
            target=target,
            attempt=attempt,
            message="",
            error=None,
            submission=dict(submission or {}),
            earlier=sorted({*before.earlier, *filter(None, [before.submission.get("id")])}),
        )

    def logs(self) -> dict[str, bytes]:
        """The text of every process's log, by name."""
        return {entry.name.removeprefix("logs/"): self.folder.read(entry.name) for entry in self.folder.list("logs/")}

    def wait_until_left(self, timeout_s: float) -> None:
        """Wait for the processes of a killed run to end, so that two never write one directory.

        Raises:
            RunExistsError: the run is still alive after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while (status := self.status()) is not None and status.is_active:
            if time.monotonic() > deadline:
                age = time.time() - status.heartbeat
                raise RunExistsError(
                    f"{self.uri}: this run is {status.state}, last seen {age:.0f} s ago on {status.host}; "
                    f"`runner stop {self.uri}` ends it; a killed run counts as lost after {LOST_AFTER_S:.0f} s"
                )
            time.sleep(0.5)


def _term(run: str, attempt: int) -> str:
    return f"{run}-{attempt:06d}"


def list_runs(uri: str) -> list[tuple[RunDirectory, Status]]:
    """The runs of a folder, by name, with their current status."""
    folder = open_folder(uri, patient=False)
    directories = [RunDirectory(folder.child(name)) for name in folder.subfolders()]
    return [(directory, _shown_status(directory)) for directory in directories if directory.exists()]


def _shown_status(directory: RunDirectory) -> Status:
    """One run's damaged status does not keep others from being listed."""
    try:
        return directory.current_status()
    except CorruptError as error:
        return Status(directory.uri.rpartition("/")[2], "lost", "local", message=str(error))


def _is_process(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
