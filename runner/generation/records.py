"""Synthetic records from a trained model: drawn, split into fields, checked, and drawn anew where they do not pass.

    maker = RecordMaker(model, settings)
    generated = maker.make(1000)
    generated.table, generated.invalid           # 1000 records; why others were left out, and how many

Draw number d starts with the prompt of the record that it is for and gets its random numbers from (seed, d). First
there is a draw for each record; then, as often as needed, one for each that is still missing (of few, several); what
comes after a prompt has all its records is not looked at. Where counts of a table are known, more is drawn, and taken
so that the records keep to them. So the records are a function of the model, the settings and the number of the first
draw alone. With one prompt and no counts they are the first valid draws.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runner.config import GenerationConfig
from runner.data.automaton import Automaton
from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.data.texts import to_texts
from runner.errors import JobFailedError
from runner.generation.conditions import Conditions, make_conditions
from runner.generation.grammar import compile_grammar
from runner.generation.rows import Record, Rows, learned_schema, make_rows
from runner.generation.shares import ValueShare
from runner.generation.table_rules import allowed_rows
from runner.generation.validators import Validator
from runner.model.artifact import TrainedModel
from runner.model.choice import check_choice
from runner.model.known_tables import KnownTables
from runner.model.loglinear import cap_weights, draw_evenly

MOST_DRAWS = 10
"""Gives up when fewer than one in so many records can be kept."""
FEWEST_DRAWS = 64
"""At once: one by one, the last records would take as long."""
LEAST_CALIBRATED = 1000
"""Of fewer, no share is that exact."""
CALIBRATED_DRAWS = 2.5
"""For each record that is taken."""
MANY_DRAWS = 256
"""Before so many nothing is said about shares, unless `max_invalid` is set."""
FEW_INVALID = 10
"""So many say nothing about shares even where `max_invalid` is set, unless it allows none: the last shard is small."""
MOST_REASONS = 50
"""Kept apart; a user's function may return any number of them."""


