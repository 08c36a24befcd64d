"""What users give of a table's rows: how it is written, what a file means, and what is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.config import ColumnRule
from runner.data.tokenizers.characters import ByteTokenizer
from runner.errors import ConfigError, DataError, RunnerError
from runner.generation.given import read_given, read_shares
from runner.generation.records import RecordMaker
from runner.generation.settings import SamplingSettings
from runner.generation.shares import ValueShare
from runner.model.artifact import ModelDescription
from tests.table_models import make_table_model

COLUMNS = pa.schema(
    [
        ("key", pa.int64()),
        ("sex", pa.string()),
        ("age", pa.int8()),
        ("note", pa.string()),
        ("a=b", pa.bool_()),
        ("secret", pa.string()),
    ]
)
FIELDS: dict[str, Any] = {
    "key": {"kind": "id", "made": "sequence"},
    "sex": {"kind": "category", "values": ["Female", "Male", "x, y", ""], "nullable": False},
    "age": {"kind": "integer", "range": [0, 99]},
    "note": {"kind": "text", "max_tokens": 20},
    "a=b": {"kind": "boolean", "nullable": False},
    "secret": {"kind": "id"},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, ModelDescription]:
    """By whether fields come in any order."""
    return {
        any_order: make_table_model(tmp_path_factory.mktemp("model"), FIELDS, COLUMNS, any_order=any_order)
        for any_order in (False, True)
    }


def pairs_of(model: ModelDescription, *pairs: str) -> dict[str, Any]:
    (prompt,) = read_given(model, pairs, None, {})
    return json.loads(prompt)


def file_of(model: ModelDescription, uri: Path, *pairs: str, rules: Any = None) -> list[dict[str, Any]]:
    return [json.loads(prompt) if prompt else {} for prompt in read_given(model, pairs, str(uri), rules or {})]


def error_of(call: Callable[[], Any]) -> str:
    with pytest.raises(RunnerError) as caught:
        call()
    assert caught.value.exit_code == 2
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize(
    ("pairs", "values"),
    [
        (["sex=Female,age=40"], {"sex": "Female", "age": "40"}),
        (["age=40", "sex=Female"], {"sex": "Female", "age": "40"}),
        (['"sex=x, y",age=40'], {"sex": "x, y", "age": "40"}),
        (["note=a=b,a=b=true"], {"note": "a=b", "a=b": "true"}),
        (["note=,age="], {"note": None, "age": None}),
        (['note="",sex=""'], {"note": "", "sex": ""}),
        (['"note=""quoted"", and more"'], {"note": '"quoted", and more'}),
        (["note= two spaces "], {"note": " two spaces "}),
    ],
)
def test_values_are_written_as_in_a_line_of_csv(
    models: dict[bool, ModelDescription], pairs: list[str], values: dict[str, Any]
) -> None:
    assert pairs_of(models[True], *pairs) == values


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), min_size=1, max_size=9))
def test_any_text_can_be_given(models: dict[bool, ModelDescription], text: str) -> None:
    if text != '""':
        pair = f"note={text}".replace('"', '""')
        assert pairs_of(models[True], f'"{pair}"') == {"note": text}


@pytest.mark.parametrize(
    ("pairs", "line"),
    [
        (["income=1"], "--given income=1: there is no column 'income'; there are sex, age, note, a=b"),
        (["sex=female"], "--given sex: 'female' is outside the values 'Female', 'Male', 'x, y', ''"),
        (["sex="], "--given sex: null is outside the values 'Female', 'Male', 'x, y', ''; an empty text is"),
        (["a=b="], "--given a=b: null is outside the values 'false', 'true'"),
        (["age=100"], "--given age: '100' is outside [0, 99]"),
        (["age=4.5"], "--given age: '4.5' is outside [0, 99]"),
        (["age=many"], "--given age: 'many' is outside [0, 99]"),
        (['age=""'], "--given age: '' is outside [0, 99]"),
        (["age=1,age=2"], "--given age=2: age is given twice"),
        (["age=1", "age=1"], "--given age=1: age is given twice"),
        (["age"], "--given age: write COLUMN=VALUE"),
        (["age=1,"], "--given: there is a comma too many"),
        (['"age=1'], "--given: quotes are wrong"),
        (["key=7"], "--given key=7: key is of kind id, which every row has its own of"),
        (["secret=7"], "--given secret=7: there is no column 'secret'"),
    ],
)
def test_a_value_that_no_row_has_is_refused(models: dict[bool, ModelDescription], pairs: list[str], line: str) -> None:
    assert error_of(lambda: pairs_of(models[True], *pairs)).startswith(line)


def test_given_values_keep_the_rules_of_their_columns(models: dict[bool, ModelDescription], tmp_path: Path) -> None:
    rules = {"age": ColumnRule(range=(18, None))}
    line = error_of(lambda: read_given(models[True], ["age=17"], None, rules))
    assert line == "--given age: '17': generation.columns: not in [18, inf]"
    pd.DataFrame({"age": [18, 17]}).to_csv(tmp_path / "a.csv", index=False)
    line = error_of(lambda: file_of(models[True], tmp_path / "a.csv", rules=rules))
    assert line == f"{tmp_path}/a.csv, line 3, column age: '17': generation.columns: not in [18, inf]"


def test_a_model_in_its_own_order_takes_the_first_columns_alone(
    models: dict[bool, ModelDescription], tmp_path: Path
) -> None:
    assert pairs_of(models[False], "sex=Male") == {"sex": "Male"}
    assert pairs_of(models[False], "age=1,sex=Male") == {"sex": "Male", "age": "1"}
    line = error_of(lambda: pairs_of(models[False], "age=1"))
    assert line == (
        "--given: this model draws its columns in their order, so age can be given only together with those before it "
        "(sex); train with examples.field_order: random to give any"
    )
    pd.DataFrame({"sex": ["Male", None], "age": [1, 2]}).to_parquet(tmp_path / "a.parquet")
    assert "a.parquet, row 2: this model draws its columns in their order, so age" in error_of(
        lambda: file_of(models[False], tmp_path / "a.parquet")
    )
    assert read_shares(models[False], ["sex=Male:0.5"], [""], {})
    assert read_shares(models[False], ["a=b=0.5"], ['{"sex": "Male", "age": "1", "note": ""}'], {})
    for prompt in ("", '{"sex": "Male"}', '{"age": "1", "sex": "Male"}'):
        line = error_of(lambda prompt=prompt: read_shares(models[False], ["a=b=0.5"], [prompt], {}))
        assert line.startswith("--rebalance a=b: this model draws its columns in their order, so those before it")


# Files


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_nulls_of_a_file_are_drawn_and_its_ids_kept(
    models: dict[bool, ModelDescription], tmp_path: Path, suffix: str
) -> None:
    """In CSV every empty field is a null; elsewhere an empty text is one, but of a number or a boolean, too, none."""
    path = tmp_path / f"people.{suffix}"
    frame = pd.DataFrame(
        {
            "secret": ["s", "s", "s"],
            "age": pd.array([41, None, None], "Int64"),
            "sex": ["Male", None, ""],
            "key": [907, 8, 9],
            "a=b": pd.array([None, True, None], "boolean"),
        }
    )
    if suffix == "csv":
        frame.to_csv(path, index=False)
    elif suffix == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    rows = file_of(models[True], path, "note=ok")
    third = {"key": "9", "note": "ok"} | ({} if suffix == "csv" else {"sex": ""})
    truth = {"csv": "True"}.get(suffix, "true")
    assert rows == [
        {"age": "41", "sex": "Male", "key": "907", "note": "ok"},
        {"a=b": truth, "key": "8", "note": "ok"},
        third,
    ]


def test_a_file_that_does_not_fit_is_refused_with_row_and_column(
    models: dict[bool, ModelDescription], tmp_path: Path
) -> None:
    path = tmp_path / "people.csv"

    def line(text: str, *pairs: str) -> str:
        path.write_text(text)
        return error_of(lambda: file_of(models[True], path, *pairs)).removeprefix(str(path))

    assert (
        line("sex,age\nMale,1\nMale,\n,500\n") == ", line 4, column age: '500' is outside [0, 99] or no whole numbers"
    )
    assert line("key\nx\n") == ", line 2, column key: 'x' is no int64"
    assert line("sex,income\nMale,1\n") == ": the model has no column 'income'; it has key, sex, age, note, a=b"
    assert line("sex,age\nMale,1\n", "age=4") == f"--given age: {path} has this column, too; give it once"
    assert "holds no records" in line("sex,age\n")
    with pytest.raises(DataError, match="no such file"):
        file_of(models[True], tmp_path / "nowhere.csv")
    pq.write_table(pa.table({"age": pa.array([3, 200, 300], pa.int64())}), tmp_path / "a.parquet")
    assert "a.parquet, row 2, column age: '200' is outside" in error_of(
        lambda: file_of(models[True], tmp_path / "a.parquet")
    )


def test_a_value_of_a_file_that_training_took_for_another_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Clipped, rare or null: the row is drawn given that; of `--given` it is a mistake all the same."""
    fields = {
        "sex": {"kind": "category", "values": ["f", "m"], "outside": "rare"},
        "age": {"kind": "integer", "range": [20, 70], "outside": "clip"},
        "size": {"kind": "integer", "range": [1, 3], "outside": "null"},
        "kept": {"kind": "boolean"},
    }
    columns = pa.schema([("sex", pa.string()), ("age", pa.int8()), ("size", pa.int8()), ("kept", pa.bool_())])
    model = make_table_model(tmp_path / "model", fields, columns, any_order=True)
    rows = [{"sex": "x", "age": "80"}, {"size": "7"}, {"sex": "y"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prompts = read_given(model, [], str(tmp_path / "a.jsonl"), {})
    assert [json.loads(prompt) for prompt in prompts] == rows
    assert [line.partition("column ")[2].partition(" outside")[0] for line in caplog.messages] == [
        "sex: 2 values are",
        "age: a value is",
        "size: a value is",
    ]
    made = RecordMaker(model, SamplingSettings(prompts=prompts, records_per_prompt=40)).make(120).table.to_pylist()
    assert all((row["sex"], row["age"]) == ("x", 80) for row in made[:40])
    assert all(row["size"] == 7 and row["sex"] in ("f", "m", None) for row in made[40:80])
    assert {row["kept"] for row in made} == {True, False, None}
    assert all(row["age"] is None or 20 <= row["age"] <= 70 for row in made[40:])
    assert "'80' is outside" in error_of(lambda: pairs_of(model, "age=80"))
    (tmp_path / "a.jsonl").write_text('{"age": "old"}')
    assert "line 1, column age: 'old' is outside" in error_of(lambda: file_of(model, tmp_path / "a.jsonl"))


# Shares


@pytest.mark.parametrize(
    ("texts", "shares"),
    [
        (["sex=Male:0.5"], [("sex", "Male", 0.5)]),
        (["sex=Male:0.5,sex=Female:0.25"], [("sex", "Male", 0.5), ("sex", "Female", 0.25)]),
        (["sex=Male:1", 'sex="":0'], [("sex", "Male", 1.0), ("sex", "", 0.0)]),
        (['"sex=x, y:.125"'], [("sex", "x, y", 0.125)]),
        (["a=b=0.5"], [("a=b", "false", 0.5), ("a=b", "true", 0.5)]),
        (["a=b=true:0.2"], [("a=b", "true", 0.2)]),
    ],
)
def test_shares_are_written_behind_their_values(
    models: dict[bool, ModelDescription], texts: list[str], shares: list[tuple[str, str, float]]
) -> None:
    assert read_shares(models[True], texts, [""], {}) == tuple(ValueShare(*share) for share in shares)


@pytest.mark.parametrize(
    ("texts", "line"),
    [
        (["sex=Male:2"], "--rebalance sex=Male:2: '2' is no share from 0 to 1; write sex=VALUE:0.5"),
        (["sex=Male:nan"], "--rebalance sex=Male:nan: 'nan' is no share from 0 to 1"),
        (["sex=Male"], "--rebalance sex=Male: 'Male' is no share from 0 to 1; write sex=VALUE:0.5"),
        (["sex=0.5"], "--rebalance sex=0.5: of which value? write sex=VALUE:0.5"),
        (["a=b=0.4"], "--rebalance a=b=0.4: of which value? write a=b=VALUE:0.4"),
        (["sex=M:0.5"], "--rebalance sex=M:0.5: 'M' is outside the values"),
        (["income=1:0.5"], "--rebalance income=1:0.5: there is no column 'income'"),
        (["age=1:0.5"], "--rebalance age: only a column of kind category or boolean can have shares"),
        (["sex=Male:0.7,sex=Female:0.4"], "--rebalance sex: the shares add up to 1.1, more than 1"),
        (["sex=Male:0.2", "sex=Male:0.2"], "--rebalance sex: Male has two shares"),
        (["a=b=true:0.2,a=b=false:0.2"], "--rebalance a=b: there is no other value for the rest"),
        (["sex=Male:0.2,a=b=true:0.2"], "--rebalance: sex and a=b are several columns"),
        (["key=1:0.2"], "--rebalance key=1:0.2: key is of kind id"),
    ],
)
def test_shares_that_cannot_be_had_are_refused(
    models: dict[bool, ModelDescription], texts: list[str], line: str
) -> None:
    assert error_of(lambda: read_shares(models[True], texts, [""], {})).startswith(line)


def test_shares_and_given_values_of_one_column_exclude_each_other(models: dict[bool, ModelDescription]) -> None:
    assert read_shares(models[True], ["a=b=0.5"], ['{"sex": "Male"}'], {})
    line = error_of(lambda: read_shares(models[True], ["a=b=0.5"], ['{"a=b": "true"}'], {}))
    assert line == "--rebalance a=b: a=b is given for all rows; give one of the two"
    line = error_of(lambda: read_shares(models[True], ["a=b=0.5"], ['{"sex": "Male"}', ""], {}))
    assert line == "--rebalance a=b: each row of --given-file is given; give one of the two"
    rules = {"sex": ColumnRule(allowed=("Male",))}
    assert "not an allowed value" in error_of(lambda: read_shares(models[True], ["sex=Female:1"], [""], rules))


def test_a_model_of_texts_has_no_columns_to_give() -> None:
    model = ModelDescription(ByteTokenizer(), 10, "records", None, ("text",), "digest")
    for option, call in (
        ("--given", lambda: read_given(model, ["a=1"], None, {})),
        ("--given-file", lambda: read_given(model, [], "a.csv", {})),
        ("--rebalance", lambda: read_shares(model, ["a=1:0.5"], [""], {})),
    ):
        line = f"{option}: this model writes texts, which have no columns; --prompt says how they begin"
        with pytest.raises(ConfigError) as caught:
            call()
        assert str(caught.value) == line
