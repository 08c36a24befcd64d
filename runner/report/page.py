"""What was found as one HTML page that needs nothing else: no script, no font, no picture from anywhere.

Records are arbitrary text: the template escapes all it is given, and only this module's own plots go in as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from runner.privacy.figures import epsilon_in_words
from runner.privacy.statement_page import claim_in_words
from runner.report.compare import Comparison, Quality
from runner.report.fidelity import Accuracy
from runner.report.found import Found
from runner.report.plots import (
    HOLDOUT,
    SYNTHETIC,
    TRAINING,
    Line,
    bar_plot,
    difference_map,
    line_plot,
)
from runner.report.rare import RARE_BELOW
from runner.train.history import EpochRow

Series = Sequence[tuple[str, str, Sequence[float | None]]]

SAMPLES = 10
SAMPLE_CHARACTERS = 400
MOST_DRAWN = 24
"""Columns whose distributions are drawn: the ones least alike. All are in the table."""
NONE = "—"


def page(found: Found) -> str:
    """The page; the same findings give the same text."""
    quality = found.quality
    return render(
        "report.html.j2",
        found=found,
        quality=quality,
        private=found.config.privacy.enabled,
        claim=claim_in_words(found.statement).replace("**", "") if found.statement else "",
        epsilon=epsilon_in_words(found.statement["epsilon"]) if found.statement else "",
        kept=None if found.best is None else found.rows[found.best],
        curves=_curves(found.rows),
        settings=_flat(found.config.model_dump(mode="json")),
        drawn=_drawn_columns(quality) if quality else [],
        distances=_distance_plot(quality) if quality else "",
        differences=_difference_plot(quality) if quality else "",
        worst_pairs=_worst_pairs(quality) if quality else [],
        rare_below=RARE_BELOW,
        largest_differences=_largest_differences(quality) if quality else [],
        samples=[visible(text, SAMPLE_CHARACTERS) for text in found.synthetic.samples(SAMPLES)]
        if found.synthetic
        else [],
    )


def render(template: str, **values: Any) -> str:
    """A page of a template beside this file."""
    environment = Environment(
        loader=PackageLoader("runner.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": figure,
        "percent": percent,
        "count": count,
        "visible": visible,
        "epsilon": epsilon_in_words,
    }
    return environment.get_template(template).render(**values, version=version("runner"))


def figure(value: float | None, digits: int = 3) -> str:
    """A number for readers.

    >>> figure(0.12345), figure(None), figure(float("nan")), figure(1234.5)
    ('0.123', '—', '—', '1,234.500')
    """
    return NONE if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share for readers.

    >>> percent(0.1234), percent(None)
    ('12.3%', '—')
    """
    return NONE if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f}%"


def count(value: float | None) -> str:
    """A whole number for readers.

    >>> count(20190), count(None)
    ('20,190', '—')
    """
    return NONE if value is None else f"{value:,.0f}"


def visible(text: str, most: int = 60) -> str:
    """Text with its control characters shown as symbols, cut where it is long.

    >>> visible("a\\tb\\0c"), visible("abcdef", 4)
    ('a␉b␀c', 'abc…')
    """
    shown = text if len(text) <= most else text[: most - 1] + "…"
    return "".join(
        chr(0x2400 + ord(c)) if ord(c) < 0x20 else c if c.isprintable() or c == " " else "\ufffd" for c in shown
    )


def _curves(rows: tuple[EpochRow, ...]) -> list[dict[str, Any]]:
    """The plots of what happened epoch by epoch, each with its caption and what its colors mean."""
    if not rows:
        return []
    epochs = [row.epoch + 1 for row in rows]

    def curve(
        name: str, caption: str, series: Series, in_words: Callable[[float], str] = "{:.4g}".format, **options: Any
    ) -> dict[str, Any]:
        known = [(label, color, _finite(values)) for label, color, values in series]
        known = [(label, color, values) for label, color, values in known if any(value is not None for value in values)]
        about = "; ".join(f"{label}: {_first_and_last(values, in_words)}" for label, _, values in known)
        lines = [Line(label, color, epochs, values) for label, color, values in known]
        svg = line_plot(name, caption, f"{caption} by epoch. {about}.", lines, "epoch", **options)
        return {"caption": caption, "svg": Markup(svg), "keys": [_key(label, color) for label, color, _ in known]}  # noqa: S704

    curves = [
        curve(
            "loss",
            "Loss, nats per token",
            [
                ("training", TRAINING, [row.loss for row in rows]),
                ("validation", HOLDOUT, [row.val_loss for row in rows]),
            ],
        ),
        curve(
            "accuracy",
            "Accuracy, share of tokens",
            [
                ("training", TRAINING, [row.accuracy for row in rows]),
                ("validation", HOLDOUT, [row.val_accuracy for row in rows]),
            ],
        ),
    ]
    if any(row.epsilon is not None and math.isfinite(row.epsilon) for row in rows):
        epsilons = [("epsilon", SYNTHETIC, [row.epsilon for row in rows])]
        curves.append(
            curve("epsilon", "Epsilon, spent by the end of an epoch", epsilons, epsilon_in_words, from_zero=True)
        )
    speeds = [("training", TRAINING, [row.tokens_per_second for row in rows])]
    curves.append(curve("throughput", "Throughput, tokens per second", speeds, from_zero=True))
    return curves


