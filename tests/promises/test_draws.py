"""Promise 20 for a table that is trained on draws: records are counted once, with noise, inside the target, and nothing
else of them is in the run."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest

from runner.data.examples import TokenSet
from runner.errors import JobFailedError, PrivacyError
from runner.privacy import measured
from runner.privacy.accountant import Release, epsilon
from runner.privacy.budget import SpendingLedger
from runner.privacy.entries import spent_before
from runner.privacy.ledger import RunLedger
from runner.storage import open_folder, read_manifest
from runner.train import drawn_tokens, facade, private_run
from runner.train.checkpoint import newest_checkpoint
from tests.promises.private_runs import report_of, resume, start
from tests.promises.test_looked_up import DELTA, FIELDS, ROWS, attack, charges, people, plan_release, table_job
from tests.runs import ROOT, history_of, names_of_no_run, weights_of

__all__ = ["people"]
TARGET = 3.0
DECLARED = FIELDS | {"job": {"kind": "category", "values": ["clerk", "cook", "nurse"], "outside": "rare"}}
RELEASES = ["schema", "columns", "pairs"]


def drawn_job(name: str, people: Path, runs: Path, fields: Any = None, **privacy: Any) -> dict[str, Any]:
    """Four steps on draws; what their counts and the jobs' names cost together is the target."""
    job = table_job(name, people, runs, fields)
    job["privacy"] = {"enabled": True, "target_epsilon": TARGET, "draws": 1000, "accountant": "rdp"} | privacy
    job["training"] |= {
        "batch_size": 500,
        "epochs": 2,
        "callbacks": [],
        "early_stopping": {"enabled": False},
        "save_best": False,
    }
    return job


