"""The driver of a sweep: Ray Tune runs its trials, and what they came to is kept as a table.

    drive_sweep(sweep_uri, stop)

A sweep's own directory holds `sweep.csv`, `sweep.json` and a copy of the best trial's `model/`; every trial is a run
beside it, `NAME-000`, `NAME-001` and so on. That is all a resume needs: Tune's own files are thrown away.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from runner.config import JobConfig
from runner.errors import (
    ClusterError,
    ConfigError,
    JobCrashedError,
    JobFailedError,
    OvertakenError,
    RunnerError,
    StorageError,
    last_line,
)
from runner.run_directory import ACTIVE, RunDirectory, Status
from runner.storage import open_folder, publish, read_published
from runner.sweep.privacy import sweep_statement
from runner.sweep.search import SweepSearch
from runner.sweep.space import (
    longest_trial,
    metric_of,
    sweep_of,
    token_jobs,
    token_settings,
    trial_count,
    trial_name,
)
from runner.sweep.table import GONE, Trial, best_trial, read_trial, read_trials, trial_directory, write_table
from runner.sweep.trial import MAY_PASS, NOT_BEGUN, TrialRunner
from runner.train.facade import check_job, connected_ray, ended, make_tokens, signs_of_life, told_in_status

TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # A run that fails reports no figure.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}
"""Tune says nothing, and leaves signals alone."""

log = logging.getLogger(__name__)


def drive_sweep(sweep_uri: str, stop: threading.Event, *, local: bool = True) -> Status:
    """Take a claimed sweep from where it is to its end; `stop` stops its trials, each with a checkpoint.

    Raises:
        JobStoppedError: it was stopped and can be resumed.
        RunnerError: no trial left a model, or Ray failed.
    """
    with told_in_status(RunDirectory(open_folder(sweep_uri))) as (directory, _):
        directory.update_status(state="preparing", message="starting Ray", error=None)
        config = directory.read_config()
        with connected_ray(local=local), signs_of_life(directory):
            problems = _prepare_tokens(config, directory, local=local)
            not_begun = _run_trials(config, directory, stop, problems, local=local)
        trials = [*read_trials(config), *not_begun]
        write_table(config, directory, trials)
        best = best_trial(config, trials)
        if best is not None:
            _leave_model(config, directory, best, trials)
        if stop.is_set() or directory.stop_requested():
            directory.update_status(state="stopped", message=_in_words(config, trials))
        elif cut_off := [trial.run for trial in trials if not trial.is_over]:
            raise JobCrashedError(f"{', '.join(cut_off)}: cut off; `runner resume {directory.uri}` goes on with them")
        elif best is None:
            raise JobFailedError(f"no trial left a model; {directory.uri}/sweep.csv says why, trial by trial")
        else:
            directory.update_status(state="done", message=_in_words(config, trials))
    return ended(directory)


def _prepare_tokens(config: JobConfig, directory: RunDirectory, *, local: bool) -> dict[str, RunnerError]:
    """Make the tokens of all trials before these take the cores; most sweeps have one set for all.

    Returns, by the settings of tokens that cannot be made, why: the user's mistakes are the trials' to tell.
    """
    problems: dict[str, RunnerError] = {}
    keys: set[str] = set()
    for job in token_jobs(config):
        try:
            checked = check_job(job, begins=False)
            if checked.key not in keys and checked.tokens_key is not None:
                make_tokens(checked, directory.say, local=local)
        except RunnerError as error:
            if error.exit_code != ConfigError.exit_code:
                raise
            log.warning("%s", error)
            problems[token_settings(job)] = error
        else:
            keys.add(checked.key)
    return problems


def _run_trials(
    config: JobConfig,
    directory: RunDirectory,
    stop: threading.Event,
    problems: Mapping[str, RunnerError],
    *,
    local: bool,
) -> list[Trial]:
    """Have Tune run the trials that are not over; returns those that ended before they had a run directory."""
    os.environ.update(TUNE_ENVIRONMENT)
    resources = config.resources
    in_actor = resources.workers == 1
    cores = resources.cpus_per_worker or 1
    shared = {"sweep_uri": directory.uri, "term": directory.term, "cores": cores, "local": local}
    begun = read_trials(config)
    search = SweepSearch(config, begun, shared, problems)
    table = _TableWriter(config, directory, begun)
    with _stops_trials(config, directory, search, stop):
        try:
            tune.Tuner(
                tune.with_resources(
                    TrialRunner, {"CPU": cores * in_actor, "GPU": resources.gpus_per_worker * in_actor}
                ),
                tune_config=tune.TuneConfig(
                    search_alg=search,
                    num_samples=trial_count(sweep_of(config)),
                    max_concurrent_trials=_most_at_a_time(config, cores),
                    scheduler=_scheduler(config),
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    name=config.name,
                    storage_path=tempfile.mkdtemp(prefix="runner-ray-tune-"),
                    callbacks=[table],
                    verbose=0,
                ),
            ).fit()
        except Exception as error:
            raise ClusterError(f"Ray Tune failed: {last_line(error)}; `runner resume` goes on") from error
    return table.not_begun


def _most_at_a_time(config: JobConfig, cores: int) -> int | None:
    """Trials of several workers hold their cores through Ray Train, where Tune does not count them."""
    workers, most = config.resources.workers, sweep_of(config).max_concurrent
    if workers == 1:
        return most
    fitting = max(1, int(ray.cluster_resources().get("CPU", 1)) // (workers * cores))
    return min(most or fitting, fitting)


def _scheduler(config: JobConfig) -> TrialScheduler:
    if sweep_of(config).scheduler == "fifo":
        return FIFOScheduler()
    metric, larger_is_better = metric_of(sweep_of(config))
    return ASHAScheduler(metric=metric, mode="max" if larger_is_better else "min", max_t=longest_trial(config))


class _TableWriter(tune.Callback):
    """Keeps the sweep's table and status in step with its trials."""

    def __init__(self, config: JobConfig, directory: RunDirectory, begun: Sequence[Trial]) -> None:
        self._config = config
        self._directory = directory
        self._trials = {trial.number: trial for trial in begun}
        self.not_begun: list[Trial] = []

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:  # noqa: ARG002
        self._look_at(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:  # noqa: ARG002
        self._look_at(trial)

    def _look_at(self, trial: Any) -> None:
        number, values = trial.config["number"], trial.config["values"]
        found = read_trial(self._config, number)
        if found is None:
            result = trial.last_result or {}
            why = result.get(NOT_BEGUN) or (GONE if trial.status == "ERROR" else None)
            if why is None:  # It was stopped before it began.
                return
            state = "lost" if result.get(MAY_PASS, True) else "failed"
            found = Trial(number, trial_name(self._config, number), state, values, None, 0, 0.0, error=why)
            self.not_begun.append(found)
        self._trials[number] = found
        trials = list(self._trials.values())
        try:
            write_table(self._config, self._directory, trials)
            self._directory.update_status(state="training", message=_in_words(self._config, trials))
        except StorageError as error:
            log.warning("the table is behind: %s", error)


@contextlib.contextmanager
def _stops_trials(
    config: JobConfig, directory: RunDirectory, search: SweepSearch, stop: threading.Event
) -> Iterator[None]:
    """While open: a stop of this process, or a request in the sweep's directory, stops all trials and starts none."""
    ended = threading.Event()

    def look() -> None:
        directory.check_mine()
        if stop.is_set() and not directory.stop_requested():
            directory.request_stop()  # Where trials that Tune has in its queue look before they begin.
        if directory.stop_requested():
            search.is_closed = True
            for trial in read_trials(config):
                if trial.state in ACTIVE:
                    trial_directory(config, trial.number).request_stop()

    def watch() -> None:
        while not ended.wait(1):
            try:
                look()
            except OvertakenError:
                search.is_closed = True  # Its trials are another process's.
            except StorageError as error:
                log.warning("cannot see whether to stop: %s", error)

    threading.Thread(target=watch, name="sweep-stop-watch", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _leave_model(config: JobConfig, directory: RunDirectory, best: Trial, trials: Sequence[Trial]) -> None:
    """Copy the best trial's model to the sweep's directory; a private one's statement is the sweep's."""
    files = read_published(trial_directory(config, best.number).folder.child("model"))
    statement = sweep_statement(config, best, trials) if config.privacy.enabled else {}
    for name, content in statement.items():
        directory.folder.write(name, content)
    publish(directory.folder.child("model"), files | statement)


def _in_words(config: JobConfig, trials: Sequence[Trial]) -> str:
    counts = Counter(trial.state for trial in trials)
    over = sum(trial.is_over for trial in trials)
    text = f"{over} of {trial_count(sweep_of(config))} trials over"
    for state, words in (("failed", "failed"), ("behind", "ended early")):
        if counts[state]:
            text += f", {counts[state]} {words}"
    best = best_trial(config, trials)
    if best is not None:
        text += f"; best {metric_of(sweep_of(config))[0]} {best.metric:.4f} ({best.run})"
    return text
