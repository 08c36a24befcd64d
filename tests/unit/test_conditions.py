"""What is drawn given some columns has the model's own conditional probabilities: the judge is their enumeration."""

from __future__ import annotations

import datetime as dt
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy import stats

from runner.config import GenerationConfig
from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.errors import ConfigError
from runner.generation.records import RecordMaker
from runner.generation.settings import SamplingSettings
from runner.generation.shares import ValueShare, count_values, mix
from runner.model.artifact import TrainedModel
from tests.table_models import make_table_model, probabilities

COLUMNS = pa.schema([("a", pa.string()), ("b", pa.dictionary(pa.int8(), pa.string())), ("c", pa.date32())])
FIELDS: dict[str, Any] = {
    "a": {"kind": "category", "values": ["x", "y"], "nullable": False},
    "b": {"kind": "category", "values": ["p", "q", "r"], "nullable": True},
    "c": {"kind": "date", "range": ["2023-12-29", "2024-02-02"], "nullable": False},  # three tokens a value
}
DAYS = [dt.date(2023, 12, 29) + dt.timedelta(days=each) for each in range(36)]
ROWS = list(itertools.product(["x", "y"], ["p", "q", "r", None], DAYS))
DRAWS = 12_000


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, TrainedModel]:
    """By whether fields come in any order."""
    return {
        any_order: make_table_model(
            tmp_path_factory.mktemp("model"), FIELDS, COLUMNS, any_order=any_order, strength=4.0
        )
        for any_order in (False, True)
    }


def all_rows() -> pa.Table:
    return pa.table(dict(zip("abc", map(list, zip(*ROWS, strict=True)), strict=True)), schema=COLUMNS)