@pytest.fixture(scope="module")
def drawn(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start(drawn_job("drawn", people, tmp_path_factory.mktemp("runs")))


def stored(run: Path) -> dict[str, bytes]:
    return {name: (run / "private" / f"{name}.json").read_bytes() for name in RELEASES}


def trained_on(run: Path) -> TokenSet:
    checkpoint = newest_checkpoint(open_folder(str(run / "checkpoints")))
    assert checkpoint is not None
    folder = open_folder(str(run.parent / ".cache" / "tokens" / checkpoint.state["tokens"]))
    return TokenSet.from_manifest(folder, read_manifest(folder))


def test_20_counts_take_the_target_and_are_in_every_ledger(drawn: Path) -> None:
    report, state = report_of(drawn), RunLedger.open(open_folder(str(drawn))).state
    assert [release["name"] for release in report["releases"]] == RELEASES
    assert report["steps"] == 0
    assert report["mechanism"] is None
    assert 0.998 * TARGET < report["epsilon"] <= TARGET
    assert report["epsilon"] == epsilon([(release, 1) for release in state.releases], state.delta, "rdp")
    reserved, named = ("drawn", 1, 1), ("drawn", 0, 3)
    assert charges(drawn.parent) == [reserved, reserved, named, named]
    for name, content in stored(drawn).items():
        release = Release.from_plain(json.loads(content)["release"])
        assert release == next(each for each in state.releases if each.name == name)
    assert {float(row["epsilon"]) for row in history_of(drawn)} == {report["epsilon"]}


def test_20_the_statement_of_a_run_on_draws_can_be_computed_again(drawn: Path) -> None:
    script = runpy.run_path(str(ROOT / "docs" / "recompute_epsilon.py"))
    report = report_of(drawn)
    stated = report | {f"release {release['name']}": release["epsilon"] for release in report["releases"]}
    for name, found in script["recompute"](report).items():
        assert script["agrees"](stated[name], found), name


def test_20_training_sees_draws_and_no_record(drawn: Path) -> None:
    assert names_of_no_run(drawn) == []
    tokens = trained_on(drawn)
    assert (tokens.examples, tokens.null_rows, tokens.stops) == (1000, 0, None)
    assert tokens.examples != ROWS
    assert tokens.key.count("-") == 2
    page = (drawn / "privacy.md").read_text()
    assert "| Training | on draws by the noisy counts below; no step looks at a record |" in page
    assert "| sex x job |" in page


def test_20_a_run_on_draws_that_is_killed_counts_what_is_left_to_count_and_no_more(
    drawn: Path, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released_once = measured.released_once
    with monkeypatch.context() as patch:

        def dies(folder: Any, release: Release, count: Any) -> Any:
            if release.name == "pairs":
                raise JobFailedError("killed")
            return released_once(folder, release, count)

        patch.setattr(measured, "released_once", dies)
        with pytest.raises(JobFailedError, match="killed"):
            start(drawn_job("killed", people, tmp_path))
    run = tmp_path / "killed"
    assert charges(tmp_path)[-1] == ("killed", 0, 3), "charged before it was drawn"
    columns = (run / "private" / "columns.json").read_bytes()
    assert not (run / "private" / "pairs.json").exists()
    resume(run)
    assert (run / "private" / "columns.json").read_bytes() == columns
    first, weights = stored(run), weights_of(run)
    resume(run, "training.epochs=3")
    assert stored(run) == first
    assert charges(tmp_path)[-1] == ("killed", 0, 3)
    assert report_of(run)["epsilon"] <= TARGET
    assert weights_of(run) != weights


def test_20_nothing_of_the_records_is_read_after_they_were_counted(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are gone by then, and so are their tokens: the run draws, trains, validates and ends without them."""
    records = tmp_path / "records"
    shutil.copytree(people, records)
    measure = drawn_tokens.measure

    def then_gone(*arguments: Any) -> Any:
        found = measure(*arguments)
        shutil.rmtree(records)
        shards = [file for file in (tmp_path / ".cache" / "tokens").rglob("*") if "manifest" not in file.name]
        private = [file for file in shards if file.is_file() and file.suffix != ".json"]
        assert private, "there were tokens of the records"
        for file in private:
            file.unlink()
        return found

    monkeypatch.setattr(drawn_tokens, "measure", then_gone)
    job = drawn_job("blind", records, tmp_path, DECLARED)
    job["training"] |= {"validation_split": True, "batch_size": 200}
    try:
        run = start(job)
    except Exception as error:  # Of which kind says where, and matters to nobody.
        raise AssertionError("something was read that is private and counted already") from error
    assert not records.exists()
    assert len(history_of(run)) == 2
    assert trained_on(run).examples == 1000


def test_20_no_other_run_takes_what_is_left_while_a_schema_is_bought(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a limit that pays for one run and the schema of another: the second comes when the first has its schema."""
    limit = 1.3 * TARGET
    released_once, refused = private_run.released_once, []

    def rivalled(folder: Any, release: Release, count: Any) -> Any:
        released = released_once(folder, release, count)
        monkeypatch.setattr(private_run, "released_once", released_once)
        with pytest.raises(PrivacyError, match="does not pay for the run: earlier runs on the same files took") as why:
            start(drawn_job("second", people, tmp_path, max_epsilon=limit))
        refused.append(why)
        return released

    def dies(*_arguments: Any) -> None:
        raise JobFailedError("killed")

    monkeypatch.setattr(private_run, "released_once", rivalled)
    monkeypatch.setattr(facade, "draw_tokens", dies)
    with pytest.raises(JobFailedError, match="killed"):
        start(drawn_job("first", people, tmp_path, max_epsilon=limit))
    assert len(refused) == 1
    assert charges(tmp_path)[-1] == ("first", 0, 3), "the counts' turn came, and they were paid for"
    assert {name for name, *_ in charges(tmp_path)} == {"first"}
    state = RunLedger.open(open_folder(str(tmp_path / "first"))).state
    (taken,) = spent_before(SpendingLedger(open_folder(str(tmp_path))).of_files(state.files).read(), state.files)
    assert 0.998 * TARGET < epsilon(taken, state.delta, "rdp") <= TARGET, "what was reserved is not counted beside"


def test_20_draws_that_are_gone_are_made_again_as_they_were(people: Path, tmp_path: Path) -> None:
    run = start(drawn_job("again", people, tmp_path, DECLARED))
    tokens = trained_on(run)
    before = {shard.name: shard.ids_sha256 for shard in tokens.shards}
    for file in Path(tokens.folder.uri).iterdir():
        file.unlink()
    resume(run, "training.epochs=3")
    assert {shard.name: shard.ids_sha256 for shard in trained_on(run).shards} == before


def test_20_an_attack_on_counts_of_different_noise_finds_no_more_than_is_claimed() -> None:
    weights = {"columns/a": 0.1, "columns/b": 0.1, "pairs/a x b": 0.8}
    release = plan_release("marginals", weights, (), 2.0, DELTA)
    assert attack(release) <= epsilon([(release, 1)], DELTA)
