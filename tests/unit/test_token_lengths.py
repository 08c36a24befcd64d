"""What is said of records' lengths before they are tokenized is what tokenizing them finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.config import JobConfig, parse_job
from runner.data import prepare
from runner.data.examples import TokenSet
from runner.data.files import list_files
from runner.data.survey import Survey, survey_records
from runner.data.tokenizers.text_kinds import train_tokenizer
from runner.errors import DataError
from runner.storage import open_folder
from runner.train.facade import check_job
from runner.train.findings import describe_check, in_lines
from tests.tokens import InThisProcess
from tests.unit.parquet_files import texts, write


def config_of(folder: Path, *, packing: str = "records", seq_length: int = 4, **sections: Any) -> JobConfig:
    job: dict[str, Any] = {
        "name": "claims",
        "data": {"uri": str(folder / "records")},
        "tokenizer": {"kind": "byte"},
        "examples": {"packing": packing, "seq_length": seq_length},
        "training": {"batch_size": 1, "validation_split": False, "early_stopping": {"metric": "loss"}},
        "storage": {"uri": str(folder / "runs")},
    }
    return parse_job(job | sections, environment={})


def survey_of(config: JobConfig) -> Survey:
    return survey_records(config.data, list_files(config.data.uri), prepare.token_lengths(config))


def tokenize(config: JobConfig) -> TokenSet:
    """The tokens, made where a run looks for them."""
    files, cache = list_files(config.data.uri), open_folder(config.storage.uri).child(".cache/tokens")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "_dataset", InThisProcess)
        return prepare.prepare_tokens(config, survey_of(config), cache, prepare.token_key(config, files), print)


KINDS: list[dict[str, Any]] = [{"kind": "byte"}, {"kind": "char", "alphabet": "abé"}]


@given(
    st.lists(st.none() | st.text("abé漢", max_size=6), min_size=1, max_size=8),
    st.sampled_from(KINDS),
    st.integers(1, 6),
    st.sampled_from(["records", "stream"]),
)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_counts_are_those_of_the_tokens(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str | None], tokenizer: dict[str, Any], size: int, packing: str
) -> None:
    folder = tmp_path_factory.mktemp("lengths")
    write(folder / "records" / "a.parquet", texts([*rows, "some text"]))
    config = config_of(folder, packing=packing, seq_length=size, tokenizer=tokenizer)
    survey, tokens = survey_of(config), tokenize(config)
    assert survey.certainty == "exact"
    assert survey.found.lengths.records == tokens.records
    if packing == "records":
        assert survey.found.lengths.longer == tokens.cut_records
    else:
        assert survey.found.windows == tokens.examples


def test_a_model_that_is_there_is_tried_on_a_sample_and_one_to_come_bounded_by_bytes(tmp_path: Path) -> None:
    records = [f"{number} of many" for number in range(160)]
    write(tmp_path / "records" / "a.parquet", texts(records))
    model = train_tokenizer(
        "sentencepiece", records, vocab_size=400, character_coverage=1.0, field_delimiter=None, seed=0
    )
    (tmp_path / "own.model").write_bytes(model.to_files()["sentencepiece.model"])
    given_ = config_of(tmp_path, tokenizer={"kind": "sentencepiece", "uri": str(tmp_path / "own.model")})
    survey = survey_of(given_)
    assert survey.certainty == "sample"
    looked_at = records[::16]
    assert survey.found.lengths.records == len(looked_at)
    assert survey.found.lengths.longer == sum(len(model.encode(text)) + 1 > 4 for text in looked_at)
    survey = survey_of(config_of(tmp_path, tokenizer={"kind": "sentencepiece"}))
    assert (survey.certainty, survey.found.lengths.longer) == ("at most", 160)


def test_validate_says_what_is_cut_and_what_is_not_read(tmp_path: Path) -> None:
    write(tmp_path / "records" / "a.parquet", texts(["abc", "abcd", None, "abcde"]))
    write(tmp_path / "records" / "b.parquet", texts([]))
    (tmp_path / "records" / "c.csv").write_text("x")
    found = describe_check(check_job(config_of(tmp_path)))
    assert (found["files"], found["rows"], found["null_rows"], found["records"]) == (1, 4, 1, 3)
    assert found["longer_records"] == {"records": 2, "is": "exact"}
    lines = list(in_lines(found))
    assert "records longer than seq_length: 2 (66.7%), which are cut" in lines
    assert "not read: 1 file (not named *.parquet, *.parq or *.pq): c.csv" in lines
    assert "not read: 1 file (no rows): b.parquet" in lines
    assert "longer_records" not in describe_check(check_job(config_of(tmp_path, packing="stream")))


def test_tokens_of_a_run_before_know_which_files_they_are_of(tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path / "records" / f"{name}.parquet", texts([name] * 3))
    data = {"uri": str(tmp_path / "records"), "max_records": 4}
    config = config_of(tmp_path, data=data)
    surveyed = check_job(config)
    tokenize(config)
    cached = check_job(config)
    assert surveyed.tokens is None
    assert cached.survey is None
    for checked in (surveyed, cached):
        found = describe_check(checked)
        assert (found["files"], found["files_after_max_records"], found["records"]) == (2, 1, 4)
    assert [(file.name, file.stop) for file in cached.used] == [("a.parquet", None), ("b.parquet", 1)]
    assert [(file.name, file.stop) for file in surveyed.used] == [("a.parquet", None), ("b.parquet", 1)]
    everything = config_of(tmp_path)
    tokenize(everything)
    assert check_job(everything).used == list_files(str(tmp_path / "records"))


def test_a_stream_too_short_for_a_batch_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    write(tmp_path / "records" / "a.parquet", texts(["a"] * 10))
    for kind in ("byte", "sentencepiece"):
        config = config_of(tmp_path, packing="stream", seq_length=64, tokenizer={"kind": kind})
        assert check_job(config).records == 10
        training = config.training.model_copy(update={"batch_size": 2})
        with pytest.raises(DataError, match=r"1 examples, but training\.batch_size 2 needs 2"):
            check_job(config.model_copy(update={"training": training}))
