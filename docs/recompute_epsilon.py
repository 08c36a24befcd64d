# /// script
# requires-python = ">=3.11"
# dependencies = ["dp-accounting>=0.6"]
# ///
"""Compute the epsilon of a privacy statement again, from `privacy.json` and dp-accounting alone.

    python docs/recompute_epsilon.py runs/claims/privacy.json
    uv run docs/recompute_epsilon.py privacy.json          # where runner is not installed
    python docs/recompute_epsilon.py privacy.json 5        # and what 5 records of one person cost: takes a minute

Prints what the statement says beside what comes out here. Exit code 1: they differ by more than 1e-6 of the value.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
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


Spent = list[tuple[dict[str, Any], int]]


def recompute(statement: dict[str, Any]) -> dict[str, float]:
    """The statement's epsilons under their names, from its mechanism, steps and delta, and those of its chain."""
    own, delta, by = spent(statement), statement.get("delta_of_run", statement["delta"]), statement["accountant"]
    earlier = [(each, each["steps"]) for each in statement["earlier_runs"]]
    found = {
        f"release {release['name']}": epsilon([(release, 1)], delta, by) for release in statement.get("releases", [])
    }
    of_run = epsilon(own, delta, by)
    chain = {
        f"run {link['run']}": epsilon(spent(link), link["delta"], link["accountant"])
        for link in statement.get("chain", [])
    }
    if "epsilon_of_run" in statement:
        found["epsilon_of_run"] = of_run
    return (
        found
        | chain
        | {
            "epsilon": max([of_run, *chain.values()]),
            "epsilon_pld": epsilon(own, delta, "pld"),
            "epsilon_rdp": epsilon(own, delta, "rdp"),
            "epsilon_with_earlier_runs": epsilon([*earlier, *own], delta, by),
        }
    )


def spent(statement: dict[str, Any]) -> Spent:
    """What a run, or a link of its chain, took of its records."""
    steps = [(statement["mechanism"], statement["steps"])] if statement["steps"] else []
    releases = [(release, 1) for release in statement.get("releases", [])]  # what was looked up in the records
    trials = [(trial, trial["steps"]) for trial in statement["other_trials"]]  # of the sweep that chose this one
    return [*steps, *releases, *trials]


def epsilon_of_records(statement: dict[str, Any], records: int) -> float:
    """What so many records of one person cost: the largest of the run's and of its chain's."""
    delta = statement.get("delta_of_run", statement["delta"])
    links = [(spent(link), link["delta"]) for link in statement.get("chain", [])]
    return max(epsilon_of_group(taken, delta, records) for taken, delta in [(spent(statement), delta), *links])


def epsilon_of_group(taken: Spent, delta: float, records: int) -> float:
    """By PLD. A step is a mixture of Gaussians: of the records j are in its batch, and the sum changes by j clips."""
    among = range(records + 1)
    noises = [noise_multiplier(each) for what, _ in taken for each in what.get("histograms", [])]
    noises += [what["noise_multiplier"] for what, _ in taken if "histograms" not in what]
    width = max(2 * (10 * records / noise + records**2 / (2 * noise**2)) for noise in noises)
    exact = max(width / 100_000, 1e-3)  # of an interval of losses, rounded up to 1, 2 or 5 times a power of ten
    power = 10.0 ** math.floor(math.log10(exact) + 1e-9)
    interval = next(power * step for step in (1, 2, 5, 10) if power * step >= exact * (1 - 1e-9))
    composed = pld.identity(interval)
    for what, count in taken:
        for histogram in what.get("histograms", []):
            delta -= threshold_delta(histogram, records)
            composed = composed.compose(histogram_losses(histogram, records, interval))
        if "histograms" not in what:
            q = what["batch_size"] / what["examples"]
            probabilities = [math.comb(records, j) * q**j * (1 - q) ** (records - j) for j in among]
            part = pld.from_mixture_gaussian_mechanism(
                what["noise_multiplier"], list(among), probabilities, value_discretization_interval=interval
            )
            composed = composed.compose(part.self_compose(count))
    return float(composed.get_epsilon_for_delta(delta)) if delta > 0 else math.inf


