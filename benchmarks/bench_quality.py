"""Quality over epsilon, beside peers: whole trainings on public tables, judged by mostlyai-qa.

    .venv/bin/python benchmarks/bench_quality.py [--data FOLDER] [--folder WORK] [--makers project MST] [--seeds 0 1 2]

Each maker trains on a table's training half, makes as many rows, and those are scored against both halves. Makers: this
project with the settings that `runner init` picks and the schema of benchmarks/quality/, declared; the rows that others
published; and peers that run here in locked environments of their own (benchmarks/peers/): mostlyai-engine's tabular
model and its LSTM, and MST and AIM of dpmm with the same declared schema. The first run downloads about 8 GB.

Writes docs/quality.csv, in which rows of earlier runs stay unless they were made again, and docs/quality.svg. With
--folder, rows and scores are kept there and not made again. The last line is one JSON object: the means over the seeds,
and why something was left out.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import yaml
from matplotlib import rc
from matplotlib.figure import Figure
from pyarrow import parquet as pq
from pyarrow.csv import read_csv
from quality_tables import Table, find_tables

ROOT = Path(__file__).resolve().parent.parent
TIMED_OUT = 124
"""An exit code of coreutils' timeout."""
RESULTS = ROOT / "docs" / "quality.csv"
DATA = Path(os.environ.get("QUALITY_DATA", ROOT.parent / "shared" / "quality" / "data"))
PROJECT = "project"
PEERS: dict[str, tuple[str, ...]] = {
    "mostlyai-engine tabular": ("engine_table", "--model", "tabular"),
    "mostlyai-engine LSTM": ("engine_table", "--model", "lstm"),
    "MST": ("dpmm_table", "--model", "mst"),
    "AIM": ("dpmm_table", "--model", "aim"),
}
"""From a peer to its script in benchmarks/peers/ and the arguments that choose it."""
PRIVATE_ONLY = ("MST", "AIM")
EPSILONS = ("none", "1", "1.6", "2", "3.4", "4", "4.3", "8", "10.9")
DELTA = 1e-5
FIGURES = ("overall", "univariate", "bivariate", "trivariate")
COLORS = {PROJECT: "#d9631e", "MST": "#7a8699", "AIM": "#18202b", "mostlyai, published": "#2f6fd6"}


class MakerError(Exception):
    """A maker could not be installed, failed or took too long; the message says why."""


@dataclass(frozen=True)
class Row:
    """One line of docs/quality.csv. `most`: the overall accuracy that another sample of the source would have;
    `seconds`: from the start of training to the last row, empty for published rows."""

    table: str
    maker: str
    epsilon: str
    seed: int
    overall: float
    univariate: float
    bivariate: float
    trivariate: float
    most: float
    auc: float
    dcr_share: float
    identical: float
    identical_of_holdout: float
    seconds: float | None

    @property
    def key(self) -> tuple[str, str, float, int]:
        """Which line it is, and where it stands."""
        return self.table, self.maker, -1.0 if self.epsilon == "none" else float(self.epsilon), self.seed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the published tables, or $QUALITY_DATA")
    parser.add_argument(
        "--folder", type=Path, help="keep rows and scores here; those that are there are not made again"
    )
    parser.add_argument("--tables", nargs="+", help="names; default: all")
    parser.add_argument("--makers", nargs="+", choices=(PROJECT, "published", *PEERS), help="default: all")
    parser.add_argument("--epsilons", nargs="+", choices=EPSILONS, default=EPSILONS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=60, help="for one training with its rows, at most")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    tables, which = find_tables(options.data, folder)
    print(which, flush=True)
    if unknown := set(options.tables or ()) - {table.name for table in tables}:
        parser.error(
            f"no such table: {', '.join(sorted(unknown))}; there are {', '.join(each.name for each in tables)}"
        )
    makers = options.makers or (PROJECT, "published", *PEERS)
    rows, why = read_rows(), dict[str, str]()
    for table in tables:
        if options.tables and table.name not in options.tables:
            continue
        jobs: list[tuple[str, str, int, Path | None]] = []
        if "published" in makers:
            jobs += [(each.maker, each.epsilon, 0, each.file) for each in table.published]
        for maker in (maker for maker in makers if maker != "published"):
            epsilons = [each for each in options.epsilons if each != "none" or maker not in PRIVATE_ONLY]
            jobs += [(maker, epsilon, seed, None) for epsilon in epsilons for seed in options.seeds]
        for maker, epsilon, seed, file in jobs:
            name = f"{table.name}, {maker}, epsilon {epsilon}, seed {seed}"
            try:
                row = measure(table, maker, epsilon, seed, file, folder, options.minutes)
            except MakerError as error:
                why[name] = str(error)
                print(f"{name}: {error}", file=sys.stderr, flush=True)
                continue
            rows[row.key] = row
            write_rows(rows)
            print(json.dumps(asdict(row)), file=sys.stderr, flush=True)
    draw(list(rows.values()))
    print(json.dumps({"means": means(list(rows.values())), "why": why}))


