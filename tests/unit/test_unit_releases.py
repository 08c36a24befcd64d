"""Where a person is the unit of privacy, noisy counts cost what is said: for K records of one person at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain

import dp_accounting
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from runner.errors import PrivacyError
from runner.privacy.accountant import Accountant, Histogram, Mechanism, Release, epsilon
from runner.privacy.entries import OF_ANOTHER_UNIT, Entry, check_unit, spent_before, uncounted_in_words
from runner.privacy.group_privacy import epsilon_of_group
from runner.privacy.releases import plan_release, threshold_for

DELTA = 1e-5
MECHANISM = Mechanism(examples=400, batch_size=20, noise_multiplier=2.0)


def partitions(total: int, largest: int | None = None) -> Iterator[tuple[int, ...]]:
    """All ways in which so many records can be shared out between cells."""
    if total == 0:
        yield ()
    for first in range(min(total, largest or total), 0, -1):
        for rest in partitions(total - first, first):
            yield (first, *rest)


def release_of(sensitivity: int, *sigmas: float) -> Release:
    return Release("schema", tuple(Histogram(f"column {i}", s, None, sensitivity) for i, s in enumerate(sigmas)))


# What it costs


def epsilon_by_definition(sigma: float, moved: tuple[int, ...], delta: float) -> float:
    """The smallest epsilon with sum of max(0, P(x) - e^epsilon Q(x)) <= delta, where the cells of a histogram move by
    so many records. The privacy loss of discrete Gaussians follows from sum of moved * x alone, whose distribution
    comes of convolutions."""
    reach = math.ceil(9 * sigma) + max(moved)
    grid = np.arange(-reach, reach + 1)
    mass = np.exp(-0.5 * (grid / sigma) ** 2)
    mass /= mass.sum()
    found, squares = np.ones(1), sum(each**2 for each in moved)
    for each in moved:
        spread = np.zeros(2 * reach * each + 1)
        spread[::each] = mass
        found = np.convolve(found, spread)
    places = np.arange(found.size) - found.size // 2
    losses = (2 * places + squares) / (2 * sigma**2)  # log P / Q at x = moved + places, drawn from P.

    def paid(each: float) -> float:
        above = losses > each
        return float(np.sum(found[above] * -np.expm1(each - losses[above])))

    low, high = 0.0, 400.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (low, middle) if paid(middle) <= delta else (middle, high)
    return high


@pytest.mark.parametrize("sensitivity", [2, 3, 4, 6])
@pytest.mark.parametrize("sigma", [4.0, 25.0])
@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_however_the_records_lie_in_the_cells_they_cost_no_more_than_is_said(
    sensitivity: int, sigma: float, accountant: Accountant
) -> None:
    claimed = epsilon([(release_of(sensitivity, sigma), 1)], DELTA, accountant)
    found = {moved: epsilon_by_definition(sigma, moved, DELTA) for moved in partitions(sensitivity)}
    assert max(found.values()) <= claimed + 1e-9
    if accountant == "pld" and sigma > 20:
        assert claimed == pytest.approx(found[sensitivity,], rel=0.01), "all in one cell, and no more than that"


@settings(max_examples=8, deadline=None)
@given(
    st.integers(2, 50),
    st.lists(st.floats(20.0, 400.0), min_size=1, max_size=30),
    st.sampled_from([1e-4, 1e-6]),
)
def test_noise_k_times_as_wide_costs_what_gaussian_noise_does_by_dp_accounting(
    sensitivity: int, sigmas: list[float], delta: float
) -> None:
    """One Gaussian mechanism of all histograms: 1 / sigma^2 adds up."""
    release = release_of(sensitivity, *(sensitivity * sigma for sigma in sigmas))
    together = sum(sigma**-2 for sigma in sigmas) ** -0.5
    judged = dp_accounting.get_epsilon_gaussian(together, delta)
    found = epsilon([(release, 1)], delta)
    assert judged * (1 - 1e-9) <= found <= judged * 1.01
    assert epsilon([(release, 1)], delta, "rdp") >= found


@pytest.mark.parametrize("sensitivity", [1, 4, 40])
def test_a_plan_keeps_to_its_target_and_has_no_more_noise_than_that_needs(sensitivity: int) -> None:
    weights = {"age": 1.0, "job": 1.0, "fine": 0.1}
    plan = plan_release("schema", weights, {"job"}, 0.5, DELTA, sensitivity=sensitivity)
    assert {each.sensitivity for each in plan.histograms} == {sensitivity}
    together = sensitivity * sum(each.sigma**-2 for each in plan.histograms) ** 0.5
    assert dp_accounting.get_epsilon_gaussian(1 / together, DELTA - plan.threshold_delta) == pytest.approx(
        0.5, rel=0.01
    )
    assert epsilon([(plan, 1)], DELTA) <= 0.5


@pytest.mark.parametrize(("sensitivity", "target"), [(2, 0.01), (2, 6.0), (2, 60.0), (4096, 1.0), (4096, 60.0)])
def test_there_is_a_plan_for_much_noise_and_for_little(sensitivity: int, target: float) -> None:
    plan = plan_release("schema", {"age": 1.0}, (), target, DELTA, sensitivity=sensitivity)
    assert epsilon([(plan, 1)], DELTA) <= target
    assert all(each.sigma > 1.5 for each in plan.histograms)


def test_more_noise_than_can_be_drawn_is_refused() -> None:
    with pytest.raises(PrivacyError, match=r"cannot be had for epsilon 0\.01"):
        plan_release("schema", {"age": 1.0}, (), 0.01, DELTA, sensitivity=4096)


def test_several_persons_cost_as_much_as_one_with_all_their_records() -> None:
    one, several = release_of(12, 80.0, 90.0), release_of(3, 80.0, 90.0)
    assert epsilon_of_group([(several, 1)], DELTA, 4) == pytest.approx(epsilon([(one, 1)], DELTA), rel=1e-3)


def test_a_release_of_other_noise_than_it_needs_is_refused() -> None:
    with pytest.raises(PrivacyError, match=r"needs more noise than 1\.5"):
        Histogram("age", 1.5, None, 2)
    assert epsilon([(release_of(1, 1.5), 1)], DELTA) < math.inf


# Values that only one person has


def tail_by_scipy(sigma: float) -> stats.rv_discrete:
    grid = np.arange(-math.ceil(11 * sigma), math.ceil(11 * sigma) + 1)
    mass = np.exp(-0.5 * (grid / sigma) ** 2)
    return stats.rv_discrete(values=(grid, mass / mass.sum()))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.floats(2.0, 60.0), st.floats(-7, -3))
def test_a_value_that_only_one_person_has_leaves_as_seldom_as_delta_says(
    sensitivity: int, sigma: float, log_delta: float
) -> None:
    """However his records share it out: one value in all of them, one in each, and all between."""
    each_delta = 10**log_delta
    noise = tail_by_scipy(sigma)
    threshold = threshold_for(sigma, each_delta, sensitivity)
    least = {m: float(noise.sf(threshold - m - 1)) for m in range(1, sensitivity + 1)}  # P(m + noise >= threshold)
    worst = max(-math.expm1(math.fsum(math.log1p(-least[m]) for m in ms)) for ms in partitions(sensitivity))
    assert worst <= each_delta * (1 + 1e-9) + 1e-15
    stated = Histogram("job", sigma, threshold, sensitivity).threshold_delta
    assert worst - 1e-15 <= stated <= each_delta
    lower = {m: float(noise.sf(threshold - 1 - m - 1)) * sensitivity / m for m in range(1, sensitivity + 1)}
    assert max(lower.values()) > each_delta - 1e-14, "the smallest such threshold"


def test_a_threshold_for_one_record_lets_the_value_of_a_person_through() -> None:
    """What the test above would see."""
    noise, threshold = tail_by_scipy(4.0), threshold_for(4.0, 1e-4)
    assert noise.sf(threshold - 4 - 1) > 5e-4


def test_thresholds_of_a_person_are_paid_from_delta() -> None:
    threshold = threshold_for(20.0, 1e-6, 4)
    public, found = release_of(4, 20.0), Release("schema", (Histogram("column 0", 20.0, threshold, 4),))
    assert epsilon([(found, 1)], DELTA) == epsilon([(public, 1)], DELTA - found.threshold_delta)
    assert found.threshold_delta > Histogram("column 0", 20.0, threshold).threshold_delta


# The ledger over runs


def entry(run_id: str, files: str, unit: str = "", steps: int = 10, releases: tuple[Release, ...] = ()) -> Entry:
    return Entry(run_id, run_id, tuple(files), MECHANISM, steps, 0.0, releases, f"runs/{run_id}", (), unit)


def test_an_entry_has_its_unit_and_those_of_records_are_as_they_were() -> None:
    of_persons = entry("1", "a", "customer", releases=(release_of(4, 30.0),))
    assert Entry.from_plain(of_persons.to_plain()) == of_persons
    assert "unit" not in entry("1", "a").to_plain()
    assert Entry.from_plain(entry("1", "a").to_plain()).unit == ""


def test_a_person_pays_for_all_files_that_his_records_may_be_in() -> None:
    entries = [entry("1", "a", "customer", 3), entry("2", "b", "customer", 4), entry("3", "c", "customer", 5)]
    assert spent_before(entries, "ab", unit="customer") == [[(MECHANISM, 3), (MECHANISM, 4)]]
    of_records = [entry("1", "a", "", 3), entry("2", "b", "", 4)]
    assert len(spent_before(of_records, "ab")) == 2, "a record is in one"


@pytest.mark.parametrize(("earlier", "unit"), [("customer", ""), ("", "customer"), ("customer", "household")])
def test_a_run_that_protects_something_else_counts_as_infinite(earlier: str, unit: str) -> None:
    (history,) = spent_before([entry("1", "a", earlier), entry("2", "a", unit)], "a", unit=unit)
    assert history == [(OF_ANOTHER_UNIT, 1), (MECHANISM, 10)]
    assert epsilon(history, DELTA) == math.inf
    name = unit or "record"
    (words,) = uncounted_in_words(history, unit or None).values()
    assert (
        words
        == f"1, on the same files: what they took of one {name} is unknown, so with earlier runs epsilon is infinite"
    )
    check_unit([history], unit or None, None)
    with pytest.raises(PrivacyError) as refused:
        check_unit([history], unit or None, 3.0)
    assert str(refused.value).startswith(
        "privacy.max_epsilon 3 cannot be kept: earlier runs on the same files protect "
    )
    assert f"another unit than one {name}," in str(refused.value)


def test_a_run_that_took_nothing_or_claims_nothing_is_not_told_by_its_unit() -> None:
    assert spent_before([entry("1", "a", "customer", 0)], "a") == [[]]
    plain = Entry("2", "plain", ("a",), Mechanism(1, 1, 0.0), 1, 0.0)
    (history,) = spent_before([plain], "a", unit="customer")
    assert [*uncounted_in_words(history, "customer")] == ["earlier runs without privacy"]


def test_copies_of_a_run_have_its_unit() -> None:
    entries = [entry("1", "a", "customer"), Entry(**{**vars(entry("1", "a", "customer")), "place": "copy"})]
    (history,) = spent_before(entries, "a", "1", "runs/1", {}, unit="customer")
    assert list(chain(history)) == [(MECHANISM, 10)]
