"""The records that a run was trained on, as hashes: to tell which generated records are copies."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from runner.config import DataConfig
from runner.data.files import READING_VERSION, list_files
from runner.data.records import read_records
from runner.data.schema import Schema
from runner.data.texts import row_texts
from runner.generation.records import hash_texts


def fingerprint_records(data: DataConfig) -> str:
    """Changes when the files of the records do."""
    files = [(file.name, file.size, file.fingerprint) for file in list_files(data.uri)]
    return hashlib.sha256(json.dumps([files, data.max_records, data.columns, data.text_column]).encode()).hexdigest()


def hash_records(data: DataConfig, version: int = READING_VERSION, schema: Schema | None = None) -> NDArray[np.uint64]:
    """The sorted hashes (see `hash_texts`) of all records of the job, those kept for validation included.

    `version`: by which rules the run read them. `schema`: of a table, whose learned columns tell its rows apart.

    8 bytes of memory for each. Of a run that goes on from another, all
    records of the folder: which of them its `max_records` took depends on those that the runs before had.

    Raises:
        DataError: the records are gone or cannot be read.
    """
    if data.since is not None:
        data = data.model_copy(update={"max_records": None})
    files = tuple(replace(file, version=version) for file in list_files(data.uri))
    batches = (
        records.drop_null() if schema is None else row_texts(schema.rewritten(records).flatten())
        for records in read_records(data, files, None if schema is None else schema.learned)
    )
    parts = [hash_texts(texts.to_pylist()) for texts in batches]
    return np.unique(np.concatenate(parts)) if parts else np.empty(0, np.uint64)
