"""Noise for the clipped sum: as repeatable as the batches, and never the same twice.

    keys = RunKey.new()                              # from the operating system, once a run
    noise = draw_noise(keys.for_noise(0, conditions), step=12, sigma=1.5e6, count=2_000_000)      # integers

The noise of a step is a pure function of (run key, branch, conditions, step). A step that is repeated as it was, after
a kill, repeats its noise and so releases nothing new; anything that would change the step's sum changes the
conditions, and with them all noise.

The noise is integers, discrete Gaussian (see `runner.privacy.wide_gaussian`), for a sum on a grid (see
`runner.privacy.grid`): no floating point is in it that could tell what it was added to (Mironov, CCS 2012). The
generator is AES-256 in counter mode, with a key of its own for every step and counters of their own for every block
of numbers. Keys are derived by HKDF with SHA-256 (RFC 5869) from all 256 bits of the run's.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from numpy.typing import NDArray

from runner.privacy.wide_gaussian import draw_wide_gaussian, noise_dtype

NOISE_BLOCK = 1 << 16
"""Numbers drawn from one counter on: the blocks are shared out to all cores, and the result does not tell how."""
GENERATOR = "discrete Gaussian on a grid, AES-256-CTR"
"""Goes into the conditions of a run: its noise is that of this code."""

SamplingKey = tuple[int, int]
"""Two numbers below 2^64."""


@dataclass(frozen=True)
class RunKey:
    """A run's secret, 256 bits. Whoever has it can take the noise off: it stays with the records."""

    hexadecimal: str

    @classmethod
    def new(cls) -> RunKey:
        """A fresh one, from the operating system."""
        return cls(secrets.token_hex(32))

    def for_sampling(self, branch: int) -> SamplingKey:
        """The key of the batches; the number of workers is not in it, so that it cannot change a batch."""
        digest = hashlib.sha256(json.dumps([self.hexadecimal, "sampling", str(branch)]).encode()).digest()
        return int.from_bytes(digest[:8]), int.from_bytes(digest[8:16])

    def for_noise(self, branch: int, conditions: str) -> bytes:
        """The key of the noise, 256 bits."""
        purpose = json.dumps(["noise", branch, conditions]).encode()
        return HKDF(SHA256(), 32, salt=None, info=purpose).derive(bytes.fromhex(self.hexadecimal))

    def for_coins(self) -> bytes:
        """The key of the canaries' coins, 256 bits; one for all branches."""
        return HKDF(SHA256(), 32, salt=None, info=b"coins").derive(bytes.fromhex(self.hexadecimal))

    def __repr__(self) -> str:
        return "RunKey(secret)"


def fingerprint(conditions: Mapping[str, Any]) -> str:
    """A name for all that a step's sum depends on besides the weights: 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(dict(conditions), sort_keys=True).encode()).hexdigest()


def draw_noise(key: bytes, step: int, sigma: float, count: int) -> NDArray[np.signedinteger]:
    """`count` independent integers for a step, of `noise_dtype(sigma)`. `sigma` 0: without noise."""
    if sigma == 0:
        return np.zeros(count, noise_dtype(sigma))
    noise = np.empty(count, noise_dtype(sigma))
    step_key = HKDFExpand(SHA256(), 32, info=step.to_bytes(8)).derive(key)

    def fill(start: int) -> None:
        part = noise[start : start + NOISE_BLOCK]
        part[:] = draw_wide_gaussian(sigma, part.size, key_stream(step_key, start // NOISE_BLOCK))

    list(_threads().map(fill, range(0, count, NOISE_BLOCK)))
    return noise


def key_stream(key: bytes, block: int) -> Callable[[int], bytes]:
    """The bytes that AES gives for a block's counters, in turn. A block has 2^64 counters of its own."""
    encrypt = Cipher(algorithms.AES256(key), modes.CTR(block.to_bytes(8) + bytes(8))).encryptor()
    return lambda size: encrypt.update(bytes(size))


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), "noise")
