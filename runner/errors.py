"""Every error a user can meet, each with the exit code of the command that meets it.

A message is one line: what is wrong, where, and what to do. `runner` prints it without a traceback;
`--debug` adds the traceback. Exit codes: 0 done, 1 the job failed, 2 the user's input, 3 the infrastructure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, cast


class RunnerError(Exception):
    """Base of all errors that are shown to the user, one line for each thing that is wrong."""

    exit_code: int = 1
    may_pass: bool = False
    """Whether the same may go well at another time or on other machines, with nothing changed by the user."""

    def __init__(self, *messages: str) -> None:
        """Each message becomes one line: line breaks inside it are folded."""
        super().__init__(*(" ".join(message.split()) for message in messages))

    def __str__(self) -> str:
        return "\n".join(self.args)  # A copy, as pickle makes it, is made from `args` and has the same lines.


class JobFailedError(RunnerError):
    """The job ran and failed: a non-finite loss, a failing callback."""

    exit_code = 1


class JobCrashedError(JobFailedError):
    """Workers died too often, or other software failed in a way that nobody foresaw."""

    may_pass = True


class JobStoppedError(RunnerError):
    """The job was stopped on request (Ctrl-C, SIGTERM, `runner stop`) and can be resumed."""

    exit_code = 1
    may_pass = True


class ConfigError(RunnerError):
    """The job file, an override or a command-line value is wrong."""

    exit_code = 2


class DataError(RunnerError):
    """The records cannot be used: no files, a wrong column, a corrupt file, too few records."""

    exit_code = 2


class NothingNewError(DataError):
    """Every file was trained on by an earlier run: nothing to do, and no failure of a scheduled job."""


class TokenizerError(RunnerError):
    """The tokenizer's settings do not fit the records, or a saved tokenizer cannot be read."""

    exit_code = 2


class PrivacyError(RunnerError):
    """The privacy that was asked for cannot be had, or the budget is spent."""

    exit_code = 2


class RunExistsError(RunnerError):
    """The run directory is taken by another run."""

    exit_code = 2
    may_pass = True


class RunNotFoundError(RunnerError):
    """There is no run, or no finished model, where the user points."""

    exit_code = 2


class ResourceError(RunnerError):
    """The machine lacks what the job asks for: GPUs, CPUs or memory."""

    exit_code = 3
    may_pass = True


class OutOfMemoryError(ResourceError):
    """A device had no room for a step. `rows`: of a replica's examples that it was to hold at once; `fewest`: that it
    can hold, which are those of a person where these stay together."""

    rows: int = 0
    fewest: int = 1

    @classmethod
    def of(cls, rows: int, fewest: int = 1) -> OutOfMemoryError:
        """In a step that was to hold so many."""
        error = cls(f"out of memory in a step that holds {rows} examples at once")
        error.rows, error.fewest = rows, fewest
        return error


class StorageError(RunnerError):
    """Storage cannot be reached, read or written."""

    exit_code = 3
    may_pass = True


class ObjectNotFoundError(StorageError):
    """There is no such object under a folder."""


class OvertakenError(StorageError):
    """Another process has become the folder's writer: this one was thought lost, and must write no more."""

    may_pass = False


class CorruptError(StorageError):
    """A published set of files is incomplete, or a file does not match its recorded SHA-256."""


class RepeatedOtherwiseError(RunnerError):
    """A private step that was taken again did not release the same numbers; the run's next start opens a branch."""

    exit_code = 3
    may_pass = True


class ClusterError(RunnerError):
    """The Ray cluster cannot be reached, refuses the request or lost the job."""

    exit_code = 3
    may_pass = True


def find_user_error(error: BaseException | None) -> RunnerError | None:
    """The error meant for the user inside those that other software wrapped around it, if any.

    Ray's own errors stand for a task's by being of its class too, with pages of traceback for a message: what counts
    is the one in them.
    """
    seen: set[int] = set()
    left = deque([error])
    while left:
        error = left.popleft()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        inner = _wrapped(error)
        if isinstance(error, RunnerError) and not inner:
            return error
        left += [*inner, error.__cause__, None if error.__suppress_context__ else error.__context__]
    return None


def _wrapped(error: BaseException) -> list[BaseException]:
    """What Ray keeps of the errors that it tells of: a task's, or those of a group of workers."""
    found: list[Any] = [getattr(error, "cause", None)]
    failures: Any = getattr(error, "worker_failures", None)
    if isinstance(failures, Mapping):
        found += cast(Mapping[int, Any], failures).values()
    return [each for each in found if isinstance(each, BaseException)]


def last_line(error: BaseException) -> str:
    """What an error of other software comes down to: its type and the last line it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else ""
    name = type(error).__name__
    return text if name in text else f"{name}: {text}"
