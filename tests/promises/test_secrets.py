"""Promise 9, by derivation: no public byte of a run equals anything that its secrets are commonly made into."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner.privacy.file_marks import FileMarks
from runner.privacy.noise import draw_noise
from runner.run_directory import RunDirectory
from runner.storage import LocalFolder
from runner.submit.launch import Launch
from runner.submit.start import resume_run
from tests.promises.derivations import derivations, found_in
from tests.promises.dry_runs import DryRun
from tests.promises.private_runs import private_job, start

SECRET_FOLDERS = ("private", "secret")


def secrets_of(run: DryRun) -> list[bytes]:
    """A run's key and what is derived from it, the beginnings of its streams, and the storage's secret."""
    ledger = run.ledger
    ledger_key, branch_key = ledger.key, ledger.branch_key
    found = [bytes.fromhex(ledger_key.hexadecimal), bytes.fromhex(branch_key.hexadecimal)]
    for key in (ledger_key, branch_key):
        sampling = key.for_sampling(ledger.branch)
        noise = key.for_noise(ledger.branch, run.written.branches[-1].conditions)
        drawn = draw_noise(noise, 0, 1e6, 64).tobytes()
        found += [noise, b"".join(part.to_bytes(8) for part in sampling), drawn]
    marks = FileMarks.find(LocalFolder(Path(run.config.storage.uri) / ".privacy"))
    assert marks is not None
    return [*found, bytes.fromhex(marks.secret.decode()), marks.secret, marks.person_key]


def words_of(run: DryRun) -> list[bytes]:
    """What is public of a run, and might be hashed with a secret."""
    state = run.written
    names = ("", "key", "id", "name", "run", "mark", "noise", "sampling", "0", run.config.name)
    return [name.encode() for name in (*names, state.run_id, state.place, state.tokens, *state.files)]


def public_files(storage: Path) -> Iterator[Path]:
    for path in storage.rglob("*"):
        if path.is_file() and not set(path.relative_to(storage).parts[:-1]) & set(SECRET_FOLDERS):
            yield path


def assert_nothing_tells(run: DryRun, *told: str) -> None:
    """In no public file or its name, nor in what was `told`."""
    telling = derivations(secrets_of(run), words_of(run))
    storage = Path(run.config.storage.uri)
    contents = {str(path): str(path).encode() + b"\0" + path.read_bytes() for path in public_files(storage)}
    assert len(contents) > 3
    contents |= {f"told {number}": text.encode() for number, text in enumerate(told)}
    for where, content in contents.items():
        assert not found_in(content, telling), f"{where} tells of a secret"


@pytest.mark.parametrize(
    "publish",
    [
        lambda key: key.hex(),
        lambda key: key.hex()[::-1],
        lambda key: key[::-1].hex(),
        lambda key: hashlib.sha256(key).hexdigest()[:16],
        lambda key: hashlib.sha512(key.hex().encode()).hexdigest()[-16:],
        lambda key: base64.b64encode(hashlib.blake2b(key).digest()).decode(),
        lambda key: hmac.new(key, b"demo", "sha256").hexdigest()[8:30],
        lambda key: bytes(byte ^ 0x5C for byte in key).hex().upper(),
        lambda key: str(int.from_bytes(key[8:16], "big")),
    ],
)
def test_09_whatever_is_made_of_a_secret_is_found(publish: Callable[[bytes], str]) -> None:
    key = hashlib.sha256(b"a secret").digest()
    telling = derivations([key], [b"demo"])
    assert found_in(f"run demo is {publish(key)}.".encode(), telling)
    others = "".join(hashlib.sha256(f"{number}".encode()).hexdigest() for number in range(500))
    assert not found_in(others.encode(), telling)


def test_09_nothing_that_a_secret_is_made_into_leaves_a_run_s_ledgers(
    records: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """All that is written, printed, logged and shown around a run whose steps are not taken."""
    caplog.set_level(logging.DEBUG)
    run = DryRun.begin("demo", records, tmp_path)
    ledger = run.take(4)
    run.resume()
    run.end(ledger, 4)
    shown = [repr(each) for each in (ledger, ledger.key, ledger.branch_key, ledger.state, vars(ledger))]
    printed = "".join(capfd.readouterr())
    assert_nothing_tells(run, caplog.text, printed, *shown)


def test_09_nothing_that_a_secret_is_made_into_leaves_a_run(
    records: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nor its logs, its checkpoints, its model and its answers."""
    caplog.set_level(logging.DEBUG, "runner")
    place = start(private_job("demo", records, tmp_path, epochs=1))
    answer, text = resume_run(RunDirectory.find(str(place)), (), Launch(quiet=True))
    run = DryRun.found(place)
    printed = "".join(capfd.readouterr())
    assert_nothing_tells(run, json.dumps(answer, default=str), text, caplog.text, printed)