def epsilon(spent: Spent, delta: float, accountant: str) -> float:
    """The epsilon of all together: steps are Gaussian mechanisms on a Poisson sample, and of a release's histograms
    each is a mechanism of its own (`histogram_losses`), whose thresholds are paid from delta."""
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
    alike = Counter((each["sigma"], sensitivity(each)) for each in what.get("histograms", []))
    for (sigma, most), histograms in alike.items():
        yield histogram_losses({"sigma": sigma, "sensitivity": most}, 1, LOSS_INTERVAL), histograms


def sensitivity(histogram: dict[str, Any]) -> int:
    """How many records of one person are counted at most, where a person is what is protected; of a record, 1."""
    return histogram.get("sensitivity", 1)


def noise_multiplier(histogram: dict[str, Any]) -> float:
    """Of continuous noise. Integers with this noise are that one's results, worked on, where the variance is less."""
    most = sensitivity(histogram)
    return histogram["sigma"] if most == 1 else math.sqrt(histogram["sigma"] ** 2 - 1.5**2) / most


def histogram_losses(histogram: dict[str, Any], units: int, interval: float) -> pld.PrivacyLossDistribution:
    """Of so many records or persons together."""
    if sensitivity(histogram) > 1:
        return pld.from_gaussian_mechanism(
            noise_multiplier(histogram) / units, value_discretization_interval=interval, use_connect_dots=True
        )
    return pld.from_discrete_gaussian_mechanism(
        histogram["sigma"], units, value_discretization_interval=interval, use_connect_dots=True
    )


def rdp_epsilon(spent: Spent, delta: float) -> float:
    """By Renyi divergence, where discrete Gaussian noise costs at most what Gaussian noise of the same sigma does."""
    made = rdp.RdpAccountant(neighboring_relation=ZERO_OUT)
    for what, count in spent:
        for histogram in what.get("histograms", []):
            made.compose(dp_accounting.GaussianDpEvent(noise_multiplier(histogram)))
        if "histograms" not in what:
            gaussian = dp_accounting.GaussianDpEvent(what["noise_multiplier"])
            made.compose(dp_accounting.PoissonSampledDpEvent(what["batch_size"] / what["examples"], gaussian), count)
    return float(made.get_epsilon(delta))


def threshold_delta(histogram: dict[str, Any], units: int = 1) -> float:
    """The most that the probability can be that noise takes to the threshold what nobody else has: of so many records
    some may share a value. 0 where all cells are released."""
    if histogram["threshold"] is None:
        return 0.0
    sigma, records = histogram["sigma"], units * sensitivity(histogram)
    reach = math.ceil(15 * sigma) + histogram["threshold"]
    weights = [math.exp(-0.5 * (x / sigma) ** 2) for x in range(reach + 1)]
    tails = list(accumulate(reversed(weights)))  # From the far end: exact where little is left.
    whole = 2 * math.fsum(weights) - 1

    def reached(least: int) -> float:
        return 1.0 if least < 1 else tails[reach - least] / whole

    return max(records / shared * reached(histogram["threshold"] - shared) for shared in range(1, records + 1))


def agrees(stated: float | str, found: float) -> bool:
    if stated == "infinite" or math.isinf(found):
        return stated == "infinite" and math.isinf(found)
    return math.isclose(float(stated), found, rel_tol=LARGEST_DIFFERENCE)


def main() -> None:
    if not 2 <= len(sys.argv) <= 3:
        sys.exit("usage: recompute_epsilon.py PRIVACY_JSON [RECORDS]")
    statement = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if sum(statement["steps_of_branches"]) != statement["steps"]:
        sys.exit(f"the statement's steps_of_branches do not add up to its {statement['steps']} steps")
    wrong = 0
    stated_of = {f"release {release['name']}": release["epsilon"] for release in statement.get("releases", [])}
    stated_of |= {f"run {link['run']}": link["epsilon"] for link in statement.get("chain", [])}
    computed = recompute(statement)
    if len(sys.argv) == 3:
        records = sys.argv[2]
        stated_of[f"{records} records"] = statement["epsilon_of_records"][records]
        computed[f"{records} records"] = epsilon_of_records(statement, int(records))
    for name, found in computed.items():
        stated = (statement | stated_of)[name]
        right = agrees(stated, found)
        wrong += not right
        print(f"{name:<26}stated {stated:<20} found {found:<20} {'' if right else 'DIFFERS'}".rstrip())
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
