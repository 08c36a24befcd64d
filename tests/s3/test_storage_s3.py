"""Folders on a real S3 server: the shared contract, and what only a server can do wrong."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

import pyarrow as pa
import pytest
from pyarrow import parquet

from runner.errors import StorageError
from runner.storage import Folder, arrow_filesystem, open_folder, publish, read_published
from tests.folder_contract import FolderContract
from tests.s3.flaky_proxy import Fault, FlakyProxy
from tests.s3.radosgw import OWNER, STRANGER, Radosgw, free_port

OUTAGE_S = 20.0


@pytest.fixture
def folder(bucket: str) -> Folder:
    return open_folder(f"s3://{bucket}/a prefix/with #+% in it")


class TestS3Folder(FolderContract):
    """The contract that `tests/unit/test_storage.py` runs too."""


def test_the_bucket_itself_is_a_folder(bucket: str) -> None:
    for uri in (f"s3://{bucket}", f"s3://{bucket}/"):
        folder = open_folder(uri)
        assert folder.uri == f"s3://{bucket}"
        folder.check_writable()
        folder.write("a/b", b"1")
        assert [entry.name for entry in folder.list()] == ["a/b"]
        assert open_folder(f"s3://{bucket}/a/").read("b") == b"1"
        folder.remove(["a/b"])
        assert folder.list() == []


def test_long_listings_are_complete(folder: Folder) -> None:
    names = [f"{number % 7}/{number:04}" for number in range(1100)]
    with ThreadPoolExecutor(16) as pool:
        for _ in pool.map(lambda name: folder.write(name, b""), names):
            pass
    assert [entry.name for entry in folder.list()] == sorted(names)
    assert folder.subfolders() == [str(number) for number in range(7)]
    folder.remove(names)
    assert folder.list() == []


def every_request(folder: Folder) -> list[Callable[[], object]]:
    """Each kind of request that a folder makes."""
    return [
        folder.check_writable,
        folder.list,
        folder.subfolders,
        folder.find_file,
        lambda: folder.remove(["a"]),
        lambda: folder.read("a"),
        lambda: folder.read_range("a", 0, 1),
        lambda: folder.write("a", b""),
        lambda: folder.create("a", b""),
        lambda: folder.size("a"),
        lambda: folder.exists("a"),
        lambda: folder.delete("a"),
    ]


def assert_refused_at_once(folder: Folder, line: str) -> None:
    """Every request fails with this line and without being sent again for long, patient or not."""
    for request in every_request(folder):
        started = time.monotonic()
        with pytest.raises(StorageError, match=line) as caught:
            request()
        assert folder.uri in str(caught.value)
        assert "\n" not in str(caught.value)
        assert time.monotonic() - started < 3


@pytest.mark.parametrize("patient", [True, False])
@pytest.mark.parametrize(
    ("variable", "code"),
    [("AWS_ACCESS_KEY_ID", "InvalidAccessKeyId"), ("AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch")],
)
def test_wrong_keys_are_said(
    bucket: str, variable: str, code: str, patient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "wrong")
    folder = open_folder(f"s3://{bucket}/x", patient=patient)
    assert_refused_at_once(folder, rf"^the AWS keys are refused \({code}\)")
    with pytest.raises(OSError, match=r"(?i)access.denied|forbidden|invalid.?access.?key|signature"):
        read_parquet(f"s3://{bucket}/x")


def test_missing_keys_are_said(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    line = "^no AWS credentials found"
    assert_refused_at_once(open_folder(f"s3://{bucket}/x"), line)
    with pytest.raises(StorageError, match=line):
        arrow_filesystem(f"s3://{bucket}/x")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    for opening in (open_folder, arrow_filesystem):
        with pytest.raises(StorageError, match=r"no usable AWS credentials.*nobody.*AWS_PROFILE"):
            opening(f"s3://{bucket}/x")


def test_someone_elses_bucket_is_said(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", STRANGER.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", STRANGER.secret_key)
    assert_refused_at_once(open_folder(f"s3://{bucket}/x"), "^access denied: .*s3:PutObject")


@pytest.mark.usefixtures("s3_env")
def test_a_bucket_that_does_not_exist_is_said() -> None:
    assert_refused_at_once(open_folder("s3://no-such-bucket/x"), "^there is no bucket 'no-such-bucket'")


@contextmanager
def silent_server() -> Generator[int]:
    """The port of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.usefixtures("s3_env")
