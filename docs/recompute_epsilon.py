# /// script
# requires-python = ">=3.11"
# dependencies = ["dp-accounting>=0.6"]
# ///
"""Compute the epsilon of a privacy statement again, from `privacy.json` and dp-accounting alone.

    python docs/recompute_epsilon.py runs/claims/privacy.json
    uv run docs/recompute_epsilon.py privacy.json          # where runner is not installed

Prints what the statement says beside what comes out here. Exit code 1: they differ by more than 1e-6 of the value.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dp_accounting
from dp_accounting import rdp
from dp_accounting.pld import privacy_loss_distribution as pld

LARGEST_DIFFERENCE = 1e-6
LOSS_INTERVAL = 1e-4
PLD_UP_TO = 50.0
"""Where RDP gives more, the statement has RDP's upper bound for PLD too."""
ZERO_OUT = dp_accounting.NeighboringRelation.REPLACE_SPECIAL


def recompute(statement: dict[str, Any]) -> dict[str, float]:
    """The statement's epsilons under their names, from its mechanism, steps and delta."""
    own = [(statement["mechanism"], statement["steps"])] if statement["steps"] else []
    own += [(release, 1) for release in statement.get("releases", [])]  # what was looked up in the records
    own += [(trial, trial["steps"]) for trial in statement["other_trials"]]  # of the sweep that chose this one
    earlier = [(each, each["steps"]) for each in statement["earlier_runs"]]
    by = statement["accountant"]
    found = {
        f"release {release['name']}": epsilon([(release, 1)], statement["delta"], by)
        for release in statement.get("releases", [])
    }
    return found | {
        "epsilon": epsilon(own, statement["delta"], by),
        "epsilon_pld": epsilon(own, statement["delta"], "pld"),
        "epsilon_rdp": epsilon(own, statement["delta"], "rdp"),
        "epsilon_with_earlier_runs": epsilon([*earlier, *own], statement["delta"], by),
    }


def epsilon(spent: list[tuple[dict[str, Any], int]], delta: float, accountant: str) -> float:
    """The epsilon of all together: steps are Gaussian mechanisms on a Poisson sample, and of a release's histograms
    each is a discrete Gaussian mechanism of sensitivity 1, whose thresholds are paid from delta."""
    delta -= sum(threshold_delta(histogram) for what, _ in spent for histogram in what.get("histograms", []))
    if delta <= 0:
        return math.inf
    bound = rdp_epsilon(spent, delta)
    if accountant == "rdp" or bound > PLD_UP_TO:
        return bound
    composed = pld.identity(LOSS_INTERVAL)
    for what, count in spent:
        for each, times in losses(what, count):
            composed = composed.compose(each.self_compose(times))
    return float(composed.get_epsilon_for_delta(delta))


def losses(what: dict[str, Any], count: int) -> Iterator[tuple[pld.PrivacyLossDistribution, int]]:
    """Privacy loss distributions, and how often each is there."""
    if "histograms" not in what:
        yield (
            pld.from_gaussian_mechanism(
                what["noise_multiplier"],
                value_discretization_interval=LOSS_INTERVAL,
                sampling_prob=what["batch_size"] / what["examples"],
                neighboring_relation=ZERO_OUT,
            ),
            count,
        )
    for sigma, histograms in Counter(each["sigma"] for each in what.get("histograms", [])).items():
        yield (
            pld.from_discrete_gaussian_mechanism(
                sigma, value_discretization_interval=LOSS_INTERVAL, use_connect_dots=True
            ),
            histograms,
        )


def rdp_epsilon(spent: list[tuple[dict[str, Any], int]], delta: float) -> float:
    """By Renyi divergence, where discrete Gaussian noise costs at most what Gaussian noise of the same sigma does."""
    made = rdp.RdpAccountant(neighboring_relation=ZERO_OUT)
    for what, count in spent:
        for histogram in what.get("histograms", []):
            made.compose(dp_accounting.GaussianDpEvent(histogram["sigma"]))
        if "histograms" not in what:
            gaussian = dp_accounting.GaussianDpEvent(what["noise_multiplier"])
            made.compose(dp_accounting.PoissonSampledDpEvent(what["batch_size"] / what["examples"], gaussian), count)
    return float(made.get_epsilon(delta))


def threshold_delta(histogram: dict[str, Any]) -> float:
    """The probability that noise takes a count of 1 to the threshold; 0 where all cells are released."""
    if histogram["threshold"] is None:
        return 0.0
    sigma, least = histogram["sigma"], histogram["threshold"] - 1
    reach = math.ceil(15 * sigma) + least
    weights = [math.exp(-0.5 * (x / sigma) ** 2) for x in range(reach + 1)]
    return math.fsum(weights[least:]) / (2 * math.fsum(weights) - 1)


def agrees(stated: float | str, found: float) -> bool:
    if stated == "infinite" or math.isinf(found):
        return stated == "infinite" and math.isinf(found)
    return math.isclose(float(stated), found, rel_tol=LARGEST_DIFFERENCE)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: recompute_epsilon.py PRIVACY_JSON")
    statement = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if sum(statement["steps_of_branches"]) != statement["steps"]:
        sys.exit(f"the statement's steps_of_branches do not add up to its {statement['steps']} steps")
    wrong = 0
    stated_of = {f"release {release['name']}": release["epsilon"] for release in statement.get("releases", [])}
    for name, found in recompute(statement).items():
        stated = (statement | stated_of)[name]
        right = agrees(stated, found)
        wrong += not right
        print(f"{name:<26}stated {stated:<20} found {found:<20} {'' if right else 'DIFFERS'}".rstrip())
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
