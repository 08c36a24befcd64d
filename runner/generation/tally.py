"""Counts of the draws that no record came of, and when they are too many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from runner.errors import JobFailedError

MOST_DRAWS = 10
"""Gives up when fewer than one in so many records can be kept."""
MANY_DRAWS = 256
"""Before so many nothing is said about shares, unless `max_invalid` is set."""
FEW_INVALID = 10
"""So many say nothing about shares even where `max_invalid` is set, unless it allows none: the last shard is small."""
MOST_REASONS = 50
"""Kept apart; a user's function may return any number of them."""


class Tally:
    """Counts what is left out of n records, and gives up when it is too much."""

    def __init__(self, n: int, max_invalid: float | None) -> None:
        patience = (MOST_DRAWS - 1) * n + MANY_DRAWS
        self.most_copies = patience
        self.most_invalid = patience
        if max_invalid is not None:
            self.most_invalid = int(n * max_invalid / (1 - max_invalid) + 1e-9)
        if max_invalid:
            self.most_invalid = max(self.most_invalid, FEW_INVALID)
        self.max_invalid = max_invalid
        self.valid = 0
        self.invalid: Counter[str] = Counter()
        self.copies = {"repeated": 0, "in_training": 0}
        self._invalid_draws = 0

    def add_invalid(self, reason: str) -> None:
        """Count a draw that does not keep the rules.

        Raises:
            JobFailedError: they are more than the job allows, or so many that there is no end to it.
        """
        if reason not in self.invalid and len(self.invalid) >= MOST_REASONS:
            reason = "other reasons"
        self.invalid[reason] += 1
        self._invalid_draws += 1
        if self._invalid_draws > self.most_invalid:
            draws = self._invalid_draws + self.valid + sum(self.copies.values())
            limit = "" if self.max_invalid is None else f", more than generation.max_invalid {self.max_invalid:g}"
            raise JobFailedError(
                f"{self._invalid_draws} of {draws} generated records are invalid{limit} "
                f"({describe_counts(self.invalid)}); train longer, or lower --temperature"
            )

    def add_copy(self, kind: str) -> None:
        """Count a draw that is `repeated`, or is `in_training`.

        Raises:
            JobFailedError: hardly anything new is drawn.
        """
        self.copies[kind] += 1
        if sum(self.copies.values()) > self.most_copies:
            raise JobFailedError(
                f"only {self.valid} of {self.valid + sum(self.copies.values())} valid records are new "
                f"({self.copies['repeated']} repeated, {self.copies['in_training']} of the training records); "
                "ask for fewer, or raise --temperature"
            )


def describe_counts(counts: dict[str, int], most: int = 5) -> str:
    """The most frequent reasons in words.

    >>> describe_counts({"a": 1, "b": 20, "c": 3}, most=2)
    'b: 20, c: 3, others: 1'
    """
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    words = [f"{reason}: {count}" for reason, count in ranked[:most]]
    if rest := sum(count for _, count in ranked[most:]):
        words.append(f"others: {rest}")
    return ", ".join(words)


def describe_left_out(summary: Mapping[str, Any]) -> list[str]:
    """What became of the other draws, a line each.

    >>> describe_left_out({"invalid": {"age: not in [0, 9]": 3, "fields: not 2": 40}, "repeated": 0, "in_training": 2})
    ['43 more were invalid (fields: not 2: 40, age: not in [0, 9]: 3)', '2 more were training records']
    """
    lines: list[str] = []
    if invalid := sum(summary["invalid"].values()):
        lines.append(f"{invalid} more were invalid ({describe_counts(summary['invalid'])})")
    if summary["repeated"]:
        lines.append(f"{summary['repeated']} more were copies of other generated records")
    if summary["in_training"]:
        lines.append(f"{summary['in_training']} more were training records")
    return lines
