"""What a private job looks up in its records: bounded by the record, and put together from noisy counts alone."""

from __future__ import annotations

from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.config import JobConfig, parse_job
from runner.config.fields import IntegerField, NumberField
from runner.data.files import list_files
from runner.data.schema import Schema
from runner.errors import ConfigError, DataError
from runner.privacy.accountant import Histogram, Release, epsilon
from runner.privacy.lookups import (
    FEWEST_PARTS,
    bought_fields,
    count_lookups,
    lookups_of,
    part_edges,
    plan_schema,
)
from runner.privacy.releases import Counts, noisy_histograms

DELTA = 1e-5
FIELDS: dict[str, Any] = {
    "age": {"kind": "integer", "range": [17, 90]},
    "wage": {"kind": "integer", "range": [0, 100_000]},
    "job": {"kind": "category"},
    "paid": {"kind": "number", "range": [0, 500]},
    "seen": {"kind": "datetime", "range": ["2020-01-01", "2021-01-01"]},
    "sex": {"kind": "category", "values": ["f", "m"]},
    "name": {"kind": "id"},
}
TYPES = pa.schema(
    [
        ("age", pa.int64()),
        ("wage", pa.int32()),
        ("job", pa.string_view()),
        ("paid", pa.float64()),
        ("seen", pa.timestamp("us")),
        ("sex", pa.string()),
    ]
)


def job(records: Path = Path("records"), fields: Any = None, **privacy: Any) -> JobConfig:
    return parse_job(
        {
            "name": "demo",
            "data": {"uri": str(records)},
            "fields": FIELDS if fields is None else fields,
            "training": {"batch_size": 20},
            "privacy": {"enabled": True, "target_epsilon": 4.0, **privacy},
        },
        environment={},
    )


def table(rows: int, seed: int = 0) -> pa.Table:
    draw = np.random.default_rng(seed)
    return pa.table(
        {
            "age": pa.array(draw.integers(17, 91, rows)),
            "wage": pa.array(np.where(draw.random(rows) < 0.6, 0, draw.integers(0, 60_000, rows)), pa.int32()),
            "job": pa.array(draw.choice(["clerk", "cook", "nurse"], rows), pa.string()),
            "paid": pa.array(draw.integers(0, 50_000, rows) / 100),
            "seen": pa.array([datetime(2020, 1 + i % 12, 1 + i % 28, i % 24, i % 60) for i in range(rows)]),
            "sex": pa.array(draw.choice(["f", "m"], rows), pa.string()),
        }
    )


def count(folder: Path, rows: pa.Table, release: Release, records: int) -> dict[str, Counts]:
    folder.mkdir(exist_ok=True)
    pq.write_table(rows, folder / "part-0.parquet")
    config = job(folder)
    return count_lookups(config, list_files(str(folder)), rows.schema, release, records)


def with_noise(sigma: float, config: JobConfig) -> Release:
    histograms = (
        Histogram(each.name, sigma, threshold=int(6 * sigma) + 2 if each.key == "values" else None)
        for each in lookups_of(config)
    )
    return Release("schema", tuple(histograms))


# What is looked up


def test_what_is_open_is_looked_up_and_the_parts_of_wide_ranges_with_it() -> None:
    names = [each.name for each in lookups_of(job())]
    assert names == ["job.values", "paid.decimals", "seen.resolution", "wage.parts", "paid.parts"]


def test_a_declared_schema_is_not_looked_up_unless_asked_for() -> None:
    declared = {name: FIELDS[name] for name in ("age", "wage", "sex", "name")}
    assert lookups_of(job(fields=declared)) == ()
    assert [each.name for each in lookups_of(job(fields=declared, schema_epsilon=0.5))] == ["wage.parts"]
    assert plan_schema(job(fields=declared), DELTA) == ()


def test_a_job_without_privacy_or_without_fields_looks_up_nothing() -> None:
    assert lookups_of(parse_job({"name": "x", "data": {"uri": "r/"}, "fields": FIELDS}, environment={})) == ()
    text = {"name": "x", "data": {"uri": "r/"}, "tokenizer": {"kind": "byte"}}
    assert lookups_of(parse_job({**text, "privacy": {"enabled": True, "noise_multiplier": 1}}, environment={})) == ()


@pytest.mark.parametrize(("privacy", "target"), [({}, 0.8), ({"schema_epsilon": 0.7}, 0.7)])
def test_it_costs_what_the_job_says_or_a_fifth_of_the_target(privacy: dict[str, Any], target: float) -> None:
    config = job(accountant="rdp", **privacy)
    (release,) = plan_schema(config, DELTA)
    assert [each.name for each in release.histograms] == [each.name for each in lookups_of(config)]
    assert 0.98 * target < epsilon([(release, 1)], DELTA, "rdp") <= target
    thresholds = {each.name for each in release.histograms if each.threshold is not None}
    assert thresholds == {"job.values"}


