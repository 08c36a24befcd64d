"""Runs that version 0.1.0 began in November 2026, two epochs long, are gone on with by the code of today.

`earlier_runs/` holds what it left of its records and of two runs; FOLDER stands for where it was. The job was
`{name: plain, data: {uri: records/, field_delimiter: ","}, tokenizer: {kind: char, alphabet: "0123456789,abc"},
examples: {seq_length: 12}, model: {embedding_dim: 4, rnn_units: 4, layers: 1}, training: {epochs: 2, batch_size: 16}}`,
and with `privacy: {enabled: true, noise_multiplier: 1.0}` that of the other one.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from tests.runs import history_of, run_runner, status_of, weights_of, write_job

EARLIER = Path(__file__).with_name("earlier_runs")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(EARLIER, tmp_path / "runs")
    shutil.move(tmp_path / "runs" / "records", tmp_path / "records")
    for path in (tmp_path / "runs").glob("*/*"):
        if path.name in ("job.yaml", "status.json"):
            path.write_text(path.read_text().replace("FOLDER", str(tmp_path)))
    return tmp_path


def test_a_plain_run_ends_as_one_that_was_trained_whole_today(folder: Path) -> None:
    plain, whole = folder / "runs" / "plain", folder / "runs" / "whole"
    before = history_of(plain)
    run_runner("resume", plain, "--set", "training.epochs=4")
    after = history_of(plain)
    assert [row | {"best": ""} for row in after[:2]] == [row | {"best": ""} for row in before]
    assert [row["epoch"] for row in after] == ["0", "1", "2", "3"]
    job = {
        "name": "whole",
        "data": {"uri": str(folder / "records"), "field_delimiter": ","},
        "tokenizer": {"kind": "char", "alphabet": "0123456789,abc"},
        "examples": {"seq_length": 12},
        "model": {"embedding_dim": 4, "rnn_units": 4, "layers": 1},
        "training": {"epochs": 4, "batch_size": 16},
        "storage": {"uri": str(folder / "runs")},
    }
    run_runner("submit", write_job(folder / "whole.yaml", job))
    resumed, fresh = load(weights_of(plain)), load(weights_of(whole))
    assert resumed.keys() == fresh.keys()
    for name, values in fresh.items():  # The first two epochs may be another processor's.
        np.testing.assert_allclose(resumed[name], values, rtol=1e-3, atol=1e-4)


def test_a_private_run_goes_on_in_its_ledger(folder: Path) -> None:
    private = folder / "runs" / "private"
    run_runner("resume", private, "--set", "training.epochs=3")
    claim = json.loads((private / "privacy.json").read_text())
    assert status_of(private)["state"] == "done"
    assert [row["steps"] for row in history_of(private)] == ["6", "6", "6"]
    # On another processor the resume opens a branch, whose steps come on top of those before.
    assert claim["steps"] == 18
    assert claim["epsilon"] > 2.1663
