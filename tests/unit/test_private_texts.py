"""A private table with texts: its method, the order of its tokens, and how the target is shared out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.config import JobConfig, parse_job
from runner.data.schema import Schema
from runner.data.schema.completion import declared
from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.privacy.accountant import epsilon
from runner.privacy.budget import plan_mechanism
from runner.privacy.lookups import plan_schema
from runner.privacy.marginals import plan_marginals
from tests.unit.jobs import JOB, refusal

TARGET, ROWS = 4.0, 2000
FIELDS: dict[str, Any] = {
    "note": {"kind": "text", "tokenizer": "char", "alphabet": "ab c", "max_tokens": 5},
    "sex": {"kind": "category", "values": ["f", "m"]},
    "wage": {"kind": "integer", "range": [0, 50]},
}
COLUMNS = pa.schema([("note", pa.string()), ("sex", pa.string()), ("wage", pa.int16())])


def job(privacy: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    private = {"enabled": True, "target_epsilon": TARGET, "accountant": "rdp"} | (privacy or {})
    return JOB | {"fields": FIELDS, "training": {"batch_size": 200}, "privacy": private} | sections


def parsed(privacy: dict[str, Any] | None = None, **sections: Any) -> JobConfig:
    return parse_job(job(privacy, **sections), environment={})


def schema_of(config: JobConfig) -> Schema:
    assert config.fields is not None
    return Schema.of(config.fields, COLUMNS, declared(config.fields), texts_last=config.trains_texts_apart)


def test_columns_go_by_counts_and_texts_by_steps() -> None:
    config = parsed()
    assert (config.privacy.method, config.trains_on_draws, config.takes_private_steps) == ("marginals", True, True)
    assert config.trains_texts_apart
    assert config.training.save_best is False, "by an exact metric of private texts"
    assert config.training.early_stopping.enabled is False
    steps = parsed({"method": "steps"})
    assert (steps.trains_on_draws, steps.takes_private_steps, steps.trains_texts_apart) == (False, True, False)


@pytest.mark.parametrize(
    "fields", [{"note": FIELDS["note"]}, {"note": FIELDS["note"], "key": {"kind": "id", "made": "uuid"}}]
)
def test_texts_alone_go_by_steps(fields: dict[str, Any]) -> None:
    assert parsed(fields=fields).privacy.method == "steps"
    (line,) = refusal(job({"method": "marginals"}, fields=fields))
    assert line.startswith("job: privacy.method: marginals are of a table's columns")


@pytest.mark.parametrize(
    ("privacy", "sections", "line"),
    [
        ({}, {"examples": {"field_order": "random"}}, "examples.field_order: random: a private table's texts are"),
        ({}, {"data": {"uri": "r/", "since": "earlier"}}, "data.since: a private table's texts are learned after"),
        ({"canaries": 10}, {}, "privacy.canaries: noisy counts are kept in model/"),
        ({"columns_epsilon": 4}, {}, "privacy: columns_epsilon 4 is a part of target_epsilon 4; give less than that"),
        ({"columns_epsilon": 1, "schema_epsilon": 1}, {}, "privacy: schema_epsilon 1 is a part of columns_epsilon 1"),
        ({"columns_epsilon": 1, "method": "steps"}, {}, "privacy.columns_epsilon: it is for a table with texts"),
        (
            {"columns_epsilon": 1},
            {"fields": {"sex": FIELDS["sex"]}},
            "privacy.columns_epsilon: it is for a table with texts",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(privacy: dict[str, Any], sections: dict[str, Any], line: str) -> None:
    found = refusal(job(privacy, **sections))
    assert len(found) == 1
    assert line in found[0]


def test_tokens_of_texts_come_last_and_columns_out_in_the_order_of_the_job() -> None:
    schema = schema_of(parsed())
    assert schema.learned.names == ["sex", "wage", "note"]
    assert schema.arrow.names == list(FIELDS)
    assert Schema.from_plain(schema.to_plain()).to_plain() == schema.to_plain()
    whole, others = FieldTokenizer(schema), FieldTokenizer(schema.without_texts)
    assert whole.slots is not None
    assert others.slots is not None
    assert whole.slots.sizes[: len(others.slots.sizes)] == others.slots.sizes, "the others have the same ids"
    np.testing.assert_array_equal(whole.text_tokens(), np.arange(whole.vocab_size) >= others.vocab_size)
    plain = schema_of(parsed({"method": "steps"}))
    assert "order" not in plain.to_plain(), "as it was before"
    assert plain.learned.names == list(FIELDS)


ROW = st.fixed_dictionaries(
    {
        "note": st.none() | st.text("ab c", max_size=5),
        "sex": st.sampled_from(["f", "m", None]),
        "wage": st.none() | st.integers(0, 50),
    }
)


@given(st.lists(ROW, max_size=5))
@settings(max_examples=25)
def test_rows_come_back_from_tokens_with_texts_last(rows: list[dict[str, Any]]) -> None:
    tokenizer = FieldTokenizer(schema_of(parsed()))
    records = pa.array(rows, pa.struct(list(COLUMNS)))
    flat, lengths = tokenizer.encode_batch(records)
    batch = np.split(flat, np.cumsum(lengths)[:-1]) if rows else []
    assert tokenizer.decode_batch(batch).to_pylist() == rows
    automaton = tokenizer.automaton()
    for ids in batch:
        state = automaton.start
        for token in ids:
            assert automaton.allowed[state, token]
            state = automaton.following[state, token]
        assert automaton.allowed[state, tokenizer.end_id]


@pytest.mark.parametrize(("privacy", "counts"), [({}, 2.0), ({"columns_epsilon": 1.5}, 1.5)])
@pytest.mark.parametrize("is_bought", [False, True])
def test_counts_take_their_part_and_steps_the_rest(privacy: dict[str, Any], counts: float, is_bought: bool) -> None:
    fields = FIELDS | ({"sex": {"kind": "category"}} if is_bought else {})
    config, delta = parsed(privacy, fields=fields), 1e-4
    bought = plan_schema(config, delta)
    assert len(bought) == is_bought
    releases = (*bought, *plan_marginals(config, schema_of(parsed()), delta, ROWS, bought))
    names = {each.name for release in releases for each in release.histograms if release.name != "schema"}
    assert names == {"sex", "wage", "sex x wage"}, "texts are not counted"
    spent = [(release, 1) for release in releases]
    assert 0.99 * counts < epsilon(spent, delta, "rdp") <= counts
    steps = config.training.epochs * ROWS // config.training.batch_size
    mechanism, delta_of_run = plan_mechanism(config, ROWS, releases, looked_up=ROWS)
    whole = epsilon([*((release, 1) for release in releases), (mechanism, steps)], delta_of_run, "rdp")
    assert 0.98 * TARGET < whole <= TARGET
