"""`privacy.md`: what `privacy.json` claims (`runner.privacy.report`), in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from runner.privacy.chain import chain_in_words
from runner.privacy.endings import STEPS_NOT_COVERED
from runner.privacy.figures import (
    EPSILON_TOO_LARGE,
    delta_in_words,
    epsilon_in_words,
    factor_in_words,
    noise_in_words,
    probability_in_words,
)
from runner.privacy.group_privacy import groups_in_words
from runner.privacy.lookups import SCHEMA
from runner.privacy.marginals import CHOICE, COLUMNS, PAIRS
from runner.privacy.releases import REPORT
from runner.privacy.unit import PrivacyUnit

SEVERAL_RECORDS = "Several records of one person together"
RELEASED = {
    SCHEMA: (
        "What was looked up in the records",
        "Counts of all records, with discrete Gaussian noise, once, before training.",
    ),
    COLUMNS: (
        "Counts of single columns",
        "How many records have each value or part of a range, with discrete Gaussian noise, once.",
    ),
    CHOICE: (
        "How far pairs of columns are from independence",
        "One number a pair, with discrete Gaussian noise, once; the pairs that are counted were chosen by it.",
    ),
    PAIRS: (
        "Counts of pairs of columns",
        "How many records have each combination of two columns' groups of values, with discrete Gaussian noise, once.",
    ),
    REPORT: (
        "Counts for a shareable report",
        "How many of all records, those for validation too, have each group of values of a column, or each combination "
        "of those of two or three, with discrete Gaussian noise, once. The model does not depend on them.",
    ),
}
"""By release: a title, and what it is."""


def privacy_page(report: dict[str, Any]) -> str:
    """The report as one page of Markdown, in plain words."""
    mechanism = report["mechanism"]
    several, trained = ("Several persons together", "persons") if "persons" in report else (SEVERAL_RECORDS, "records")
    rows = [
        ("Epsilon", f"**{epsilon_in_words(report['epsilon'])}** ({report['accountant'].upper()})"),
        ("Delta", delta_in_words(report["delta"])),
        ("By PLD, by RDP", f"{epsilon_in_words(report['epsilon_pld'])}, {epsilon_in_words(report['epsilon_rdp'])}"),
        (several, groups_in_words(report["epsilon_of_records"], trained)),
        ("Without amplification by sampling", epsilon_in_words(report["epsilon_unamplified"])),
        (
            "With earlier runs on the same files",
            f"{epsilon_in_words(report['epsilon_with_earlier_runs'])} ({_count_runs(report['earlier_runs'])} earlier)",
        ),
        (
            "Target of the run, limit of all runs on these files",
            f"{_limit(report['target_epsilon'])}, {_limit(report['max_epsilon'])}",
        ),
        ("Protected unit", report["unit"]),
        ("Neighbors", report["adjacency"]),
        ("Sampler", report["sampler"]),
    ]
    counts = any(release["name"] == COLUMNS for release in report["releases"])
    if mechanism is None:
        rows.append(("Training", "on draws by the noisy counts below; no step looks at a record"))
    else:
        if counts:
            rows.append(("Columns that are not texts", "on draws by the noisy counts below"))
        expected = f"{mechanism['examples']:,}, {mechanism['batch_size']:,}"
        probability = probability_in_words(mechanism["sampling_probability"])
        noise = noise_in_words(mechanism["noise_multiplier"])
        rows += [
            (f"Training {trained}, expected batch, probability", f"{expected}, {probability}"),
            ("Noise multiplier, clip", f"{noise}, {mechanism['l2_norm_clip']:g}"),
            ("Steps taken", _steps_in_words(report)),
        ]
    if "measured" in report:
        rows.insert(1, ("Measured, proven", measured_in_words(report)))
    if report["other_trials"]:
        trained = [trial for trial in report["other_trials"] if "histograms" not in trial]
        steps = sum(trial["steps"] for trial in trained)
        rows.append(("Of the sweep's other trials", f"{len(trained)} trials, {steps:,} steps"))
    lines = [
        f"# Privacy statement of run {report['run']}",
        "",
        claim_in_words(report),
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows),
        "",
        *chain_in_words(report),
        *_released_in_words(report),
        "## What epsilon covers",
        "",
        *(f"- {what}" for what in report["covered"]),
        "",
        "Not covered, and to be kept with the records:",
        "",
        *(f"- {what}" for what in report["not_covered"]),
        "",
        "## What else touched the records",
        "",
        *(f"- {what}: {how}" for what, how in report["also_touched_the_records"].items()),
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in report["limits"]),
        "",
        "## How to check it",
        "",
        f"Setting: {report['setting']}.",
        "",
        "Epsilon is computed by dp-accounting from the steps in the run's ledger, and can be computed again from",
        '`privacy.json` alone. "Without amplification" is what fixed batches would cost, each record once an epoch.',
        "Software: " + ", ".join(f"{name} {number}" for name, number in report["software"].items()) + ".",
        "",
    ]
    return "\n".join(lines)


def claim_in_words(report: dict[str, Any]) -> str:
    """What the run claims, in one sentence of Markdown."""
    value = report["epsilon"]
    if value == "infinite":
        return "**This run claims no privacy: it was trained without noise.**"
    factor = factor_in_words(value)
    if factor is None:
        return f"**This run claims no useful privacy** (epsilon {epsilon_in_words(value)}): {EPSILON_TOO_LARGE}."
    is_shared = any(release["name"].startswith(REPORT) for release in report.get("releases", []))
    what = "the model and the shareable report" if is_shared else "the model"
    who, emptied = "record", "one record"
    if (unit := PrivacyUnit.from_plain(report.get("persons"))) is not None:
        who, emptied = f"person (all records with the same `{unit.column}`)", "all records of one person"
    return (
        f"Whoever reads {what} learns little about any single {who}: whatever they conclude, emptying {emptied} "
        f"would change the probability of that conclusion by a factor of at most {factor} (e to the power of "
        f"{epsilon_in_words(value, 3)}), but for a probability of {delta_in_words(report['delta'])}."
        + (f" {STEPS_NOT_COVERED}" if report.get("steps_depend_on_time") else "")
    )


def measured_in_words(report: Mapping[str, Any]) -> str:
    """What the run's canaries showed, beside what is proven."""
    measured, proven = report["measured"], report["epsilon_of_run"]
    least, most = math.floor(1e4 * measured["epsilon"]) / 1e4, epsilon_in_words(proven)
    words = f"measured at least {least:.4f} ({measured['confidence']:.0%} confidence), proven at most {most}"
    if proven == "infinite" or measured["epsilon"] <= proven:
        return words
    return f"{words}. **THE PRIVACY CLAIM IS FALSE, or chance made it look so: do not release this model**"


