"""Names of services for pods: the addresses of ready endpoints, as a cluster's DNS gives for headless services."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable

from tests.kubernetes.api import Api

DOMAIN = "cluster.local"
PORT = 53
_ADDRESS_RECORD = 1
_KNOWN, _UNKNOWN = 0x8580, 0x8583  # An authoritative answer; and "there is no such name".


class Names:
    """A DNS server; it answers from a thread of its own until `stop`."""

    def __init__(self, address: str, look_up: Callable[[str], list[str]]) -> None:
        self._look_up = look_up
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, PORT))
        self._socket.settimeout(0.5)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._ended.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._ended.is_set():
            try:
                query, client = self._socket.recvfrom(2048)
            except TimeoutError:
                continue
            try:
                answer = _answer(query, self._look_up)
            except OSError:
                continue  # The API server is away; who asked will ask again.
            self._socket.sendto(answer, client)


def endpoints(api: Api, name: str) -> list[str]:
    """The addresses behind `<service>.<namespace>.svc.cluster.local`, none when there is no such service."""
    words = name.rstrip(".").split(".")
    if not name.rstrip(".").endswith(f".svc.{DOMAIN}") or len(words) != len(DOMAIN.split(".")) + 3:
        return []
    service, namespace = words[:2]
    path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    slices = api.get(f"{path}?labelSelector=kubernetes.io/service-name={service}")["items"]
    return [
        address
        for each in slices
        for endpoint in each.get("endpoints") or ()
        if endpoint.get("conditions", {}).get("ready") is not False
        for address in endpoint["addresses"]
    ]


def _answer(query: bytes, look_up: Callable[[str], list[str]]) -> bytes:
    labels: list[str] = []
    position = 12
    while length := query[position]:
        labels.append(query[position + 1 : position + 1 + length].decode())
        position += length + 1
    question = query[12 : position + 5]
    [kind] = struct.unpack(">H", query[position + 1 : position + 3])
    found = look_up(".".join(labels))
    records = [
        b"\xc0\x0c" + struct.pack(">HHIH", _ADDRESS_RECORD, 1, 5, 4) + socket.inet_aton(address)
        for address in (found if kind == _ADDRESS_RECORD else ())
    ]
    header = query[:2] + struct.pack(">HHHHH", _KNOWN if found else _UNKNOWN, 1, len(records), 0, 0)
    return header + question + b"".join(records)
