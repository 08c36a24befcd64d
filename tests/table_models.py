"""Small models of tables, made by hand, and the probabilities that they give to rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runner.config import parse_job
from runner.data.schema import Schema
from runner.data.schema.field_tokenizer import FieldTokenizer
from runner.model.artifact import TrainedModel, load_model, save_model
from runner.storage import open_folder
from tests.unit.jobs import JOB


def make_table_model(
    folder: Path, fields: Mapping[str, Any], columns: pa.Schema, *, any_order: bool, strength: float = 1.0
) -> TrainedModel:
    """An untrained model whose logits are far from even by `strength`, saved and read back."""
    from runner.model.network import Network

    declared = parse_job(JOB | {"fields": dict(fields)}, environment={}).fields
    assert declared is not None
    tokenizer = FieldTokenizer(Schema.of(declared, columns))
    assert tokenizer.slots is not None
    slots = tokenizer.slots.sizes
    size: dict[str, Any] = {"vocab_size": sum(slots), "embedding_dim": 4, "rnn_units": 6, "layers": 1}
    network = Network(**size, dropout_rate=0, seed=3, slots=slots, any_order=any_order)
    weights = {name: value * strength for name, value in network.weights_dict().items()}
    target = open_folder(str(folder))
    save_model(
        target,
        weights,
        network.config(),
        tokenizer,
        seq_length=tokenizer.record_tokens + 1,
        packing="records",
        field_delimiter=None,
        columns=columns.names,
        statement={},
        epoch=0,
    )
    return load_model(target)


def probabilities(model: TrainedModel, rows: pa.Table, order: Sequence[str], given: int) -> NDArray[np.float64]:
    """Of rows that are all there are: those of their last fields in `order`, given the first `given` ones, (n,).

    By the logits of whole records at once; of tokens that follow a beginning, those alone count that do in some row.
    """
    import tensorflow as tf

    tokenizer = model.tokenizer
    assert isinstance(tokenizer, FieldTokenizer)
    struct = rows.to_struct_array().combine_chunks()
    records = [ids.tolist() for ids in _split(*tokenizer.encode_fields(struct, order))]
    _, begun = tokenizer.encode_fields(struct, order[:given])
    width = max(map(len, records)) + 1
    ids = np.zeros((len(records), width + 1), np.int32)
    for row, record in zip(ids, records, strict=True):
        row[1 : len(record) + 1] = record
    logits = model.network.logits(tf.constant(ids[:, :-1]), targets=tf.constant(ids[:, 1:])).numpy()
    logits = logits.reshape(width, len(records), -1)
    follow: dict[tuple[int, ...], set[int]] = defaultdict(set)
    for record in records:
        for place, token in enumerate(record):
            follow[tuple(record[:place])].add(token)
    found = np.zeros(len(records))
    for number, record in enumerate(records):
        for place in range(int(begun[number]), len(record)):
            tokens = sorted(follow[tuple(record[:place])])
            values = logits[place, number, tokens].astype(np.float64)
            found[number] += logits[place, number, record[place]] - np.log(np.exp(values).sum())
    return np.exp(found)


def _split(flat: NDArray[Any], lengths: NDArray[Any]) -> list[NDArray[Any]]:
    return np.split(flat, np.cumsum(lengths)[:-1])