@pytest.mark.parametrize("kind", ["closed port", "silent server", "unknown host"])
def test_a_preflight_check_of_an_unreachable_server_answers_soon(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_server() as port:
        address = {
            "closed port": f"127.0.0.1:{free_port()}",
            "silent server": f"127.0.0.1:{port}",
            "unknown host": "no-such-host.invalid:80",
        }[kind]
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}")
        started = time.monotonic()
        with pytest.raises(StorageError, match=r"^storage cannot be reached: s3://b/x.*AWS_ENDPOINT_URL") as caught:
            open_folder("s3://b/x", patient=False).check_writable()
        assert time.monotonic() - started < 15
        assert address in str(caught.value)


@contextmanager
def outage(server: Radosgw, kind: str) -> Generator[None]:
    """The server goes away now and comes back after OUTAGE_S, whatever the block does meanwhile."""
    leave, come_back = {
        "killed": (server.stop_gateway, server.start_gateway),
        "frozen": (server.freeze_gateway, server.thaw_gateway),
    }[kind]
    leave()
    timer = Timer(OUTAGE_S, come_back)
    timer.start()
    try:
        yield
    finally:
        timer.join()


@pytest.mark.parametrize("kind", ["killed", "frozen"])
def test_nothing_is_lost_while_the_server_is_away(s3_server: Radosgw, folder: Folder, kind: str) -> None:
    """Many threads in the middle of writes and reads: all of them wait, none fails, all bytes are there."""
    threads, left_at = 24, time.monotonic() + 2
    left_at_last = left_at + OUTAGE_S + 3

    def work(thread: int) -> int:
        turn = 0
        while time.monotonic() < left_at_last:
            name, data = f"{thread}/{turn}", f"{thread} {turn}".encode() * 1000
            folder.write(name, data)
            assert folder.create(name + " lock", data)
            assert folder.read(name) == data
            assert folder.size(name + " lock") == len(data)
            turn += 1
            time.sleep(0.05)
        return turn

    with ThreadPoolExecutor(threads) as pool:
        working = [pool.submit(work, thread) for thread in range(threads)]
        time.sleep(2)
        with outage(s3_server, kind):
            turns = [work.result() for work in working]
    for thread in range(threads):
        assert turns[thread] > 2
        expected = [f"{turn}{kind}" for turn in range(turns[thread]) for kind in ("", " lock")]
        assert [entry.name for entry in folder.child(str(thread)).list()] == sorted(expected)
        last = turns[thread] - 1
        assert folder.read(f"{thread}/{last}") == f"{thread} {last}".encode() * 1000


def test_five_hundred_operations_survive_refused_requests(flaky_s3: FlakyProxy, bucket: str) -> None:
    folder = open_folder(f"s3://{bucket}/x")
    for turn in range(100):
        name, data = f"{turn}", f"{turn}".encode() * 100
        folder.write(name, data)
        assert folder.read(name) == data
        assert folder.size(name) == len(data)
        assert folder.create(name + " lock", data)
        assert not folder.create(name + " lock", b"")
    assert len(folder.list()) == 200
    publish(folder.child("p"), {"a": b"1"})
    assert read_published(folder.child("p")) == {"a": b"1"}
    folder.remove(entry.name for entry in folder.list())
    assert folder.list() == []
    assert flaky_s3.faults > 25


