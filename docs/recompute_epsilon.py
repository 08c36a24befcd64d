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
from pathlib import Path
from typing import Any

import dp_accounting
from dp_accounting import pld, rdp

LARGEST_DIFFERENCE = 1e-6
PLD_UP_TO = 50.0
"""Where RDP gives more, the statement has RDP's upper bound for PLD too."""
ZERO_OUT = dp_accounting.NeighboringRelation.REPLACE_SPECIAL


def recompute(statement: dict[str, Any]) -> dict[str, float]:
    """The statement's epsilons under their names, from its mechanism, steps and delta."""
    own = [(statement["mechanism"], statement["steps"])]
    own += [(trial, trial["steps"]) for trial in statement["other_trials"]]  # of the sweep that chose this one
    earlier = [(mechanism, mechanism["steps"]) for mechanism in statement["earlier_runs"]]
    by = statement["accountant"]
    return {
        "epsilon": epsilon(own, statement["delta"], by),
        "epsilon_pld": epsilon(own, statement["delta"], "pld"),
        "epsilon_rdp": epsilon(own, statement["delta"], "rdp"),
        "epsilon_with_earlier_runs": epsilon([*earlier, *own], statement["delta"], by),
    }


def epsilon(spent: list[tuple[dict[str, Any], int]], delta: float, accountant: str) -> float:
    """The epsilon of all steps together: each is a Gaussian mechanism on a Poisson sample."""
    if accountant == "pld" and (bound := epsilon(spent, delta, "rdp")) > PLD_UP_TO:
        return bound
    made = pld.PLDAccountant(ZERO_OUT) if accountant == "pld" else rdp.RdpAccountant(neighboring_relation=ZERO_OUT)
    for mechanism, steps in spent:
        probability = mechanism["batch_size"] / mechanism["examples"]
        gaussian = dp_accounting.GaussianDpEvent(mechanism["noise_multiplier"])
        made.compose(dp_accounting.PoissonSampledDpEvent(probability, gaussian), steps)
    return float(made.get_epsilon(delta))


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
    for name, found in recompute(statement).items():
        right = agrees(statement[name], found)
        wrong += not right
        print(f"{name:<26}stated {statement[name]:<20} found {found:<20} {'' if right else 'DIFFERS'}".rstrip())
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
