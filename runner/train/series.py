"""Runs that go on from one another: each trains on the files that were not there before, from the last one's model.

    config = with_definite_since(config)       # data.since: last -> a run's name, and a free name after it
    files = source_files(config)                   # those that no earlier run of the series trained on
    record_files(config, directory, files, used)   # at the run's start

A run's `files.json` lists the files that it and the runs before it trained on, by name, size and mark. Where
`data.max_records` ended a run within a file, it says at which row: the next run goes on there. Files that it did not
come to are listed apart. Of a private run it has what the runs before claim.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import load

from runner.config import JobConfig
from runner.data.files import READING_VERSION, SourceFile, list_files
from runner.errors import ConfigError, DataError, NothingNewError, ObjectNotFoundError, RunExistsError, RunnerError
from runner.privacy.budget import SPENDING_FOLDER
from runner.privacy.chain import chain_of, is_infinite
from runner.privacy.file_marks import FileMarks, check_comparable
from runner.privacy.report import JSON_FILE
from runner.run_directory import RunDirectory
from runner.storage import Folder, open_folder, read_published
from runner.train.checkpoint import checkpoint_steps

log = logging.getLogger(__name__)

LAST = "last"
FILES = "files.json"
SAME = ("model", "fields", "tokenizer", "examples")
"""Sections that a run shares with the one that it goes on from."""


def with_definite_since(config: JobConfig, submission: Mapping[str, str] | None = None) -> JobConfig:
    """The job that `data.since: last` means now: since the newest run of its name that left a model and came to an end.

    Runs of a series are NAME, NAME.002, NAME.003 and so on. The first one trains on all files. A newest run that
    `submission` itself has begun is meant again.
    """
    if config.data.since != LAST:
        return config
    folder = open_folder(config.storage.uri, patient=False)
    series = re.compile(re.escape(config.name) + r"(?:\.(\d+))?")
    numbers = {name: int(match[1] or 1) for name in folder.subfolders() if (match := series.fullmatch(name))}
    names = sorted(numbers, key=lambda name: numbers[name], reverse=True)
    # Looked at one by one, the newest first: a long series costs no more than a short one.
    runs = ((name, run) for name in names if (run := RunDirectory(folder.child(name))).exists())
    if (first := next(runs, None)) is None:
        return config.model_copy(update={"data": config.data.model_copy(update={"since": None})})
    newest_name, newest = first
    status = newest.current_status()
    if submission is not None and status.had(submission):
        begun = newest.read_config()
        return config.model_copy(
            update={"data": config.data.model_copy(update={"since": begun.data.since}), "name": begun.name}
        )
    if status.is_active:
        raise RunExistsError(
            f"data.since is last, but {newest.uri} is {status.state} on the files that are new; wait for its end, "
            f"or `runner stop {newest.uri}`"
        )
    since = next((name for name, run in chain([first], runs) if _has_finished(run)), None)
    if since is None:
        raise ConfigError(f"data.since is last, but no run named {config.name} has left a model yet; resume it first")
    data = config.data.model_copy(update={"since": since})
    return config.model_copy(update={"data": data, "name": f"{config.name}.{numbers[newest_name] + 1:03d}"})


def source_files(config: JobConfig, directory: RunDirectory | None = None) -> tuple[SourceFile, ...]:
    """The files that a run trains on: those that it began with, where `directory` says so; else those that are new.

    With `data.max_records` it may not come to all of them.

    Raises:
        DataError: there is none; one of them is gone; or one that an earlier run trained on has changed.
    """
    files = list_files(config.data.uri)
    if directory is not None and (recorded := _recorded(directory)) is not None:
        began_with = {file.name: file for file in (*recorded.own, *recorded.left)}
        if gone := sorted(began_with.keys() - {file.name for file in files}):
            raise DataError(f"{config.data.uri}: {gone[0]} is gone, which this run began with")
        return tuple(
            replace(file, start=began_with[file.name].start, version=began_with[file.name].version)
            for file in files
            if file.name in began_with
        )
    if config.data.since is None:
        return files
    before = {file.name: file for file in files_so_far(_previous(config))}
    ledger = ledger_over_runs(config, patient=False)
    marks = FileMarks.find(ledger)
    check_comparable(marks, (file.fingerprint for file in before.values()), ledger.uri)

    def names_of(file: SourceFile) -> list[str]:
        """What a file's fingerprint is called: runs of before have it as it is."""
        return [file.fingerprint, *([marks.mark(file.fingerprint)] if marks is not None else [])]

    new: list[SourceFile] = []
    for file in files:
        earlier = before.get(file.name)
        if earlier is None:
            new.append(file)
        elif (earlier.size, earlier.fingerprint) not in ((file.size, name) for name in names_of(file)):
            raise DataError(
                f"{config.data.uri}: {file.name} has changed since run {config.data.since} trained on it; "
                "give new records files of their own"
            )
        elif earlier.stop is not None:
            new.append(replace(file, start=earlier.stop))
    if not new:
        raise NothingNewError(f"{config.data.uri}: no files that run {config.data.since} did not have")
    return tuple(new)


