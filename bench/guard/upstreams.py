"""Servers of the lock-step run: they know just enough of their protocol to give the same answer to every request."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import tempfile
from dataclasses import dataclass, field

from bench.errors import BenchError
from bench.guard.clients import frame as _frame

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _PING = 0, 1, 4, 6
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_WINDOW = (1 << 31) - 1


@dataclass
class _Peer:
    """A connection that the data path opened, with what came and was not used yet."""

    socket: socket.socket
    received: bytearray = field(default_factory=bytearray)
    greeted: bool = False
    answered: bool = False


class Server:
    """A listening socket and its connections; a protocol says in `take` what it does with the bytes of one."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.setblocking(False)
        self._peers: list[_Peer] = []
        self.requests = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listening.getsockname()[1]}"

    def descriptors(self) -> list[int]:
        return [self._listening.fileno(), *(peer.socket.fileno() for peer in self._peers)]

    def serve(self) -> bool:
        did = False
        try:
            connection, _ = self._listening.accept()
        except BlockingIOError:
            pass
        else:
            if connection.family == socket.AF_INET:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setblocking(False)
            self._peers.append(_Peer(connection))
            did = True
        for peer in self._peers:
            try:
                data = peer.socket.recv(1 << 18)
            except BlockingIOError:
                continue
            if not data:
                raise BenchError("the data path closed a connection to its server in the middle of a run")
            peer.received += data
            self.take(peer)
            did = True
        return did

    def close(self) -> None:
        for one in (self._listening, *(peer.socket for peer in self._peers)):
            one.close()

    def take(self, peer: _Peer) -> None:
        """Uses what it can of `peer.received` and answers."""
        raise NotImplementedError

    def answer(self, peer: _Peer, data: bytes) -> None:
        # An answer of these sizes fits a socket's buffer, or the run could not be in lock-step.
        if peer.socket.send(data) != len(data):
            raise BenchError(f"an answer of {len(data)} bytes does not fit the socket's buffer; use a smaller one")


class Http1Server(Server):
    """Answers every HTTP/1.1 request without a body with the same bytes."""

    def __init__(self, body: bytes, content_type: str = "application/json") -> None:
        super().__init__()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        self._bytes = head.encode() + body

    def take(self, peer: _Peer) -> None:
        while (end := peer.received.find(b"\r\n\r\n")) >= 0:
            del peer.received[: end + 4]
            self.requests += 1
            self.answer(peer, self._bytes)


class EchoServer(Server):
    """Sends every byte back."""

    def take(self, peer: _Peer) -> None:
        data = bytes(peer.received)
        peer.received.clear()
        self.requests += 1
        self.answer(peer, data)


class GrpcServer(Server):
    """Answers every gRPC call with the same message, as RFC 9113 frames made beforehand.

    Header fields are sent by name once per connection and by number of the dynamic table from then on (RFC 7541), as
    gRPC servers do.
    """

    def __init__(self, message: bytes) -> None:
        super().__init__()
        self._data = b"\0" + struct.pack(">I", len(message)) + message

    def take(self, peer: _Peer) -> None:
        if not peer.greeted:
            if len(peer.received) < len(_PREFACE):
                return
            if not peer.received.startswith(_PREFACE):
                raise BenchError("the data path did not begin with the connection preface of HTTP/2")
            del peer.received[: len(_PREFACE)]
            peer.greeted = True
            settings = b"".join(struct.pack(">HI", name, value) for name, value in self._settings())
            window = struct.pack(">I", _WINDOW - 65_535)
            self.answer(peer, _frame(_SETTINGS, 0, 0, settings) + _frame(8, 0, 0, window))
        while len(peer.received) >= 9:
            size = int.from_bytes(peer.received[:3], "big")
            if len(peer.received) < 9 + size:
                return
            kind, flags = peer.received[3], peer.received[4]
            stream = int.from_bytes(peer.received[5:9], "big")
            payload = bytes(peer.received[9 : 9 + size])
            del peer.received[: 9 + size]
            if kind in (_SETTINGS, _PING) and not flags & _ACK:
                self.answer(peer, _frame(kind, _ACK, 0, payload if kind == _PING else b""))
            elif kind in (_DATA, _HEADERS) and flags & _END_STREAM:
                self.requests += 1
                self.answer(peer, self._answer(peer, stream))
            else:
                self.other(peer, kind, flags, stream, payload)

    def other(self, peer: _Peer, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """A frame that needs no answer here."""

    def _settings(self) -> list[tuple[int, int]]:
        return [(3, 1000), (4, 1 << 22)]  # MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE

    def _answer(self, peer: _Peer, stream: int) -> bytes:
        if peer.answered:
            # :status 200 is entry 8 of the static table; 62 is the newest of the dynamic one, 63 the one before.
            head, trailers = b"\x88\xbf", b"\xbe"
        else:
            head = b"\x88\x5f\x10application/grpc"  # content-type is entry 31
            trailers = b"\x40\x0bgrpc-status\x010"
            peer.answered = True
        return (
            _frame(_HEADERS, _END_HEADERS, stream, head)
            + self._body(stream)
            + _frame(_HEADERS, _END_HEADERS | _END_STREAM, stream, trailers)
        )

    def _body(self, stream: int) -> bytes:
        return _frame(_DATA, 0, stream, self._data)


class LocalServer(GrpcServer):
    """The same on a Unix socket, with the messages in shared memory (docs/adr/local-transport.md). From the second call
    on a message has to come there."""

    _ARENA, _LOCAL_DATA, _RELEASE = 0xF1, 0xF2, 0xF3
    _SETTING = 0xF7D0

    def __init__(self, message: bytes) -> None:
        super().__init__(message)
        self._listening.close()
        self._folder = tempfile.TemporaryDirectory(prefix="tidegate-guard-")
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(f"{self._folder.name}/s")
        self._listening.listen()
        self._listening.setblocking(False)
        self._arena = os.memfd_create("guard-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.pwrite(self._arena, self._data, 0)
        fcntl.fcntl(self._arena, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)

    @property
    def address(self) -> str:
        return f"unix:{self._folder.name}/s"

    def close(self) -> None:
        super().close()
        os.close(self._arena)
        self._folder.cleanup()

    def other(self, peer: _Peer, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == self._ARENA and not flags & _ACK:
            self.answer(peer, _frame(self._ARENA, _ACK, 0, b""))
            socket.send_fds(peer.socket, [_frame(self._ARENA, 0, 0, b"")], [self._arena])
        elif kind == _DATA and self.requests:
            raise BenchError("a message came by the socket: this is not the path to be counted")
        elif kind == self._LOCAL_DATA and flags & _END_STREAM:
            self.requests += 1
            self.answer(peer, _frame(self._RELEASE, 0, 0, payload[:4]) + self._answer(peer, stream))

    def _settings(self) -> list[tuple[int, int]]:
        return [*super()._settings(), (self._SETTING, 1)]

    def _body(self, stream: int) -> bytes:
        return _frame(self._LOCAL_DATA, 0, stream, struct.pack(">II", 0, len(self._data)))
