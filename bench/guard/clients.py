"""Clients of the lock-step run: one request, the whole answer, and whether it is right."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat

from bench.errors import BenchError
from bench.guard.rig import Rig

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class RawClient:
    """Sends `request` (the next of several, if it is an iterator) on one connection at every exchange, and expects
    `size` bytes for which `right` holds."""

    def __init__(self, rig: Rig, request: bytes | Iterator[bytes], size: int, right: Callable[[bytes], bool]) -> None:
        self._rig = rig
        self._socket = rig.connect()
        self._requests = repeat(request) if isinstance(request, bytes) else request
        self._size = size
        self._right = right

    def exchange(self) -> None:
        """One request and its answer. Raises BenchError when it is not the right one."""
        self._send()
        answer = b""
        while len(answer) < self._size:
            answer += self._receive()
        self._check(answer, self._size)

    def close(self) -> None:
        self._socket.close()

    def _send(self) -> None:
        request = next(self._requests)
        if self._socket.send(request) != len(request):
            raise BenchError(f"a request of {len(request)} bytes does not fit the socket's buffer")

    def _receive(self) -> bytes:
        self._rig.advance(self._socket)
        data = self._socket.recv(1 << 18)
        if not data:
            raise BenchError("the data path closed the client's connection in the middle of a run")
        return data

    def _check(self, answer: bytes, size: int) -> None:
        if len(answer) != size or not self._right(answer):
            raise BenchError(f"the data path gave a wrong answer: {answer[:300]!r}")


class Http1Client(RawClient):
    """An HTTP/1.1 client whose answers have a Content-Length."""

    def __init__(self, rig: Rig, request: bytes | Iterator[bytes], right: Callable[[bytes], bool]) -> None:
        super().__init__(rig, request, 0, right)

    def exchange(self) -> None:
        self._send()
        answer = self._receive()
        while (end := answer.find(b"\r\n\r\n")) < 0:
            answer += self._receive()
        found = _LENGTH.search(answer, 0, end + 2)
        if found is None:
            raise BenchError(f"the data path gave an answer without Content-Length: {answer[:300]!r}")
        size = end + 4 + int(found[1])
        while len(answer) < size:
            answer += self._receive()
        self._check(answer, size)


def http1_request(method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """The bytes of an HTTP/1.1 request as a common client sends it."""
    lines = [f"{method} {path} HTTP/1.1", "Host: tidegate.example", "User-Agent: guard/1", "Accept: */*"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body
