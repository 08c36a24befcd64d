"""A folder of generated shards, and what vouches for each.

    part-00000.parquet ...               the records
    _generation/settings.json            what they are a function of, written first: its creation claims the folder
    _generation/prompts.json             the prompts
    _generation/shards/part-00000.sha256 the SHA-256 of a shard before it is written, after that of one it replaces
    _generation/shards/part-00000.json   counts, size and SHA-256 of a shard, written after it
    _generation/status.json              state, progress, heartbeat (see `runner.run_directory`)
    _generation/summary.json             the counts of all, written last

Readers of Parquet folders pass over names that start with `_`. A shard is a function of the settings and its number:
its draws come from a range of their own, 2^32 numbers long, so shards share none and nobody's turn matters.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from runner.config import GenerationConfig
from runner.data.texts import row_texts, without_views
from runner.errors import ConfigError, CorruptError, ObjectNotFoundError
from runner.generation.output import to_parquet
from runner.generation.records import RecordMaker, hash_texts
from runner.generation.settings import SamplingSettings
from runner.generation.shares import ValueShare
from runner.run_directory import GENERATION
from runner.storage import Folder, shown_name

FORMAT_VERSION = 2
UNMASKED_VERSION = 1
"""Folders of this version are gone on with as they were begun: what the rules exclude is drawn and left out."""
DRAWS_PER_SHARD = 1 << 32
READERS = 16
SETTINGS_FILE = "settings.json"
PROMPTS_FILE = "prompts.json"
SETTINGS = tuple(each.name for each in fields(SamplingSettings))


@dataclass(frozen=True)
class Generation:
    """All that the shards of a folder are a function of; but for `run_uri`, where the model is, and `actors`.

    `model`: the digest of the run's model. `training`: a fingerprint of the training records, where they matter.
    `actors`: how many make shards; None: one for each core. `version`: that of the folder.
    """

    run_uri: str
    model: str
    settings: SamplingSettings
    rows_per_shard: int
    training: str | None = None
    actors: int | None = None
    version: int = FORMAT_VERSION

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-self.settings.records // self.rows_per_shard)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the prompts by their digest."""
        settings = {name: getattr(self.settings, name) for name in SETTINGS}
        shares = [list(share) for share in settings.pop("rebalance")]
        if shares:  # Folders of versions that had none go on.
            settings["rebalance"] = shares
        settings["validation"] = self.settings.validation.model_dump(mode="json", exclude={"actors"})
        settings["prompts"] = hashlib.sha256(_prompts_file(self.settings)).hexdigest()
        return {
            "version": self.version,
            "run_uri": self.run_uri,
            "model": self.model,
            "settings": settings,
            "rows_per_shard": self.rows_per_shard,
            "training": self.training,
            "actors": self.actors,
        }


@dataclass(frozen=True)
class ShardInfo:
    """What is said of a shard: its records, its file, and what was left out (see `Generated`).

    `repeated_elsewhere`: records dropped at the end because an earlier shard has them.
    """

    records: int
    size: int
    sha256: str
    invalid: dict[str, int] = field(default_factory=dict[str, int])
    repeated: int = 0
    in_training: int = 0
    repeated_elsewhere: int = 0


def shard_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def claim_folder(folder: Folder, generation: Generation) -> None:
    """Take a folder for a generation, or find that it is this generation's already.

    Raises:
        ConfigError: it holds other files, or a generation with other settings.
    """
    books = folder.child(GENERATION)
    settings, prompts = json.dumps(generation.to_dict(), indent=1).encode(), _prompts_file(generation.settings)
    if not books.exists(SETTINGS_FILE):
        # An earlier version wrote its prompts first, and may have been killed then.
        has_prompts = books.exists(PROMPTS_FILE) and books.read(PROMPTS_FILE) == prompts
        ours = [f"{GENERATION}/{PROMPTS_FILE}"] if has_prompts else []
        if (other := folder.find_file(but=ours)) is not None and not books.exists(SETTINGS_FILE):
            raise ConfigError(f"{folder.uri} holds other files, such as {shown_name(other)}: choose an empty folder")
        books.create(SETTINGS_FILE, settings)
    if (found := _read_settings(folder))["version"] == UNMASKED_VERSION:
        generation = replace(generation, version=UNMASKED_VERSION)
        settings = json.dumps(generation.to_dict(), indent=1).encode()
    there, here = _flat(found), _flat(generation.to_dict())
    if different := sorted(name for name in there | here if there.get(name) != here.get(name)):
        first = different[0]
        raise ConfigError(
            f"{folder.uri} holds a generation with other settings: {', '.join(different)} "
            f"({first} is {there.get(first)} there, {here.get(first)} here); choose another folder or the same settings"
        )
    books.write(SETTINGS_FILE, settings)
    books.write(PROMPTS_FILE, prompts)


