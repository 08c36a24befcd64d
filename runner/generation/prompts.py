"""How records begin: prompts from a file, and whether a model can start with them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from runner.data.importing import read_column
from runner.errors import ConfigError, ObjectNotFoundError
from runner.model.artifact import ModelDescription
from runner.storage import open_parent


def read_prompts(uri: str, column: str) -> tuple[str, ...]:
    """The texts of a column, in order: of Parquet (local or s3://), CSV or JSON Lines, or the lines of a text file.

    Raises:
        ConfigError: there is no such file or column, no prompt in it, or one that is null.
        DataError: the file cannot be read.
    """
    values = _parquet_column(uri, column) if uri.endswith(".parquet") else read_column(Path(uri), column)
    if None in values:
        raise ConfigError(f"{uri}: row {values.index(None)} of column {column} holds no prompt; an empty text is one")
    if not values:
        raise ConfigError(f"{uri}: no prompts here")
    return tuple(value for value in values if value is not None)


def check_prompts(model: ModelDescription, prompts: Sequence[str]) -> None:
    """Raise ConfigError for a prompt that no record of the model can begin with."""
    tokenizer = model.tokenizer
    for prompt in prompts:
        ids = tokenizer.encode(prompt)
        if tokenizer.unknown_id in ids:
            unknown = sorted({character for character in prompt if tokenizer.unknown_id in tokenizer.encode(character)})
            raise ConfigError(f"prompt {prompt!r}: the model does not know {', '.join(map(repr, unknown))}")
        if len(ids) >= model.max_tokens:
            raise ConfigError(
                f"prompt {prompt!r} has {len(ids)} tokens, a record of this model at most {model.max_tokens}"
            )


def _parquet_column(uri: str, column: str) -> list[str | None]:
    folder, name = open_parent(uri, patient=False)
    try:
        table = pq.read_table(io.BytesIO(folder.read(name)))
    except ObjectNotFoundError:
        raise ConfigError(f"{uri}: no such file") from None
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{uri}: not a readable Parquet file: {error}") from error
    if column not in table.column_names:
        raise ConfigError(f"{uri}: no column {column}; there are {', '.join(table.column_names)}; see --prompt-column")
    try:
        return table.column(column).cast(pa.string()).to_pylist()
    except pa.ArrowException:
        raise ConfigError(f"{uri}: column {column} is {table.schema.field(column).type}, not text") from None
