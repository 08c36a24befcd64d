"""A run with canaries: made-up records that are counted, trained on by a secret coin, and measured at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner.data.canaries import WithCanaries
from runner.errors import ConfigError
from runner.privacy.ledger import RunLedger
from runner.privacy.noise import key_stream
from runner.privacy.one_run import toss_coins
from runner.storage import open_folder
from tests.promises.derivations import derivations, found_in
from tests.promises.private_runs import (
    CLIP,
    NOISE,
    RECORDS,
    TRAINED,
    Seen,
    config_of,
    private_job,
    releases,
    resume,
    start,
    watched_batches,
)
from tests.promises.test_draws import DECLARED, drawn_job
from tests.promises.test_looked_up import ROWS, people, table_job

__all__ = ["people"]

CANARIES = 64
Measured = tuple[Path, Seen, WithCanaries, float, list[np.ndarray]]


def canary_job(name: str, records: Path, runs: Path, **privacy: Any) -> dict[str, Any]:
    return private_job(name, records, runs, {"canaries": CANARIES, **privacy}, epochs=2)


def coins_of(run: Path) -> np.ndarray:
    return toss_coins(RunLedger.open(open_folder(str(run))).key, CANARIES)


@pytest.fixture(scope="module")
def measured(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """A run, the positions that it was fed with, the examples that they are of, the noise's standard deviation, and the
    canaries' losses by the first weights and by the last."""
    from runner.train import canary_scores, worker

    made: list[WithCanaries] = []
    losses: list[np.ndarray] = []
    mean_losses = canary_scores.mean_losses

    class Kept(WithCanaries):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    def kept(*arguments: Any) -> np.ndarray:
        losses.append(mean_losses(*arguments))
        return losses[-1]

    with pytest.MonkeyPatch.context() as patch, watched_batches() as seen:
        patch.setattr(worker, "WithCanaries", Kept)
        patch.setattr(canary_scores, "mean_losses", kept)
        run = start(canary_job("measured", records, tmp_path_factory.mktemp("measured")))
    return run, seen, made[0], float(np.std(releases())), losses


def test_canaries_count_as_records_join_by_their_coins_and_are_never_validated_with(
    measured: Measured,
) -> None:
    run, seen, fed, deviation, _ = measured
    assert deviation == pytest.approx(NOISE * CLIP, rel=0.02)
    statement = json.loads((run / "privacy.json").read_text())
    assert statement["mechanism"]["examples"] == TRAINED + CANARIES
    assert statement["measured"]["canaries"] == CANARIES
    trained, validated = np.concatenate(seen.trained), np.concatenate(seen.validated)
    assert len({*range(RECORDS, RECORDS + CANARIES)} & {*trained}) > CANARIES * 0.7  # of two epochs, 86% are expected
    assert validated.max() < RECORDS
    coins = coins_of(run)
    positions = fed.canary_positions
    assert statement["measured"]["inside"] == coins.sum()
    assert ((fed.lengths[positions] > 1) == coins).all()
    empty = fed.tokens.end_id
    assert all(len(row) == 2 and (row == empty).all() for row in fed.rows(positions[~coins]))
    rows = fed.rows(positions[coins])
    assert len({tuple(row) for row in rows}) == coins.sum()
    mixed = np.array([positions[0], 0, positions[1], 5])
    assert [len(row) for row in fed.rows(mixed)] == (fed.lengths[mixed] + 1).tolist()
    page = (run / "privacy.md").read_text()
    assert "| Measured, proven | measured at least 0.0000 (95% confidence), proven at most " in page
    assert "64 made-up records of random tokens joined the training" in page


def test_of_all_canaries_an_eighth_whose_loss_fell_most_are_guessed_to_be_in(measured: Measured) -> None:
    run, *_, (first, last) = measured
    found = json.loads((run / "privacy.json").read_text())["measured"]
    guessed = sorted(range(CANARIES), key=lambda canary: last[canary] - first[canary])[: CANARIES // 8]
    assert (found["guesses"], found["right"]) == (CANARIES // 8, coins_of(run)[guessed].sum())


def test_coins_are_told_nowhere(measured: Measured) -> None:
    run, *_ = measured
    coins = coins_of(run)
    stream = RunLedger.open(open_folder(str(run))).key.for_coins()
    bits = [np.packbits(coins, bitorder=order).tobytes() for order in ("big", "little")]
    text = "".join(map(str, coins.astype(int))).encode()
    telling = derivations([*bits, text, stream, key_stream(stream, 0)(CANARIES)], [b"coins", run.name.encode()])
    for path in (each for each in run.parent.rglob("*") if each.is_file()):
        content = path.read_bytes()
        assert not found_in(content, telling), path
        assert text not in content, path
        for secret in (np.packbits(coins), *(coins.astype(kind) for kind in (np.uint8, np.int32, np.int64))):
            assert secret.tobytes() not in content, path
        assert str(coins.tolist()).lower() not in content.decode(errors="replace").lower(), path


def test_a_killed_run_goes_on_with_the_same_canaries(records: Path, tmp_path: Path) -> None:
    run = start(canary_job("killed", records, tmp_path), die=6)
    before = coins_of(run)
    resume(run)
    statement = json.loads((run / "privacy.json").read_text())
    assert len(statement["steps_of_branches"]) == 1
    assert statement["measured"]["inside"] == before.sum()


@pytest.mark.parametrize("order", ["schema", "random"])
def test_the_canaries_of_a_table_are_rows_that_its_schema_allows(people: Path, tmp_path: Path, order: str) -> None:
    job = table_job(order, people, tmp_path, DECLARED, schema_epsilon=None, canaries=CANARIES)
    job["examples"], job["training"]["callbacks"] = {"field_order": order}, []
    statement = json.loads((start(job) / "privacy.json").read_text())
    assert statement["mechanism"]["examples"] == ROWS + CANARIES
    assert statement["measured"]["canaries"] == CANARIES


def test_counts_have_no_canaries(people: Path, tmp_path: Path) -> None:
    job = drawn_job("counted", people, tmp_path, DECLARED)
    job["privacy"] = {**job["privacy"], "canaries": 10}
    with pytest.raises(ConfigError, match=r"privacy.canaries: noisy counts are kept in model/.*method to steps"):
        config_of(job)


def test_without_canaries_nothing_is_said_of_them(whole: Any) -> None:
    statement = json.loads((whole.run / "privacy.json").read_text())
    assert "measured" not in statement
    assert "canaries" not in statement["also_touched_the_records"]
