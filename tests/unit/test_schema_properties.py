"""What holds of every field and every value that it has: it comes back, and what may follow is what the schema has."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.data.automaton import Automaton
from runner.data.schema import Schema
from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.data.texts import to_texts
from runner.data.tokenizers.saved import from_files
from runner.generation.conditions import make_conditions, wrong_values
from runner.generation.settings import SamplingSettings
from tests.unit.schema_columns import ANY, KINDS, Drawn
from tests.walks import routed_walk

QUICK = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


def table_of(drawn: list[Drawn]) -> tuple[FieldTokenizer, pa.StructArray]:
    """The tokenizer of a table of these columns, cut to the same length."""
    rows = min(len(each.column) for each in drawn)
    names = [f"c{number}" for number in range(len(drawn))]
    columns = pa.schema([pa.field(name, each.column.type) for name, each in zip(names, drawn, strict=True)])
    schema = Schema.of({name: each.field for name, each in zip(names, drawn, strict=True)}, columns)
    records = pa.StructArray.from_arrays([each.column.slice(0, rows) for each in drawn], fields=list(columns))
    return FieldTokenizer(schema), records


def split(flat: Any, lengths: Any) -> list[list[int]]:
    return [each.tolist() for each in np.split(flat, np.cumsum(lengths)[:-1])]


def plain(records: pa.StructArray) -> dict[str, Any]:
    """Columns by name as plain values; moments as counts, which Python has not all of."""
    shown: dict[str, Any] = {}
    for field, column in zip(records.type, records.flatten(), strict=True):
        kind = field.type.value_type if isinstance(field.type, pa.DictionaryType) else field.type
        if pa.types.is_timestamp(kind):
            column = column.cast(kind).cast(pa.int64())
        shown[field.name] = (kind, column.to_pylist())
    return shown


def check_same_type(found: pa.DataType, wanted: pa.DataType) -> None:
    """The indices of a dictionary may be wider: there are more values than were in these records."""
    if isinstance(wanted, pa.DictionaryType) and found != wanted:
        assert (found.value_type, found.ordered) == (wanted.value_type, wanted.ordered)
        assert found.index_type == pa.int64()
        assert wanted.index_type.bit_width < 64
    else:
        assert found == wanted


def random_walk(automaton: Automaton, generator: np.random.Generator) -> list[int]:
    """A record as it may be drawn, each token that is allowed as likely."""
    state, walk = automaton.start, []
    while not walk or walk[-1] != 0:
        walk.append(int(generator.choice(np.flatnonzero(automaton.allowed[state]))))
        state = int(automaton.following[state, walk[-1]])
    return walk


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_of_a_field_comes_back_as_it_was(kind: str) -> None:
    @QUICK
    @given(KINDS[kind])
    def check(drawn: Drawn) -> None:
        tokenizer, records = table_of([drawn])
        back = tokenizer.decode_batch(split(*tokenizer.encode_batch(records)))
        assert plain(back) == plain(records)
        check_same_type(back.type.field(0).type, records.type.field(0).type)
        back.validate(full=True)

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_every_walk_that_is_allowed_is_a_value_of_the_field(kind: str) -> None:
    """And no longer than said; and encoding the value is a walk again."""

    @QUICK
    @given(KINDS[kind], st.integers(0, 2**32 - 1))
    def check(drawn: Drawn, seed: int) -> None:
        tokenizer, _ = table_of([drawn])
        automaton, generator = tokenizer.automaton(), np.random.default_rng(seed)
        walks = [random_walk(automaton, generator) for _ in range(10)]
        assert max(map(len, walks)) <= tokenizer.record_tokens + 1
        values = tokenizer.decode_batch(walks)
        values.validate(full=True)
        assert tokenizer.schema.count_strange(values) == {"c0": 0}
        flat, lengths = tokenizer.encode_batch(values)
        assert all(automaton.walk([*ids, 0]) is not None for ids in split(flat, lengths))
        assert plain(tokenizer.decode_batch(split(flat, lengths))) == plain(values)

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_encoded_is_a_walk_that_is_allowed(kind: str) -> None:
    @QUICK
    @given(KINDS[kind])
    def check(drawn: Drawn) -> None:
        tokenizer, records = table_of([drawn])
        automaton = tokenizer.automaton()
        for ids in split(*tokenizer.encode_batch(records)):
            assert automaton.walk([*ids, 0]) is not None

    check()


@QUICK
@given(st.lists(ANY, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_fields_are_read_in_any_order_and_slots_are_side_by_side(drawn: list[Drawn], random: Any) -> None:
    tokenizer, records = table_of(drawn)
    names = list(records.type.names)
    random.shuffle(names)
    flat, lengths = tokenizer.encode_fields(records, names)
    assert plain(tokenizer.decode_batch(split(flat, lengths))) == plain(records)
    assert lengths.max() <= tokenizer.record_tokens
    automaton = tokenizer.automaton()
    order = [records.type.names.index(name) for name in names]
    (route,) = automaton.routes(np.array([order]))
    for ids in split(flat, lengths):
        assert routed_walk(automaton, route, [*ids, 0]) == [*ids, 0]
    slots = tokenizer.slots
    assert slots is not None
    assert (sum(slots.sizes), len(slots.sizes)) == (tokenizer.vocab_size, len(slots.fields))
    assert list(slots.fields) == sorted(slots.fields)
    assert set(slots.fields) == {-1, *range(len(drawn))}
    assert automaton.slots is not None
    of_tokens = slots.of_tokens()
    for state, slot in enumerate(automaton.slots):
        assert set(of_tokens[automaton.allowed[state]]) == {slot}


@QUICK
@given(st.lists(ANY, min_size=1, max_size=4))
def test_a_saved_schema_is_the_same_again(drawn: list[Drawn]) -> None:
    tokenizer, records = table_of(drawn)
    again = from_files(tokenizer.to_files())
    assert isinstance(again, FieldTokenizer)
    assert again.to_files() == tokenizer.to_files()
    assert (again.slots, again.record_tokens) == (tokenizer.slots, tokenizer.record_tokens)
    assert again.schema.arrow == tokenizer.schema.arrow
    flat, lengths = tokenizer.encode_batch(records)
    assert [each.tolist() for each in again.encode_batch(records)] == [flat.tolist(), lengths.tolist()]


@QUICK
@given(st.lists(ANY, min_size=1, max_size=4), st.data())
def test_a_row_begins_with_what_is_given_and_goes_on_inside_the_schema(drawn: list[Drawn], data: st.DataObject) -> None:
    """Any values that the records have, given as texts, of any fields."""
    tokenizer, records = table_of(drawn)
    names = data.draw(st.lists(st.sampled_from(records.type.names), unique=True))
    row = records.slice(0, 1)
    texts = {name: to_texts(row.field(name)) for name in names}
    codecs = {codec.name: codec for codec in tokenizer.schema.codecs}
    assert not any(wrong_values(codecs[name], text).any() for name, text in texts.items())
    prompt = json.dumps({name: text[0].as_py() for name, text in texts.items()})
    conditions = make_conditions(tokenizer, tokenizer.automaton(), SamplingSettings(prompts=(prompt,)))
    if not names:
        assert conditions is None
        return
    assert conditions is not None
    (begun,), route = conditions.begin([0])
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    walk = routed_walk(conditions.automaton, route[0], begun, random)
    assert len(walk) <= tokenizer.record_tokens + 1
    made = tokenizer.decode_batch([walk])
    assert tokenizer.schema.count_strange(made) == dict.fromkeys(codecs, 0)
    kept = [conditions.put_in(made.field(name), name, [0]) for name in names]
    assert plain(pa.StructArray.from_arrays(kept, names)) == {name: plain(row)[name] for name in names}
    order = [name for name in records.type.names if name in names]
    assert begun == tokenizer.encode_fields(row, order)[0].tolist()
