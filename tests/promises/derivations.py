"""What a secret is easily made into, and whether anything of it is in bytes that others see.

    telling = derivations(secrets, public_words)     # pieces of 8 bytes of all that, in every common writing
    assert not found_in(content, telling)

It goes by the secret, not by a name or a place: a digest of it is as much found as its text, and 8 bytes of either.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

PIECE = 8
"""Bytes: fewer are found anywhere by chance."""
DIGESTS = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512", "sha3_256", "blake2b", "blake2s")
WRITINGS: Mapping[str, tuple[Callable[[bytes], bytes], int]] = {
    "raw": (bytes, PIECE),
    "hex": (lambda value: value.hex().encode(), 2 * PIECE),
    "HEX": (lambda value: value.hex().upper().encode(), 2 * PIECE),
    "base64": (base64.b64encode, 11),
    "base64 for URLs": (base64.urlsafe_b64encode, 11),
    "base32": (base64.b32encode, 13),
    "base85": (base64.b85encode, 10),
}
"""Each with the length of `PIECE` bytes."""


def made_of(secret: bytes, words: Iterable[bytes]) -> set[bytes]:
    """The secret, combined with each constant byte too; and digests of it, alone and with public words."""
    plain = {bytes(byte ^ mask for byte in secret) for mask in range(256)}
    texts = {secret, secret[::-1], secret.hex().encode(), secret.hex().encode()[::-1]}
    digests = {hashlib.new(name, text).digest() for name in DIGESTS for text in texts}
    digests |= {hashlib.sha256(digest.hex().encode()).digest() for digest in digests}
    for text, word in itertools.product((secret, secret.hex().encode()), words):
        digests |= {hashlib.sha256(text + word).digest(), hashlib.sha256(word + text).digest()}
        digests |= {hmac.digest(text, word, name) for name in ("sha1", "sha256", "sha512")}
        digests |= {hmac.digest(word, text, "sha256")}
    return plain | digests | {value[::-1] for value in (secret, *digests)}


def pieces(text: bytes, length: int) -> set[bytes]:
    return {text[start : start + length] for start in range(len(text) - length + 1)}


def derivations(secrets: Sequence[bytes], words: Iterable[bytes] = ()) -> dict[int, set[bytes]]:
    """By their length, pieces that tell of one of the secrets; those of one byte alone tell nothing."""
    found: dict[int, set[bytes]] = {}
    for secret in secrets:
        for value in made_of(secret, words):
            for write, length in WRITINGS.values():
                found.setdefault(length, set()).update(pieces(write(value), length))
            for start in range(0, len(value) - PIECE + 1, PIECE):
                for order in ("big", "little"):
                    number = str(int.from_bytes(value[start : start + PIECE], order)).encode()
                    if len(number) >= 17:
                        found.setdefault(17, set()).update(pieces(number, 17))
    return {length: {piece for piece in each if len(set(piece)) > 3} for length, each in found.items()}


def found_in(content: bytes, telling: Mapping[int, set[bytes]]) -> set[bytes]:
    """The pieces that the content has, forwards or backwards."""
    content += b"\0" + content[::-1]
    return {piece for length, each in telling.items() for piece in pieces(content, length) & each}
