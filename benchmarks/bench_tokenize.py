"""Tokenizing through Ray Data against a plain pyarrow + sentencepiece loop on the same cores.

Both sides read the same Parquet shards, encode every record and write token shards to disk; the plain side is
as many processes as there are cores, each with its share of the files. Rounds alternate; Ray is started before.
The last line is one JSON object: records per second of both, and their ratio.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from runner.config import JobConfig, parse_job
from runner.data.files import list_files
from runner.data.prepare import prepare_tokens, token_key
from runner.data.survey import survey_records
from runner.storage import open_folder
from runner.train.local_ray import start_local_ray

ROOT = Path(__file__).resolve().parent.parent


def write_records(folder: Path, count: int, files: int) -> None:
    """The demo records, repeated to `count`, in `files` shards of equal size."""
    demo = pq.read_table(ROOT / "examples" / "data" / "randhie-texts").column("text").to_pylist()
    texts = (demo * (count // len(demo) + 1))[:count]
    folder.mkdir()
    for part in range(files):
        pq.write_table(pa.table({"text": texts[part::files]}), folder / f"part-{part}.parquet")


def tokenize_plainly(files: list[Path], model: bytes, target: Path) -> None:
    """What anyone would write: read a file, encode its records, write their ids."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    for file in files:
        encoded = processor.encode(pq.read_table(file).column("text").to_pylist())
        lengths = np.fromiter(map(len, encoded), np.int32, len(encoded))
        np.concatenate([np.asarray(ids, np.uint16) for ids in encoded]).tofile(target / f"{file.stem}.ids")
        lengths.tofile(target / f"{file.stem}.lengths")


def time_plain(records: Path, model: bytes, target: Path, cores: int) -> float:
    """Seconds, from processes that are already there."""
    files = sorted(records.iterdir())
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        pool.map(abs, range(cores))
        start = time.perf_counter()
        pool.starmap(tokenize_plainly, [(files[core::cores], model, target) for core in range(cores)])
        return time.perf_counter() - start


def time_ray(config: JobConfig, cache: Path) -> float:
    """Seconds for the tokens alone: the model is given, as it is to the plain side."""
    files = list_files(config.data.uri)
    survey = survey_records(config.data, files)
    start = time.perf_counter()
    prepare_tokens(config, survey, open_folder(str(cache)), token_key(config, files), lambda _message: None)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_records(folder / "records", options.records, options.files)
        start_local_ray()
        job = {"name": "bench", "data": {"uri": str(folder / "records"), "field_delimiter": ","}}
        config = parse_job(job, environment={})
        time_ray(config, folder / "trained")
        model = next((folder / "trained").rglob("sentencepiece.model"))
        given = parse_job({**job, "tokenizer": {"uri": str(model)}}, environment={})
        plain: list[float] = []
        ray: list[float] = []
        for round_number in range(options.rounds):
            target = folder / f"plain-{round_number}"
            target.mkdir()
            plain.append(time_plain(folder / "records", model.read_bytes(), target, cores))
            ray.append(time_ray(given, folder / f"ray-{round_number}"))
            print(f"round {round_number}: plain {plain[-1]:.2f} s, Ray Data {ray[-1]:.2f} s", flush=True)
    ratios = [one / other for one, other in zip(plain, ray, strict=True)]
    result = {
        "records": options.records,
        "cores": cores,
        "plain_records_per_s": round(options.records / statistics.median(plain)),
        "ray_records_per_s": round(options.records / statistics.median(ray)),
        "ratio": round(statistics.median(ratios), 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
