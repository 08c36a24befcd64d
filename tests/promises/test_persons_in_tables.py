"""Promise 20 where a person is protected: no count has more than K records of one, the accountant is told K, and what
runs take of a person adds up over all of their files."""

from __future__ import annotations

import math
import runpy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

import dp_accounting
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy import stats

from runner.config import JobConfig
from runner.data.examples import Examples
from runner.data.files import list_files
from runner.data.persons import Persons
from runner.data.schema import Schema
from runner.data.schema.completion import declared
from runner.errors import ConfigError
from runner.privacy import measured
from runner.privacy.accountant import Histogram, Release, default_delta, epsilon
from runner.privacy.budget import SpendingLedger
from runner.privacy.contributions import counted_of, first_positions, first_records
from runner.privacy.lookups import count_lookups, plan_schema
from runner.privacy.marginals import count_dependence, count_marginals, plan_marginals, plan_rest
from runner.privacy.releases import Counts, Released, noisy_histograms, threshold_for
from runner.privacy.shareable import Columns, plan_report
from runner.report import shareable
from runner.run_directory import RunDirectory
from runner.storage import open_folder
from runner.train import private_run
from tests.promises.private_runs import config_of, report_of, start
from tests.promises.test_draws import TARGET, drawn_job
from tests.promises.test_looked_up import FIELDS, refusal
from tests.runs import ROOT
from tests.unit.test_marginals import MARGINALS, RECORD, examples_of

K = 3
DELTA = 1e-5
LOOKED_UP: dict[str, Any] = {
    "job": {"kind": "category"},
    "wage": {"kind": "integer", "range": [0, 5000]},
    "paid": {"kind": "number", "range": [0, 500]},
    "seen": {"kind": "datetime", "range": ["2020-01-01", "2021-01-01"]},
}
DECLARED: dict[str, Any] = LOOKED_UP | {
    "job": {"kind": "category", "values": ["clerk", "cook", "nurse"]},
    "paid": {"kind": "number", "range": [0, 500], "decimals": 2},
    "seen": {"kind": "datetime", "range": ["2020-01-01", "2021-01-01"], "resolution": "minute"},
}


def config_for(records: Path, fields: Any, most: int, **privacy: Any) -> JobConfig:
    job = drawn_job("demo", records, records, fields, unit="customer", max_records_per_unit=most, **privacy)
    return config_of(job)


# 20. What is counted: random tables, and the same with one person's records emptied


@dataclass(frozen=True)
class Owned:
    """Rows of a table, whose each is (None: nobody's), and the person that is emptied."""

    rows: pa.Table
    owners: list[str | None]
    emptied: str
    most: int

    def places(self, person: str | None) -> np.ndarray:
        return np.array([owner == person for owner in self.owners], bool)

    @property
    def neighbor(self) -> pa.Table:
        """As a file can have it: whose the rows are stays, and their fields are null."""
        gone = pa.array(self.places(self.emptied))
        return pa.table(
            {
                name: pa.compute.if_else(gone, pa.scalar(None, column.type), column)  # type: ignore[attr-defined]
                for name, column in zip(self.rows.column_names, self.rows.columns, strict=True)
            }
        )

    def batches(self, *, emptied: bool) -> Iterator[tuple[pa.Array, pa.Array]]:
        """Two of them; the rows of nobody, and of the person who is emptied, are no records."""
        gone = self.places(None) | (self.places(self.emptied) if emptied else False)
        rows = self.rows.to_struct_array().combine_chunks()
        rows = pa.StructArray.from_arrays(rows.flatten(), fields=list(rows.type), mask=pa.array(gone))
        persons, half = pa.array(self.owners, pa.large_string()), len(rows) // 2
        for part in (slice(0, half), slice(half, len(rows))):
            yield rows[part], persons[part]


