"""On a disk, secrets are for the user alone, from the moment that they are written, whatever the umask says."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.privacy.accountant import Mechanism
from runner.privacy.file_marks import FileMarks
from runner.privacy.ledger import LedgerState, RunLedger
from runner.storage import local, open_folder
from runner.storage.fenced import FencedFolder

STATE = LedgerState(
    run_id="r",
    tokens="t",
    mechanism=Mechanism(examples=400, batch_size=20, noise_multiplier=2.0),
    delta=1e-4,
    accountant="pld",
    limit=None,
    before=(),
    allowed_steps=None,
    files=("f",),
)


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o177], ids="umask {:03o}".format)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(0o022)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_key_and_the_ledger_of_a_run_are_the_user_s_alone(tmp_path: Path, umask: int) -> None:
    folder = open_folder(str(tmp_path))
    os.umask(umask)
    RunLedger.create(FencedFolder(folder, lambda: None), STATE)
    os.umask(0o022)
    assert mode(tmp_path / "private") == 0o700
    assert {mode(path) for path in (tmp_path / "private").iterdir()} == {0o600}
    folder.write("status.json", b"{}")
    assert mode(tmp_path / "status.json") == 0o644, "other files are as the umask has them"


def test_a_secret_is_never_readable_for_others_not_even_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The modes at the time when bytes are written, and not those that are corrected afterwards."""
    seen: list[int] = []
    fsync = os.fsync

    def look(descriptor: int) -> None:
        if stat.S_ISREG((found := os.fstat(descriptor)).st_mode):
            seen.append(stat.S_IMODE(found.st_mode))
        fsync(descriptor)

    monkeypatch.setattr(local, "restrict", lambda path, mode: None)
    monkeypatch.setattr(os, "fsync", look)
    before = os.umask(0)
    try:
        open_folder(str(tmp_path)).private_child("private").write("key", b"secret")
    finally:
        os.umask(before)
    assert seen == [0o600]
    assert mode(tmp_path / "private") == 0o700


def test_what_earlier_versions_left_open_is_closed_by_the_next_write(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir(mode=0o755)
    (tmp_path / "private" / "key").write_bytes(b"old")
    (tmp_path / "private" / "key").chmod(0o644)
    folder = open_folder(str(tmp_path)).private_child("private")
    folder.write("key", b"new")
    assert (mode(tmp_path / "private"), mode(tmp_path / "private" / "key")) == (0o700, 0o600)
    assert not folder.create("key", b"another")
    assert folder.child("below").uri.endswith("private/below")
    folder.child("below").write("x", b"")
    assert (mode(tmp_path / "private" / "below"), mode(tmp_path / "private" / "below" / "x")) == (0o700, 0o600)


@pytest.mark.parametrize(("around", "expected"), [(0o755, 0o600), (0o775, 0o660), (0o777, 0o666)])
def test_the_secret_of_marks_is_for_those_who_may_add_runs(tmp_path: Path, around: int, expected: int) -> None:
    (tmp_path / ".privacy").mkdir()
    (tmp_path / ".privacy").chmod(around)
    FileMarks.of(open_folder(str(tmp_path)).child(".privacy"))
    assert mode(tmp_path / ".privacy" / "secret" / "key") == expected
