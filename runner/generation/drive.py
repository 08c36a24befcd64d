"""The driver of a generation into a folder: make the shards that are missing, then say what was made.

    claim_folder(folder, generation)
    drive_generation(folder_uri, stop)      # in the user's process, or in a cluster's job:
    python -m runner.generation.drive FOLDER_URI

Killed anywhere, it goes on with the shards that are not whole, and ends with the same bytes.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.data.schema import Schema
from runner.errors import JobStoppedError
from runner.generation.rows import table_schema
from runner.generation.shards import (
    Generation,
    ShardInfo,
    drop_repeated,
    finished_shards,
    make_shard,
    read_generation,
    summarize,
)
from runner.model.artifact import describe_model
from runner.run_directory import GENERATION, RunDirectory, Status
from runner.storage import Folder, open_folder
from runner.train.background import run_as_job
from runner.train.facade import connected_ray, signs_of_life, told_in_status
from runner.train.series import reading_version

SUMMARY = f"{GENERATION}/summary.json"
STATUS_EVERY_S = 0.5
CONTINUES = "the same command continues it"

log = logging.getLogger(__name__)


def drive_generation(folder_uri: str, stop: threading.Event, *, local: bool = True) -> Status:
    """Take a claimed folder to its end; `stop` ends it after the next shard.

    Raises:
        JobStoppedError: it was stopped; the same command continues it.
        RunnerError: what went wrong, which `status.json` says too.
    """
    folder = open_folder(folder_uri)
    with told_in_status(RunDirectory(folder.child(GENERATION))) as (directory, _):
        with signs_of_life(directory):
            summary = _drive(folder, directory, stop, local=local)
        if summary is not None:
            message = f"{summary['records']:,} records in {summary['shards']} files"
            log.info("done: %s", message)
            return directory.update_status(state="done", message=message, progress={})
        log.info("stopped")
        directory.update_status(state="stopped", message=CONTINUES, progress={})
    raise JobStoppedError(f"{folder_uri}: stopped; {CONTINUES}")


def read_summary(folder: Folder) -> dict[str, Any]:
    """The counts of a finished generation."""
    return json.loads(folder.read(SUMMARY))


def _drive(folder: Folder, directory: RunDirectory, stop: threading.Event, *, local: bool) -> dict[str, Any] | None:
    """Make what is missing; the summary, None where it was stopped."""
    status = directory.update_status(state="preparing", message="looking for finished shards", error=None)
    generation = read_generation(folder)
    infos = finished_shards(folder, generation.shards)
    missing = [number for number in range(generation.shards) if number not in infos]
    log.info("%d of %d shards are to be made", len(missing), generation.shards)
    if missing:
        folder.delete(SUMMARY)
        progress = _Progress(directory, generation, infos)
        for number, info in _make(folder, generation, missing, status.job_folder, local=local):
            log.info("shard %d: %d records", number, info.records)
            progress.add(number, info)
            if len(infos) < generation.shards and (stop.is_set() or progress.stop_requested):
                return None
    if not folder.exists(SUMMARY):
        if generation.settings.unique and generation.shards > 1:
            schema = _table_schema(generation)
            columns = None if schema is None else schema.learned.names
            infos = drop_repeated(folder, infos, lambda message: _say(directory, message), columns)
        folder.write(SUMMARY, json.dumps(summarize(list(infos.values())), indent=1).encode())
    return read_summary(folder)


class _Progress:
    """Counts shards as they come, and keeps the status up to date."""

    def __init__(self, directory: RunDirectory, generation: Generation, infos: dict[int, ShardInfo]) -> None:
        self._directory = directory
        self._generation = generation
        self._infos = infos
        self._made = -1  # The first shard starts the clock: before it there is much loading.
        self._since = self._said = time.monotonic()
        self.stop_requested = False
        directory.update_status(state="generating", message="loading the model", progress={})

    def add(self, number: int, info: ShardInfo) -> None:
        self._infos[number] = info
        now = time.monotonic()
        if self._made < 0:
            self._made, self._since = 0, now
        else:
            self._made += info.records
        if now - self._said < STATUS_EVERY_S and len(self._infos) < self._generation.shards:
            return
        self._said = now
        records = sum(each.records for each in self._infos.values())
        progress: dict[str, Any] = {
            "records": records,
            "of_records": self._generation.settings.records,
            "shards": len(self._infos),
            "of_shards": self._generation.shards,
        }
        if self._made:
            rate = self._made / max(now - self._since, 1e-9)
            rest = self._generation.settings.records - records
            progress |= {"records_per_second": rate, "eta_s": rest / rate}
        self._directory.update_status(state="generating", progress=progress)
        self.stop_requested = self._directory.stop_requested()


def _make(
    folder: Folder, generation: Generation, missing: list[int], job_folder: str, *, local: bool
) -> Iterator[tuple[int, ShardInfo]]:
    """The missing shards: one in this process, several in a pool."""
    from runner.generation.pool import load_maker, make_shards

    training = _training_hashes(generation)
    if local and len(missing) == 1:
        maker = load_maker(folder, generation, training)
        yield missing[0], make_shard(maker, folder, generation.rows_per_shard, missing[0])
        return
    with connected_ray(local=local):
        yield from make_shards(folder.uri, missing, generation.actors, training, job_folder)


def _training_hashes(generation: Generation) -> NDArray[np.uint64] | None:
    if not generation.settings.not_in_training:
        return None
    from runner.generation.training_records import hash_records

    run = RunDirectory(open_folder(generation.run_uri))
    return hash_records(run.read_model_config().data, reading_version(run), _table_schema(generation))


def _table_schema(generation: Generation) -> Schema | None:
    """That of the run's table."""
    return table_schema(describe_model(open_folder(generation.run_uri).child("model")))


def _say(directory: RunDirectory, message: str) -> None:
    directory.update_status(state="preparing", message=message)


def _drive_as_job(folder_uri: str, stop: threading.Event) -> None:
    """What a user asked to stop ends well: a RayJob that fails is started again."""
    try:
        drive_generation(folder_uri, stop, local=False)
    except JobStoppedError:
        if not RunDirectory(open_folder(folder_uri).child(GENERATION)).stop_requested():
            raise


def main() -> None:
    """The entry point of a cluster's job."""
    run_as_job(_drive_as_job)


if __name__ == "__main__":
    main()
