"""Synthetic records from a trained model, and the files they are written to."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from runner.errors import ConfigError, JobFailedError
from runner.model.artifact import TrainedModel
from runner.storage import open_folder

BATCH_SIZE = 256
LONGEST_STREAM_RECORD = 4
"""A model of a stream may write a record longer than its windows: up to so many times `seq_length` tokens."""
MOST_DRAWS = 10
"""Gives up when fewer than one in so many records has the right number of fields."""

SUFFIXES = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class SamplingSettings:
    """How the next token is drawn: see `runner.model.sampling`."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0
    prompt: str = ""


@dataclass(frozen=True)
class Generated:
    """Records, each as the values of the model's columns, and how many draws had the wrong number of fields."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    left_out: int


def generate_records(model: TrainedModel, n: int, settings: SamplingSettings) -> Generated:
    """Draw `n` records; the same model, settings and seed give the same ones.

    Where the model was trained on joined columns, a record is split at the delimiter again, and one with another
    number of fields is left out and drawn anew.

    Raises:
        JobFailedError: hardly any record has the right number of fields.
    """
    rows: list[tuple[str, ...]] = []
    left_out = 0
    for text in _texts(model, n, settings):
        fields = split_record(text, model.columns, model.field_delimiter)
        if fields is None:
            left_out += 1
        else:
            rows.append(fields)
        if len(rows) == n:
            return Generated(model.columns, rows, left_out)
    raise JobFailedError(
        f"only {len(rows)} of {len(rows) + left_out} generated records have {len(model.columns)} fields; "
        "train longer, or lower --temperature"
    )


def split_record(text: str, columns: Sequence[str], field_delimiter: str | None) -> tuple[str, ...] | None:
    """A record's fields, one for each column; None where their number differs.

    >>> split_record("1,2", ["a", "b"], ","), split_record("1,2,3", ["a", "b"], ","), split_record("1,2", ["a"], ",")
    (('1', '2'), None, ('1,2',))
    """
    if len(columns) == 1 or field_delimiter is None:
        return (text,)
    fields = tuple(text.split(field_delimiter))
    return fields if len(fields) == len(columns) else None


def check_output(uri: str) -> None:
    """Raise ConfigError for a file whose suffix is not known."""
    if not uri.endswith(SUFFIXES):
        raise ConfigError(f"-o {uri}: the file must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")


def write_records(uri: str, generated: Generated) -> None:
    """Write CSV, JSON Lines or Parquet, by the file's suffix, to a local path or s3://."""
    check_output(uri)
    encode = {".csv": _to_csv, ".jsonl": _to_jsonl, ".parquet": _to_parquet}["." + uri.rpartition(".")[2]]
    parent, _, name = uri.rpartition("/")
    open_folder(parent or ("/" if uri.startswith("/") else ".")).write(name, encode(generated))


def _texts(model: TrainedModel, n: int, settings: SamplingSettings) -> Iterator[str]:
    from runner.model.sampling import sample_batches

    longest = model.seq_length * (LONGEST_STREAM_RECORD if model.packing == "stream" else 1)
    batches = sample_batches(
        model.network,
        MOST_DRAWS * n + BATCH_SIZE,
        end_id=model.tokenizer.end_id,
        max_length=longest,
        prompt_ids=model.tokenizer.encode(settings.prompt),
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        seed=settings.seed,
        batch_size=min(BATCH_SIZE, n),
    )
    for batch in batches:
        yield from model.tokenizer.decode_batch(batch)


def _to_csv(generated: Generated) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(generated.columns)
    writer.writerows(generated.rows)
    return text.getvalue().encode()


def _to_jsonl(generated: Generated) -> bytes:
    lines = (json.dumps(dict(zip(generated.columns, row, strict=True)), ensure_ascii=False) for row in generated.rows)
    return "".join(line + "\n" for line in lines).encode()


def _to_parquet(generated: Generated) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = list(zip(*generated.rows, strict=True)) or [()] * len(generated.columns)
    table = pa.table(
        {name: pa.array(column, pa.string()) for name, column in zip(generated.columns, values, strict=True)}
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
