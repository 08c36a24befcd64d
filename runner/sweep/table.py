"""The table of a sweep: its trials as their run directories show them, best first.

`sweep.csv` is for people and spreadsheets, `sweep.json` for programs; both are rewritten whole as trials go on.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pydantic_core

from runner.config import JobConfig
from runner.privacy.accountant import plain_epsilon
from runner.run_directory import RunDirectory, Status
from runner.run_files import is_ours, remove_run
from runner.storage import open_folder
from runner.sweep.space import Values, exact_text, metric_of, sweep_of, trial_count, trial_name, value_at
from runner.train.history import read_history

BEHIND = "ended early by the sweep: behind other trials"
"""The message of a trial that the scheduler ended."""
GONE = "its process is gone: killed, or out of memory"
"""What became of a trial that was cut off."""
WITH_MODEL = ("done", "behind", "stopped")
"""The states in which a trial that has finished an epoch has left a model."""


@dataclass(frozen=True)
class Trial:
    """A trial that has begun. `metric` is that of the epoch whose weights are in its `model/`."""

    number: int
    run: str
    state: str
    values: Values
    metric: float | None
    epochs: int
    seconds: float
    epsilon: float | None = None
    error: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether a resume leaves it as it is."""
        return self.state in ("done", "failed", "behind")

    @property
    def has_model(self) -> bool:
        """Whether it has left a model with a figure to rank it by."""
        return self.metric is not None and self.state in WITH_MODEL


def trial_directory(config: JobConfig, number: int) -> RunDirectory:
    """Where a trial's run is kept, beside the sweep's own directory."""
    return RunDirectory(open_folder(config.storage.uri).child(trial_name(config, number)))


def check_trials_free(config: JobConfig, begun: int = 0) -> None:
    """Raise RunExistsError where a run has a trial's name and may not be overwritten.

    `begun`: so many trials are a sweep's that is resumed; what has the names of the others stays in any case.
    """
    there = set(open_folder(config.storage.uri, patient=False).subfolders())
    for number in range(begun, trial_count(sweep_of(config))):
        if trial_name(config, number) in there:
            trial_directory(config, number).check_free(overwrite=config.storage.overwrite and not begun)


def remove_trials(config: JobConfig) -> None:
    """Make room for a sweep that replaces another of its name: what runs wrote under its trials' names goes."""
    for number in range(trial_count(sweep_of(config))):
        folder = trial_directory(config, number).folder
        if is_ours(folder):
            remove_run(folder)


def read_trial(config: JobConfig, number: int) -> Trial | None:
    """A trial as its run directory shows it; None before it has begun."""
    directory = trial_directory(config, number)
    if not directory.exists():
        return None
    status, job = directory.current_status(), directory.read_config()
    was_cut_off = GONE if status.state == "lost" else None
    rows, best = read_history(directory)
    metric = None if best is None else rows[best].metric(metric_of(sweep_of(config))[0])
    return Trial(
        number=number,
        run=trial_name(config, number),
        state=_state(status),
        values={path: value_at(job, path) for path in sweep_of(config).parameters},
        metric=None if metric is None or not math.isfinite(metric) else metric,
        epochs=len(rows),
        seconds=sum(row.seconds for row in rows),
        epsilon=rows[-1].epsilon if rows else None,
        error=status.error or was_cut_off,
    )


def read_trials(config: JobConfig) -> list[Trial]:
    """All trials that have begun, by number."""
    found = (read_trial(config, number) for number in range(trial_count(sweep_of(config))))
    return [trial for trial in found if trial is not None]


def ranked(config: JobConfig, trials: Sequence[Trial]) -> list[Trial]:
    """The best first; those without a figure or a model last, by number."""
    _, larger_is_better = metric_of(sweep_of(config))

    def rank(trial: Trial) -> tuple[float, int]:
        if trial.metric is None or not trial.has_model:
            return math.inf, trial.number
        return -trial.metric if larger_is_better else trial.metric, trial.number

    return sorted(trials, key=rank)


def best_trial(config: JobConfig, trials: Sequence[Trial]) -> Trial | None:
    """The one whose model the sweep leaves; one that the scheduler ended has a model too."""
    return next((trial for trial in ranked(config, trials) if trial.has_model), None)


def write_table(config: JobConfig, directory: RunDirectory, trials: Sequence[Trial]) -> None:
    """Write both files."""
    directory.folder.write("sweep.csv", to_csv(config, trials))
    directory.folder.write("sweep.json", to_json(config, trials))


def to_csv(config: JobConfig, trials: Sequence[Trial]) -> bytes:
    """One row a trial, best first, with a column for each parameter."""
    metric, _ = metric_of(sweep_of(config))
    text = io.StringIO()
    parameters = list(sweep_of(config).parameters)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rank", "run", "state", metric, *parameters, "epochs", "seconds", "epsilon", "error"])
    for rank, trial in enumerate(ranked(config, trials), start=1):
        values = [_in_a_cell(trial.values[path]) for path in parameters]
        figures = [trial.metric, *values, trial.epochs, round(trial.seconds, 1), trial.epsilon]
        row = [rank, trial.run, trial.state, *figures, trial.error and "; ".join(trial.error.splitlines())]
        writer.writerow(["" if value is None else value for value in row])
    return text.getvalue().encode()


def to_json(config: JobConfig, trials: Sequence[Trial]) -> bytes:
    """The trials, best first, and the best one's name."""
    best = best_trial(config, trials)
    metric, larger_is_better = metric_of(sweep_of(config))
    content = {
        "sweep": config.name,
        "metric": metric,
        "mode": "max" if larger_is_better else "min",
        "best": best and best.run,
        "trials": [_plain(trial) for trial in ranked(config, trials)],
    }
    # JSON has no infinite numbers and no dates, which a choice may hold.
    return pydantic_core.to_json(content, indent=1, inf_nan_mode="strings", fallback=str) + b"\n"


def _state(status: Status) -> str:
    return "behind" if status.state == "stopped" and status.message == BEHIND else status.state


def _in_a_cell(value: Any) -> Any:
    """Texts as they are, all else as JSON."""
    return value if isinstance(value, str) else exact_text(value)


def _plain(trial: Trial) -> dict[str, Any]:
    return asdict(trial) | {"epsilon": None if trial.epsilon is None else plain_epsilon(trial.epsilon)}
