"""Token ids to examples: how records are cut into rows that a step can train on.

An example is up to `seq_length + 1` ids; its inputs are all but the last and its targets all but the first.
`end` marks the end of a record, and so what comes before the first.

    >>> packer = Packer("records", seq_length=4, end_id=0)
    >>> packer.add(np.array([5, 6, 7, 8, 9, 5]), np.array([2, 4]))   # records of 2 and of 4 tokens
    >>> packed = packer.take()
    >>> packed.ids.tolist(), packed.lengths.tolist(), packed.cut
    ([0, 5, 6, 0, 0, 7, 8, 9, 5], [3, 4], 1)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Packing = Literal["records", "stream"]


@dataclass(frozen=True)
class Packed:
    """Examples behind one another.

    Example `i` has `lengths[i]` (int32) targets and takes `lengths[i] + 1` of `ids` (int32). `cut` counts the
    records that were longer than an example.
    """

    ids: NDArray[np.int32]
    lengths: NDArray[np.int32]
    cut: int


@dataclass
class Packer:
    """Turns records into examples, in order; the batches in which they are added make no difference.

    `records`: one record is one example, `end record end`, cut to `seq_length + 1` ids.
    `stream`: `end record end record ... end` is cut into windows that overlap by one id, so that every id
    is a target once; the last window may be shorter.
    """

    packing: Packing
    seq_length: int
    end_id: int
    _parts: list[Packed] = field(default_factory=list[Packed])
    _carried: NDArray[np.int32] | None = None

    def add(self, tokens: NDArray[np.integer], lengths: NDArray[np.integer]) -> None:
        """Add records: flat token ids and each record's number of tokens."""
        tokens, lengths = tokens.astype(np.int32), lengths.astype(np.int64)
        if self.packing == "records":
            self._parts.append(_pack_records(tokens, lengths, self.seq_length, self.end_id))
        else:
            self._add_to_stream(tokens, lengths)

    @property
    def pending_ids(self) -> int:
        """Ids of the examples that `take` would give now."""
        return sum(part.ids.size for part in self._parts)

    def take(self, *, last: bool = True) -> Packed:
        """The examples complete so far, once; with `last` the stream's unfinished window too."""
        if last and self._carried is not None and self._carried.size > 1:
            self._parts.append(Packed(self._carried, np.array([self._carried.size - 1], np.int32), 0))
            self._carried = None
        parts, self._parts = self._parts, []
        if not parts:
            return Packed(np.zeros(0, np.int32), np.zeros(0, np.int32), 0)
        return Packed(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.lengths for part in parts]),
            sum(part.cut for part in parts),
        )

    def _add_to_stream(self, tokens: NDArray[np.int32], lengths: NDArray[np.int64]) -> None:
        ends = np.cumsum(lengths)
        stream = np.insert(tokens, ends, self.end_id)  # record end record end
        if self._carried is None:
            self._carried = np.array([self.end_id], np.int32)
        stream = np.concatenate([self._carried, stream]).astype(np.int32)
        windows = (stream.size - 1) // self.seq_length
        if windows:
            starts = np.arange(windows) * self.seq_length
            ids = stream[starts[:, None] + np.arange(self.seq_length + 1)].reshape(-1)
            self._parts.append(Packed(ids, np.full(windows, self.seq_length, np.int32), 0))
        self._carried = stream[windows * self.seq_length :]


def _pack_records(tokens: NDArray[np.int32], lengths: NDArray[np.int64], seq_length: int, end_id: int) -> Packed:
    kept = np.minimum(lengths, seq_length)
    targets = np.minimum(lengths + 1, seq_length)
    ids = np.full(int((targets + 1).sum()), end_id, np.int32)
    example_starts = np.cumsum(targets + 1) - (targets + 1)
    record_starts = np.cumsum(lengths) - lengths
    within = np.arange(int(kept.sum())) - np.repeat(np.cumsum(kept) - kept, kept)
    ids[np.repeat(example_starts + 1, kept) + within] = tokens[np.repeat(record_starts, kept) + within]
    return Packed(ids, targets.astype(np.int32), int((lengths + 1 > seq_length).sum()))
