"""What was compared as plain values, for `--json`, and in words, for the terminal."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from runner.report.compare import Quality
from runner.report.fidelity import Fidelity
from runner.report.inference import Inference
from runner.report.rare import RARE_BELOW, RareValues

MOST_VALUES = 100


def figures(quality: Quality) -> dict[str, Any]:
    """The figures of a comparison as plain values; None where one is not defined."""
    closeness, usefulness = quality.closeness, quality.usefulness
    fidelity, discriminator, inference = quality.fidelity, quality.discriminator, quality.inference
    return {
        "synthetic_records": quality.synthetic_records,
        "synthetic_source": quality.synthetic_source,
        "right_number_of_fields": quality.fields_share,
        "distinct": quality.distinct_share,
        "column_distance": quality.mean_distance,
        "column_distance_of_holdout": quality.mean_holdout_distance,
        "columns": [
            {
                "name": column.name,
                "kind": column.kind,
                "distance": column.distance,
                "distance_of_holdout": column.holdout_distance,
            }
            for column in quality.columns
        ],
        "association_difference": quality.mean_association_difference,
        "association_difference_of_holdout": quality.mean_holdout_association_difference,
        "accuracy": None if fidelity is None else _accuracies(fidelity),
        "discriminator_auc": None if discriminator is None else discriminator.synthetic,
        "discriminator_auc_of_holdout": None if discriminator is None else discriminator.holdout,
        "discriminator_auc_by_chance": None if discriminator is None else [0.5, discriminator.chance],
        "exact_copies": quality.synthetic_copies,
        "exact_copies_of_holdout": quality.holdout_copies,
        "closer_to_training": None if closeness is None else closeness.closer_to_training,
        "closer_to_training_by_chance": None if closeness is None else [0.5, closeness.chance],
        "nearest_neighbor_distance_ratio": None
        if closeness is None
        else {
            "synthetic_to_training": closeness.synthetic_to_training_ratio,
            "synthetic_to_holdout": closeness.synthetic_to_holdout_ratio,
            "holdout_to_training": closeness.holdout_to_training_ratio,
            "ratio": closeness.ratio,
        },
        "rare_values": None if quality.rare is None else _rare(quality.rare),
        "attribute_inference": None if inference is None else _inference(inference),
        "usefulness": None if usefulness is None else asdict(usefulness) | {"ratio": usefulness.ratio},
    }


def in_words(quality: Quality | None) -> list[str]:
    """The headline figures, a line each."""
    if quality is None:
        return []
    lines = [f"compared: {quality.synthetic_records:,} synthetic records ({quality.synthetic_source})"]
    if quality.fidelity is not None:
        overall = quality.fidelity.overall
        lines.append(
            f"accuracy: {overall.synthetic:.1%} of distributions of one, two and three columns; another sample of the "
            f"same source: {overall.most:.1%}"
        )
    if quality.discriminator is not None:
        area = quality.discriminator
        lines.append(f"told from real records: AUC {area.synthetic:.3f} (0.5 ± {area.chance:.3f} if they cannot be)")
    if quality.mean_distance is not None:
        chance = quality.mean_holdout_distance
        beside = "" if chance is None else f"; records that were not trained on: {chance:.3f}"
        lines.append(f"columns: {quality.mean_distance:.3f} from the training records on average{beside}")
    beside = (
        "" if quality.holdout_copies is None else f"; of records that were not trained on: {quality.holdout_copies:.2%}"
    )
    lines.append(f"exact copies: {quality.synthetic_copies:.2%} of the synthetic records{beside}")
    if quality.closeness is not None:
        lines.append(
            f"closer to a training than to a holdout record: {quality.closeness.closer_to_training:.1%} "
            f"(50% ± {quality.closeness.chance:.1%} by chance)"
        )
    useful = quality.usefulness
    if useful is not None:
        name = "accuracy" if useful.real.accuracy is not None else "r2"
        mine, real = (getattr(score, name) for score in (useful.synthetic, useful.real))
        shown = ["not defined" if value is None else f"{value:.3f}" for value in (mine, real)]
        lines.append(f"{useful.target}: {name} {shown[0]} trained on synthetic, {shown[1]} trained on real records")
    return lines


def _accuracies(fidelity: Fidelity) -> dict[str, Any]:
    """Of each: `synthetic`, `most` (the best that can be had) and `holdout`."""
    levels = {name: getattr(fidelity, name) for name in ("overall", "univariate", "bivariate", "trivariate")}
    return {
        **{name: None if accuracy is None else asdict(accuracy) for name, accuracy in levels.items()},
        "columns": [{"name": name, **asdict(accuracy)} for name, accuracy in fidelity.columns.items()],
        "pairs": [{"names": list(names), **asdict(accuracy)} for names, accuracy in fidelity.pairs.items()],
        "pairs_of_all": [len(fidelity.pairs), fidelity.all_pairs],
        "triples_of_all": [fidelity.triples, fidelity.all_triples],
    }


def _rare(rare: RareValues) -> dict[str, Any]:
    """Of the values that came through the first `MOST_VALUES`."""
    return {
        "fewer_than": RARE_BELOW,
        "columns": [asdict(column) for column in rare.columns],
        "values": [asdict(value) for value in rare.values[:MOST_VALUES]],
        "values_in_all": len(rare.values),
    }


def _inference(inference: Inference) -> dict[str, Any]:
    return {
        "attacks": inference.attacks,
        "guessed_of_training": inference.training,
        "guessed_of_holdout": inference.holdout,
        "columns": [
            {"name": each.column, "training": each.training, "holdout": each.holdout, "risk": each.risk}
            for each in inference.columns
        ],
    }
