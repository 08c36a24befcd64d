"""The demo's records are the RAND Health Insurance Experiment, whole and faithful, and the quickstart is their job."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from runner.cli import cli
from runner.config import load_job

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPT = EXAMPLES / "make_demo_data.py"


@pytest.fixture(scope="module")
def demo() -> Any:
    spec = importlib.util.spec_from_file_location("make_demo_data", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(demo: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "randhie"
    demo.main(folder)
    return folder


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for place in (folder, _texts_of(folder)) for path in place.iterdir()}


def _texts_of(folder: Path) -> Path:
    return folder.with_name("randhie-texts")


def _experiment(demo: Any) -> Any:
    from statsmodels.datasets import randhie

    table: Any = randhie.load_pandas().data
    return table[list(demo.COLUMNS)]


@pytest.mark.parametrize("place", ["randhie", "randhie-texts"])
def test_demo_is_four_shards_with_every_row(folder: Path, place: str) -> None:
    paths = sorted(folder.with_name(place).iterdir())
    assert [path.name for path in paths] == [f"part-{index:05d}.parquet" for index in range(4)]
    rows = [pq.read_metadata(path).num_rows for path in paths]
    assert sum(rows) == 20_190
    assert min(rows) >= 5_000


def test_demo_columns_are_the_experiments_numbers(demo: Any, folder: Path) -> None:
    rows, expected = pd.read_parquet(folder), _experiment(demo)
    whole = {name for name in expected if (expected[name] % 1 == 0).all()}
    assert {name for name in rows if rows[name].dtype == "int64"} == whole
    assert {name for name in rows if rows[name].dtype == "float64"} == set(expected) - whole
    assert (rows - expected).abs().max(axis=None) <= 0.00005 + 1e-12


def test_demo_texts_read_back_as_the_rows(demo: Any, folder: Path) -> None:
    texts = pd.read_parquet(_texts_of(folder))["text"].tolist()
    assert texts[0] == "0,4.6151,1,6.9078,0,0,13.7319,1,0,0"
    written = [[float(field) for field in text.split(",")] for text in texts]
    assert written == pd.read_parquet(folder).to_numpy(float).tolist()


def test_demo_is_the_same_bytes_every_time(demo: Any, folder: Path, tmp_path: Path) -> None:
    demo.main(tmp_path / "randhie")
    assert _contents(tmp_path / "randhie") == _contents(folder)


def test_second_call_leaves_the_records_alone_and_prints_them(
    demo: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "table", lambda: pytest.fail("the records were made again"))
    demo.main(folder)
    assert "20,190 rows in 4 Parquet files" in capsys.readouterr().out


def test_the_quickstart_is_what_init_writes(demo: Any, folder: Path, tmp_path: Path) -> None:
    """But for what a comment explains, and the folder of the records."""
    job = tmp_path / "job.yaml"
    answer = CliRunner().invoke(cli, ["init", str(job), "--name", "randhie", "--data", str(folder)])
    assert answer.exit_code == 0, answer.output
    written = load_job(job, environment={})
    quickstart = load_job(EXAMPLES / "quickstart.yaml", environment={})
    for section in ("fields", "tokenizer", "examples", "model", "training", "privacy", "generation"):
        assert getattr(written, section) == getattr(quickstart, section)
