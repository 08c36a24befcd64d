"""The demo's records are the RAND Health Insurance Experiment, whole and faithful."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "make_demo_data.py"


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
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_demo_is_four_shards_of_one_text_column_with_every_row(folder: Path) -> None:
    assert sorted(_contents(folder)) == [f"part-{index:05d}.parquet" for index in range(4)]
    shards = [pq.read_table(path) for path in sorted(folder.iterdir())]
    assert all(shard.column_names == ["text"] for shard in shards)
    assert sum(shard.num_rows for shard in shards) == 20_190
    assert min(shard.num_rows for shard in shards) >= 5_000


def test_demo_records_read_back_as_the_experiments_numbers(demo: Any, folder: Path) -> None:
    from statsmodels.datasets import randhie

    table: Any = randhie.load_pandas().data
    expected = table[list(demo.COLUMNS)].to_numpy(float).tolist()
    texts = [text for path in sorted(folder.iterdir()) for text in pq.read_table(path)["text"].to_pylist()]
    written = [[float(field) for field in text.split(",")] for text in texts]
    assert len(written) == len(expected)
    assert {len(row) for row in written} == {10}
    worst = max(
        abs(a - b) for row, right in zip(written, expected, strict=True) for a, b in zip(row, right, strict=True)
    )
    assert worst <= 0.00005 + 1e-12


def test_demo_integers_are_written_without_a_decimal_point(folder: Path) -> None:
    first = pq.read_table(folder / "part-00000.parquet")["text"][0].as_py()
    assert first == "0,4.6151,1,6.9078,0,0,13.7319,1,0,0"


def test_demo_is_the_same_bytes_every_time(demo: Any, folder: Path, tmp_path: Path) -> None:
    demo.main(tmp_path / "again")
    assert _contents(tmp_path / "again") == _contents(folder)


def test_second_call_leaves_the_records_alone_and_prints_them(
    demo: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "records", lambda: pytest.fail("the records were made again"))
    demo.main(folder)
    assert "20,190 records in 4 Parquet files" in capsys.readouterr().out
