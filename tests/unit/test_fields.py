"""Fields that are joined can be had again by splitting, or the join is refused: at import as everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runner.config import DataConfig, GenerationConfig
from runner.data.fields import join_fields, split_fields, splits_back
from runner.data.files import list_files
from runner.data.importing import Join, import_records
from runner.data.records import read_unit
from runner.data.units import plan_units
from runner.errors import DataError
from runner.generation.validators import Validator
from runner.report.table import Layout

DELIMITERS = st.text("|x,", min_size=1, max_size=3)
FIELDS = st.lists(st.text("|x,1", max_size=3), min_size=2, max_size=3)
NAMES = ("a", "b", "c")


@settings(max_examples=100, deadline=None)
@given(fields=FIELDS, delimiter=DELIMITERS)
@example(fields=["x|", "1"], delimiter="||")
@example(fields=["x", "|1"], delimiter="||")
def test_what_splits_back_is_split_alike_in_generation_and_reports(fields: list[str], delimiter: str) -> None:
    text = join_fields(fields, delimiter)
    assert splits_back(fields, delimiter) == (text.split(delimiter) == fields)
    names = NAMES[: len(fields)]
    if splits_back(fields, delimiter):
        assert split_fields(text, delimiter, len(fields)) == tuple(fields)
        assert Validator(GenerationConfig(), names, delimiter).check(text).fields == tuple(fields)
        assert Layout(names, delimiter).split([text]) == [tuple(fields)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(*[st.text("|x1", max_size=2)] * 2), min_size=2, max_size=2), delimiter=DELIMITERS)
@example(rows=[("x|", "1"), ("x", "|1")], delimiter="||")
def test_no_two_rows_become_one_text_at_import(rows: list[tuple[str, str]], delimiter: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"a": a, "b": b}) + "\n" for a, b in rows))
    unsplittable = [row for row in rows if delimiter.join(row).split(delimiter) != list(row)]
    source, target, join = tmp_path / "a.jsonl", str(tmp_path / "out"), Join(("a", "b"), delimiter)
    if unsplittable:
        with pytest.raises(DataError, match=f"line {1 + rows.index(unsplittable[0])}: column"):
            import_records(source, target, join=join, overwrite=True)
        return
    import_records(source, target, join=join, overwrite=True)
    texts = pq.read_table(tmp_path / "out").column("text").to_pylist()
    assert [tuple(text.split(delimiter)) for text in texts] == rows


def test_a_field_that_runs_into_the_delimiter_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\ny,z\nx|,1\n")
    with pytest.raises(DataError, match=r"line 3: column 'a' ends with the beginning.*'x\|' would be split as 'x'"):
        import_records(tmp_path / "a.csv", str(tmp_path / "out"), join=Join(("a", "b"), "||"))
    assert not (tmp_path / "out").exists()
    allowed = Join(("a", "b"), "||", allow_delimiter_in_fields=True)
    notes = import_records(tmp_path / "a.csv", str(tmp_path / "out"), join=allowed).notes
    assert notes == ("1 records do not split back into their fields, which hold the delimiter",)


def test_one_column_is_a_record_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,note\n1,"one, two"\n')
    import_records(tmp_path / "a.csv", str(tmp_path / "out"), join=Join(("note",)))
    assert pq.read_table(tmp_path / "out").column("text").to_pylist() == ["one, two"]
    assert splits_back(["one, two"], ",")


def test_nulls_are_joined_as_in_columns_of_a_job_and_counted(tmp_path: Path) -> None:
    rows = [("x", None), (None, None), ("", "y"), (None, ""), ("", "")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"a": a, "b": b}) + "\n" for a, b in rows))
    summary = import_records(tmp_path / "a.jsonl", str(tmp_path / "joined"), join=Join(("a", "b")))
    assert summary.notes == ("2 records have null fields, which are empty in them: the two are not told apart",)
    (tmp_path / "columns").mkdir()
    pq.write_table(pa.table({"a": [a for a, _ in rows], "b": [b for _, b in rows]}), tmp_path / "columns/a.parquet")
    texts = [
        [text for unit in plan_units(data, list_files(data.uri)) for part in read_unit(data, unit) for text in part]
        for data in (
            DataConfig(uri=str(tmp_path / "joined")),
            DataConfig(uri=str(tmp_path / "columns"), columns=("a", "b"), field_delimiter=","),
        )
    ]
    assert [text.as_py() for text in texts[0]] == ["x,", None, ",y", ",", ","]
    assert texts[0] == texts[1]