def test_a_creator_whose_answer_got_lost_knows_that_it_won(flaky_s3: FlakyProxy, bucket: str) -> None:
    folder = open_folder(f"s3://{bucket}/x")
    flaky_s3.plan(Fault.ANSWER_LOST)
    assert folder.create("lock", b"mine") is True
    flaky_s3.plan(Fault.ANSWER_LOST)
    assert folder.create("lock", b"other") is False
    assert folder.read("lock") == b"mine"
    assert flaky_s3.faults >= 2


def test_a_body_that_breaks_off_is_read_again(flaky_s3: FlakyProxy, bucket: str) -> None:
    folder = open_folder(f"s3://{bucket}/x")
    data = bytes(range(256)) * 10_000
    folder.write("a", data)
    flaky_s3.plan(Fault.BODY_CUT)
    assert folder.read("a") == data
    flaky_s3.plan(Fault.BODY_CUT, Fault.BODY_CUT)
    assert folder.read_range("a", 7, 1_000_000) == data[7:1_000_007]
    flaky_s3.plan(Fault.BODY_CUT)
    assert [entry.name for entry in folder.list()] == ["a"]
    assert flaky_s3.faults >= 4


def test_a_preflight_check_gives_up_on_a_server_that_only_fails(flaky_s3: FlakyProxy, bucket: str) -> None:
    flaky_s3.plan(*[Fault.REFUSED] * 100)
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"^storage keeps failing \(503 SlowDown\): .*try again later"):
        open_folder(f"s3://{bucket}/x", patient=False).check_writable()
    assert time.monotonic() - started < 15


def write_parquet(uri: str) -> pa.Table:
    """Store a table as the object `records #1.parquet` in several row groups; returns it."""
    table = pa.table({"text": [f"record {row}" for row in range(20_000)], "row": list(range(20_000))})
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, row_group_size=500)
    open_folder(uri).write("records #1.parquet", sink.getvalue().to_pybytes())
    return table


def read_parquet(uri: str) -> pa.Table:
    """The records in a folder, as a data set."""
    filesystem, path = arrow_filesystem(uri)
    return parquet.read_table(path, filesystem=filesystem)


def test_arrow_reads_parquet(bucket: str) -> None:
    uri = f"s3://{bucket}/some records%20"
    table = write_parquet(uri)
    assert read_parquet(uri) == table
    assert read_parquet(f"{uri}/records #1.parquet") == table


def test_arrow_prefers_the_endpoint_that_is_set_for_s3_alone(
    bucket: str, s3_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_parquet(f"s3://{bucket}/x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_env["AWS_ENDPOINT_URL"])
    assert read_parquet(f"s3://{bucket}/x") == table
    assert len(open_folder(f"s3://{bucket}/x").list()) == 1


def test_a_profile_serves_arrow_as_it_serves_boto3(
    bucket: str, s3_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys from a program and an endpoint from the profile, nothing in the environment but its name."""
    keys = {"AccessKeyId": OWNER.access_key, "SecretAccessKey": OWNER.secret_key, "Version": 1}
    Path(s3_env["AWS_CONFIG_FILE"]).write_text(
        f"[profile work]\nendpoint_url = {s3_env['AWS_ENDPOINT_URL']}\ncredential_process = echo '{json.dumps(keys)}'\n"
    )
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "work")
    table = write_parquet(f"s3://{bucket}/x")
    assert read_parquet(f"s3://{bucket}/x") == table


def test_arrow_reads_parquet_from_a_server_that_refuses_requests(flaky_s3: FlakyProxy, bucket: str) -> None:
    table = write_parquet(f"s3://{bucket}/x")
    while flaky_s3.faults < 10:
        assert read_parquet(f"s3://{bucket}/x") == table


def test_arrow_waits_for_a_server_that_is_away(s3_server: Radosgw, bucket: str) -> None:
    table = write_parquet(f"s3://{bucket}/x")
    with outage(s3_server, "killed"):
        assert read_parquet(f"s3://{bucket}/x") == table
