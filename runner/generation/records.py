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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runner.data.automaton import Automaton
from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.data.texts import to_texts
from runner.generation.conditions import Conditions, make_conditions
from runner.generation.grammar import compile_grammar
from runner.generation.rows import Record, Rows, learned_schema, make_rows
from runner.generation.settings import SamplingSettings
from runner.generation.table_rules import allowed_rows
from runner.generation.tally import Tally
from runner.generation.validators import Validator
from runner.model.artifact import TrainedModel
from runner.model.known_tables import KnownTables
from runner.model.loglinear import cap_weights, draw_evenly

FEWEST_DRAWS = 64
"""At once: one by one, the last records would take as long."""
LEAST_CALIBRATED = 1000
"""Of fewer, no share is that exact."""
CALIBRATED_DRAWS = 2.5
"""For each record that is taken."""


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


class _Draw(NamedTuple):
    """`prompt`: its number. `groups`: (C,), of the known tables' columns; None where no tables are known."""

    prompt: int
    record: Record
    is_in_training: bool
    groups: NDArray[np.int32] | None


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
        tally = Tally(wanted_in_all, self.settings.validation.max_invalid)
        rows = make_rows(self._model, self.validator, self.settings.seed, self._conditions)
        made: list[_Draw] = []
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
            for draw in self._draw(rows, asked, first_draw, known):
                if len(made) == wanted_in_all:
                    break
                if not wanted[draw.prompt]:
                    continue
                progress(len(made) * n // wanted_in_all)
                reason = draw.record.check().reason
                if reason is not None:
                    tally.add_invalid(reason)
                elif draw.is_in_training:
                    tally.add_copy("in_training")
                elif self.settings.unique and draw.record.text in seen:
                    tally.add_copy("repeated")
                else:
                    made.append(draw)
                    wanted[draw.prompt] -= 1
                    if self.settings.unique:
                        seen.add(draw.record.text)
                    tally.valid += 1
            first_draw += len(asked)
            missing = sorted(wanted.elements())
        made.sort(key=lambda draw: draw.prompt)
        if known is not None:
            groups = np.array([draw.groups for draw in made])
            made = [made[place] for place in self._take(known, groups, n, first_draw)]
        table = rows.to_table([draw.record for draw in made], first, [draw.prompt for draw in made])
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

    def _draw(self, rows: Rows, missing: Sequence[int], first_draw: int, tables: KnownTables | None) -> Iterator[_Draw]:
        """A draw for each prompt number. tables: what the draws are held to."""
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
            groups: Sequence[NDArray[np.int32] | None] = [None] * len(records)
            if tables is not None:
                assert self._model.tokenizer.slots is not None
                groups = list(tables.rows_of(batch, self._model.tokenizer.slots))
            known = [False] * len(records)
            if self._training is not None:
                known = are_in(self._training, [record.text for record in records])
            yield from starmap(_Draw, zip(missing[drawn : drawn + len(records)], records, known, groups, strict=True))
            drawn += len(records)


def _automaton(model: TrainedModel, settings: SamplingSettings, *, masked: bool) -> Automaton | None:
    if isinstance(model.tokenizer, FieldTokenizer):
        return allowed_rows(model.tokenizer, settings.validation.columns)
    if not masked:
        return None
    return compile_grammar(settings.validation, model.columns, model.field_delimiter, model.tokenizer).automaton


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
