"""The column that tells whose a record is: read from every kind of file, counted, and refused in one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from runner.config import JobConfig, parse_job
from runner.data import prepare
from runner.data.examples import Examples, persons_file_name
from runner.data.files import list_files
from runner.data.importing import import_records
from runner.data.prepare import find_tokens, survey_job, token_key
from runner.data.survey import Survey
from runner.errors import CorruptError, DataError
from runner.report.real import find_copies, read_real_records
from runner.storage import LocalFolder, open_folder
from runner.train.audit import split_positions
from runner.train.facade import check_job
from runner.train.findings import describe_check, in_lines
from tests.tokens import InThisProcess
from tests.unit.parquet_files import write
from tests.unit.test_examples import FarFolder


def job(folder: Path, runs: Path | None = None, **sections: Any) -> JobConfig:
    values: dict[str, Any] = {
        "name": "persons",
        "data": {"uri": str(folder)},
        "tokenizer": {"kind": "byte"},
        "training": {"batch_size": 2},
        "privacy": {"enabled": True, "noise_multiplier": 1.0, "unit": "who", "max_records_per_unit": 2},
        "storage": {"uri": str(runs or folder.parent / "runs")},
    }
    for name, section in sections.items():
        values[name] = values.get(name, {}) | section
    if "fields" in sections:
        del values["tokenizer"]
    return parse_job(values, environment={})


def survey(config: JobConfig) -> Survey:
    return survey_job(config, list_files(config.data.uri))


def examples_of(config: JobConfig, storage: Path, cache_gib: float = 1) -> Examples:
    files, folder = list_files(config.data.uri), open_folder(str(storage))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "_dataset", InThisProcess)
        key = token_key(config, files)
        tokens = prepare.prepare_tokens(config, survey(config), folder, key, lambda _: None, b"k" * 32)
    found = prepare.find_tokens(folder, key)
    assert found is not None
    assert (found.persons, found.nobodys, found.units) == (tokens.persons, tokens.nobodys, tokens.units)
    return Examples(found, cache_gib)


def numbers_of(examples: Examples) -> NDArray[np.int64]:
    assert examples.persons is not None
    return examples.persons.numbers


TEXTS = ["a", None, "b", "c", "d", "e"]
WHO = ["x", "x", None, "y", "x", "y"]


def table(texts: Any = TEXTS, who: Any = WHO) -> pa.Table:
    return pa.table({"text": pa.array(texts, pa.string()), "who": who})


def test_rows_without_a_text_or_without_a_person_are_no_records(tmp_path: Path) -> None:
    write(tmp_path / "records" / "a.parquet", table())
    config = job(tmp_path / "records")
    found = survey(config)
    assert (found.records, found.found.rows, found.found.nobodys, found.persons) == (4, 6, 1, {2: 2})
    examples = examples_of(config, tmp_path / "tokens")
    assert [bytes(row[1:2].tolist()).decode() for row in examples.rows(np.arange(4))] == ["a", "c", "d", "e"]
    assert numbers_of(examples).tolist() == [0, 1, 0, 1]
    assert (examples.tokens.units, examples.tokens.examples, examples.tokens.nobodys) == (2, 4, 1)
    assert numbers_of(Examples(examples.tokens, 0)).tolist() == [0, 1, 0, 1], "read by ranges"


def test_a_person_is_the_same_in_files_that_hold_the_column_in_other_types(tmp_path: Path) -> None:
    columns = [
        pa.array([7, 8, 7], pa.int32()),
        pa.array([8.0, None, 7.0]),
        pa.array([7, 9, 8], pa.int64()).dictionary_encode(),
        pa.nulls(3),
    ]
    for number, column in enumerate(columns):
        write(tmp_path / "records" / f"{number}.parquet", table(["a", "b", "c"], column))
    config = job(tmp_path / "records")
    assert survey(config).persons == {1: 1, 3: 1, 4: 1}
    assert numbers_of(examples_of(config, tmp_path / "tokens")).tolist() == [0, 1, 0, 1, 0, 0, 2, 1]


def test_a_folder_can_tell_whose_its_records_are(tmp_path: Path) -> None:
    for who in ("x", "y"):
        write(tmp_path / "records" / f"who={who}" / "a.parquet", ["a", "b", "c"])
    assert survey(job(tmp_path / "records")).persons == {3: 2}


def test_a_csv_file_that_was_imported_has_its_persons(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("text,who\na,7\nb,\nc,7\nd,08\n")
    import_records(str(tmp_path / "people.csv"), str(tmp_path / "records"))
    found = survey(job(tmp_path / "records"))
    assert (found.persons, found.found.nobodys) == ({1: 1, 2: 1}, 1)


def test_a_column_can_be_trained_on_and_tell_whose_a_record_is(tmp_path: Path) -> None:
    write(tmp_path / "records" / "a.parquet", table())
    config = job(
        tmp_path / "records",
        data={"uri": str(tmp_path / "records"), "columns": ["who", "text"], "field_delimiter": ","},
    )
    found = survey(config)
    assert (found.persons, found.records, found.found.null_fields) == ({2: 1, 3: 1}, 5, 1)


def test_max_records_counts_records_of_persons(tmp_path: Path) -> None:
    write(tmp_path / "records" / "a.parquet", table())
    config = job(tmp_path / "records", data={"uri": str(tmp_path / "records"), "max_records": 3})
    assert survey(config).persons == {1: 1, 2: 1}
    assert numbers_of(examples_of(config, tmp_path / "tokens")).tolist() == [0, 1, 0]


def test_marks_are_copied_from_far_away_and_what_is_damaged_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write(tmp_path / "records" / "a.parquet", table())
    config = job(tmp_path / "records")
    near = examples_of(config, tmp_path / "tokens").tokens
    assert isinstance(near.folder, LocalFolder)
    far = replace(near, folder=FarFolder(near.folder))
    for cache_gib in (1, 0):  # a copy, and by ranges
        assert numbers_of(Examples(far, cache_gib)).tolist() == [0, 1, 0, 1]
    name = persons_file_name(near.shards[0].name)
    marks = near.folder.read(name)
    near.folder.write(name, marks[::-1])
    assert numbers_of(Examples(far, 1)).tolist() == [0, 1, 0, 1], "the copy is as it was"
    for damaged, cache_gib in ((near, 1), (near, 0), (far, 0)):
        with pytest.raises(CorruptError, match=f"{name} is missing or damaged"):
            Examples(damaged, cache_gib)
    near.folder.write(name, marks[:-1])
    assert find_tokens(open_folder(str(tmp_path / "tokens")), near.key) is None


def test_the_audit_attacks_one_record_of_each_person_on_the_side_where_all_are(tmp_path: Path) -> None:
    config = people(tmp_path)
    examples = examples_of(config, tmp_path / "tokens")
    trained, unseen = split_positions(config, examples)
    sides = [numbers_of(examples)[each].tolist() for each in (trained, unseen)]
    assert [len(each) for each in sides] == [len(set(each)) for each in sides] == [32, 8]
    assert set(sides[0]).isdisjoint(sides[1])


FIELDS = {"text": {"kind": "text", "tokenizer": "byte"}, "age": {"kind": "integer", "range": [0, 99]}}


def test_rows_of_a_table_are_persons_too(tmp_path: Path) -> None:
    rows = table().append_column("age", pa.array([1, 2, 3, 4, None, 6]))
    write(tmp_path / "records" / "a.parquet", rows)
    config = job(tmp_path / "records", fields=FIELDS)
    found = survey(config)
    assert (found.records, found.persons, found.found.nobodys, found.left_out) == (5, {2: 1, 3: 1}, 1, ())
    assert numbers_of(examples_of(config, tmp_path / "tokens")).tolist() == [0, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([None], "no column who; found: text (string)"),
        ([pa.array([["x"]] * 6)], "column who is list<element: string>, which tells no privacy.unit; name a column of"),
        ([pa.array(WHO), pa.array([1] * 6)], "column who is int64, but string in files before it; privacy.unit needs"),
        ([pa.nulls(6, pa.string())], "no records: all 6 rows are null in column who"),
    ],
)
def test_a_column_that_tells_no_person_is_refused_in_one_line(
    tmp_path: Path, columns: list[pa.Array | None], message: str
) -> None:
    for number, column in enumerate(columns):
        rows = table() if column is not None else table().drop_columns(["who"])
        if column is not None:
            rows = rows.set_column(1, "who", column)
        write(tmp_path / "records" / f"{number}.parquet", rows)
    with pytest.raises(DataError) as caught:
        survey(job(tmp_path / "records"))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_tokens_are_others_where_it_matters_whose_records_are_and_not_by_how_many(tmp_path: Path) -> None:
    write(tmp_path / "records" / "a.parquet", table())
    config, files = job(tmp_path / "records"), list_files(str(tmp_path / "records"))

    def key(**privacy: Any) -> str:
        return token_key(config.model_copy(update={"privacy": config.privacy.model_copy(update=privacy)}), files)

    assert key(unit=None) != key() == key(max_records_per_unit=9) == key(noise_multiplier=2.0)
    assert key(unit="text") != key()
    assert key(enabled=False) == key(enabled=False, unit=None) == key(unit=None)


def people(tmp_path: Path) -> JobConfig:
    who = [f"p{row % 40}" for row in range(100)] + [None] * 3
    write(tmp_path / "records" / "a.parquet", table([f"text {row}" for row in range(103)], who))
    return job(tmp_path / "records", training={"batch_size": 8})


def test_validate_tells_the_unit_and_what_is_left_out(tmp_path: Path) -> None:
    found = describe_check(check_job(people(tmp_path)))
    assert found["privacy_unit"] == {
        "column": "who",
        "most_records": 2,
        "persons": 40,
        "persons_above": 20,
        "nobodys": 3,
    }
    lines = list(in_lines(found))
    assert "privacy unit: one person: all records with the same `who`, of which at most 2 count" in lines
    assert "persons: 40 different `who`; 20 have more than 2 records, of which 2 count at a time" in lines
    assert "rows without `who`: 3, left out: nothing is learned of them" in lines


def test_too_few_persons_for_a_batch_are_refused(tmp_path: Path) -> None:
    config = people(tmp_path)
    training = config.training.model_copy(update={"batch_size": 30})
    with pytest.raises(DataError, match=r"40 different who, but training\.batch_size 30 needs 60"):
        check_job(config.model_copy(update={"training": training}))


def test_the_report_s_holdout_has_no_person_who_was_trained_on(tmp_path: Path) -> None:
    config = people(tmp_path)
    real = read_real_records(config, list_files(config.data.uri), None)
    trained, held_out = ({int(text.split()[1]) % 40 for text in each} for each in (real.training, real.holdout))
    assert trained.isdisjoint(held_out)
    assert (len(trained), len(held_out)) == (32, 8)
    assert (real.training_records + real.holdout_records, real.null_rows) == (100, 3)
    copies = find_copies(config, real, [*real.holdout[:2], *real.training[:2], "text 101"])
    assert copies.tolist() == [False, False, True, True, False]