def draw(model: TrainedModel, n: int, *, first: int = 0, of: int | None = None, **chosen: Any) -> pa.Table:
    rows = chosen.pop("rows", None)
    prompts = ("",) if rows is None else tuple(json.dumps(row) if row else "" for row in rows)
    asked = SamplingSettings(prompts=prompts, records_per_prompt=of or -(-n // len(prompts)), **chosen)
    return RecordMaker(model, asked).make(n, first=first, first_draw=first).table


def parsed(given_texts: dict[str, Any]) -> dict[str, Any]:
    return {name: dt.date.fromisoformat(text) if name == "c" else text for name, text in given_texts.items()}


def rows_of(table: pa.Table) -> list[tuple[Any, ...]]:
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def assert_drawn_from(table: pa.Table, expected: dict[tuple[Any, ...], float]) -> None:
    """Chi-square of the counts; rows that are expected seldom count together."""
    counts = Counter(rows_of(table))
    assert set(counts) <= set(expected)
    seldom = [row for row, p in expected.items() if p * table.num_rows < 5]
    often = [row for row in expected if row not in set(seldom)]
    assert len(often) > 1, "the judge sees something"
    found = [*(counts[row] for row in often), sum(counts[row] for row in seldom)]
    wanted = [*(expected[row] for row in often), sum(expected[row] for row in seldom)]
    if not wanted[-1]:
        found, wanted = found[:-1], wanted[:-1]
    assert stats.chisquare(found, np.array(wanted) / sum(wanted) * sum(found)).pvalue > 1e-3


@pytest.mark.parametrize(
    ("any_order", "fixed"),
    [
        (False, {}),
        (False, {"a": "y"}),
        (False, {"a": "x", "b": None}),
        (True, {}),
        (True, {"a": "y"}),
        (True, {"b": "q"}),
        (True, {"b": None, "c": "2024-01-17"}),
        (True, {"c": "2023-12-31"}),
    ],
)
def test_the_rest_is_drawn_given_what_is_given(
    models: dict[bool, TrainedModel], any_order: bool, fixed: dict[str, Any]
) -> None:
    """Of both kinds of model, by the order of a row's fields: those that are given, then the others."""
    model = models[any_order]
    order = [*(name for name in "abc" if name in fixed), *(name for name in "abc" if name not in fixed)]
    p = probabilities(model, all_rows(), order, len(fixed))
    wanted = parsed(fixed)
    expected = {
        row: float(chance)
        for row, chance in zip(ROWS, p, strict=True)
        if all(row["abc".index(name)] == value for name, value in wanted.items())
    }
    assert sum(expected.values()) == pytest.approx(1, abs=1e-5)
    assert_drawn_from(draw(model, DRAWS, rows=[fixed]), expected)


@pytest.mark.parametrize("fixed", [{}, {"c": "2024-01-17"}])
def test_shares_are_exact_and_the_others_keep_their_proportions(
    models: dict[bool, TrainedModel], fixed: dict[str, Any]
) -> None:
    """b is q in a quarter of the rows, null in a third; else it is p or r as often as the model says."""
    model = models[True]
    shares = (ValueShare("b", "q", 0.25), ValueShare("b", None, 1 / 3))
    table = draw(model, DRAWS, rows=[fixed], rebalance=shares)
    counts = Counter(table.column("b").to_pylist())
    assert (counts["q"], counts[None]) == (3000, 4000)
    order = [*fixed, "b", *(name for name in "ac" if name not in fixed)]
    rest = probabilities(model, all_rows(), order, len(fixed) + 1)
    whole = probabilities(model, all_rows(), order, len(fixed))
    wanted = parsed(fixed)
    fitting = [
        (row, given_b, joint)
        for row, given_b, joint in zip(ROWS, rest, whole, strict=True)
        if all(row["abc".index(name)] == value for name, value in wanted.items())
    ]
    left = sum(joint for row, _, joint in fitting if row[1] in ("p", "r"))
    share = {"q": 0.25, None: 1 / 3}
    expected = {
        row: float(share[row[1]] * given_b if row[1] in share else (1 - 0.25 - 1 / 3) * joint / left)
        for row, given_b, joint in fitting
    }
    assert sum(expected.values()) == pytest.approx(1, abs=1e-5)
    assert_drawn_from(table, expected)


ROW = st.fixed_dictionaries(
    {},
    optional={
        "a": st.sampled_from("xy"),
        "b": st.sampled_from(["p", "q", "r", None]),
        "c": st.sampled_from(DAYS).map(str),
    },
)


@settings(max_examples=3, deadline=None, phases=[Phase.generate])  # Each example compiles: no shrinking.
@given(st.lists(ROW, min_size=40, max_size=60), st.integers(0, 3), st.data())
def test_each_row_keeps_what_is_given_whatever_is_drawn_with_it(
    models: dict[bool, TrainedModel], rows: list[dict[str, Any]], seed: int, data: st.DataObject
) -> None:
    """And its place, and its other values are the same alone as among the others; there are more than one batch."""
    rows = rows * 8
    table = draw(models[True], len(rows), rows=rows, seed=seed)
    assert table.schema == COLUMNS
    for row, made in zip(rows, table.to_pylist(), strict=True):
        assert parsed(row) == {name: made[name] for name in row}
        assert tuple(made.values()) in ROWS
    first = data.draw(st.integers(0, len(rows) - 1))
    n = data.draw(st.integers(1, len(rows) - first))
    part = draw(models[True], n, first=first, of=1, rows=rows, seed=seed)
    assert part.to_pylist() == table.slice(first, n).to_pylist()


def test_a_given_value_comes_out_as_it_is_where_less_is_learned(tmp_path: Path) -> None:
    """Digits that are drawn, decimals that are rounded, a text that is cut, seconds, and an id."""
    columns = pa.schema(
        [
            ("id", pa.int32()),
            ("salary", pa.float64()),
            ("rate", pa.float32()),
            ("note", pa.string()),
            ("seen", pa.timestamp("s", "Europe/Berlin")),
            ("size", pa.dictionary(pa.int8(), pa.int16())),
        ]
    )
    fields = {
        "id": {"kind": "id", "made": "sequence"},
        "salary": {"kind": "number", "range": [0, 1e6], "decimals": 0, "exact": False},
        "rate": {"kind": "number", "range": [0, 1], "decimals": 2},
        "note": {"kind": "text", "max_tokens": 3},
        "seen": {"kind": "datetime", "range": ["2024-01-01", "2024-12-31"], "resolution": "hour"},
        "size": {"kind": "integer", "range": [0, 300], "bins": 10, "exact": False},
    }
    model = make_table_model(tmp_path, fields, columns, any_order=True)
    row = {
        "id": "77",
        "salary": "123456.5",
        "rate": "0.125",
        "note": "long, and à la carte",
        "seen": "2024-07-01 12:34:56+0200",
        "size": "123",
    }
    names = list(row)
    rows = [{name: row[name]} for name in names] + [row, {}]
    table = draw(model, len(rows), rows=rows)
    assert isinstance(model.tokenizer, FieldTokenizer)
    assert table.schema == model.tokenizer.schema.arrow
    for place, name in enumerate(names):
        for line in (place, len(names)):
            column = table.column(name)
            text = str(column[line].as_py()) if name not in ("seen", "salary", "rate") else None
            if text is not None:
                assert text == row[name]
    assert table.column("salary")[1].as_py() == 123456.5
    assert table.column("rate")[2].as_py() == 0.125
    assert table.column("seen")[4].as_py().isoformat() == "2024-07-01T12:34:56+02:00"
    assert table.column("id").to_pylist() == [77, 2, 3, 4, 5, 6, 77, 8]


def test_rules_of_columns_are_drawn_by_and_given_values_beside_them(models: dict[bool, TrainedModel]) -> None:
    """Where a value is a token, nothing is drawn that a rule excludes; the proportions of the others stay."""
    rules = GenerationConfig.model_validate({"columns": {"b": {"allowed": ["p", "r"]}}, "max_invalid": 0})
    order = ["a", "b", "c"]
    p = probabilities(models[True], all_rows(), order, 0)
    ahead = {"x": 0.0, "y": 0.0}
    for row, chance in zip(ROWS, p, strict=True):
        if row[1] in ("p", "r"):
            ahead[row[0]] += float(chance)
    before = {"x": sum(p[: len(p) // 2]), "y": sum(p[len(p) // 2 :])}
    expected = {
        row: float(before[row[0]] * chance / ahead[row[0]])
        for row, chance in zip(ROWS, p, strict=True)
        if row[1] in ("p", "r")
    }
    assert_drawn_from(draw(models[True], DRAWS, validation=rules), expected)
    with pytest.raises(ConfigError, match=r"generation.columns.b: the model has no value that keeps the rules"):
        draw(models[True], 1, validation=GenerationConfig.model_validate({"columns": {"b": {"allowed": ["z"]}}}))
    with pytest.raises(ConfigError, match=r"--rebalance b: generation\.columns allows no other value for the rest"):
        draw(
            models[True],
            4,
            rebalance=(ValueShare("b", "p", 0.5), ValueShare("b", "r", 0.25)),
            validation=rules,
        )


# Shares


@given(st.integers(1, 5000), st.integers(0, 2**64 - 1), st.data())
def test_mixed_numbers_are_all_of_them_and_each_the_same_alone(n: int, seed: int, data: st.DataObject) -> None:
    mixed = mix(np.arange(n), n, seed)
    assert sorted(mixed.tolist()) == list(range(n))
    place = data.draw(st.integers(0, n - 1))
    assert mix(np.array([place]), n, seed).tolist() == [mixed[place]]


def test_values_with_shares_are_spread_over_the_output() -> None:
    """The runs test of Wald and Wolfowitz, and the largest gap, over a million rows; a billion rows are no problem."""
    n = 10**6
    has = mix(np.arange(n), n, seed=1) < n // 2
    runs = np.count_nonzero(np.diff(has)) + 1
    assert abs(runs - n / 2) < 4 * np.sqrt(n) / 2
    assert np.ptp(np.add.reduceat(has, np.arange(0, n, 1000))) < 200
    assert mix(np.array([10**9 - 1]), 10**9, seed=1)[0] < 10**9


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.integers(1, 10**6))
def test_counts_are_the_shares_of_all_rows_to_less_than_one(parts: list[float], n: int) -> None:
    shares = [part / max(sum(parts), 1) for part in parts]
    counts = count_values(shares, n)
    assert sum(counts) <= n
    assert all(abs(count - share * n) < 1 + 1e-6 for count, share in zip(counts, shares, strict=True))
    assert abs(n - sum(counts) - (1 - sum(shares)) * n) < 1 + 1e-6
