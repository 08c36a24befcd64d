"""What is given of a table's rows: values, which come first and as they are, and shares of a column's values.

    conditions = make_conditions(model.tokenizer, settings)      # None where nothing is given
    numbers = conditions.numbers(first=0, n=1000)                # of each row of the output, under which condition
    prompts, routes = conditions.begin(numbers)                  # for a sampler of `conditions.automaton`
    conditions.put_in(column, "age", numbers)                    # a drawn column with the values that are given

A row's given fields are its first ones, in the schema's order; then comes the column whose values have shares, then the
others. So what is drawn is drawn given these values, with the probabilities that the model has for this order, and
nothing is thrown away. Which row has which of the values with shares is a function of the seed and the row's number; of
each there are as many as its share says, by largest remainders. The other rows draw the column without these values.
"""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from runner.data.automaton import Automaton
from runner.data.schema import Codec
from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.data.schema.values import from_texts
from runner.data.texts import TEXT, to_texts
from runner.errors import ConfigError
from runner.generation.settings import SamplingSettings
from runner.generation.shares import ValueShare, count_values, mix


class GivenColumn(NamedTuple):
    """Of n rows: texts as `runner.data.texts` writes them, and of which rows they are given, (n,); others are drawn."""

    texts: pa.Array
    is_given: NDArray[np.bool_]


