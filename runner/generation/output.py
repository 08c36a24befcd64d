"""Generated records as files: CSV, JSON Lines or Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence

from runner.errors import ConfigError
from runner.generation.records import Generated
from runner.storage import open_parent

SUFFIXES = (".csv", ".jsonl", ".parquet")

Rows = Sequence[tuple[str, ...]]


def is_folder(uri: str) -> bool:
    """Whether an output is a folder for shards: its name ends in a slash, or has no suffix.

    >>> [is_folder(uri) for uri in ("out/", "s3://bucket/out", "a.b/out", "out.csv", "out.xml")]
    [True, True, True, False, False]
    """
    return "." not in uri.rpartition("/")[2]


def check_output(uri: str) -> None:
    """Raise ConfigError for a file whose suffix is not known."""
    if not is_folder(uri) and not uri.endswith(SUFFIXES):
        raise ConfigError(
            f"-o {uri}: a file must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, and a folder in /"
        )


def check_absent(uri: str) -> None:
    """Raise ConfigError where there is a file already."""
    folder, name = open_parent(uri, patient=False)
    if folder.exists(name):
        raise _exists(uri)


def write_records(uri: str, generated: Generated, *, overwrite: bool = False) -> None:
    """Write CSV, JSON Lines or Parquet, by the file's suffix, to a local path or s3://; whole, or not at all.

    Raises:
        ConfigError: there is such a file, and `overwrite` is off.
    """
    encode = {".csv": _to_csv, ".jsonl": _to_jsonl, ".parquet": to_parquet}["." + uri.rpartition(".")[2]]
    folder, name = open_parent(uri)
    data = encode(generated.columns, generated.rows)
    if overwrite:
        folder.write(name, data)
    elif not folder.create(name, data):
        raise _exists(uri)


def _exists(uri: str) -> ConfigError:
    return ConfigError(f"-o {uri}: exists; choose another name or add --overwrite")


def to_parquet(columns: Sequence[str], rows: Rows) -> bytes:
    """A Parquet file of string columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = list(zip(*rows, strict=True)) or [()] * len(columns)
    table = pa.table({name: pa.array(column, pa.string()) for name, column in zip(columns, values, strict=True)})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _to_csv(columns: Sequence[str], rows: Rows) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()


def _to_jsonl(columns: Sequence[str], rows: Rows) -> bytes:
    lines = (json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) for row in rows)
    return "".join(line + "\n" for line in lines).encode()
