"""`privacy.json`: what is claimed, for whom, and all that is needed to compute it again.

The statement follows the list that "How to DP-fy ML" (Ponomareva et al. 2023, arXiv:2303.00654, section 5.3) asks of a
privacy statement: the setting, what is protected from what, how it was accounted for, and how it can be checked. It
holds no loss and no other figure that was measured on the records.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from runner.config import JobConfig
from runner.privacy.accountant import Accountant, Release, Spent, epsilon, epsilon_unamplified, plain_epsilon
from runner.privacy.chain import headline, largest_figures
from runner.privacy.endings import ending_in_words, steps_depend_on_time
from runner.privacy.entries import uncounted_in_words
from runner.privacy.group_privacy import epsilons_of_groups
from runner.privacy.ledger import LedgerState
from runner.privacy.lookups import SCHEMA
from runner.privacy.marginals import COLUMNS
from runner.privacy.releases import is_for_report
from runner.privacy.statement_page import privacy_page
from runner.privacy.unit import PrivacyUnit

JSON_FILE = "privacy.json"
PAGE_FILE = "privacy.md"
SOFTWARE = ("runner", "tensorflow", "keras", "numpy", "dp-accounting")

UNIT = "one record: the text of one row"
UNIT_OF_A_TABLE = "one record: one row of the table"
ADJACENCY = "zero-out: one record replaced by an empty one in its place; the number and order of records are public"
SAMPLER = "Poisson: every training record joins every step on its own, with the same probability"
COVERED = (
    "the weights in model/",
    "every checkpoint's weights and optimizer state",
    "what is computed from these alone, such as generated records",
)
COVERED_REPORT = "shareable.html, which has figures by noisy counts of the records, and of generated records"
COVERED_SCHEMA = "the schema that was looked up in the records, which is in model/ too"
COVERED_DRAWS = (
    "the noisy counts, in model/ too",
    "what is made of them alone, with the number of records: the draws, the weights in model/, every checkpoint, "
    "history.csv, events/ and what trackers were told, whose figures are of draws, and generated records",
)
COVERED_COUNTS = (
    "the noisy counts, in model/ too, and what is made of them alone: the draws, and columns/ with figures of draws"
)
NOT_COVERED_DRAWS = (
    "private/: the noisy counts as they were stored, and a key that is not used",
    "status.json, logs/ and files.json: names and sizes of the files of records, and how many records they have",
    "report.html: comparisons of synthetic with private records",
    "tokenizer/ and the token cache, which hold or describe the records",
)
NO_SAMPLER = "none: no step looks at a record; every record is counted once in each histogram"
COUNTED = "; beside that every record is counted once in each histogram"
NOT_COVERED = (
    "history.csv, events/, status.json, logs/, checkpoints' state.json and what trackers were told: exact losses and "
    "accuracies of private records",
    "private/: the key of noise and sampling; whoever has it can take the noise off",
    "files.json: names and sizes of the files of records; .privacy/, which has a name for each file beside it",
    "how long anything took, and at which steps checkpoints were written: that depends on how long records are",
    "report.html: the same figures, and comparisons of synthetic with private records",
    "tokenizer/ and the token cache, which hold or describe the records",
)
LIMITS = (
    "Epsilon is per record: people with several records, or records that are copies of each other, are protected less, "
    "by the figures above; those hold where all records of a person are among this run's.",
    "The noise of a step is integers on a grid that the sum is rounded to first (discrete Gaussian, AES-256 in counter "
    "mode from a secret 256-bit key): rounding does not tell what it was added to. Norms and sums are computed in "
    "float32 before that; the noise has room for what was measured of their rounding, which is not a proof. Which "
    "records join a step is drawn by a statistical generator (Philox) from the same key.",
    "Choices made after looking at the records or at earlier runs (sizes, learning rate, clip) are not in epsilon.",
    "The ledger over runs knows files by their fingerprint, and only the runs under the same storage folder. A record "
    "that is also in another file is counted there alone. Its entries are chained: a changed or missing one shows, but "
    "not that the newest were deleted.",
)
LIMIT_OF_COUNTS = (
    "The noise of the counts is discrete, drawn exactly, from the operating system's generator. What is computed of "
    "noisy counts later costs nothing."
)
CALLBACKS_LIMIT = (
    "Callbacks are known by their names: one whose code changes between a kill and a resume can make a repeated step "
    "release other numbers under the same noise."
)


def privacy_report(
    config: JobConfig,
    state: LedgerState,
    other_trials: Spent = (),
    sweep: str = "none: one run",
    *,
    ending: str | None = None,
    chain: Sequence[Mapping[str, Any]] = (),
    measured: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a run in this state can claim, as plain values for JSON; an infinite epsilon is the string "infinite".

    `epsilon`, `delta` and `epsilon_of_records` hold for the records of all runs of a series, the others for this run's.
    `other_trials`: of the sweep that chose this run, whose cost is in all figures; `sweep`: what it did, in words.
    `ending`: how training ended, None where nobody knows. `chain`: of the run that this one goes on from (`chain_of`).
    `measured`: what the run's canaries showed.
    """
    mechanism, branches, unit = state.mechanism, len(state.branches), state.unit
    spent = [*other_trials, *state.spent]

    def cost(accountant: Accountant, *, with_earlier: bool = False) -> float | str:
        before = list(state.before) if with_earlier else []
        return plain_epsilon(epsilon([*before, *spent], state.delta, accountant))

    own = cost(state.accountant)
    largest, delta = headline(own, state.delta, chain)
    groups = [epsilons_of_groups(spent, state.delta), *(link.get("epsilon_of_records", {}) for link in chain)]
    return {
        "version": 1,
        "run": config.name,
        "run_id": state.run_id,
        "setting": "central differential privacy: the trainer is trusted with the records, the model's readers are not",
        "unit": unit.in_words() if unit else UNIT if config.fields is None else UNIT_OF_A_TABLE,
        **({"persons": unit.to_plain()} if unit else {}),
        "adjacency": unit.adjacency_in_words() if unit else ADJACENCY,
        "sampler": _sampler(state),
        "mechanism": None
        if mechanism is None
        else asdict(mechanism) | {"sampling_probability": mechanism.sampling_probability},
        "steps": state.reserved_steps,
        "steps_of_branches": [branch.reserved - branch.first_step for branch in state.branches],
        "releases": [
            release.describe() | {"epsilon": plain_epsilon(epsilon([(release, 1)], state.delta, state.accountant))}
            for release in state.releases
        ],
        "ended": ending,
        "steps_depend_on_time": steps_depend_on_time(config, ending, branches),
        "delta": delta,
        "delta_of_run": state.delta,
        "accountant": state.accountant,
        "epsilon": largest,
        "epsilon_of_run": own,
        "epsilon_of_records": largest_figures(groups),
        "chain": list(chain),
        "epsilon_pld": cost("pld"),
        "epsilon_rdp": cost("rdp"),
        **({} if measured is None else {"measured": dict(measured)}),
        "epsilon_unamplified": plain_epsilon(epsilon_unamplified(spent, state.delta)),
        "target_epsilon": config.privacy.target_epsilon,
        "max_epsilon": config.privacy.max_epsilon,
        "other_trials": [{**asdict(trial), "steps": count} for trial, count in other_trials],
        "earlier_runs": [{**asdict(earlier), "steps": count} for earlier, count in state.before],
        "epsilon_with_earlier_runs": cost(state.accountant, with_earlier=True),
        "also_touched_the_records": _also_touched(config, state.releases)
        | uncounted_in_words(state.before, config.unit)
        | (unit.counts_in_words() if unit else {})
        | {"end of the run": ending_in_words(config, ending, branches), "sweep": sweep},
        "covered": [
            *(COVERED if config.takes_private_steps else COVERED_DRAWS),
            *([COVERED_COUNTS] if config.trains_texts_apart else []),
            *([COVERED_SCHEMA] if any(release.name == SCHEMA for release in state.releases) else []),
            *([COVERED_REPORT] if any(is_for_report(release) for release in state.releases) else []),
        ],
        "not_covered": list(NOT_COVERED if config.takes_private_steps else NOT_COVERED_DRAWS),
        "limits": _limits(config, unit),
        "software": {name: version(name) for name in SOFTWARE},
    }


