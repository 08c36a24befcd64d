"""Which rows of a table may be drawn: those of the schema, by the rules of the columns.

Where a column has one token for each value, the values that its rules exclude are not drawn. Rules about other columns
are left to a check after drawing.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from runner.config import ColumnRule
from runner.data.automaton import Automaton
from runner.data.schema import Codec
from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.data.texts import to_texts
from runner.errors import ConfigError
from runner.generation.validators import value_rules


def allowed_rows(tokenizer: FieldTokenizer, rules: Mapping[str, ColumnRule]) -> Automaton:
    """The schema's automaton without the values that rules exclude.

    Raises:
        ConfigError: no value of a column keeps its rules.
    """
    automaton = tokenizer.automaton()
    allowed = automaton.allowed  # made for this call
    assert automaton.joints is not None
    learned = [codec for codec in tokenizer.schema.codecs if codec.slots]
    for codec, state in zip(learned, automaton.joints.tolist(), strict=False):
        checks = value_rules(rules.get(codec.name, ColumnRule()))
        if not checks or not _has_token_each(codec):
            continue
        tokens = np.arange(codec.slots[0], dtype=np.int32)
        texts = to_texts(codec.decode(tokens[:, None], tokens.astype(np.int64))).fill_null("").to_pylist()
        ids = tokenizer.first_ids(codec.name)
        allowed[state, ids] &= [all(check(text) is None for check in checks) for text in texts]
        if not allowed[state].any():
            raise ConfigError(f"generation.columns.{codec.name}: the model has no value that keeps the rules")
    return automaton


def _has_token_each(codec: Codec) -> bool:
    return len(codec.slots) == 1 and codec.kind != "text" and getattr(codec, "exact", True)