def measure(table: Table, maker: str, epsilon: str, seed: int, file: Path | None, folder: Path, minutes: float) -> Row:
    """Make rows, unless they are published or there already, and score them, unless that was done."""
    stem = folder / f"{table.name}-{maker}-{epsilon}-{seed}".replace(", ", "-").replace(" ", "-")
    seconds = None
    if file is None:
        file, clock = stem.with_name(f"{stem.name}.csv"), stem.with_name(f"{stem.name}.seconds")
        if not clock.exists():
            start = time.perf_counter()
            make = make_by_project if maker == PROJECT else make_by_peer
            make(table, maker, epsilon, seed, file, folder, minutes)
            clock.write_text(str(round(time.perf_counter() - start, 1)))
        seconds = float(clock.read_text())
    score_file = stem.with_name(f"{stem.name}.json")
    if not score_file.exists():
        score_file.write_text(json.dumps(run_script("qa_score", [table.training, table.holdout, file], minutes)))
    score = json.loads(score_file.read_text())
    accuracy, distances = score["accuracy"], score["distances"]
    return Row(
        table.name,
        maker,
        epsilon,
        seed,
        *(round(accuracy[name], 4) for name in FIGURES),
        most=round(accuracy["overall_max"], 4),
        auc=score["similarity"]["discriminator_auc_training_synthetic"],
        dcr_share=distances["dcr_share"],
        identical=distances["ims_training"],
        identical_of_holdout=distances["ims_trn_hol"],
        seconds=seconds,
    )


def make_by_peer(table: Table, maker: str, epsilon: str, seed: int, file: Path, folder: Path, minutes: float) -> None:
    """Rows of a peer, as a CSV file."""
    script, *arguments = PEERS[maker]
    arguments += ["--training", table.training, "--rows", table.rows, "--out", file, "--seed", seed, "--delta", DELTA]
    if epsilon != "none":
        arguments += ["--epsilon", epsilon]
    if script == "dpmm_table":
        schema = folder / f"{table.name}-fields.json"
        schema.write_text(json.dumps(table.fields, default=str))
        arguments += ["--schema", schema]
    else:
        arguments += ["--minutes", minutes / 2]  # of training; generation takes its time, too
    run_script(script, arguments, minutes)


def run_script(name: str, arguments: Sequence[Any], minutes: float) -> dict[str, Any]:
    """The last line of benchmarks/peers/NAME.py, run in its locked environment."""
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    script = ROOT / "benchmarks" / "peers" / f"{name}.py"
    output = run([uv, "run", "--locked", "--script", script, *arguments], minutes)
    return json.loads(output.splitlines()[-1])


