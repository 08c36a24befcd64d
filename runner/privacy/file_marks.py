"""Names for files of records that tell nothing about them, to whoever lacks the storage's secret.

    marks = FileMarks.of(storage.child(".privacy"))        # made by the first run that needs it
    marks.mark(fingerprint)                                # hmac-1f2e3d4c-..., the same for the same file

A plain SHA-256 tells whoever has a guess at a file whether it is that file, to the last record. A mark is an HMAC of
it, with a secret of 256 bits that lies at `.privacy/secret/key`. On a disk those may read it who may write in
`.privacy/`, and nobody else: they are those whose runs are counted there.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256

from runner.errors import CorruptError
from runner.storage import Folder

SECRET_FOLDER = "secret"  # noqa: S105 - a folder's name
SECRET_FILE = "key"  # noqa: S105 - a file's name
MARK = re.compile(r"hmac-(?P<secret>[0-9a-f]{8})-[0-9a-f]{64}")
"""`secret` tells one secret from another: marks that were made with another cannot be compared."""


@dataclass(frozen=True)
class FileMarks:
    """Makes marks with one secret."""

    secret: bytes = field(repr=False)

    @classmethod
    def find(cls, ledger: Folder) -> FileMarks | None:
        """With the secret of a ledger over runs; None where it has none yet.

        Raises:
            CorruptError: it is damaged.
        """
        folder = ledger.private_child(SECRET_FOLDER, with_writers=True)
        content = folder.read_if_exists(SECRET_FILE)
        if content is None:
            return None
        if not re.fullmatch(rb"[0-9a-f]{64}", content):
            raise CorruptError(f"{folder.uri}/{SECRET_FILE} is damaged; restore it from a backup")
        return cls(content)

    @classmethod
    def of(cls, ledger: Folder) -> FileMarks:
        """With the secret of a ledger over runs, which is made where there is none."""
        if (found := cls.find(ledger)) is not None:
            return found
        folder = ledger.private_child(SECRET_FOLDER, with_writers=True)
        folder.create(SECRET_FILE, secrets.token_hex(32).encode())
        return cls(folder.read(SECRET_FILE))

    @property
    def person_key(self) -> bytes:
        """The key of marks that tell whose a record is (`runner.data.persons`)."""
        return hmac.digest(self.secret, b"persons", "sha256")

    @property
    def name(self) -> str:
        """What tells this secret from others, and nothing about it."""
        return hmac.new(self.secret, b"name", sha256).hexdigest()[:8]

    def mark(self, fingerprint: str) -> str:
        """The mark of a file with this fingerprint; of a mark, itself."""
        if MARK.fullmatch(fingerprint):
            return fingerprint
        return f"hmac-{self.name}-{hmac.new(self.secret, b'file ' + fingerprint.encode(), sha256).hexdigest()}"


def check_comparable(marks: FileMarks | None, names: Iterable[str], where: str) -> None:
    """Whether files named so can be told from others: each by a fingerprint, or by a mark of this very secret.

    Raises:
        CorruptError: the secret that marks were made with is gone, or another one is in its place.
    """
    found = {match["secret"] for name in names if (match := MARK.fullmatch(name))}
    if found - ({marks.name} if marks is not None else set()):
        raise CorruptError(
            f"{where}/{SECRET_FOLDER}/{SECRET_FILE} is missing or another one: which runs were made of which files is "
            "unknown; restore it from a backup"
        )
