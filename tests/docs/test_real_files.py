"""Three files of different shape that others published, as a newcomer takes them: from import to report.

pandas is the judge: it reads each file by itself, and what `runner` made of it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from tests.docs.newcomer import SMALL, Newcomer


class Real(NamedTuple):
    """A file of a package, how `import` is told to read it, and how its columns make a record."""

    package: str
    path: str
    options: str
    columns: str
    delimiter: str
    target: str
    epochs: int  # until most generated records have all fields
    refusal: str | None = None  # what import says without the options


AIRPORTS = Real(
    "vega_datasets",
    "_data/airports.csv",
    options="",
    columns="iata,name,city,state,country,latitude,longitude",
    delimiter="|",
    target="state",
    epochs=8,
)
CARS = Real(
    "vega_datasets",
    "_data/cars.json",
    options="",
    columns="Name,Miles_per_Gallon,Cylinders,Displacement,Horsepower,Weight_in_lbs,Acceleration,Year,Origin",
    delimiter=",",
    target="Origin",
    epochs=50,
)
TRAVEL = Real(
    "statsmodels",
    "datasets/modechoice/modechoice.csv",
    options="--csv-delimiter ';'",
    columns="individual,mode,choice,ttme,invc,invt,gc,hinc,psize",
    delimiter=",",
    target="choice",
    epochs=30,
    refusal="--csv-delimiter",
)
WHOLE = [
    pytest.param(AIRPORTS, id="a CSV file with commas and quotes in fields"),
    pytest.param(CARS, id="a JSON array of objects with nulls"),
    pytest.param(TRAVEL, id="a CSV file with semicolons"),
]


def found(real: Real) -> Path:
    spec = importlib.util.find_spec(real.package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / real.path


def read_by_pandas(path: Path, separator: str = ",") -> pd.DataFrame:
    """The file's values as texts, null where the file has none.

    pandas reads a number of a JSON file before it is a text again, so here the json module keeps it as written.
    """
    if path.suffix == ".json":
        rows = json.loads(path.read_text(), parse_int=str, parse_float=str)
        return pd.DataFrame(rows, dtype=object).astype("string")
    return pd.read_csv(path, sep=separator, dtype="string", keep_default_na=False)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("real", WHOLE)
def test_a_real_file_goes_from_import_to_report(real: Real, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    source = Path(shutil.copy(found(real), folder))
    (folder / "notes").mkdir()
    (folder / "notes" / "mine.parquet").write_bytes(b"not runner's")
    foreign = {path: digest(path) for path in (source, folder / "notes" / "mine.parquet")}
    training = {"RUNNER_TRAINING__BATCH_SIZE": "32", "RUNNER_TRAINING__EPOCHS": str(real.epochs)}
    newcomer = Newcomer(folder, SMALL | training | {"RUNNER_MODEL__RNN_UNITS": "64"})

    if real.refusal is not None:
        assert real.refusal in newcomer.run(f"runner import {source.name} records/", exit_code=2)
        assert not (folder / "records").exists()
    newcomer.run(f"runner import {source.name} records/ {real.options}")
    expected = read_by_pandas(source, ";" if "';'" in real.options else ",")
    imported = pd.read_parquet(folder / "records").astype("string")
    pd.testing.assert_frame_equal(imported, expected, check_column_type=False)

    newcomer.run(
        f"runner init job.yaml --name real --data records/ --columns {real.columns} "
        f"--field-delimiter '{real.delimiter}'"
    )
    assert expected.columns.tolist() == real.columns.split(",")
    said: dict[str, Any] = json.loads(newcomer.run("runner validate job.yaml --json").splitlines()[-1])
    lengths = expected.fillna("").agg(real.delimiter.join, axis=1).str.len()
    assert (said["records"], said["null_rows"]) == (len(expected), 0)
    assert said["longest_record_characters"] == lengths.max()

    newcomer.run("runner submit job.yaml --quiet")
    newcomer.run("runner generate real -n 40 -o synthetic.csv --quiet")
    synthetic = pd.read_csv(folder / "synthetic.csv", dtype="string", keep_default_na=False)
    assert (synthetic.columns.tolist(), len(synthetic)) == (expected.columns.tolist(), 40)
    newcomer.run(f"runner report real -n 200 --target {real.target}")
    assert "<html" in (folder / "runs" / "real" / "report.html").read_text()

    assert {path: digest(path) for path in foreign} == foreign
    made = {path.name for path in folder.iterdir()} - {source.name, "notes"}
    assert made == {"records", "job.yaml", "runs", "synthetic.csv"}