def read_generation(folder: Folder) -> Generation:
    """The generation that claimed a folder."""
    books = folder.child(GENERATION)
    try:
        values = _read_settings(folder)
        prompts = tuple(json.loads(books.read(PROMPTS_FILE)))
    except ObjectNotFoundError as error:
        raise CorruptError(f"{folder.uri}: no generation here") from error
    if values["version"] not in (UNMASKED_VERSION, FORMAT_VERSION):
        raise CorruptError(f"{folder.uri}: written by another version of runner")
    settings: dict[str, Any] = values["settings"]
    validation = GenerationConfig.model_validate(settings["validation"])
    if "rebalance" in settings:
        settings["rebalance"] = tuple(ValueShare(*share) for share in settings["rebalance"])
    return Generation(
        values["run_uri"],
        values["model"],
        SamplingSettings(**(settings | {"prompts": prompts, "validation": validation})),
        values["rows_per_shard"],
        values["training"],
        values["actors"],
        values["version"],
    )


def make_shard(maker: RecordMaker, folder: Folder, rows_per_shard: int, number: int) -> ShardInfo:
    """Make one shard and publish it: the file first, then what vouches for it.

    Raises:
        ConfigError: there is a file of its name that is not a shard of this generation.
    """
    first = number * rows_per_shard
    count = min(rows_per_shard, maker.settings.records - first)
    generated = maker.make(count, first=first, first_draw=number * DRAWS_PER_SHARD)
    data = to_parquet(generated.table)
    return _publish(
        folder,
        number,
        data,
        ShardInfo(
            count,
            len(data),
            hashlib.sha256(data).hexdigest(),
            generated.invalid,
            generated.repeated,
            generated.in_training,
        ),
    )


def finished_shards(folder: Folder, shards: int) -> dict[int, ShardInfo]:
    """The shards that are whole, by number."""
    sizes = {entry.name: entry.size for entry in folder.list()}
    there = [number for number in range(shards) if shard_name(number) in sizes and _info_name(number) in sizes]

    def read(number: int) -> ShardInfo:
        return ShardInfo(**json.loads(folder.read(_info_name(number))))

    with ThreadPoolExecutor(READERS) as pool:
        found = dict(zip(there, pool.map(read, there), strict=True))
    return {number: info for number, info in found.items() if sizes[shard_name(number)] == info.size}


def drop_repeated(
    folder: Folder, infos: dict[int, ShardInfo], progress: Callable[[str], None], columns: Sequence[str] | None = None
) -> dict[int, ShardInfo]:
    """Drop the records that an earlier shard has, too; doing it twice is doing it once.

    columns: those that tell records apart; None for all.
    Records are told apart by 64-bit hashes: see `hash_texts`. Those of all shards are in memory, 8 bytes each.

    Raises:
        CorruptError: a shard is not as it was written.
    """
    numbers = sorted(infos)
    hashes: list[np.ndarray] = []
    for number in numbers:
        progress(f"comparing shard {number + 1} of {len(numbers)}")
        shard = _read_shard(folder, number, infos[number])
        if columns is not None:
            shard = shard.select(columns)
        hashes.append(hash_texts(row_texts(shard.columns).to_pylist()))
    everything = np.concatenate(hashes)
    is_first = np.zeros(everything.size, bool)
    is_first[np.unique(everything, return_index=True)[1]] = True
    result = dict(infos)
    start = 0
    for number, own in zip(numbers, hashes, strict=True):
        keep = is_first[start : start + own.size]
        start += own.size
        if not keep.all():
            result[number] = _rewrite(folder, number, infos[number], keep)
    return result