@dataclass(frozen=True)
class SamplingSettings:
    """What records depend on besides the model. For the first four see `runner.model.sampling`.

    `prompts`: how records begin, `records_per_prompt` of them each; of a table, what is given of rows, each an object
    in JSON of texts by column. `rebalance`: of a table, shares of one column's values. `unique`: drop repeated records.
    `not_in_training`: drop those that are a record of the job's data.

    Raises:
        ConfigError: a setting is out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0
    prompts: tuple[str, ...] = ("",)
    records_per_prompt: int = 10
    unique: bool = False
    not_in_training: bool = False
    validation: GenerationConfig = field(default_factory=GenerationConfig)
    rebalance: tuple[ValueShare, ...] = ()

    def __post_init__(self) -> None:
        check_choice(self.temperature, self.top_k, self.top_p)

    @property
    def records(self) -> int:
        """Records in all."""
        return self.records_per_prompt * len(self.prompts)


@dataclass(frozen=True)
class Generated:
    """Records, and what became of the other draws.

    `table`: of strings, or of a table's own types. `invalid`: how many for which reason. `repeated`: copies of a record
    before. `in_training`: copies of a training record.
    """

    table: pa.Table
    invalid: dict[str, int]
    repeated: int = 0
    in_training: int = 0

    @property
    def columns(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.table.column_names)

    @property
    def rows(self) -> list[tuple[str | None, ...]]:
        """Each record as the texts of its values."""
        columns = [to_texts(column.combine_chunks()).to_pylist() for column in self.table.columns]
        return list(zip(*columns, strict=True))


class RecordMaker:
    """Makes records with one model and one set of settings.

    `training`: the sorted hashes of the training records, for `not_in_training`. `masked`: no text is drawn that the
    rules exclude, as far as `runner.generation.grammar` can say; else it is drawn and left out.

    Raises:
        ConfigError: no record keeps the rules, or none that a prompt begins.
    """

    def __init__(
        self,
        model: TrainedModel,
        settings: SamplingSettings,
        training: NDArray[np.uint64] | None = None,
        *,
        masked: bool = True,
    ) -> None:
        from runner.model.sampling import Sampler

        self.settings = settings
        learned = learned_schema(model)
        columns = model.columns if learned is None else learned.names
        self.validator = Validator(settings.validation, columns, model.field_delimiter)
        self._training = training
        self._model = model
        automaton = _automaton(model, settings, masked=masked)
        self._conditions: Conditions | None = None
        self._prompts: list[list[int]] = [[]]
        if not isinstance(model.tokenizer, FieldTokenizer):
            self._prompts = [model.tokenizer.encode(prompt) for prompt in settings.prompts]
        elif automaton is not None:
            self._conditions = make_conditions(model.tokenizer, automaton, settings)
        self._sampler = Sampler(
            model.network,
            end_id=model.tokenizer.end_id,
            max_length=model.max_tokens,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            automaton=automaton if self._conditions is None else self._conditions.automaton,
            routed=self._conditions is not None,
        )

    def make(
        self,
        n: int,
        *,
        first: int = 0,
        first_draw: int = 0,
        progress: Callable[[int], None] = lambda _made: None,
    ) -> Generated:
        """Make records first, ..., first + n - 1 of the output, in the order of their prompts.

        `first_draw`: the number of the first draw. `progress` hears how many are made.

        Raises:
            JobFailedError: too many draws are invalid or copies, or the user's function failed.
        """
        known = self._known(n)
        wanted_in_all = n if known is None else math.ceil(CALIBRATED_DRAWS * n)
        tally = _Tally(wanted_in_all, self.settings.validation.max_invalid)
        rows = make_rows(self._model, self.validator, self.settings.seed, self._conditions)
        made: list[tuple[int, Record]] = []
        drawn: list[NDArray[np.int32]] = []
        seen: set[str] = set()
        if known is not None:
            missing = [0] * wanted_in_all
        elif self._conditions is None:
            missing = (np.arange(first, first + n) // self.settings.records_per_prompt).tolist()
        else:
            missing = self._conditions.numbers(first, n)
        while missing:
            wanted = Counter(missing)
            asked = [missing[index % len(missing)] for index in range(max(len(missing), FEWEST_DRAWS))]
            for prompt, record, is_known in self._draw(rows, asked, first_draw, known, drawn):
                if len(made) == wanted_in_all:
                    break
                if not wanted[prompt]:
                    continue
                progress(len(made) * n // wanted_in_all)
                reason = record.check().reason
                if reason is not None:
                    tally.add_invalid(reason)
                elif is_known:
                    tally.add_copy("in_training")
                elif self.settings.unique and record.text in seen:
                    tally.add_copy("repeated")
                else:
                    made.append((prompt, record))
                    wanted[prompt] -= 1
                    if self.settings.unique:
                        seen.add(record.text)
                    tally.valid += 1
            first_draw += len(asked)
            missing = sorted(wanted.elements())
        made.sort(key=lambda each: each[0])
        if known is not None:
            groups = np.concatenate(drawn)[[record.place for _, record in made]]
            made = [made[place] for place in self._take(known, groups, n, first_draw)]
        table = rows.to_table([record for _, record in made], first, [number for number, _ in made])
        return Generated(table, dict(tally.invalid), **tally.copies)

    def _known(self, n: int) -> KnownTables | None:
        """What n records are held to; None where they are taken as they are drawn, as where any of their values are
        given."""
        wanted = self.settings.validation.calibrate
        is_wanted = n >= LEAST_CALIBRATED if wanted is None else wanted
        return self._model.known if is_wanted and self._conditions is None else None

    def _take(self, known: KnownTables, groups: NDArray[np.int32], n: int, number: int) -> list[int]:
        """Which n of valid draws have together the shares that are known; each once at most, or twice of a model that
        is only as good as noisy counts."""
        weights = cap_weights(known.weigh(groups), n, 1.0 if self.settings.unique or known.is_exact else 2.0)
        generator = np.random.Generator(np.random.Philox(key=[self.settings.seed, number]))
        return draw_evenly(weights, n, generator).tolist()

    def _draw(
        self,
        rows: Rows,
        missing: Sequence[int],
        first_draw: int,
        tables: KnownTables | None,
        groups: list[NDArray[np.int32]],
    ) -> Iterator[tuple[int, Record, bool]]:
        """A draw for each prompt number: that number, the record, and whether it is a training record. groups: gets
        those of each draw, where the draws are held to what is known."""
        routes: NDArray[np.int32] | None = None
        if self._conditions is not None:
            prompts, routes = self._conditions.begin(missing)
        else:
            prompts = self._prompts if len(self._prompts) == 1 else [self._prompts[number] for number in missing]
        batches = self._sampler.batches(
            len(missing), seed=self.settings.seed, first=first_draw, prompts=prompts, routes=routes
        )
        drawn = 0
        for batch in batches:
            records = rows.read(batch, first_draw + drawn, missing[drawn : drawn + len(batch)])
            if tables is not None:
                assert self._model.tokenizer.slots is not None
                groups.append(tables.rows_of(batch, self._model.tokenizer.slots))
            known = [False] * len(records)
            if self._training is not None:
                known = are_in(self._training, [record.text for record in records])
            yield from zip(missing[drawn : drawn + len(records)], records, known, strict=True)
            drawn += len(records)


def _automaton(model: TrainedModel, settings: SamplingSettings, *, masked: bool) -> Automaton | None:
    if isinstance(model.tokenizer, FieldTokenizer):
        return allowed_rows(model.tokenizer, settings.validation.columns)
    if not masked:
        return None
    return compile_grammar(settings.validation, model.columns, model.field_delimiter, model.tokenizer).automaton


class _Tally:
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


def hash_texts(texts: Sequence[str]) -> NDArray[np.uint64]:
    """The first 64 bits of each text's BLAKE2b.

    Two of n different texts have the same hash with odds of n^2 / 2^65: 3 in 100 million for a million texts.
    """
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, "<u8")


def are_in(known: NDArray[np.uint64], texts: Sequence[str]) -> list[bool]:
    """Which of the texts have one of the sorted hashes."""
    hashes = hash_texts(texts)
    places = np.minimum(np.searchsorted(known, hashes), known.size - 1)
    return (known[places] == hashes).tolist() if known.size else [False] * len(texts)
