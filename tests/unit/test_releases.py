"""A release costs what is said: against the definition of (epsilon, delta), in composition, and with its thresholds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runner.errors import CorruptError, PrivacyError
from runner.privacy.accountant import (
    Accountant,
    Histogram,
    Mechanism,
    Release,
    epsilon,
    epsilon_unamplified,
    find_noise,
    steps_within,
)
from runner.privacy.entries import Entry, spent_before
from runner.privacy.ledger import LedgerState
from runner.privacy.releases import (
    Counts,
    Released,
    find_released,
    noisy_histograms,
    plan_release,
    released_once,
    threshold_for,
)
from runner.storage import Folder, open_folder

DELTA = 1e-5
MECHANISM = Mechanism(examples=400, batch_size=20, noise_multiplier=2.0)


def release(*sigmas: float, threshold: int | None = None) -> Release:
    return Release("schema", tuple(Histogram(f"column {i}", sigma, threshold) for i, sigma in enumerate(sigmas)))


def epsilon_by_definition(sigmas: tuple[float, ...], delta: float) -> float:
    """The smallest epsilon with sum of max(0, P(x) - e^epsilon Q(x)) <= delta over all outputs x of the cells that a
    record is in, P with the record and Q without. By bisection, from the probabilities alone."""
    grids = [np.arange(-math.ceil(9 * sigma), math.ceil(9 * sigma) + 2) for sigma in sigmas]

    def joint(shift: int) -> NDArray[np.float64]:
        found = np.ones(1)
        for sigma, grid in zip(sigmas, grids, strict=True):
            mass = np.exp(-0.5 * ((grid - shift) / sigma) ** 2)
            found = np.multiply.outer(found, mass / mass.sum()).reshape(-1)
        return found

    with_record, without = joint(1), joint(0)
    low, high = 0.0, 200.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        is_enough = np.maximum(with_record - math.exp(middle) * without, 0).sum() <= delta
        low, high = (low, middle) if is_enough else (middle, high)
    return high


# What a release costs


@pytest.mark.parametrize("sigmas", [(0.5,), (1.0,), (4.0,), (30.0,), (2.0, 2.0), (3.0, 5.0), (2.0, 3.0, 3.0)])
@pytest.mark.parametrize("delta", [1e-2, 1e-5])
def test_a_release_costs_what_the_definition_of_privacy_gives(sigmas: tuple[float, ...], delta: float) -> None:
    expected = epsilon_by_definition(sigmas, delta)
    found = epsilon([(release(*sigmas), 1)], delta)
    assert expected - 1e-6 <= found <= expected + 2e-3
    assert epsilon([(release(*sigmas), 1)], delta, "rdp") >= expected - 1e-6


@pytest.mark.parametrize(("sigma", "histograms"), [(50.0, 1), (200.0, 15), (90.0, 105)])
def test_with_much_noise_it_costs_what_gaussian_noise_does(sigma: float, histograms: int) -> None:
    """Which has a closed form (Balle and Wang 2018): as one with sigma over the root of their number."""
    from dp_accounting import get_epsilon_gaussian

    expected = get_epsilon_gaussian(sigma / math.sqrt(histograms), DELTA)
    assert epsilon([(release(*[sigma] * histograms), 1)], DELTA) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_steps_and_releases_compose(accountant: Accountant) -> None:
    """As Gaussians: of steps that every record is in, and of a release with much noise."""
    whole = Mechanism(examples=10, batch_size=10, noise_multiplier=40.0)
    together = epsilon([(whole, 9), (release(20.0, 30.0), 1)], DELTA, accountant)
    noise = 1 / math.sqrt(9 / 40**2 + 1 / 20**2 + 1 / 30**2)
    one = epsilon([(replace(whole, noise_multiplier=noise), 1)], DELTA, accountant)
    assert together == pytest.approx(one, rel=2e-3)
    sampled = [(MECHANISM, 30)]
    both = epsilon([*sampled, (release(20.0), 1)], DELTA, accountant)
    assert max(epsilon(sampled, DELTA, accountant), epsilon([(release(20.0), 1)], DELTA, accountant)) < both
    assert both < epsilon(sampled, DELTA / 2, accountant) + epsilon([(release(20.0), 1)], DELTA / 2, accountant)


def test_without_amplification_a_release_costs_as_much_as_with_it() -> None:
    assert epsilon_unamplified([(release(20.0), 1)], DELTA) == epsilon([(release(20.0), 1)], DELTA)
    fixed = epsilon_unamplified([(MECHANISM, 40), (release(20.0), 1)], DELTA)
    assert fixed > epsilon_unamplified([(MECHANISM, 40)], DELTA)
    gaussian = Mechanism(1, 1, 1 / math.sqrt(2 / 2.0**2 + 1 / 20.0**2))
    assert fixed == pytest.approx(epsilon([(gaussian, 1)], DELTA), rel=1e-3)


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_thresholds_are_paid_from_delta(accountant: Accountant) -> None:
    public, found = release(20.0, 20.0), release(20.0, 20.0, threshold=threshold_for(20.0, 1e-6))
    assert 1e-6 < found.threshold_delta <= 2e-6, "two of them"
    assert epsilon([(found, 1)], DELTA, accountant) == epsilon([(public, 1)], DELTA - found.threshold_delta, accountant)
    assert epsilon([(MECHANISM, 5), (found, 1)], 1e-6, accountant) == math.inf


@settings(max_examples=60)
@given(st.floats(0.3, 300), st.floats(1e-12, 0.3))
def test_a_threshold_is_the_smallest_that_its_delta_pays_for(sigma: float, delta: float) -> None:
    threshold = threshold_for(sigma, delta)
    assert Histogram("x", sigma, threshold).threshold_delta <= delta
    assert threshold == 2 or Histogram("x", sigma, threshold - 1).threshold_delta > delta


# Plans


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize("target", [0.08, 1.0])
def test_a_planned_release_costs_its_target_and_hardly_less(accountant: Accountant, target: float) -> None:
    weights = {"age": 1.0, "job": 4.0, "city": 1.0}
    planned = plan_release("schema", weights, {"job", "city"}, target, DELTA, accountant)
    assert 0.98 * target < epsilon([(planned, 1)], DELTA, accountant) <= target
    age, job, city = planned.histograms
    assert [each.name for each in planned.histograms] == list(weights)
    assert age.threshold is None
    assert age.sigma == city.sigma == pytest.approx(2 * job.sigma, rel=0.01)
    assert 0 < planned.threshold_delta <= 0.1 * DELTA


def test_noise_for_steps_leaves_room_for_the_release() -> None:
    beside = [(release(15.0, 15.0), 1)]
    noise = find_noise(400, 20, 40, 2.0, DELTA, "rdp", beside)
    assert noise > find_noise(400, 20, 40, 2.0, DELTA, "rdp")
    assert epsilon([*beside, (Mechanism(400, 20, noise), 40)], DELTA, "rdp") <= 2.0
    assert epsilon([*beside, (Mechanism(400, 20, noise - 0.002), 40)], DELTA, "rdp") > 2.0


def test_a_release_that_leaves_next_to_nothing_is_paid_for_or_refused() -> None:
    beside = [(release(6.0), 1)]
    alone = epsilon(beside, DELTA)
    assert epsilon(beside, DELTA, "rdp") > 1.02 * alone, "by RDP it would be too much"
    noise = find_noise(400, 20, 2, 1.02 * alone, DELTA, "pld", beside)
    assert epsilon([*beside, (Mechanism(400, 20, noise), 2)], DELTA) <= 1.02 * alone
    with pytest.raises(PrivacyError, match="schema_epsilon"):
        find_noise(400, 20, 2, 0.9 * alone, DELTA, "pld", beside)


def test_steps_are_counted_after_what_was_released() -> None:
    before = [(release(15.0, 15.0), 1)]
    limit = epsilon([*before, (MECHANISM, 37)], DELTA, "rdp")
    assert steps_within(MECHANISM, limit, DELTA, "rdp", before) == 37
    assert steps_within(MECHANISM, limit * (1 - 1e-9), DELTA, "rdp", before) == 36
    assert steps_within(MECHANISM, epsilon(before, DELTA, "rdp") / 2, DELTA, "rdp", before) == 0


def test_too_little_for_too_much_is_refused() -> None:
    with pytest.raises(PrivacyError, match="3 histograms cannot be had"):
        plan_release("schema", dict.fromkeys("abc", 1.0), (), 1e-6, 1e-9)


# What is drawn


def test_noise_is_added_to_every_cell_in_the_shape_of_the_counts() -> None:
    counts = np.arange(20_000).reshape(100, 200)
    found = noisy_histograms({"column 0": Counts(counts)}, release(25.0))["column 0"]
    noise = found.counts - counts
    assert (found.values, noise.shape, noise.dtype) == (None, counts.shape, np.int64)
    assert np.std(noise) == pytest.approx(25, rel=0.04)
    assert abs(np.mean(noise)) < 1


def test_values_under_the_threshold_are_left_out_and_the_others_lose_their_order() -> None:
    values = ("zebra", *(f"rare {i}" for i in range(500)), "ant")
    counts = np.array([400, *[1] * 500, 300])
    planned = release(5.0, threshold=threshold_for(5.0, 1e-9))
    found = noisy_histograms({"column 0": Counts(counts, values)}, planned)["column 0"]
    assert found.values == ("ant", "zebra")
    assert np.abs(found.counts - [300, 400]).max() < 40


@pytest.mark.parametrize(
    ("histograms", "words"),
    [
        ({"column 0": Counts(np.arange(3))}, "accounts for column 0, column 1, but column 0 were counted"),
        ({f"column {i}": Counts(np.arange(3)) for i in range(3)}, "were counted"),
        ({"column 0": Counts(np.arange(3)), "column 1": Counts(np.arange(1), ("a",))}, "'column 1' is of other cells"),
        ({"column 0": Counts(np.arange(3)), "column 1": Counts(np.zeros(3))}, "'column 1' must hold whole numbers"),  # type: ignore[arg-type]
    ],
)
def test_other_histograms_than_those_accounted_for_are_not_released(
    histograms: Mapping[str, Counts], words: str
) -> None:
    with pytest.raises(PrivacyError, match=words):
        noisy_histograms(histograms, release(5.0, 5.0))


# Drawn once


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return open_folder(str(tmp_path / "private"))


def counted() -> Mapping[str, Counts]:
    return {"column 0": Counts(np.full(50, 1000)), "column 1": Counts(np.full(50, 1000))}


def test_a_release_is_drawn_once_and_read_from_then_on(folder: Folder) -> None:
    def refuse() -> Mapping[str, Counts]:
        raise AssertionError("counted again")

    first = released_once(folder, release(9.0, 9.0), counted)
    assert released_once(folder, release(9.0, 9.0), refuse) == first
    assert not np.array_equal(first.histograms["column 0"].counts, first.histograms["column 1"].counts)
    assert find_released(folder, "schema") == first.sha256
    assert find_released(folder, "other") is None


def test_of_two_who_draw_at_once_both_get_what_was_stored_first(folder: Folder) -> None:
    inner: list[Released] = []

    def count() -> Mapping[str, Counts]:
        """While this one counts, another one draws and stores."""
        inner.append(released_once(folder, release(9.0, 9.0), counted))
        return counted()

    assert released_once(folder, release(9.0, 9.0), count) == inner[0]


def test_a_release_of_occurring_values_survives_its_file(folder: Folder) -> None:
    planned = release(2.0, threshold=5)
    names = {"column 0": Counts(np.array([900, 800]), ("b, \u00e9", "a"))}
    first = released_once(folder, planned, lambda: names)
    assert first == released_once(folder, planned, lambda: names)
    assert first.histograms["column 0"].values == ("a", "b, \u00e9")


@pytest.mark.parametrize("how", ["changed", "cut", "another"])
def test_a_release_that_was_tampered_with_is_refused_and_not_drawn_again(folder: Folder, how: str) -> None:
    released_once(folder, release(9.0, 9.0), counted)
    content = folder.read("schema.json")
    document = json.loads(content)
    document["histograms"]["column 0"]["counts"][0] += 1
    folder.write(
        "schema.json", {"changed": json.dumps(document).encode(), "cut": content[:50], "another": content}[how]
    )
    wanted = release(3.0, 9.0) if how == "another" else release(9.0, 9.0)
    with pytest.raises(CorruptError):
        released_once(folder, wanted, counted)


# In the ledgers

STATE = LedgerState(
    run_id="a run",
    tokens="some tokens",
    mechanism=MECHANISM,
    delta=1e-4,
    accountant="pld",
    limit=None,
    before=((MECHANISM, 7), (release(3.0, threshold=9), 1)),
    allowed_steps=None,
    files=("a",),
    releases=(release(5.0, 5.0),),
)


def entry(run_id: str, steps: int, *releases: Release) -> Entry:
    return Entry(run_id, "a name", ("a",), MECHANISM, steps, 1.5e9, releases)


def test_ledgers_with_releases_survive_their_json() -> None:
    assert LedgerState.from_plain(STATE.to_plain()) == STATE
    charged = entry("1", 3, release(5.0, threshold=8))
    assert Entry.from_plain(json.loads(json.dumps(charged.to_plain()))) == charged


def test_ledgers_without_releases_are_as_they_were_before_there_were_any() -> None:
    assert "releases" not in replace(STATE, releases=()).to_plain()
    later = ("releases", "place", "branches", "unit")
    old = {name: value for name, value in asdict(entry("1", 3)).items() if name not in later}
    assert entry("1", 3).to_plain() == json.loads(json.dumps(old))
    assert Entry.from_plain(old) == entry("1", 3)


def test_what_was_released_counts_against_later_runs_whatever_became_of_the_run() -> None:
    bought = release(5.0)
    charges = [entry("1", 0, bought), entry("2", 10), entry("1", 0), entry("3", 0)]
    (history,) = spent_before(charges, ["a"])
    assert history == [(bought, 1), (MECHANISM, 10)]
    assert spent_before(charges, ["a"], run_id="1", releases=[bought]) == [[(MECHANISM, 10)]]
