"""`runner report --shareable`: a page that may leave the company, for its figures of private records are noisy.

All that a page shows is a function of the run's model, schema and statement, of the number of records, which is public,
and of noisy counts. These are charged to the run's ledger and to the ledger over runs before they are drawn. They are
drawn once and stored: the same question again is answered from there, and costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runner.config import JobConfig
from runner.data.files import SourceFile
from runner.data.records import read_owned
from runner.data.schema import Schema
from runner.data.survey import count_rows
from runner.data.texts import without_views
from runner.errors import DataError, JobFailedError, PrivacyError
from runner.privacy.accountant import Release, check_delta, epsilon
from runner.privacy.contributions import counted_of, first_records
from runner.privacy.figures import delta_in_words, epsilon_in_words
from runner.privacy.ledger import PRIVATE_FOLDER, LedgerState, RunLedger
from runner.privacy.marginals import COLUMNS
from runner.privacy.releases import Counts, drawn_at, read_released, released_once
from runner.privacy.report import claim_in_words
from runner.privacy.shareable import Columns, plan_report, release_name
from runner.privacy.statement import read_statement
from runner.report.facade import check_page, read_schema
from runner.report.noisy_fidelity import NoisyAccuracy, mean_accuracy, measure_accuracy
from runner.report.page import percent, render
from runner.report.synthetic import MOST_ROWS, draw_records
from runner.run_directory import RunDirectory
from runner.train.private_run import charge_report
from runner.train.series import source_files

FILE = "shareable.html"
OWN_TITLE = b": shareable quality report</title>"
"""What a page begins with."""
LEVELS = ("univariate", "bivariate", "trivariate")
"""Accuracies of single columns, pairs and triples."""


@dataclass(frozen=True)
class NoisyFidelity:
    """`groups`: the columns, pairs and triples that were counted, each with its accuracy; `of_all`: how many the table
    has of each; `cells`: the most cells of a histogram of each."""

    groups: tuple[tuple[tuple[tuple[str, ...], NoisyAccuracy], ...], ...]
    of_all: tuple[int, ...]
    cells: tuple[int, ...]

    @property
    def means(self) -> list[NoisyAccuracy]:
        """Over columns, pairs and triples, as far as they were counted."""
        return [mean_accuracy([accuracy for _, accuracy in level]) for level in self.groups if level]

    @property
    def overall(self) -> NoisyAccuracy:
        """The mean of these."""
        return mean_accuracy(self.means)


def share_report(directory: RunDirectory, *, target: float, count: int | None) -> tuple[dict[str, Any], str]:
    """Write a run's shareable page. target: the epsilon that its counts may cost, beside what the run did. count: how
    many synthetic records to generate, by default as many as there are real ones, up to `MOST_ROWS`.

    Returns plain values, those of the privacy statement first, and the main figures in words.

    Raises:
        PrivacyError: the run has no promise that a page could keep, or `privacy.max_epsilon` does not pay for it.
        RunNotFoundError: it has no statement or no model yet.
        DataError: the records are gone, or are not those that it was trained on.
        ConfigError: a file of the user's is in the way of the page.
    """
    directory = directory.enter()  # A resume from here on, whose ledger may lack the release, shuts this process out.
    config = directory.read_model_config()
    _check_promise(directory, config)
    check_page(directory, FILE, OWN_TITLE)
    schema, state = read_schema(directory), RunLedger.open(directory.folder).state
    columns = _columns(directory, state, schema)
    files, records = _count_records(directory, config, state, schema)
    release = _find_release(directory, config, state, columns, records, target)
    synthetic = draw_records(directory.folder.child("model"), count or min(records, MOST_ROWS)).table
    if synthetic is None or not synthetic.num_rows:
        raise JobFailedError(f"{directory.uri}: its model generates no rows to compare")
    made = columns.count(release, records, synthetic.to_struct_array().chunks)
    is_new = release not in state.releases

    charge_report(config, directory, release)
    noisy = released_once(
        directory.folder.private_child(PRIVATE_FOLDER),
        release,
        lambda: columns.count(release, records, _counted_records(config, files, schema)),
    ).histograms

    fidelity = compare_counts(columns, release, records, noisy, made)
    statement, _ = read_statement(directory)
    cost = epsilon([(release, 1)], state.delta, state.accountant)
    left_out = [codec.name for codec in schema.codecs if codec.name not in {field.name for field, _ in columns.fields}]
    directory.folder.write(
        FILE, shareable_page(config.name, statement, fidelity, columns, release, left_out, synthetic.num_rows).encode()
    )
    path = f"{directory.uri}/{FILE}"
    answer = {**statement, "report": path, "report_epsilon": cost, "quality": {"accuracy": figures(fidelity)}}
    paid = "charged now" if is_new else "charged before: nothing was drawn or charged again"
    return answer, "\n".join(
        [
            *_in_words(fidelity),
            f"epsilon of the page: {epsilon_in_words(cost)} at delta {delta_in_words(state.delta)}, {paid}",
            f"epsilon of the run with it: {epsilon_in_words(statement['epsilon'])}",
            f"report: {path}",
        ]
    )


def compare_counts(
    columns: Columns, release: Release, records: int, noisy: Mapping[str, Counts], made: Mapping[str, Counts]
) -> NoisyFidelity:
    """noisy: the release's counts of real records; made: exact ones of synthetic records, in the same cells."""
    levels: list[list[tuple[tuple[str, ...], NoisyAccuracy]]] = [[] for _ in LEVELS]
    cells = [0] * len(LEVELS)
    sigmas = {each.name: each.sigma for each in release.histograms}
    groups = columns.groups_of(release, records)
    for name, (places, _) in groups.items():
        level, names = len(places) - 1, tuple(columns.names[place] for place in places)
        counts: NDArray[np.integer] = noisy[name].counts
        levels[level].append((names, measure_accuracy(counts, sigmas[name], made[name].counts, records)))
        cells[level] = max(cells[level], counts.size)
    of_all = tuple(math.comb(len(columns.names), size) for size in range(1, len(LEVELS) + 1))
    return NoisyFidelity(tuple(tuple(level) for level in levels), of_all, tuple(cells))


