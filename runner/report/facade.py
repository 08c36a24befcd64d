"""`runner report`: read a run, compare synthetic with real records, write `report.html` into the run directory."""

from __future__ import annotations

import logging
from typing import Any

from runner.config import JobConfig
from runner.data.schema import Schema
from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.data.tokenizers.saved import from_files
from runner.errors import ConfigError, DataError, JobFailedError, RunNotFoundError, TokenizerError
from runner.privacy.report import PAGE_FILE
from runner.privacy.statement import read_statement
from runner.report.compare import choose_layout, compare_records
from runner.report.found import Found
from runner.report.real import RealRecords, read_real_records
from runner.report.summary import figures, in_words
from runner.report.synthetic import MOST_RECORDS, MOST_ROWS, draw_records, read_records, read_table
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
    check_page(directory, FILE, OWN_TITLE)
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
            most = MOST_RECORDS if real.schema is None else MOST_ROWS
            wanted = count or min(real.training_records, most)
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
        [*([statement_page.rstrip(), ""] if statement else []), *in_words(quality), f"report: {path}"]
    )


def check_page(directory: RunDirectory, file: str, title: bytes) -> None:
    """Raise ConfigError where a file that is no report of ours, which has `title`, has the name of a page."""
    if directory.folder.exists(file) and title not in directory.folder.read_range(file, 0, HEAD_BYTES):
        raise ConfigError(f"{directory.uri}/{file}: not written by `runner report`; move it away")


def read_schema(directory: RunDirectory) -> Schema:
    """Of a table's run."""
    tokenizer = from_files(read_published(directory.folder.child("tokenizer")))
    assert isinstance(tokenizer, FieldTokenizer)
    return tokenizer.schema


def _read_statement(directory: RunDirectory, config: JobConfig) -> tuple[dict[str, Any] | None, str]:
    """The privacy statement, None where there is none (yet)."""
    if not config.privacy.enabled or not directory.folder.exists(PAGE_FILE):
        return None, ""
    return read_statement(directory)


def _read_real(directory: RunDirectory, config: JobConfig) -> RealRecords:
    checkpoint = newest_checkpoint(directory.folder.child("checkpoints"))
    schema = None if config.fields is None else read_schema(directory)
    return read_real_records(
        config, source_files(config, directory), checkpoint.state["tokens"] if checkpoint else None, schema
    )
