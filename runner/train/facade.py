"""The driver of a run: check the job, prepare the tokens, start the workers, say how it ended.

    checked = check_job(config)             # raises one line for what is wrong; nothing is written
    RunDirectory.of(config).claim(config, "local")
    drive_run(run_uri, stop)                # in the user's process, in a cluster's job, or in a sweep's trial

One worker on the local target trains in this very process, which spares it a Ray cluster; several workers, and
all workers on a cluster, are Ray Train's. Either way the records go through Ray Data, unless an earlier run left
their tokens in the cache.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from runner.config import JobConfig
from runner.data.examples import TokenSet
from runner.data.files import NOTES, PassedOver, SourceFile, passed_over
from runner.data.prepare import bought_key, check_vocabulary, find_tokens, prepare_tokens, survey_job, token_key
from runner.data.schema import Schema
from runner.data.survey import Survey
from runner.data.table import list_names
from runner.errors import (
    DataError,
    JobCrashedError,
    JobStoppedError,
    OvertakenError,
    RunExistsError,
    RunnerError,
    find_user_error,
    last_line,
)
from runner.privacy.budget import Budget
from runner.privacy.contributions import counted_of
from runner.privacy.file_marks import FileMarks
from runner.privacy.ledger import RunLedger
from runner.privacy.lookups import lookups_of
from runner.privacy.unit import PrivacyUnit
from runner.run_directory import RunDirectory, Status
from runner.storage import Folder, open_folder, publish, read_published
from runner.train.callbacks import import_object
from runner.train.checkpoint import checkpoint_steps
from runner.train.drawn_tokens import draw_tokens, tokenizer_of
from runner.train.heartbeat import LogFile
from runner.train.private_run import (
    buy_schema,
    charge_marginals,
    check_privacy,
    check_same_records,
    find_tokens_key,
    note_plain_run,
    open_ledger,
)
from runner.train.series import check_previous, ledger_over_runs, record_files, source_files

TOKEN_CACHE = ".cache/tokens"  # noqa: S105 - not that kind of token
"""Under `storage.uri`, beside the runs."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckedJob:
    """A job that can start. `tokens` are there when an earlier run left them, `survey` when not.

    `key` names the records and how they become tokens, `tokens_key` the tokens: None as long as the schema that they
    are made with has not been bought. `files` are those that it may take records from. `budget` is there when a private
    run begins.
    """

    config: JobConfig
    key: str
    tokens_key: str | None
    tokens: TokenSet | None
    survey: Survey | None
    files: tuple[SourceFile, ...]
    budget: Budget | None = None

    @property
    def records(self) -> int:
        """Records that will be trained on or validated with."""
        return self.tokens.records if self.tokens else self.survey.records if self.survey else 0

    @property
    def persons(self) -> Mapping[int, int] | None:
        """How many persons have how many records; None where the job does not ask whose records are."""
        if self.tokens is not None:
            return None if self.tokens.persons is None else dict(self.tokens.persons)
        return None if self.survey is None else self.survey.persons

    @property
    def unit(self) -> PrivacyUnit | None:
        """What is protected, where that is not a single record."""
        nobodys = self.tokens.nobodys if self.tokens else self.survey.found.nobodys if self.survey else 0
        return PrivacyUnit.of(self.config, self.persons, nobodys)

    @property
    def units(self) -> int:
        """What privacy is for, and batches are made of: so many persons, or records."""
        return self.records if self.persons is None else sum(self.persons.values())

    @property
    def used(self) -> tuple[SourceFile, ...]:
        """The files with records of the job, and where `max_records` ends in one."""
        stops = self.tokens.stops if self.tokens else self.survey.stops if self.survey else None
        if stops is None:
            return self.files
        return tuple(replace(file, stop=stops[file.name]) for file in self.files if file.name in stops)

    @property
    def left(self) -> tuple[SourceFile, ...]:
        """The files that `max_records` did not come to."""
        names = {file.name for file in self.used}
        if self.survey is not None:
            names.update(self.survey.empty_files)
        return tuple(file for file in self.files if file.name not in names) if self.config.data.max_records else ()

    def not_read(self) -> tuple[PassedOver, ...]:
        """The files below `data.uri` that are none of records, and those without rows."""
        empty = self.survey.empty_files if self.survey else ()
        return passed_over(self.config.data.uri) + ((PassedOver.of("no rows", empty),) if empty else ())


