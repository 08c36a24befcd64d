"""Private runs in this process, small and without Ray, and what can be seen of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runner.config import JobConfig, parse_job
from runner.data import prepare
from runner.data.examples import Examples, TokenSet
from runner.data.files import list_files
from runner.data.prepare import prepare_tokens, token_key
from runner.data.survey import survey_records
from runner.errors import JobFailedError
from runner.run_directory import RunDirectory
from runner.storage import open_folder
from runner.submit.launch import Launch
from runner.submit.start import resume_run, start_run
from runner.train import facade
from tests.promises import observers
from tests.runs import small_job
from tests.tokens import InThisProcess

NOISE, CLIP, BATCH, RATE = 4.0, 1.0, 24, 0.01
RECORDS = 240
TRAINED, STEPS = 192, 8
"""Records that are trained on, and steps of an epoch: every 5th batch of ten is for validation."""


@contextlib.contextmanager
def without_ray() -> Iterator[None]:
    """Records are tokenized in this process: starting Ray would take longer than all these runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "_dataset", InThisProcess)
        patch.setattr(facade, "connected_ray", lambda local: contextlib.nullcontext())
        yield


def private_job(name: str, records: Path, runs: Path, privacy: dict[str, Any] | None = None, **training: Any) -> Any:
    """A private job of three epochs whose steps can be seen in the weights: plain SGD."""
    watched = ["tests.promises.observers:watch"]
    settings = {"epochs": 3, "batch_size": BATCH, "optimizer": {"name": "sgd", "learning_rate": RATE}}
    job = small_job(name, records, runs, **(settings | {"callbacks": watched} | training))
    return job | {
        "tokenizer": {"kind": "byte"},
        "model": {"embedding_dim": 8, "rnn_units": 12, "layers": 1},
        "privacy": {"enabled": True, "noise_multiplier": NOISE, "l2_norm_clip": CLIP, **(privacy or {})},
    }


def config_of(job: dict[str, Any]) -> JobConfig:
    return parse_job(job, environment={})


def start(job: dict[str, Any], *, die: int | None = None) -> Path:
    """Run a job here, to its end or until it dies; its run directory."""
    observers.forget(die=die)
    config = config_of(job)
    with pytest.raises(JobFailedError, match="killed") if die else contextlib.nullcontext():
        start_run(config, Launch(quiet=True))
    return Path(config.storage.uri) / config.name


def resume(run: Path, *overrides: str, die: int | None = None) -> None:
    observers.forget(die=die)
    directory = RunDirectory.find(str(run))
    with pytest.raises(JobFailedError, match="killed") if die else contextlib.nullcontext():
        resume_run(directory, overrides, Launch(quiet=True))


def releases() -> list[NDArray[np.float32]]:
    """What each step of the process under watch released: clipped sum and noise."""
    return [move * (BATCH / RATE) for move in observers.moves]


def report_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "privacy.json").read_text())


def tokens_of(records: Path, storage: Path) -> TokenSet:
    """The token shards of these records."""
    config = config_of(private_job("tokens", records, storage))
    files = list_files(config.data.uri)
    survey = survey_records(config.data, files)
    return prepare_tokens(config, survey, open_folder(str(storage)), token_key(config, files), lambda _message: None)


def examples_of(records: Path, storage: Path) -> Examples:
    return Examples(tokens_of(records, storage), cache_gib=1)


@dataclass
class Seen:
    """Positions of the examples that the steps of a run were fed with, in order."""

    trained: list[NDArray[np.int64]] = field(default_factory=list)
    validated: list[NDArray[np.int64]] = field(default_factory=list)


@contextlib.contextmanager
def watched_batches() -> Iterator[Seen]:
    """See which examples are loaded, for training and for validation (whose dropout key is zero)."""
    from runner.train import feed

    seen, load = Seen(), feed.load_batch

    def watching(examples: Any, positions: Any, replica: int, replicas: int, key: Any, **options: Any) -> Any:
        (seen.trained if any(key) else seen.validated).append(positions[replica::replicas])
        return load(examples, positions, replica, replicas, key, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, "load_batch", watching)
        yield seen
