"""Whole runs on a table: typed Parquet in, typed Parquet out, and every value one that the schema allows."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from runner.errors import ConfigError, DataError, RunnerError
from runner.generation.settings import SamplingSettings
from runner.model.artifact import describe_model
from runner.report.facade import report_run
from runner.run_directory import RunDirectory
from runner.storage import open_folder
from runner.submit.generate import Request
from runner.submit.generate import generate as generate_from
from runner.submit.launch import Launch
from tests.ray.test_runs import resume, train
from tests.ray.test_series import submit
from tests.ray.test_sweeps import run_sweep, table_of
from tests.runs import history_of, run_runner, status_of, weights_of
from tests.table_records import DECLARED, LEARNED, MADE, PLANS, table_job, table_rows, write_table

ANY_ORDER = {"examples": {"field_order": "random"}}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def trained(table: Path, runs: Path) -> Path:
    return train(table_job("table", table, runs, epochs=3) | ANY_ORDER)


def generate(run: Path, output: Path | None, n: int, *overrides: str, **settings: Any) -> dict[str, Any]:
    """What `runner generate` does, in this process; shards of 50 in a folder."""
    uri = None if output is None else str(output) if output.suffix else f"{output}/"
    conditions = {name: settings.pop(name) for name in ("given", "given_file", "rebalance") if name in settings}
    request = Request(SamplingSettings(records_per_prompt=n, **settings), uri, 50, overrides=overrides, **conditions)
    return generate_from(RunDirectory.find(str(run)), request, Launch(quiet=True))[0]


def report(run: Path, **settings: Any) -> dict[str, Any]:
    arguments = {"target": None, "synthetic_uri": None, "count": None} | settings
    return report_run(RunDirectory.find(str(run)), **arguments)[0]["quality"]


def values_of(table: pa.Table, name: str) -> set[Any]:
    return set(table.column(name).to_pylist()) - {None}


def assert_inside(found: pa.Table, real: pa.Table) -> None:
    """Types, values and nulls of the learned columns are those that the records have, or lie between them."""
    assert found.schema == MADE
    for name in ("age", "price", "joined"):
        assert min(values_of(real, name)) <= min(values_of(found, name))
        assert max(values_of(found, name)) <= max(values_of(real, name))
    assert values_of(found, "plan") <= set(PLANS)
    assert values_of(found, "active") <= {True, False}
    assert all(price.as_tuple().exponent == -2 for price in values_of(found, "price"))
    assert all((moment.second, moment.microsecond) == (0, 0) for moment in values_of(found, "seen"))
    assert all(isinstance(note, str) and len(note.encode()) <= 8 for note in values_of(found, "note"))
    for name in ("price", "seen", "joined", "plan"):
        assert found.column(name).null_count == 0, "the records have no nulls there"
    assert found.column("age").null_count > 0


def test_shares_of_the_records_that_were_trained_on_lie_beside_the_model(trained: Path) -> None:
    known = describe_model(open_folder(str(trained)).child("model")).known
    assert known is not None
    assert known.is_exact
    assert 0.7 * 300 < known.records < 300


def test_parquet_comes_out_with_the_types_that_went_in(trained: Path, table: Path, tmp_path: Path) -> None:
    generate(trained, tmp_path / "out.parquet", 200)
    found = pq.read_table(tmp_path / "out.parquet")
    assert_inside(found, pq.read_table(table))
    assert found.column("customer").to_pylist() == list(range(1, 201))
    assert "secret" not in found.column_names
    frame = pd.read_parquet(tmp_path / "out.parquet")
    assert str(frame["plan"].dtype) == "category"
    assert str(frame["seen"].dtype) == "datetime64[us, Europe/Berlin]"
    assert set(frame["price"].map(type)) == {Decimal}
    assert pq.read_table(tmp_path / "out.parquet", schema=MADE).to_pylist() == found.to_pylist()


def test_texts_of_csv_and_json_lines_are_the_same_rows(trained: Path, tmp_path: Path) -> None:
    for suffix in ("parquet", "csv", "jsonl"):
        generate(trained, tmp_path / f"out.{suffix}", 50)
    found = pd.read_parquet(tmp_path / "out.parquet")
    as_csv = pd.read_csv(tmp_path / "out.csv", keep_default_na=False, na_values={"age": "", "active": ""})
    as_json = pd.read_json(tmp_path / "out.jsonl", lines=True, dtype=False, convert_dates=False)
    for frame in (as_csv, as_json):
        assert list(frame.columns) == MADE.names
        assert frame["customer"].tolist() == found["customer"].tolist()
        assert frame["age"].fillna(-1).tolist() == found["age"].fillna(-1).tolist()
        assert frame["price"].tolist() == found["price"].astype(float).tolist()
        assert pd.to_datetime(frame["seen"], utc=True).tolist() == found["seen"].tolist()
        assert frame["plan"].tolist() == found["plan"].tolist()
    assert as_json["note"].where(as_json["note"].notna(), None).tolist() == found["note"].tolist()
    assert set(as_json["active"].dropna().map(type)) == {bool}


def test_the_screen_shows_a_header_and_typed_rows(trained: Path) -> None:
    header, *lines = run_runner("generate", trained, "-n", 10).stdout.splitlines()
    assert header == ",".join(MADE.names)
    assert len(lines) == 10
    rows = json.loads(generate(trained, None, 10)["rows"].text)
    assert [row["customer"] for row in rows] == list(range(1, 11))
    assert {type(row["price"]) for row in rows} == {float}
    assert lines[0].startswith(f"1,{'' if rows[0]['age'] is None else rows[0]['age']},")


def test_shards_count_their_records_over_all_and_hold_no_row_twice(trained: Path, table: Path, tmp_path: Path) -> None:
    generate(trained, tmp_path / "out", 120, unique=True, not_in_training=True)
    found = pq.read_table(tmp_path / "out")
    assert found.column("customer").to_pylist() == list(range(1, 121))
    rows = [tuple(row.values()) for row in found.select(LEARNED).to_pylist()]
    assert len(set(rows)) == len(rows)
    assert not set(rows) & {tuple(row.values()) for row in pq.read_table(table, columns=LEARNED).to_pylist()}
    files = [path.read_bytes() for path in sorted((tmp_path / "out").glob("*.parquet"))]
    generate(trained, tmp_path / "again", 120, "generation.actors=1", unique=True, not_in_training=True)
    assert [path.read_bytes() for path in sorted((tmp_path / "again").glob("*.parquet"))] == files


def test_given_values_are_those_of_all_rows(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    run_runner("generate", trained, "-n", 30, "-o", out, "--given", 'plan=gold,active=,"note=a, b"')
    found = pd.read_json(out, lines=True, convert_dates=False)
    assert (set(found["plan"]), set(found["note"]), len(found)) == ({"gold"}, {"a, b"}, 30)
    assert found["active"].isna().all()
    assert found["customer"].tolist() == list(range(1, 31))
    assert found["price"].nunique() > 3


def test_missing_values_of_a_file_are_drawn_and_all_else_stays(trained: Path, tmp_path: Path) -> None:
    """In one file and in shards; a folder of one file is no other's."""
    generate(trained, tmp_path / "real.parquet", 120, seed=5)
    real = pq.read_table(tmp_path / "real.parquet").drop_columns(["joined"])
    draw = np.random.default_rng(0)
    known = {name: draw.random(120) < (1.0 if name == "customer" else 0.5) for name in real.column_names}
    columns = [pc.if_else(pa.array(known[name]), real[name], None) for name in real.column_names if name != "plan"]
    plans = pc.if_else(pa.array(known["plan"]), real["plan"].cast(pa.string()), None)
    people = pa.table([*columns, plans], names=[*(n for n in real.column_names if n != "plan"), "plan"])
    pq.write_table(people, tmp_path / "people.parquet")
    source = str(tmp_path / "people.parquet")
    generate(trained, tmp_path / "out.parquet", 1, given_file=source)
    generate(trained, tmp_path / "out", 1, given_file=source)
    generate(trained, tmp_path / "out", 1, given_file=source)
    for place in ("out.parquet", "out"):
        found = pq.read_table(tmp_path / place)
        assert found.schema == MADE
        for row, asked in zip(found.to_pylist(), people.to_pylist(), strict=True):
            assert row | {name: value for name, value in asked.items() if value is not None} == row
    pq.write_table(people.slice(1), tmp_path / "others.parquet")
    with pytest.raises(ConfigError, match="holds a generation with other settings: prompts"):
        generate(trained, tmp_path / "out", 1, given_file=str(tmp_path / "others.parquet"))


