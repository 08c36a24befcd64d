"""Checkpoints: everything the next step depends on, published whole or not at all.

`checkpoints/step-000000000120/` holds `tensors.safetensors` (weights, optimizer, best weights) and `state.json`
(position in the data, history, callbacks), and last a manifest with their SHA-256. Restoring takes the newest that
verifies and warns about newer ones that do not.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from runner.errors import CorruptError
from runner.storage import Folder, publish, read_manifest, read_published

KEPT = 2
"""Newest checkpoints kept: should the last be damaged, there is one before it."""

TENSORS = "tensors.safetensors"
STATE = "state.json"

log = logging.getLogger(__name__)

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Checkpoint:
    """A restored checkpoint. `step` counts optimizer steps since the run began."""

    step: int
    tensors: dict[str, NDArray[Any]]
    state: dict[str, Any]


def save_checkpoint(folder: Folder, step: int, tensors: Tensors, state: Mapping[str, Any], *, ends_epoch: bool) -> None:
    """Publish a checkpoint under `folder`; a crash at any point leaves it whole or invisible."""
    # Not np.ascontiguousarray: it makes vectors of scalars.
    contiguous = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    files = {TENSORS: save(contiguous), STATE: json.dumps(state).encode()}
    publish(folder.child(_name(step)), files, {"step": step, "ends_epoch": ends_epoch})


def newest_checkpoint(folder: Folder) -> Checkpoint | None:
    """The newest checkpoint that verifies, or None; newer ones that do not are warned about, one line each."""
    for step in reversed(checkpoint_steps(folder)):
        try:
            files = read_published(folder.child(_name(step)))
            return Checkpoint(step, load(files[TENSORS]), json.loads(files[STATE]))
        except CorruptError as error:
            log.warning("skipping the checkpoint of step %d: %s", step, error)
    return None


def checkpoint_steps(folder: Folder) -> list[int]:
    """Steps that have a checkpoint directory, whole or not, ascending."""
    return sorted(int(name.removeprefix("step-")) for name in folder.subfolders() if re.fullmatch(r"step-\d{12}", name))


def prune_checkpoints(folder: Folder, newest: int, *, keep_epochs: bool) -> None:
    """Remove all but the `KEPT` newest published checkpoints up to step `newest`, and epochs' ends if asked to.

    Whatever claims to be newer than `newest` comes from a run that was overtaken, or is damaged: it goes too. Files
    that are no checkpoint's stay.
    """
    steps = checkpoint_steps(folder)
    published = {step: info for step in steps if step <= newest and (info := _published_info(folder, step))}
    kept = set(sorted(published)[-KEPT:])
    if keep_epochs:
        kept |= {step for step, info in published.items() if info["ends_epoch"]}
    for step in steps:
        if step not in kept:
            folder.child(_name(step)).delete("manifest.json")
            folder.child(_name(step)).remove([TENSORS, STATE])


def _published_info(folder: Folder, step: int) -> dict[str, Any] | None:
    try:
        return read_manifest(folder.child(_name(step)))["info"]
    except CorruptError:
        return None


def _name(step: int) -> str:
    return f"step-{step:012d}"


class BackgroundWriter:
    """Writes to storage while training goes on, in order, one job at a time.

    A failed write is raised by the next `submit` or by `finish`: storage that stays away ends the run.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "storage-writer")
        self._pending: Future[None] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether the last job is done."""
        return self._pending is None or self._pending.done()

    def submit(self, write: Any, *arguments: Any) -> None:
        """Wait for the job before, then start this one."""
        self.finish()
        self._pending = self._pool.submit(write, *arguments)

    def finish(self) -> None:
        """Wait until everything is written."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        """Finish and end the thread."""
        try:
            self.finish()
        finally:
            self._pool.shutdown()
