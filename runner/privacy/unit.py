"""The unit of privacy that a job names: a person, all of whose records are protected together; in words.

    >>> unit = PrivacyUnit("customer", most_records=3, persons=1200, persons_above=40, nobodys=7)
    >>> unit.in_words()
    'one person: all records with the same `customer`, of which at most 3 count'

Neighbors differ in one person, all of whose records are emptied in their places. How many records and persons there
are, and which records are the same person's, is the same in both: it is public, and so are the counts here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from runner.config import JobConfig
from runner.data.persons import persons_above


@dataclass(frozen=True)
class PrivacyUnit:
    """All records with the same value of `column`, of which `most_records` count at most.

    `persons`: different values, of which `persons_above` have more records than that. `nobodys`: rows without a value,
    which are left out.
    """

    column: str
    most_records: int
    persons: int
    persons_above: int
    nobodys: int

    @classmethod
    def of(cls, config: JobConfig, persons: Mapping[int, int] | None, nobodys: int) -> PrivacyUnit | None:
        """Of a job whose records are so many persons' (see `count_persons`); None where records are the unit."""
        if config.unit is None:
            return None
        assert persons is not None
        most = config.privacy.max_records_per_unit
        assert most is not None
        return cls(config.unit, most, sum(persons.values()), persons_above(persons, most), nobodys)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any] | None) -> PrivacyUnit | None:
        """From the values of its JSON; None of None."""
        return None if plain is None else cls(**plain)

    def to_plain(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def in_words(self) -> str:
        """What is protected."""
        return f"one person: all records with the same `{self.column}`, of which at most {self.most_records} count"

    def adjacency_in_words(self) -> str:
        """What neighbors differ in."""
        return (
            "zero-out: all records of one person replaced by empty ones in their places; the number and order of "
            f"records, the number of persons, and which records have the same `{self.column}`, are public"
        )

    def sampler_in_words(self) -> str:
        """What a step looks at."""
        return (
            "Poisson: every training person joins every step independently, with the same probability, and with up to "
            f"{self.most_records} of the person's records, drawn anew in every step"
        )

    def counted_in_words(self) -> str:
        """What is looked at where no step is."""
        return (
            f"none: no step looks at a record; of each training person the first {self.most_records} records are "
            "counted once in each histogram"
        )

    def counted_beside_in_words(self) -> str:
        """What is looked at beside steps."""
        return f"; beside that the first {self.most_records} records of each person are counted once in each histogram"

    def counts_in_words(self) -> dict[str, str]:
        """Whose records there are, and what is left out, for a statement."""
        return {
            "persons": (
                f"{self.persons:,} different `{self.column}`; {self.persons_above:,} have more than "
                f"{self.most_records} records, of which {self.most_records} count at a time"
            ),
            f"rows without `{self.column}`": f"{self.nobodys:,}, left out: nothing is learned of them",
        }

    def limit_in_words(self) -> str:
        """For whom the claim says less."""
        return (
            f"Epsilon is per person as `{self.column}` tells persons apart: whoever has several values there is "
            "protected less, by the figures above; and so is whoever has records in other files, which other runs use."
        )
