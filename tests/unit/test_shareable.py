"""What a shareable report counts, what it costs, and how far its noisy figures may be off."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any, cast

import dp_accounting
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import cityblock

from runner.config import JobConfig, parse_job
from runner.data.schema import Schema
from runner.data.schema.completion import declared
from runner.errors import CorruptError, PrivacyError
from runner.privacy.accountant import Release, epsilon
from runner.privacy.discrete_gaussian import draw_discrete_gaussian
from runner.privacy.shareable import MOST_GROUPS, MOST_PAIRS, MOST_TRIPLES, Columns, most_groups, plan_report
from runner.report.noisy_fidelity import NoisyAccuracy, mean_accuracy, measure_accuracy
from runner.report.shareable import compare_counts
from tests.table_records import DECLARED, LEARNED, SCHEMA, table_job, table_rows

RECORDS, DELTA = 20_000, 1e-5
ROWS = 60


@pytest.fixture(scope="module")
def columns() -> Columns:
    config: JobConfig = parse_job(table_job("demo", Path("records"), "runs") | {"fields": DECLARED}, environment={})
    assert config.fields is not None
    return Columns.of(Schema.of(config.fields, SCHEMA, declared(config.fields)))


@pytest.fixture(scope="module")
def release(columns: Columns) -> Release:
    return plan_report(columns, RECORDS, 0.5, DELTA, "rdp")


def rows_of(table: pa.Table, emptied: int | None = None) -> pa.StructArray:
    """The learned columns; `emptied`: a row that holds no record."""
    rows = table.select(LEARNED).to_struct_array().combine_chunks()
    if emptied is None:
        return cast(Any, rows)
    mask = np.arange(len(rows)) == emptied
    return cast(Any, pa.StructArray.from_arrays(rows.flatten(), fields=list(rows.type), mask=pa.array(mask)))


# What is counted


def test_the_counts_are_those_of_pandas(columns: Columns, release: Release) -> None:
    table = table_rows(ROWS)
    found = columns.count(release, RECORDS, [rows_of(table.slice(0, 25)), rows_of(table.slice(25))])
    frame = table.to_pandas()
    frame["plan"] = frame["plan"].astype(str)
    assert dict(zip(("basic", "family", "gold"), found["plan"].counts.tolist(), strict=False)) == dict(
        frame["plan"].value_counts()
    )
    assert found["active"].counts.sum() == ROWS
    assert sorted(found["active"].counts.tolist()) == sorted(frame["active"].value_counts(dropna=False))
    pair = frame.groupby(["active", "plan"], dropna=False).size()
    counts = found["active x plan"].counts
    assert sorted(counts[counts > 0].tolist()) == sorted(pair.tolist())
    years = found["joined.year"].counts
    assert years.size <= MOST_GROUPS
    assert years.sum() == ROWS


def test_emptying_any_record_takes_one_from_one_cell_of_every_histogram(columns: Columns, release: Release) -> None:
    """So the vector of all counts moves by the root of the number of histograms, exactly, whichever record it is."""
    table = table_rows(ROWS)
    whole = columns.count(release, RECORDS, [rows_of(table)])
    assert len(whole) == len(release.histograms)
    for emptied in range(ROWS):
        without = columns.count(release, RECORDS, [rows_of(table, emptied)])
        for name, counted in whole.items():
            moved = (counted.counts - without[name].counts).reshape(-1)
            assert (moved.sum(), np.abs(moved).sum(), moved.max()) == (1, 1, 1), (emptied, name)


def test_free_texts_and_names_of_rows_are_not_counted_and_parts_of_days_are(columns: Columns) -> None:
    assert columns.names == (
        *("age", "price", "seen.year", "seen.month", "seen.hour", "joined.year", "joined.month", "active", "plan"),
    )
    (_, pairs, triples) = columns.levels()
    assert (len(set(pairs)), len(set(triples))) == (MOST_PAIRS, MOST_TRIPLES)
    assert (pairs, triples) == columns.levels()[1:]


def test_a_table_of_texts_alone_has_nothing_to_count(columns: Columns) -> None:
    config = parse_job(table_job("demo", Path("records"), "runs") | {"fields": DECLARED}, environment={})
    assert config.fields is not None
    fields = {name: config.fields[name] for name in ("note", "customer")}
    with pytest.raises(PrivacyError, match="all columns are free text"):
        Columns.of(Schema.of(fields, SCHEMA, declared(fields)))


def test_groups_follow_from_counts_that_were_released_before(columns: Columns, release: Release) -> None:
    sizes = columns.layout.slots.sizes[1:]
    counts = [np.ones(size + 1, np.int64) for size in sizes]
    age = columns.layout.names.index("age") - 1
    counts[age][:8] = 1000
    known = Columns(columns.layout, columns.fields, tuple(counts), 10.0)
    (_, (axis,)) = known.groups_of(release, RECORDS)["age"]
    assert len(set(axis.cells[:8].tolist())) == 8, "the frequent ones are told apart"
    (_, (even,)) = columns.groups_of(release, RECORDS)["age"]
    assert len(set(even.cells[:8].tolist())) < 3


def test_a_release_of_other_columns_is_refused(columns: Columns, release: Release) -> None:
    other = Release(release.name, release.histograms[1:])
    with pytest.raises(CorruptError, match="of other columns than the run's"):
        columns.groups_of(other, RECORDS)


# What it costs


@pytest.mark.parametrize("target", [0.1, 0.5, 2.0])
def test_all_histograms_together_cost_the_target_by_dp_accounting_s_gaussian(columns: Columns, target: float) -> None:
    release = plan_report(columns, RECORDS * 10, target, DELTA)
    together = sum(each.sigma**-2 for each in release.histograms) ** -0.5
    assert dp_accounting.get_epsilon_gaussian(together, DELTA) == pytest.approx(target, rel=0.005)
    assert epsilon([(release, 1)], DELTA) <= target


def test_what_the_budget_does_not_carry_is_left_out_triples_first(columns: Columns) -> None:
    counted = [len(plan_report(columns, records, 0.5, DELTA, "rdp").histograms) for records in (20_000, 4_500, 1_500)]
    assert counted == [9 + MOST_PAIRS + MOST_TRIPLES, 9 + MOST_PAIRS, 9]
    with pytest.raises(PrivacyError, match=r"^epsilon 0\.5 pays for no figure of 9 columns: .*; ask for more$"):
        plan_report(columns, 500, 0.5, DELTA, "rdp")
    with pytest.raises(PrivacyError, match=r"^epsilon 1e-07 pays for no figure"):
        plan_report(columns, RECORDS, 1e-7, DELTA, "rdp")


@given(st.integers(1, 10**7), st.floats(0.1, 1e4), st.integers(1, 3))
def test_cells_are_so_few_that_little_is_in_doubt(records: int, sigma: float, size: int) -> None:
    groups = most_groups(records, sigma, size)
    assert groups == 0 or 2 <= groups <= MOST_GROUPS
    even = np.full(groups**size, 1)
    if groups:
        assert measure_accuracy(even, sigma, even, records).doubt <= 0.0151


# How far figures may be off


def exact_accuracy(real: NDArray[np.integer], synthetic: NDArray[np.integer]) -> float:
    return 1 - cityblock(real / real.sum(), synthetic / synthetic.sum()) / 2


SOURCES = {
    "alike": (np.full(16, 500), np.full(16, 500)),
    "far": (np.array([4000, 2000, 1000, 1000]), np.array([1000, 1000, 2000, 4000])),
    "near": (np.array([900, 1100] * 10), np.full(20, 1000)),
    "empty": (np.array([8000] + [0] * 24), np.array([8000] + [0] * 24)),
}


@pytest.mark.parametrize("sigma", [0.7, 10.0, 60.0])
@pytest.mark.parametrize("source", SOURCES)
def test_95_of_100_figures_are_within_their_error_whatever_the_records_are(source: str, sigma: float) -> None:
    real, synthetic = SOURCES[source]
    exact = exact_accuracy(real, synthetic)
    noise = draw_discrete_gaussian(sigma, 2000 * real.size).reshape(2000, -1)
    found = [measure_accuracy(real + each, sigma, synthetic, int(real.sum())) for each in noise]
    off = [abs(each.estimate - exact) <= each.error for each in found]
    assert sum(off) >= 0.94 * len(off)
    assert all(0 <= each.value <= 1 for each in found)


def test_the_error_is_no_larger_than_the_noise_makes_it() -> None:
    """Of records that are just alike, noise makes all the difference: without the doubt figures would be off."""
    real = np.full(64, 1000)
    noise = draw_discrete_gaussian(40.0, 500 * 64).reshape(500, -1)
    found = [measure_accuracy(real + each, 40.0, real, 64_000) for each in noise]
    assert np.mean([each.estimate - each.doubt for each in found]) == pytest.approx(1 - 2 * found[0].doubt, abs=1e-3)
    assert found[0].error < 0.015


@settings(max_examples=30)
@given(st.lists(st.floats(0.5, 1.0), min_size=1, max_size=20))
def test_the_error_of_a_mean_keeps_the_doubt_and_averages_the_rest(estimates: list[float]) -> None:
    mean = mean_accuracy([NoisyAccuracy(each, 0.01, 0.0004, 0.99) for each in estimates])
    assert mean.estimate == pytest.approx(np.mean(estimates))
    assert mean.doubt == pytest.approx(0.01)
    assert mean.variance == pytest.approx(0.0004 / len(estimates))


def test_noisy_figures_of_a_table_are_within_their_errors_of_the_exact_ones(columns: Columns) -> None:
    made = columns.count(plan_report(columns, 3000, 4.0, DELTA, "rdp"), 3000, [rows_of(table_rows(800, seed=1))])
    release = plan_report(columns, 3000, 4.0, DELTA, "rdp")
    exact = columns.count(release, 3000, [rows_of(table_rows(3000))])
    sigmas = {each.name: each.sigma for each in release.histograms}
    noisy: dict[str, Any] = {}
    for name, counted in exact.items():
        noise = draw_discrete_gaussian(sigmas[name], counted.counts.size).reshape(counted.counts.shape)
        noisy[name] = type(counted)(counted.counts + noise)
    found = compare_counts(columns, release, 3000, noisy, made)
    measured = [accuracy for _, accuracy in chain(*found.groups)]
    names = list(columns.groups_of(release, 3000))
    truth = [exact_accuracy(exact[name].counts.reshape(-1), made[name].counts.reshape(-1)) for name in names]
    within = [abs(each.estimate - true) <= each.error for each, true in zip(measured, truth, strict=True)]
    assert sum(within) >= len(within) - 4
    assert [len(level) for level in found.groups] == [9, MOST_PAIRS, MOST_TRIPLES]
    of_levels = np.split(np.array(truth), np.cumsum([9, MOST_PAIRS]))
    assert abs(found.overall.estimate - np.mean([part.mean() for part in of_levels])) <= 1.5 * found.overall.error