def check_previous(config: JobConfig) -> None:
    """Whether the job can go on from the run that `data.since` names.

    Raises:
        ConfigError: its network, tokenizer or examples differ, or it claims no privacy and this one is to, or it
            protects something else.
        DataError: it does not say what it claims.
    """
    if config.data.since is None:
        return
    previous = _previous(config)
    if not previous.folder.exists("model/manifest.json"):
        raise ConfigError(f"data.since: run {config.data.since} has left no model to start from; resume it first")
    before = previous.read_config()
    for section in SAME:
        if getattr(before, section) != getattr(config, section):
            raise ConfigError(
                f"data.since: {section} differs from run {before.name}, whose model this one starts from; "
                "make it the same, or train on all files without data.since"
            )
    if config.privacy.enabled and not before.privacy.enabled:
        raise ConfigError(
            f"data.since: run {before.name} was trained without privacy; a model that starts from it can claim none"
        )
    if config.privacy.enabled and before.privacy.unit is not None:
        raise ConfigError(
            f"data.since: run {before.name} protects each {before.privacy.unit}, which says nothing of single records "
            "after it; train on all files without data.since"
        )
    if config.privacy.enabled and config.privacy.noise_multiplier != 0 and is_infinite(_statement(previous)):
        raise ConfigError(
            f"data.since: run {before.name} claims no privacy, it or one before it was trained without noise; a model "
            "that starts from it can claim none"
        )


def chain_of_run(config: JobConfig, directory: RunDirectory) -> list[dict[str, Any]]:
    """Of a private run's statement: the runs that it goes on from, the first one first, as it found them.

    Raises:
        DataError: one does not say what it claims.
    """
    if config.data.since is None:
        return []
    recorded = json.loads(directory.folder.read_if_exists(FILES) or b"{}")
    return recorded.get("chain") or chain_of(_statement(_previous(config)))


def record_files(
    config: JobConfig, directory: RunDirectory, files: tuple[SourceFile, ...], used: tuple[SourceFile, ...]
) -> bool:
    """Write a run's `files.json`, when it begins; again for one without checkpoints whose files have changed, or
    whose run before it has gone on.

    Returns whether it was written.

    files: what `source_files` gave. used: those of them with records of the run.
    """
    marks = _marks_to_write(config)

    def marked(files: tuple[SourceFile, ...]) -> tuple[SourceFile, ...]:
        return tuple(replace(file, fingerprint=marks.mark(file.fingerprint)) for file in files) if marks else files

    recorded = _recorded(directory)
    if recorded is not None and checkpoint_steps(directory.folder.child("checkpoints")):
        return False
    chain = chain_of(_statement(_previous(config))) if config.data.since and config.privacy.enabled else None
    if recorded is not None and marked(recorded.own) == marked(used) and recorded.chain == chain:
        return False
    before = files_so_far(_previous(config)) if config.data.since else ()
    names = {file.name for file in used}
    content = {
        "since": config.data.since,
        "own": [vars(file) for file in marked(used)],
        "before": [vars(file) for file in marked(before)],
        "left": [vars(file) for file in marked(files) if file.name not in names],
    }
    if chain is not None:
        content["chain"] = chain
    directory.folder.write(FILES, json.dumps(content, indent=1).encode())
    return True


