"""An S3 server for the tests, its environment, and a flaky one: for all of them, by `tests/conftest.py`."""

from __future__ import annotations

import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import boto3
import pytest

from tests.s3.flaky_proxy import FlakyProxy, running_flaky_proxy
from tests.s3.radosgw import OWNER, Radosgw, running_radosgw


@pytest.fixture(scope="session")
def s3_server() -> Generator[Radosgw]:
    """A real S3 server, shared by all tests of the session; who stops its gateway starts it again."""
    with running_radosgw() as server:
        yield server


@pytest.fixture
def s3_env(s3_server: Radosgw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """This process and its children reach the server, and no AWS settings of the machine interfere."""
    for name in (
        "AWS_PROFILE",
        "AWS_SESSION_TOKEN",
        "AWS_ENDPOINT_URL_S3",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
    ):
        monkeypatch.delenv(name, raising=False)
    environment = OWNER.environment(s3_server.endpoint)
    environment["AWS_CONFIG_FILE"] = str(tmp_path / "no-aws-config")
    environment["AWS_SHARED_CREDENTIALS_FILE"] = str(tmp_path / "no-aws-credentials")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


@pytest.fixture
def bucket(s3_env: dict[str, str]) -> str:
    """The name of an empty bucket of this test's own."""
    name = f"test-{uuid.uuid4()}"
    cast(Any, boto3).client("s3", region_name="us-east-1").create_bucket(Bucket=name)
    return name


@pytest.fixture
def flaky_s3(s3_server: Radosgw, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Generator[FlakyProxy]:
    """From here on the server answers 5% of all requests with 503 SlowDown."""
    with running_flaky_proxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy
