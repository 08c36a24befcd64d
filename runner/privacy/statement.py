"""A run's privacy statement, read back from its directory."""

from __future__ import annotations

import json
from typing import Any

from runner.errors import CorruptError, ObjectNotFoundError, RunNotFoundError
from runner.privacy.report import JSON_FILE, PAGE_FILE
from runner.run_directory import RunDirectory


def read_statement(directory: RunDirectory) -> tuple[dict[str, Any], str]:
    """The statement as `privacy.json` and as `privacy.md` hold it.

    Raises:
        RunNotFoundError: the run has none: it is not private, or has not ended yet.
        CorruptError: `privacy.json` is damaged.
    """
    try:
        document, page = directory.folder.read(JSON_FILE), directory.folder.read(PAGE_FILE)
    except ObjectNotFoundError:
        private = directory.read_config().privacy.enabled
        why = (
            "the privacy statement is written when the run ends or is stopped, not before"
            if private
            else "this run was trained without privacy, so it has no privacy statement"
        )
        raise RunNotFoundError(f"{directory.uri}: {why}") from None
    try:
        return json.loads(document), page.decode()
    except ValueError as error:
        raise CorruptError(f"{directory.uri}/{JSON_FILE} is damaged: {error}") from error