def figures(fidelity: NoisyFidelity) -> dict[str, Any]:
    """As plain values; `error` is what noise can make of an accuracy, see `runner.report.noisy_fidelity`."""
    means = fidelity.means
    levels = {name: _plain(means[place]) if place < len(means) else None for place, name in enumerate(LEVELS)}
    return {
        "overall": _plain(fidelity.overall),
        **levels,
        **{
            what: [{"names": list(names), **_plain(accuracy)} for names, accuracy in level]
            for what, level in zip(("columns", "pairs", "triples"), fidelity.groups, strict=True)
        },
        "pairs_of_all": [len(fidelity.groups[1]), fidelity.of_all[1]],
        "triples_of_all": [len(fidelity.groups[2]), fidelity.of_all[2]],
    }


def shareable_page(
    name: str,
    statement: Mapping[str, Any],
    fidelity: NoisyFidelity,
    columns: Columns,
    release: Release,
    left_out: list[str],
    synthetic: int,
) -> str:
    """The page: a function of what is public, and of noisy counts. left_out: columns; synthetic: rows generated."""
    (stated,) = (each for each in statement["releases"] if each["name"] == release.name)
    return render(
        "shareable.html.j2",
        name=name,
        statement=statement,
        claim=claim_in_words(dict(statement)).replace("**", ""),
        cost=stated["epsilon"],
        sigma=release.histograms[0].sigma,
        fidelity=fidelity,
        means=dict(zip(LEVELS, fidelity.means, strict=False)),
        all_columns=len(columns.names),
        left_out=left_out,
        synthetic=synthetic,
        with_error=_with_error,
    )


