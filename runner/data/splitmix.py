"""Numbers that look random, of numbers: what SplitMix64 makes of its counter (Steele, Lea & Flood 2014).

>>> mix_bits_64(np.arange(2, dtype=np.uint64) * GOLDEN_GAMMA).tolist()
[0, 16294208416658607535]
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
"""What SplitMix64 counts by: 2^64 over the golden ratio, odd."""


def mix_bits_64(numbers: NDArray[Any]) -> NDArray[np.uint64]:
    """Of uint64: one to one, and each bit of a number flips each bit of the result in half of all cases."""
    mixed = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
