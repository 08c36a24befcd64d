"""Releases: noisy histograms of private records, each drawn once, charged before it is drawn.

    release = plan_release("schema", {"age": 1.0, "job": 1.0}, open_sets={"job"}, target=0.4, delta=1e-6)
    noisy = noisy_histograms({"age": Counts(ages), "job": Counts(jobs, names)}, release)
    noisy = released_once(folder, release, count)       # the same, stored: drawn the first time, read from then on

A histogram's cells are public (a grid over a declared range, the tokens of a schema), or they are the values that
occur. These are secrets themselves: a value is released where its noisy count reaches a threshold, which one that only
a single record has does with a probability that is part of delta (Korolova et al., WWW 2009; Wilson et al., PoPETs
2020, section 3.5). Only what leaves `noisy_histograms` may be used for anything.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from runner.errors import CorruptError, PrivacyError
from runner.privacy.accountant import (
    ROUNDING,
    Accountant,
    Histogram,
    Release,
    Spent,
    epsilon,
)
from runner.privacy.discrete_gaussian import (
    LARGEST_SIGMA,
    SMALLEST_SIGMA,
    Source,
    discrete_gaussian_tails,
    draw_discrete_gaussian,
)
from runner.storage import Folder
from runner.storage.manifest import contents_sha256

VERSION = 1
THRESHOLDS_SHARE = 0.1
"""Of delta: what the thresholds of a release may cost together."""
SIGMA_STEP = 0.01
"""Noise that is found here is a multiple of this, rounded up."""
REPORT = "report-"
"""What the names of releases for shareable reports begin with."""


@dataclass(frozen=True)
class Counts:
    """Records in each cell, integers of any shape. `values` names the cells where they are those that occur."""

    counts: NDArray[np.integer]
    values: tuple[str, ...] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counts) and self.values == other.values and np.array_equal(self.counts, other.counts)


def noisy_histograms(
    histograms: Mapping[str, Counts], release: Release, source: Source = os.urandom
) -> dict[str, Counts]:
    """The histograms with the release's noise, int64 in their shapes; of occurring values those over the threshold.

    The caller answers for the sensitivity: emptying a record changes at most one cell of each histogram, by 1, and no
    unit of privacy has more records in it than the histogram's sensitivity.

    Raises:
        PrivacyError: the histograms are not those that the release accounts for.
    """
    if histograms.keys() != {histogram.name for histogram in release.histograms}:
        raise PrivacyError(
            f"the release {release.name!r} accounts for {', '.join(each.name for each in release.histograms)}, "
            f"but {', '.join(histograms)} were counted: nothing was released"
        )
    return {each.name: _noisy(histograms[each.name], each, source) for each in release.histograms}


def _noisy(counted: Counts, histogram: Histogram, source: Source) -> Counts:
    if (counted.values is None) != (histogram.threshold is None):
        raise PrivacyError(f"the histogram of {histogram.name!r} is of other cells than it is accounted for")
    if not np.issubdtype(counted.counts.dtype, np.integer):
        raise PrivacyError(f"the histogram of {histogram.name!r} must hold whole numbers of records")
    noise = draw_discrete_gaussian(histogram.sigma, counted.counts.size, source)
    noisy = counted.counts.astype(np.int64) + noise.reshape(counted.counts.shape)
    if counted.values is None or histogram.threshold is None:
        return Counts(noisy)
    kept = sorted(
        (value, count)
        for value, count in zip(counted.values, noisy.tolist(), strict=True)
        if count >= histogram.threshold
    )  # Sorted by value: the order in which they came says something about the records.
    return Counts(np.array([count for _, count in kept], np.int64), tuple(value for value, _ in kept))


def plan_release(
    name: str,
    weights: Mapping[str, float],
    open_sets: Collection[str],
    target: float,
    delta: float,
    accountant: Accountant = "pld",
    beside: Spent = (),
    sensitivity: int = 1,
) -> Release:
    """The release of least noise that costs at most `target` at `delta`, together with what is `beside` it.

    `weights`: the histograms, and how the budget is shared out: sigma is proportional to 1 / sqrt(weight), so that a
    weight is a share of the zero-concentrated budget. `open_sets`: those whose cells are the values that occur.
    `sensitivity`: the most records of one unit of privacy that are counted.

    Raises:
        PrivacyError: no noise within bounds does.
    """
    from scipy.optimize import brentq

    each_delta = THRESHOLDS_SHARE * delta / max(len(open_sets), 1)
    largest = max(weights.values())

    def at(sigma: float) -> Release:
        """With `sigma` for the histograms of the largest weight."""
        sigmas = {what: _rounded_up(sigma * math.sqrt(largest / weight)) for what, weight in weights.items()}
        return Release(
            name,
            tuple(
                Histogram(
                    what,
                    sigma,
                    threshold_for(sigma, each_delta, sensitivity) if what in open_sets else None,
                    sensitivity,
                )
                for what, sigma in sigmas.items()
            ),
        )

    def excess(log_sigma: float, by: Accountant) -> float:
        return math.log(max(epsilon([*beside, (at(math.exp(log_sigma)), 1)], delta, by), 1e-12) / target)

    smallest = max(SMALLEST_SIGMA, SIGMA_STEP)
    least = math.log(smallest if sensitivity == 1 else ROUNDING + sensitivity * smallest)
    most = math.log(LARGEST_SIGMA * math.sqrt(min(weights.values()) / largest))
    # RDP is quick, and an upper bound: what it finds is enough for PLD, and twice too much at most.
    if excess(most, "rdp") > 0:
        raise PrivacyError(
            f"{len(weights)} histograms cannot be had for epsilon {target:g} at delta {delta:g}; raise "
            "privacy.target_epsilon and privacy.schema_epsilon, or declare more of the schema"
        )
    found = least
    if excess(least, "rdp") > 0:
        found = cast(float, brentq(excess, least, most, args=("rdp",), xtol=1e-4))
    too_little = max(found - math.log(2), least)
    if accountant == "pld" and excess(too_little, "pld") > 0:
        enough = min(found + 1e-3, most)  # By RDP it was found to 1e-4, on either side.
        found = cast(float, brentq(excess, too_little, enough, args=("pld",), xtol=1e-4))
    sigma = math.exp(found)
    while epsilon([*beside, (at(sigma), 1)], delta, accountant) > target:
        sigma *= 1.0005
    return at(sigma)


def threshold_for(sigma: float, delta: float, sensitivity: int = 1) -> int:
    """The smallest threshold that any value passes with a probability of at most `delta` which only one unit has: in so
    many records, some of which share a value (`Histogram.threshold_delta_of`).

    >>> threshold_for(100.0, 1e-7), threshold_for(100.0, 1e-7, 4)
    (522, 547)
    """
    tails = np.append(discrete_gaussian_tails(sigma), 0.0)
    shared = np.arange(1, sensitivity + 1)
    least = 1 + len(tails) - np.searchsorted(tails[::-1], delta * shared / sensitivity, side="right")
    return int(np.max(shared + least))


@dataclass(frozen=True)
class Released:
    """A release as it is stored; `sha256` names its content."""

    histograms: dict[str, Counts]
    sha256: str


def released_once(folder: Folder, release: Release, count: Callable[[], Mapping[str, Counts]]) -> Released:
    """The release as it is stored in `folder`; where it is not, `count` and noise make it, and it is stored first.

    Of several who make it at once one stores it, and all get what was stored.

    Raises:
        CorruptError: what is stored does not verify, or is of another release.
    """
    file = f"{release.name}.json"
    content = folder.read_if_exists(file)
    if content is None:
        noisy = noisy_histograms(count(), release)
        document = {"version": VERSION, "release": asdict(release), "histograms": _to_plain(noisy)}
        document = json.loads(json.dumps(document))
        signed = document | {"sha256": contents_sha256(document)}
        folder.create(file, json.dumps(signed).encode())
        content = folder.read(file)
    return _from_content(content, release, f"{folder.uri}/{file}")


def read_released(folder: Folder, release: Release) -> Released:
    """The release as it is stored in `folder`.

    Raises:
        CorruptError: it is not there, does not verify, or is another release.
    """

    def refuse() -> Mapping[str, Counts]:
        raise CorruptError(f"{folder.uri}/{release.name}.json is missing; restore it from a backup or start a new run")

    return released_once(folder, release, refuse)


def find_released(folder: Folder, name: str) -> str | None:
    """The name of what is stored of a release; None where nothing is."""
    content = folder.read_if_exists(f"{name}.json")
    try:
        return None if content is None else str(json.loads(content)["sha256"])
    except (ValueError, TypeError, KeyError):
        return None


def drawn_at(place: str, folder: Folder, release: Release) -> Release:
    """The release as the run directory at a place has it. folder: where the directory keeps what it has drawn.

    One that another place was charged for and that is not drawn here yet may be drawn there, too: it is another one.
    """
    if release.place == place or find_released(folder, release.name) is not None:
        return release
    return replace(release, place=place)


def is_for_report(release: Release) -> bool:
    """Whether a release is for a shareable report, and not for the model."""
    return release.name.startswith(REPORT)


def _from_content(content: bytes, release: Release, where: str) -> Released:
    damaged = f"{where} does not verify; restore it from a backup or start a new run: it is not drawn again"
    try:
        document = dict(json.loads(content))
        sha256 = str(document.pop("sha256"))
        if sha256 != contents_sha256(document) or document["version"] != VERSION:
            raise CorruptError(damaged)
        stored = Release.from_plain(document["release"])
        found = {
            name: Counts(np.array(each["counts"], np.int64), None if each["values"] is None else tuple(each["values"]))
            for name, each in document["histograms"].items()
        }
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptError(damaged) from error
    if stored != release:
        raise CorruptError(f"{where} is another release than the run's ledger has; restore both from a backup")
    return Released(found, sha256)


def _to_plain(noisy: Mapping[str, Counts]) -> dict[str, Any]:
    return {name: {"values": each.values, "counts": each.counts.tolist()} for name, each in noisy.items()}


def _rounded_up(sigma: float) -> float:
    return round(math.ceil(sigma / SIGMA_STEP) * SIGMA_STEP, 2)