def _check_promise(directory: RunDirectory, config: JobConfig) -> None:
    """Whether there is anything that a page could keep to. Raises PrivacyError, or RunNotFoundError."""
    why = ""
    settings = config.training
    if not config.privacy.enabled:
        why = "this run was trained without privacy: its generated records may be those of the training"
    elif config.fields is None:
        why = "this run is of texts, whose figures have no bins that are public; a job with `fields` has"
    elif directory.read_config().sweep is not None:
        why = "this is a sweep, whose choice of a model epsilon does not cover; train a run with that setting"
    elif not config.trains_on_draws and (settings.save_best or settings.early_stopping.enabled):
        why = "its model was chosen by exact losses of private records (save_best, early_stopping), not inside epsilon"
    elif directory.current_status().is_active:
        why = "this run is still training; wait for its end, or `runner stop` it"
    if why:
        raise PrivacyError(f"{directory.uri}: no shareable report: {why}")
    statement, _ = read_statement(directory)
    if statement["epsilon"] == "infinite":
        raise PrivacyError(f"{directory.uri}: no shareable report: it was trained without noise and claims nothing")


def _columns(directory: RunDirectory, state: LedgerState, schema: Schema) -> Columns:
    """By the schema, and by noisy counts of single columns where the run has bought some."""
    for release in state.releases:
        if release.name == COLUMNS:
            found = read_released(directory.folder.private_child(PRIVATE_FOLDER), release).histograms
            counts = [found[each.name].counts for each in release.histograms]
            return Columns.of(schema, counts, max(each.sigma for each in release.histograms))
    return Columns.of(schema)


def _count_records(
    directory: RunDirectory, config: JobConfig, state: LedgerState, schema: Schema
) -> tuple[tuple[SourceFile, ...], int]:
    """The files of the run, and how many of their rows are counted, which is public.

    Raises:
        DataError: they are not those that the run was charged for.
        PrivacyError: delta is not below one in all of them.
    """
    files = source_files(config, directory)
    survey = count_rows(config.data, files, _read_schema(schema), config.unit)
    files = tuple(file for file in files if file.name in survey.stops)
    if not {file.fingerprint for file in files} <= set(state.files):
        raise DataError(f"{config.data.uri}: the records are not those that the run was trained on")
    if survey.persons is None:
        check_delta(state.delta, survey.records, "records that are looked at")
        return files, survey.records
    check_delta(state.delta, sum(survey.persons.values()), "persons whose records are looked at")
    return files, counted_of(survey.persons, config.privacy.sensitivity)


def _counted_records(config: JobConfig, files: tuple[SourceFile, ...], schema: Schema) -> Iterator[pa.StructArray]:
    owned = read_owned(config.data, files, _read_schema(schema), config.unit)
    yield from cast(Any, first_records(owned, config.privacy.max_records_per_unit))


def _find_release(
    directory: RunDirectory, config: JobConfig, state: LedgerState, columns: Columns, records: int, target: float
) -> Release:
    """What was bought before for this epsilon, else what it pays for."""
    bought = [release for release in state.releases if release.name == release_name(target)]
    release = (
        bought[0]
        if bought
        else plan_report(columns, records, target, state.delta, state.accountant, config.privacy.sensitivity)
    )
    return drawn_at(directory.uri, directory.folder.private_child(PRIVATE_FOLDER), release)


def _read_schema(schema: Schema) -> pa.Schema:
    """The types of the columns as they are read."""
    return without_views(schema.learned.empty_table()).schema


def _plain(accuracy: NoisyAccuracy) -> dict[str, float]:
    return {"synthetic": accuracy.value, "error": accuracy.error, "most": accuracy.most}


def _with_error(accuracy: NoisyAccuracy) -> str:
    """The error is rounded up: it is a bound."""
    return f"{percent(accuracy.value)} ± {percent(math.ceil(1000 * accuracy.error) / 1000)}"


def _in_words(fidelity: NoisyFidelity) -> list[str]:
    """The main figures, a line each."""
    lines = [f"accuracy: {_with_error(fidelity.overall)} (noise); another sample: {percent(fidelity.overall.most)}"]
    for what, mean, level, of_all in zip(
        ("columns", "pairs", "triples"), fidelity.means, fidelity.groups, fidelity.of_all, strict=False
    ):
        counted = f"{len(level):,} of {of_all:,} " if len(level) < of_all else ""
        lines.append(f"of {counted}{what}: {_with_error(mean)}; another sample: {percent(mean.most)}")
    return lines
