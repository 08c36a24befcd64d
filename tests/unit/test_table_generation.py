"""Rows that a model of a table makes: inside the schema, numbered over the whole output, checked as they will be."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from runner.config import GenerationConfig, parse_job
from runner.config.fields import IdField
from runner.data.schema import Schema
from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.data.schema.schema import make_codec
from runner.data.texts import row_texts
from runner.errors import ConfigError
from runner.generation.output import to_csv, to_jsonl, to_parquet
from runner.generation.records import Generated, RecordMaker, hash_texts
from runner.generation.rows import TableRows, learned_schema
from runner.generation.settings import SamplingSettings
from runner.generation.validators import Validator
from runner.model.artifact import TrainedModel
from runner.report.table import spread_records
from runner.storage import open_folder
from tests.table_models import make_table_model
from tests.unit.jobs import JOB

COLUMNS = pa.schema(
    [
        ("id", pa.int16()),
        ("key", pa.string()),
        ("sex", pa.dictionary(pa.int8(), pa.string())),
        ("age", pa.int8()),
        ("salary", pa.float64()),
    ]
)
FIELDS: dict[str, Any] = {
    "id": {"kind": "id", "made": "sequence"},
    "key": {"kind": "id", "made": "uuid"},
    "sex": {"kind": "category", "values": ["f", "m"]},
    "age": {"kind": "integer", "range": [0, 9]},
    "salary": {"kind": "number", "range": [0, 1e6], "decimals": 2, "exact": False},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return make_table_model(tmp_path_factory.mktemp("model"), FIELDS, COLUMNS, any_order=False)


def make(model: TrainedModel, n: int, *, first: int = 0, first_draw: int = 0, **settings: Any) -> Generated:
    training = settings.pop("training", None)
    maker = RecordMaker(model, SamplingSettings(**settings, records_per_prompt=10**6), training)
    return maker.make(n, first=first, first_draw=first_draw)


def test_every_row_is_inside_the_schema_and_has_its_types(model: TrainedModel) -> None:
    generated = make(model, 200)
    assert generated.invalid == {}
    assert generated.table.schema == COLUMNS.set(0, pa.field("id", pa.int32()))
    (rows,) = (generated.table.to_struct_array().combine_chunks(),)
    assert isinstance(model.tokenizer, FieldTokenizer)
    nulls = {name: generated.table.column(name).null_count for name in ("sex", "age", "salary")}
    assert model.tokenizer.schema.count_strange(rows) == dict.fromkeys(nulls, 0)


def test_ids_count_over_the_whole_output_and_uuids_are_the_seed_s(model: TrainedModel) -> None:
    rows = make(model, 20, first=40, first_draw=2**32).table
    assert rows.column("id").to_pylist() == list(range(41, 61))
    keys = rows.column("key").to_pylist()
    assert len(set(keys)) == 20
    assert make(model, 20, first=40, first_draw=2**33).table.column("key").to_pylist() == keys
    assert not set(make(model, 20, first=40, seed=1).table.column("key").to_pylist()) & set(keys)


def test_digits_that_are_not_learned_are_those_of_the_draw_whatever_its_number_in_the_output(
    model: TrainedModel,
) -> None:
    one, other = (make(model, 30, first=first, first_draw=7).table for first in (0, 500))
    assert one.column("salary").to_pylist() == other.column("salary").to_pylist()
    assert len(set(one.column("salary").to_pylist())) > 20
    assert make(model, 30, first_draw=8).table.column("salary")[0] == one.column("salary")[1]


@pytest.mark.parametrize(
    "kind",
    [pa.int8(), pa.uint8(), pa.int16(), pa.dictionary(pa.int8(), pa.string())],
)
def test_rows_are_counted_beyond_what_a_narrow_column_holds(kind: pa.DataType) -> None:
    field = IdField(kind="id", made="sequence")
    codec = make_codec(field, pa.field("id", kind))
    made = codec.decode(None, np.arange(70_000))
    assert made.type == codec.type
    assert [int(each) for each in made.to_pylist()] == list(range(1, 70_001))
    assert make_codec(IdField(kind="id"), pa.field("id", kind)).type == kind


def test_a_number_that_the_column_cannot_hold_is_one_line(model: TrainedModel) -> None:
    with pytest.raises(ConfigError, match=r"fields\.id: int32 is too small") as caught:
        make(model, 2, first=2**31)
    assert len(str(caught.value).splitlines()) == 1


def old_or_rich(record: dict[str, str]) -> str | None:
    assert list(record) == ["sex", "age", "salary"]
    assert all(isinstance(value, str) for value in record.values())
    return None if record["age"] in ("", "9") else "age: not 9"


def test_a_validator_gets_texts_and_others_are_drawn_for_what_it_refuses(model: TrainedModel) -> None:
    rules = GenerationConfig(validator="tests.unit.test_table_generation:old_or_rich", max_invalid=0.95)
    generated = make(model, 20, validation=rules)
    assert {9, None} >= set(generated.table.column("age").to_pylist())
    assert generated.invalid["age: not 9"] > 0
    assert generated.table.column("id").to_pylist() == list(range(1, 21)), "after those left out"


def test_copies_are_told_by_the_learned_columns_alone(model: TrainedModel) -> None:
    learned = learned_schema(model)
    assert learned is not None
    assert learned.names == ["sex", "age", "salary"]
    first = make(model, 40).table
    known = np.unique(hash_texts(row_texts(first.select(learned.names).columns).to_pylist()))
    generated = make(model, 40, training=known, not_in_training=True)
    assert generated.in_training == 40
    rows = set(row_texts(generated.table.select(learned.names).columns).to_pylist())
    assert not rows & set(row_texts(first.select(learned.names).columns).to_pylist())


def test_files_say_of_nulls_that_they_are_null() -> None:
    table = pa.table({"a": pa.array([1, None], pa.int8()), "b": ["", None], "c": [True, None], "d": [0.1, 1e22]})
    assert to_csv(table) == b'a,b,c,d\n1,"",true,0.1\n,,,1e+22\n'
    lines = [json.loads(line) for line in to_jsonl(table).splitlines()]
    assert lines == table.to_pylist()
    assert pa.parquet.read_table(pa.py_buffer(to_parquet(table))).equals(table)


@pytest.mark.parametrize("columns", [[pa.array(["a", None, "", "1:a,", "a,1:"])], [pa.array([1, 11, None])] * 2])
def test_rows_that_differ_have_other_texts(columns: list[pa.Array]) -> None:
    rows = list(zip(*(column.to_pylist() for column in columns), strict=True))
    assert len(set(row_texts(columns).to_pylist())) == len(set(rows))


def test_shards_of_a_table_lose_rows_that_an_earlier_one_has(tmp_path: Path) -> None:
    from runner.generation.shards import ShardInfo, _publish, drop_repeated

    folder = open_folder(str(tmp_path))
    infos = {}
    for number, ids in enumerate(([1, 2], [3, 4])):
        data = to_parquet(pa.table({"id": ids, "x": [None, "b" if number else "a"]}))
        info = ShardInfo(2, len(data), hashlib.sha256(data).hexdigest())
        infos[number] = _publish(folder, number, data, info)
    dropped = drop_repeated(folder, infos, lambda _: None, ["x"])
    assert [info.records for info in dropped.values()] == [2, 1]
    assert pa.parquet.read_table(tmp_path / "part-00001.parquet").to_pylist() == [{"id": 4, "x": "b"}]


def test_columns_of_views_are_kept_and_left_out_like_others() -> None:
    fields = parse_job(JOB | {"fields": {"plan": {"kind": "category", "values": ["a", "b"]}}}, environment={}).fields
    assert fields is not None
    tokenizer = FieldTokenizer(Schema.of(fields, pa.schema([("plan", pa.string_view())])))
    rows = TableRows(tokenizer, Validator(GenerationConfig(), ("plan",), None), 0, None)
    records = rows.read([[1], [2], [1]], 0, [0, 1, 2])
    assert rows.to_table(records[1:], 0, [1, 2]).equals(pa.table({"plan": pa.array(["b", "a"], pa.string_view())}))
    assert spread_records(rows.to_table(records, 0, [0, 1, 2]), 2)["plan"].to_pylist() == ["a", "a"]
