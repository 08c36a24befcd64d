"""An audit of whole runs: it finds what an overfitted model remembers, and does not accuse a private one."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.errors import DataError, ResourceError, RunNotFoundError
from runner.privacy import isolated
from runner.run_directory import RunDirectory
from runner.storage import open_folder, publish, read_published
from runner.train.audit import audit_run
from tests.runs import run_runner, write_job

RECORDS, BATCH_SIZE = 1000, 40
LETTERS = "abcdefghijklmnop"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with records in which nothing can be learned but the records themselves."""
    folder = tmp_path_factory.mktemp("audited runs")
    draw = random.Random(3)
    texts = ["".join(draw.choices(LETTERS, k=12)) for _ in range(RECORDS)]
    (folder / "records").mkdir()
    pq.write_table(pa.table({"text": texts}), folder / "records" / "a.parquet")
    return folder


def submit(folder: Path, name: str, privacy: dict[str, Any], **training: Any) -> RunDirectory:
    job = {
        "name": name,
        "data": {"uri": str(folder / "records")},
        "tokenizer": {"kind": "char", "alphabet": LETTERS},
        "examples": {"seq_length": 12},
        "model": {"embedding_dim": 32, "rnn_units": 96, "layers": 1, "dropout_rate": 0},
        "training": {"batch_size": BATCH_SIZE, "early_stopping": {"enabled": False}, "save_best": False, **training},
        "privacy": privacy,
        "storage": {"uri": str(folder / "runs")},
    }
    run_runner("submit", write_job(folder / f"{name}.yaml", job))
    return directory_of(folder / "runs" / name)


def directory_of(run: Path) -> RunDirectory:
    return RunDirectory(open_folder(str(run)))


@pytest.fixture(scope="module")
def overfitted(folder: Path) -> RunDirectory:
    return submit(folder, "overfitted", {}, epochs=40, optimizer={"name": "adam", "learning_rate": 0.01})


@pytest.fixture
def copied(overfitted: RunDirectory, folder: Path, tmp_path: Path) -> Path:
    """A copy of the overfitted run, to spoil."""
    run = tmp_path / "copied"
    shutil.copytree(folder / "runs" / "overfitted", run)
    return run


def test_the_audit_finds_what_an_overfitted_model_remembers(overfitted: RunDirectory) -> None:
    answer, text = audit_run(overfitted)
    assert (answer["trained"], answer["unseen"]) == (RECORDS * 4 // 5, RECORDS // 5)
    assert answer["mean_loss_trained"] < answer["mean_loss_unseen"] - 1
    assert answer["advantage"] > 0.9
    assert answer["exposure_mean"] > answer["exposure_of_chance"] + 3
    assert answer["claim"] is None
    assert not answer["contradicted"]
    assert "the model remembers records it was trained on" in text
    assert json.loads(json.dumps(answer)) == answer


def test_a_private_run_is_not_contradicted(folder: Path, overfitted: RunDirectory) -> None:
    private = submit(folder, "private", {"enabled": True, "noise_multiplier": 2.0}, epochs=4)
    answer, text = audit_run(private)
    statement = json.loads(private.folder.read("privacy.json"))
    assert answer["claim"] == {"epsilon": statement["epsilon"], "delta": statement["delta"]}
    assert answer["advantage_allowed"] + answer["advantage_margin"] < 1, "a claim that could be contradicted"
    assert not answer["contradicted"]
    assert "that proves nothing" in text


def test_an_overfitted_model_that_claims_privacy_is_contradicted(copied: Path) -> None:
    model = open_folder(str(copied / "model"))
    publish(model, {**read_published(model), "privacy.json": b'{"epsilon": 1.0, "delta": 1e-5}'})
    answer, text = audit_run(directory_of(copied))
    assert answer["contradicted"]
    assert "THE PRIVACY CLAIM IS FALSE" in text


def test_without_its_tokens_a_run_cannot_be_audited(copied: Path, tmp_path: Path) -> None:
    directory = directory_of(copied)
    config = directory.read_config()
    elsewhere = config.storage.model_copy(update={"uri": str(tmp_path / "elsewhere")})
    directory.write_config(config.model_copy(update={"storage": elsewhere}))
    with pytest.raises(DataError, match="the tokens that this run was trained on are gone"):
        audit_run(directory)


def test_without_validation_examples_there_is_nothing_to_compare_with(copied: Path) -> None:
    directory = directory_of(copied)
    config = directory.read_config()
    without = config.training.model_copy(update={"validation_split": False})
    directory.write_config(config.model_copy(update={"training": without}))
    with pytest.raises(DataError, match="validation_split is off"):
        audit_run(directory)


def test_a_run_without_a_model_cannot_be_audited(copied: Path) -> None:
    shutil.rmtree(copied / "model")
    with pytest.raises(RunNotFoundError, match="no model here"):
        audit_run(directory_of(copied))


def test_a_missing_uv_is_said_before_anything_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(isolated, "UV_FOLDERS", ())
    with pytest.raises(ResourceError, match="needs uv, but it is not installed"):
        audit_run(directory_of(tmp_path / "no run"))
