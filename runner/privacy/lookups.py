"""What a private job looks up in its records for the schema: which histograms, of how much noise, and what they tell.

    lookups_of(config)                              # age.parts, job.values, paid.decimals; () where nothing is open
    (release,) = plan_schema(config, delta)         # a part of epsilon, or () where nothing is looked up
    counted = count_lookups(config, files, schema, release)      # exact: may only be noised
    bought_fields(config, release, noisy)           # name -> CompleteField, from the noisy counts alone

A null adds to no cell, every other value to one of each histogram of its column:

    values      the values that occur, as texts; those over the threshold are the field's
    decimals    places after the point that a number needs, 0 to 18 and more
    resolution  the smallest part of a moment that is not zero
    parts       of a number's declared range: evenly spaced, and by magnitude; where the range is cut follows from them

Ranges are not bought: the ends of a histogram without bounds are single records.
"""

# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from runner.config import JobConfig, undeclared
from runner.config.fields import MOST_VALUES, CategoryField, FieldConfig, IntegerField, NumberField
from runner.data.files import SourceFile
from runner.data.records import read_owned
from runner.data.schema.completion import RESOLUTIONS, CompleteField, decimals_of, declared
from runner.data.schema.found import Ends
from runner.data.schema.outside import Declared
from runner.data.schema.reading import FINER, is_numeric, places_of, plain_type, to_numbers
from runner.data.texts import to_texts
from runner.errors import DataError
from runner.privacy.accountant import Release
from runner.privacy.contributions import first_records
from runner.privacy.releases import Counts, plan_release

SCHEMA = "schema"
"""The release's name."""
SHARE = 0.2
"""Of the target epsilon: what the schema alone costs where the job does not say. Costs of noisy sums add up in squares:
on 24,421 rows at epsilon 1.6 it takes 3.1% more noise in training, and a twentieth takes 0.8%, but 3.5 times the
threshold, under which 10% of the records lose a value of education and of country, instead of 0.7% and 7%."""
FINE_WEIGHT = 0.1
"""Of decimals and resolution beside values and parts: few cells, and nearly all records in one or two."""
CERTAIN = 3.0
"""In sigma: a count under it may be noise, and is taken for none."""
FEWEST_PARTS = 8

Key = Literal["values", "decimals", "resolution", "parts"]


@dataclass(frozen=True)
class Lookup:
    """One histogram of one column."""

    column: str
    key: Key

    @property
    def name(self) -> str:
        """What the histogram is called in the release."""
        return f"{self.column}.{self.key}"


def lookups_of(config: JobConfig) -> tuple[Lookup, ...]:
    """The histograms that the job buys.

    There are none where it is not private, has the schema of another run, or declares all and does not ask for any.
    """
    if not config.privacy.enabled or config.fields is None or config.data.since is not None:
        return ()
    found = [Lookup(name, cast(Key, key)) for name, field in config.fields.items() for key in undeclared(field)]
    if not found and config.privacy.schema_epsilon is None:
        return ()
    return (*found, *(Lookup(name, "parts") for name, field in config.fields.items() if _has_parts(field)))


def plan_schema(config: JobConfig, delta: float) -> tuple[Release, ...]:
    """The release that the job's lookups need, at the noise that `privacy.schema_epsilon` pays for; () without any.

    Raises:
        PrivacyError: it pays for none.
    """
    lookups, privacy = lookups_of(config), config.privacy
    if not lookups:
        return ()
    target = privacy.schema_epsilon
    if target is None:
        assert privacy.target_epsilon is not None
        target = SHARE * privacy.target_epsilon
    weights = {lookup.name: FINE_WEIGHT if lookup.key in ("decimals", "resolution") else 1.0 for lookup in lookups}
    open_sets = {lookup.name for lookup in lookups if lookup.key == "values"}
    return (
        plan_release(SCHEMA, weights, open_sets, target, delta, privacy.accountant, sensitivity=privacy.sensitivity),
    )


