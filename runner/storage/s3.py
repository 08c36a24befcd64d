"""Folders on S3 or a server that speaks its protocol, through boto3.

Two layers ask again while the server is away or overloaded: botocore's standard retries (which share a quota
over the whole client and so give up early when many threads fail at once), and around them a loop that is
limited by time alone and also covers a body that breaks off while it is read.
"""

from __future__ import annotations

import builtins
import random
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from runner.storage.failures import code_and_status, is_passing, reporting
from runner.storage.folder import Entry, Folder, checked_name, checked_prefix, is_temporary, temporary_name

DEFAULT_REGION = "us-east-1"
PATIENCE_S = 90.0
LONGEST_PAUSE_S = 5.0
CREATOR = "runner-creator"
DELETES_AT_ONCE = 16

Answer = TypeVar("Answer")


class Connection(NamedTuple):
    """A boto3 S3 client, safe to share between threads, and for how long a failing server is asked again."""

    client: Any
    patience_s: float


def connect(uri: str, *, patient: bool) -> Connection:
    """A connection with what the standard AWS chain says: credentials, region, AWS_ENDPOINT_URL.

    `uri` is for the error message alone. StorageError: the AWS configuration cannot be used.
    """
    attempts, connect_s, read_s = (3, 10, 30) if patient else (3, 2, 2.5)
    config = Config(
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=connect_s,
        read_timeout=read_s,
        max_pool_connections=64,
    )
    with reporting(uri, BotoCoreError, ValueError):
        session = cast(Any, boto3.Session())
        client = session.client("s3", region_name=session.region_name or DEFAULT_REGION, config=config)
    return Connection(client, PATIENCE_S if patient else 0.0)


def ask(operation: Callable[[], Answer], patience_s: float) -> Answer:
    """The operation's answer; failures that may pass are tried again until `patience_s` after the first."""
    give_up_at: float | None = None
    pause_s = 0.5
    while True:
        try:
            return operation()
        except (BotoCoreError, ClientError) as error:
            now = time.monotonic()
            give_up_at = now + patience_s if give_up_at is None else give_up_at
            if not is_passing(error) or now >= give_up_at:
                raise
        time.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 (spreads clients, hides nothing)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


class S3Folder(Folder):
    """The objects of a bucket whose keys start with a prefix."""

    is_local = False

    def __init__(self, connection: Connection, bucket: str, prefix: str) -> None:
        self._connection = connection
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")

    def child(self, name: str) -> S3Folder:
        return S3Folder(self._connection, self._bucket, self._prefix + checked_name(name))

    def read(self, name: str) -> bytes:
        with self._reporting(name):
            return self._get(checked_name(name))

    def read_range(self, name: str, start: int, length: int) -> bytes:
        if start < 0 or length < 0:
            raise ValueError(f"a range starts at 0 or later and is not negative: {start}, {length}")
        last = start + max(length, 1) - 1  # HTTP has no empty range: one byte is asked for and dropped.
        with self._reporting(name):
            try:
                return self._get(checked_name(name), Range=f"bytes={start}-{last}")[:length]
            except ClientError as error:
                if code_and_status(error)[1] != 416:
                    raise
                return b""

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:  # noqa: ARG002 (S3 always is)
        with self._reporting(name):
            self._call("put_object", Key=self._key(checked_name(name)), Body=data)

    def create(self, name: str, data: bytes) -> bool:
        # The answer can get lost after the object was stored; asked again, the server says that it exists.
        # So the object carries its creator's mark, and whoever finds the own mark there has won.
        mark = uuid.uuid4().hex
        key = self._key(checked_name(name))
        with self._reporting(name):
            try:
                self._call("put_object", Key=key, Body=data, IfNoneMatch="*", Metadata={CREATOR: mark})
            except ClientError as error:
                if code_and_status(error)[1] != 412:
                    raise
                found = self._head(key)
                return found is not None and found["Metadata"].get(CREATOR) == mark
        return True

    def size(self, name: str) -> int | None:
        with self._reporting(name):
            found = self._head(self._key(checked_name(name)))
        return None if found is None else int(found["ContentLength"])

    def list(self, prefix: str = "") -> builtins.list[Entry]:
        start = len(self._prefix)
        with self._reporting():
            pages = self._pages(Prefix=self._key(checked_prefix(prefix)))
            objects = [
                Entry(found["Key"][start:], found["Size"], found["ETag"].strip('"'))
                for page in pages
                for found in page["Contents"]
            ]
        return sorted((entry for entry in objects if is_file(entry.name)), key=lambda entry: entry.name)

    def find_file(self, but: Collection[str] = ()) -> str | None:
        start = len(self._prefix)
        with self._reporting():
            for page in self._pages(Prefix=self._prefix):
                for found in page["Contents"]:
                    name = found["Key"][start:]
                    if is_file(name) and name not in but:
                        return name
        return None

    def subfolders(self) -> builtins.list[str]:
        with self._reporting():
            pages = self._pages(Prefix=self._prefix, Delimiter="/")
            prefixes = [found["Prefix"] for page in pages for found in page["CommonPrefixes"]]
        return sorted(prefix[len(self._prefix) : -1] for prefix in prefixes)

    def delete(self, name: str) -> None:
        with self._reporting(name):
            self._call("delete_object", Key=self._key(checked_name(name)))

    def remove(self, names: Iterable[str]) -> None:
        keys = [self._key(checked_name(name)) for name in names]
        # One by one: not every server understands DeleteObjects with the checksums that boto3 sends.
        with self._reporting(), ThreadPoolExecutor(DELETES_AT_ONCE) as pool:
            for deletion in [pool.submit(self._call, "delete_object", Key=key) for key in keys]:
                deletion.result()

    def check_writable(self) -> None:
        key = self._key(temporary_name())
        with self._reporting():
            self._call("put_object", Key=key, Body=b"probe")
            self._call("get_object", Key=key)["Body"].read()
            self._call("delete_object", Key=key)

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _reporting(self, name: str = "") -> AbstractContextManager[None]:
        where = f"{self.uri}/{name}" if name else self.uri
        return reporting(where, BotoCoreError, ClientError)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        request = partial(getattr(self._connection.client, method), Bucket=self._bucket, **parameters)
        return ask(request, self._connection.patience_s)

    def _get(self, name: str, **parameters: Any) -> bytes:
        client = self._connection.client

        def whole_body() -> bytes:
            return client.get_object(Bucket=self._bucket, Key=self._key(name), **parameters)["Body"].read()

        return ask(whole_body, self._connection.patience_s)

    def _head(self, key: str) -> dict[str, Any] | None:
        try:
            return self._call("head_object", Key=key)
        except ClientError as error:
            # A HEAD's answer has no body and so no reason: a listing tells wrong keys from a bucket or an
            # object that is not there.
            self._call("list_objects_v2", Prefix=key, MaxKeys=1)
            if code_and_status(error)[1] != 404:
                raise
            return None

    def _pages(self, **parameters: Any) -> Iterator[dict[str, Any]]:
        token: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", **parameters, **token)
            yield {"Contents": [], "CommonPrefixes": [], **page}
            if not page["IsTruncated"]:
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}


def is_file(name: str) -> bool:
    """Whether a key is an object of ours to show: one that ends in a slash is how other tools mark an empty folder."""
    return bool(name) and not name.endswith("/") and not is_temporary(name)
