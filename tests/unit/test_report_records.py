"""The records of a report: the run's own split, and files of synthetic ones."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest

from runner.config import JobConfig, parse_job
from runner.data.batches import BatchPlan
from runner.data.files import list_files
from runner.errors import ConfigError, DataError
from runner.report.real import RealRecords, find_copies, holdout_mask, read_real_records
from runner.report.synthetic import read_records
from tests.report_runs import take_run


def people(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [
        f"{draw.choice(['anna', 'bernd', 'clara'])},{draw.gauss(40, 12):.1f},{draw.choice(['yes', 'no'])}"
        for _ in range(count)
    ]


def real_records(config: JobConfig, tokens_key: str | None = None) -> RealRecords:
    return read_real_records(config, list_files(config.data.uri), tokens_key)


@pytest.mark.parametrize("count", [40, 41, 199, 1000])
def test_the_holdout_is_the_run_s_own(count: int) -> None:
    config = parse_job({"name": "a", "data": {"uri": "r"}, "training": {"batch_size": 10, "seed": 5}}, environment={})
    plan = BatchPlan(count, 10, 5, validation_split=True)
    trained = {int(i) for step in range(plan.training_steps) for i in plan.training_positions(0, step)}
    mask = holdout_mask(config, count)
    assert {i for i in range(count) if not mask[i]} == trained
    assert mask.sum() == count - len(trained)


def test_null_rows_have_no_position(tmp_path: Path) -> None:
    texts = [f"{number},x" for number in range(100)]
    with_nulls: list[str | None] = [*texts]
    for place in (90, 41, 7, 0):
        with_nulls.insert(place, None)
    plain = real_records(take_run(tmp_path / "a", texts).read_config())
    config = take_run(tmp_path / "b", with_nulls).read_config()
    found = real_records(config)
    assert (found.training, found.holdout) == (plain.training, plain.holdout)
    assert (found.null_rows, found.training_records, found.holdout_records) == (4, 80, 20)
    assert sorted(found.training + found.holdout) == sorted(texts)
    copies = find_copies(config, found, [*found.holdout, *found.training, "0,X"])
    assert copies.tolist() == [False] * 20 + [True] * 80 + [False]


def test_records_that_changed_are_not_compared(tmp_path: Path) -> None:
    config = take_run(tmp_path, people(50)).read_config()
    with pytest.raises(DataError, match="not those that the run was trained on"):
        real_records(config, "another key")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_synthetic_files_are_read_as_generate_writes_them(tmp_path: Path, suffix: str) -> None:
    from runner.generation.output import write_records
    from runner.generation.records import Generated
    from runner.generation.rows import text_table

    rows = [("a", "1"), ('quo"te', ""), ("ü\u2028", "x y"), ("two\nlines", "3")]
    path = str(tmp_path / f"synthetic file.{suffix}")
    write_records(path, Generated(text_table(("one", "two"), rows), {}))
    assert read_records(path, ("one", "two"), "|").texts == tuple("|".join(row) for row in rows)
    assert read_records(path, ("two", "one"), "|").texts[0] == "1|a"
    with pytest.raises(DataError, match="has the columns one, two, but the run's records have one, three"):
        read_records(path, ("one", "three"), "|")


def test_synthetic_files_are_read_as_import_reads_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    contents = {
        "bom.csv": "\ufeffone,two\r\na,1\r\n".encode(),
        "mac.csv": b"one,two\ra,1\r",
        "zipped.csv": gzip.compress(b"one,two\na,1\n"),
        "bom.jsonl": '\ufeff{"two": 1, "one": "a"}\n'.encode(),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert read_records(str(tmp_path / name), ("one", "two"), "|").texts == ("a|1",)
    assert not caplog.records
    (tmp_path / "semicolons.csv").write_bytes(b"one;two\na;1\n")
    assert read_records(str(tmp_path / "semicolons.csv"), ("one", "two"), "|").texts == ("a|1",)
    assert "separated by ';'" in caplog.text
    (tmp_path / "numbers.jsonl").write_text('{"one": 0.10, "two": 12345678901234567890.5}\n')
    assert read_records(str(tmp_path / "numbers.jsonl"), ("one", "two"), "|").texts == ("0.10|12345678901234567890.5",)


def test_of_many_synthetic_records_evenly_spaced_ones_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.report.synthetic.MOST_RECORDS", 3)
    (tmp_path / "a.csv").write_text("text\n" + "".join(f"{number}\n" for number in range(9)))
    assert read_records(str(tmp_path / "a.csv"), ("text",), None).texts == ("0", "4", "8")


@pytest.mark.parametrize(
    ("name", "content", "kind", "words"),
    [
        ("a.txt", b"", ConfigError, "must end in"),
        ("none.csv", None, DataError, "no such file"),
        ("a.csv", b"text\n", DataError, "holds no records"),
        ("a.csv", b"", DataError, "holds no records"),
        ("a.csv", b"text\n\xff\n", DataError, "line 2, byte 1: not UTF-8"),
        ("a.csv", b"text,b\n1\n", DataError, "line 2: 1 fields, but 2 columns"),
        ("a.jsonl", b'{"text": 1}\n{"b": 2}\n', DataError, "has the columns b, but the run's records have text"),
        ("a.jsonl", b"[]\n", DataError, "holds no records"),
        ("a.parquet", b"PAR1", DataError, "not a readable Parquet file"),
    ],
)
def test_synthetic_files_that_cannot_be_used_are_one_line(
    tmp_path: Path, name: str, content: bytes | None, kind: type[Exception], words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(kind, match=words) as raised:
        read_records(str(tmp_path / name), ("text",), ",")
    assert len(str(raised.value).splitlines()) == 1
