"""Planning a budget before there is a job: what so many noisy steps cost, or which noise a budget needs.

>>> plan = plan_epsilon(50_000, 256, noise_multiplier=1.0, epochs=20, delta=1e-6)
>>> plan["steps"], round(plan["epsilon_pld"], 3)
(3900, 1.998)

Releases of noisy histograms cost beside the steps, or alone: what a schema that was looked up or a run on draws took.

>>> from runner.privacy.accountant import Histogram
>>> counted = Release("columns", (Histogram("age", 25.0), Histogram("job", 25.0)))
>>> round(plan_epsilon(24_421, releases=(counted,), delta=1e-6)["epsilon_pld"], 3)
0.216
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from runner.config.training import LEAST_NOISE
from runner.errors import PrivacyError
from runner.privacy.accountant import (
    Mechanism,
    Release,
    check_delta,
    default_delta,
    epsilon,
    epsilon_unamplified,
    find_noise,
    plain_epsilon,
    spent_by,
)
from runner.privacy.figures import (
    EPSILON_TOO_LARGE,
    delta_in_words,
    epsilon_in_words,
    factor_in_words,
    noise_in_words,
    probability_in_words,
)
from runner.privacy.group_privacy import epsilon_of_group


def plan_epsilon(
    examples: int,
    batch_size: int | None = None,
    *,
    noise_multiplier: float | None = None,
    target_epsilon: float | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    delta: float | None = None,
    releases: Sequence[Release] = (),
    records_per_person: Sequence[int] = (),
) -> dict[str, Any]:
    """The plan as plain values for JSON; an infinite epsilon is the string "infinite".

    `examples` are those trained on. The noise that a target needs, beside the releases, is found by PLD. Where there
    are releases and nothing is said of steps, there are none. `records_per_person`: numbers of records of one person,
    for which the plan has what they cost together.

    Raises:
        PrivacyError: not exactly one of noise and target, or of epochs and steps; a number that is not finite;
            delta >= 1/n; batch_size > n; a target that no noise reaches.
    """
    numbers = {"--noise-multiplier": noise_multiplier, "--target-epsilon": target_epsilon, "--delta": delta}
    for name, number in numbers.items():
        if number is not None and not math.isfinite(number):
            raise PrivacyError(f"{name} {number}: give a finite number")
    if noise_multiplier is not None and 0 < noise_multiplier < LEAST_NOISE:
        raise PrivacyError(f"--noise-multiplier {noise_multiplier:g}: give at least {LEAST_NOISE:g}, or 0 for none")
    delta = default_delta(examples) if delta is None else delta
    check_delta(delta, examples)
    said = (batch_size, noise_multiplier, target_epsilon, epochs, steps)
    if releases and all(each is None for each in said):
        return {**_costs(releases, None, 0, delta, records_per_person), "n": examples, **_plain(releases)}
    if batch_size is None:
        raise PrivacyError("give --batch-size, the expected records of a step")
    if (noise_multiplier is None) == (target_epsilon is None):
        raise PrivacyError("give --noise-multiplier to learn its cost, or --target-epsilon to find it: one of them")
    if (epochs is None) == (steps is None):
        raise PrivacyError("give --epochs or --steps: one of them")
    mechanism = Mechanism(examples, batch_size, noise_multiplier or 0.0)
    if steps is None:
        assert epochs is not None
        steps = epochs * mechanism.steps_per_epoch
    if target_epsilon is not None:
        noise = find_noise(examples, batch_size, steps, target_epsilon, delta, beside=spent_by(releases))
        mechanism = Mechanism(examples, batch_size, noise)
    return {
        **_costs(releases, mechanism, steps, delta, records_per_person),
        "noise_multiplier": mechanism.noise_multiplier,
        "steps": steps,
        "epochs": steps / mechanism.steps_per_epoch if epochs is None else epochs,
        "n": examples,
        "batch_size": batch_size,
        "q": mechanism.sampling_probability,
        **_plain(releases),
    }


def _costs(
    releases: Sequence[Release], mechanism: Mechanism | None, steps: int, delta: float, groups: Sequence[int]
) -> dict[str, Any]:
    spent = spent_by(releases, mechanism, steps)
    of_records = {str(records): plain_epsilon(epsilon_of_group(spent, delta, records)) for records in sorted(groups)}
    return {
        "epsilon_pld": plain_epsilon(epsilon(spent, delta)),
        "epsilon_rdp": plain_epsilon(epsilon(spent, delta, "rdp")),
        "epsilon_unamplified": plain_epsilon(epsilon_unamplified(spent, delta)),
        **({"epsilon_of_records": of_records} if groups else {}),
        "delta": delta,
    }


def _plain(releases: Sequence[Release]) -> dict[str, Any]:
    return {"releases": [release.describe() for release in releases]} if releases else {}


def describe_plan(plan: dict[str, Any]) -> str:
    """The plan as an aligned list, and one sentence on what it means."""
    rows = {
        "epsilon (PLD)": epsilon_in_words(plan["epsilon_pld"]),
        "epsilon by RDP": epsilon_in_words(plan["epsilon_rdp"]),
        "epsilon, fixed batches": epsilon_in_words(plan["epsilon_unamplified"]),
        **{
            f"epsilon, {records} records": epsilon_in_words(each)
            for records, each in plan.get("epsilon_of_records", {}).items()
        },
        "delta": delta_in_words(plan["delta"]),
    }
    if "steps" in plan:
        q = probability_in_words(plan["q"])
        rows |= {
            "noise multiplier": noise_in_words(plan["noise_multiplier"]),
            "steps": f"{plan['steps']:,} ({plan['epochs']:g} epochs)",
            "batch size": f"{plan['batch_size']:,} expected of {plan['n']:,} training records (q = {q})",
        }
    if "releases" in plan:
        rows["noisy histograms"] = _histograms_in_words(plan["releases"])
    lines = [f"{name:<24}{value}" for name, value in rows.items()]
    return "\n".join([*lines, _meaning(plan)])


def _histograms_in_words(releases: Sequence[dict[str, Any]]) -> str:
    each = [(histogram["sigma"], histogram["threshold"]) for release in releases for histogram in release["histograms"]]
    return "; ".join(
        f"{count} with noise of {noise_in_words(sigma)} records"
        + ("" if threshold is None else f", values from {threshold} on")
        for (sigma, threshold), count in Counter(each).items()
    )


def _meaning(plan: dict[str, Any]) -> str:
    found = plan["epsilon_pld"]
    if isinstance(found, str):
        return "Without noise there is no privacy."
    factor = factor_in_words(found)
    if factor is None:
        return f"There is no useful guarantee: {EPSILON_TOO_LARGE}."
    return (
        f"Whatever a reader of the model concludes, emptying one record changes its probability by a factor of at most "
        f"{factor}, but for a probability of {delta_in_words(plan['delta'])}."
    )
