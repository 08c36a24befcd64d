"""Ray Train: several workers, or workers of a cluster, on one run.

Ray's own TensorFlow backend imports TensorFlow in the driver and in its controller; the one here only tells the
workers of each other, which saves ten seconds of every start.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import tempfile
import threading
import time
import uuid
from typing import Any

os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "180")

import ray
import ray.train
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.failure_handling.default import DefaultFailurePolicy
from ray.train.v2._internal.execution.failure_handling.failure_policy import FailureDecision
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from runner.config import JobConfig, ResourcesConfig
from runner.errors import (
    JobCrashedError,
    OvertakenError,
    RepeatedOtherwiseError,
    ResourceError,
    RunnerError,
    StorageError,
    last_line,
)
from runner.run_directory import RunDirectory
from runner.storage import open_folder

log = logging.getLogger(__name__)

CHIEF_ENDS_WITHIN_S = 30.0
"""What a worker with an error waits for the first worker's own end: Ray ends all when one has raised."""

stop_requested = threading.Event()
"""Set in a worker's process by SIGTERM, as a node that is taken away sends it."""


def fit_on_cluster(
    config: JobConfig, directory: RunDirectory, tokens_uri: str, draws_uri: str | None, *, local: bool
) -> None:
    """Run the workers until they end; a lost worker restarts all from the newest checkpoint. The tokens, and those of
    the draws before: see `WorkerTask`.

    Raises:
        OvertakenError: another attempt at the run has begun meanwhile, so this one has ended.
        RunnerError: what a worker met, or that workers were lost more often than `max_failures`.
    """
    resources = config.resources
    cores = resources.cpus_per_worker
    if cores is None:
        cores = max(1, int(ray.cluster_resources().get("CPU", 1)) // resources.workers) if local else 1
    _check_room(resources, cores, local=local)
    trainer = _WorkersAlone(
        _train_in_worker,
        train_loop_config={
            "run_uri": directory.uri,
            "tokens_uri": tokens_uri,
            "draws_uri": draws_uri,
            "term": directory.term,
            "threads": cores,
        },
        backend_config=PeersConfig(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker={"CPU": cores}
            | ({"GPU": resources.gpus_per_worker} if resources.gpus_per_worker else {}),
        ),
        run_config=ray.train.RunConfig(
            name=f"{config.name}-{uuid.uuid4().hex[:8]}",
            # Ray Train wants a folder for checkpoints of its own; ours are in the run directory.
            storage_path=tempfile.mkdtemp(prefix="runner-ray-train-"),
            failure_config=ray.train.FailureConfig(max_failures=resources.max_failures),
        ),
    )
    trainer.keeps_to_itself = local
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        directory.check_mine()
        status = directory.status()
        if status is not None and status.state == "failed" and status.error:
            raise status.to_error() from error
        raise JobCrashedError(f"workers failed more than {resources.max_failures} times: {last_line(error)}") from error
    directory.check_mine()


def _check_room(resources: ResourcesConfig, cores: int, *, local: bool) -> None:
    """Whether all workers fit at once. A cluster may grow, so there it is only said; this machine will not."""
    found = ray.cluster_resources()
    for kind, each in (("CPU", cores), ("GPU", resources.gpus_per_worker)):
        needed = resources.workers * each
        if needed <= found.get(kind, 0):
            continue
        text = (
            f"{resources.workers} workers of {each} {kind}s need {needed}, but {'this machine' if local else 'Ray'} "
            f"has {found.get(kind, 0):.0f}"
        )
        if local:
            raise ResourceError(f"{text}; lower resources.workers")
        log.warning("%s: waiting for more", text)


class _WorkersAlone(DataParallelTrainer):
    """Without the actors that share out Ray Data sets, and that tidy up placement groups in a cluster that outlives
    its driver: workers read token shards, and each such actor costs a process start.
    """

    keeps_to_itself = False

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        policy = _EndsAtErrorsOfTheUser(settings["failure_policy"].failure_config)
        return super()._initialize_and_run_controller(**(settings | {"failure_policy": policy}))

    def _create_default_callbacks(self) -> list[Any]:
        spared = (DatasetsCallback, PlacementGroupCleanerCallback) if self.keeps_to_itself else (DatasetsCallback,)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, spared)]


class _EndsAtErrorsOfTheUser(DefaultFailurePolicy):
    """Starts workers again that were lost, but not those that would meet the same error again."""

    def make_decision(self, training_failed_error: Any) -> FailureDecision:
        errors = getattr(training_failed_error, "worker_failures", {}).values()
        if any(_is_final(error) for error in errors):
            return FailureDecision.RAISE
        return super().make_decision(training_failed_error)


def _is_final(error: BaseException) -> bool:
    return isinstance(error, RunnerError) and not isinstance(error, StorageError | RepeatedOtherwiseError)


class PeersConfig(BackendConfig):
    """Tells each worker the addresses of all, the way TensorFlow reads them."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _Peers


class _Peers(Backend):
    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:  # noqa: ARG002 - Ray's signature
        from ray.train._internal.utils import get_address_and_port

        addresses = [f"{host}:{port}" for host, port in worker_group.execute(get_address_and_port)]
        ray.get(
            [worker_group.execute_single_async(rank, _introduce, addresses, rank) for rank in range(len(worker_group))]
        )


def _introduce(addresses: list[str], rank: int) -> None:
    """In a worker's main thread: its peers, and what SIGTERM means."""
    if len(addresses) > 1:
        os.environ["TF_CONFIG"] = json.dumps(
            {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
        )
    _watch_for_sigterm()


def _watch_for_sigterm() -> None:
    """Set `stop_requested` on SIGTERM, though the main thread is in Ray's own loop and runs no Python handler."""
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    signal.signal(signal.SIGTERM, lambda *_: stop_requested.set())
    signal.set_wakeup_fd(sender.detach(), warn_on_full_buffer=False)

    def watch() -> None:
        while signal.SIGTERM not in receiver.recv(1):
            pass
        stop_requested.set()

    threading.Thread(target=watch, name="sigterm-watch", daemon=True).start()


def _train_in_worker(settings: dict[str, Any]) -> str:
    """A worker's whole life. An error of the user's ends the run at once, for a restart would meet it again, and so
    does another attempt at the run.
    """
    import sentencepiece  # noqa: F401  before TensorFlow

    from runner.train.worker import WorkerTask, run_worker

    try:
        directory = RunDirectory(open_folder(settings["run_uri"])).enter(settings["term"])
    except OvertakenError as error:
        return str(error)
    status = directory.status()
    if status is not None and status.state == "failed":
        return "failed"
    context = ray.train.get_context()
    task = WorkerTask(**settings, rank=context.get_world_rank(), workers=context.get_world_size())
    try:
        return run_worker(task, stop_requested)
    except RunnerError as error:
        if _is_final(error) and (task.rank == 0 or not _has_failed_within(directory, CHIEF_ENDS_WITHIN_S)):
            directory.write_failure(error)
        raise


def _has_failed_within(directory: RunDirectory, timeout_s: float) -> bool:
    """Wait for the first worker, which meets most errors too: it leaves what there is, and says so."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        status = directory.status()
        if status is not None and status.state == "failed":
            return True
        time.sleep(0.2)
    return False