def test_shares_are_exact_over_all_shards(trained: Path, tmp_path: Path) -> None:
    shares = ["plan=gold:0.5", "plan=basic:0.1"]
    generate(trained, tmp_path / "out", 120, rebalance=shares, given=["active=true"])
    plans = Counter(pq.read_table(tmp_path / "out").column("plan").to_pylist())
    assert plans == {"gold": 60, "basic": 12, "family": 48}
    first = pq.read_table(tmp_path / "out" / "part-00000.parquet").column("plan").to_pylist()
    assert len(set(first)) == 3, "they are mixed"
    generate(trained, tmp_path / "out", 120, rebalance=shares, given=["active=true"])
    with pytest.raises(ConfigError, match="other settings: rebalance"):
        generate(trained, tmp_path / "out", 120, rebalance=shares[:1], given=["active=true"])


def test_what_cannot_be_given_is_one_line_before_anything_is_written(trained: Path, tmp_path: Path) -> None:
    for wrong in ({"given": ["plan=platinum"]}, {"given_file": "nowhere.csv"}, {"rebalance": ["plan=gold:2"]}):
        with pytest.raises(RunnerError) as caught:
            generate(trained, tmp_path / "out", 120, **wrong)
        assert (caught.value.exit_code, len(str(caught.value).splitlines())) == (2, 1)
    assert not (tmp_path / "out").exists()


