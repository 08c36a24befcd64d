"""An HTTP proxy in front of an S3 server that fails now and then, as a loaded S3 does.

Requests are passed on byte for byte with their Host header, so that signatures made for the proxy stay valid.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from enum import Enum
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import urlsplit

SLOW_DOWN = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"""

HOP_BY_HOP = {"connection", "expect", "keep-alive", "transfer-encoding"}


class Fault(Enum):
    """What can go wrong with one request."""

    REFUSED = "answered 503 SlowDown and not passed on"
    ANSWER_LOST = "passed on, but answered 503 SlowDown"
    BODY_CUT = "the connection breaks in the middle of the answer's body"


class FlakyProxy:
    """A running proxy; made by `running_flaky_proxy`. Refuses `failing_share` of all requests at random."""

    def __init__(self, upstream: str, failing_share: float, seed: int) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.requests = 0
        self.faults = 0
        self._failing_share = failing_share
        self._random = random.Random(seed)
        self._planned: deque[Fault] = deque()
        self._lock = threading.Lock()
        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.proxy = self

    @property
    def endpoint(self) -> str:
        """The address for AWS_ENDPOINT_URL."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def plan(self, *faults: Fault) -> None:
        """Let these happen to the next requests, one each."""
        with self._lock:
            self._planned.extend(faults)

    def next_fault(self) -> Fault | None:
        """Count a request and decide what goes wrong with it."""
        with self._lock:
            self.requests += 1
            fault = None
            if self._planned:
                fault = self._planned.popleft()
            elif self._random.random() < self._failing_share:
                fault = Fault.REFUSED
            self.faults += fault is not None
            return fault

    def serve(self) -> None:
        """Pass requests on until `stop`."""
        self._server.serve_forever(poll_interval=0.05)

    def stop(self) -> None:
        """End `serve` and free the port."""
        self._server.shutdown()
        self._server.server_close()


class Server(ThreadingHTTPServer):
    """An HTTP server whose handlers find their proxy."""

    proxy: FlakyProxy


class Handler(BaseHTTPRequestHandler):
    """Passes one client's requests on."""

    protocol_version = "HTTP/1.1"
    # Headers and body of an answer are two packets: without this the second waits 40 ms for the client.
    disable_nagle_algorithm = True

    def handle_request(self) -> None:
        """Answer one request as the server behind does, or go wrong."""
        proxy = cast(Server, self.server).proxy
        fault = proxy.next_fault()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if fault is Fault.REFUSED:
            self._answer(503, [("Content-Type", "application/xml")], SLOW_DOWN)
            return
        upstream = HTTPConnection(proxy.upstream, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            response = upstream.getresponse()
            answer = response.read()
            headers = [(name, value) for name, value in response.getheaders() if name.lower() not in HOP_BY_HOP]
        finally:
            upstream.close()
        if fault is Fault.ANSWER_LOST:
            self._answer(503, [("Content-Type", "application/xml")], SLOW_DOWN)
        elif fault is Fault.BODY_CUT:
            self._answer(response.status, headers, answer, sent=len(answer) // 2)
            self.close_connection = True
        else:
            self._answer(response.status, headers, answer)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, sent: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD" and status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:sent])


@contextmanager
def running_flaky_proxy(upstream: str, *, failing_share: float = 0.05, seed: int = 0) -> Generator[FlakyProxy]:
    """A proxy in front of the server at the URL `upstream`, for the length of the block."""
    proxy = FlakyProxy(upstream, failing_share, seed)
    threading.Thread(target=proxy.serve, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.stop()
