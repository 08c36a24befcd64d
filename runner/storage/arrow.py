"""The same storage as Arrow sees it, to read Parquet files where they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from runner.storage.failures import reporting
from runner.storage.location import parse_uri

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

ATTEMPTS = 12


def arrow_filesystem(uri: str) -> tuple[FileSystem, str]:
    """The file system, and the path in it, of `uri`: what `pyarrow.dataset` and Ray Data ask for.

    Endpoint, region and credentials are those that boto3 finds: Arrow alone ignores AWS_ENDPOINT_URL and
    parts of profiles. Temporary credentials are taken as they are now and not renewed.
    StorageError: no credentials. What fails later comes as Arrow's own OSError.
    """
    from pyarrow import fs

    location = parse_uri(uri)
    if isinstance(location, Path):
        return fs.LocalFileSystem(), str(location)

    import boto3
    from botocore.exceptions import BotoCoreError, NoCredentialsError

    from runner.storage.s3 import DEFAULT_REGION

    with reporting(uri, BotoCoreError, ValueError):
        session = cast(Any, boto3.Session())
        client = session.client("s3", region_name=session.region_name or DEFAULT_REGION)
        credentials = session.get_credentials()
        if credentials is None:
            raise NoCredentialsError
        keys = credentials.get_frozen_credentials()
    endpoint = urlsplit(str(client.meta.endpoint_url))
    own_server = not (endpoint.hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))
    filesystem = fs.S3FileSystem(
        access_key=keys.access_key,
        secret_key=keys.secret_key,
        session_token=keys.token,
        region=client.meta.region_name,
        # With an endpoint of its own Arrow addresses buckets in the path, as such servers want it.
        endpoint_override=endpoint.netloc if own_server else None,
        scheme=endpoint.scheme,
        connect_timeout=10,
        request_timeout=30,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )
    return filesystem, f"{location.bucket}/{location.prefix}".rstrip("/")
