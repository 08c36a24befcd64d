"""How long records are in tokens, before they are tokenized: for `runner validate`, in the pass that reads them.

A byte or character tokenizer is counted exactly. A SentencePiece model that is there already is tried on every
sixteenth record. One that is still to be trained gives a record at most as many tokens as it has bytes.
"""

# pyarrow.compute makes its functions when it is imported, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from runner.data.tokenizers.base import Tokenizer

SAMPLED = 16
"""One record of so many is tokenized, where that is what counting takes."""

Certainty = Literal["exact", "sample", "at most"]


@dataclass(frozen=True)
class TokenLengths:
    """Counts tokens of records by `kind` of tokenizer; `tokenizer`: a SentencePiece one that is there already."""

    kind: str
    seq_length: int
    tokenizer: Tokenizer | None = None

    @property
    def certainty(self) -> Certainty:
        """What the counts are worth."""
        if self.kind != "sentencepiece":
            return "exact"
        return "at most" if self.tokenizer is None else "sample"

    def count(self, texts: pa.Array) -> LengthCount:
        """Records without nulls: how many of those looked at are cut at `seq_length`, and their tokens with ends."""
        if self.tokenizer is not None:
            _, lengths = self.tokenizer.encode_batch(texts.take(pa.array(np.arange(0, len(texts), SAMPLED))))
        else:
            lengths = (pc.utf8_length if self.kind == "char" else pc.binary_length)(texts).to_numpy()
        targets: NDArray[np.int64] = lengths.astype(np.int64) + 1
        return LengthCount(targets.size, int((targets > self.seq_length).sum()), int(targets.sum()))


@dataclass(frozen=True)
class LengthCount:
    """Of `records` looked at, those `longer` than an example, and all their `targets`."""

    records: int = 0
    longer: int = 0
    targets: int = 0

    def __add__(self, other: LengthCount) -> LengthCount:
        return LengthCount(self.records + other.records, self.longer + other.longer, self.targets + other.targets)
