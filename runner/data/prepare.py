"""Records to token shards, through Ray Data, into a cache that later runs share.

    key = token_key(config, files)                       # names the tokens by all they depend on
    prepared = find_tokens(cache, key)                   # a run before may have left them
    prepared = prepare_tokens(config, survey, cache, key)  # else: train the tokenizer, tokenize, publish

Every unit of records is tokenized and written by whichever Ray worker is free; its shards depend on nothing
but the unit, so the cache's content is the same on a laptop and on a cluster. Needs a connected Ray.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runner.config import JobConfig
from runner.data.examples import Shard, TokenSet, persons_file_name, shard_file_names
from runner.data.files import SourceFile
from runner.data.packing import Packed, Packer
from runner.data.persons import mark_persons
from runner.data.records import read_unit, read_with_persons
from runner.data.schema import Schema
from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.data.survey import Survey, survey_records, survey_table
from runner.data.token_lengths import TokenLengths
from runner.data.tokenizers.base import Tokenizer, token_dtype
from runner.data.tokenizers.characters import ByteTokenizer, CharTokenizer
from runner.data.tokenizers.saved import from_files
from runner.data.tokenizers.subword import SentencePieceTokenizer, check_coverage, from_sentencepiece_model
from runner.data.tokenizers.text_kinds import train_tokenizer
from runner.data.units import Unit
from runner.errors import CorruptError, ObjectNotFoundError, RunnerError, TokenizerError, find_user_error
from runner.storage import Folder, open_folder, open_parent, publish, read_manifest, read_published

FORMAT_VERSION = 1
IDS_PER_SHARD = 1 << 24
SAMPLE_SEED = 0
"""Fixed, so that jobs that differ only in `training.seed` share their tokens."""

log = logging.getLogger(__name__)


def token_key(config: JobConfig, files: tuple[SourceFile, ...]) -> str:
    """A name (32 hex digits) for everything the token shards depend on: records, tokenizer, packing."""
    parts = {
        "version": FORMAT_VERSION,
        "files": [[file.name, file.size, file.fingerprint] for file in files],
        "data": config.data.model_dump(mode="json", exclude={"uri", "cache_gib", "since"}),
        "tokenizer": config.tokenizer.model_dump(mode="json", exclude={"uri"}),
        "model": hashlib.sha256(_read_model(config.tokenizer.uri)).hexdigest() if config.tokenizer.uri else None,
        "examples": config.examples.model_dump(mode="json", exclude={"field_order"}),
    }
    if config.fields is not None:
        parts["fields"] = [[name, field.model_dump(mode="json")] for name, field in config.fields.items()]
        parts["examples"] = None
        if config.privacy.enabled:
            parts["private"] = True  # Others' tokens are made of exact counts.
    version = max(file.version for file in files)
    if version > 1 and (config.data.columns is not None or config.data.max_records is not None):
        parts["reading"] = version  # Other jobs have the records that they had in version 1.
    if starts := {file.name: file.start for file in files if file.start}:
        parts["starts"] = starts
    if config.unit is not None:
        parts["unit"] = config.unit
    if config.data.since is not None:
        parts["tokenizer of"] = read_manifest(_earlier_tokenizer(config))["files"]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def bought_key(key: str, release: str) -> str:
    """The name of tokens that were made with a schema that was bought: of `key`, and of the release's SHA-256."""
    return f"{key}-{release[:16]}"


def is_made_from(tokens_key: str, config: JobConfig, files: tuple[SourceFile, ...]) -> bool:
    """Whether tokens of this key are of the job's records."""
    return tokens_key.split("-")[0] == token_key(config, files)


def find_tokens(cache: Folder, key: str) -> TokenSet | None:
    """The token shards of this key, when they are all there; a damaged set is reported and made again."""
    folder = cache.child(key)
    try:
        tokens = TokenSet.from_manifest(folder, read_manifest(folder))
    except CorruptError:
        return None
    sizes = {entry.name: entry.size for entry in folder.list()}
    for shard in tokens.shards:
        for name, size in shard.files.items():
            if sizes.get(name) != size:
                log.warning("%s/%s is missing or cut: the records are tokenized again", folder.uri, name)
                return None
    return tokens


def survey_job(config: JobConfig, files: tuple[SourceFile, ...]) -> Survey:
    """Read the job's records once; errors as for `survey_records` and `survey_table`."""
    person = config.unit
    if config.fields is None:
        return survey_records(config.data, files, token_lengths(config), person)
    earlier, is_private = _earlier_schema(config), config.privacy.enabled
    return survey_table(config.data, files, config.fields, earlier, is_private=is_private, person=person)


def token_lengths(config: JobConfig) -> TokenLengths:
    """How to count a job's tokens while its records are read, with the tokenizer where there is one already."""
    kind, tokenizer = config.tokenizer.kind, None
    if kind == "sentencepiece" and config.data.since is not None:
        tokenizer = from_files(read_published(_earlier_tokenizer(config)))
    elif kind == "sentencepiece" and config.tokenizer.uri is not None:
        tokenizer = SentencePieceTokenizer(_read_model(config.tokenizer.uri), config.data.field_delimiter)
    return TokenLengths(kind, config.examples.seq_length, tokenizer)