def _sampler(state: LedgerState) -> str:
    if state.mechanism is None:
        return NO_SAMPLER if state.unit is None else state.unit.counted_in_words()
    is_counted = any(release.name == COLUMNS for release in state.releases)
    if state.unit is not None:
        return state.unit.sampler_in_words() + (state.unit.counted_beside_in_words() if is_counted else "")
    return SAMPLER + (COUNTED if is_counted else "")


def _limits(config: JobConfig, unit: PrivacyUnit | None) -> list[str]:
    of_counts = [LIMIT_OF_COUNTS] if config.trains_on_draws else []
    of_steps = [LIMITS[1]] if config.takes_private_steps else []
    callbacks = [CALLBACKS_LIMIT] if config.training.callbacks and config.takes_private_steps else []
    return [LIMITS[0] if unit is None else unit.limit_in_words(), *of_counts, *of_steps, *LIMITS[2:], *callbacks]


def to_files(report: dict[str, Any]) -> dict[str, bytes]:
    """The two files of a report."""
    return {
        JSON_FILE: (json.dumps(report, indent=1) + "\n").encode(),
        PAGE_FILE: privacy_page(report).encode(),
    }


def _also_touched(config: JobConfig, releases: Sequence[Release] = ()) -> dict[str, str]:
    """What the job did with the records besides the private steps, and whether epsilon covers it."""
    settings, stopping = config.training, config.training.early_stopping
    metric = stopping.metric
    of_draws = {
        "validation": (
            "every 5th batch of positions, which is not counted, and of the draws, whose metrics are in history.csv"
            if settings.validation_split
            else "none: all records are counted"
        ),
        "selection of the epoch": "by draws alone, as all of training: covered",
        "early stopping": "by draws alone, as all of training: covered",
    }
    found = {
        **(
            {"tokenizer": _tokenizer_in_words(config)}
            if config.fields is None
            else {"schema": _schema_in_words(config, releases)}
        ),
        "validation": (
            "every 5th batch of positions, never trained on; its exact metrics are in history.csv and not covered"
            if settings.validation_split
            else "none"
        ),
        "selection of the epoch": (
            f"the epoch with the best {metric} is in model/; epsilon does not cover that choice"
            if settings.save_best or (stopping.enabled and stopping.restore_best)
            else "none: the last epoch is in model/"
            + (", unless a callback put back another's weights" if settings.callbacks else "")
        ),
        "early stopping": (f"on, by {metric}; epsilon does not cover when it ended" if stopping.enabled else "off"),
    }
    if not config.takes_private_steps:
        found |= of_draws
    if config.trains_texts_apart:
        found["columns that are not texts"] = (
            "learned of draws by the noisy counts alone: covered; a step reads them before a text, and its loss is of "
            "the texts"
        )
    if config.privacy.canaries:
        found["canaries"] = (
            f"{config.privacy.canaries:,} made-up records of random tokens joined the training, each there or an empty "
            "record by a secret coin; they count among the training records"
        )
    if config.data.since is not None:
        found["first weights"] = (
            f"those of run {config.data.since}; the records that it was trained on are covered by its statement"
        )
    if (settings.callbacks or settings.epoch_callback) and config.takes_private_steps:
        names = ", ".join([*settings.callbacks, *([settings.epoch_callback] if settings.epoch_callback else [])])
        found["callbacks"] = f"{names}: they see exact metrics, and epsilon does not cover what they do with them"
    return found


