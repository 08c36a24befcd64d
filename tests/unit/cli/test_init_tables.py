"""`runner init` for a folder of tables."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from runner.config import load_job
from runner.data import first_look
from tests.unit.cli.commands import Run, one_line, tree, write_records

ROWS = 400
PEOPLE = {
    "age": [20 + row % 60 for row in range(ROWS)],
    "sex": ["Female", "Male"] * (ROWS // 2),
    "paid": [row % 90 / 4 for row in range(ROWS)],
    "joined": [date(2001, 1, 1 + row % 28) for row in range(ROWS)],
    "note": [f"came in on day {row}" for row in range(ROWS)],
    "customer": [f"K-{row}" for row in range(ROWS)],
    "left": [None] * ROWS,
}
OUTSIDE = sum(not 30 <= age <= 60 for age in PEOPLE["age"])


def write_table(folder: Path, columns: dict[str, Any], name: str = "a") -> None:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / f"{name}.parquet")


def fields_of(path: Path) -> Any:
    return yaml.safe_load(path.read_text())["fields"]


def test_init_proposes_a_field_for_each_column(run: Run, here: Path) -> None:
    write_table(here / "people", PEOPLE)
    result = run("init", "job.yaml", "--data", "people/")
    assert result.out.splitlines() == [
        "wrote job.yaml; `runner submit job.yaml` trains it",
        "7 fields, by all 400 rows",
    ]
    assert fields_of(here / "job.yaml") == {
        "age": {"kind": "integer", "range": [21, 78], "bins": 16, "outside": "clip", "nullable": False},
        "sex": {"kind": "category", "values": ["Female", "Male"], "nullable": False},
        "paid": {"kind": "number", "range": [0.25, 21.75], "decimals": 2, "bins": 16}
        | {"outside": "clip", "nullable": False},
        "joined": {"kind": "date", "range": ["2001-01-01", "2001-01-28"], "nullable": False},
        "note": {"kind": "text", "max_tokens": 20, "nullable": False},
        "customer": {"kind": "id", "made": "sequence"},
        "left": {"kind": "category", "nullable": True},
    }
    assert load_job(here / "job.yaml", environment={}).tokenizer.kind == "fields"
    (line,) = [line for line in (here / "job.yaml").read_text().splitlines() if line.startswith("  age:")]
    assert line.endswith("nullable: false}  # 60 distinct, 13 rows beyond the range, taken as its ends")


def test_init_takes_only_the_columns_that_are_named(run: Run, here: Path) -> None:
    write_table(here / "people", PEOPLE)
    assert run("init", "job.yaml", "--data", "people/", "--columns", "sex,age").code == 0
    assert list(fields_of(here / "job.yaml")) == ["sex", "age"]
    line = one_line(run("init", "b.yaml", "--data", "people/", "--columns", "sex,size"), 2)
    assert line.startswith("people/a.parquet: no column size; found: age (int64), sex (string)")
    line = one_line(run("init", "b.yaml", "--data", "nowhere/", "--columns", "sex,age"), 2)
    assert line == "data: columns need a field_delimiter to join them".replace("data:", "job: data:")
    assert not (here / "b.yaml").exists()


def test_init_for_private_tables_looks_at_no_value(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(here / "people", PEOPLE)

    def refuse(*_: Any) -> None:
        raise AssertionError("a value was read")

    monkeypatch.setattr(first_look, "read_with_fields", refuse)
    result = run("init", "job.yaml", "--data", "people/", "--template", "private")
    assert "no value was read; declare first what they ask for" in result.out
    assert fields_of(here / "job.yaml") == {
        "age": {"kind": "integer"},
        "sex": {"kind": "category"},
        "paid": {"kind": "number"},
        "joined": {"kind": "date"},
        "note": {"kind": "category"},
        "customer": {"kind": "category"},
        "left": {"kind": "category"},
    }
    before = tree(here)
    line = one_line(run("validate", "job.yaml"), 2)
    assert "declare fields.age.range" in line
    assert tree(here) == before


def test_init_leaves_out_what_no_field_can_hold(run: Run, here: Path) -> None:
    write_table(here / "people", PEOPLE | {"tags": [["a"]] * ROWS})
    assert run("init", "job.yaml", "--data", "people/", "--json").answer["left_out"] == ["tags"]
    assert run("init", "job.yaml", "--force", "--data", "people/").out.splitlines()[2:] == [
        "left out, no field can hold lists or structs: tags"
    ]
    assert "tags" not in fields_of(here / "job.yaml")
    line = one_line(run("init", "b.yaml", "--data", "people/", "--columns", "sex,tags"), 2)
    assert line.startswith("people/a.parquet: column tags is list<")


def test_init_leaves_out_a_column_with_values_that_no_field_can_hold(run: Run, here: Path) -> None:
    huge = pa.array([Decimal(10**20)] * ROWS, pa.decimal128(38, 10))
    columns = {"photo": [b"\xff", b"ok"] * (ROWS // 2), "a,b": ["one\nline", "x"] * (ROWS // 2), "huge": huge}
    write_table(here / "people", PEOPLE | columns)
    said = run("init", "job.yaml", "--data", "people/").out.splitlines()
    assert said[2:] == [
        "left out: column photo holds bytes that are not valid UTF-8",
        "left out: column huge is decimal128(38, 10) and holds a number of more than 18 digits",
    ]
    assert fields_of(here / "job.yaml")["photo"] == {"kind": "id"}
    found = run("validate", "job.yaml").out
    assert len([line for line in found.splitlines() if "photo" in line and "left out" in line]) == 1
    assert "one\\nline, x" in found
    run("init", "few.yaml", "--data", "people/", "--columns", '"a,b",age')
    assert list(fields_of(here / "few.yaml")) == ["age", "a,b"] or list(fields_of(here / "few.yaml")) == ["a,b", "age"]
    assert "write a,b,c" in one_line(run("init", "b.yaml", "--data", "people/", "--columns", '"a,b'), 2)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"age": ["old"]}, "people/b.parquet: column age is string, but int64 in files before it"),
        ({"age": pa.array([7], pa.int32())}, "people/b.parquet: column age is int32, but int64 in files before it"),
        ({"sex": ["Male"]}, "people/b.parquet: column age is missing, which other files have"),
    ],
)
def test_init_refuses_files_that_differ(run: Run, here: Path, second: dict[str, Any], words: str) -> None:
    write_table(here / "people", {"age": PEOPLE["age"], "sex": PEOPLE["sex"]})
    write_table(here / "people", {"age": [1], "sex": ["Male"]} | second if "age" in second else second, "b")
    assert one_line(run("init", "job.yaml", "--data", "people/"), 2).startswith(words)
    assert not (here / "job.yaml").exists()


def test_init_refuses_a_file_that_cannot_be_read(run: Run, here: Path) -> None:
    (here / "broken").mkdir()
    (here / "broken" / "a.parquet").write_bytes(b"PAR1")
    line = one_line(run("init", "job.yaml", "--data", "broken/"), 2)
    assert line.startswith("broken/a.parquet: not a readable Parquet file")


def test_init_says_when_not_all_rows_were_read(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_look, "MOST_ROWS", 500)
    write_table(here / "people", {"age": PEOPLE["age"], "sex": PEOPLE["sex"]})
    write_table(here / "people", {"age": [1] * ROWS, "sex": ["x"] * 100 + ["y"] * 300}, "b")
    assert "2 fields, by the first 500 of 800 rows" in run("init", "job.yaml", "--data", "people/").out
    text = (here / "job.yaml").read_text()
    assert "values: [Female, Male, x]" in text
    assert run("init", "c.yaml", "--data", "people/", "--json").answer == {
        "path": "c.yaml",
        "fields": 2,
        "rows": 500,
        "left_out": [],
    }


def test_init_for_texts_stays_as_it_is(run: Run, here: Path) -> None:
    write_records(here / "records")
    (here / "claims.csv").write_text("age,code\n49,C30\n")
    run("import", "claims.csv", "joined/", "--columns", "age,code")
    (here / "empty").mkdir()
    for folder in ("records/", "joined/", "empty/"):
        result = run("init", "job.yaml", "--force", "--data", folder)
        assert (result.code, len(result.out.splitlines())) == (0, 1)
        assert fields_of(here / "job.yaml") is None
    write_table(here / "people", PEOPLE)
    assert run("init", "job.yaml", "--force", "--data", "people/", "--field-delimiter", ",").code == 0
    assert fields_of(here / "job.yaml") is None


def test_validate_shows_the_schema_and_what_does_not_come_back(run: Run, here: Path) -> None:
    write_table(here / "people", PEOPLE | {"note": ["x" * 9] * ROWS})
    run("init", "job.yaml", "--data", "people/")
    open_again = ("--set", "fields.sex={kind: category, min_count: 300}", "--set", "fields.left={kind: id}")
    found = run("validate", "job.yaml", "--json").answer
    assert [entry["column"] for entry in found["fields"]] == list(PEOPLE)
    assert found["fields"][0] == {
        "column": "age",
        "kind": "integer",
        "tokens": [18, 5],
        "values": "[21, 78]",
        "is": "declared",
        "null": 0,
        "clip": 13,
    }
    assert found["fields"][-1]["null"] == ROWS
    lines = run("validate", "job.yaml", "--set", "fields.age={kind: integer, bins: 16}").out.splitlines()
    start = lines.index("fields:")
    assert [line.split() for line in lines[start + 1 : start + 4]] == [
        ["column", "kind", "tokens", "values", "schema", "records"],
        ["age", "integer", "18", "+", "5", "[21,", "78]", "found:", "range", "13", "clipped"],
        ["sex", "category", "2", "Female,", "Male", "declared"],
    ]
    assert (
        f"tokens of a record: at most {found['tokens_of_a_record']}, of {found['different_tokens']} different ones"
        in lines
    )
    assert "sex: none of its 2 values is in 300 records" in run("validate", "job.yaml", *open_again).err


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (
            "fields.age={kind: integer, range: [30, 60]}",
            f"column age: {OUTSIDE} of 400 values are outside the schema, such as '20', '21', '22'",
        ),
        ("fields.sex.values=[Male]", "column sex: 200 of 400 values are outside the schema, such as 'Female'"),
        ("fields.left.nullable=false", "column left: 400 of 400 values are null, but fields.left.nullable is false"),
        ("fields.note={kind: integer}", "column note is string, and not each of its values is an integer"),
        ("fields.size={kind: integer}", "people/a.parquet: no column size; found: age (int64), sex (string)"),
        ("fields.age.range=[60, 30]", "--set fields.age.range=[60, 30]: fields.age"),
        ("fields.sex.values=[Male, Male]", "--set fields.sex.values=[Male, Male]: fields.sex"),
    ],
)
def test_what_does_not_fit_the_schema_is_refused_in_a_line(run: Run, here: Path, field: str, words: str) -> None:
    write_table(here / "people", PEOPLE)
    run("init", "job.yaml", "--data", "people/")
    before = tree(here)
    assert one_line(run("validate", "job.yaml", "--set", field), 2).startswith(words)
    assert tree(here) == before


def test_a_folder_of_lists_alone_is_refused(run: Run, here: Path) -> None:
    write_table(here / "people", {"marks": [[1, 2]] * ROWS})
    line = one_line(run("init", "job.yaml", "--data", "people/"), 2)
    assert line == "people/: all columns are lists or structs: marks; store them flat"
    assert not (here / "job.yaml").exists()


def test_columns_that_fields_lack_are_told(run: Run, here: Path) -> None:
    write_table(here / "people", PEOPLE)
    run("init", "job.yaml", "--data", "people/", "--columns", "age,sex")
    result = run("validate", "job.yaml")
    assert "columns left out: paid, joined, note, customer, left" in result.out


def test_every_column_that_does_not_fit_has_a_line(run: Run, here: Path) -> None:
    write_table(here / "people", PEOPLE)
    run("init", "job.yaml", "--data", "people/")
    result = run("validate", "job.yaml", "--set", "fields.age.outside=refuse", "--set", "fields.sex.values=[Male]")
    assert result.code == 2
    assert [line.split(":")[1].strip() for line in result.err.splitlines()] == ["column age", "column sex"]


def test_names_that_yaml_takes_for_something_else_stay_names(run: Run, here: Path) -> None:
    names = ["no", "1", "a: b", "#", "? q", "[x]", "line\nbreak", "\u2028" * 300, " lead", "fields"]
    write_table(here / "people", {name: [row % 3 for row in range(ROWS)] for name in names})
    for template in ("default", "private"):
        assert run("init", "job.yaml", "--force", "--data", "people/", "--template", template).code == 0
        assert list(fields_of(here / "job.yaml")) == names
    assert run("init", "job.yaml", "--force", "--data", "people/").code == 0
    fields = load_job(here / "job.yaml", environment={}).fields
    assert fields is not None
    assert list(fields) == names


def test_a_table_that_was_imported_has_numbers_again(run: Run, here: Path) -> None:
    lines = [f"{row},{row % 7}.50,2024-01-{1 + row % 28:02d}" for row in range(ROWS)]
    (here / "claims.csv").write_text("\n".join(["age,paid,seen", *lines, ",,"]) + "\n")
    run("import", "claims.csv", "records/")
    assert run("init", "job.yaml", "--data", "records/").code == 0
    kinds = {name: entry["kind"] for name, entry in fields_of(here / "job.yaml").items()}
    assert kinds == {"age": "id", "paid": "number", "seen": "date"}
    found = run("validate", "job.yaml", "--set", "fields.age={kind: integer}", "--json").answer
    assert found["fields"][0]["is"] == "found: range"
    assert (found["fields"][0]["null"], found["fields"][0]["clip"]) == (1, 18)


def test_private_values_are_in_no_message(run: Run, here: Path) -> None:
    write_table(here / "people", {"sex": PEOPLE["sex"], "age": PEOPLE["age"]})
    run("init", "job.yaml", "--data", "people/", "--template", "private")
    line = one_line(
        run("validate", "job.yaml", "--set", "fields.age.range=[0, 99]", "--set", "fields.sex.values=[Male]"), 2
    )
    assert line == (
        "column sex: 200 of 400 values are outside the schema; declare them, or set fields.sex.outside to rare or null"
    )


def test_init_says_what_to_do_with_a_column_without_a_name(run: Run, here: Path) -> None:
    write_table(here / "people", PEOPLE | {"": ["1"] * ROWS})
    words = "a column has no name; give it one in the files, or list the others by --columns"
    assert words in one_line(run("init", "job.yaml", "--data", "people/"), 2)
    assert run("init", "job.yaml", "--data", "people/", "--columns", "age,sex").code == 0
