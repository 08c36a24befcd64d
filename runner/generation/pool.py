"""Shards from a pool of processes, through Ray Data: a row is a shard's number, and each process loads the model once.

A process uses one core and no GPU, here and on a cluster, so that a shard's bytes do not depend on where it is made.
Needs a connected Ray.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.errors import CorruptError, JobFailedError, RunnerError
from runner.generation.records import RecordMaker
from runner.generation.shards import UNMASKED_VERSION, Generation, ShardInfo, make_shard, read_generation
from runner.model.artifact import load_model
from runner.run_directory import JOB_FOLDER_VARIABLE
from runner.storage import Folder, open_folder


def make_shards(
    folder_uri: str,
    numbers: Sequence[int],
    actors: int | None,
    training: NDArray[np.uint64] | None,
    job_folder: str,
) -> Iterator[tuple[int, ShardInfo]]:
    """Make shards of a claimed folder, in any order; `actors` None: one for each core.

    Raises:
        RunnerError: as for `RecordMaker.make`.
    """
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = False
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
    size = min(actors or cores, cores, len(numbers))
    rows = ray.data.from_items([{"shard": number} for number in numbers], override_num_blocks=len(numbers))
    made = rows.map_batches(
        _ShardActor,
        batch_size=1,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1),
        fn_constructor_kwargs={
            "folder_uri": folder_uri,
            "training": None if training is None else ray.put(training),
            "job_folder": job_folder,
        },
    )
    for row in made.iter_rows():
        if row["error"]:
            error = JobFailedError(*row["error"].splitlines())
            error.exit_code = int(row["exit_code"])
            raise error
        yield int(row["shard"]), ShardInfo(**json.loads(row["info"]))


def load_maker(folder: Folder, generation: Generation, training: NDArray[np.uint64] | None) -> RecordMaker:
    """What makes the shards of a claimed folder, on one core.

    Raises:
        CorruptError: the run's model is another one by now.
    """
    _use_one_core()
    model = load_model(open_folder(generation.run_uri).child("model"))
    if model.digest != generation.model:
        raise CorruptError(
            f"{generation.run_uri}: the model changed since {folder.uri} was begun; choose another folder"
        )
    return RecordMaker(model, generation.settings, training, masked=generation.version > UNMASKED_VERSION)


class _ShardActor:
    """Makes shards, one at a time, in a process of its own.

    What goes wrong is part of the answer: Ray would try again, and wrap the error into its own.
    """

    def __init__(self, folder_uri: str, training: Any, job_folder: str) -> None:
        self._folder_uri = folder_uri
        self._training = training
        self._job_folder = job_folder
        self._loaded: tuple[Folder, Generation, RecordMaker] | None = None

    def __call__(self, batch: dict[str, NDArray[np.int64]]) -> dict[str, list[Any]]:
        (number,) = batch["shard"].tolist()
        answer: dict[str, list[Any]] = {"shard": [number], "info": [""], "error": [""], "exit_code": [0]}
        try:
            folder, generation, maker = self._load()
            info = make_shard(maker, folder, generation.rows_per_shard, number)
        except RunnerError as error:
            return answer | {"error": [str(error)], "exit_code": [error.exit_code]}
        return answer | {"info": [json.dumps(asdict(info))]}

    def _load(self) -> tuple[Folder, Generation, RecordMaker]:
        if self._loaded is None:
            import ray

            os.environ.setdefault(JOB_FOLDER_VARIABLE, self._job_folder)
            folder = open_folder(self._folder_uri)
            generation = read_generation(folder)
            training: Any = None if self._training is None else ray.get(self._training)
            self._loaded = folder, generation, load_maker(folder, generation, training)
        return self._loaded


def _use_one_core() -> None:
    """For a process that has not used TensorFlow yet; afterwards it stays as it is."""
    import sentencepiece  # noqa: F401  before TensorFlow
    import tensorflow as tf

    with suppress(RuntimeError):
        tf.config.set_visible_devices([], "GPU")
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
