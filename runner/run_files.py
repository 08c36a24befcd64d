"""What tells a run's directory from a folder of the user's, and the names that runs write there.

A run directory has `job.yaml`, and a `writer` or a `status.json` as only we write them: `job.yaml` alone may well be a
job file of the user's. `writer` is written first and removed last, so a claim that was killed is known as ours, too.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

from runner.errors import StorageError
from runner.storage import Folder, Layout, enclosing_folders

JOB = "job.yaml"
STATUS = "status.json"
WRITER = "writer"
UNBEGUN = b"0000000000.000000-000000 nobody"
"""What `writer` holds before the first attempt: a term that sorts before all others."""

_HELD = re.compile(rb"\d{10,}\.\d{6}-\d{6,} (nobody|[0-9a-f]{32})")
_MODEL = r"weights\.safetensors|model\.json|privacy\.json|privacy\.md|tables\.(json|safetensors)"
_TOKENIZER = r"tokenizer\.json|sentencepiece\.model"

RUN_FILES = Layout(
    r"job\.yaml|status\.json|writer|stop|microbatch",
    r"(columns/)?history\.csv|files\.json|privacy\.json|privacy\.md|(report|shareable)\.html|sweep\.(csv|json)",
    r"logs/\d{8}T\d{6}-(driver|worker-\d+)\.log",
    rf"tokenizer/({_TOKENIZER}|manifest\.json)",
    rf"model/({_MODEL}|{_TOKENIZER}|manifest\.json)",
    r"(columns/)?checkpoints/step-\d{12}/(tensors\.safetensors|state\.json|manifest\.json)",
    r"events/events\.out\.tfevents\.0\.runner",
    r"private/(key|ledger\.json|steps\.json)",
    r"private/(schema|columns|choice|pairs|report-\d+-[\d.e+-]+)\.json",
)
"""Every name in a run directory that is ours; a sweep's has the same."""


def is_ours(folder: Folder) -> bool:
    """Whether a run has the folder, had it, or was killed when it took it."""
    return _HELD.fullmatch(folder.read_if_exists(WRITER) or b"") is not None or _is_status(
        folder.read_if_exists(STATUS) or b""
    )


def is_run(folder: Folder) -> bool:
    """Whether a folder is a run's directory."""
    return folder.exists(JOB) and is_ours(folder)


def clear_run(folder: Folder) -> None:
    """Remove what runs write in a folder of ours, and nothing else; `writer` stays, which marks it as ours."""
    RUN_FILES.remove(folder, first=STATUS, last=JOB, keep=WRITER)


def remove_run(folder: Folder) -> None:
    """Remove what runs write in a folder of ours; the mark, too, where nothing of the user's is beside it."""
    clear_run(folder)
    if folder.find_file(but=[WRITER]) is None:
        folder.remove([WRITER])


def find_run_around(uri: str) -> str | None:
    """The run whose directory holds the place `uri`, or is it; None where there is none."""
    with contextlib.suppress(StorageError):  # Above what we are allowed to see.
        return next((place.uri for place in enclosing_folders(uri) if is_run(place)), None)
    return None


def _is_status(data: bytes) -> bool:
    try:
        values: Any = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(values, dict) and {"name", "state", "target", "attempt", "created", "heartbeat"} <= values.keys()
