"""Accuracies against mostlyai-qa's own figures, a plain count, and samples of one source."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.report import fidelity
from runner.report.bins import FEWEST_RECORDS, RANGES, VALUES, find_bins
from runner.report.compare import _measure_fidelity  # pyright: ignore[reportPrivateUsage]
from runner.report.fidelity import Accuracy, measure_fidelity
from runner.report.table import Column, TableLayout
from tests.judged_tables import FIGURES, tables
from tests.table_records import LEARNED, table_rows

SMALL = st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=30)


def table_of(rows: list[tuple[int, ...]]) -> pa.Table:
    return pa.table({f"c{place}": pa.array(values, pa.int64()) for place, values in enumerate(zip(*rows, strict=True))})


# Against others' figures


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_accuracies_are_mostlyai_qa_s(name: str) -> None:
    found = measure_fidelity(*tables(name))
    for level in ("overall", "univariate", "bivariate", "trivariate"):
        accuracy: Accuracy = getattr(found, level)
        assert accuracy.synthetic == pytest.approx(FIGURES[name][level], abs=1e-5)
        assert accuracy.most == pytest.approx(FIGURES[name][f"{level}_max"], abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(training=SMALL, holdout=SMALL, synthetic=SMALL)
def test_accuracies_are_the_overlap_of_plain_counts(
    training: list[tuple[int, ...]], holdout: list[tuple[int, ...]], synthetic: list[tuple[int, ...]]
) -> None:
    found = measure_fidelity(table_of(training), table_of(holdout), table_of(synthetic))

    def overlap(one: list[tuple[int, ...]], other: list[tuple[int, ...]], places: tuple[int, ...]) -> float:
        counts = [Counter(tuple(row[place] for place in places) for row in rows) for rows in (one, other)]
        cells = counts[0].keys() | counts[1].keys()
        return 1 - sum(abs(counts[0][cell] / len(one) - counts[1][cell] / len(other)) for cell in cells) / 2

    def mean(size: int, one: list[tuple[int, ...]], other: list[tuple[int, ...]]) -> float:
        return float(np.mean([overlap(one, other, places) for places in itertools.combinations(range(3), size)]))

    # A synthetic value that is no real record's counts to the nearest below, so cells are compared as those.
    real = [*training, *holdout]
    known = [sorted({row[place] for row in real}) for place in range(3)]
    rows = [
        tuple(max([v for v in known[p] if v <= row[p]], default=known[p][0]) for p in range(3)) for row in synthetic
    ]
    for size, accuracy in ((1, found.univariate), (2, found.bivariate), (3, found.trivariate)):
        assert accuracy is not None
        assert accuracy.synthetic == pytest.approx(mean(size, real, rows))
        assert accuracy.holdout == pytest.approx(mean(size, training, holdout))


def test_what_chance_leaves_is_what_samples_of_one_source_reach() -> None:
    draw = np.random.default_rng(4)

    def sample(rows: int) -> pa.Table:
        numbers = draw.normal(size=rows)
        return pa.table({"x": numbers, "y": numbers + draw.normal(size=rows), "z": draw.choice(list("abcde"), rows)})

    rounds = [measure_fidelity(sample(6000), sample(2000), sample(5000)) for _ in range(6)]
    for level in ("univariate", "bivariate", "trivariate"):
        reached = np.mean([getattr(each, level).synthetic for each in rounds])
        assert reached == pytest.approx(np.mean([getattr(each, level).most for each in rounds]), abs=0.006)


def test_records_of_the_source_are_as_good_as_can_be_and_columns_of_their_own_are_not() -> None:
    training, holdout, _ = tables("randhie")
    draw = random.Random(1)
    apart = pa.table(
        [column.take(draw.sample(range(len(column)), len(column))) for column in training.columns],
        training.column_names,
    )
    same, other = (measure_fidelity(training, None, synthetic) for synthetic in (training, apart))
    assert same.overall == Accuracy(1.0, same.overall.most, None)
    assert other.univariate.synthetic == 1.0
    assert other.trivariate is not None
    assert same.trivariate is not None
    assert other.trivariate.synthetic < same.trivariate.most - 0.1
    assert measure_fidelity(training, holdout, holdout).overall.holdout == pytest.approx(
        measure_fidelity(training, None, holdout).overall.synthetic, abs=0.01
    )


# Bins


def test_numbers_have_ranges_of_as_many_values_each() -> None:
    values = pa.chunked_array([np.random.default_rng(0).permutation(1000.0 * np.arange(1000))])
    bins = find_bins(values)
    counts = np.bincount(bins.codes(values), minlength=bins.size)
    assert counts.tolist() == [99, *[100] * (RANGES - 2), 101, 0]
    assert bins.codes(pa.chunked_array([[-1e9, 1e12, None, float("nan")]])).tolist() == [0, 9, 10, 10]


def test_rare_values_count_together_and_empty_ones_and_nulls_on_their_own() -> None:
    texts = [value for value in "abcdefghijkl" for _ in range(20 if value < "h" else FEWEST_RECORDS - (value == "l"))]
    real = pa.chunked_array([[*texts, *[""] * 2, *[None] * 50]])
    bins = find_bins(real)
    codes = dict(zip(real.to_pylist(), bins.codes(real).tolist(), strict=True))
    assert codes[None] == bins.size - 1
    assert codes["l"] == codes["j"] == bins.codes(pa.chunked_array([["never seen"]]))[0]
    own = [value for value in codes if value not in (None, "") and codes[value] != codes["l"]]
    assert own == list("abcdefghi"), f"the {VALUES} most frequent, null among them"
    assert codes[""] not in {codes[value] for value in codes if value != ""}
    few = find_bins(pa.chunked_array([["a"] * 30 + ["b"] * (FEWEST_RECORDS - 1) + ["c"] * FEWEST_RECORDS]))
    assert few.codes(pa.chunked_array([["a", "b", "c", "d"]])).tolist() == [0, 3, 1, 3]


def test_texts_that_are_numbers_are_numbers() -> None:
    numbers = [f"{number / 7:.3f}" for number in range(300)]
    by_text, by_number = (
        find_bins(pa.chunked_array([values])).codes(pa.chunked_array([values]))
        for values in (numbers, [float(number) for number in numbers])
    )
    assert by_text.tolist() == by_number.tolist()
    assert find_bins(pa.chunked_array([numbers])).codes(pa.chunked_array([["many", "3"]])).tolist() == [10, 0]


def test_of_free_texts_a_word_is_drawn() -> None:
    draw = random.Random(1)
    texts = [f"the {draw.choice(['cat', 'dog'])} {number}" for number in range(600)]
    real = pa.chunked_array([texts])
    bins = find_bins(real)
    shares = np.bincount(bins.codes(real), minlength=bins.size) / len(texts)
    assert sorted(shares)[-4:] == pytest.approx([1 / 6, 1 / 6, 1 / 3, 1 / 3], abs=0.05), "cat, dog, the, any number"
    assert bins.codes(pa.chunked_array([["", None]])).tolist() == [bins.size - 1] * 2


TYPES: list[tuple[pa.DataType, list[Any]]] = [
    (pa.bool_(), [True, False, None]),
    (pa.int8(), [-128, 0, 127, None]),
    (pa.uint64(), [0, 2**64 - 1, None]),
    (pa.float32(), [float("nan"), float("inf"), float("-inf"), 0.1, None]),
    (pa.float64(), [1e308, -1e308, 5e-324, None]),
    (pa.decimal128(38, 2), [Decimal("1.25"), Decimal("-99999999999999999999.01"), None]),
    (pa.date32(), [date(1, 1, 1), date(9999, 12, 31), None]),
    (pa.date64(), [date(1970, 1, 1), None]),
    (pa.timestamp("ns", "UTC"), [datetime(2020, 1, 1, tzinfo=UTC), None]),
    (pa.time32("s"), [time(1, 2, 3), None]),
    (pa.time64("ns"), [time(1, 2, 3), None]),
    (pa.duration("us"), [timedelta(days=3), None]),
    (pa.string(), ["", "a", "(other)", None]),
    (pa.large_string(), ["1", "2", None]),
    (pa.dictionary(pa.int8(), pa.string()), ["a", "b", None]),
    (pa.dictionary(pa.int8(), pa.int64()), [7, 8, None]),
    (pa.binary(), [b"a", b"b", None]),
    (pa.list_(pa.int64()), [[1, 2], [], None]),
    (pa.struct({"a": pa.int64()}), [{"a": 1}, None]),
    (pa.null(), [None]),
]


@pytest.mark.parametrize(("kind", "values"), TYPES, ids=lambda value: str(value)[:20])
def test_columns_of_any_type_are_compared(kind: pa.DataType, values: list[Any]) -> None:
    """Also with a single value, and without any but nulls."""
    for rows in (values * 30, [values[0]] * 30, [None] * 30):
        table = pa.table({"a": pa.array(rows, kind), "b": pa.array(range(len(rows)))})
        found = measure_fidelity(table, table, table)
        assert found.columns["a"].synthetic == found.pairs["a", "b"].synthetic == pytest.approx(1.0)
        assert found.trivariate is None
        bins = find_bins(table.column("a"))
        assert set(bins.codes(table.column("a"))) <= set(range(bins.size))


# Wide tables


def test_of_many_columns_some_pairs_and_triples_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    wide = pa.table({f"c{place}": draw.normal(size=60) for place in range(30)})
    monkeypatch.setattr(fidelity, "COLUMNS", 25)
    monkeypatch.setattr(fidelity, "MOST_PAIRS", 40)
    monkeypatch.setattr(fidelity, "MOST_TRIPLES", 70)
    found = measure_fidelity(wide, None, wide)
    assert (len(found.columns), len(found.pairs), found.triples) == (25, 40, 70)
    assert (found.all_columns, found.all_pairs, found.all_triples) == (30, 435, 4060)
    assert found == measure_fidelity(wide, None, wide)
    assert measure_fidelity(wide.select(["c0"]), None, wide).bivariate is None


def test_rows_of_a_table_are_compared_with_the_types_of_their_columns() -> None:
    samples = [table_rows(120, seed) for seed in range(3)]
    layout = TableLayout(tuple(Column(name, "category") for name in LEARNED))
    found = _measure_fidelity(layout, samples)
    assert list(found.columns) == LEARNED
    assert found.columns["plan"].holdout is not None
    assert found.columns["price"].synthetic > 0.7, "a decimal has ranges"
    assert found.columns["seen"].synthetic > 0.7, "so has a moment"
