"""Generated records as files: CSV, JSON Lines or Parquet."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence

from runner.errors import ConfigError
from runner.generation.records import Generated
from runner.storage import open_parent

SUFFIXES = (".csv", ".jsonl", ".parquet")

Rows = Sequence[tuple[str, ...]]

_QUOTED = re.compile(r'[",\r\n\0]|^[\s\ufeff]|\s\Z|^sep=')
"""Also what is cut off as space or as a byte order mark, and how a first line tells Excel the separator."""
_LINE_ENDS = {ord(character): f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"}
"""Control characters below U+0020 are escaped in any case."""


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
    encode = {".csv": to_csv, ".jsonl": to_jsonl, ".parquet": to_parquet}["." + uri.rpartition(".")[2]]
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


def to_csv(columns: Sequence[str], rows: Rows) -> bytes:
    r"""CSV with a header, whose records every reader finds again.

    Not by Python's own writer: some of its versions leave a lone carriage return outside quotes (3.11.0 to 3.11.8,
    3.12.0 to 3.12.2), and readers differ in what they make of spaces.

    >>> to_csv(["a", "b"], [("1", "x, y"), ("", " z")])
    b'a,b\n1,"x, y"\n," z"\n'
    """
    is_only = len(columns) == 1
    lines = (",".join([_csv_field(value, is_only=is_only) for value in row]) for row in (tuple(columns), *rows))
    return "".join(line + "\n" for line in lines).encode()


def to_jsonl(columns: Sequence[str], rows: Rows) -> bytes:
    """JSON Lines, whose lines are found by readers, too, that take other characters for line ends."""
    lines = (json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) for row in rows)
    return "".join(line.translate(_LINE_ENDS) + "\n" for line in lines).encode()


def _csv_field(value: str, *, is_only: bool) -> str:
    """A field, in quotes where it would be read as something else; the only one of a line is never blank."""
    if _QUOTED.search(value) or (is_only and not value):
        return '"' + value.replace('"', '""') + '"'
    return value
