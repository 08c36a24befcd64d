"""By what `runner import` joined the fields of records: it says so in the schema of the Parquet files that it writes.

So `runner init` can tell, and a run can split its records again.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_KEY = b"runner.field_delimiter"


def joined_schema(columns: tuple[str, ...], field_delimiter: str | None) -> pa.Schema:
    """Columns of strings, which hold fields joined by `field_delimiter` unless that is None."""
    metadata = None if field_delimiter is None else {_KEY: field_delimiter.encode()}
    return pa.schema([(column, pa.string()) for column in columns], metadata=metadata)


def find_field_delimiter(folder: Path) -> str | None:
    """By what the fields of a local folder's records are joined; None if no import says so.

    A folder or files that cannot be read say nothing here: reading the records names them.
    """
    try:
        paths = sorted(folder.glob("*.parquet"))
    except OSError:
        return None
    for path in paths:
        with suppress(OSError, pa.ArrowException):
            found = (pq.read_schema(path).metadata or {}).get(_KEY)
            return None if found is None else found.decode()
    return None
