"""Generated records as files: CSV, JSON Lines or Parquet."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from runner.data.schema.codec import decoded_type
from runner.data.schema.units import is_number
from runner.data.texts import to_texts
from runner.errors import ConfigError
from runner.generation.records import Generated
from runner.screen import Column, side_by_side
from runner.storage import open_parent

SUFFIXES = (".csv", ".jsonl", ".parquet")

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
    data = encode(generated.table)
    if overwrite:
        folder.write(name, data)
    elif not folder.create(name, data):
        raise _exists(uri)


def _exists(uri: str) -> ConfigError:
    return ConfigError(f"-o {uri}: exists; choose another name or add --overwrite")


def to_parquet(table: pa.Table) -> bytes:
    """A Parquet file with the table's types."""
    sink = io.BytesIO()
    pq.write_table(table.unify_dictionaries().combine_chunks(), sink, compression="zstd")
    return sink.getvalue()


def to_csv(table: pa.Table) -> bytes:
    r"""CSV with a header, whose records every reader finds again; a null is an empty field.

    In columns with nulls an empty text is in quotes. Not by Python's own writer: some of its versions leave a lone
    carriage return outside quotes (3.11.0 to 3.11.8, 3.12.0 to 3.12.2), and readers differ in what they make of spaces.

    >>> to_csv(pa.table({"a": [1, None], "b": ["x, y", " z"], "c": ["", None]}))
    b'a,b,c\n1,"x, y",""\n," z",\n'
    """
    is_only = table.num_columns == 1
    columns = [
        [
            _csv_field(value, quoted=(is_only or column.null_count > 0) and (is_only or value is not None))
            for value in values
        ]
        for column, values in zip(table.columns, _texts(table), strict=True)
    ]
    header = [_csv_field(name, quoted=is_only) for name in table.column_names]
    return "".join(",".join(row) + "\n" for row in (header, *zip(*columns, strict=True))).encode()


def to_jsonl(table: pa.Table) -> bytes:
    """JSON Lines, whose lines are found by readers, too, that take other characters for line ends. Numbers, booleans
    and nulls are JSON's own.

    >>> to_jsonl(pa.table({"a": [0.5, None], "b": [True, False], "c": ["x", "7"]})).decode().splitlines()
    ['{"a": 0.5, "b": true, "c": "x"}', '{"a": null, "b": false, "c": "7"}']
    """
    names = [_json_text(name) for name in table.column_names]
    columns = [
        [_json_value(value, column.type) for value in values]
        for column, values in zip(table.columns, _texts(table), strict=True)
    ]
    lines = (
        ", ".join(f"{name}: {value}" for name, value in zip(names, row, strict=True))
        for row in zip(*columns, strict=True)
    )
    return "".join(f"{{{line}}}\n".translate(_LINE_ENDS) for line in lines).encode()


def table_in_words(table: pa.Table) -> str:
    """A table as it is printed: in columns side by side on a terminal, as CSV elsewhere."""
    if not sys.stdout.isatty():
        return to_csv(table).decode().removesuffix("\n")
    columns = [
        Column(field.name, ["" if value is None else value for value in values], is_number(decoded_type(field.type)))
        for field, values in zip(table.schema, _texts(table), strict=True)
    ]
    return side_by_side(columns, shutil.get_terminal_size().columns)


def _texts(table: pa.Table) -> list[list[str | None]]:
    """The texts of each column's values."""
    return [to_texts(column.combine_chunks()).to_pylist() for column in table.columns]


def _csv_field(value: str | None, *, quoted: bool) -> str:
    """A field, in quotes where it would be read as something else; `quoted`: also where it is empty."""
    value = value or ""
    if _QUOTED.search(value) or (quoted and not value):
        return '"' + value.replace('"', '""') + '"'
    return value


def _json_value(text: str | None, kind: pa.DataType) -> str:
    if text is None:
        return "null"
    kind = decoded_type(kind)
    return text if is_number(kind) or types.is_boolean(kind) else _json_text(text)


def _json_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