@st.composite
def owned_rows(draw: st.DrawFn) -> Owned:
    """Few values and few persons, so that a person's records often meet in one cell."""
    row = st.tuples(
        st.sampled_from(["clerk", "cook", "nurse"]),
        st.sampled_from([0, 7, 4999]),
        st.sampled_from([0.5, 12.25, 499.0]),
        st.sampled_from([np.datetime64("2020-02-01T10:20"), np.datetime64("2020-12-31")]),
    )
    rows = draw(st.lists(row, min_size=2, max_size=14))
    owners = draw(st.lists(st.sampled_from(["ann", "ben", "cem", None]), min_size=len(rows), max_size=len(rows)))
    owners[0] = draw(st.sampled_from(["ann", "ben"]))
    job, wage, paid, seen = zip(*rows, strict=True)
    table = pa.table(
        {
            "job": pa.array(job),
            "wage": pa.array(wage, pa.int64()),
            "paid": pa.array(paid, pa.float64()),
            "seen": pa.array(np.array(seen, "datetime64[us]")),
        }
    )
    return Owned(table, owners, cast(str, owners[0]), draw(st.integers(1, 4)))


def moved(whole: Mapping[str, Counts], left: Mapping[str, Counts]) -> dict[str, float]:
    """By how much each histogram changes, in L2; cells that occur in one alone are 0 in the other."""
    found: dict[str, float] = {}
    for name, one in whole.items():
        other = left[name]
        if one.values is None or other.values is None:
            found[name] = float(np.linalg.norm((one.counts - other.counts).ravel()))
            continue
        cells = [dict(zip(each.values or (), each.counts.tolist(), strict=True)) for each in (one, other)]
        found[name] = math.sqrt(sum((cells[0].get(v, 0) - cells[1].get(v, 0)) ** 2 for v in cells[0] | cells[1]))
    return found


def check_moves(whole: Mapping[str, Counts], left: Mapping[str, Counts], release: Release, most: int) -> None:
    """No histogram moves by more than the accountant is told."""
    told = {each.name: each.sensitivity for each in release.histograms}
    for name, distance in moved(whole, left).items():
        assert distance <= told[name] + 1e-9, (name, distance, told[name])
        assert told[name] == most


@settings(max_examples=40, deadline=None, phases=[Phase.generate])
@given(owned_rows())
def test_20_a_person_moves_what_is_looked_up_by_no_more_than_is_told(owned: Owned) -> None:
    with TemporaryDirectory() as folder:
        found: list[dict[str, Counts]] = []
        config = config_for(Path(folder), LOOKED_UP, owned.most)
        (release,) = plan_schema(config, DELTA)
        for rows in (owned.rows, owned.neighbor):
            table = rows.append_column("customer", pa.array(owned.owners, pa.string()))
            pq.write_table(table, f"{folder}/part-0.parquet")
            files = list_files(folder)
            found.append(count_lookups(config, files, owned.rows.schema, release, len(owned.owners)))
        check_moves(found[0], found[1], release, owned.most)
        counted = sum(found[0]["job.values"].counts.tolist())
        assert counted == counted_of(owners_of(owned), owned.most)


def owners_of(owned: Owned) -> dict[int, int]:
    """How many persons have how many records."""
    numbers = [owned.owners.count(person) for person in {*owned.owners} - {None}]
    return {number: numbers.count(number) for number in numbers}


@settings(max_examples=40, deadline=None)
@given(st.lists(RECORD, min_size=1, max_size=14), st.data())
def test_20_a_person_moves_the_counts_of_draws_by_no_more_than_is_told(
    records: list[list[int]], data: st.DataObject
) -> None:
    numbers = data.draw(st.lists(st.integers(0, 2), min_size=len(records), max_size=len(records)))
    _, ranked = np.unique(numbers, return_inverse=True)
    persons, most = Persons(ranked.astype(np.int64)), data.draw(st.integers(1, 4))
    emptied = data.draw(st.sampled_from(range(persons.count)))
    tables: list[dict[str, Counts]] = []
    for rows in (records, [[-1] * 3 if ranked[i] == emptied else row for i, row in enumerate(records)]):
        examples = cast(Examples, SimpleNamespace(**vars(examples_of(rows)), persons=persons))
        positions = first_positions(examples, np.arange(persons.count), most)
        tables.append(count_marginals(examples, MARGINALS, positions))
    told = Release("columns", tuple(Histogram(name, 9.0, None, most) for name in MARGINALS))
    check_moves(tables[0], tables[1], told, most)
    one, other = (np.full(size, 1 / size) for size in tables[0]["two"].counts.shape)
    scores = [int(count_dependence(each["two"].counts, one, other, 20).counts[0]) for each in tables]
    assert abs(scores[0] - scores[1]) <= most