def _count_runs(earlier: list[dict[str, Any]]) -> int:
    """How many of them trained; what each looked up for a schema is listed beside its steps or counts."""
    return sum("histograms" not in each or each["name"] == COLUMNS for each in earlier)


def _released_in_words(report: dict[str, Any]) -> list[str]:
    """What was counted in the records, one line a histogram."""
    lines: list[str] = []
    whole, releases = report["epsilon"], report.get("releases", [])
    precision = sum(each["sigma"] ** -2 for release in releases for each in release["histograms"])
    which = f" Of each person the first {report['persons']['most_records']} are counted." if "persons" in report else ""
    for release in releases:
        title, what = RELEASED.get(REPORT if release["name"].startswith(REPORT) else release["name"], RELEASED[SCHEMA])
        share = f", {release['epsilon'] / whole:.0%} of the run's" if isinstance(whole, float) and whole else ""
        lines += [
            f"## {title}",
            "",
            f"{what}{which} Alone they cost epsilon {epsilon_in_words(release['epsilon'])}{share}; the figures above "
            "have them in.",
            "",
            "| Counts of | Noise (sigma, in records) | Share of what all counts cost | Released from |",
            "|---|---|---|---|",
            *(
                f"| {each['name']} | {noise_in_words(each['sigma'])} | {each['sigma'] ** -2 / precision:.2%} | "
                f"{'all cells, which are public' if each['threshold'] is None else each['threshold']} |"
                for each in release["histograms"]
            ),
            "",
        ]
    return lines


def _steps_in_words(report: dict[str, Any]) -> str:
    branches = report["steps_of_branches"]
    if len(branches) < 2:
        return f"{report['steps']:,}"
    parts = " + ".join(f"{steps:,}" for steps in branches)
    return f"{report['steps']:,} ({parts}: the run went on under other conditions, and repeated steps count again)"


def _limit(value: float | None) -> str:
    return "none" if value is None else f"{value:.15g}"
