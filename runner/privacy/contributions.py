"""Which records of a person are counted: the first K, wherever something is counted.

    for records in first_records(read_owned(data, files, schema, person="customer"), most=4): ...   # one batch each
    positions = first_positions(examples, persons, most=4)                      # the same ones among a job's examples
    counted_of({1: 900, 7: 100}, most=4)                                        # 1300, of as many persons

Whether a record is among them follows from whose the records before it are, which is public, and from no other person's
records. So emptying one person takes at most K records out of any count, and changes nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runner.data.examples import Examples


def first_records(batches: Iterable[tuple[pa.Array, pa.Array | None]], most: int | None) -> Iterator[pa.Array]:
    """The records of each batch, without nulls: of each person the first `most`, of records that are nobody's all.

    batches: records, and a text for each that tells whose it is (`runner.data.records.read_owned`).
    """
    seen: dict[str, int] = {}
    for records, persons in batches:
        if persons is None or most is None:
            yield records.drop_null() if records.null_count else records
            continue
        is_record = records.is_valid()
        encoded = persons.filter(is_record).dictionary_encode()
        names, numbers = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
        before = np.array([seen.get(name, 0) for name in names], np.int64)
        counts = np.bincount(numbers, minlength=len(names))
        seen.update(zip(names, (before + counts).tolist(), strict=True))
        order = np.argsort(numbers, kind="stable")
        within = np.empty(numbers.size, np.int64)  # How many of the batch's records before it are the same person's.
        within[order] = np.arange(numbers.size) - np.repeat(np.cumsum(counts) - counts, counts)
        yield records.filter(is_record).filter(pa.array(before[numbers] + within < most))


def first_positions(examples: Examples, units: NDArray[np.int64], most: int | None) -> NDArray[np.int64]:
    """Ascending positions of the examples that are counted. units: persons, where it is told whose the examples are;
    else the examples themselves."""
    if examples.persons is None:
        return np.sort(units)
    assert most is not None
    positions = examples.persons.first(units, most)
    return np.sort(positions[positions >= 0])


def counted_of(persons: Mapping[int, int], most: int) -> int:
    """How many records are counted. persons: how many have how many records.

    >>> counted_of({1: 900, 7: 100}, 4)
    1300
    """
    return sum(min(records, most) * count for records, count in persons.items())