def _schema_in_words(config: JobConfig, releases: Sequence[Release]) -> str:
    """Which fields are as the job declares them, and what of the others was looked up."""
    assert config.fields is not None
    if config.data.since is not None:
        return f"that of run {config.data.since}, whose statement says where it is from"
    looked_up: dict[str, list[str]] = {}
    for release in releases:
        for histogram in release.histograms if release.name == SCHEMA else ():
            column, _, key = histogram.name.rpartition(".")
            looked_up.setdefault(column, []).append(key)
    words = f"declared public by the job: {', '.join(config.fields)}"
    if not looked_up:
        return f"{words}; nothing was looked up in the records"
    bought = ", ".join(f"{column} ({', '.join(keys)})" for column, keys in looked_up.items())
    return f"{words}, but for what was looked up with noise, inside epsilon: {bought}"


def _tokenizer_in_words(config: JobConfig) -> str:
    tokenizer = config.tokenizer
    if tokenizer.kind == "byte":
        return "bytes: nothing is learned from the records"
    if tokenizer.uri is not None and config.privacy.vocabulary == "public":
        return "a SentencePiece model that the job declares public"
    if tokenizer.alphabet is not None:
        return "characters of an alphabet that the job fixes"
    return f"a {tokenizer.kind} vocabulary made from the private records; epsilon does not cover it"
