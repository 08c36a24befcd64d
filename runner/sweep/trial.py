"""A trial in a Ray Tune actor: one run after the other, each as `runner submit` would make it.

TensorFlow is imported once an actor. The run trains in a thread of the actor and goes on while Tune looks at its
epochs, which are read from its run directory.
"""

from __future__ import annotations

import gc
import os
import threading
from typing import Any

from ray import tune

from runner.config import JobConfig
from runner.errors import JobCrashedError, JobStoppedError, OvertakenError, find_user_error, last_line
from runner.run_directory import JOB_FOLDER_VARIABLE, KILLED_RUN_ENDS_WITHIN_S, RunDirectory
from runner.storage import open_folder
from runner.sweep.space import metric_of, sweep_of, trial_job
from runner.sweep.table import BEHIND, trial_directory
from runner.train.background import run_in_thread
from runner.train.facade import drive_run, told_in_status
from runner.train.history import read_history

POLL_S = 0.3
NOT_BEGUN, MAY_PASS = "not_begun", "may_pass"
"""Where a trial's last result says why it ended, which counts when it has no run directory to say so; and whether
it may begin yet.
"""


class TrialRunner(tune.Trainable):
    """Runs the trial that `config` names.

    `config`: sweep_uri and the term of its attempt, number, values, cores and local; `problem`: why there are no
    tokens for it, or None.
    """

    _config: dict[str, Any] | None = None
    """Of the trial that this actor has not begun."""

    def setup(self, config: dict[str, Any]) -> None:
        import sentencepiece  # noqa: F401  before TensorFlow

        self._config = config

    def step(self) -> dict[str, Any]:
        """The figures of the next epoch; `done` once the run has ended and there is none.

        The first call begins the run. An actor alone does not: Tune may start one for a trial, and then give the trial
        to another that has become free.
        """
        if self._config is not None:
            self._begin(self._config)
            self._config = None
        while True:
            is_over = not self._thread.is_alive()
            rows, _ = read_history(self._directory)
            if len(rows) > self._reported:
                row = rows[self._reported]
                self._reported += 1
                return {self._metric: row.metric(self._metric), "done": is_over and len(rows) == self._reported}
            if is_over:
                return {"done": True, **self._why_it_ended()}
            self._thread.join(POLL_S)

    def cleanup(self) -> None:
        """End the run where it is; one that Tune ended keeps a checkpoint, a model, and a word on why."""
        if self._config is not None:  # It never began.
            return
        was_alive = self._thread.is_alive()
        self._stop.set()
        self._thread.join()
        if was_alive and any(isinstance(error, JobStoppedError) for error in self._errors):
            self._directory.update_status(message=BEHIND)
        gc.collect()  # A training leaves graphs that hold themselves, for the next trials to add to.

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self._config = new_config
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: a run keeps its own checkpoints."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: see `save_checkpoint`."""

    def _begin(self, config: dict[str, Any]) -> None:
        sweep_directory = RunDirectory(open_folder(config["sweep_uri"]))
        sweep = sweep_directory.read_config()
        self._metric, _ = metric_of(sweep_of(sweep))
        self._directory = trial_directory(sweep, config["number"])
        self._stop = threading.Event()
        self._reported = 0
        self._thread, self._errors = run_in_thread(lambda: self._run(sweep_directory, sweep, config))

    def _run(self, sweep_directory: RunDirectory, sweep: JobConfig, config: dict[str, Any]) -> None:
        directory, target = self._directory, "local" if config["local"] else "ray"
        sweep_directory.enter(config["term"])  # A later attempt at the sweep has its trials.
        if sweep_directory.stop_requested():  # While Tune had this one in its queue.
            return
        os.environ[JOB_FOLDER_VARIABLE] = sweep_directory.current_status().job_folder
        # Also of a trial that began with others: an actor's trials share one TensorFlow, which keeps its first ones.
        resources = sweep.resources.model_copy(update={"cpus_per_worker": config["cores"]})
        if directory.exists():
            directory.wait_until_left(KILLED_RUN_ENDS_WITHIN_S)
            before = directory.read_config()
            if before.resources != resources:
                directory.write_config(before.model_copy(update={"resources": resources}))
            directory.begin_again(target)
        else:
            job = trial_job(sweep, config["number"], config["values"])
            directory.claim(job.model_copy(update={"resources": resources}), target)
        if config["problem"] is not None:
            with told_in_status(directory):
                raise config["problem"]
        drive_run(directory.uri, self._stop, local=config["local"] or resources.workers == 1)

    def _why_it_ended(self) -> dict[str, Any]:
        """What the thread met; nothing where the trial is done, stopped, or another attempt's."""
        for error in self._errors:
            shown = find_user_error(error) or JobCrashedError(last_line(error))
            if not isinstance(shown, (JobStoppedError, OvertakenError)):
                return {NOT_BEGUN: str(shown), MAY_PASS: shown.may_pass}
        return {}
