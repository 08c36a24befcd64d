"""Promise 20 for a private table with texts: the other columns are learned of noisy counts, the texts by steps with
noise, and the target pays for both."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load

from runner.data.examples import Examples, TokenSet
from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.data.tokenizers.saved import from_files
from runner.errors import JobFailedError, PrivacyError
from runner.privacy.accountant import epsilon
from runner.privacy.budget import SpendingLedger
from runner.privacy.ledger import RunLedger
from runner.storage import open_folder, read_manifest, read_published
from runner.train import columns, feed
from runner.train.checkpoint import newest_checkpoint
from tests.promises import observers
from tests.promises.private_runs import private_job, report_of, resume, start
from tests.runs import ROOT, history_of, names_of_no_run, weights_of

ROWS, TARGET, STEPS, DRAWS = 1200, 3.0, 4, 1000
FIELDS: dict[str, Any] = {
    "sex": {"kind": "category", "values": ["f", "m"]},
    "note": {"kind": "text", "tokenizer": "char", "alphabet": "abcdefgh", "max_tokens": 6},
    "wage": {"kind": "integer", "range": [0, 50]},
}


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = np.random.default_rng(3)
    folder = tmp_path_factory.mktemp("notes")
    rows = {
        "sex": draw.choice(["f", "m"], ROWS),
        "note": draw.choice(["abba", "cede", "fade", "head"], ROWS),
        "wage": draw.integers(0, 51, ROWS),
        "person": [f"p{number}" for number in draw.integers(0, 500, ROWS)],
    }
    pq.write_table(pa.table(rows), folder / "part-0.parquet")
    return folder


def texts_job(name: str, notes: Path, runs: Path, fields: Any = None, **privacy: Any) -> dict[str, Any]:
    """Four steps on texts, after what the counts' draws have taught."""
    settings = {"target_epsilon": TARGET, "noise_multiplier": None, "draws": DRAWS, "accountant": "rdp"}
    job = private_job(name, notes, runs, settings | privacy, epochs=2, batch_size=600)
    job["training"]["validation_split"] = False
    job["training"]["checkpoint_every_s"] = 1e-6
    del job["tokenizer"], job["examples"]
    return job | {"fields": fields or FIELDS, "data": {"uri": str(notes)}}


class Watched:
    """What a run's steps were fed with: batches by the name of the tokens that they are of, and what each released."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.batches: dict[str, list[Any]] = {}
        load = feed.load_batch

        def watching(examples: Any, *arguments: Any, **options: Any) -> Any:
            batch = load(examples, *arguments, **options)
            self.batches.setdefault(examples.tokens.key, []).append(batch)
            return batch

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(feed, "load_batch", watching)
            self.run = start(job)
        self.moves = list(observers.moves)


@pytest.fixture(scope="module")
def watched(notes: Path, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    return Watched(texts_job("texts", notes, tmp_path_factory.mktemp("runs")))


def tokenizer_of(run: Path) -> FieldTokenizer:
    tokenizer = from_files(read_published(open_folder(str(run / "model"))))
    assert isinstance(tokenizer, FieldTokenizer)
    return tokenizer


def state_of(run: Path) -> Any:
    return RunLedger.open(open_folder(str(run))).state


def charges(runs: Path) -> list[tuple[int, int]]:
    """Of the ledger over runs: each entry's steps and releases."""
    return [(entry.steps, len(entry.releases)) for entry in SpendingLedger(open_folder(str(runs))).read()]


def drawn_rows(run: Path, runs: Path) -> list[NDArray[np.integer]]:
    """The tokens of each record that the first part was trained on."""
    checkpoint = newest_checkpoint(open_folder(str(run / "columns" / "checkpoints")))
    assert checkpoint is not None
    folder = open_folder(str(runs / ".cache" / "tokens" / checkpoint.state["tokens"]))
    tokens = TokenSet.from_manifest(folder, read_manifest(folder))
    return Examples(tokens, cache_gib=1).rows(np.arange(tokens.examples))