def check_job(config: JobConfig, *, begins: bool = True, directory: RunDirectory | None = None) -> CheckedJob:
    """Look at everything a run depends on, without writing: the user's code, the records, the token cache, and the
    privacy budget of a run that `begins`. `directory`: of a run that began, which says with which files.

    Raises:
        ConfigError, DataError, StorageError: one line each.
    """
    settings = config.training
    if settings.epoch_callback:
        import_object(settings.epoch_callback, "training.epoch_callback")
    for reference in settings.callbacks:
        import_object(reference, "training.callbacks")
    if config.generation.validator:
        import_object(config.generation.validator, "generation.validator")
    check_previous(config)
    files = source_files(config, directory)
    key = token_key(config, files)
    tokens_key = find_tokens_key(config, key, directory)
    tokens = None if tokens_key is None else find_tokens(token_cache(config, patient=False), tokens_key)
    survey = None if tokens else survey_job(config, files)
    if survey is not None and survey.left_out:
        log.warning("columns that fields does not have are left out: %s", list_names(survey.left_out))
    checked = CheckedJob(config, key, tokens_key, tokens, survey, files)
    if tokens is not None:
        _check_enough_tokens(config, tokens)
    if survey is not None:
        if survey.persons is not None:
            _check_enough(config, checked.units, f"different {config.unit}")
        elif config.examples.packing == "records":
            _check_enough(config, survey.records, "records")
        elif survey.certainty != "sample":
            _check_enough(config, survey.found.windows, "examples")
        check_vocabulary(config, survey)
    if config.privacy.enabled and begins:
        budget = check_privacy(config, checked.units, checked.used, find_schema(checked), checked.persons)
        checked = replace(checked, budget=replace(budget, unit=checked.unit))
    return checked


def check_storage(config: JobConfig) -> None:
    """Whether the run directory is free and storage can be written; leaves nothing behind."""
    directory = RunDirectory.of(config, patient=False)
    directory.check_free(overwrite=config.storage.overwrite)
    open_folder(config.storage.uri, patient=False).check_writable()


def drive_run(run_uri: str, stop: threading.Event, *, checked: CheckedJob | None = None, local: bool = True) -> Status:
    """Take a claimed run from its job to its end; `stop` ends it at the next step with a checkpoint.

    Raises:
        JobStoppedError: it was stopped and can be resumed.
        RunnerError: what went wrong, which `status.json` says too.
    """
    with told_in_status(RunDirectory(open_folder(run_uri))) as (directory, log_file):
        directory.update_status(state="preparing", message="checking the job", error=None)
        config = directory.read_config()
        begins = not config.privacy.enabled or _begins(directory)
        if checked is not None and checked.config != config:  # Two overwrote at once, and this one came first.
            raise RunExistsError(f"{run_uri}: another submission took this name just now; choose another name")
        checked = checked or check_job(config, begins=begins, directory=directory)
        if not begins:
            check_same_records(directory, checked.key)
        if record_files(config, directory, checked.files, checked.used):
            for group in checked.not_read():
                log.log(logging.INFO if group.why == NOTES else logging.WARNING, "not read: %s", group)
        if not config.privacy.enabled:
            note_plain_run(config, checked.used)
        here = local and config.resources.workers == 1
        with contextlib.ExitStack() as stack:
            if here:
                _warm_up()
            else:
                stack.enter_context(connected_ray(local=local))
            with signs_of_life(directory):
                if lookups_of(config) and checked.tokens is None:
                    open_ledger(config, directory, checked.key, checked.used, checked.budget)
                    directory.say("looking up the schema, with noise")
                    checked = with_schema(checked, directory)
                tokens = make_tokens(checked, directory.say, local=local)
                _check_enough_tokens(config, tokens)
                publish(directory.folder.child("tokenizer"), read_published(tokens.folder))
                if config.privacy.enabled:
                    open_ledger(config, directory, checked.key, checked.used, checked.budget)
                if config.trains_on_draws:
                    persons = replace(checked, tokens=tokens).persons
                    charge_marginals(config, directory, tokenizer_of(tokens).schema, tokens.units, persons)
                    tokens = draw_tokens(config, directory, tokens, token_cache(config), directory.say)
            directory.update_status(state="preparing", message="starting the workers")
            if here:
                _train_here(config, directory, tokens, stop, log_file)
            else:
                _train_on_cluster(config, directory, tokens, stop, local=local)
    return ended(directory)


