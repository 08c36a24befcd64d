"""Texts of dates and moments in other forms than the project's own, against Python's strftime."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from runner.config.fields import DateField, DatetimeField, FieldConfig
from runner.data.schema.completion import complete_field, declared
from runner.data.schema.found import ColumnSummary
from runner.data.schema.proposal import propose
from runner.data.schema.refusals import check_declared
from runner.data.schema.schema import make_codec
from runner.errors import DataError

FIELD: TypeAdapter[Any] = TypeAdapter(FieldConfig)
FOUND = [
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%d %H:%M:%S+00:00",
    "%Y-%m-%dT%H:%M:%S+0000",
    "%Y-%m-%dT%H:%M:%S.%fZ",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%MZ",
    "%Y/%m/%d",
    "%Y.%m.%d",
    "%d.%m.%Y",
]
PLAIN = ["%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M:%S.%f"]
DECLARED = ["%d/%m/%Y", "%m/%d/%Y %H:%M", r"\1 %H:%M on $ %d.%m.%Y", "%Y%m%d%H%M%S"]
"""Which of them a text is does not say."""
MOMENTS = [datetime(2001, 1, 31, 23, 59, 58, 120_001) + timedelta(days=37 * i, seconds=4567 * i) for i in range(120)]


def summary_of(texts: list[str], field: FieldConfig | None = None) -> ColumnSummary:
    return ColumnSummary.of("seen", field, pa.string()).add(pa.array(texts, pa.string()), 0)


@pytest.mark.parametrize("written", [*FOUND, *PLAIN])
def test_moments_are_found_in_the_form_in_which_they_are_written(written: str) -> None:
    texts = [moment.strftime(written) for moment in MOMENTS]
    proposed = propose(pa.schema([("seen", pa.string())]), {"seen": summary_of(texts)})["seen"]
    assert proposed.values["kind"] == ("datetime" if "%H" in written else "date")
    assert proposed.values.get("format") == (written if written in FOUND else None)
    assert str(proposed.values["range"][0])[:7] in ("2001-10", "2001-11", "2001-12", "2002-01", "2002-02")
    field = complete_field(FIELD.validate_python(proposed.values), summary_of(texts))
    column = pa.array(texts[12:-12], pa.string())
    codec = make_codec(field.field, pa.field("seen", pa.string(), nullable=True), field)
    again = type(codec).from_plain(codec.to_plain(), pa.string())
    assert again.decode(again.encode(column), np.arange(len(column))).equals(column)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([*FOUND, *PLAIN, *DECLARED]), st.lists(st.datetimes(datetime(1000, 1, 1)), min_size=1))
def test_what_is_declared_is_read_and_written_as_strftime_does(written: str, moments: list[datetime]) -> None:
    kind: dict[str, Any] = {"kind": "date", "range": ["1000-01-01", "9999-12-31"]}
    if "%H" in written:
        finest = {"f": "microsecond", "S": "second", "M": "minute"}
        resolution = next(each for part, each in finest.items() if f"%{part}" in written)
        kind = {"kind": "datetime", "range": kind["range"], "resolution": resolution}
    field = declared({"seen": FIELD.validate_python(kind | {"format": written})})["seen"]
    for form in (pa.string(), pa.dictionary(pa.int8(), pa.large_string())):
        column = pa.array([moment.strftime(written) for moment in moments], pa.string())
        column = column.dictionary_encode().cast(form) if pa.types.is_dictionary(form) else column
        codec = make_codec(field.field, pa.field("seen", form), field)
        decoded = codec.decode(codec.encode(column), np.arange(len(column)))
        assert decoded.to_pylist() == [moment.strftime(written) for moment in moments]


def test_parts_of_the_records_that_differ_in_form_are_texts() -> None:
    one, other = ([moment.strftime(written) for moment in MOMENTS] for written in FOUND[:2])
    both = summary_of(one) + summary_of(other)
    assert not both.ends
    assert propose(pa.schema([("seen", pa.string())]), {"seen": both})["seen"].values["kind"] == "text"
    with pytest.raises(DataError, match="declare another kind"):
        complete_field(DatetimeField(kind="datetime"), both)


def test_local_times_of_changing_offsets_are_no_keys() -> None:
    texts = [moment.strftime("%Y-%m-%dT%H:%M:%S+02:00") for moment in MOMENTS]
    proposed = propose(pa.schema([("seen", pa.string())]), {"seen": summary_of(texts)})["seen"]
    assert proposed.values["kind"] == "text"


def test_a_private_job_has_to_say_how_its_moments_are_written() -> None:
    field = DatetimeField(kind="datetime", range=(datetime(2000, 1, 1), datetime(2030, 1, 1)), resolution="second")
    texts = [moment.strftime(FOUND[0]) for moment in MOMENTS]
    with pytest.raises(DataError, match=r"say how they are written in fields\.seen\.format"):
        check_declared({"seen": field}, {"seen": summary_of(texts, field)}, is_private=True)
    field = field.model_copy(update={"format": FOUND[0]})
    check_declared({"seen": field}, {"seen": summary_of(texts, field)}, is_private=True)


@pytest.mark.parametrize(
    ("values", "kind", "words"),
    [
        ({"kind": "date", "format": "%d.%m.%Y"}, pa.date32(), "it is for texts"),
        ({"kind": "date", "format": "%d.%m.%Y %H:%M"}, pa.string(), "does not write each day"),
        ({"kind": "datetime", "format": "%d.%m.%Y %H:%M", "resolution": "second"}, pa.string(), "each second"),
    ],
)
def test_a_format_that_does_not_fit_its_column_is_one_line(values: dict[str, Any], kind: Any, words: str) -> None:
    field = FIELD.validate_python(values | {"range": ["2000-01-01", "2001-01-01"]})
    with pytest.raises(DataError, match=words):
        make_codec(field, pa.field("seen", kind))


@pytest.mark.parametrize("written", ["%d.%m.%y", "%d.%m.%Y %d", "%d.%m.%Y %S", "%d.%m.%Y %H", "100% %d.%m.%Y", "%B %Y"])
def test_a_format_of_unknown_or_missing_parts_is_refused(written: str) -> None:
    with pytest.raises(ValidationError, match=r"%Y, %m and %d once each|without those before it|at least 8"):
        DateField(kind="date", format=written)
