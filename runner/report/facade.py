"""`runner report`: read a run, compare synthetic with real records, write `report.html` into the run directory."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from runner.config import JobConfig
from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.data.tokenizer import from_files
from runner.errors import ConfigError, DataError, JobFailedError, RunNotFoundError, TokenizerError
from runner.privacy.report import PAGE_FILE
from runner.privacy.statement import read_statement
from runner.report.compare import Quality, choose_layout, compare_records
from runner.report.found import Found
from runner.report.real import RealRecords, read_real_records
from runner.report.synthetic import MOST_RECORDS, draw_records, read_records, read_table
from runner.run_directory import RunDirectory
from runner.storage import read_published
from runner.train.checkpoint import newest_checkpoint
from runner.train.history import read_history
from runner.train.series import source_files

FILE = "report.html"
OWN_TITLE = b": quality report</title>"
"""What a page begins with, within `HEAD_BYTES`."""
HEAD_BYTES = 4096
CANNOT_COMPARE = (DataError, TokenizerError, RunNotFoundError, JobFailedError)
"""What leaves a page without a comparison, unless the user asked for something in particular."""

log = logging.getLogger(__name__)


def report_run(
    directory: RunDirectory, *, target: str | None, synthetic_uri: str | None, count: int | None
) -> tuple[dict[str, Any], str]:
    """Write a run's report.

    target: the column for which synthetic records are tried as training data. synthetic_uri: a file of synthetic
    records instead of generated ones; count: how many to generate, by default as many as there are training records,
    up to `MOST_RECORDS`.
    Returns plain values, those of the privacy statement first where there is one, and the same in words.

    Raises:
        RunNotFoundError: there is nothing to report yet, or no model to generate with.
        ConfigError: a target that is no column, options that exclude each other, or a file of the user's in the way.
        DataError: records or file cannot be used.
    """
    if synthetic_uri is not None and count is not None:
        raise ConfigError("-n is for generated records; leave it out with --synthetic")
    _check_page(directory)
    config = directory.read_model_config()
    rows, best = read_history(directory)
    statement, statement_page = _read_statement(directory, config)
    has_model = directory.folder.child("model").exists("manifest.json")
    if not rows and not has_model and statement is None:
        raise RunNotFoundError(f"{directory.uri}: nothing to report yet: no epoch is done; see `runner status`")
    real = synthetic = quality = None
    why_not = ""
    try:
        real = _read_real(directory, config)
        layout = choose_layout(config, real, target)
        if synthetic_uri is None:
            wanted = count or min(real.training_records, MOST_RECORDS)
            synthetic = draw_records(directory.folder.child("model"), wanted)
        elif real.schema is not None:
            synthetic = read_table(synthetic_uri, real.schema)
        else:
            columns = config.generation.fields or config.data.columns or (config.data.text_column,)
            synthetic = read_records(synthetic_uri, columns, config.data.field_delimiter)
        quality = compare_records(config, real, synthetic, layout, target)
    except CANNOT_COMPARE as error:
        if target is not None or synthetic_uri is not None or count is not None:
            raise
        why_not = str(error)
        log.warning("the report compares no records: %s", why_not)
    found = Found(
        directory.uri,
        config,
        directory.current_status(),
        tuple(rows),
        best,
        statement,
        real,
        synthetic,
        quality,
        why_not,
        target,
    )

    from runner.report.page import page

    directory.folder.write(FILE, page(found).encode())
    path = f"{directory.uri}/{FILE}"
    answer = {**(statement or {}), "report": path, "quality": None if quality is None else figures(quality)}
    return answer, "\n".join(
        [*([statement_page.rstrip(), ""] if statement else []), *_in_words(quality), f"report: {path}"]
    )


def _check_page(directory: RunDirectory) -> None:
    """Raise ConfigError where a file that is no report of ours has the name of the page."""
    if directory.folder.exists(FILE) and OWN_TITLE not in directory.folder.read_range(FILE, 0, HEAD_BYTES):
        raise ConfigError(f"{directory.uri}/{FILE}: not written by `runner report`; move it away")


def figures(quality: Quality) -> dict[str, Any]:
    """The figures of a comparison as plain values; None where one is not defined."""
    closeness, usefulness = quality.closeness, quality.usefulness
    return {
        "synthetic_records": quality.synthetic_records,
        "synthetic_source": quality.synthetic_source,
        "right_number_of_fields": quality.fields_share,
        "distinct": quality.distinct_share,
        "column_distance": quality.mean_distance,
        "column_distance_of_holdout": quality.mean_holdout_distance,
        "columns": [
            {
                "name": column.name,
                "kind": column.kind,
                "distance": column.distance,
                "distance_of_holdout": column.holdout_distance,
            }
            for column in quality.columns
        ],
        "association_difference": quality.mean_association_difference,
        "association_difference_of_holdout": quality.mean_holdout_association_difference,
        "exact_copies": quality.synthetic_copies,
        "exact_copies_of_holdout": quality.holdout_copies,
        "closer_to_training": None if closeness is None else closeness.closer_to_training,
        "closer_to_training_by_chance": None if closeness is None else [0.5, closeness.chance],
        "usefulness": None if usefulness is None else asdict(usefulness) | {"ratio": usefulness.ratio},
    }


def _in_words(quality: Quality | None) -> list[str]:
    """The headline figures, a line each."""
    if quality is None:
        return []
    lines = [f"compared: {quality.synthetic_records:,} synthetic records ({quality.synthetic_source})"]
    if quality.mean_distance is not None:
        chance = quality.mean_holdout_distance
        beside = "" if chance is None else f"; records that were not trained on: {chance:.3f}"
        lines.append(f"columns: {quality.mean_distance:.3f} from the training records on average{beside}")
    beside = (
        "" if quality.holdout_copies is None else f"; of records that were not trained on: {quality.holdout_copies:.2%}"
    )
    lines.append(f"exact copies: {quality.synthetic_copies:.2%} of the synthetic records{beside}")
    if quality.closeness is not None:
        lines.append(
            f"closer to a training than to a holdout record: {quality.closeness.closer_to_training:.1%} "
            f"(50% ± {quality.closeness.chance:.1%} by chance)"
        )
    useful = quality.usefulness
    if useful is not None:
        name = "accuracy" if useful.real.accuracy is not None else "r2"
        mine, real = (getattr(score, name) for score in (useful.synthetic, useful.real))
        shown = ["not defined" if value is None else f"{value:.3f}" for value in (mine, real)]
        lines.append(f"{useful.target}: {name} {shown[0]} trained on synthetic, {shown[1]} trained on real records")
    return lines


def _read_statement(directory: RunDirectory, config: JobConfig) -> tuple[dict[str, Any] | None, str]:
    """The privacy statement, None where there is none (yet)."""
    if not config.privacy.enabled or not directory.folder.exists(PAGE_FILE):
        return None, ""
    return read_statement(directory)


def _read_real(directory: RunDirectory, config: JobConfig) -> RealRecords:
    checkpoint = newest_checkpoint(directory.folder.child("checkpoints"))
    schema = None
    if config.fields is not None:
        tokenizer = from_files(read_published(directory.folder.child("tokenizer")))
        assert isinstance(tokenizer, FieldTokenizer)
        schema = tokenizer.schema
    return read_real_records(
        config, source_files(config, directory), checkpoint.state["tokens"] if checkpoint else None, schema
    )
