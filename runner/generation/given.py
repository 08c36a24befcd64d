"""What a user gives of a table's rows, read and checked: `--given`, `--given-file` and `--rebalance`.

    prompts = read_given(model, ("sex=Female,income=>50K",), uri=None, rules={})   # JSON, one for all rows
    shares = read_shares(model, ("income=>50K:0.5",), prompts)

A pair is split at its first `=` behind the name of a column. Pairs are separated as in a line of CSV: one that holds a
comma or begins with a quote is put in double quotes, and quotes in it are doubled. After the `=` nothing is null, and
two quotes are an empty text.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runner.config import ColumnRule
from runner.data.csv_table import CsvTable
from runner.data.schema import Codec
from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.data.schema.identifier import IdCodec
from runner.data.schema.values import from_texts
from runner.data.tables import open_table
from runner.data.texts import TEXT
from runner.errors import ConfigError, DataError
from runner.generation.conditions import given_columns, wrong_values
from runner.generation.shares import ValueShare
from runner.generation.validators import value_rules
from runner.model.artifact import ModelDescription

EMPTY = '""'
ALTERNATIVE = "train with examples.field_order: random to give any"

log = logging.getLogger(__name__)


def read_given(
    model: ModelDescription, pairs: Sequence[str], uri: str | None, rules: Mapping[str, ColumnRule]
) -> tuple[str, ...]:
    """What is given of each row of a file, or of all rows, as `prompts` of `SamplingSettings`. `rules`: of the job's
    columns, which given values must keep, too.

    Raises:
        ConfigError: the model makes no rows of a table, or none with these values, or does not draw columns in this
            order.
        DataError: the file cannot be read, or holds no rows.
    """
    tokenizer = _tokenizer(model, "--given" if pairs else "--given-file")
    columns = _Columns(tokenizer, rules)
    constant = columns.parse(pairs)
    prompts = (json.dumps(constant),) if uri is None else columns.read_file(uri, constant)
    _check_order(model, prompts, "--given" if uri is None else f"--given-file {uri}")
    return prompts


def read_shares(
    model: ModelDescription, texts: Sequence[str], prompts: Sequence[str], rules: Mapping[str, ColumnRule]
) -> tuple[ValueShare, ...]:
    """The shares of one column's values.

    Raises:
        ConfigError: as for `read_given`, or they are no shares, or of several columns.
    """
    columns = _Columns(_tokenizer(model, "--rebalance"), rules)
    shares: list[ValueShare] = []
    for text in _split(texts, "--rebalance"):
        name, value = columns.split_pair(text, "--rebalance")
        shares += columns.parse_share(name, value, f"--rebalance {text}")
    names = list(dict.fromkeys(share.column for share in shares))
    if len(names) > 1:
        raise ConfigError(f"--rebalance: {' and '.join(names)} are several columns, of which the shares say nothing")
    given = given_columns(prompts)
    if len(prompts) > 1 or names[0] in given:
        what = f"{names[0]} is given for all rows" if names[0] in given else "each row of --given-file is given"
        raise ConfigError(f"--rebalance {names[0]}: {what}; give one of the two")
    columns.check_shares(names[0], shares)
    _check_order(model, prompts, "--rebalance", names[0])
    return tuple(shares)


@dataclass(frozen=True)
class _Columns:
    """The columns of a model, by which texts are read and values checked."""

    tokenizer: FieldTokenizer
    rules: Mapping[str, ColumnRule]

    @property
    def codecs(self) -> dict[str, Codec]:
        """Of the columns that come out."""
        names = self.tokenizer.schema.arrow.names
        return {codec.name: codec for codec in self.tokenizer.schema.codecs if codec.name in names}

    def parse(self, pairs: Sequence[str]) -> dict[str, str | None]:
        """The values of `--given` by column."""
        given: dict[str, str | None] = {}
        for text in _split(pairs, "--given"):
            name, value = self.split_pair(text, "--given")
            if name in given:
                raise ConfigError(f"--given {text}: {name} is given twice")
            given[name] = _read_text(value)
            self.check(name, pa.array([given[name]], TEXT), lambda _, name=name: f"--given {name}")
        return given

    def read_file(self, uri: str, constant: Mapping[str, str | None]) -> tuple[str, ...]:
        """The rows of a file, each with what is given of all."""
        table = open_table(uri, patient=False)
        rows: list[dict[str, str | None]] = []
        places: list[int] = []
        names: dict[str, None] = {}
        for place, row in table.rows():
            names.update(dict.fromkeys(row))
            rows.append({name: text for name, text in row.items() if text is not None})
            places.append(place)
        table.check_columns((), names)
        for note in table.notes:
            log.warning("%s: %s", uri, note)
        left_out = [codec.name for codec in self.tokenizer.schema.codecs if codec.name not in self.codecs]
        for name in names:
            if name in constant:
                raise ConfigError(f"--given {name}: {uri} has this column, too; give it once")
            if name not in self.codecs and name not in left_out:
                raise ConfigError(f"{uri}: the model has no column {name!r}; it has {', '.join(self.codecs)}")
            if name in left_out:
                log.warning("%s: column %s is left out, as the job says", uri, name)
                continue
            codec = self.codecs[name]
            # CSV writes a null as an empty field; and no number or date is an empty text.
            is_null_empty = isinstance(table, CsvTable) or codec.kind not in ("category", "text")
            texts = [row.get(name) for row in rows]
            there = [place for place, text in enumerate(texts) if text is not None and (text or not is_null_empty)]
            self.check(
                name,
                pa.array([texts[place] for place in there], TEXT),
                lambda place, there=there, name=name: f"{table.where(places[there[place]])}, column {name}",
                uri,
            )
            for place in set(range(len(rows))).difference(there):
                rows[place].pop(name, None)
        for name in left_out:
            for row in rows:
                row.pop(name, None)
        return tuple(json.dumps({**constant, **row}, ensure_ascii=False) if constant or row else "" for row in rows)

    def check(self, name: str, texts: pa.Array, where: Callable[[int], str], uri: str | None = None) -> None:
        """Raise ConfigError for the first value that no row has. Of a file, values are taken for what training took
        them for, where the job says so in `outside`, and counted."""
        if not len(texts):
            return
        codec = self.codecs[name]
        wrong = np.flatnonzero(wrong_values(codec, texts))
        if uri is not None and wrong.size:
            taken = [place for place in wrong.tolist() if _is_taken(codec, texts.slice(place, 1))]
            wrong = np.setdiff1d(wrong, taken)
            if taken:
                log.warning(
                    "%s: column %s: %s outside %s; they stay, and rows are drawn as training took them (outside: %s)",
                    uri,
                    name,
                    f"{len(taken):,} values are" if len(taken) > 1 else "a value is",
                    codec.range_words(),
                    codec.outside,
                )
        if wrong.size:
            value = texts[int(wrong[0])].as_py()
            shown = "null" if value is None else repr(value)
            what = f"outside {codec.range_words()}" if codec.slots else f"no {codec.type}"
            if value is None:
                what += f'; an empty text is written {name}=""' if codec.kind in ("text", "category") else ""
            raise ConfigError(f"{where(int(wrong[0]))}: {shown:.200} is {what}")
        for rule in value_rules(self.rules.get(name, ColumnRule())):
            for place, value in enumerate(texts.to_pylist()):
                if (reason := rule(value or "")) is not None:
                    raise ConfigError(f"{where(place)}: {value!r:.200}: generation.columns: {reason}")

    def parse_share(self, name: str, text: str, where: str) -> list[ValueShare]:
        """The shares that `COLUMN=VALUE:SHARE` says, or `COLUMN=0.5` of a column with two values."""
        value, colon, share = text.rpartition(":")
        try:
            number = float(share)
        except ValueError:
            number = -1.0
        if not 0 <= number <= 1:
            raise ConfigError(f"{where}: {share!r} is no share from 0 to 1; write {name}=VALUE:0.5")
        if colon:
            read = _read_text(value)
            self.check(name, pa.array([read], TEXT), lambda _: where)
            return [ValueShare(name, read, number)]
        values = self._values(name)
        if values is None or len(values) != 2 or number != 0.5:
            raise ConfigError(f"{where}: of which value? write {name}=VALUE:{share}")
        return [ValueShare(name, value, number) for value in values]

    def check_shares(self, name: str, shares: Sequence[ValueShare]) -> None:
        """Raise ConfigError for values whose shares cannot be had."""
        values = [share.value for share in shares]
        if twice := [value for value in values if values.count(value) > 1]:
            raise ConfigError(f"--rebalance {name}: {_shown(twice[0])} has two shares")
        total = sum(share.share for share in shares)
        if total > 1 + 1e-9:
            raise ConfigError(f"--rebalance {name}: the shares add up to {total:g}, more than 1")
        known = self._values(name)
        if known is None:
            raise ConfigError(f"--rebalance {name}: only a column of kind category or boolean can have shares")
        if total < 1 - 1e-9 and not set(known) - set(values):
            raise ConfigError(f"--rebalance {name}: there is no other value for the rest; make the shares add up to 1")

    def _values(self, name: str) -> list[str | None] | None:
        """The values of a category, null among them; None of other kinds."""
        codec = self.codecs[name]
        if codec.kind not in ("category", "boolean"):
            return None
        return [*getattr(codec, "values"), *([None] if codec.nullable else [])]  # noqa: B009

    def split_pair(self, text: str, option: str) -> tuple[str, str]:
        """Column and value."""
        for place in (place for place, character in enumerate(text) if character == "="):
            if text[:place] in self.codecs:
                codec = self.codecs[text[:place]]
                if isinstance(codec, IdCodec):
                    raise ConfigError(f"{option} {text}: {codec.name} is of kind id, which every row has its own of")
                return text[:place], text[place + 1 :]
        if "=" not in text:
            raise ConfigError(f"{option} {text}: write COLUMN=VALUE")
        names = [name for name, codec in self.codecs.items() if codec.slots]
        raise ConfigError(
            f"{option} {text}: there is no column {text.partition('=')[0]!r}; there are {', '.join(names)}"
        )


def _tokenizer(model: ModelDescription, option: str) -> FieldTokenizer:
    if not isinstance(model.tokenizer, FieldTokenizer):
        raise ConfigError(f"{option}: this model writes texts, which have no columns; --prompt says how they begin")
    return model.tokenizer


def _split(texts: Sequence[str], option: str) -> list[str]:
    """The pairs of an option that may be there several times."""
    try:
        pairs = [pair for text in texts for row in csv.reader([text], strict=True) for pair in row]
    except csv.Error:
        raise ConfigError(f'{option}: quotes are wrong; write "COLUMN=a value, with a comma",OTHER=VALUE') from None
    if not all(pairs):
        raise ConfigError(f"{option}: there is a comma too many; a value with a comma is put in quotes with its column")
    return pairs


def _is_taken(codec: Codec, text: pa.Array) -> bool:
    """Whether training takes a value that the schema does not have, for another one."""
    try:
        codec.encode(from_texts(text, codec.type))
    except (DataError, ValueError, TypeError, pa.ArrowException):
        return False
    return True


def _read_text(value: str) -> str | None:
    return None if value == "" else "" if value == EMPTY else value


def _shown(value: str | None) -> str:
    return "null" if value is None else value


def _check_order(model: ModelDescription, prompts: Sequence[str], option: str, last: str | None = None) -> None:
    """Raise ConfigError where a model that learned its columns in their order would draw them in another one."""
    if model.any_order:
        return
    assert isinstance(model.tokenizer, FieldTokenizer)
    names = model.tokenizer.schema.learned.names
    given = {name: column.is_given for name, column in given_columns(prompts).items()}
    known = np.stack([given.get(name, np.zeros(len(prompts), bool)) for name in names], axis=1)
    if last is not None:
        known[:, names.index(last)] = True
        if not np.array_equal(np.flatnonzero(known[0]), np.arange(names.index(last) + 1)):
            raise ConfigError(
                f"{option} {last}: this model draws its columns in their order, so those before it have to be given, "
                f"and no others; {ALTERNATIVE}"
            )
    elif (place := _first_gap(known)) is not None:
        row, column = place
        where = f"{option}, row {row + 1}" if len(prompts) > 1 else option
        raise ConfigError(
            f"{where}: this model draws its columns in their order, so {names[column]} can be given only together with "
            f"those before it ({', '.join(names[:column])}); {ALTERNATIVE}"
        )


def _first_gap(known: NDArray[np.bool_]) -> tuple[int, int] | None:
    """The first row, and its first column that is given behind one that is not, of (rows, columns)."""
    gaps = known & (np.cumsum(~known, axis=1) > 0)
    if not gaps.any():
        return None
    row, column = np.unravel_index(int(gaps.argmax()), gaps.shape)
    return int(row), int(column)
