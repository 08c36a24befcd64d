"""`history.csv` tells what happened, exactly, and marks the one row whose weights are kept."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.train.history import COLUMNS, PRIVATE_COLUMNS, EpochRow, best_epoch, from_csv, from_rows, is_better, to_csv

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
ROWS = st.lists(
    st.builds(
        EpochRow,
        epoch=st.integers(0, 10**6),
        loss=FLOATS,
        accuracy=FLOATS,
        val_loss=st.none() | FLOATS,
        val_accuracy=st.none() | FLOATS,
        steps=st.integers(0, 10**9),
        seconds=FLOATS,
        tokens_per_second=FLOATS,
    ),
    max_size=6,
)


def row(epoch: int, val_loss: float | None = None, *, accuracy: float = 0.5) -> EpochRow:
    return EpochRow(epoch, 1.0, accuracy, val_loss, None, 10, 1.0, 1.0)


def losses(*values: float | None) -> list[EpochRow]:
    return [row(epoch, value) for epoch, value in enumerate(values)]


def read(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode())))


@given(ROWS)
def test_every_number_reads_back_as_the_same_float(rows: list[EpochRow]) -> None:
    for written, found in zip(rows, read(to_csv(rows, 0)), strict=True):
        for name, value in asdict(written).items():
            if name in PRIVATE_COLUMNS and all(row.delta is None for row in rows):
                continue
            assert found[name] == "" if value is None else type(value)(found[name]) == value


@given(ROWS)
def test_a_report_reads_the_rows_that_were_written(rows: list[EpochRow]) -> None:
    best = len(rows) - 1 if rows else None
    assert from_csv(to_csv(rows, best)) == (rows, best)


@given(ROWS)
def test_rows_survive_a_checkpoint(rows: list[EpochRow]) -> None:
    assert from_rows(json.loads(json.dumps([asdict(row) for row in rows]))) == rows


@given(ROWS.filter(bool), st.sampled_from(["loss", "accuracy", "val_loss", "val_accuracy", None]))
def test_exactly_one_row_is_best(rows: list[EpochRow], metric: str | None) -> None:
    marks = [found["best"] for found in read(to_csv(rows, best_epoch(rows, metric)))]
    assert sorted(marks) == ["0"] * (len(rows) - 1) + ["1"]


def test_the_columns_are_those_that_are_documented() -> None:
    header = to_csv([], None).decode()
    assert header == "epoch,loss,accuracy,val_loss,val_accuracy,best,steps,seconds,tokens_per_second\n"
    assert header.strip().split(",") == [name for name in COLUMNS if name not in PRIVATE_COLUMNS]


def test_a_private_run_s_epsilon_and_delta_stand_after_the_metrics() -> None:
    header, line = to_csv([replace(row(0), epsilon=1.5, delta=1e-6)], 0).decode().splitlines()
    assert header == "epoch,loss,accuracy,val_loss,val_accuracy,epsilon,delta,best,steps,seconds,tokens_per_second"
    assert line == "0,1.0,0.5,,,1.5,1e-06,1,10,1.0,1.0"


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ((3.0, 1.0, 2.0), 1),
        ((1.0, 1.0), 0),
        ((3.0, 2.0, math.nan), 1),
        ((math.nan, 2.0, 3.0), 1),
        ((math.nan, math.nan, 5.0), 2),
        ((math.inf, 5.0), 1),
        ((None, None), 0),
        ((2.0,), 0),
    ],
)
def test_the_best_epoch_is_the_first_with_the_smallest_loss_and_never_nan(
    values: tuple[float | None, ...], best: int
) -> None:
    assert best_epoch(losses(*values), "val_loss") == best


def test_accuracies_are_better_when_they_are_larger() -> None:
    rows = [row(0, accuracy=0.2), row(1, accuracy=0.9), row(2, accuracy=0.4)]
    assert best_epoch(rows, "accuracy") == 1


def test_without_a_metric_the_last_epoch_is_kept_and_no_epoch_without_any() -> None:
    assert best_epoch(losses(1.0, 2.0), None) == 1
    assert best_epoch([], None) is None
    assert best_epoch([], "loss") is None


@given(st.floats(), st.floats(), st.floats(0, 1))
def test_of_two_values_at_most_one_is_better(one: float, two: float, min_delta: float) -> None:
    for metric in ("val_loss", "val_accuracy"):
        assert not is_better(metric, one, one)
        if not math.isnan(one) and not math.isnan(two):
            assert not (is_better(metric, one, two, min_delta) and is_better(metric, two, one, min_delta))
        assert not is_better(metric, math.nan, one)


def test_a_change_of_no_more_than_min_delta_is_no_improvement() -> None:
    assert is_better("val_loss", 0.5, 1.0, 0.25)
    assert not is_better("val_loss", 0.75, 1.0, 0.25)
    assert not is_better("val_accuracy", 0.75, 0.5, 0.25)
    assert is_better("val_accuracy", 0.875, 0.5, 0.25)
