"""A report of a run on 20,000 records: the whole command, and its parts in a process of its own.

Trains the model of examples/texts.yaml for one epoch first, outside the clock. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
TARGET = "field_8"


def train(folder: Path, records: int) -> Path:
    """A run on the demo records, repeated up to `records`."""
    demo = ROOT / "examples" / "data" / "randhie-texts"
    if not demo.is_dir():
        subprocess.run([sys.executable, "examples/make_demo_data.py"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    texts = pq.read_table(demo).column("text").to_pylist()
    texts = (texts * (records // len(texts) + 1))[:records]
    (folder / "records").mkdir()
    pq.write_table(pa.table({"text": texts}), folder / "records" / "a.parquet")
    settings = [
        "name=reported",
        f"data.uri={folder / 'records'}",
        f"storage.uri={folder / 'runs'}",
        "training.epochs=1",
    ]
    command = [sys.executable, "-m", "runner", "submit", "examples/texts.yaml", "--quiet"]
    subprocess.run(command + [part for setting in settings for part in ("--set", setting)], cwd=ROOT, check=True)
    return folder / "runs" / "reported"


def time_command(run: Path) -> float:
    """Seconds of `runner report RUN --target COLUMN`, from the start of its process to its end."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "runner", "report", run, "--target", TARGET]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def time_parts(run: Path) -> dict[str, float]:
    """Seconds of each part, in this process, one after the other."""
    seconds: dict[str, float] = {}
    last = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal last
        seconds[name], last = time.perf_counter() - last, time.perf_counter()

    from runner.data.files import list_files
    from runner.report.compare import choose_layout, compare_records
    from runner.report.facade import Found
    from runner.report.page import page
    from runner.report.real import read_real_records
    from runner.report.synthetic import MOST_RECORDS, draw_records
    from runner.run_directory import RunDirectory

    directory = RunDirectory.find(str(run))
    config = directory.read_config()
    lap("importing_s")
    real = read_real_records(config, list_files(config.data.uri), None)
    lap("reading_s")
    import tensorflow as tf  # noqa: F401

    lap("importing_tensorflow_s")
    synthetic = draw_records(directory.folder.child("model"), min(real.training_records, MOST_RECORDS))
    lap("generating_s")
    layout = choose_layout(config, real, TARGET)
    quality = compare_records(config, real, synthetic, layout, TARGET)
    lap("comparing_s")
    status = directory.current_status()
    page(Found(directory.uri, config, status, (), None, None, real, synthetic, quality, "", TARGET))
    lap("drawing_s")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=20_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run = train(Path(name), options.records)
        total = time_command(run)
        parts = time_parts(run)
    result = {"records": options.records, "total_s": total, **parts}
    print(json.dumps({key: round(value, 2) for key, value in result.items()}))


if __name__ == "__main__":
    main()
