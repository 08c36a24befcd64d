"""Generated records: which are kept, how others are counted, and shards that are a function of their number."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.config import GenerationConfig
from runner.errors import ConfigError, DataError, JobFailedError, JobStoppedError, RunnerError
from runner.generation import drive
from runner.generation.records import Generated, RecordMaker, hash_texts
from runner.generation.settings import SamplingSettings
from runner.generation.shards import (
    DRAWS_PER_SHARD,
    Generation,
    claim_folder,
    drop_repeated,
    finished_shards,
    make_shard,
    read_generation,
    summarize,
)
from runner.generation.tally import MOST_REASONS
from runner.generation.training_records import hash_records
from runner.generation.validators import Validator
from runner.model.artifact import TrainedModel, describe_model, load_model
from runner.model.sampling import Sampler
from runner.run_directory import GENERATION, RunDirectory
from runner.storage import Folder, LocalFolder, open_folder
from runner.submit.generate import Request, generate
from runner.submit.launch import Launch
from tests.generation import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def model(run: RunDirectory) -> TrainedModel:
    return load_model(run.folder.child("model"))


def settings(n: int, *, rules: dict[str, Any] | None = None, **changes: Any) -> SamplingSettings:
    return SamplingSettings(
        records_per_prompt=n, validation=GenerationConfig.model_validate(rules or {}), **({"seed": 5} | changes)
    )


def draws(model: TrainedModel, n: int, prompt: str = "", seed: int = 5) -> list[str]:
    """The texts of the first draws, whatever they are."""
    sampler = Sampler(model.network, end_id=model.tokenizer.end_id, max_length=12)
    prompts = [model.tokenizer.encode(prompt)]
    return model.tokenizer.decode_batch(
        [ids for batch in sampler.batches(n, seed=seed, prompts=prompts) for ids in batch]
    )


def joined(generated: Generated) -> list[str]:
    return [",".join(row) for row in generated.rows]


# Which records are kept


def test_without_masks_records_are_the_first_valid_draws_and_the_others_are_counted(model: TrainedModel) -> None:
    texts = draws(model, 400)
    generated = RecordMaker(model, settings(60), masked=False).make(60)
    valid = [number for number, text in enumerate(texts) if text.count(",") == 1]
    assert joined(generated) == [texts[number] for number in valid[:60]]
    assert generated.invalid == {"fields: not 2": valid[59] + 1 - 60}
    assert generated.invalid["fields: not 2"] > 20


def test_fewer_records_are_the_first_of_more(model: TrainedModel) -> None:
    rows = RecordMaker(model, settings(100)).make(100).rows
    assert RecordMaker(model, settings(17)).make(17).rows == rows[:17]


@given(
    low=st.floats(-50, 50), width=st.floats(0, 50), value=st.one_of(st.floats(-99, 99).map(repr), st.text(max_size=4))
)
def test_a_range_holds_the_numbers_in_it_and_no_other_text(low: float, width: float, value: str) -> None:
    config = GenerationConfig.model_validate({"columns": {"x": {"range": [low, low + width]}}})
    reason = Validator(config, ["x"], None).check(value).reason
    try:
        number = float(value) if value == value.strip() and "_" not in value else math.nan
    except ValueError:
        number = math.nan
    assert (reason is None) == (low <= number <= low + width)


def test_every_rule_of_a_column_must_hold_and_the_first_broken_one_is_the_reason() -> None:
    rules = {"x": {"pattern": r"\d+", "range": [None, 5], "allowed": ["1", "7", "12"]}, "y": {"pattern": "a|"}}
    validator = Validator(GenerationConfig.model_validate({"columns": rules}), ["x", "y"], ",")
    reasons = {text: validator.check(text).reason for text in ("1,a", "1,", "3,a", "7,a", "1x,a", "1,ab", "1", "1,a,")}
    assert reasons == {
        "1,a": None,
        "1,": None,
        "3,a": "x: not an allowed value",
        "7,a": "x: not in [-inf, 5]",
        "1x,a": r"x: does not match \d+",
        "1,ab": "y: does not match a|",
        "1": "fields: not 2",
        "1,a,": "fields: not 2",
    }


def test_a_text_column_may_be_split_into_named_fields() -> None:
    config = GenerationConfig.model_validate({"fields": ["p", "q", "r"], "columns": {"q": {"allowed": ["1"]}}})
    validator = Validator(config, ["text"], ",")
    assert validator.columns == ("p", "q", "r")
    assert validator.check("a,1,b") == (("a", "1", "b"), None)
    assert [validator.check(text).reason for text in ("a,2,b", "a,1")] == ["q: not an allowed value", "fields: not 3"]


def test_records_that_break_rules_are_drawn_anew_and_counted_by_reason(model: TrainedModel) -> None:
    rules = {"columns": {"y": {"pattern": "[ab]*"}}, "validator": "tests.generation:is_short"}
    unmasked = {"fields: not 2", "y: does not match [ab]*", "tests.generation:is_short"}
    for masked, reasons in ((True, {"tests.generation:is_short"}), (False, unmasked)):
        generated = RecordMaker(model, settings(80, rules=rules), masked=masked).make(80)
        assert len(generated.rows) == 80
        assert all(len(x) < 3 and set(y) <= {"a", "b"} for x, y in generated.rows)
        assert set(generated.invalid) == reasons
        assert min(generated.invalid.values()) > 5


def test_a_validators_own_words_are_the_reason_and_their_number_is_bounded(
    model: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = {"validator": "tests.generation:no_empty_x", "max_invalid": 0.99}
    assert "x is empty" in RecordMaker(model, settings(50, rules=rules)).make(50).invalid
    counter = iter(range(10**6))
    monkeypatch.setattr(
        "tests.generation.no_empty_x", lambda record: None if len(record["x"]) == 1 else f"no {next(counter)}"
    )
    invalid = RecordMaker(model, settings(200, rules=rules)).make(200).invalid
    assert len(invalid) == MOST_REASONS + 1
    assert invalid["other reasons"] > 10


@pytest.mark.parametrize(
    ("function", "line"),
    [
        ("complain", "generation.validator tests.generation:complain raised ValueError: do not like ['x', 'y']"),
        ("shrug", "generation.validator tests.generation:shrug returned int; it should return None for a valid"),
    ],
)
def test_a_validator_that_fails_ends_the_generation_in_one_line(model: TrainedModel, function: str, line: str) -> None:
    with pytest.raises(JobFailedError) as caught:
        RecordMaker(model, settings(5, rules={"validator": f"tests.generation:{function}"})).make(5)
    assert str(caught.value).startswith(line)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e999"])
def test_what_is_no_finite_number_is_in_no_range(value: str) -> None:
    rules = GenerationConfig.model_validate({"columns": {"x": {"range": [None, None]}}})
    assert Validator(rules, ("x",), None).check(value)[1]


def test_too_many_invalid_records_end_the_generation(model: TrainedModel) -> None:
    def make(n: int, **rules: Any) -> Generated:
        return RecordMaker(model, settings(n, rules=rules | {"validator": "tests.generation:is_short"})).make(n)

    found = make(100).invalid["tests.generation:is_short"]
    share = found / (100 + found)
    make(100, max_invalid=share + 1e-6)
    with pytest.raises(JobFailedError, match=r"more than generation.max_invalid .*is_short: \d+\); train longer"):
        make(100, max_invalid=share - 0.01)
    assert share > 0.1
    make(3, max_invalid=0.01)  # A few draws say nothing about shares.
    with pytest.raises(JobFailedError, match=r"347 of 347 generated records are invalid \("):
        make(10, columns={"x": {"pattern": "(?=c).*"}})


def test_unique_records_differ_and_copies_are_counted(model: TrainedModel) -> None:
    plain = RecordMaker(model, settings(300)).make(300)
    generated = RecordMaker(model, settings(300, unique=True)).make(300)
    assert len(set(plain.rows)) < 300
    assert len(set(generated.rows)) == len(generated.rows) == 300
    assert generated.repeated > 20
    assert generated.rows[:50] == list(dict.fromkeys(plain.rows))[:50]


def test_training_records_are_dropped_and_counted(run: RunDirectory, model: TrainedModel) -> None:
    training = hash_records(run.read_config().data)
    assert set(training.tolist()) == set(hash_texts(["a,1", "b,2", "1,a"]).tolist())
    known = {("a", "1"), ("b", "2"), ("1", "a")}
    assert known & set(RecordMaker(model, settings(400)).make(400).rows)
    generated = RecordMaker(model, settings(400, not_in_training=True), training).make(400)
    assert not known & set(generated.rows)
    assert generated.in_training > 0


def test_more_unique_records_than_there_are_end_the_generation_with_advice(model: TrainedModel) -> None:
    """At temperature 0 there is one."""
    likeliest = {"temperature": 0.0, "prompts": (",",), "unique": True}
    assert len(RecordMaker(model, settings(1, **likeliest)).make(1).rows) == 1
    with pytest.raises(JobFailedError, match=r"only 1 of 276 valid records are new .* ask for fewer, or raise"):
        RecordMaker(model, settings(2, **likeliest)).make(2)


def test_every_prompt_begins_its_share_of_the_records_in_order(model: TrainedModel) -> None:
    prompts = ("a", "", "b,1", "12")
    generated = RecordMaker(model, settings(6, prompts=prompts)).make(24)
    for number, text in enumerate(joined(generated)):
        assert text.startswith(prompts[number // 6])
    assert not generated.invalid
    assert RecordMaker(model, settings(6, prompts=prompts), masked=False).make(24).invalid


# Shards


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return open_folder(str(tmp_path / "out"))


def generation_of(run: RunDirectory, n: int, rows_per_shard: int = 50, **changes: Any) -> Generation:
    digest = describe_model(run.folder.child("model")).digest
    return Generation(run.uri, digest, settings(n, **changes), rows_per_shard)


def make_all(folder: Folder, model: TrainedModel, generation: Generation, numbers: Any = None) -> None:
    maker = RecordMaker(model, generation.settings)
    for number in range(generation.shards) if numbers is None else numbers:
        make_shard(maker, folder, generation.rows_per_shard, number)


def contents(folder: Folder) -> dict[str, str]:
    return {entry.name: hashlib.sha256(folder.read(entry.name)).hexdigest() for entry in folder.list()}


def table_of(folder: Folder) -> list[tuple[str, ...]]:
    return [tuple(row.values()) for row in pq.read_table(folder.uri).to_pylist()]


def test_shards_do_not_depend_on_the_order_they_are_made_in(
    run: RunDirectory, model: TrainedModel, folder: Folder, tmp_path: Path
) -> None:
    generation = generation_of(run, 40, prompts=("a", "b", "1"))
    make_all(folder, model, generation)
    other = open_folder(str(tmp_path / "other"))
    make_all(other, model, generation, [2, 0, 1])
    assert contents(folder) == contents(other)
    rows = table_of(folder)
    assert len(rows) == 120
    assert all(",".join(row).startswith("ab1"[number // 40]) for number, row in enumerate(rows))


def test_shards_share_no_draw_however_many_are_invalid(
    run: RunDirectory, model: TrainedModel, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[range] = []
    batches = Sampler.batches

    def listen(self: Sampler, n: int, *, first: int, **others: Any) -> Any:
        asked.append(range(first, first + n))
        return batches(self, n, first=first, **others)

    monkeypatch.setattr(Sampler, "batches", listen)
    make_all(folder, model, generation_of(run, 250, rules={"columns": {"x": {"pattern": "(?!.*[^a]).*"}}}))
    numbers = [number for each in asked for number in each]
    assert len(set(numbers)) == len(numbers) > 700
    assert {number // DRAWS_PER_SHARD for number in numbers} == set(range(5))
    assert len(set(table_of(folder)[:50])) < 50  # so equal records are not what tells draws apart


def test_a_shard_without_its_manifest_or_of_another_size_is_not_finished(
    run: RunDirectory, model: TrainedModel, folder: Folder
) -> None:
    generation = generation_of(run, 200)
    claim_folder(folder, generation)
    make_all(folder, model, generation)
    before = contents(folder)
    assert sorted(finished_shards(folder, 4)) == [0, 1, 2, 3]
    folder.delete("_generation/shards/part-00001.json")
    folder.delete("part-00002.parquet")
    folder.write("part-00003.parquet", folder.read("part-00003.parquet")[:-1])
    assert sorted(finished_shards(folder, 4)) == [0]
    with pytest.raises(ConfigError, match=r"part-00003.parquet is not as this generation wrote it: move it away"):
        make_all(folder, model, generation, [3])
    folder.delete("part-00003.parquet")
    make_all(folder, model, generation, [3, 1, 2])
    assert contents(folder) == before


def test_copies_across_shards_are_dropped_once_and_for_all(
    run: RunDirectory, model: TrainedModel, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = generation_of(run, 250, unique=True)
    make_all(folder, model, generation)
    whole = table_of(folder)
    infos = drop_repeated(folder, finished_shards(folder, 5), lambda _: None)
    after = contents(folder)
    assert table_of(folder) == list(dict.fromkeys(whole))
    summary = summarize(list(infos.values()))
    assert summary["records"] == len(set(whole)) < 250
    assert summary["repeated"] == sum(info.repeated for info in infos.values()) + 250 - len(set(whole))
    assert drop_repeated(folder, finished_shards(folder, 5), lambda _: None) == infos
    assert contents(folder) == after
    # Killed between a shard and what vouches for it, it is made anew, and ends the same.
    make_all(folder, model, generation, range(5))
    write = LocalFolder.write

    def killed(self: LocalFolder, name: str, data: bytes, **options: Any) -> None:
        if name == "_generation/shards/part-00002.json":
            raise KeyboardInterrupt
        write(self, name, data, **options)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFolder, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            drop_repeated(folder, finished_shards(folder, 5), lambda _: None)
    missing = set(range(5)) - set(finished_shards(folder, 5))
    assert missing == {2}
    make_all(folder, model, generation, missing)
    drop_repeated(folder, finished_shards(folder, 5), lambda _: None)
    assert contents(folder) == after


def test_a_folder_belongs_to_one_generation(run: RunDirectory, folder: Folder) -> None:
    generation = generation_of(run, 100, prompts=("a", "b"), rules={"columns": {"x": {"range": [0, 1]}}})
    claim_folder(folder, generation)
    assert read_generation(folder) == generation
    claim_folder(folder, replace(generation, actors=7, run_uri="moved"))
    assert read_generation(folder).actors == 7
    for other, name in (
        (replace(generation, rows_per_shard=51), "rows_per_shard (rows_per_shard is 50 there, 51 here)"),
        (generation_of(run, 100, prompts=("a", "c")), "prompts, validation (prompts is"),
        (replace(generation, model="other"), "model (model is"),
    ):
        with pytest.raises(ConfigError, match="holds a generation with other settings") as caught:
            claim_folder(folder, other)
        assert name in str(caught.value)


def test_a_folder_with_other_files_is_left_alone(run: RunDirectory, folder: Folder) -> None:
    folder.write("mine.txt", b"")
    with pytest.raises(ConfigError, match=r"holds other files, such as mine.txt: choose an empty folder"):
        claim_folder(folder, generation_of(run, 100))
    assert [entry.name for entry in folder.list()] == ["mine.txt"]


# The whole verb, with one shard or none: several need Ray (tests/ray/test_generation.py)


def ask(run: RunDirectory, n: int = 10, output: Path | str | None = None, **changes: Any) -> dict[str, Any]:
    sampling = {name: changes.pop(name) for name in ("unique", "not_in_training", "prompts") if name in changes}
    if "file" in changes:
        changes["prompts"] = (str(changes.pop("file")), "prompt")
    output = None if output is None else str(output)
    launch = Launch(
        quiet=True, **{name: changes.pop(name) for name in ("target", "address", "dry_run") if name in changes}
    )
    return generate(run, Request(settings(n, **sampling), output, **changes), launch)[0]


def test_one_shard_is_made_in_this_process_and_made_again_when_it_is_gone(run: RunDirectory, tmp_path: Path) -> None:
    out = tmp_path / "out"
    overrides = ["generation.columns={x: {allowed: [a, b]}, y: {pattern: '(?!2).*'}}", "generation.max_invalid=0.99"]
    answer = ask(run, 100, f"{out}/", overrides=overrides)
    assert (answer["records"], answer["shards"], answer["output"]) == (100, 1, str(out))
    assert set(answer["invalid"]) == {"y: does not match (?!2).*"}
    assert answer["left_out"] == sum(answer["invalid"].values())
    assert json.loads((out / "_generation/status.json").read_text())["state"] == "done"
    before = (out / "part-00000.parquet").read_bytes()
    assert {row["x"] for row in pq.read_table(out).to_pylist()} == {"a", "b"}
    (out / "part-00000.parquet").unlink()
    assert ask(run, 100, f"{out}/", overrides=overrides) == answer
    assert (out / "part-00000.parquet").read_bytes() == before
    assert RunDirectory.find(str(out), generations=True).current_status().message == "100 records in 1 files"


def test_the_screen_a_file_and_the_first_shard_have_the_same_records(run: RunDirectory, tmp_path: Path) -> None:
    texts = ask(run, 30)["texts"]
    ask(run, 30, tmp_path / "out.parquet")
    ask(run, 30, tmp_path / "out")
    for path in (tmp_path / "out.parquet", tmp_path / "out"):
        assert [",".join(row.values()) for row in pq.read_table(path).to_pylist()] == texts


def test_prompts_come_from_a_column_of_any_kind_of_file(run: RunDirectory, tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a", "b1"], "other": [1, 2]}), tmp_path / "p.parquet")
    (tmp_path / "p.csv").write_text("prompt,other\na,1\nb1,2\n")
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b1"}\n')
    (tmp_path / "p.json").write_text('[{"prompt": "a"},\n{"prompt": "b1"}]')
    (tmp_path / "p.tsv").write_bytes("\ufeffother\tprompt\r1\ta\r2\tb1\r".encode())
    (tmp_path / "p.txt").write_text("a\nb1\n")
    suffixes = ("parquet", "csv", "jsonl", "json", "tsv", "txt")
    answers = [ask(run, 3, file=tmp_path / f"p.{suffix}")["texts"] for suffix in suffixes]
    assert [text[:2][: 1 + number // 3] for number, text in enumerate(answers[0])] == ["a"] * 3 + ["b1"] * 3
    assert answers == [answers[0]] * 6


def test_not_in_training_of_a_private_run_says_what_epsilon_does_not_cover(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    privacy = {"enabled": True, "noise_multiplier": 1.0}
    private = make_run(tmp_path, privacy=privacy, tokenizer={"kind": "char", "alphabet": "ab12,"})
    ask(private, 5)
    assert not caplog.records
    assert ask(private, 1000, not_in_training=True)["in_training"] > 0
    assert "epsilon does not cover what is generated" in caplog.text


def test_what_cannot_be_generated_is_refused_in_one_line_and_nothing_is_written(
    run: RunDirectory, tmp_path: Path
) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "p.csv").write_text("other\na\n")
    pq.write_table(pa.table({"prompt": ["a", None]}), tmp_path / "p.parquet")
    before = sorted(tmp_path.rglob("*"))
    out = tmp_path / "out"
    refusals: list[tuple[dict[str, Any], type[RunnerError], str]] = [
        ({"prompts": ("añ",)}, ConfigError, "prompt 'añ': the model does not know 'ñ'"),
        ({"prompts": ("a" * 12,)}, ConfigError, "has 12 tokens, a record of this model at most 12"),
        ({"file": tmp_path / "none.csv"}, DataError, "none.csv: no such file"),
        ({"file": tmp_path / "none.parquet"}, DataError, "none.parquet: no such file"),
        ({"file": tmp_path / "p.csv"}, DataError, "p.csv has no column 'prompt': it has other"),
        ({"file": tmp_path / "p.parquet"}, ConfigError, "p.parquet: row 1 of column prompt holds no prompt"),
        ({"file": tmp_path / "empty.txt"}, DataError, "empty.txt holds no records"),
        (
            {"overrides": ["generation.columns={z: {}}"]},
            ConfigError,
            "generation.columns.z: no such column; there are x",
        ),
        ({"overrides": ["generation.validator=nowhere:f"]}, ConfigError, "generation.validator: cannot import nowhere"),
        ({"overrides": ["training.epochs=3"]}, ConfigError, "--set training.epochs=3: generate can change the section"),
        ({"output": "out.xlsx"}, ConfigError, "-o out.xlsx: a file must end in .csv, .jsonl or .parquet, and a folder"),
        ({"target": "ray"}, ConfigError, "--on ray: a cluster writes shards; give it a folder"),
        ({"target": "ray", "output": out}, ConfigError, "--on ray: no cluster named"),
        ({"target": "slurm", "output": out}, ConfigError, "--on slurm: no such target"),
        ({"n": 20_000_000}, ConfigError, "20,000,000 records are too many for one file"),
    ]
    for arguments, kind, line in refusals:
        with pytest.raises(kind) as caught:
            ask(run, **arguments)
        assert line in str(caught.value)
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_shows_the_exact_request(run: RunDirectory, tmp_path: Path) -> None:
    plan = ask(run, 10, tmp_path / "out", target="ray", address="http://head:8265", dry_run=True)
    assert plan["entrypoint"] == f"python -m runner.generation.drive {tmp_path}/out"
    assert plan["job"]["settings"]["records_per_prompt"] == 10
    assert not (tmp_path / "out").exists()


def test_a_generation_that_fails_says_so_in_its_folder_and_goes_on_when_it_can(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["generation.validator=tests.generation:complain"]
    with pytest.raises(JobFailedError, match="complain raised ValueError"):
        ask(run, 10, tmp_path / "out", overrides=overrides)
    status = RunDirectory.find(str(tmp_path / "out"), generations=True).current_status()
    assert (status.state, status.exit_code) == ("failed", 1)
    monkeypatch.setattr("tests.generation.complain", lambda record: None)
    assert ask(run, 10, tmp_path / "out", overrides=overrides)["records"] == 10


@pytest.mark.parametrize("is_asked_to", [True, False])
def test_a_rayjob_s_generation_fails_on_a_stop_only_when_nobody_asked_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_asked_to: bool
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise JobStoppedError("stopped")

    monkeypatch.setattr(drive, "drive_generation", stopped)
    if is_asked_to:
        RunDirectory(open_folder(str(tmp_path)).child(GENERATION)).request_stop()
    with contextlib.nullcontext() if is_asked_to else pytest.raises(JobStoppedError):
        drive._drive_as_job(str(tmp_path), threading.Event())
