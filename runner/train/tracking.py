"""Where a run's figures go besides `history.csv`: TensorBoard, MLflow, and Ray's metrics for Prometheus.

    tracker = Tracker(config, directory, began)          # the chief's
    tracker.epochs(rows)                                 # after every epoch, all rows so far
    tracker.now({"loss": 1.2, ...})                      # at every step
    tracker.end("FINISHED")                              # in MLflow's words; a resume begins it again

None of them can end a run: what goes wrong is a warning in the log.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import tensorflow as tf

from runner.config import JobConfig
from runner.errors import StorageError, last_line
from runner.run_directory import RunDirectory
from runner.train.history import EpochRow

EVENT_FILE = "events/events.out.tfevents.0.runner"
"""TensorBoard finds files by the middle of this name."""
METRICS = ("loss", "accuracy", "val_loss", "val_accuracy", "epsilon", "tokens_per_second")
RAY_METRICS = ("loss", "accuracy", "epsilon", "tokens_per_second", "epoch", "total_steps")
MLFLOW_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""Its own settings would hold a run up for minutes where the server is away."""
LONGEST_MLFLOW_PARAMETER = 500

log = logging.getLogger(__name__)


class Tracker:
    """All places at once."""

    def __init__(self, config: JobConfig, directory: RunDirectory, began: float) -> None:
        """`began`: when the run was claimed, in seconds since 1970; the same after a resume."""
        self._directory = directory
        self._began = began
        self._mlflow = _mlflow_run(config, directory, began)
        self._gauges = _ray_gauges(config.name)

    def epochs(self, rows: Sequence[EpochRow]) -> None:
        """Everything there is to say about the epochs so far; what was said before may be said again."""
        try:
            self._directory.folder.write(EVENT_FILE, event_file(rows, self._began))
        except StorageError as error:
            log.warning("TensorBoard's events lack this epoch: %s", error)
        if self._mlflow is not None:
            try:
                self._mlflow.log(rows)
            except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on
                log.warning("MLflow has no figures of this epoch: %s", last_line(error))

    def now(self, figures: Mapping[str, float]) -> None:
        """The running figures."""
        for name, gauge in self._gauges.items():
            if name in figures:
                gauge(figures[name])

    def end(self, status: Literal["FINISHED", "KILLED", "FAILED"]) -> None:
        """The run is over: it got to its end, was stopped, or met an error."""
        if self._mlflow is not None:
            try:
                self._mlflow.end(status)
            except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on
                log.warning("MLflow does not know that the run is over: %s", last_line(error))


def event_file(rows: Sequence[EpochRow], began: float) -> bytes:
    """The epochs as TensorBoard reads them: one scalar of each metric at each epoch, by its number from 0.

    A function of the rows, so that the file of a run that was killed and resumed has no epoch twice.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events"
        with tf.io.TFRecordWriter(str(path)) as writer:
            writer.write(tf.compat.v1.Event(wall_time=began, file_version="brain.Event:2").SerializeToString())
            for wall_time, row in zip(_ends(rows, began), rows, strict=True):
                values = [
                    tf.compat.v1.Summary.Value(tag=name, simple_value=value) for name, value in _figures(row).items()
                ]
                summary = tf.compat.v1.Summary(value=values)
                writer.write(
                    tf.compat.v1.Event(wall_time=wall_time, step=row.epoch, summary=summary).SerializeToString()
                )
        return path.read_bytes()


class MlflowRun:
    """A run of an MLflow server that stands for ours; found again after a resume."""

    def __init__(self, config: JobConfig, directory: RunDirectory, began: float) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient()
        self._began = began
        self._logged = 0
        identity = hashlib.sha256(f"{directory.uri} {began}".encode()).hexdigest()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "runner")
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        runs = self._client.search_runs([experiment], f"tags.runner_run = '{identity}'")
        if runs:
            self._run_id = runs[0].info.run_id
            self._client.update_run(self._run_id, "RUNNING")
            return
        tags = {"runner_run": identity, "runner_uri": directory.uri}
        self._run_id = self._client.create_run(
            experiment, start_time=round(began * 1000), tags=tags, run_name=config.name
        ).info.run_id
        for path, value in _flat(config.model_dump(mode="json")).items():
            self._client.log_param(self._run_id, path, str(value)[:LONGEST_MLFLOW_PARAMETER])

    def log(self, rows: Sequence[EpochRow]) -> None:
        """The rows that this process has not logged yet; of those from before a resume the server keeps one copy."""
        from mlflow.entities import Metric

        new = list(zip(_ends(rows, self._began), rows, strict=True))[self._logged :]
        metrics = [
            Metric(name, value, round(wall_time * 1000), row.epoch)
            for wall_time, row in new
            for name, value in _figures(row).items()
        ]
        for start in range(0, len(metrics), 1000):
            self._client.log_batch(self._run_id, metrics[start : start + 1000])
        self._logged = len(rows)

    def end(self, status: str) -> None:
        self._client.set_terminated(self._run_id, status)


def _mlflow_run(config: JobConfig, directory: RunDirectory, began: float) -> MlflowRun | None:
    """The run on the server that MLFLOW_TRACKING_URI names."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return None
    if find_spec("mlflow") is None:
        log.warning("MLFLOW_TRACKING_URI is set, but MLflow is not installed; pip install mlflow-skinny")
        return None
    for name, value in MLFLOW_PATIENCE.items():
        os.environ.setdefault(name, value)
    try:
        return MlflowRun(config, directory, began)
    except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on
        log.warning("MLflow is not told of this run: %s", last_line(error))
        return None


def _ray_gauges(run: str) -> dict[str, Callable[[float], None]]:
    """Setters of Ray's metrics, which Prometheus reads from every node; none in a process without Ray."""
    if "ray" not in sys.modules or not sys.modules["ray"].is_initialized():
        return {}
    return {name: lambda value, name=name: _gauge(name).set(float(value), {"run": run}) for name in RAY_METRICS}


@cache
def _gauge(name: str) -> Any:
    """One for all runs of this process: Ray exports every ten seconds, which a run may not last."""
    from ray.util.metrics import Gauge

    return Gauge(f"runner_{name}", f"{name.replace('_', ' ')} of a run", ("run",))


def _ends(rows: Sequence[EpochRow], began: float) -> list[float]:
    """When each epoch ended, were there nothing but training: the same after a resume."""
    return list(itertools.accumulate((row.seconds for row in rows), initial=began))[1:]


def _figures(row: EpochRow) -> dict[str, float]:
    return {name: value for name in METRICS if (value := getattr(row, name)) is not None}


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            found[prefix + name] = value
    return found