@settings(max_examples=40, deadline=None)
@given(owned_rows())
def test_20_a_person_moves_the_counts_of_a_report_by_no_more_than_is_told(owned: Owned) -> None:
    config = config_for(Path("records"), DECLARED, owned.most)
    assert config.fields is not None
    columns = Columns.of(Schema.of(config.fields, owned.rows.schema, declared(config.fields)))
    release = Release("report-1-9", tuple(Histogram(n, 40.0, None, owned.most) for n in names_of(columns)))
    whole, left = (
        columns.count(release, 10**6, cast(Any, first_records(owned.batches(emptied=emptied), owned.most)))
        for emptied in (False, True)
    )
    check_moves(whole, left, release, owned.most)
    assert whole["job"].counts.sum() == counted_of(owners_of(owned), owned.most)


def names_of(columns: Columns) -> list[str]:
    singles, pairs, _ = columns.levels()
    return columns.histograms([*singles, *pairs])


@settings(max_examples=60, deadline=None)
@given(owned_rows())
def test_20_the_same_records_of_a_person_are_counted_everywhere(owned: Owned) -> None:
    """By pandas: the first K of each, whether they are read from files or are among a job's examples."""
    kept = [row for batch in first_records(owned.batches(emptied=False), owned.most) for row in batch.to_pylist()]
    frame = owned.rows.to_pandas().assign(owner=owned.owners).dropna(subset="owner").reset_index(drop=True)
    first = frame[frame.groupby("owner").cumcount() < owned.most]
    assert [row["wage"] for row in kept] == first["wage"].tolist()
    persons = Persons(frame["owner"].factorize()[0].astype(np.int64))
    examples = cast(Examples, SimpleNamespace(persons=persons))
    assert first_positions(examples, np.arange(persons.count), owned.most).tolist() == first.index.tolist()


# 20. What it costs


@pytest.mark.parametrize("most", [1, 4, 25])
def test_20_every_plan_has_the_noise_of_k_records_by_dp_accounting(most: int) -> None:
    """As one Gaussian mechanism of all histograms, of which each changes by K: 1 / sigma^2 adds up."""
    config = config_for(Path("records"), LOOKED_UP, most, accountant="pld", delta=DELTA, schema_epsilon=0.5)
    assert config.fields is not None
    schema_ = pa.schema(
        [("job", pa.string()), ("wage", pa.int64()), ("paid", pa.float64()), ("seen", pa.timestamp("us"))]
    )
    fields = config_for(Path("records"), DECLARED, most).fields
    assert fields is not None
    schema = Schema.of(fields, schema_, declared(fields))
    bought = plan_schema(config, DELTA)
    counts = plan_marginals(config, schema, DELTA, 20_000, bought)
    report = plan_report(Columns.of(schema), 200_000, 0.5, DELTA, sensitivity=config.privacy.sensitivity)
    thresholds = sum(release.threshold_delta for release in bought)
    for releases, target in (
        (bought, 0.5),
        ((*bought, *counts), TARGET),
        ((*bought, *plan_rest(config, DELTA, bought)), TARGET),
        ((report,), 0.5),
    ):
        precision = sum((most / each.sigma) ** 2 for release in releases for each in release.histograms)
        paid = thresholds if releases[0] is not report else 0.0
        judged = dp_accounting.get_epsilon_gaussian(precision**-0.5, DELTA - paid)
        assert 0.94 * target < judged <= 1.001 * target
        assert epsilon([(release, 1) for release in releases], DELTA) <= target


TRIALS = 200_000


