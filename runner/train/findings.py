"""What `runner validate` says about a job that can start, as plain values and in lines.

found = describe_check(check_job(config))
print("\\n".join(in_lines(found)))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from runner.config import JobConfig
from runner.data.examples import TokenSet
from runner.data.files import PassedOver
from runner.data.schema.description import describe
from runner.data.schema.description import in_lines as fields_in_lines
from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.data.survey import Survey
from runner.data.table import list_names
from runner.privacy.accountant import epsilon, spent_by
from runner.privacy.budget import Budget
from runner.privacy.lookups import SCHEMA, lookups_of
from runner.privacy.unit import PrivacyUnit
from runner.train.drawn_tokens import tokenizer_of
from runner.train.facade import CheckedJob
from runner.train.private_run import planned_epsilon


def describe_check(checked: CheckedJob) -> dict[str, Any]:
    """Which files are read and which are not, what is in them, and what a private run will cost."""
    config, survey, tokens = checked.config, checked.survey, checked.tokens
    found: dict[str, Any] = {
        "job": config.name,
        "files": len(checked.used),
        "not_read": [vars(group) for group in checked.not_read()],
    }
    if checked.left:
        found["files_after_max_records"] = len(checked.left)
    if tokens is not None:
        found |= _describe_tokens(tokens)
    elif survey is not None and config.fields is not None:
        found |= {"rows": survey.found.rows, "records": survey.records}
    elif survey is not None:
        found |= _describe_survey(survey, joined=config.data.columns is not None)
    if config.examples.packing == "stream" or config.fields is not None:
        found.pop("longer_records", None)
    if (unit := checked.unit) is not None:
        found["privacy_unit"] = unit.to_plain()
    if survey is not None and survey.left_out:
        found["columns_left_out"] = list_names(survey.left_out)
    if config.fields is not None:
        schema = survey.schema if survey is not None else tokenizer_of(tokens).schema if tokens is not None else None
        if schema is not None:
            tokenizer = FieldTokenizer(schema)
            found |= {"tokens_of_a_record": tokenizer.record_tokens, "different_tokens": tokenizer.vocab_size}
        columns = survey.found.columns if survey is not None and config.data.since is None else {}
        found["fields"] = describe(config.fields, schema, columns, _bought(checked))
    if checked.budget is not None:
        budget = checked.budget
        if budget.mechanism is not None:
            steps = {"noise_multiplier": budget.mechanism.noise_multiplier, "planned_steps": budget.charged_steps}
        else:
            steps = {"counted": _describe_counted(budget)}
        found |= {
            **steps,
            "planned_epsilon": planned_epsilon(config, budget),
            "delta": budget.delta,
            **_describe_releases(config, budget),
        }
    return found


def in_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The same for a reader.

    >>> list(in_lines({"records": 40, "longer_records": {"records": 10, "is": "exact"}}))
    ['records: 40', 'records longer than seq_length: 10 (25.0%), which are cut']
    """
    for name, value in found.items():
        match name:
            case "not_read":
                yield from (f"not read: {PassedOver(**group)}" for group in value)
            case "null_fields":
                empty = found["empty_fields"]
                yield f"null fields: {value} (written as empty{f', as are {empty} empty texts' if empty else ''})"
            case "empty_fields" | "different_tokens" | "looked_up":  # With others: the last is in the table.
                continue
            case "tokens_of_a_record":
                yield f"tokens of a record: at most {value}, of {found['different_tokens']:,} different ones"
            case "privacy_unit":
                unit = PrivacyUnit(**value)
                yield f"privacy unit: {unit.in_words()}"
                yield from (f"{what}: {how}" for what, how in unit.counts_in_words().items())
            case "counted":
                for name, each in value.items():
                    yield f"counted, with noise: {name} ({each['histograms']}), sigma {each['sigma']:g} records"
            case "fields":
                yield "fields:"
                yield from fields_in_lines(value)
            case "longer_records":
                share = f"{value['records']} ({value['records'] / found['records']:.1%})"
                words = {
                    "exact": f"{share}, which are cut",
                    "sample": f"about {share}, which are cut",
                    "at most": f"at most {share}, known when the tokenizer is trained",
                }[value["is"]]
                yield f"records longer than seq_length: {words if value['records'] else 'none'}"
            case _:
                yield f"{name.replace('_', ' ')}: {value}"


def _describe_survey(survey: Survey, *, joined: bool) -> dict[str, Any]:
    found, lengths = survey.found, survey.found.lengths
    longer = round(lengths.longer / lengths.records * found.records)
    return {
        "rows": found.rows,
        "null_rows": found.null_rows,
        "records": found.records,
        **({"null_fields": found.null_fields, "empty_fields": found.empty_fields} if joined else {}),
        "mean_characters": round(found.characters / found.records, 1),
        "longest_record_characters": found.longest,
        "longer_records": {"records": longer, "is": survey.certainty},
    }


def _describe_tokens(tokens: TokenSet) -> dict[str, Any]:
    return {
        "rows": tokens.records + tokens.null_rows,
        "null_rows": tokens.null_rows,
        "records": tokens.records,
        "longer_records": {"records": tokens.cut_records, "is": "exact"},
        "examples": tokens.examples,
        "tokens": tokens.targets,
    }


def _bought(checked: CheckedJob) -> dict[str, str] | None:
    """What a private job buys of each column, and with how much noise; None where it is not private."""
    if not checked.config.privacy.enabled:
        return None
    assert checked.budget is not None
    histograms = {each.name: each for release in checked.budget.releases for each in release.histograms}
    bought: dict[str, list[str]] = {}
    for lookup in lookups_of(checked.config):
        histogram = histograms[lookup.name]
        least = "" if histogram.threshold is None else f", from {histogram.threshold} rows on"
        bought.setdefault(lookup.column, []).append(f"{lookup.key} (noise {histogram.sigma:.3g}{least})")
    return {column: f"bought: {', '.join(words)}" for column, words in bought.items()}


def _describe_releases(config: JobConfig, budget: Budget) -> dict[str, Any]:
    """What a job will look up in its records, and what that costs alone; nothing where it looks up nothing."""
    releases = tuple(release for release in budget.releases if release.name == SCHEMA)
    if not releases:
        return {}
    return {
        "looked_up": [asdict(histogram) for release in releases for histogram in release.histograms],
        "schema_epsilon": epsilon(spent_by(releases), budget.delta, config.privacy.accountant),
    }


def _describe_counted(budget: Budget) -> dict[str, Any]:
    """Of a run that trains on draws: the histograms that these are made by, and their noise, by release."""
    return {
        release.name: {"histograms": len(release.histograms), "sigma": release.histograms[0].sigma}
        for release in budget.releases
        if release.name != SCHEMA
    }