def test_a_prompt_is_refused_in_one_line(trained: Path) -> None:
    with pytest.raises(ConfigError, match="this model makes rows of a table"):
        generate(trained, None, 1, prompts=("12",))


def test_a_resumed_run_ends_with_the_same_weights(trained: Path, table: Path, runs: Path) -> None:
    run = train(table_job("resumed", table, runs, epochs=1) | ANY_ORDER)
    resume(run, "training.epochs=3")
    assert weights_of(run) == weights_of(trained)
    assert history_of(run) == history_of(trained)


def test_a_report_has_the_columns_of_the_schema_by_their_kinds(trained: Path, tmp_path: Path) -> None:
    drawn = report(trained, target="plan", count=200)
    kinds = {column["name"]: column["kind"] for column in drawn["columns"]}
    assert kinds == {
        "age": "number",
        "price": "number",
        "seen": "number",
        "joined": "number",
        "active": "category",
        "plan": "category",
        "note": "text",
    }
    assert drawn["usefulness"]["target"] == "plan"
    for suffix in ("parquet", "csv", "jsonl"):
        file = tmp_path / f"out.{suffix}"
        generate(trained, file, 200)
        assert report(trained, synthetic_uri=str(file))["columns"] == drawn["columns"], suffix


def test_the_training_records_themselves_are_all_found_to_be_copies(trained: Path, table: Path, tmp_path: Path) -> None:
    rows = pq.read_table(table, columns=MADE.names)
    pq.write_table(rows, tmp_path / "rows.parquet")
    quality = report(trained, synthetic_uri=str(tmp_path / "rows.parquet"))
    assert quality["exact_copies"] == pytest.approx(0.8, abs=0.15), "those that were trained on"


def test_a_private_run_with_a_declared_schema_is_like_any_other(table: Path, runs: Path, tmp_path: Path) -> None:
    job = table_job("private-table", table, runs) | {
        "fields": DECLARED,
        "privacy": {"enabled": True, "noise_multiplier": 1.0},
    }
    run = train(job)
    assert status_of(run)["state"] == "done"
    assert json.loads((run / "privacy.json").read_text())["epsilon"] > 0
    generate(run, tmp_path / "out.parquet", 100)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.schema == MADE
    assert values_of(found, "plan") <= set(PLANS)
    assert report(run)["right_number_of_fields"] is None


def test_a_series_goes_on_with_the_schema_of_its_first_run(tmp_path: Path) -> None:
    records, runs = write_table(tmp_path / "records"), tmp_path / "runs"
    job = table_job("claims", records, runs, epochs=1) | ANY_ORDER
    submit(job, since="last")
    pq.write_table(table_rows(200, seed=8), records / "part-8.parquet")
    submit(job, since="last")
    assert status_of(runs / "claims.002")["state"] == "done"
    first, second = ((runs / name / "tokenizer" / "tokenizer.json").read_bytes() for name in ("claims", "claims.002"))
    assert first == second
    generate(runs / "claims.002", tmp_path / "out.parquet", 100)
    assert pq.read_table(tmp_path / "out.parquet").schema == MADE
    odd = table_rows(200, seed=9).set_column(6, "plan", pa.array(["platinum"] * 200).dictionary_encode())
    pq.write_table(odd, records / "part-9.parquet")
    with pytest.raises(DataError, match="plan"):
        submit(job, since="last")
    assert not (runs / "claims.003").exists()


def test_a_sweep_over_a_table_shares_its_tokens(table: Path, runs: Path) -> None:
    before = set((runs / ".cache" / "tokens").iterdir()) if (runs / ".cache").exists() else set()
    sweep = {"parameters": {"model.rnn_units": {"choice": [8, 12]}}, "search": "grid"}
    swept = run_sweep(table_job("swept-table", table, runs, epochs=1) | {"sweep": sweep})
    assert [row["state"] for row in table_of(swept)] == ["done", "done"]
    assert len(set((runs / ".cache" / "tokens").iterdir()) - before) <= 1


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"nowhere": {"kind": "integer"}}, "no column nowhere"),
        ({"plan": {"kind": "category", "values": ["basic", "family"]}}, "plan"),
        ({"age": {"kind": "integer", "range": [50, 99]}}, "age"),
        ({"note": {"kind": "integer"}}, "note"),
    ],
)
def test_what_the_schema_does_not_allow_is_one_line_before_anything_is_written(
    table: Path, tmp_path: Path, change: dict[str, Any], line: str
) -> None:
    job = table_job("refused", table, tmp_path / "runs")
    job["fields"] = job["fields"] | change
    with pytest.raises(DataError, match=line) as caught:
        train(job)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "runs").exists()
