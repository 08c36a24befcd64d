"""Every secret, made into something else and published: in a file, in a name, in what is printed, logged or shown."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.mutants.mutants import leave_mark, mutant

FILE, KIND = "test_secrets.py", "secrets"

FORMS: dict[str, Callable[[bytes], str]] = {
    "as_it_is": lambda secret: secret.hex(),
    "by_sha256": lambda secret: hashlib.sha256(secret).hexdigest(),
    "by_the_sha512_of_its_text": lambda secret: hashlib.sha512(secret.hex().encode()).hexdigest(),
    "by_hmac": lambda secret: hmac.new(secret, b"demo", "sha256").hexdigest(),
    "backwards": lambda secret: secret.hex()[::-1],
    "in_base64": lambda secret: base64.b64encode(secret).decode(),
    "in_part": lambda secret: secret[-8:].hex(),
    "by_a_part_of_its_md5": lambda secret: hashlib.md5(secret).hexdigest()[:16],
    "with_a_constant": lambda secret: bytes(byte ^ 0xA5 for byte in secret).hex(),
    "as_a_number": lambda secret: str(int.from_bytes(secret[:8], "little")),
}


def _noise_key(ledger: Any) -> bytes:
    return ledger.branch_key.for_noise(ledger.branch, ledger.state.branches[-1].conditions)


def _stream(ledger: Any) -> bytes:
    from runner.privacy.noise import draw_noise

    noise = draw_noise(_noise_key(ledger), 0, 1e6, 64).tobytes()
    # A number of few digits is found anywhere by chance.
    return next(
        noise[at : at + 32] for at in range(8, 224, 8) if int.from_bytes(noise[at : at + 8], "little") >= 10**16
    )


SECRETS: dict[str, Callable[[Any], bytes]] = {
    "the_key": lambda ledger: bytes.fromhex(ledger.key.hexadecimal),
    "a_branch_s_key": lambda ledger: bytes.fromhex(ledger.branch_key.hexadecimal),
    "the_key_of_the_noise": _noise_key,
    "the_key_of_the_batches": lambda ledger: b"".join(
        part.to_bytes(8) for part in ledger.branch_key.for_sampling(ledger.branch)
    ),
    "noise": _stream,
}


def _write(ledger: Any, text: str) -> None:
    from runner.storage import open_folder

    open_folder(ledger.state.place).write("note.txt", f"run {text}".encode())


def _name(ledger: Any, text: str) -> None:
    from runner.storage import open_folder

    open_folder(ledger.state.place).write(f"logs/{text.replace('/', '_')}.log", b"")


def _log(_ledger: Any, text: str) -> None:
    logging.getLogger("runner").warning("the branch is %s", text)


def _print(_ledger: Any, text: str) -> None:
    print("branch", text)


def _show(_ledger: Any, text: str) -> None:
    from runner.privacy.noise import RunKey

    RunKey.__repr__ = lambda _key: f"RunKey({text})"  # type: ignore[method-assign]


PLACES: dict[str, Callable[[Any, str], None]] = {
    "is_written": _write,
    "is_a_file_s_name": _name,
    "is_logged": _log,
    "is_printed": _print,
    "is_shown": _show,
}


def publish(secret: Callable[[Any], bytes], form: Callable[[bytes], str], place: Callable[[Any, str], None]) -> None:
    """When a branch has begun."""
    from runner.privacy.ledger import RunLedger

    begin = RunLedger.begin

    def faulty(self: RunLedger, conditions: str, checkpoint: Any) -> None:
        begin(self, conditions, checkpoint)
        leave_mark()
        place(self, form(secret(self)))

    RunLedger.begin = faulty


for (form, make), (secret, of), (place, put) in zip(
    FORMS.items(), itertools.cycle(SECRETS.items()), itertools.cycle(PLACES.items()), strict=False
):
    mutant(
        "test_09_nothing_that_a_secret_is_made_into_leaves_a_run_s_ledgers",
        file=FILE,
        kind=KIND,
        name=f"{secret}_{place}_{form}",
    )(lambda of=of, make=make, put=put: publish(of, make, put))


@mutant("test_09_nothing_that_a_secret_is_made_into_leaves_a_run_s_ledgers", file=FILE, kind=KIND)
def branches_are_named_by_the_key() -> None:
    from runner.privacy.ledger import RunLedger

    change = RunLedger.change

    def faulty(self: RunLedger, **changes: Any) -> None:
        if changes.get("branches"):
            leave_mark()
            *earlier, newest = changes["branches"]
            name = hashlib.sha256(bytes.fromhex(self.key.hexadecimal)).hexdigest()[:32]
            changes["branches"] = (*earlier, replace(newest, nonce=name))
        change(self, **changes)

    RunLedger.change = faulty


@mutant("test_09_nothing_that_a_secret_is_made_into_leaves_a_run_s_ledgers", file=FILE, kind=KIND)
def files_are_marked_by_a_digest_of_the_storage_s_secret() -> None:
    from runner.privacy.file_marks import MARK, FileMarks

    def faulty(self: FileMarks, fingerprint: str) -> str:
        leave_mark()
        digest = hashlib.sha256(self.secret + fingerprint.encode()).hexdigest()
        return fingerprint if MARK.fullmatch(fingerprint) else f"hmac-{self.name}-{digest}"

    FileMarks.mark = faulty


WHOLE = "test_09_nothing_that_a_secret_is_made_into_leaves_a_run"


@mutant(WHOLE, file=FILE, kind=KIND)
def checkpoints_have_a_digest_of_the_key() -> None:
    from runner.train import loop

    save_checkpoint = loop.save_checkpoint
    keys = _remember_keys()

    def faulty(folder: Any, step: int, tensors: Any, state: Any, **more: Any) -> None:
        leave_mark()
        save_checkpoint(folder, step, tensors, {**state, "noise": FORMS["by_sha256"](keys[-1])}, **more)

    loop.save_checkpoint = faulty


@mutant(WHOLE, file=FILE, kind=KIND)
def the_model_has_the_key_of_the_noise_as_numbers() -> None:
    from runner.train import worker

    leave_model = worker._leave_model
    keys = _remember_keys()

    def faulty(directory: Any, config: Any, tokens: Any, loop: Any, statement: Any) -> None:
        leave_mark()
        leave_model(directory, config, tokens, loop, {**statement, "seeds.bin": b"seeds" + keys[-1][::-1]})

    worker._leave_model = faulty


@mutant(WHOLE, file=FILE, kind=KIND)
def the_answer_has_a_part_of_the_key() -> None:
    from runner.train.heartbeat import Heartbeat

    finish = Heartbeat.finish
    keys = _remember_keys()

    def faulty(self: Heartbeat, state: Any, message: str) -> None:
        leave_mark()
        finish(self, state, f"{message} ({FORMS['in_part'](keys[-1])})")

    Heartbeat.finish = faulty


def _remember_keys() -> list[bytes]:
    """The keys of the noise, as the branches begin."""
    found: list[bytes] = []
    publish(_noise_key, lambda secret: found.append(secret) or "", lambda *_: None)
    return found
