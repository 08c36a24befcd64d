"""The runs that a run goes on from, in its statement: a model holds what all of them learned of their records.

Each trained on records of its own. Whoever reads the last model learns of an earlier run's records what that run's
model tells, at that run's epsilon, so what holds for every record is the largest epsilon of the chain and the largest
delta.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from runner.privacy.accountant import plain_epsilon
from runner.privacy.figures import delta_in_words, epsilon_in_words

COPIED = ("run", "run_id", "mechanism", "steps", "releases", "other_trials", "accountant", "epsilon_of_records")
"""What a link has of that run's statement: all that is needed to compute its epsilon again."""


def chain_of(statement: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The links of a run that goes on from the one with this statement: the first run first, that one last."""
    link = {name: statement[name] for name in COPIED if name in statement}
    link["epsilon"] = statement.get("epsilon_of_run", statement["epsilon"])
    link["delta"] = statement.get("delta_of_run", statement["delta"])
    return [*statement.get("chain", []), link]


def as_number(plain: float | str) -> float:
    """An epsilon of a statement's JSON."""
    return math.inf if isinstance(plain, str) else plain


def is_infinite(statement: Mapping[str, Any]) -> bool:
    """Whether a run claims nothing."""
    return math.isinf(as_number(statement["epsilon"]))


def headline(own: float | str, delta: float, chain: Sequence[Mapping[str, Any]]) -> tuple[float | str, float]:
    """Epsilon and delta that hold for every record that any of the runs was trained on."""
    largest = max([as_number(own), *(as_number(link["epsilon"]) for link in chain)])
    return plain_epsilon(largest), max([delta, *(link["delta"] for link in chain)])


def largest_figures(figures: Sequence[Mapping[str, float | str]]) -> dict[str, float | str]:
    """The largest epsilon for each number of records of one person that all of the runs have."""
    return {
        records: plain_epsilon(max(as_number(each[records]) for each in figures))
        for records in figures[0]
        if all(records in each for each in figures)
    }


def chain_in_words(report: Mapping[str, Any]) -> list[str]:
    """The section on the runs before this one; nothing where there are none."""
    if not report["chain"]:
        return []
    own = {"run": report["run"], "epsilon": report["epsilon_of_run"], "delta": report["delta_of_run"]}
    return [
        "## Runs that this one goes on from",
        "",
        "The model began with the weights of the run before it, and holds what that one learned of records of its own. "
        "The figures at the top are the largest of these. Records of one person in the files of several runs add up.",
        "",
        "| Run | Epsilon of its records | Delta |",
        "|---|---|---|",
        *(
            f"| {link['run']} | {epsilon_in_words(link['epsilon'])} | {delta_in_words(link['delta'])} |"
            for link in [*report["chain"], own]
        ),
        "",
    ]
