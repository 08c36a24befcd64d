"""Records of a model that learned nothing: with rules, none is invalid and none is cut."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.config import GenerationConfig
from runner.data.tokenizers.base import Tokenizer
from runner.data.tokenizers.characters import ByteTokenizer, CharTokenizer
from runner.errors import ConfigError, JobFailedError
from runner.generation.pool import load_maker
from runner.generation.records import RecordMaker
from runner.generation.settings import SamplingSettings
from runner.generation.shards import Generation, claim_folder, finished_shards, make_shard, read_generation
from runner.model.artifact import TrainedModel, load_model
from runner.model.network import Network
from runner.report.synthetic import draw_records
from runner.run_directory import GENERATION, RunDirectory
from runner.storage import open_folder
from runner.submit.generate import Request, generate
from runner.submit.launch import Launch
from tests.generation import make_run
from tests.unit.test_grammar import KINDS, tokenizer_of

COLUMNS = {
    "x": {"range": [-5, 12.5]},
    "y": {"allowed": ["a,b", "", "ab 12", "é", "漢"]},
    "z": {"pattern": r"([ab]{2}\.)?\d"},
    "note": {},
}


def untrained(tokenizer: Tokenizer, columns: tuple[str, ...], seq_length: int = 30) -> TrainedModel:
    network = Network(vocab_size=tokenizer.vocab_size, embedding_dim=4, rnn_units=6, layers=1, dropout_rate=0, seed=1)
    return TrainedModel(tokenizer, seq_length, "records", ",", columns, "digest", network=network)


def settings(n: int, columns: dict[str, Any] | None = None, **changes: Any) -> SamplingSettings:
    validation = GenerationConfig.model_validate({"columns": columns or {}, "max_invalid": 0})
    return SamplingSettings(records_per_prompt=n, validation=validation, **changes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_learned_nothing_writes_valid_records_alone(kind: str) -> None:
    model = untrained(tokenizer_of(kind), tuple(COLUMNS))
    generated = RecordMaker(model, settings(200, COLUMNS, prompts=("1",), temperature=1.3)).make(200)
    assert len(generated.rows) == 200
    assert generated.invalid == {}
    assert len(set(generated.rows)) > 150
    assert {row[1] for row in generated.rows} == {"", "ab 12", "é", "漢"}
    assert not any("\ufffd" in value for row in generated.rows for value in row)


def test_a_record_ends_in_time_however_little_room_there_is() -> None:
    model = untrained(ByteTokenizer(), ("x", "y"), seq_length=13)
    rules = {"x": {"pattern": "[ab]{4,}"}, "y": {"pattern": "[cd]{6}|[cd]{8}"}}
    rows = RecordMaker(model, settings(300, rules)).make(300).rows
    assert {(len(x), len(y)) for x, y in rows} == {(4, 6), (4, 8), (5, 6), (6, 6)}
    with pytest.raises(ConfigError, match="11 tokens or more, but may have 10"):
        RecordMaker(replace(model, seq_length=10), settings(1, rules))


@pytest.mark.parametrize(
    ("tokenizer", "seq_length", "line"),
    [
        (CharTokenizer("ab"), 30, "the model cannot write the field delimiter ','"),
        (CharTokenizer("ab,"), 1, "a record has 2 tokens or more, but may have 1"),
    ],
)
def test_a_report_does_without_the_records_that_a_model_cannot_write(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tokenizer: CharTokenizer, seq_length: int, line: str
) -> None:
    model = untrained(tokenizer, ("x", "y", "z"), seq_length)
    monkeypatch.setattr("runner.model.artifact.load_model", lambda _: model)
    with pytest.raises(JobFailedError, match=line):
        draw_records(open_folder(str(tmp_path)), 5)


def test_rules_of_the_users_own_are_still_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = untrained(ByteTokenizer(), ("x", "y"))
    validation = GenerationConfig.model_validate(
        {"columns": {"x": {"range": [0, 9]}}, "validator": "tests.generation:is_short"}
    )
    generated = RecordMaker(model, SamplingSettings(records_per_prompt=20, validation=validation)).make(20)
    assert set(generated.invalid) == {"tests.generation:is_short"}


def test_one_column_without_rules_is_drawn_as_before() -> None:
    model = untrained(ByteTokenizer(), ("x",))
    masked, unmasked = (RecordMaker(model, settings(50), masked=masked).make(50) for masked in (True, False))
    assert masked == unmasked
    assert any("\ufffd" in row[0] for row in masked.rows)


# Folders and the verb


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return make_run(tmp_path_factory.mktemp("run"))


def test_a_folder_that_an_earlier_version_began_goes_on_with_the_same_bytes(run: RunDirectory, tmp_path: Path) -> None:
    model = load_model(run.folder.child("model"))
    generation = Generation(run.uri, model.digest, SamplingSettings(records_per_prompt=90), 30)
    folder = open_folder(str(tmp_path / "out"))
    old = {name: value for name, value in generation.to_dict().items() if name != "version"} | {"version": 1}
    folder.child(GENERATION).write("settings.json", json.dumps(old).encode())
    folder.child(GENERATION).write("prompts.json", b'[""]')
    maker = RecordMaker(model, generation.settings, masked=False)
    make_shard(maker, folder, 30, 0)
    claim_folder(folder, generation)
    found = read_generation(folder)
    assert (found.version, json.loads(folder.child(GENERATION).read("settings.json"))["version"]) == (1, 1)
    here = load_maker(folder, found, None)
    for number in (1, 2):
        make_shard(here, folder, 30, number)
    assert finished_shards(folder, 3)[1].invalid["fields: not 2"] > 0
    straight = open_folder(str(tmp_path / "straight"))
    for number in range(3):
        make_shard(maker, straight, 30, number)
    names = [f"part-0000{number}.parquet" for number in range(3)]
    assert [folder.read(name) for name in names] == [straight.read(name) for name in names]


def test_a_new_folder_is_drawn_with_masks(run: RunDirectory, tmp_path: Path) -> None:
    request = Request(SamplingSettings(records_per_prompt=50), f"{tmp_path}/out/")
    answer, _ = generate(run, request, Launch(quiet=True))
    assert answer["invalid"] == {}
    assert read_generation(open_folder(f"{tmp_path}/out")).version == 2


def test_what_is_left_to_the_validator_is_told_once_and_counted(
    run: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    overrides = ["generation.columns={x: {pattern: '(?=a).*'}}"]
    answer, _ = generate(run, Request(SamplingSettings(records_per_prompt=20), overrides=overrides), Launch(quiet=True))
    assert set(answer["invalid"]) == {"x: does not match (?=a).*"}
    assert [record.message for record in caplog.records] == [
        "generation.columns.x.pattern looks around: records are drawn without it, and others in place of those that "
        "break it"
    ]


@pytest.mark.parametrize(
    ("prompt", "rules", "line"),
    [
        ("b,", "{x: {allowed: [a]}}", "prompt 'b,': no valid record begins so (x: not an allowed value)"),
        ("a,b,", "{}", "prompt 'a,b,': no valid record begins so (fields: not 2)"),
        ("", "{x: {allowed: [c]}}", "generation.columns.x: no value that the model can write keeps the rules"),
    ],
)
def test_what_no_record_can_keep_is_refused_before_anything_is_drawn(
    run: RunDirectory, tmp_path: Path, prompt: str, rules: str, line: str
) -> None:
    request = Request(SamplingSettings(prompts=(prompt,)), f"{tmp_path}/o/", overrides=[f"generation.columns={rules}"])
    with pytest.raises(ConfigError) as refused:
        generate(run, request, Launch(quiet=True))
    assert str(refused.value) == line
    assert list(tmp_path.iterdir()) == []
