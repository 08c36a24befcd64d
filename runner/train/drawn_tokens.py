"""What a private run on a table trains on: records drawn by noisy counts, in place of the real ones.

    drawn = draw_tokens(config, directory, tokens, cache, progress)       # tokens: of the real records

The run's ledger has been charged for the releases: see `open_ledger`. They are drawn once and stored; all that follows,
here and in training, is a function of what is stored and of the number of records alone, and made again from it where
it is gone.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from runner.config import JobConfig
from runner.data.batches import BatchPlan
from runner.data.examples import Examples, TokenSet
from runner.data.packing import Packer
from runner.data.prepare import ShardWriter, find_tokens
from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.data.tokenizers.saved import from_files
from runner.privacy.contributions import first_positions
from runner.privacy.ledger import PRIVATE_FOLDER, RunLedger
from runner.privacy.marginals import Axis, Layout, count_marginals
from runner.privacy.measured import draw_ids, measure
from runner.privacy.releases import Counts
from runner.run_directory import RunDirectory
from runner.storage import Folder, publish, read_published

VERSION = 2
"""Of how draws are made of counts: another one makes others, under another key."""
RECORDS_A_SHARD = 1 << 17


def draw_tokens(
    config: JobConfig, directory: RunDirectory, tokens: TokenSet, cache: Folder, progress: Callable[[str], None]
) -> TokenSet:
    """The draws' tokens, which lie in the cache beside those of the real records.

    Raises:
        CorruptError: what is stored of the releases does not verify.
    """
    settings = config.training
    plan = BatchPlan(tokens.units, settings.batch_size, settings.seed, settings.validation_split)
    tokenizer = tokenizer_of(tokens)

    @functools.cache  # A run asks up to three times; one whose counts are all stored does not.
    def counted() -> tuple[Examples, NDArray[np.int64]]:
        units = np.concatenate([plan.training_positions(0, step) for step in range(plan.training_steps)])
        examples = Examples(tokens, config.data.cache_gib)
        return examples, first_positions(examples, units, config.privacy.max_records_per_unit)

    def count(marginals: Mapping[str, Sequence[Axis]]) -> dict[str, Counts]:
        examples, positions = counted()
        return count_marginals(examples, marginals, positions)

    progress("counting columns and pairs of columns, with noise")
    measured = measure(
        directory.folder.private_child(PRIVATE_FOLDER),
        {release.name: release for release in RunLedger.open(directory.folder).state.releases},
        Layout.of(tokenizer.schema),
        plan.training_examples if tokens.persons is None else counted()[1].size,
        count,
    )
    digest = hashlib.sha256(f"{VERSION} {config.privacy.draws} {measured.digest}".encode()).hexdigest()
    key = f"{tokens.key}-{digest[:16]}"
    if (found := find_tokens(cache, key)) is not None:
        return found
    progress(f"drawing {config.privacy.draws:,} records by these counts")
    ids = draw_ids(measured, tokenizer.automaton(), config.privacy.draws)
    folder = cache.child(key)
    packer = Packer("records", tokens.seq_length, tokens.end_id)
    written = ShardWriter(folder, tokens.vocab_size)
    for start in range(0, len(ids), RECORDS_A_SHARD):
        part = ids[start : start + RECORDS_A_SHARD]
        packer.add(part[part >= 0], (part >= 0).sum(axis=1))
        written.add(packer.take())
    drawn = replace(
        tokens,
        folder=folder,
        key=key,
        records=len(ids),
        null_rows=0,
        cut_records=0,
        unknown_tokens=0,
        shards=tuple(written.shards),
        stops=None,
        persons=None,
        nobodys=0,
    )
    publish(folder, tokenizer.to_files() | measured.known.to_files(), drawn.to_info())
    return drawn


def tokenizer_of(tokens: TokenSet) -> FieldTokenizer:
    """Of a table's tokens."""
    tokenizer = from_files(read_published(tokens.folder))
    assert isinstance(tokenizer, FieldTokenizer)
    return tokenizer


def log_shares(examples: Examples) -> NDArray[np.float32]:
    """(V,): the logarithm of each token's share of the first draws, which are in no order."""
    rows = examples.rows(np.arange(min(examples.tokens.examples, RECORDS_A_SHARD)))
    counts = np.bincount(np.concatenate(rows), minlength=examples.tokens.vocab_size) + 0.5
    return np.log(counts / counts.sum()).astype(np.float32)