def count_lookups(
    config: JobConfig, files: tuple[SourceFile, ...], schema: pa.Schema, release: Release, records: int
) -> dict[str, Counts]:
    """The exact histograms of all records that are counted. `schema`: the types of the columns. `records`: how many
    these are, which is public; the parts of a range are chosen by it.

    Raises:
        DataError: what is open of a column cannot be counted.
    """
    assert config.fields is not None
    lookups = lookups_of(config)
    read = pa.schema([schema.field(name) for name in dict.fromkeys(lookup.column for lookup in lookups)])
    edges = _edges(config, release, records)
    values: dict[str, Counter[str]] = {lookup.name: Counter() for lookup in lookups if lookup.key == "values"}
    cells = {lookup.name: np.zeros(FINER + 1, np.int64) for lookup in lookups if lookup.key != "values"}
    cells |= {name: np.zeros(len(bounds) - 1, np.int64) for name, bounds in edges.items()}
    owned = read_owned(config.data, files, read, config.unit)
    for batch in first_records(owned, config.privacy.max_records_per_unit):
        for lookup in lookups:
            column = batch.field(lookup.column)
            is_view = column.type in (pa.string_view(), pa.binary_view())  # Arrow drops no nulls of these.
            column = (to_texts(column) if is_view else column).drop_null()
            match lookup.key:
                case "values":
                    values[lookup.name].update(_count_texts(column))
                case "parts":
                    numbers = _numbers(column, config.fields[lookup.column])
                    places = np.searchsorted(np.array(edges[lookup.name], float), numbers, side="right") - 1
                    last = len(edges[lookup.name]) - 2
                    cells[lookup.name] += np.bincount(np.clip(places, 0, last), minlength=last + 1)
                case _:
                    cells[lookup.name] += _count_places(column, lookup)
    counted = {name: Counts(counts) for name, counts in cells.items()}
    return counted | {name: Counts(np.array([*count.values()], np.int64), (*count,)) for name, count in values.items()}


def bought_fields(
    config: JobConfig, release: Release, noisy: Mapping[str, Counts], records: int
) -> dict[str, CompleteField]:
    """The schema that follows from the noisy counts. Values that it lacks are taken as rare, others are clipped.

    Raises:
        DataError: no value of a category is in enough records to be seen.
    """
    assert config.fields is not None
    found = declared(config.fields)
    edges, sigmas = _edges(config, release, records), {each.name: each.sigma for each in release.histograms}
    for lookup in lookups_of(config):  # What is open comes before the parts, which are in units of 10^-decimals.
        bought, complete = noisy[lookup.name], found[lookup.column]
        certain = np.where(bought.counts >= CERTAIN * sigmas[lookup.name], bought.counts, 0)
        match lookup.key:
            case "values":
                complete = _with_values(lookup.column, complete, bought)
            case "decimals":
                field = cast(NumberField, complete.field)
                assert field.range is not None
                none = np.zeros(0, np.int64)
                low, high = field.range
                decimals = decimals_of(Ends(none, none, certain), high - low, max(abs(low), abs(high)))
                complete = _updated(complete, decimals=decimals)
            case "resolution":
                places = np.flatnonzero(certain)
                complete = _updated(complete, resolution=RESOLUTIONS[max(places.max(initial=0) - 1, 0)])
            case "parts":
                complete = _with_parts(complete, edges[lookup.name], bought.counts, CERTAIN * sigmas[lookup.name])
        found[lookup.column] = complete
    return found


def _updated(complete: CompleteField, **update: Any) -> CompleteField:
    return replace(complete, field=complete.field.model_copy(update=update))


def _with_values(column: str, complete: CompleteField, bought: Counts) -> CompleteField:
    field = cast(CategoryField, complete.field)
    assert bought.values is not None
    order = np.argsort(-bought.counts, kind="stable")[:MOST_VALUES]
    kept = sorted(bought.values[i] for i in order.tolist() if bought.counts[i] >= field.min_count)
    if not kept:
        raise DataError(
            f"no value of fields.{column} stands out from the noise: list its values, or raise privacy.schema_epsilon"
        )
    outside = "rare" if field.outside == "refuse" else field.outside
    return replace(_updated(complete, values=tuple(kept), outside=outside), rare=True)