def _drawn_columns(quality: Quality) -> list[dict[str, Any]]:
    """The distributions of the columns that are least alike, in the columns' own order."""
    by_distance = sorted(quality.columns, key=lambda column: -(column.distance or 0))[:MOST_DRAWN]
    drawn: list[dict[str, Any]] = []
    for place, column in enumerate(quality.columns):
        if column in by_distance and column.bars.labels:
            svg = bar_plot(f"column-{place}", column.name, _bars_in_words(column), column.bars)
            drawn.append({"column": column, "svg": Markup(svg)})  # noqa: S704
    return drawn


def _distance_plot(quality: Quality) -> str:
    """How near the nearest records are, as cumulative shares; empty when that was not measured."""
    closeness = quality.closeness
    if closeness is None:
        return ""
    lines: list[Line] = []
    for label, color, distances in (
        ("synthetic", SYNTHETIC, closeness.synthetic_to_training),
        ("holdout", HOLDOUT, closeness.holdout_to_training),
    ):
        shares = np.linspace(0, 1, 101)
        lines.append(Line(label, color, np.quantile(distances, shares).tolist(), (100 * shares).tolist()))
    medians = [float(np.median(line)) for line in (closeness.synthetic_to_training, closeness.holdout_to_training)]
    about = (
        "Cumulative share of records by the distance to their nearest training record. "
        f"Median of synthetic records: {medians[0]:.3f}; of holdout records: {medians[1]:.3f}."
    )
    title = "Distance to the nearest training record"
    return Markup(line_plot("nearest", title, about, lines, "distance to the nearest training record"))  # noqa: S704


def _difference_plot(quality: Quality) -> str:
    """The map of association differences; empty when there is none."""
    differences, associations = quality.association_differences, quality.training_associations
    if differences is None or associations is None or quality.mean_association_difference is None:
        return ""
    names = [column.name for column in associations.columns]
    about = f"Difference of association of every two columns. Mean: {quality.mean_association_difference:.3f}."
    return Markup(difference_map("differences", "Association differences", about, names, differences))  # noqa: S704


def _largest_differences(quality: Quality) -> list[tuple[str, str, float, float]]:
    """The pairs of columns whose association differs most: names, and what it is in training and synthetic records."""
    differences, training, synthetic = (
        quality.association_differences,
        quality.training_associations,
        quality.synthetic_associations,
    )
    if differences is None or training is None or synthetic is None:
        return []
    pairs = [(i, j) for i in range(len(differences)) for j in range(i) if not math.isnan(differences[i, j])]
    pairs.sort(key=lambda pair: -differences[pair])
    return [
        (training.columns[j].name, training.columns[i].name, training.values[i, j], synthetic.values[i, j])
        for i, j in pairs[:5]
    ]


def _worst_pairs(quality: Quality) -> list[tuple[tuple[str, str], Accuracy]]:
    """The pairs of columns whose accuracy is furthest below the best that can be had."""
    pairs = quality.fidelity.pairs if quality.fidelity else {}
    return sorted(pairs.items(), key=lambda pair: pair[1].synthetic - pair[1].most)[:5]


def _bars_in_words(column: Comparison) -> str:
    bars = column.bars
    parts = [
        f"{visible(label)}: {percent(training)} of training, {percent(synthetic)} of synthetic records"
        for label, training, synthetic in zip(bars.labels, bars.training, bars.synthetic, strict=True)
    ]
    return "; ".join(parts)


def _finite(values: Sequence[float | None]) -> list[float | None]:
    return [value if value is not None and math.isfinite(value) else None for value in values]


def _first_and_last(values: list[float | None], in_words: Callable[[float], str]) -> str:
    there = [value for value in values if value is not None]
    return f"from {in_words(there[0])} to {in_words(there[-1])}"


def _key(label: str, color: str) -> tuple[str, str]:
    """A label and the class of its color."""
    return label, {TRAINING: "training", SYNTHETIC: "synthetic", HOLDOUT: "holdout"}[color]


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """The job's fields as (dotted name, value)."""
    flat: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            flat += _flat(value, f"{prefix}{name}.")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            flat.append((prefix + name, "null" if shown is None else str(shown)))
    return flat
