"""What is counted of a table that is not private: right, by the records that are trained on, and of ten or more."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from runner.config import parse_job
from runner.data.batches import BatchPlan
from runner.data.examples import Examples
from runner.data.schema import Schema
from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.generation.records import LEAST_CALIBRATED, RecordMaker
from runner.generation.settings import SamplingSettings
from runner.model.known_tables import KnownTables
from runner.train.table_shares import LEAST, UNKNOWN, count_shares, known_tables
from tests.table_models import make_table_model
from tests.unit.jobs import JOB

FIELDS: dict[str, Any] = {
    "sex": {"kind": "category", "values": ["f", "m"], "nullable": False},
    "plan": {"kind": "category", "values": ["a", "b", "c", "d"], "nullable": True},
    "age": {"kind": "integer", "range": [0, 9], "nullable": False},
}
COLUMNS = pa.schema([("sex", pa.string()), ("plan", pa.string()), ("age", pa.int8())])
ROWS = 4000
PLAN = BatchPlan(ROWS, 64, 3, validation_split=True)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """The plan depends on the sex; d is rare."""
    draw = np.random.default_rng(0)
    sex, age = draw.choice(["f", "m"], ROWS, p=[0.5, 0.5]), draw.integers(0, 10, ROWS)
    plan = np.where(sex == "f", draw.choice(["a", "b"], ROWS), draw.choice(["a", "b", "c"], ROWS)).astype(object)
    plan[draw.random(ROWS) < 0.1] = None
    plan[:9] = "d"  # fewer than ten
    return pd.DataFrame({"sex": sex, "plan": plan, "age": age.astype(np.int8)})


@pytest.fixture(scope="module")
def tokenizer() -> FieldTokenizer:
    fields = parse_job(JOB | {"fields": FIELDS}, environment={}).fields
    assert fields is not None
    return FieldTokenizer(Schema.of(fields, COLUMNS))


@pytest.fixture(scope="module")
def examples(rows: pd.DataFrame, tokenizer: FieldTokenizer) -> Examples:
    struct = pa.Table.from_pandas(rows, COLUMNS, preserve_index=False).to_struct_array().combine_chunks()
    flat, lengths = tokenizer.encode_batch(struct)
    ids = np.split(flat, np.cumsum(lengths)[:-1])
    tokens = SimpleNamespace(slots=tokenizer.slots)
    return cast(Any, SimpleNamespace(tokens=tokens, rows=lambda positions: [ids[at] for at in positions]))


def trained_on(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.iloc[np.concatenate([PLAN.training_positions(0, step) for step in range(PLAN.training_steps)])]


def test_shares_are_those_of_pandas_among_the_records_that_are_trained_on(
    rows: pd.DataFrame, examples: Examples, tokenizer: FieldTokenizer
) -> None:
    known = count_shares(examples, PLAN, tokenizer.schema)
    assert known is not None
    seen = trained_on(rows)
    assert known.records == len(seen) == PLAN.training_examples
    assert [table.columns for table in known.tables] == [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]
    names = list(FIELDS)
    for table in known.tables:
        columns = [seen[names[place]].fillna("null") for place in table.columns]
        counts = pd.Series(0, seen.index).groupby(columns).size()
        assert sorted(np.rint(table.shares[table.shares > 0] * len(seen)).astype(int)) == sorted(
            counts[counts >= LEAST]
        )


def test_of_cells_with_few_records_nothing_is_told(
    rows: pd.DataFrame, examples: Examples, tokenizer: FieldTokenizer
) -> None:
    known = count_shares(examples, PLAN, tokenizer.schema)
    assert known is not None
    assert 0 < (trained_on(rows)["plan"] == "d").sum() < LEAST
    for table in known.tables:
        counts = np.rint(table.shares * known.records)
        assert not ((counts > 0) & (counts < LEAST)).any()
        assert np.array_equal(table.variances == UNKNOWN, counts == 0)


def test_draws_of_any_model_come_near_the_shares(
    tmp_path_factory: pytest.TempPathFactory, rows: pd.DataFrame, examples: Examples, tokenizer: FieldTokenizer
) -> None:
    known = count_shares(examples, PLAN, tokenizer.schema)
    assert known is not None
    files = known.to_files()
    read = KnownTables.from_files(files)
    assert read is not None
    assert read.is_exact
    model = make_table_model(tmp_path_factory.mktemp("model"), FIELDS, COLUMNS, any_order=False, strength=0.2)
    errors: list[float] = []
    for tables in (None, read):
        object.__setattr__(model, "known", tables)
        made = RecordMaker(model, SamplingSettings(records_per_prompt=10**6)).make(LEAST_CALIBRATED).table.to_pandas()
        pairs = [
            frame.fillna("null").groupby(["sex", "plan"]).size().div(len(frame)) for frame in (trained_on(rows), made)
        ]
        errors.append(float(pairs[0].sub(pairs[1], fill_value=0).abs().sum() / 2))
    assert errors[1] < 0.7 * errors[0]  # untold cells stay as the model has them


def test_no_draw_is_taken_twice(tmp_path: Path, examples: Examples, tokenizer: FieldTokenizer) -> None:
    """Their digits tell the draws apart."""
    known = count_shares(examples, PLAN, tokenizer.schema)
    fields = FIELDS | {"key": {"kind": "number", "range": [0, 1e12], "decimals": 0, "exact": False, "nullable": False}}
    model = make_table_model(tmp_path, fields, COLUMNS.append(pa.field("key", pa.float64())), any_order=False)
    object.__setattr__(model, "known", known)
    made = RecordMaker(model, SamplingSettings(records_per_prompt=10**6)).make(LEAST_CALIBRATED).table
    keys = [key for key in made.column("key").to_pylist() if 1e10 < key < 1e12]  # others are in narrow parts
    assert len(set(keys)) == len(keys) > LEAST_CALIBRATED / 2


@pytest.mark.parametrize("method", ["steps", "marginals"])
def test_nothing_is_counted_of_a_private_table(method: str, examples: Examples, tokenizer: FieldTokenizer) -> None:
    private = {"enabled": True, "method": method, "target_epsilon": 1.0}
    config = parse_job(JOB | {"fields": FIELDS, "privacy": private}, environment={})
    assert known_tables(config, tokenizer.to_files(), examples, PLAN) is None
    plain = parse_job(JOB | {"fields": FIELDS}, environment={})
    assert known_tables(plain, tokenizer.to_files(), examples, PLAN) is not None


def test_nothing_is_counted_of_new_files_alone(examples: Examples, tokenizer: FieldTokenizer) -> None:
    config = parse_job(JOB | {"fields": FIELDS, "data": JOB["data"] | {"since": "runs/before/"}}, environment={})
    assert known_tables(config, tokenizer.to_files(), examples, PLAN) is None
