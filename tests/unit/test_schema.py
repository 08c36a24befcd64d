"""What a schema refuses, in one line each, and what it does with values that it does not have."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from runner.config import FieldConfig, parse_job, read_document
from runner.data.schema import Schema
from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.errors import DataError
from runner.generation.conditions import wrong_values

NOTHING = pa.array([], pa.int64())


def field_of(text: str) -> FieldConfig:
    """One field as a job has it."""
    job = {"name": "demo", "data": {"uri": "r/"}, "fields": {"c": read_document(text), "other": {"kind": "boolean"}}}
    fields = parse_job(job, environment={}).fields
    assert fields is not None
    return fields["c"]


def tokenizer_of(text: str, kind: pa.DataType, found: Any = None) -> FieldTokenizer:
    schema = Schema.of({"c": field_of(text)}, pa.schema([("c", kind)]), None if found is None else {"c": found})
    return FieldTokenizer(schema)


def records_of(column: pa.Array) -> pa.StructArray:
    return pa.StructArray.from_arrays([column], ["c"])


def through(tokenizer: FieldTokenizer, column: pa.Array) -> list[Any]:
    """The values that come back."""
    flat, lengths = tokenizer.encode_batch(records_of(column))
    back = tokenizer.decode_batch(np.split(flat, np.cumsum(lengths)[:-1]))
    return back.field(0).to_pylist()


@dataclass(frozen=True)
class Found:
    """As `runner.data.schema.completion` has it."""

    field: FieldConfig
    rare: bool = False
    values: Any = None
    counts: Any = None
    frequent: tuple[int, ...] = ()
    texts: pa.Array | None = None
    reading: pa.DataType | None = None


# What cannot be a schema


@pytest.mark.parametrize(
    ("field", "kind", "line"),
    [
        (
            "{kind: integer, range: [0, 9]}",
            pa.list_(pa.int64()),
            "column c is list<item: int64>, several values in one",
        ),
        ("{kind: text}", pa.struct([("a", pa.int64())]), "column c is struct<a: int64>, several values in one"),
        ("{kind: boolean}", pa.map_(pa.string(), pa.int64()), "several values in one; leave it out"),
        ("{kind: integer, range: [0, 9]}", pa.bool_(), "column c is bool, which is no number"),
        ("{kind: number, range: [0, 9], decimals: 1}", pa.date32(), "column c is date32[day], which is no number"),
        ("{kind: date, range: [2020-01-01, 2020-01-02]}", pa.int64(), "column c is int64, which is no date or moment"),
        ("{kind: text}", pa.int64(), "column c is int64, which is no text"),
        ("{kind: boolean}", pa.int64(), "fields.c.values: 'false' is no int64"),
        ("{kind: category, values: [a, 1]}", pa.int64(), "fields.c.values: 'a' is no int64"),
        (
            "{kind: category, values: ['1', '1.0']}",
            pa.float64(),
            "fields.c.values: 1 is there twice, as double sees it",
        ),
        ("{kind: integer, range: [0, 300]}", pa.int8(), "fields.c.range: goes beyond what a int8 holds"),
        (
            "{kind: number, range: [0, 9], decimals: 3}",
            pa.decimal128(9, 2),
            "decimals: 3 are more than the 2 of a decimal",
        ),
        (
            "{kind: number, range: [0, 9], decimals: 1}",
            pa.int64(),
            "fields.c.decimals: 1 are more than the 0 of a int64",
        ),
        ("{kind: number, range: [0, 1e15], decimals: 3}", pa.float64(), "beyond what a double holds with 3 decimals"),
        ("{kind: number, range: [0.11, 0.12], decimals: 1}", pa.float64(), "no number of 1 decimals in it"),
        (
            "{kind: datetime, range: [2020-01-01, 2020-01-02], resolution: microsecond}",
            pa.timestamp("ms"),
            "fields.c.resolution: microsecond is finer than a timestamp[ms] is",
        ),
        ("{kind: datetime, range: [1000-01-01, 2020-01-02]}", pa.timestamp("ns"), "beyond what a timestamp[ns] holds"),
        ("{kind: integer}", pa.int64(), "fields.c.range: it was not looked up in the records; declare it"),
        ("{kind: category}", pa.string(), "fields.c.values: it was not looked up in the records; declare it"),
        ("{kind: number, range: [0, 1]}", pa.float64(), "fields.c.decimals: it was not looked up"),
        ("{kind: text, tokenizer: char}", pa.string(), "fields.c.alphabet: it was not looked up"),
        ("{kind: id, made: uuid}", pa.int64(), "fields.c.made: a int64 cannot hold a uuid"),
    ],
)
def test_a_column_that_cannot_be_such_a_field_is_refused_in_one_line(field: str, kind: pa.DataType, line: str) -> None:
    with pytest.raises(DataError) as caught:
        tokenizer_of(field, kind)
    assert line in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_field_without_a_column_is_refused_with_those_there_are() -> None:
    with pytest.raises(DataError, match=r"fields\.c: there is no such column; there are a, b"):
        Schema.of({"c": field_of("{kind: boolean}")}, pa.schema([("a", pa.int64()), ("b", pa.int64())]))
    tokenizer = tokenizer_of("{kind: boolean}", pa.bool_())
    with pytest.raises(DataError, match=r"fields\.c: the records have no such column; they have d"):
        tokenizer.encode_batch(pa.StructArray.from_arrays([pa.array([True])], ["d"]))


def test_too_many_categories_are_refused_by_their_number() -> None:
    field = field_of("{kind: category}")
    with pytest.raises(DataError, match="column c has 1,000,000 values, more than the 65,536"):
        Schema.of(
            {"c": field},
            pa.schema([("c", pa.string())]),
            {"c": Found(field.model_copy(update={"values": tuple(map(str, range(10**6)))}))},
        )


def test_a_table_too_wide_for_its_automaton_is_refused_before_it_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.data.schema.schema.MOST_CELLS", 5000)
    field = field_of("{kind: integer, range: [1, 100]}")
    schema = Schema.of({"a": field}, pa.schema([("a", pa.int64())]))
    assert len(schema.codecs) == 1
    names = [f"c{number}" for number in range(50)]
    with pytest.raises(DataError, match=r"fields: 50 columns have 5,050 tokens at 50 places, too many for the tables"):
        Schema.of(dict.fromkeys(names, field), pa.schema([(name, pa.int64()) for name in names]))


# Values that the schema does not have


@pytest.mark.parametrize(
    ("field", "column", "line"),
    [
        (
            "{kind: integer, range: [17, 90]}",
            pa.array([17, 120, 3]),
            "column c: 2 values are outside [17, 90] or no whole numbers, such as '120'; change that, or say in "
            "fields.c.outside what to do",
        ),
        (
            "{kind: integer, range: [0, 9]}",
            pa.array([1.5, 1.0]),
            "a value is outside [0, 9] or no whole numbers, such as '1.5'",
        ),
        (
            "{kind: integer, range: [0, 9]}",
            pa.array(["1", "x"]),
            "a value is outside [0, 9] or no whole numbers, such as 'x'",
        ),
        (
            "{kind: number, range: [0, 9], decimals: 1}",
            pa.array([1.5, np.nan, np.inf]),
            "2 values are outside [0.0, 9.0], such as 'nan'",
        ),
        (
            "{kind: category, values: [a, b]}",
            pa.array(["a", "c"]),
            "a value is outside the values 'a', 'b', such as 'c'",
        ),
        (
            "{kind: date, range: [2020-01-01, 2020-12-31]}",
            pa.array([dt.date(2021, 1, 1)]),
            "a value is outside [2020-01-01, 2020-12-31], such as '2021-01-01'",
        ),
        (
            "{kind: datetime, range: [2020-01-01, 2020-12-31], resolution: hour}",
            pa.array([dt.datetime(2021, 1, 1)]),
            "a value is outside [2020-01-01 00:00:00.000000, 2020-12-31 23:00:00.000000], such as '2021-01-01",
        ),
        (
            "{kind: boolean, nullable: false}",
            pa.array([None, True]),
            "column c: a value is null, but fields.c.nullable is false",
        ),
        ("{kind: text}", pa.array([b"\xff"]), "column c: a value is outside valid UTF-8"),
    ],
)
def test_values_outside_the_schema_are_refused_with_their_number_and_the_first(
    field: str, column: pa.Array, line: str
) -> None:
    tokenizer = tokenizer_of(field, column.type)
    with pytest.raises(DataError) as caught:
        tokenizer.encode_batch(records_of(column))
    assert line in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("field", "column", "back", "strange"),
    [
        ("{kind: integer, range: [0, 9], outside: clip}", pa.array([-5, 5, 50]), [0, 5, 9], 2),
        ("{kind: integer, range: [0, 9], outside: 'null'}", pa.array([-5, 5, None]), [None, 5, None], 1),
        (
            "{kind: number, range: [0, 9], decimals: 1, outside: clip}",
            pa.array([np.inf, -np.inf, np.nan, 2.25]),
            [None, None, None, 2.2],
            3,
        ),
        ("{kind: integer, range: [0, 9], outside: clip}", pa.array([1.5, 12.5, 3]), [None, 9, 3], 2),
        (
            "{kind: integer, range: [0, 9], outside: clip}",
            pa.array([Decimal("1.50"), Decimal("12.50"), Decimal("3.00")]),
            [None, 9, 3],
            2,
        ),
        ("{kind: integer, range: [0, 9], outside: clip}", pa.array(["x", "12", "7"]), [None, "9", "7"], 2),
        ("{kind: integer, range: [0, 9], outside: clip}", pa.array([2**64 - 1], pa.uint64()), [9], 1),
        ("{kind: category, values: [a], outside: 'null'}", pa.array(["a", "b"]), ["a", None], 1),
        ("{kind: category, values: [a], outside: rare}", pa.array(["a", "b"]), ["a", None], 1),
        (
            "{kind: date, range: [2020-01-01, 2020-01-31], outside: clip}",
            pa.array([dt.date(2019, 5, 5), dt.date(2021, 5, 5)]),
            [dt.date(2020, 1, 1), dt.date(2020, 1, 31)],
            2,
        ),
    ],
)
def test_values_outside_the_schema_become_what_the_job_says_and_are_counted(
    field: str, column: pa.Array, back: list[Any], strange: int
) -> None:
    tokenizer = tokenizer_of(field, column.type)
    assert through(tokenizer, column) == back
    assert tokenizer.schema.count_strange(records_of(column)) == {"c": strange}


def test_a_rare_value_is_a_token_that_is_never_drawn() -> None:
    field = field_of("{kind: category, values: [a, b]}")
    tokenizer = tokenizer_of("{kind: category}", pa.string(), Found(field, rare=True))
    flat, _ = tokenizer.encode_batch(records_of(pa.array(["a", "seldom", None])))
    automaton = tokenizer.automaton()
    assert [bool(automaton.allowed[0, token]) for token in flat] == [True, False, True]
    texts = pa.array(["a", "seldom", None], pa.large_string())
    assert wrong_values(tokenizer.schema.codecs[0], texts).tolist() == [False, True, False]


# What is found


def test_few_values_that_were_found_are_tokens_and_the_rest_of_the_range_is_cut() -> None:
    """Values of fewer than ten records are none, whatever their number."""
    values, counts = np.array([0, 7, 5000, 99_999]), np.array([900, 9, 50, 30])
    found = Found(field_of("{kind: integer, range: [0, 99999], bins: 32}"), values=values, counts=counts, frequent=(0,))
    tokenizer = tokenizer_of("{kind: integer, bins: 32}", pa.int64(), found)
    flat, lengths = tokenizer.encode_batch(records_of(pa.array(values)))
    assert [int(length) == 1 for length in lengths] == [True, False, True, True]
    assert through(tokenizer, pa.array([0, 7, 5000, 99_999, 12_345])) == [0, 7, 5000, 99_999, 12_345]
    assert flat.size > len(values)


def test_values_between_those_that_were_found_have_no_tokens() -> None:
    """1, 2, 3 and 4 with a decimal each: four values, and one part for all that is between."""
    values, counts = np.array([10, 20, 30, 35, 40]), np.array([900, 90, 50, 3, 30])
    found = Found(field_of("{kind: number, range: [1, 4], decimals: 1, nullable: false}"), values=values, counts=counts)
    tokenizer = tokenizer_of("{kind: number}", pa.float64(), found)
    assert tokenizer.slots.sizes[1] == 4 + 1  # type: ignore[union-attr]
    assert through(tokenizer, pa.array([1.0, 2.0, 3.5, 4.0, 1.1])) == [1.0, 2.0, 3.5, 4.0, 1.1]
    dense = replace(found, values=np.arange(10, 41), counts=np.full(31, 30))
    assert tokenizer_of("{kind: number}", pa.float64(), dense).slots.sizes[1:] == (31,)  # type: ignore[union-attr]


def test_digits_that_are_not_learned_are_drawn_evenly_by_the_number_of_the_row() -> None:
    tokenizer = tokenizer_of("{kind: integer, range: [0, 99999], bins: 10, exact: false}", pa.int64())
    flat, lengths = tokenizer.encode_batch(records_of(pa.array([54_321])))
    assert lengths.tolist() == [1]
    rows = np.arange(4000)
    drawn = np.array(tokenizer.decode_batch([flat] * 4000, rows, 3).field(0).to_pylist())
    width = np.ptp(drawn)
    assert width > 1000
    counts = np.bincount((drawn - drawn.min()) * 10 // (width + 1), minlength=10)
    assert (np.abs(counts - 400) < 5 * np.sqrt(400)).all()
    again = tokenizer.decode_batch([flat] * 4000, rows[::-1], 3).field(0).to_pylist()
    assert again[::-1] == drawn.tolist()
    assert tokenizer.decode_batch([flat] * 4000, rows, 4).field(0).to_pylist() != drawn.tolist()


# Ids and texts


def test_ids_have_no_tokens_and_are_left_out_or_made_anew() -> None:
    fields = {
        "a": field_of("{kind: id, made: sequence}"),
        "b": field_of("{kind: id, made: uuid}"),
        "c": field_of("{kind: boolean}"),
        "d": field_of("{kind: id}"),
    }
    columns = pa.schema([("a", pa.string()), ("b", pa.uuid()), ("c", pa.bool_())])
    tokenizer = FieldTokenizer(Schema.of(fields, columns))
    assert tokenizer.record_tokens == 1
    assert tokenizer.schema.arrow == columns
    assert tokenizer.schema.learned.names == ["c"]
    rows = tokenizer.decode_batch([[1], [2]], np.array([7, 8])).to_pylist()
    assert [row["a"] for row in rows] == ["8", "9"]
    assert rows[0]["b"] != rows[1]["b"]
    assert rows[0]["b"].version == 4
    assert tokenizer.decode_batch([[1]], np.array([7]))[0].as_py() == rows[0] | {"c": False}


@pytest.mark.parametrize(("text", "kept"), [("abcdef", "abcd"), ("aé€", "aé"), ("ab€", "ab"), ("é😀", "é"), ("", "")])
def test_a_text_is_cut_between_characters(text: str, kept: str) -> None:
    tokenizer = tokenizer_of("{kind: text, max_tokens: 4}", pa.string())
    assert through(tokenizer, pa.array([text])) == [kept]


def test_a_text_may_be_pieces_of_a_vocabulary_trained_on_those_found() -> None:
    texts = pa.array(["paid in full", "paid in part", "not paid at all"] * 20)
    field = field_of("{kind: text, tokenizer: sentencepiece, vocab_size: 300, max_tokens: 30}")
    tokenizer = tokenizer_of("{kind: text}", pa.string(), Found(field, texts=texts))
    column = pa.array(["paid in full", None, "paid", "", "ü"])
    assert through(tokenizer, column) == column.to_pylist()
    flat, lengths = tokenizer.encode_batch(records_of(column))
    automaton = tokenizer.automaton()
    assert lengths[0] < len("paid in full")
    for ids in np.split(flat, np.cumsum(lengths)[:-1]):
        assert automaton.walk([*ids.tolist(), 0]) is not None


# Dates and empty columns


def test_the_calendar_is_the_one_of_python() -> None:
    """Every day of leap years, common years and centuries, and no other."""
    tokenizer = tokenizer_of("{kind: date, range: [1899-11-15, 2001-02-10]}", pa.date32())
    automaton = tokenizer.automaton()
    first, last = dt.date(1899, 11, 15), dt.date(2001, 2, 10)
    starts = np.cumsum([0, *tokenizer.slots.sizes])  # type: ignore[union-attr]
    for year in (1899, 1900, 1996, 1999, 2000, 2001):
        for month in range(1, 13):
            for day in range(1, 32):
                try:
                    there = first <= dt.date(year, month, day) <= last
                except ValueError:
                    there = False
                ids = [int(starts[1]) + year - 1899, int(starts[2]) + month - 1, int(starts[3]) + day - 1]
                assert (automaton.walk([*ids, 0]) is not None) == there, (year, month, day)


def test_a_column_without_values_is_always_null() -> None:
    found = Found(field_of("{kind: category, nullable: true}").model_copy(update={"values": ()}))
    for kind in (pa.null(), pa.string()):
        tokenizer = tokenizer_of("{kind: category}", kind, found)
        assert through(tokenizer, pa.nulls(3, kind)) == [None] * 3


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()], ids=str)
@pytest.mark.parametrize("zero", ["'0'", "'-0.0'"])
def test_zero_is_one_category_whatever_its_sign(kind: pa.DataType, zero: str) -> None:
    tenth = "0.0999755859375" if kind == pa.float16() else "0.10"
    tokenizer = tokenizer_of(f"{{kind: category, values: [{zero}, '{tenth}']}}", kind)
    column = pa.array(np.array([-0.0, 0.0, 0.1], kind.to_pandas_dtype()))
    assert through(tokenizer, column) == column.to_pylist()