def columns_of(run: Path) -> dict[str, NDArray[Any]]:
    """The weights that the first part ended with."""
    checkpoint = newest_checkpoint(open_folder(str(run / "columns" / "checkpoints")))
    assert checkpoint is not None
    return {name.removeprefix("weights/"): each for name, each in checkpoint.tensors.items() if "weights/" in name}


def test_20_counts_and_steps_share_the_target_and_are_in_every_ledger(watched: Watched) -> None:
    report, state = report_of(watched.run), state_of(watched.run)
    assert [release["name"] for release in report["releases"]] == ["columns", "pairs"]
    assert report["steps"] == STEPS == len(watched.moves)
    counts = [(release, 1) for release in state.releases]
    assert 0.49 * TARGET < epsilon(counts, state.delta, "rdp") <= 0.5 * TARGET
    assert report["epsilon"] == epsilon([*counts, (state.mechanism, STEPS)], state.delta, "rdp")
    assert 0.99 * TARGET < report["epsilon"] <= TARGET
    assert set(charges(watched.run.parent)) == {(STEPS, 2)}, "charged before it was drawn, and for good"
    assert float(history_of(watched.run)[-1]["epsilon"]) == report["epsilon"]
    assert names_of_no_run(watched.run) == []


def test_20_the_statement_of_counts_and_steps_can_be_computed_again(watched: Watched) -> None:
    script = runpy.run_path(str(ROOT / "docs" / "recompute_epsilon.py"))
    report = report_of(watched.run)
    stated = report | {f"release {release['name']}": release["epsilon"] for release in report["releases"]}
    for name, found in script["recompute"](report).items():
        assert script["agrees"](stated[name], found), name
    page = (watched.run / "privacy.md").read_text()
    assert "| Columns that are not texts | on draws by the noisy counts below |" in page
    assert "| Steps taken | 4 |" in page


def test_20_columns_are_learned_of_draws_and_of_no_record(watched: Watched) -> None:
    checkpoint = newest_checkpoint(open_folder(str(watched.run / "columns" / "checkpoints")))
    assert checkpoint is not None
    batches = watched.batches[checkpoint.state["tokens"]]
    is_text = tokenizer_of(watched.run).text_tokens()
    assert sum(len(batch.targets) for batch in batches) == DRAWS
    assert not any(is_text[batch.targets].any() for batch in batches), "draws have no texts"
    (of_records,) = watched.batches.keys() - {checkpoint.state["tokens"]}
    assert len(watched.batches[of_records]) == STEPS


def test_20_a_step_has_the_tokens_of_texts_in_its_loss_and_no_others(watched: Watched) -> None:
    checkpoint = newest_checkpoint(open_folder(str(watched.run / "checkpoints")))
    assert checkpoint is not None
    is_text = tokenizer_of(watched.run).text_tokens()
    for batch in watched.batches[checkpoint.state["tokens"]]:
        np.testing.assert_array_equal(batch.weights, is_text[batch.targets])
        assert batch.weights.sum() > 4 * len(batch.targets)


def test_20_steps_move_the_weights_of_texts_and_leave_the_others_as_draws_made_them(watched: Watched) -> None:
    is_text = tokenizer_of(watched.run).text_tokens()
    before, after = columns_of(watched.run), load(weights_of(watched.run))
    of_texts = {"embedding": is_text[:, None], "dense/kernel": is_text[None], "dense/bias": is_text}
    for name, weights in before.items():
        moves = np.broadcast_to(of_texts.get(name, np.zeros(1, bool)), weights.shape)
        np.testing.assert_array_equal(after[name][~moves], weights[~moves], name)
        if name in of_texts:
            assert (after[name][moves] != weights[moves]).mean() > 0.9, "by noise, if by nothing else"


def test_20_columns_come_out_in_the_order_of_the_job(watched: Watched) -> None:
    assert tokenizer_of(watched.run).schema.arrow.names == list(FIELDS)


