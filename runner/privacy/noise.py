"""Gaussian noise for the clipped sum: as repeatable as the batches, and never the same twice.

    keys = RunKey.new()                              # from the operating system, once a run
    noise = draw_noise(keys.for_noise(0, conditions), step=12, count=2_000_000)   # float32, N(0, 1)

The noise of a step is a pure function of (run key, branch, conditions, step). A step that is repeated as it was, after
a kill, repeats its noise and so releases nothing new; anything that would change the step's sum changes the
conditions, and with them all noise.

The generator is Philox-4x64 with NumPy's ziggurat, in float32. It is a statistical generator, not a cryptographic
one, and the floating-point attack of Mironov (CCS 2012) is not guarded against; the report says so.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

NOISE_BLOCK = 1 << 18
"""Numbers drawn from one generator: the blocks are shared out to all cores, and the result does not tell how."""

Key = tuple[int, int]
"""Two numbers below 2^64."""


@dataclass(frozen=True)
class RunKey:
    """A run's secret, 256 bits. Whoever has it can take the noise off: it stays with the records."""

    hexadecimal: str

    @classmethod
    def new(cls) -> RunKey:
        """A fresh one, from the operating system."""
        return cls(secrets.token_hex(32))

    def for_sampling(self, branch: int) -> Key:
        """The key of the batches; the number of workers is not in it, so that it cannot change a batch."""
        return self._derive("sampling", str(branch))

    def for_noise(self, branch: int, conditions: str) -> Key:
        """The key of the noise."""
        return self._derive("noise", str(branch), conditions)

    def _derive(self, *purpose: str) -> Key:
        digest = hashlib.sha256(json.dumps([self.hexadecimal, *purpose]).encode()).digest()
        return int.from_bytes(digest[:8]), int.from_bytes(digest[8:16])

    def __repr__(self) -> str:
        return "RunKey(secret)"


def fingerprint(conditions: Mapping[str, Any]) -> str:
    """A name for all that a step's sum depends on besides the weights: 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(dict(conditions), sort_keys=True).encode()).hexdigest()


def draw_noise(key: Key, step: int, count: int) -> NDArray[np.float32]:
    """`count` independent standard normal numbers for a step, float32."""
    noise = np.empty(count, np.float32)

    def fill(start: int) -> None:
        bits = np.random.Philox(key=np.array(key, np.uint64), counter=[0, 0, start // NOISE_BLOCK, step])
        part = noise[start : start + NOISE_BLOCK]
        np.random.Generator(bits).standard_normal(part.size, np.float32, out=part)

    list(_threads().map(fill, range(0, count, NOISE_BLOCK)))
    return noise


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), "noise")
