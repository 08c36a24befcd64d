"""Draws follow from the noisy counts alone, keep to the schema and have the tables that were counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from runner.config import JobConfig
from runner.data.schema import Schema
from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.model.known_tables import KnownTables
from runner.model.loglinear import cap_weights, draw_evenly
from runner.privacy.accountant import Histogram, Release, epsilon
from runner.privacy.marginals import CHOICE, COLUMNS, PAIRS, Axis, Layout, plan_marginals
from runner.privacy.measured import Measured, draw_ids, measure
from runner.privacy.releases import Counts
from runner.storage import LocalFolder, open_folder
from tests.table_records import DECLARED, SCHEMA, table_rows

FIELDS = {name: field for name, field in DECLARED.items() if name != "note"}
ROWS = 3000


def job(**privacy: Any) -> JobConfig:
    values = {
        "name": "table",
        "data": {"uri": "records/"},
        "fields": FIELDS,
        "privacy": {"enabled": True, "target_epsilon": 2.0} | privacy,
    }
    return JobConfig.model_validate(values)


@pytest.fixture(scope="module")
def tokenizer() -> FieldTokenizer:
    fields = job().fields
    assert fields is not None
    return FieldTokenizer(Schema.of(fields, SCHEMA))


@pytest.fixture(scope="module")
def records(tokenizer: FieldTokenizer) -> list[Any]:
    """Token ids of rows, of a table in which plan, age and price depend on each other."""
    rows = table_rows(ROWS)
    struct = rows.select(tokenizer.schema.learned.names).to_struct_array().combine_chunks()
    flat, lengths = tokenizer.encode_batch(struct)
    return np.split(flat, np.cumsum(lengths)[:-1])


class Records:
    """Counts records as `count_marginals` does, and remembers how often it was asked."""

    def __init__(self, records: Sequence[Any], tokenizer: FieldTokenizer) -> None:
        self.records, self.tokenizer, self.asked = records, tokenizer, 0

    def __call__(self, marginals: Mapping[str, Sequence[Axis]]) -> dict[str, Counts]:
        self.asked += 1
        counted = {}
        for name, axes in marginals.items():
            places = self.tokenizer.slots.places(self.records, [axis.slot for axis in axes])
            table = np.zeros([axis.size for axis in axes], np.int64)
            np.add.at(table, tuple(axis.cells[place] for axis, place in zip(axes, places, strict=True)), 1)
            counted[name] = Counts(table)
        return counted


def measured(folder: Path, records: Sequence[Any], tokenizer: FieldTokenizer, sigma: float | None = None) -> Measured:
    releases = plan_marginals(job(), tokenizer.schema, 1e-4, ROWS)
    if sigma is not None:
        releases = [Release(each.name, tuple(Histogram(h.name, sigma) for h in each.histograms)) for each in releases]
    return measure(
        open_folder(str(folder)),
        {release.name: release for release in releases},
        Layout.of(tokenizer.schema),
        len(records),
        Records(records, tokenizer),
    )


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory, records: list[Any], tokenizer: FieldTokenizer) -> Measured:
    """With next to no noise."""
    return measured(tmp_path_factory.mktemp("exact"), records, tokenizer, sigma=0.05)


def test_a_plan_takes_its_target_and_no_more(tokenizer: FieldTokenizer) -> None:
    releases = plan_marginals(job(), tokenizer.schema, 1e-4, ROWS)
    assert [release.name for release in releases] == [COLUMNS, PAIRS]
    assert 1.998 < epsilon([(release, 1) for release in releases], 1e-4) <= 2.0
    beside = (Release("schema", (Histogram("plan.values", 20.0),)),)
    releases = plan_marginals(job(), tokenizer.schema, 1e-4, ROWS, beside)
    assert 1.998 < epsilon([(release, 1) for release in (*beside, *releases)], 1e-4) <= 2.0


def test_fewer_records_leave_less_for_pairs(tokenizer: FieldTokenizer) -> None:
    """Of many records the columns are as clear as can be, of few they are not; the target is the same."""
    sigmas = []
    for records in (10**6, 500):
        releases = plan_marginals(job(), tokenizer.schema, 1e-4, records)
        assert 1.995 < epsilon([(release, 1) for release in releases], 1e-4) <= 2.0
        sigmas.append([release.histograms[0].sigma for release in releases])
    (columns, pairs), (columns_of_few, pairs_of_few) = sigmas
    assert columns_of_few < 0.6 * columns
    assert pairs_of_few > 1.2 * pairs


def test_every_column_and_every_pair_is_counted(tokenizer: FieldTokenizer) -> None:
    columns, pairs = plan_marginals(job(), tokenizer.schema, 1e-4, ROWS)
    names = [each.name for each in columns.histograms]
    assert len(names) == len(tokenizer.slots.sizes) - 1 == len(set(names))
    assert {"age", "plan", "active", "seen.year", "seen.hour", "seen.minute", "joined.day"} <= set(names)
    coarse = ["age", "price", "seen.year", "seen.month", "seen.hour", "joined.year", "joined.month", "active", "plan"]
    assert {each.name for each in pairs.histograms} == {
        f"{one} x {other}" for i, one in enumerate(coarse) for other in coarse[i + 1 :]
    }


def test_releases_are_drawn_once(tmp_path: Path, records: list[Any], tokenizer: FieldTokenizer) -> None:
    layout, count = Layout.of(tokenizer.schema), Records(records, tokenizer)
    releases = {release.name: release for release in plan_marginals(job(), tokenizer.schema, 1e-4, ROWS)}
    folder = open_folder(str(tmp_path))
    first = measure(folder, releases, layout, ROWS, count)
    assert count.asked == 2
    again = measure(folder, releases, layout, ROWS, count)
    assert count.asked == 2
    assert first.digest == again.digest
    (tmp_path / "pairs.json").unlink()  # as after a kill between the two
    third = measure(folder, releases, layout, ROWS, count)
    assert count.asked == 3
    assert all(np.array_equal(a, b) for a, b in zip(first.columns, third.columns, strict=True))


def test_draws_are_a_function_of_what_was_released(
    tmp_path: Path, records: list[Any], tokenizer: FieldTokenizer
) -> None:
    """Other records under the same noisy counts give the same draws, byte for byte."""
    first = measured(tmp_path, records, tokenizer)
    other = measured(tmp_path, [records[0]] * ROWS, tokenizer)
    automaton = tokenizer.automaton()
    one, two = (draw_ids(each, automaton, 2000) for each in (first, other))
    assert one.tobytes() == two.tobytes()
    assert first.known.to_files() == other.known.to_files()


def test_draws_are_records_of_the_schema(exact: Measured, tokenizer: FieldTokenizer) -> None:
    automaton = tokenizer.automaton()
    for ids in draw_ids(exact, automaton, 500):
        state = automaton.walk(ids[ids >= 0].tolist())
        assert state is not None
        assert automaton.allowed[state, 0], "the record is whole"


def test_draws_have_the_tables_that_were_counted(
    exact: Measured, records: list[Any], tokenizer: FieldTokenizer
) -> None:
    drawn = [ids[ids >= 0] for ids in draw_ids(exact, tokenizer.automaton(), 20_000)]
    tables = []
    for ids in (records, drawn):
        rows = pa.Table.from_struct_array(tokenizer.decode_batch(ids)).to_pandas()
        old = rows["age"].fillna(0).gt(55).rename("old")
        tables.append(
            [
                rows["plan"].value_counts(normalize=True).sort_index(),
                rows.groupby(["plan", old], observed=False).size() / len(rows),
                rows["active"].isna().mean(),
                rows.groupby([rows["seen"].dt.month, "plan"], observed=False).size() / len(rows),
            ]
        )
    for real, made in zip(*tables, strict=True):
        assert np.abs(made - real).max() < 0.015


def test_weights_bring_a_bad_pool_to_the_known_tables(
    exact: Measured, records: list[Any], tokenizer: FieldTokenizer
) -> None:
    known = KnownTables.from_files(exact.known.to_files())
    assert known is not None
    real = known.rows_of(records, tokenizer.slots)
    generator = np.random.default_rng(0)
    bad = np.concatenate([real, np.stack([generator.permutation(column) for column in real.T], axis=1)])
    taken = bad[draw_evenly(cap_weights(known.weigh(bad), ROWS, 2.0), ROWS, generator)]

    def distance(rows: Any) -> float:
        worst = 0.0
        for table in known.tables:
            cells = np.ravel_multi_index([rows[:, column] for column in table.columns], table.shares.shape)
            found = np.bincount(cells, minlength=table.shares.size) / len(rows)
            worst = max(worst, float(np.abs(found - table.shares.ravel()).sum() / 2))
        return worst

    assert distance(bad) > 0.1
    assert distance(taken) < 0.3 * distance(bad)


def test_no_row_is_taken_more_often_than_it_may_be() -> None:
    weights = np.random.default_rng(0).pareto(1.0, 1000)
    capped = cap_weights(weights, 400, 1.0)
    assert capped.sum() == pytest.approx(1)
    assert (capped * 400).max() == pytest.approx(1)
    assert np.bincount(draw_evenly(capped, 400, np.random.default_rng(1))).max() == 1


def test_pairs_of_a_wide_table_are_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: list[Any], tokenizer: FieldTokenizer
) -> None:
    monkeypatch.setattr("runner.privacy.marginals.MOST_PAIRS", 12)
    monkeypatch.setattr("runner.privacy.marginals.PAIRS_A_COLUMN", 1)
    releases = plan_marginals(job(target_epsilon=20.0, accountant="rdp"), tokenizer.schema, 1e-4, ROWS)
    assert [(release.name, len(release.histograms)) for release in releases] == [
        (COLUMNS, len(tokenizer.slots.sizes) - 1),
        (CHOICE, 36),
        (PAIRS, 9),
    ]
    assert 19.9 < epsilon([(release, 1) for release in releases], 1e-4, "rdp") <= 20.0
    layout, count = Layout.of(tokenizer.schema), Records(records, tokenizer)
    found = measure(LocalFolder(tmp_path), {each.name: each for each in releases}, layout, ROWS, count)
    names = [layout.names[slot] for slot in layout.coarse]
    assert {("age", "plan"), ("price", "plan"), ("age", "price")} <= {(names[i], names[j]) for i, j in found.pairs}
    assert len(draw_ids(found, tokenizer.automaton(), 1000)) == 1000
