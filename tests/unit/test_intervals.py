"""A range is cut into parts of a decimal tree, which cover it side by side and hold about as much each."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.data.schema.intervals import Intervals, counted_mass, plan_intervals, spread_mass

LARGEST = 10**18
RANGES = st.tuples(st.integers(-LARGEST, LARGEST), st.integers(-LARGEST, LARGEST)).map(sorted)
NARROW = st.tuples(st.integers(-LARGEST, LARGEST - 2000), st.integers(0, 2000)).map(lambda pair: [pair[0], sum(pair)])


def check_tree(intervals: Intervals, low: int, high: int) -> None:
    starts, widths = intervals.starts.tolist(), intervals.widths.tolist()
    assert starts[0] <= low < starts[0] + widths[0]
    assert starts[-1] <= high < starts[-1] + widths[-1]
    assert [start + width for start, width in zip(starts, widths, strict=True)][:-1] == starts[1:]
    for start, width in zip(starts, widths, strict=True):
        assert start % width == 0
        assert str(width).rstrip("0") in ("1", "2", "5")


@settings(max_examples=60)
@given(RANGES | NARROW, st.integers(2, 300))
def test_parts_cover_the_range_and_start_at_multiples_of_their_width(bounds: list[int], bins: int) -> None:
    low, high = bounds
    intervals = plan_intervals(low, high, bins)
    check_tree(intervals, low, high)
    assert len(intervals.starts) <= max(2 * bins, bins + 10)
    if high - low < bins:
        assert intervals.starts.tolist() == list(range(low, high + 1))


@settings(max_examples=40)
@given(st.lists(st.integers(0, 99_999), min_size=1, max_size=200), st.integers(10, 200))
def test_no_part_of_many_values_holds_much_more_than_its_share(values: list[int], bins: int) -> None:
    distinct, counts = np.unique(values, return_counts=True)
    intervals = plan_intervals(0, 99_999, bins, counted_mass(distinct, counts))
    check_tree(intervals, 0, 99_999)
    held = np.bincount(np.searchsorted(intervals.starts, values, "right") - 1, minlength=len(intervals.starts))
    is_full = len(intervals.starts) < bins
    assert all(
        width == 1 or count <= len(values) / bins or not is_full
        for width, count in zip(intervals.widths, held, strict=True)
    )


def test_where_the_records_lie_the_parts_are_narrow() -> None:
    values = np.arange(1000)
    intervals = plan_intervals(0, 999_999, 100, counted_mass(values, np.ones(1000, np.int64)))
    inside = intervals.starts < 1000
    assert inside.sum() > 60
    assert intervals.widths[inside].max() <= 20
    assert (~inside).sum() < 30


def test_without_records_small_amounts_have_narrower_parts_than_large_ones() -> None:
    intervals = plan_intervals(0, 1_000_000, 128)
    widths = intervals.widths
    assert widths[0] <= 200 < 10_000 <= widths[-2]
    assert (np.diff(widths[:-1]) < 0).sum() < 10


@settings(max_examples=60)
@given(RANGES | NARROW)
def test_what_is_assumed_of_a_range_is_a_share_of_all(bounds: list[int]) -> None:
    low, high = bounds
    share = spread_mass(low, high)
    middle = (low + high) // 2
    assert abs(share(low, high + 1) - 1) < 1e-6
    assert -1e-9 <= share(low, middle) <= 1 + 1e-9
    assert abs(share(low, middle) + share(middle, high + 1) - 1) < 1e-6