def test_20_a_killed_first_part_goes_on_as_if_it_had_not_been(
    notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, steps = columns.TrainingStep.train, []

    def dies(self: Any, *arguments: Any, **options: Any) -> Any:
        steps.append(1)
        if len(steps) == 2:
            raise JobFailedError("killed")
        return train(self, *arguments, **options)

    monkeypatch.setattr(columns.TrainingStep, "train", dies)
    with pytest.raises(JobFailedError, match="killed"):
        start(texts_job("killed", notes, tmp_path))
    run = tmp_path / "killed"
    before = newest_checkpoint(open_folder(str(run / "columns" / "checkpoints")))
    assert before is not None
    assert before.step == 1
    assert set(charges(tmp_path)) == {(STEPS, 2)}
    counts = {file: (run / "private" / file).read_bytes() for file in ("columns.json", "pairs.json")}
    copy = shutil.copytree(run, tmp_path / "copy")
    shutil.rmtree(copy / "columns")
    for each in (run, copy):
        resume(each)
        assert {file: (each / "private" / file).read_bytes() for file in counts} == counts
        assert report_of(each)["steps"] == STEPS
    for name, weights in columns_of(copy).items():
        np.testing.assert_array_equal(columns_of(run)[name], weights, name)


def test_20_a_killed_second_part_repeats_its_steps_and_nothing_of_the_first(notes: Path, tmp_path: Path) -> None:
    run = start(texts_job("second", notes, tmp_path), die=3)
    first = columns_of(run)
    resume(run)
    assert len(observers.moves) < STEPS
    for name, weights in columns_of(run).items():
        np.testing.assert_array_equal(first[name], weights, name)
    assert report_of(run)["steps"] == STEPS
    assert report_of(run)["epsilon"] <= TARGET


def test_20_a_bought_schema_is_paid_for_beside_counts_and_steps(notes: Path, tmp_path: Path) -> None:
    fields = FIELDS | {"sex": {"kind": "category"}}
    run = start(texts_job("bought", notes, tmp_path, fields))
    report, state = report_of(run), state_of(run)
    assert [release["name"] for release in report["releases"]] == ["schema", "columns", "pairs"]
    assert report["steps"] == STEPS
    assert 0.99 * TARGET < report["epsilon"] <= TARGET
    assert report["epsilon"] == epsilon(state.spent, state.delta, "rdp")
    tokenizer = tokenizer_of(run)
    assert tokenizer.schema.learned.names[-1] == "note", "texts come last, wherever they are in the job"
    assert not any(tokenizer.text_tokens()[row].any() for row in drawn_rows(run, tmp_path))
    assert charges(tmp_path)[0] == (1, 1), "reserved, until it is known what is counted"
    assert charges(tmp_path)[-1] == (STEPS, 3)


def test_20_persons_are_counted_and_drawn_as_persons(notes: Path, tmp_path: Path) -> None:
    job = texts_job("persons", notes, tmp_path, unit="person", max_records_per_unit=3)
    job["training"]["batch_size"] = 200
    run = start(job)
    report = report_of(run)
    assert {each["sensitivity"] for release in report["releases"] for each in release["histograms"]} == {3}
    assert report["mechanism"]["examples"] == report["persons"]["persons"] < 500
    assert report["epsilon"] <= TARGET


def test_20_a_limit_is_checked_for_counts_and_steps_together(notes: Path, tmp_path: Path) -> None:
    run = start(texts_job("limited", notes, tmp_path, max_epsilon=0.8 * TARGET))
    report = report_of(run)
    assert report["steps"] < STEPS
    assert report["epsilon"] <= 0.8 * TARGET
    with pytest.raises(PrivacyError, match="does not pay for a single step"):
        start(texts_job("refused", notes, tmp_path, max_epsilon=0.8 * TARGET))
    assert not (tmp_path / "refused").exists()
