"""One worker decides for all, from what all have; whatever may change a sum is among it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runner.config import JobConfig, parse_job
from runner.errors import StorageError
from runner.privacy.accountant import Mechanism
from runner.privacy.ledger import LedgerState, RunLedger
from runner.privacy.noise import fingerprint
from runner.run_directory import RunDirectory
from runner.storage import open_folder
from runner.train import agreement, worker
from runner.train.agreement import agree, gather
from runner.train.checkpoint import Checkpoint

STATE = LedgerState("run", "tokens", Mechanism(400, 20, 1.0), 1e-4, "pld", None, (), None, ("file",), place="here")


def job(**training: Any) -> JobConfig:
    return parse_job(
        {
            "name": "demo",
            "data": {"uri": "records/"},
            "tokenizer": {"kind": "byte"},
            "training": {"batch_size": 20, **training},
            "privacy": {"enabled": True, "noise_multiplier": 1.0},
        },
        environment={},
    )


class InThreads:
    """Workers that are threads of this process; what they add up is added up here."""

    def __init__(self, workers: int, local_replicas: int) -> None:
        self.num_replicas_in_sync = workers * local_replicas
        self.workers = workers
        self._each = local_replicas
        self._barrier = Barrier(workers, timeout=10)
        self._values: dict[int, NDArray[np.float32]] = {}

    def add_up(self, _strategy: Any, values: NDArray[np.float32], _workers: int) -> NDArray[np.int64]:
        self._values[self._barrier.wait()] = values
        self._barrier.wait()
        total = np.sum(list(self._values.values()), axis=0)
        self._barrier.wait()
        return total.astype(np.int64)

    def each(self, work: Callable[[int], Any]) -> list[Any]:
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(work, range(self.workers)))


@pytest.mark.parametrize(("workers", "local_replicas"), [(1, 1), (2, 1), (3, 4)])
def test_every_worker_has_what_all_said(workers: int, local_replicas: int, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: Any = InThreads(workers, local_replicas)
    monkeypatch.setattr(agreement, "_sum_over_workers", threads.add_up)
    texts = ["", "ä text", "x" * 5000][:workers]
    assert threads.each(lambda rank: gather(threads, rank, workers, texts[rank])) == [texts] * workers
    asked: list[int] = []

    def deciding(rank: int) -> Any:
        def decide(everyone: list[Any]) -> Any:
            asked.append(rank)
            return {"of all": everyone}

        return agree(threads, rank, workers, [rank], decide)

    assert threads.each(deciding) == [{"of all": [[rank] for rank in range(workers)]}] * workers
    assert asked == [0]


# What the first worker decides


def begun(place: Path) -> RunDirectory:
    directory = RunDirectory(open_folder(str(place)))
    RunLedger.create(directory.folder, STATE)
    return directory


def said(
    microbatch_size: int | None = None, checkpoint: Any = None, most: int | None = None, **conditions: Any
) -> dict[str, Any]:
    return {
        "microbatch_size": microbatch_size,
        "most_at_once": most,
        "checkpoint": checkpoint,
        "conditions": conditions,
    }


def test_the_microbatch_is_one_that_fits_every_worker(tmp_path: Path) -> None:
    decide, directory = worker._decide, begun(tmp_path)
    assert decide(job(), directory, None, [said(7), said(None), said(5)])["microbatch_size"] == 5
    assert decide(job(), directory, None, [said(None), said(None)])["microbatch_size"] is None
    before = Checkpoint(0, {}, {"microbatch_size": 9, "branch": -1, "progress": {"rows": []}})
    assert decide(job(), directory, before, [said(7), said(5)])["microbatch_size"] == 9
    assert decide(job(), directory, before, [said(7, most=4), said(5)])["microbatch_size"] == 4, "out of memory"
    assert decide(job(), directory, None, [said(7), said(5, most=6)])["microbatch_size"] == 5


def test_the_branch_follows_from_the_conditions_of_all_workers(tmp_path: Path) -> None:
    directory = begun(tmp_path)

    def branch(*everyone: dict[str, Any]) -> str:
        return worker._decide(job(), directory, None, everyone)["branch"]["nonce"]

    first = branch(said(machine="a"), said(machine="b"))
    assert branch(said(machine="a"), said(machine="b")) == first
    others = [
        branch(said(machine="a"), said(machine="a")),
        branch(said(machine="b"), said(machine="a")),
        branch(said(machine="a"), said(machine="b"), said(machine="b")),
        branch(said(machine="a"), said(3, machine="b")),
    ]
    assert len({first, *others}) == 5


def test_workers_that_see_different_checkpoints_do_not_begin(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="different checkpoints"):
        worker._decide(job(), begun(tmp_path), None, [said(checkpoint=[0, 8]), said(checkpoint=None)])


# Conditions


def conditions(config: JobConfig | None = None, **changes: Any) -> str:
    """The fingerprint of a worker's conditions."""
    arguments: dict[str, Any] = {
        "config": config or job(),
        "identity": {"tokens": "tokens", "first_weights": "digest"},
        "replicas": 2,
        "task": worker.WorkerTask("run", "tokens", "term", workers=2, threads=3),
        "planned_steps": 100,
    }
    return fingerprint(worker._conditions(**(arguments | changes)))


@pytest.mark.parametrize("prefix", ["TF_", "XLA_", "ONEDNN_", "DNNL_", "OPENBLAS_", "OMP_", "MKL_", "NVIDIA_", "CUDA_"])
def test_an_environment_variable_that_may_change_sums_is_among_the_conditions(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = conditions()
    monkeypatch.setenv(f"{prefix}SOMETHING", "1")
    one = conditions()
    monkeypatch.setenv(f"{prefix}SOMETHING", "2")
    assert len({before, one, conditions()}) == 3


def test_where_the_peers_are_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    before = conditions()
    monkeypatch.setenv("TF_CONFIG", "{}")
    monkeypatch.setenv("HOME", "/elsewhere")
    assert conditions() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"identity": {"tokens": "others", "first_weights": "digest"}},
        {"identity": {"tokens": "tokens", "first_weights": "another"}},
        {"replicas": 4},
        {"task": worker.WorkerTask("run", "tokens", "term", workers=1, threads=3)},
        {"task": worker.WorkerTask("run", "tokens", "term", workers=2, threads=4)},
        *({"config": job(**training)} for training in ({"seed": 1}, {"validation_split": False}, {"batch_size": 21})),
        {"config": job(optimizer={"name": "sgd", "learning_rate": 0.5})},
    ],
)
def test_each_setting_that_changes_sums_is_among_the_conditions(changes: dict[str, Any]) -> None:
    assert conditions(**changes) != conditions()


@pytest.mark.parametrize("name", ["machine", "version"])
def test_the_machine_and_the_versions_are_among_the_conditions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = conditions()
    monkeypatch.setattr(worker, name, lambda *_: "another")
    assert conditions() != before