def files_so_far(directory: RunDirectory) -> tuple[SourceFile, ...]:
    """What a run and those before it trained on, each file as the last of them left it.

    Raises:
        DataError: the run does not say.
    """
    recorded = _recorded(directory)
    if recorded is None:
        raise DataError(f"{directory.uri}/{FILES}: missing, so nobody can tell which files this run trained on")
    return tuple({file.name: file for file in (*recorded.before, *recorded.own)}.values())


def first_weights(config: JobConfig, directory: RunDirectory) -> dict[str, NDArray[Any]] | None:
    """The weights that a run starts from, by name; None for fresh ones.

    Raises:
        DataError: the run before it has gone on, and claims something else than this run's statement would say.
    """
    if config.data.since is None:
        return None
    previous = _previous(config)
    model = read_published(previous.folder.child("model"))
    if config.privacy.enabled:
        recorded = _recorded(directory)
        if recorded is None or recorded.chain != chain_of(_statement(previous, model)):
            raise DataError(f"data.since: run {config.data.since} has just gone on; resume this run")
    return load(model["weights.safetensors"])


def _has_finished(directory: RunDirectory) -> bool:
    """Whether a run has left a model to go on from.

    One that failed, or was killed in an attempt after that, has left the model of its epochs until then.
    """
    return directory.folder.exists("model/manifest.json") and directory.current_status().state in ("done", "stopped")


def reading_version(directory: RunDirectory) -> int:
    """By which rules a run's rows became records: see `READING_VERSION`."""
    recorded = _recorded(directory)
    return recorded.own[0].version if recorded is not None and recorded.own else READING_VERSION


def ledger_over_runs(config: JobConfig, *, patient: bool = True) -> Folder:
    """Where the secret of the files' marks is."""
    return open_folder(config.storage.uri, patient=patient).child(SPENDING_FOLDER)


def _marks_to_write(config: JobConfig) -> FileMarks | None:
    """None where a run without privacy cannot have the secret: it goes on all the same."""
    try:
        return FileMarks.of(ledger_over_runs(config))
    except RunnerError as error:
        if config.privacy.enabled:
            raise
        log.warning("%s will have plain SHA-256 of the files: %s", FILES, error)
        return None


def _statement(directory: RunDirectory, model: Mapping[str, bytes] | None = None) -> dict[str, Any]:
    """What the model that a run left claims; `model`: its files, where they have been read.

    Raises:
        DataError: it does not say.
    """
    where = f"{directory.uri}/model/{JSON_FILE}"
    model = read_published(directory.folder.child("model")) if model is None else model
    try:
        return dict(json.loads(model.get(JSON_FILE) or b""))
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: missing or damaged, so nobody can tell what this run claims") from error


def _previous(config: JobConfig) -> RunDirectory:
    assert config.data.since is not None
    previous = RunDirectory.find(f"{config.storage.uri.rstrip('/')}/{config.data.since}")
    if previous.read_config().sweep is not None:
        raise ConfigError(f"data.since: {config.data.since} is a sweep; name one of its runs")
    return previous


@dataclass(frozen=True)
class _Recorded:
    """A run's `files.json`: the files of the runs before, its own, and those that it began with but did not come to.

    `chain`: of a private run that goes on from another, what the runs before it claim; see `runner.privacy.chain`.
    """

    before: tuple[SourceFile, ...]
    own: tuple[SourceFile, ...]
    left: tuple[SourceFile, ...]
    chain: list[dict[str, Any]] | None = None


def _recorded(directory: RunDirectory) -> _Recorded | None:
    """None for a run that does not say. What version 1 wrote has no version."""
    try:
        content = json.loads(directory.folder.read(FILES))
    except ObjectNotFoundError:
        return None
    return _Recorded(
        *(
            tuple(SourceFile(**{"version": 1} | file) for file in content.get(which, ()))
            for which in ("before", "own", "left")
        ),
        chain=content.get("chain"),
    )