def check_vocabulary(config: JobConfig, survey: Survey) -> None:
    """Whether SentencePiece's vocabulary has room for every character, found by training on the alphabet alone.

    Raises:
        TokenizerError: with the smallest `tokenizer.vocab_size` that works.
    """
    settings = config.tokenizer
    sees_all = settings.character_coverage == 1.0 and survey.found.rows <= settings.max_training_records
    if config.data.since is not None:  # A character that the earlier records had not is an unknown one.
        return
    if settings.kind == "sentencepiece" and settings.uri is None:
        check_coverage(settings.character_coverage)
        if sees_all and survey.alphabet:
            _train(config, [survey.alphabet])


def prepare_tokens(
    config: JobConfig,
    survey: Survey,
    cache: Folder,
    key: str,
    progress: Callable[[str], None],
    person_key: bytes = b"",
) -> TokenSet:
    """Tokenize all records into `cache/key` and return what is there; `progress` hears each step in words.

    person_key: the secret of the marks that tell whose a record is, where the job asks for that.

    Raises:
        TokenizerError: the vocabulary is too small for the records.
        DataError: a file changed or broke since the survey.
    """
    folder = cache.child(key)
    progress("training the tokenizer")
    tokenizer = _make_tokenizer(config, survey)
    tokenizer_files = tokenizer.to_files()
    progress(f"tokenizing {survey.records:,} records")
    seq_length = config.examples.seq_length
    if isinstance(tokenizer, FieldTokenizer):
        seq_length = tokenizer.record_tokens + 1
    tokenize = _TokenizeUnit(config, seq_length, folder.uri, tokenizer_files, person_key)
    done: list[dict[str, Any]] = []
    with _plain_errors():
        for row in _dataset(survey.units).map(tokenize).iter_rows():
            done.append(row)
            progress(f"tokenized {len(done)} of {len(survey.units)} parts")
    shards = [shard for row in sorted(done, key=lambda row: row["first_row"]) for shard in json.loads(row["shards"])]
    tokens = TokenSet(
        folder=folder,
        key=key,
        vocab_size=tokenizer.vocab_size,
        end_id=tokenizer.end_id,
        seq_length=seq_length,
        packing=config.examples.packing,
        records=survey.records,
        null_rows=survey.found.null_rows,
        cut_records=sum(row["cut"] for row in done),
        unknown_tokens=sum(row["unknown"] for row in done),
        shards=tuple(Shard(**shard) for shard in shards),
        stops=survey.stops if survey.empty_files or config.data.max_records is not None else None,
        slots=tokenizer.slots,
        persons=None if survey.persons is None else tuple(survey.persons.items()),
        nobodys=survey.found.nobodys,
    )
    publish(folder, tokenizer_files, tokens.to_info())
    return tokens


@dataclass
class ShardWriter:
    """Writes examples as shards into a folder. `first_row`: names them. `cut`: records that were cut."""

    folder: Folder
    vocab_size: int
    first_row: int = 0
    shards: list[Shard] = field(default_factory=list[Shard])
    cut: int = 0

    def add(self, packed: Packed, marks: NDArray[np.uint8] | None = None) -> None:
        """Write a shard of these examples, if there are any, and whose each of them is."""
        if not packed.lengths.size:
            return
        self.cut += packed.cut
        name = f"{self.first_row:012d}-{len(self.shards):04d}"
        ids, lengths = packed.ids.astype(token_dtype(self.vocab_size)).tobytes(), packed.lengths.astype("<i4").tobytes()
        for file, content in zip(shard_file_names(name), (ids, lengths), strict=True):
            self.folder.write(file, content)
        persons = None
        if marks is not None:
            assert len(marks) == packed.lengths.size
            persons = marks.tobytes()
            self.folder.write(persons_file_name(name), persons)
        self.shards.append(
            Shard(
                name=name,
                examples=packed.lengths.size,
                targets=int(packed.lengths.sum()),
                ids_bytes=len(ids),
                ids_sha256=hashlib.sha256(ids).hexdigest(),
                lengths_sha256=hashlib.sha256(lengths).hexdigest(),
                persons_sha256=None if persons is None else hashlib.sha256(persons).hexdigest(),
            )
        )


@dataclass(frozen=True)
class _TokenizeUnit:
    """Tokenizes, packs and writes one unit; a Ray worker makes its own copy from plain values."""

    config: JobConfig
    seq_length: int
    folder_uri: str
    tokenizer_files: dict[str, bytes]
    person_key: bytes

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        with _carried_errors():
            return self._tokenize(Unit(**row))

    def _tokenize(self, unit: Unit) -> dict[str, Any]:
        tokenizer = from_files(self.tokenizer_files)
        folder = open_folder(self.folder_uri)
        packer = Packer(self.config.examples.packing, self.seq_length, tokenizer.end_id)
        schema = tokenizer.schema.arrow if isinstance(tokenizer, FieldTokenizer) else None
        written = ShardWriter(folder, tokenizer.vocab_size, unit.first_row)
        unknown = 0
        marks: list[NDArray[np.uint8]] = []
        for records, _, persons in read_with_persons(self.config.data, unit, schema):
            if persons is not None:
                marks.append(mark_persons(persons.filter(records.is_valid()), self.person_key))
            tokens, lengths = tokenizer.encode_batch(records.drop_null())
            if tokenizer.unknown_id is not None:
                unknown += int((tokens == tokenizer.unknown_id).sum())
            packer.add(tokens, lengths)
            if packer.pending_ids >= IDS_PER_SHARD:
                written.add(packer.take(last=False), _joined(marks))
                marks = []
        written.add(packer.take(), _joined(marks))
        shards = json.dumps([asdict(shard) for shard in written.shards])
        return {"first_row": unit.first_row, "cut": written.cut, "unknown": unknown, "shards": shards}