def _with_parts(
    complete: CompleteField, edges: list[Fraction], counts: NDArray[np.integer], certain: float
) -> CompleteField:
    """`certain`: a count that is no noise; parts that hold one number with such a count are values of their own."""
    field = cast(IntegerField | NumberField, complete.field)
    update = {"outside": "clip"} if field.outside == "refuse" else {}
    counts = np.maximum(counts, 0)
    if not counts.any():
        return _updated(complete, **update)
    decimals = field.decimals if isinstance(field, NumberField) else 0
    units = np.array([math.floor(edge * 10 ** (decimals or 0)) for edge in edges], np.int64)
    kept = np.append(np.flatnonzero(np.diff(units)), len(counts))  # Parts that are less than a unit wide join the next.
    weights = np.diff(np.concatenate([[0], np.cumsum(counts)])[np.append(0, kept[1:])])
    units = units[kept]
    alone = (np.diff(units) == 1) & (weights >= certain)
    return replace(
        _updated(complete, **update), edges=units, counts=weights, frequent=tuple(units[:-1][alone].tolist())
    )


def _has_parts(field: FieldConfig) -> bool:
    """Whether it is a number whose range will be cut: others have a token for each value."""
    match field:
        case IntegerField(range=(low, high)):
            return high - low >= field.bins
        case NumberField(range=(low, high)):
            return field.decimals is None or (high - low) * 10**field.decimals >= field.bins
        case _:
            return False


def _edges(config: JobConfig, release: Release, records: int) -> dict[str, list[Fraction]]:
    """Of each number: the bounds of its parts, from what is public."""
    assert config.fields is not None
    sigmas = {each.name: each.sigma for each in release.histograms}
    return {
        lookup.name: part_edges(config.fields[lookup.column], int(records / (CERTAIN * sigmas[lookup.name])))
        for lookup in lookups_of(config)
        if lookup.key == "parts"
    }


def part_edges(field: FieldConfig, most: int) -> list[Fraction]:
    """Bounds that cut a number's range into about `most` parts, ends included; at most four times its `bins`.

    Multiples of 1, 2 or 5 times a power of ten, and these themselves on both sides of 0: amounts are often small.

    >>> [int(edge) for edge in part_edges(IntegerField(kind="integer", range=(0, 100)), 8)]
    [0, 1, 2, 5, 10, 20, 40, 50, 60, 80, 100, 120]
    """
    assert isinstance(field, IntegerField | NumberField)
    assert field.range is not None
    low, high = (Fraction(str(end)) for end in field.range)
    least = Fraction(1) if isinstance(field, IntegerField) else (high - low) / 10**6
    step = _round_step(max((high - low) / min(max(most, FEWEST_PARTS), 4 * field.bins), least))
    first, last = low // step, high // step + 1
    even = {step * place for place in range(first, last + 1)}
    magnitudes: set[Fraction] = {Fraction(0)}
    size = _round_step(least)
    while size < max(abs(low), abs(high)):
        magnitudes |= {size, -size}
        size = _round_step(size * Fraction(3, 2))
    return sorted(even | {edge for edge in magnitudes if low < edge < high})


def _round_step(least: Fraction) -> Fraction:
    """The smallest of 1, 2 and 5 times the powers of ten that is at least so much; 1 for 0."""
    if least <= 0:
        return Fraction(1)
    power = Fraction(10) ** (math.floor(math.log10(least)) - 1)
    return next(factor * power for factor in (1, 2, 5, 10, 20, 50, 100, 200) if factor * power >= least)


def _count_texts(column: pa.Array) -> Counter[str]:
    found = pc.value_counts(to_texts(column))
    return Counter(dict(zip(found.field(0).to_pylist(), found.field(1).to_pylist(), strict=True)))


def _count_places(column: pa.Array, lookup: Lookup) -> NDArray[np.int64]:
    kind = plain_type(column.type)
    if not is_numeric(kind):
        raise DataError(
            f"column {lookup.column} is {column.type}: its {lookup.key} cannot be looked up; "
            f"declare fields.{lookup.column}.{lookup.key}"
        )
    numbers = to_numbers(column).drop_null().to_numpy(zero_copy_only=False)
    return np.bincount(places_of(numbers, kind), minlength=FINER + 1)


def _numbers(column: pa.Array, field: FieldConfig) -> NDArray[np.float64]:
    """Those that are numbers."""
    kind = plain_type(column.type)
    counted = to_numbers(column) if is_numeric(kind) else to_texts(column)
    numbers = Declared.of(field, column.type).numbers(counted.drop_null())
    return numbers[~np.isnan(numbers)]
