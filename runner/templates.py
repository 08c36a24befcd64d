"""The job files that `runner init` writes: every field, with a comment that says what it is for.

    >>> print(commented_yaml(job_values("demo", {"uri": "records/"}, "private")).splitlines()[0])
    name: demo                                  # the run's name, and its folder under storage.uri

A template is the values in which it differs from the defaults.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runner.config import JobConfig, Section, write_inline

PRIVATE: dict[str, Any] = {
    # Bytes learn nothing from the records. For records of few characters, char with an alphabet trains faster.
    "tokenizer": {"kind": "byte"},
    # One layer without dropout: noise grows with the number of weights, and hides what dropout would.
    "model": {"embedding_dim": 64, "rnn_units": 128, "layers": 1, "dropout_rate": 0.0},
    # Large batches: the noise is the same for a sum of many records as for one of few. The moving average takes
    # some of it off again.
    "training": {
        "epochs": 15,
        "batch_size": 1024,
        "optimizer": {"name": "adam", "learning_rate": 0.02, "ema_momentum": 0.95},
    },
    "privacy": {"enabled": True, "target_epsilon": 8.0, "l2_norm_clip": 0.1},
}
PRIVATE_TABLE: dict[str, Any] = {
    # Training sees draws by noisy counts: a small network learns them in one pass.
    "model": {"embedding_dim": 32, "rnn_units": 64, "layers": 1, "dropout_rate": 0.0},
    # Without a validation split all records are counted.
    "training": {
        "epochs": 1,
        "batch_size": 512,
        "optimizer": {"name": "adam", "learning_rate": 0.01, "schedule": {"name": "cosine"}},
        "validation_split": False,
        "early_stopping": {"enabled": False},
        "save_best": False,
    },
    "privacy": {"enabled": True, "target_epsilon": 4.0},
}
PRIVATE_TEXTS: dict[str, Any] = PRIVATE | {
    # Texts are learned by noisy steps. Without a validation split all records are counted for the other columns.
    "training": PRIVATE["training"]
    | {"validation_split": False, "early_stopping": {"enabled": False}, "save_best": False},
}
STEPS_OF_EPOCH = 6
"""Of noisy steps on texts, at least: of fewer rows a step takes fewer."""
LONGEST_KEY = 1000
"""Of YAML, a little less; longer ones are written with a question mark."""

TEMPLATES: dict[str, dict[str, Any]] = {"default": {}, "private": PRIVATE}


def job_values(
    name: str,
    data: Mapping[str, Any],
    template: str = "default",
    fields: Mapping[str, Any] | None = None,
    rows: int | None = None,
) -> dict[str, Any]:
    """The values of a template's job, as nested mappings; `fields`: of a table, of so many `rows`."""
    chosen = TEMPLATES[template]
    if template == "private" and fields is not None:
        has_texts = any(field["kind"] == "text" for field in fields.values())
        chosen = _private_texts(rows) if has_texts else PRIVATE_TABLE
    values = {"name": name, "data": dict(data), **chosen}
    return values if fields is None else values | {"fields": dict(fields), "tokenizer": {"kind": "fields"}}


def _private_texts(rows: int | None) -> dict[str, Any]:
    """Those of a private table with texts: the batch is a power of two.

    >>> [_private_texts(rows)["training"]["batch_size"] for rows in (24_421, 1_661, 5)]
    [1024, 256, 1]
    """
    most = PRIVATE_TEXTS["training"]["batch_size"]
    size = most if rows is None else min(most, 1 << (max(rows // STEPS_OF_EPOCH, 1).bit_length() - 1))
    return PRIVATE_TEXTS | {"training": PRIVATE_TEXTS["training"] | {"batch_size": size}}


def commented_yaml(values: Mapping[str, Any], notes: Mapping[str, str] | None = None) -> str:
    """A job file with every field, `values` where given and the default elsewhere, and what each is for.

    notes: of the columns of a table, what is said of each instead.
    """
    return "\n".join(_commented_lines(JobConfig, values, "", notes or {})) + "\n"


def _commented_lines(
    section: type[Section], values: Mapping[str, Any], indent: str, notes: Mapping[str, str]
) -> Iterator[str]:
    for name, field in section.model_fields.items():
        nested = field.annotation
        if section is JobConfig and name == "fields" and values.get(name):
            yield f"{name}:  # {field.description}"
            for each, entry in values[name].items():
                yield from _commented_field(each, entry, notes.get(each))
        elif isinstance(nested, type) and issubclass(nested, Section):
            yield f"{indent}{name}:  # {field.description}"
            yield from _commented_lines(nested, values.get(name, {}), indent + "  ", notes)
        else:
            value = values.get(name, field.get_default())
            line = f"{indent}{name}: {write_inline(list(value) if isinstance(value, tuple) else value)}"
            yield f"{line:<42}  # {field.description}"


def _commented_field(name: str, entry: Mapping[str, Any], note: str | None) -> Iterator[str]:
    key, value = write_inline(name), write_inline(dict(entry)) + (f"  # {note}" if note else "")
    if len(key) > LONGEST_KEY:
        yield f"  ? {key}"
        yield f"  : {value}"
    else:
        yield f"  {key}: {value}"