def _joined(marks: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8] | None:
    return np.concatenate(marks) if marks else None


class _SampleUnit:
    """The records of one unit that are in the tokenizer's training sample."""

    def __init__(self, config: JobConfig, survey: Survey) -> None:
        self.data = config.data
        wanted = config.tokenizer.max_training_records
        self.rows: np.ndarray | None = None
        if survey.found.rows > wanted:
            chosen = np.random.default_rng(SAMPLE_SEED).choice(survey.found.rows, wanted, replace=False)
            self.rows = np.sort(chosen)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        for row in batch.to_pylist():
            with _carried_errors():
                yield from self._sample(Unit(**row))

    def _sample(self, unit: Unit) -> Iterator[pa.Table]:
        first = unit.first_row
        for texts in read_unit(self.data, unit):
            if self.rows is None:
                sample = texts
            else:
                begin, end = np.searchsorted(self.rows, [first, first + len(texts)])
                sample = texts.take(pa.array(self.rows[begin:end] - first))
            first += len(texts)
            yield pa.table({"text": sample.drop_null()})


def _make_tokenizer(config: JobConfig, survey: Survey) -> Tokenizer:
    import ray

    settings = config.tokenizer
    if config.data.since is not None:
        return from_files(read_published(_earlier_tokenizer(config)))
    if survey.schema is not None:
        return FieldTokenizer(survey.schema)
    if settings.uri is not None:
        return from_sentencepiece_model(_read_model(settings.uri), config.data.field_delimiter)
    if settings.kind == "byte":
        return ByteTokenizer()
    if settings.alphabet is not None:
        return CharTokenizer("".join(dict.fromkeys(settings.alphabet)))

    def train(*samples: pa.Table) -> dict[str, bytes]:
        texts = (text for sample in samples for text in sample.column("text").to_pylist())
        return _train(config, texts).to_files()

    # In a process of its own: SentencePiece and TensorFlow do not share one gladly.
    samples = _dataset(survey.units).map_batches(
        _SampleUnit(config, survey), batch_format="pyarrow", batch_size=1, zero_copy_batch=True
    )
    with _plain_errors():
        return from_files(ray.get(ray.remote(train).remote(*samples.to_arrow_refs())))


def _earlier_tokenizer(config: JobConfig) -> Folder:
    """The tokenizer of the run that `data.since` names."""
    return open_folder(config.storage.uri).child(f"{config.data.since}/tokenizer")


def _earlier_schema(config: JobConfig) -> Schema | None:
    """The schema of the run that `data.since` names."""
    if config.data.since is None:
        return None
    tokenizer = from_files(read_published(_earlier_tokenizer(config)))
    assert isinstance(tokenizer, FieldTokenizer)
    return tokenizer.schema


def _train(config: JobConfig, texts: Iterable[str]) -> Tokenizer:
    return train_tokenizer(
        config.tokenizer.kind,
        texts,
        vocab_size=config.tokenizer.vocab_size,
        character_coverage=config.tokenizer.character_coverage,
        field_delimiter=config.data.field_delimiter,
        seed=SAMPLE_SEED,
    )


def _dataset(units: tuple[Unit, ...]) -> Any:
    """One Ray Data block a unit, so that units are what the workers share out; results keep the units' order."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # Ray Data's own error keeps nothing of ours but its text.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray.data.from_items([unit.to_dict() for unit in units], override_num_blocks=len(units))


class _CarriedError(Exception):
    """An error on its way out of Ray Data, which adds lines of its own to an exception's arguments."""

    def __init__(self, cause: RunnerError) -> None:
        super().__init__(cause)
        self.cause = cause

    def __reduce__(self) -> tuple[Any, ...]:
        return _CarriedError, (self.cause,)


@contextmanager
def _carried_errors() -> Iterator[None]:
    """In a worker of Ray Data: let errors through to `_plain_errors` as they are."""
    try:
        yield
    except RunnerError as error:
        raise _CarriedError(error) from None


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Let the user's error out of what Ray wrapped around it."""
    try:
        yield
    except Exception as error:
        inner = find_user_error(error)
        if inner is None:
            raise
        raise inner from error


def _read_model(uri: str) -> bytes:
    folder, name = open_parent(uri, patient=False)
    try:
        return folder.read(name)
    except ObjectNotFoundError:
        raise TokenizerError(f"{uri}: no such SentencePiece model") from None