def make_by_project(
    table: Table, _maker: str, epsilon: str, seed: int, file: Path, folder: Path, minutes: float
) -> None:
    """Rows of this project, as `runner init`, `submit` and `generate` make them, with the declared schema."""
    records = folder / "records" / table.name
    if not records.exists():
        records.mkdir(parents=True)
        pq.write_table(read_csv(table.training), records / "part-0.parquet")
    name, job = f"{table.name}-{epsilon}-{seed}", folder / f"{table.name}-{epsilon}-{seed}.yaml"
    template = "default" if epsilon == "none" else "private"
    runner(minutes, "init", job, "--force", "--template", template, "--name", name, "--data", f"{records}/")
    settings = yaml.safe_load(job.read_text(encoding="utf-8")) | {"fields": table.fields}
    settings["training"]["seed"] = seed
    settings["storage"]["uri"] = str(folder / "runs")
    if epsilon != "none":
        settings["privacy"] |= {"target_epsilon": float(epsilon), "delta": DELTA}
    job.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
    run_folder = folder / "runs" / name
    runner(minutes, *(("resume", run_folder) if run_folder.exists() else ("submit", job)))
    runner(minutes, "generate", run_folder, "-n", table.rows, "-o", file, "--seed", seed, "--overwrite")


def runner(minutes: float, *arguments: Any) -> None:
    run([sys.executable, "-m", "runner", *arguments], minutes)


def run(command: Sequence[Any], minutes: float) -> str:
    """What a command prints; MakerError with the end of its standard error when it fails."""
    words = ["timeout", f"{60 * minutes:.0f}", *map(str, command)]  # It ends what the command has started, too.
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == TIMED_OUT:
        raise MakerError(f"took more than {minutes:g} minutes")
    if done.returncode:
        raise MakerError(f"exit code {done.returncode}: {' '.join(done.stderr.split())[-400:]}")
    return done.stdout


def read_rows() -> dict[tuple[str, str, float, int], Row]:
    """Of earlier runs, by their keys."""
    if not RESULTS.exists():
        return {}
    with RESULTS.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    rows = [
        Row(
            line["table"],
            line["maker"],
            line["epsilon"],
            int(line["seed"]),
            *(float(line[name]) for name in list(line)[4:-1]),
            seconds=float(line["seconds"]) if line["seconds"] else None,
        )
        for line in lines
    ]
    return {row.key: row for row in rows}


def write_rows(rows: dict[tuple[str, str, float, int], Row]) -> None:
    with RESULTS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(Row.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(rows[key]) for key in sorted(rows))


def means(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Over the seeds, by table, maker and epsilon."""
    found: dict[str, dict[str, Any]] = {}
    for key in sorted({row.key[:3] for row in rows}):
        mine = [row for row in rows if row.key[:3] == key]
        name = f"{mine[0].table}, {mine[0].maker}, epsilon {mine[0].epsilon}"
        figures = {figure: round(mean(getattr(row, figure) for row in mine), 4) for figure in (*FIGURES, "auc")}
        found[name] = {**figures, "seeds": len(mine)}
    return found


def draw(rows: Sequence[Row]) -> None:
    """Overall accuracy over epsilon, a line for each maker, and a point where only one epsilon was measured."""
    rc("svg", hashsalt="quality")
    tables = sorted({row.table for row in rows})
    figure = Figure(figsize=(4.6 * max(1, len(tables)), 3.8), layout="constrained")
    places = {epsilon: place for place, epsilon in enumerate([*EPSILONS[1:], "none"])}
    for epsilon in sorted({row.epsilon for row in rows} - set(places), key=float):
        places[epsilon] = len(places)
    order = sorted(places, key=lambda epsilon: (epsilon == "none", 0 if epsilon == "none" else float(epsilon)))
    for axes, table in zip(figure.subplots(1, max(1, len(tables)), squeeze=False)[0], tables, strict=False):
        mine = [row for row in rows if row.table == table]
        axes.axhline(mine[0].most, color="#999999", linestyle=":", label="another sample of the source")
        for maker in sorted({row.maker for row in mine}, key=lambda maker: (maker != PROJECT, maker)):
            points = {
                order.index(row.epsilon): mean(
                    other.overall for other in mine if (other.maker, other.epsilon) == (maker, row.epsilon)
                )
                for row in mine
                if row.maker == maker
            }
            axes.plot(
                sorted(points), [points[x] for x in sorted(points)], "o-", label=maker, ms=4, color=COLORS.get(maker)
            )
        axes.set(title=table, xlabel="epsilon", ylabel="overall accuracy")
        axes.set_xticks(range(len(order)), order, fontsize=7)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(RESULTS.with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
