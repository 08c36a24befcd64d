"""Nothing of the user's is lost in a bucket: every verb, ended in every way, leaves every object as it was."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any, cast

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.errors import ConfigError, RunExistsError
from runner.submit.launch import Launch
from runner.submit.start import start_run
from tests.foreign_files import FAULTS, VERBS, Case, Fault, cases, check, earlier_cases, stand_ins, trees


class Prefix:
    """A prefix of a bucket."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/"
        self._client = cast(Any, boto3).client("s3", region_name="us-east-1")
        self.uri = f"s3://{bucket}/{prefix}"

    def put(self, path: str, data: bytes) -> bool:
        self._client.put_object(Bucket=self._bucket, Key=self._prefix + path, Body=data)
        return True

    def files(self) -> dict[str, bytes]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
        keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
        return {
            key.removeprefix(self._prefix): self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
            for key in keys
        }


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "init"])
@settings(max_examples=3, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(data=st.data(), fault=FAULTS)
def test_every_object_of_the_user_s_has_its_bytes_whatever_a_verb_does(
    bucket: str, tmp_path: Path, verb: str, data: st.DataObject, fault: Fault
) -> None:
    earlier, tree, case = data.draw(st.tuples(earlier_cases(verb), trees(verb), cases(verb)))
    fault.calls = 0
    source = tmp_path / "source.txt"
    source.write_text("1\n2\n")
    check(Prefix(bucket, uuid.uuid4().hex), source, earlier, tree, case, fault)


@pytest.mark.parametrize("overwrite", [False, True])
def test_records_under_the_run_s_name_in_a_bucket_stay(bucket: str, overwrite: bool) -> None:
    place = Prefix(bucket, "x")
    place.put("claims/part-0.parquet", b"PAR1 the only copy PAR1")
    before = place.files()
    for data, error in (("claims", ConfigError), ("records", RunExistsError)):
        case = Case("submit", "refused", overwrite=overwrite, data=data, storage=".")
        with stand_ins("refused"), pytest.raises(error, match="x/claims"):
            start_run(case.config(place), Launch(quiet=True))
    assert place.files() == before
