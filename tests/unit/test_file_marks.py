"""What the ledger over runs calls the files: nothing that tells about them, and nothing by which a budget is lost."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from runner.config import parse_job
from runner.errors import CorruptError, PrivacyError
from runner.privacy.accountant import epsilon
from runner.privacy.budget import SpendingLedger, plan_budget
from runner.privacy.entries import spent_before, uncounted_in_words
from runner.privacy.file_marks import MARK, FileMarks
from runner.storage import Folder, open_folder
from runner.storage.manifest import contents_sha256, sha256
from tests.spending_contract import DELTA, MECHANISM, charge, entry

FINGERPRINT, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def storage(tmp_path: Path) -> Folder:
    return open_folder(str(tmp_path / "runs"))


def contents(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def old_entry(storage: Folder, run_id: str, steps: int, number: int) -> None:
    """As earlier versions wrote it: with the plain fingerprint."""
    folder = storage.child(".privacy")
    previous = sha256(folder.read(f"{number - 1:012d}.json")) if number > 1 else ""
    document = {"previous": previous, **entry(run_id, steps, [FINGERPRINT]).to_plain()}
    signed = document | {"sha256": contents_sha256(document)}
    folder.create(f"{number:012d}.json", json.dumps(signed, sort_keys=True).encode())


def taken(storage: Folder, file: str = FINGERPRINT) -> int:
    (history,) = spent_before(SpendingLedger(storage).of_files([file]).read(), [file])
    return sum(steps for _, steps in history)


def test_no_fingerprint_of_a_file_is_in_the_ledger_over_runs(storage: Folder, tmp_path: Path) -> None:
    charge(storage, entry("1", 10, [FINGERPRINT, OTHER]))
    SpendingLedger(storage).note_plain_run("demo", [FINGERPRINT])
    for told in (FINGERPRINT, OTHER):
        assert told.encode() not in contents(tmp_path)
    assert taken(storage, OTHER) == 10


def test_marks_are_the_same_for_a_file_and_other_ones_in_another_storage(storage: Folder) -> None:
    ledgers = [storage.child(name) for name in ("one", "other")]
    one, other = (FileMarks.of(ledger) for ledger in ledgers)
    assert FileMarks.of(ledgers[0]) == one
    assert MARK.fullmatch(one.mark(FINGERPRINT))
    assert one.mark(FINGERPRINT) == one.mark(one.mark(FINGERPRINT)) != one.mark(OTHER)
    digests = {marks.mark(FINGERPRINT).rpartition("-")[2] for marks in (one, other)}
    assert len(digests) == 2, "not only the secret's name is another one"
    assert one.secret.decode() not in repr(one)


def test_what_earlier_versions_wrote_down_stays_spent_beside_what_is_charged_now(storage: Folder) -> None:
    old_entry(storage, "1", 10, 1)
    old_entry(storage, "2", 20, 2)
    assert taken(storage) == 30, "without a secret, before anything is written"
    assert not storage.exists(".privacy/secret/key")
    charge(storage, entry("3", 5, [FINGERPRINT]))
    assert taken(storage) == 35
    charge(storage, entry("2", 7, [FINGERPRINT]))
    assert taken(storage) == 22, "the same run, whatever its file was called"


@pytest.mark.parametrize("secret", [None, b"0" * 64])
def test_a_secret_that_is_gone_or_another_one_is_refused(storage: Folder, secret: bytes | None) -> None:
    charge(storage, entry("1", 10, [FINGERPRINT]))
    folder = storage.child(".privacy/secret")
    folder.delete("key")
    if secret is not None:
        folder.write("key", secret)
    for use in (SpendingLedger(storage).read, lambda: charge(storage, entry("2", 1))):
        with pytest.raises(CorruptError, match=r"secret/key is missing or another one.*restore it"):
            use()
    folder.write("key", b"damaged")
    with pytest.raises(CorruptError, match="damaged"):
        SpendingLedger(storage).read()


def job(**privacy: Any) -> Any:
    document = {
        "name": "demo",
        "data": {"uri": "records/"},
        "tokenizer": {"kind": "byte"},
        "training": {"batch_size": 20},
        "privacy": {"enabled": True, "noise_multiplier": 2.0, **privacy},
    }
    return parse_job(document, environment={})


def test_a_run_without_privacy_counts_as_infinite_for_its_files_and_is_noted_once(storage: Folder) -> None:
    ledger = SpendingLedger(storage)
    for name in ("demo", "demo.002"):
        ledger.note_plain_run(name, [FINGERPRINT])
    assert len(storage.list(".privacy/plain/")) == 1
    charge(storage, entry("1", 10, [FINGERPRINT]), entry("2", 10, [OTHER]))
    seen = SpendingLedger(storage).of_files([FINGERPRINT, OTHER]).read()
    (history,) = spent_before(seen, [FINGERPRINT])
    assert epsilon(history, DELTA) == math.inf
    assert "1, on the same files" in uncounted_in_words(history, None)["earlier runs without privacy"]
    assert spent_before(seen, [OTHER]) == [[(MECHANISM, 10)]], "other files are not touched"
    assert uncounted_in_words([(MECHANISM, 10)], None) == {}
    with pytest.raises(PrivacyError, match="earlier runs on the same files took epsilon infinite"):
        plan_budget(job(max_epsilon=8.0), MECHANISM, DELTA, [history])
    assert plan_budget(job(), MECHANISM, DELTA, [history]).allowed_steps is None, "without a limit it goes on"


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b'{"name": "x", "files": [], "time": 1, "sha256": "0"}'])
def test_a_damaged_note_is_refused(storage: Folder, content: bytes) -> None:
    SpendingLedger(storage).note_plain_run("demo", [FINGERPRINT])
    (noted,) = storage.list(".privacy/plain/")
    storage.write(noted.name, content)
    with pytest.raises(CorruptError, match="is damaged"):
        SpendingLedger(storage).read()
