"""How records begin: prompts from a file, and whether a model can start with them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.data.tables import open_table, read_columns
from runner.errors import ConfigError
from runner.model.artifact import ModelDescription

log = logging.getLogger(__name__)


def read_prompts(uri: str, column: str) -> tuple[str, ...]:
    """The texts of a column, in order: of Parquet, CSV or JSON, or the lines of a text file; local or s3://.

    Raises:
        ConfigError: a prompt is null.
        DataError: there is no such file or column, no prompt in it, or it cannot be read.
    """
    table = open_table(uri, text_column=column, patient=False)
    values = read_columns(table, [column])[column]
    for note in table.notes:
        log.warning("%s: %s", uri, note)
    if None in values:
        raise ConfigError(f"{uri}: row {values.index(None)} of column {column} holds no prompt; an empty text is one")
    return tuple(value for value in values if value is not None)


def check_prompts(model: ModelDescription, prompts: Sequence[str]) -> None:
    """Raise ConfigError for a prompt that no record of the model can begin with; rows of a table begin with none."""
    tokenizer = model.tokenizer
    if isinstance(tokenizer, FieldTokenizer):
        if any(prompts):
            raise ConfigError(
                "--prompt, --prompts: this model makes rows of a table, which no text begins; "
                "--given COLUMN=VALUE says what they have"
            )
        return
    for prompt in prompts:
        ids = tokenizer.encode(prompt)
        if tokenizer.unknown_id in ids:
            unknown = sorted({character for character in prompt if tokenizer.unknown_id in tokenizer.encode(character)})
            raise ConfigError(f"prompt {prompt!r}: the model does not know {', '.join(map(repr, unknown))}")
        if len(ids) >= model.max_tokens:
            raise ConfigError(
                f"prompt {prompt!r} has {len(ids)} tokens, a record of this model at most {model.max_tokens}"
            )
