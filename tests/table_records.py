"""A small table for whole runs: a column of each kind of field, with nulls, a dictionary, decimals and a time zone."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.runs import small_job

PLANS = ("basic", "family", "gold")
SCHEMA = pa.schema(
    [
        ("customer", pa.int32()),
        ("age", pa.int8()),
        ("price", pa.decimal128(9, 2)),
        ("seen", pa.timestamp("us", "Europe/Berlin")),
        ("joined", pa.date32()),
        ("active", pa.bool_()),
        ("plan", pa.dictionary(pa.int8(), pa.string())),
        ("note", pa.string()),
        ("secret", pa.string()),
    ]
)
MADE = pa.schema([field for field in SCHEMA if field.name != "secret"])
"""What is generated."""
LEARNED = MADE.names[1:]
FIELDS: dict[str, Any] = {
    "customer": {"kind": "id", "made": "sequence"},
    "age": {"kind": "integer"},
    "price": {"kind": "number"},
    "seen": {"kind": "datetime", "resolution": "minute"},
    "joined": {"kind": "date"},
    "active": {"kind": "boolean"},
    "plan": {"kind": "category"},
    "note": {"kind": "text", "max_tokens": 8},
    "secret": {"kind": "id"},
}
DECLARED: dict[str, Any] = FIELDS | {
    "age": {"kind": "integer", "range": [0, 99]},
    "price": {"kind": "number", "range": [0, 99], "decimals": 2},
    "seen": {"kind": "datetime", "range": ["2024-01-01", "2024-12-31"], "resolution": "minute"},
    "joined": {"kind": "date", "range": ["2000-01-01", "2023-12-31"]},
    "plan": {"kind": "category", "values": list(PLANS)},
}
"""Nothing of it is looked up in the records."""


def table_rows(count: int, seed: int = 7) -> pa.Table:
    """Rows with something to learn: gold is for the old, and costs more."""
    draw = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        plan = draw.choice(PLANS)
        old = 40 if plan == "gold" else 0
        rows.append(
            {
                "customer": 1000 + number,
                "age": None if draw.random() < 0.1 else 20 + old + draw.randrange(20),
                "price": Decimal(500 + 10 * old + draw.randrange(8) * 25).scaleb(-2),
                "seen": datetime(2024, 3, 1, 8, tzinfo=UTC) + timedelta(minutes=draw.randrange(50_000)),
                "joined": date(2015, 1, 1) + timedelta(days=draw.randrange(2_000)),
                "active": None if draw.random() < 0.1 else draw.random() < 0.7,
                "plan": plan,
                "note": draw.choice(["ok", "late", "", None]),
                "secret": f"secret-{number}",
            }
        )
    return pa.Table.from_pylist(rows, SCHEMA)


def write_table(folder: Path, count: int = 300, files: int = 2) -> Path:
    """Parquet files of `table_rows`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, each = table_rows(count), -(-count // files)
    for part in range(files):
        pq.write_table(rows.slice(part * each, each), folder / f"part-{part}.parquet")
    return folder


def table_job(name: str, data: Path | str, runs: Path | str, **training: Any) -> dict[str, Any]:
    """A job on it that trains in seconds."""
    job = small_job(name, data, runs, **training)
    del job["tokenizer"], job["examples"]
    return job | {
        "data": {"uri": str(data)},
        "fields": FIELDS,
        "model": {"embedding_dim": 8, "rnn_units": 16, "layers": 1},
    }