class Conditions:
    """The conditions of one generation: `given`, of each of its prompts, and the `shares` of one column's values.

    Raises:
        ConfigError: no other value is allowed for the rest of the rows.
    """

    def __init__(
        self,
        tokenizer: FieldTokenizer,
        automaton: Automaton,
        given: dict[str, GivenColumn],
        shares: Sequence[ValueShare],
        *,
        records: int,
        seed: int,
        rows_per_prompt: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._given = given
        self._codecs = {codec.name: codec for codec in tokenizer.schema.codecs}
        self._learned = tokenizer.schema.learned.names
        self._rows_per_prompt = rows_per_prompt
        self._records, self._seed = records, seed
        self._column = shares[0].column if shares else None
        self._ends = np.cumsum(count_values([share.share for share in shares], records))
        self._tokens = [self._encode(share.column, pa.array([share.value], TEXT))[0].tolist() for share in shares]
        self.automaton = automaton
        if self._column is not None:
            self.automaton = _without(automaton, self._learned.index(self._column), [ids[0] for ids in self._tokens])
            if self._ends[-1] < records and not self.automaton.allowed[-1].any():
                raise ConfigError(f"--rebalance {self._column}: generation.columns allows no other value for the rest")

    def numbers(self, first: int, n: int) -> list[int]:
        """Of rows first, ..., first + n - 1 of the output: the number of their prompt, with shares their own."""
        rows = np.arange(first, first + n)
        return (rows if self._column is not None else rows // self._rows_per_prompt).tolist()

    def begin(self, numbers: Sequence[int]) -> tuple[list[list[int]], NDArray[np.int32]]:
        """The tokens that each of n rows begins with, and its way through the automaton, (n, J)."""
        rows = self._prompts_of(numbers)
        is_given = np.zeros((len(rows), len(self._learned)), bool)
        owners, tokens = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for place, name in enumerate(self._learned):
            if name not in self._given:
                continue
            texts, given = self._given[name]
            is_given[:, place] = given[rows]
            chosen = np.flatnonzero(is_given[:, place])
            ids, lengths = self._encode(name, texts.take(pa.array(rows[chosen])))
            owners.append(np.repeat(chosen, lengths))
            tokens.append(ids.astype(np.int64))
        owner = np.concatenate(owners)
        order = np.argsort(owner, kind="stable")
        ends = np.cumsum(np.bincount(owner, minlength=len(rows)))
        prompts = [ids.tolist() for ids in np.split(np.concatenate(tokens)[order], ends[:-1])]
        places = np.where(is_given, 0, 2)
        if self._column is None:
            return prompts, self.automaton.routes(np.argsort(places, axis=1, kind="stable"))
        column = self._learned.index(self._column)
        places[:, column] = 1
        routes = self.automaton.routes(np.argsort(places, axis=1, kind="stable"))
        values = self._values_of(numbers)
        for prompt, value in zip(prompts, values.tolist(), strict=True):
            if value < len(self._tokens):
                prompt += self._tokens[value]
        assert self.automaton.joints is not None
        is_other = (values == len(self._tokens))[:, None] & (routes == self.automaton.joints[column])
        return prompts, np.where(is_other, np.int32(len(self.automaton.allowed) - 1), routes)

    def put_in(self, column: pa.Array, name: str, numbers: Sequence[int]) -> pa.Array:
        """A column of drawn values, with those that are given in their places: digits may be drawn, texts cut."""
        if name not in self._given:
            return column
        rows = self._prompts_of(numbers)
        texts, is_given = self._given[name]
        drawn = to_texts(column)
        wanted = pc.if_else(pa.array(is_given[rows]), texts.take(pa.array(rows)), drawn)
        return column if wanted.equals(drawn) else from_texts(wanted, column.type)

    def _prompts_of(self, numbers: Sequence[int]) -> NDArray[np.int64]:
        rows = np.asarray(numbers, np.int64)
        return rows // self._rows_per_prompt if self._column is not None else rows

    def _values_of(self, numbers: Sequence[int]) -> NDArray[np.int64]:
        """Which of the values with shares each row has; their number where it has another one."""
        return np.searchsorted(self._ends, mix(np.asarray(numbers, np.int64), self._records, self._seed), "right")

    def _encode(self, name: str, texts: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        values = from_texts(texts, self._codecs[name].type)
        return self._tokenizer.encode_fields(pa.StructArray.from_arrays([values], names=[name]), (name,))


def make_conditions(tokenizer: FieldTokenizer, automaton: Automaton, settings: SamplingSettings) -> Conditions | None:
    """Those of settings that were checked; None where nothing is given. `automaton`: which rows there may be."""
    given = given_columns(settings.prompts)
    if not given and not settings.rebalance:
        return None
    return Conditions(
        tokenizer,
        automaton,
        given,
        settings.rebalance,
        records=settings.records,
        seed=settings.seed,
        rows_per_prompt=settings.records_per_prompt,
    )


def given_columns(prompts: Sequence[str]) -> dict[str, GivenColumn]:
    """What is given by prompts of a table, each an object in JSON of texts by column, or empty."""
    rows = [json.loads(prompt) if prompt else {} for prompt in prompts]
    names = dict.fromkeys(name for row in rows for name in row)
    return {
        name: GivenColumn(pa.array([row.get(name) for row in rows], TEXT), np.array([name in row for row in rows]))
        for name in names
    }


def wrong_values(codec: Codec, texts: pa.Array) -> NDArray[np.bool_]:
    """Which texts are no value that the schema has for a field; ids may have any of their type."""
    null = texts.is_null().to_numpy(zero_copy_only=False)
    try:
        values = from_texts(texts, codec.type)
    except (ValueError, TypeError, pa.ArrowException):
        if len(texts) == 1:
            return np.array([True])
        return np.concatenate([wrong_values(codec, texts.slice(place, 1)) for place in range(len(texts))])
    if not codec.slots:
        return null
    read = codec.read(values)
    return read.strange | (read.null & ~(null & codec.nullable))


def _without(automaton: Automaton, part: int, tokens: Sequence[int]) -> Automaton:
    """An automaton with one more state, the last: it is like the first one of a part, but without some tokens."""
    assert automaton.joints is not None
    assert automaton.slots is not None
    state = int(automaton.joints[part])
    allowed, following, slots = (
        np.concatenate([table, table[state : state + 1]])
        for table in (automaton.allowed, automaton.following, automaton.slots)
    )
    allowed[-1, tokens] = False
    return replace(automaton, allowed=allowed, following=following, slots=slots)