@contextlib.contextmanager
def told_in_status(directory: RunDirectory) -> Iterator[tuple[RunDirectory, LogFile]]:
    """The latest attempt's work in a directory, which gets its log and, in one line, the error that ends it."""
    log_file = LogFile(directory, "driver")
    try:
        directory = directory.enter()
        yield directory, log_file
    except Exception as error:
        raise failed(directory, error) from error
    finally:
        with contextlib.suppress(RunnerError):
            log_file.close()


def ended(directory: RunDirectory) -> Status:
    """The status of a run or sweep that has ended.

    Raises:
        JobStoppedError: it was stopped and can be resumed.
        RunnerError: what a worker met.
    """
    status = directory.status()
    assert status is not None
    if status.state == "stopped":
        raise JobStoppedError(f"{directory.uri}: stopped; `runner resume {directory.uri}` continues it")
    if status.error:
        raise status.to_error()
    return status


def failed(directory: RunDirectory, error: Exception) -> RunnerError:
    """Leave what ended the work in its status and the log; returns the error to show, one line where it is known."""
    shown = find_user_error(error) or JobCrashedError(last_line(error))
    log.error("%s", shown, exc_info=None if shown is error else error)
    if not isinstance(shown, OvertakenError):  # Else the status is another process's.
        with contextlib.suppress(RunnerError):
            directory.write_failure(shown)
    return shown


def _begins(directory: RunDirectory) -> bool:
    """Whether a private run has not begun: one that has checkpoints but lost its ledger has."""
    return not RunLedger.exists(directory.folder) and not checkpoint_steps(directory.folder.child("checkpoints"))


def find_schema(checked: CheckedJob) -> Schema | None:
    """Of a job on a table: the schema, where it is known before the run begins."""
    if checked.config.fields is None or checked.tokens is None:
        return None if checked.survey is None else checked.survey.schema
    return tokenizer_of(checked.tokens).schema


def token_cache(config: JobConfig, *, patient: bool = True) -> Folder:
    """Where the job's runs keep their token shards, by key."""
    return open_folder(config.storage.uri, patient=patient).child(TOKEN_CACHE)


def with_schema(checked: CheckedJob, directory: RunDirectory) -> CheckedJob:
    """The job with the schema that its run buys, once its ledger has been charged for it, or bought before.

    Raises:
        DataError: what is open cannot be had from noisy counts.
        CorruptError: what was bought does not verify.
    """
    assert checked.survey is not None
    most = checked.config.privacy.sensitivity
    counted = checked.records if checked.persons is None else counted_of(checked.persons, most)
    schema, sha256 = buy_schema(checked.config, directory, checked.files, counted)
    tokens_key = bought_key(checked.key, sha256)
    return replace(
        checked,
        budget=None,  # The run has begun.
        tokens_key=tokens_key,
        tokens=find_tokens(token_cache(checked.config), tokens_key),
        survey=replace(checked.survey, schema=schema),
    )


def with_tokens(checked: CheckedJob) -> CheckedJob:
    """The job with its tokens made here, for a run that replaces another: what only tokenizing can tell is then told
    while the other is still there. A schema is not bought before the run's directory is its own.

    Raises:
        DataError, TokenizerError: there are too few examples, or the vocabulary is too small.
    """
    if checked.tokens_key is None:
        return checked
    tokens = make_tokens(checked, log.debug, local=True)
    _check_enough_tokens(checked.config, tokens)
    return replace(checked, tokens=tokens)


