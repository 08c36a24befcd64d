"""`model/`: what may leave the company. Weights, architecture and tokenizer, published whole.

weights.safetensors   the network's weights, by name
model.json            the network's configuration and what generation needs to know
tokenizer.json, sentencepiece.model
privacy.json, privacy.md   the privacy statement, of a private run
tables.json, tables.safetensors   shares of a table's groups of values; of a private run, those it was trained on
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from safetensors.numpy import load, save

from runner.data.tokenizers.base import Tokenizer
from runner.data.tokenizers.saved import from_files
from runner.errors import CorruptError, RunNotFoundError
from runner.model.known_tables import KnownTables
from runner.storage import Folder, publish, read_published

if TYPE_CHECKING:
    from runner.model.network import Network

FORMAT_VERSION = 1


LONGEST_STREAM_RECORD = 4
"""A model of a stream may write a record longer than its windows: up to so many times `seq_length` tokens."""


@dataclass(frozen=True)
class ModelDescription:
    """What a model says of itself: its tokenizer, and the settings it was trained with.

    `digest` changes when any of its files does. `any_order`: whether it draws the fields of a table in any order.
    """

    tokenizer: Tokenizer
    seq_length: int
    packing: str
    field_delimiter: str | None
    columns: tuple[str, ...]
    digest: str
    any_order: bool = False
    known: KnownTables | None = None

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest record that it may write."""
        return self.seq_length * (LONGEST_STREAM_RECORD if self.packing == "stream" else 1)


@dataclass(frozen=True, kw_only=True)
class TrainedModel(ModelDescription):
    """A model read back."""

    network: Network = field(kw_only=True)


def save_model(
    folder: Folder,
    weights: Mapping[str, NDArray[Any]],
    network_config: Mapping[str, Any],
    tokenizer: Tokenizer,
    *,
    seq_length: int,
    packing: str,
    field_delimiter: str | None,
    columns: Sequence[str],
    statement: Mapping[str, bytes],
    epoch: int | None,
    known: KnownTables | None = None,
) -> None:
    """Publish a model. Nothing that was measured on the training records goes in beside the weights, but for what
    counts say of a table: noisy ones of a private run, else those of ten records or more.

    `columns` are those that were joined into records, or the one that held them; `statement`: the files of the
    privacy statement, none without privacy; `epoch`, which the manifest tells: whose weights these are, None where
    they are those of no epoch. `known`: what counts say of a table.
    """
    description = {
        "version": FORMAT_VERSION,
        "network": dict(network_config),
        "seq_length": seq_length,
        "packing": packing,
        "field_delimiter": field_delimiter,
        "columns": list(columns),
    }
    publish(
        folder,
        {
            "weights.safetensors": save(dict(weights)),
            "model.json": json.dumps(description, indent=1).encode(),
            **tokenizer.to_files(),
            **statement,
            **({} if known is None else known.to_files()),
        },
        {"epoch": epoch},
    )


def describe_model(folder: Folder) -> ModelDescription:
    """Read all of a model but its network: this needs no TensorFlow.

    Raises:
        RunNotFoundError: there is none.
        CorruptError: a file is missing or damaged, or of a newer format.
    """
    return ModelDescription(**_read(folder)[0])


def load_model(folder: Folder) -> TrainedModel:
    """Read a model back; errors as for `describe_model`."""
    settings, files = _read(folder)  # SentencePiece comes into the process before TensorFlow.

    from runner.model.network import Network

    network = Network.from_config_dict(json.loads(files["model.json"])["network"])
    network.load_weights_dict(load(files["weights.safetensors"]))
    return TrainedModel(**settings, network=network)


def _read(folder: Folder) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The fields of `ModelDescription`, and the model's files."""
    if not folder.exists("manifest.json"):
        raise RunNotFoundError(
            f"{folder.uri}: no model here; a run leaves one when it ends or is stopped, after its first epoch"
        )
    files = read_published(folder)
    description = json.loads(files["model.json"])
    if description["version"] != FORMAT_VERSION:
        raise CorruptError(
            f"{folder.uri}/model.json has version {description['version']}; this runner reads {FORMAT_VERSION}"
        )
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    settings = {
        "tokenizer": from_files(files),
        "seq_length": description["seq_length"],
        "packing": description["packing"],
        "field_delimiter": description["field_delimiter"],
        "columns": tuple(description["columns"]),
        "any_order": description["network"].get("any_order", False),
        "known": KnownTables.from_files(files),
        "digest": hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest(),
    }
    return settings, files
