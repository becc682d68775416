"""Clients of the lock-step run: one request, the whole answer, and whether it is right."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat

from bench.errors import BenchError
from bench.guard.rig import Rig

_DATA, _HEADERS, _SETTINGS, _WINDOW_UPDATE = 0, 1, 4, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_FRAME_MOST = 16384
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


class ClosingClient(Http1Client):
    """An HTTP/1.1 client that opens a connection for each exchange and closes it when it has the answer; `request` is
    to say `Connection: close`."""

    def exchange(self) -> None:
        super().exchange()
        self._socket.close()
        self._rig.settle()
        self._socket = self._rig.connect()


def http1_request(method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """The bytes of an HTTP/1.1 request as a common client sends it."""
    lines = [f"{method} {path} HTTP/1.1", "Host: tidegate.example", "User-Agent: guard/1", "Accept: */*"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class GrpcClient(RawClient):
    """A gRPC client on one HTTP/2 connection: `at_once` calls begin with one write, an exchange takes one answer.

    From the second call on, fields go by number of the dynamic table (RFC 7541), as clients send them.
    """

    _AGAIN = b"\x83\x86\xc1\xc0\xbf\xbe"

    def __init__(
        self,
        rig: Rig,
        message: bytes,
        right: Callable[[bytes], bool],
        at_once: int = 1,
        path: bytes = b"/test/Guarded",
    ) -> None:
        super().__init__(rig, b"", 0, right)
        self._first = b"\x83\x86\x41\x10tidegate.example\x44" + bytes([len(path)]) + path
        self._first += b"\x5f\x10application/grpc\x40\x02te\x08trailers"
        body = b"\0" + len(message).to_bytes(4, "big") + message
        self._pieces = [body[at : at + _FRAME_MOST] for at in range(0, len(body), _FRAME_MOST)]
        self._at_once = at_once
        self._next = 1
        self._open: dict[int, bytes] = {}
        self._received = bytearray()
        window = (1 << 31) - 1
        settings = frame(_SETTINGS, 0, 0, b"\0\4" + window.to_bytes(4, "big"))
        update = frame(_WINDOW_UPDATE, 0, 0, (window - 65_535).to_bytes(4, "big"))
        self._begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + update
        if len(self._pieces) > 1:  # the windows that the data path gives are needed
            self._begin += frame(_SETTINGS, _ACK, 0, b"")

    def exchange(self) -> None:
        if not self._open:
            calls = b"".join(self._call() for _ in range(self._at_once))
            self._requests = repeat(self._begin + calls)
            self._begin = b""
            self._send()
        while True:
            kind, flags, stream, payload = self._frame()
            if kind == _DATA and stream in self._open:
                self._open[stream] += payload
            if kind in (_DATA, _HEADERS) and flags & _END_STREAM and stream in self._open:
                answer = self._open.pop(stream)
                self._check(answer, len(answer))
                return

    def _call(self) -> bytes:
        stream, self._next = self._next, self._next + 2
        self._open[stream] = b""
        head = self._AGAIN if stream > 1 else self._first
        last = len(self._pieces) - 1
        data = [frame(_DATA, _END_STREAM if i == last else 0, stream, piece) for i, piece in enumerate(self._pieces)]
        return frame(_HEADERS, _END_HEADERS, stream, head) + b"".join(data)

    def _frame(self) -> tuple[int, int, int, bytes]:
        while len(self._received) < 9 or len(self._received) < 9 + int.from_bytes(self._received[:3], "big"):
            self._received += self._receive()
        size = int.from_bytes(self._received[:3], "big")
        found = bytes(self._received[: 9 + size])
        del self._received[: 9 + size]
        return found[3], found[4], int.from_bytes(found[5:9], "big"), found[9:]


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """An HTTP/2 frame (RFC 9113 section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