def make_tokens(checked: CheckedJob, progress: Callable[[str], None], *, local: bool) -> TokenSet:
    """The job's tokens: from the cache, or made now."""
    config = checked.config
    tokens = checked.tokens
    if tokens is None:
        assert checked.survey is not None
        assert checked.tokens_key is not None
        with connected_ray(local=local):
            key = b"" if config.unit is None else FileMarks.of(ledger_over_runs(config)).person_key
            tokens = prepare_tokens(config, checked.survey, token_cache(config), checked.tokens_key, progress, key)
    share_cut = tokens.cut_records / max(tokens.records, 1)
    log.info(
        "%d records (%d null rows dropped), %d examples, %d tokens; %.2f%% of records longer than seq_length",
        tokens.records,
        tokens.null_rows,
        tokens.examples,
        tokens.targets,
        100 * share_cut,
    )
    if share_cut > 0.01:
        log.warning("%.1f%% of records are longer than examples.seq_length and were cut", 100 * share_cut)
    if (unit := replace(checked, tokens=tokens).unit) is not None:
        for what, how in unit.counts_in_words().items():
            log.info("%s: %s", what, how)
    return tokens


def _check_enough_tokens(config: JobConfig, tokens: TokenSet) -> None:
    _check_enough(config, tokens.units, "examples" if tokens.persons is None else f"different {config.unit}")


def _check_enough(config: JobConfig, count: int, what: str) -> None:
    """Raise DataError where no whole batch could be trained on, or validated with. Draws there are as many as asked."""
    settings = config.training
    if config.trains_on_draws and not settings.validation_split:
        return
    needed = settings.batch_size * (2 if settings.validation_split else 1)
    if count < needed:
        why = "one batch to train on and one for validation" if settings.validation_split else "one batch"
        raise DataError(
            f"{config.data.uri}: {count} {what}, but training.batch_size {settings.batch_size} needs {needed} ({why}); "
            "lower training.batch_size"
        )


def _train_here(
    config: JobConfig, directory: RunDirectory, tokens: TokenSet, stop: threading.Event, log_file: LogFile
) -> None:
    from runner.train.worker import WorkerTask, run_worker

    task = WorkerTask(directory.uri, tokens.folder.uri, directory.term, threads=config.resources.cpus_per_worker)
    run_worker(task, stop, log_file)


def _train_on_cluster(
    config: JobConfig, directory: RunDirectory, tokens: TokenSet, stop: threading.Event, *, local: bool
) -> None:
    from runner.train.cluster import fit_on_cluster

    with _stop_reaches(directory, stop):
        fit_on_cluster(config, directory, tokens.folder.uri, local=local)


@contextlib.contextmanager
def connected_ray(*, local: bool) -> Iterator[None]:
    """The Ray that is there already, or else one of this process's own, or the cluster that runs this job.

    What was connected here is left here: Ray's daemons end with the thread that started them.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    if local:
        from runner.train.local_ray import start_local_ray

        start_local_ray()
    else:
        ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def _warm_up() -> None:
    """Import TensorFlow in a thread while records are prepared, where this process will train.

    The tokenizer's library comes first: after TensorFlow it may crash.
    """

    def load() -> None:
        import sentencepiece  # noqa: F401

        import runner.train.worker  # noqa: F401

    threading.Thread(target=load, name="warm-up", daemon=True).start()


@contextlib.contextmanager
def signs_of_life(directory: RunDirectory) -> Iterator[None]:
    """Renew the heartbeat while the driver itself is at work."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(10):
            with contextlib.suppress(RunnerError):
                directory.update_status()

    thread = threading.Thread(target=beat, name="signs-of-life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def _stop_reaches(directory: RunDirectory, stop: threading.Event) -> Iterator[None]:
    """Pass a stop of this process on to the workers, who watch the run directory."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            if stop.wait(0.2):
                directory.request_stop()
                return

    threading.Thread(target=watch, name="stop-watch", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