@pytest.mark.parametrize("shared", [1, 2, 4])
def test_20_what_only_one_person_has_is_released_as_seldom_as_delta_says(shared: int) -> None:
    """All four records of a person in one cell, or two in each of two, or one in each of four."""
    sigma, each_delta = 4.0, 4e-4
    histogram = Histogram("job", sigma, threshold_for(sigma, each_delta, 4), 4)
    assert histogram.threshold_delta <= each_delta
    values = tuple(map(str, range(TRIALS)))
    counts = np.full(TRIALS, shared, np.int64)
    found = noisy_histograms({"job": Counts(counts, values)}, Release("schema", (histogram,)))
    owners = {int(value) // (4 // shared) for value in found["job"].values or ()}  # Neighbors are one person's.
    persons = TRIALS // (4 // shared)
    assert stats.binomtest(len(owners), persons, histogram.threshold_delta, alternative="greater").pvalue > 1e-4


# 20. Whole runs

ROWS, WHALE, NOBODYS = 2000, 300, 20
PEOPLE = 1 + (ROWS - WHALE - NOBODYS) // 4
CUSTOMERS: dict[str, Any] = FIELDS | {"customer": {"kind": "id"}}
CHANGED = {"sex": "f", "job": "pope", "wage": 0}
"""What all records of one person are in the other table."""


def write_people(folder: Path, *, changed: bool) -> Path:
    """Four records a customer, 300 of one of them, who is an emperor in all, or a pope; and 20 of nobody."""
    draw = np.random.default_rng(3)
    folder.mkdir()
    owners = np.array([None] * NOBODYS + ["whale"] * WHALE + [f"c{i // 4}" for i in range(ROWS - WHALE - NOBODYS)])
    order = draw.permutation(ROWS)
    rows = {
        "sex": draw.choice(["f", "m"], ROWS).astype(object),
        "job": draw.choice(["clerk", "cook", "nurse"], ROWS).astype(object),
        "wage": draw.integers(0, 5000, ROWS),
    }
    owners = owners[order]
    for name, value in (CHANGED if changed else {"sex": "m", "job": "emperor", "wage": 4999}).items():
        rows[name][owners == "whale"] = value
    rows["job"][owners == None] = "ghost"  # noqa: E711 - by element
    table = pa.table({**rows, "customer": pa.array(owners.tolist(), pa.string())})
    pq.write_table(table.slice(0, 1200), folder / "part-0.parquet")
    pq.write_table(table.slice(1200), folder / "part-1.parquet")
    return folder


def job_of(name: str, people: Path, runs: Path, **privacy: Any) -> dict[str, Any]:
    return drawn_job(name, people, runs, CUSTOMERS, **{"unit": "customer", "max_records_per_unit": K} | privacy)


@dataclass
class Seen:
    """Of each release of a run, its exact counts and what was released."""

    exact: dict[str, Mapping[str, Counts]] = field(default_factory=dict[str, Any])
    released: dict[str, Released] = field(default_factory=dict[str, Any])


def run_watched(job: dict[str, Any], instead: Mapping[str, Released] | None = None) -> tuple[Path, Seen]:
    """A run and its report. instead: what every release is taken to be, whatever it counts."""
    seen = Seen()
    released_once = measured.released_once

    def watching(folder: Any, release: Release, count: Any) -> Released:
        seen.exact[release.name] = count()
        found = released_once(folder, release, lambda: seen.exact[release.name])
        seen.released[release.name] = found if instead is None else instead[release.name]
        return seen.released[release.name]

    with pytest.MonkeyPatch.context() as patch:
        for module in (private_run, measured, shareable):
            patch.setattr(module, "released_once", watching)
        patch.setattr(shareable, "read_released", lambda _folder, release: seen.released[release.name])
        run = start(job)
        shareable.share_report(RunDirectory.find(str(run)), target=2.0, count=200)
    return run, seen


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run, and one on the neighbor's records, whose releases are taken to be those of the first."""
    folder = tmp_path_factory.mktemp("persons")
    run, seen = run_watched(job_of("whole", write_people(folder / "whole", changed=False), folder / "runs"))
    people = write_people(folder / "other", changed=True)
    _, other = run_watched(job_of("other", people, folder / "runs-other"), seen.released)
    return run, seen, other


def test_20_a_whole_run_counts_no_more_than_k_records_of_a_person(runs: Any) -> None:
    run, seen, other = runs
    assert [*seen.exact] == ["schema", "columns", "pairs", "report-1-2"]
    assert {name: [*each] for name, each in seen.exact.items()} == {name: [*each] for name, each in other.exact.items()}
    for release, histograms in seen.exact.items():
        for name, one in histograms.items():
            two = other.exact[release][name]
            cells = [
                dict(enumerate(each.counts.ravel().tolist()))
                if each.values is None
                else dict(zip(each.values, each.counts.tolist(), strict=True))
                for each in (one, two)
            ]
            lost = {cell: max(0, cells[0].get(cell, 0) - cells[1].get(cell, 0)) for cell in cells[0] | cells[1]}
            assert sum(lost.values()) <= K, (release, name)
            assert "ghost" not in cells[0], "a record of nobody"
            assert sum(cells[0].values()) == K * PEOPLE, (release, name)
    jobs = seen.exact["schema"]["job.values"]
    assert dict(zip(jobs.values, jobs.counts.tolist(), strict=True))["emperor"] == K
    state = private_run.RunLedger.open(open_folder(str(run))).state
    assert {each.sensitivity for release in state.releases for each in release.histograms} == {K}
    assert "emperor" not in (seen.released["schema"].histograms["job.values"].values or ())


def test_20_the_statement_is_of_persons_and_computes_again(runs: Any) -> None:
    run, _, _ = runs
    report = report_of(run)
    assert report["persons"]["persons"] == PEOPLE
    assert report["persons"]["nobodys"] == NOBODYS
    precision = sum((K / each["sigma"]) ** 2 for release in report["releases"] for each in release["histograms"])
    judged = dp_accounting.get_epsilon_gaussian(precision**-0.5, report["delta"])
    assert judged <= report["epsilon"] <= 1.2 * judged, "an rdp accountant is an upper bound"
    script = runpy.run_path(str(ROOT / "docs" / "recompute_epsilon.py"))
    assert script["agrees"](report["epsilon"], script["recompute"](report)["epsilon"])
    page = (run / "privacy.md").read_text()
    assert "of each training person the first 3 records are counted once in each histogram" in page
    assert "Of each person the first 3 are counted." in page
    shared = (run / "shareable.html").read_text()
    assert "<td>of each person the first 3</td>" in shared
    assert "learns little about any single person (all records with the same `customer`)" in shared


def test_20_delta_is_below_one_in_all_persons(runs: Any, tmp_path: Path) -> None:
    run, _, _ = runs
    assert report_of(run)["delta"] == default_delta(PEOPLE)
    people = write_people(tmp_path / "people", changed=False)
    why = refusal(lambda: start(job_of("risky", people, tmp_path / "runs", delta=1.5 / PEOPLE)))
    assert f"for {PEOPLE} persons that are looked at" in why


def test_20_the_ledger_over_runs_knows_what_a_run_protects(runs: Any) -> None:
    run, _, _ = runs
    entries = SpendingLedger(open_folder(str(run.parent))).read()
    assert {entry.unit for entry in entries} == {"customer"}
    of_records = drawn_job("records", run.parent.parent / "whole", run.parent, CUSTOMERS)
    capped = of_records | {"name": "capped", "privacy": of_records["privacy"] | {"max_epsilon": 50.0}}
    why = refusal(lambda: start(capped))
    assert why.startswith("privacy.max_epsilon 50 cannot be kept: earlier runs on the same files protect another unit")
    assert not (run.parent / "capped" / "private").exists()
    report = report_of(start(of_records))
    assert report["epsilon"] <= TARGET
    assert report["epsilon_with_earlier_runs"] == "infinite"
    assert "of one record is unknown" in report["also_touched_the_records"]["earlier runs that protect another unit"]


def test_20_a_person_pays_for_runs_on_any_of_a_run_s_files(runs: Any) -> None:
    """Each on a file of its own: of records the dearest file counts, of a person all together."""
    run, _, _ = runs
    entries = SpendingLedger(open_folder(str(run.parent))).of_files(["a", "b"]).read()
    (last,) = {entry.run_id: entry for entry in entries if entry.name == "whole"}.values()
    apart = [replace(last, run_id=name, files=(name,)) for name in "ab"]
    config = config_of(job_of("next", run, run.parent))
    state = replace(private_run.RunLedger.open(open_folder(str(run))).state, run_id="next", files=("a", "b"))
    (history,) = private_run._before(config, apart, state)
    assert len(history) == 2 * len(last.releases)


def test_20_a_series_does_not_go_on_from_a_run_that_protects_something_else(runs: Any) -> None:
    run, _, _ = runs
    job = drawn_job("next", run.parent.parent / "whole", run.parent, CUSTOMERS)
    job["data"] |= {"since": "whole"}
    with pytest.raises(ConfigError, match="run whole protects each customer, which says nothing of single"):
        start(job)