def summarize(infos: Sequence[ShardInfo]) -> dict[str, Any]:
    """The counts of all shards together."""
    invalid: Counter[str] = Counter()
    for info in infos:
        invalid.update(info.invalid)
    repeated = sum(info.repeated + info.repeated_elsewhere for info in infos)
    return {
        "records": sum(info.records for info in infos),
        "shards": len(infos),
        "invalid": dict(sorted(invalid.items())),
        "repeated": repeated,
        "in_training": sum(info.in_training for info in infos),
    }


def _rewrite(folder: Folder, number: int, info: ShardInfo, keep: np.ndarray) -> ShardInfo:
    table = _read_shard(folder, number, info)
    table = without_views(table).filter(pa.array(keep)).cast(table.schema)
    data = to_parquet(table)
    changed = replace(
        info,
        records=table.num_rows,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        repeated_elsewhere=info.repeated_elsewhere + int(np.count_nonzero(~keep)),
    )
    return _publish(folder, number, data, changed)


def _publish(folder: Folder, number: int, data: bytes, info: ShardInfo) -> ShardInfo:
    name, announcement = shard_name(number), _announcement_name(number)
    announced = [info.sha256]
    replaces = folder.exists(name)
    if replaces:
        present = hashlib.sha256(folder.read(name)).hexdigest()
        known = {
            info.sha256,
            _recorded_sha256(folder, number),
            *(folder.read_if_exists(announcement) or b"").decode().split(),
        }
        if present not in known:
            raise _not_ours(folder, name)
        announced = list(dict.fromkeys([present, info.sha256]))
    folder.write(announcement, "\n".join(announced).encode())
    folder.delete(_info_name(number))
    if replaces:
        folder.write(name, data)
    elif not folder.create(name, data) and folder.read(name) != data:  # Another process makes the same.
        raise _not_ours(folder, name)
    folder.write(_info_name(number), json.dumps(asdict(info)).encode())
    if len(announced) > 1:  # Killed or not, it ends with the same bytes.
        folder.write(announcement, info.sha256.encode())
    return info


def _not_ours(folder: Folder, name: str) -> ConfigError:
    return ConfigError(
        f"{folder.uri}/{name} is not as this generation wrote it: move it away or delete it, and the same command "
        "makes it again"
    )


def _recorded_sha256(folder: Folder, number: int) -> str | None:
    recorded = folder.read_if_exists(_info_name(number))
    return json.loads(recorded)["sha256"] if recorded else None


def _read_settings(folder: Folder) -> dict[str, Any]:
    """The settings that claimed a folder.

    Raises:
        ObjectNotFoundError: there are none.
        ConfigError: the file is somebody else's.
    """
    name = f"{GENERATION}/{SETTINGS_FILE}"
    try:
        values = json.loads(folder.read(name))
        if isinstance(values, dict) and {"version", "run_uri", "model", "rows_per_shard"} <= values.keys():
            return values | {"settings": dict(values["settings"])}
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise ConfigError(f"{folder.uri} holds other files, such as {name}: choose an empty folder")


def _read_shard(folder: Folder, number: int, info: ShardInfo) -> pa.Table:
    data = folder.read(shard_name(number))
    if hashlib.sha256(data).hexdigest() != info.sha256:
        raise CorruptError(
            f"{folder.uri}/{shard_name(number)} is damaged: delete it, and the same command makes it again"
        )
    return pq.read_table(io.BytesIO(data))


def _info_name(number: int) -> str:
    return f"{GENERATION}/shards/{shard_name(number).removesuffix('.parquet')}.json"


def _announcement_name(number: int) -> str:
    return f"{GENERATION}/shards/{shard_name(number).removesuffix('.parquet')}.sha256"


def _prompts_file(settings: SamplingSettings) -> bytes:
    return json.dumps(settings.prompts, ensure_ascii=False).encode()


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """What shards are a function of, side by side."""
    outer = {name: value for name, value in values.items() if name not in ("settings", "run_uri", "actors")}
    return outer | values["settings"]