@pytest.mark.parametrize(
    ("fields", "privacy", "words"),
    [
        ({"age": {"kind": "integer"}}, {}, r"no noisy counts tell it; declare fields\.age\.range"),
        (
            {"job": {"kind": "category"}},
            {"target_epsilon": None, "noise_multiplier": 1.0},
            "set privacy.schema_epsilon",
        ),
        ({"job": {"kind": "category"}}, {"schema_epsilon": 4.0}, "is a part of target_epsilon 4; give less"),
    ],
)
def test_what_cannot_be_bought_is_refused_in_one_line(fields: Any, privacy: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        job(fields=fields, **privacy)


# Counts


def test_emptying_a_record_changes_at_most_one_cell_of_each_histogram_by_one(tmp_path: Path) -> None:
    """Of every record, rare values and values out of range among them."""
    rows = table(40).to_pylist()
    rows[0] |= {"wage": 10**6, "job": "emperor", "paid": float("inf"), "seen": datetime(1999, 1, 1, 0, 0, 0, 7)}
    rows[1] |= {"wage": -5, "job": None, "paid": 0.1 + 0.2}
    release = with_noise(2.0, job())
    whole = count(tmp_path / "all", pa.Table.from_pylist(rows, TYPES), release, 40)
    empty = dict.fromkeys(rows[0])
    for emptied in range(len(rows)):
        left = pa.Table.from_pylist([*rows[:emptied], empty, *rows[emptied + 1 :]], TYPES)
        for name, counts in count(tmp_path / "less", left, release, 40).items():
            assert changes(whole[name], counts) in ([], [1]), (emptied, name)


def changes(one: Counts, other: Counts) -> list[int]:
    """By how much cells differ, of those that do."""
    if one.values is None or other.values is None:
        differences = one.counts - other.counts
    else:
        of_other = dict(zip(other.values, other.counts.tolist(), strict=True))
        differences = np.array([n - of_other.get(v, 0) for v, n in zip(one.values, one.counts.tolist(), strict=True)])
        assert not of_other.keys() - set(one.values)
    return differences[differences != 0].tolist()


def test_every_record_is_counted_in_the_cell_of_its_value(tmp_path: Path) -> None:
    rows = table(500)
    counted = count(tmp_path / "records", rows, with_noise(5.0, job()), 500)
    job_counts = counted["job.values"]
    assert job_counts.values is not None
    assert dict(zip(job_counts.values, job_counts.counts.tolist(), strict=True)) == {
        value: rows["job"].to_pylist().count(value) for value in ("clerk", "cook", "nurse")
    }
    assert counted["paid.decimals"].counts[:3].sum() == 500
    assert counted["paid.decimals"].counts[2] > 400
    edges = [float(edge) for edge in part_edges(job().fields["wage"], int(500 / 15))]  # type: ignore[index]
    assert counted["wage.parts"].counts.tolist() == np.histogram(rows["wage"], edges)[0].tolist()


# Parts


@settings(max_examples=80)
@given(st.tuples(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12)).map(sorted), st.integers(-10, 2000))
def test_parts_cover_the_range_in_order_and_are_about_as_many_as_asked(bounds: list[int], most: int) -> None:
    field = IntegerField(kind="integer", range=(bounds[0], bounds[1]))
    edges = part_edges(field, most)
    assert edges == sorted(set(edges))
    assert edges[0] <= bounds[0] <= bounds[1] < edges[-1]
    assert all(edge.denominator == 1 for edge in edges)
    assert len(edges) <= min(max(most, FEWEST_PARTS), 4 * field.bins) + 90


def test_parts_of_small_numbers_are_small() -> None:
    edges = part_edges(NumberField(kind="number", range=(0, 0.5)), 10)
    assert Fraction(1, 10) in edges
    assert edges[-1] > Fraction(1, 2)


# What comes of them


def test_a_bought_schema_holds_what_many_records_have_and_nothing_else(tmp_path: Path) -> None:
    rows = table(20_000)
    jobs = rows["job"].to_pylist()
    jobs[:3] = ["emperor", "emperor", "pope"]
    rows = rows.set_column(2, "job", pa.array(jobs, pa.string()))
    config = job(tmp_path / "records")
    release = with_noise(10.0, config)
    noisy = noisy_histograms(count(tmp_path / "records", rows, release, 20_000), release)
    found = bought_fields(config, release, noisy, 20_000)
    assert found["job"].field.values == ("clerk", "cook", "nurse")  # type: ignore[union-attr]
    assert found["job"].rare
    assert found["paid"].field.decimals == 2  # type: ignore[union-attr]
    assert found["seen"].field.resolution == "minute"  # type: ignore[union-attr]
    assert found["age"].edges is None
    assert found["wage"].frequent[0] == 0
    assert {found[name].field.outside for name in ("wage", "paid")} == {"clip"}  # type: ignore[union-attr]
    schema = Schema.of(config.fields or {}, rows.schema, found)
    records = pa.StructArray.from_arrays([column.combine_chunks() for column in rows.columns], names=rows.column_names)
    assert schema.count_strange(records)["job"] == 3


def test_of_noise_alone_no_category_is_made(tmp_path: Path) -> None:
    config = job(tmp_path / "records")
    release = with_noise(100.0, config)
    noisy = noisy_histograms(count(tmp_path / "records", table(60), release, 60), release)
    with pytest.raises(
        DataError, match=r"no value of fields\.job stands out from the noise: list its values, or raise"
    ):
        bought_fields(config, release, noisy, 60)


def test_decimals_of_texts_have_to_be_declared(tmp_path: Path) -> None:
    rows = table(50)
    rows = rows.set_column(3, "paid", rows["paid"].cast(pa.string()))
    with pytest.raises(
        DataError, match=r"column paid is string: its decimals cannot be looked up; declare fields\.paid"
    ):
        count(tmp_path / "records", rows, with_noise(5.0, job()), 50)
