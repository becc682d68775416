"""Local transport by hand (docs/adr/local-transport.md): frames over a Unix socket, and an arena."""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import struct
import time
from typing import Any, NamedTuple

from h2_frames import DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, Frame, frame, head, setting

ARENA, LOCAL_DATA, RELEASE = 0xF1, 0xF2, 0xF3
ACK = 1
LOCAL_SETTING = 0xF7D0
VERSION = 1
SIZE = 64 * 1024 * 1024
F_ADD_SEALS, F_GET_SEALS = 1033, 1034
SEAL, SHRINK, GROW, FUTURE_WRITE = 1, 2, 4, 16
POST = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a")]
GRPC = [(b"te", b"trailers"), (b"content-type", b"application/grpc")]
DEADLINE = 30.0


class Arena:
    """A memfd with its mapping; `seals` as an honest peer sets them."""

    def __init__(self, size: int = SIZE, seals: int = SHRINK | GROW | SEAL) -> None:
        self.fd = os.memfd_create("test-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        self.memory = mmap.mmap(self.fd, size)
        if seals:
            fcntl.fcntl(self.fd, F_ADD_SEALS, seals)

    def close(self) -> None:
        self.memory.close()
        os.close(self.fd)


class Ended(AssertionError):
    """The other side has ended the connection."""


class Answer(NamedTuple):
    body: bytes
    by_arena: list[tuple[int, int]]  # offset and size of what came there


class LocalPeer:
    """One side of a connection over a Unix socket. `frames` are those that came and were not taken."""

    def __init__(self, sock: socket.socket, client: bool = True) -> None:
        self.sock = sock
        self.sock.settimeout(DEADLINE)
        self.client = client
        self.data = b""
        self.frames: list[Frame] = []
        self.fds: list[int] = []
        self.over = False
        self.arena: Arena | None = None
        self.theirs: mmap.mmap | None = None
        self.stream = -1

    @classmethod
    def connect(cls, path: str) -> LocalPeer:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path.removeprefix("unix:"))
        peer = cls(sock)
        peer.send(PREFACE + setting(4, (1 << 31) - 1) + frame(8, 0, 0, struct.pack("!I", (1 << 31) - 1 - 65535)))
        while not any(one.kind == SETTINGS for one in peer.frames):  # which are acknowledged then
            assert peer.read()
        return peer

    def send(self, data: bytes, *fds: int) -> None:
        if not fds:
            self.sock.sendall(data)
            return
        sent = socket.send_fds(self.sock, [data], list(fds))
        if sent < len(data):  # nothing more would be an error where the other side has ended the connection by now
            self.sock.sendall(data[sent:])

    def read(self) -> bool:
        """Takes what comes next. False: the connection is over."""
        try:
            got, fds, _, _ = socket.recv_fds(self.sock, 1 << 16, 4)
        except ConnectionError:
            got, fds = b"", []
        self.fds += fds
        self.data += got
        while len(self.data) >= 9 and len(self.data) >= (size := 9 + int.from_bytes(self.data[:3], "big")):
            one = Frame(self.data[3], self.data[4], int.from_bytes(self.data[5:9], "big"), self.data[9:size])
            self.data = self.data[size:]
            if one.kind == SETTINGS and not one.flags & ACK:
                self.send(frame(SETTINGS, ACK, 0))
            self.frames.append(one)
        self.over = self.over or not got
        return not self.over

    def take(self, kind: int, stream: int | None = None) -> Frame:
        """The next frame of a kind, which is taken."""
        end = time.monotonic() + DEADLINE
        while True:
            for one in self.frames:
                if one.kind == kind and stream in (None, one.stream):
                    self.frames.remove(one)
                    return one
            assert time.monotonic() < end, f"no frame {kind}: {self.frames}"
            if not self.read():
                raise Ended(f"before a frame {kind}: {self.frames}")

    def settings(self) -> dict[int, int]:
        """Those of the other side."""
        payload = self.take(SETTINGS).payload
        return dict(struct.iter_unpack("!HI", payload))

    def wait_over(self) -> list[Frame]:
        """All that came until the other side ended the connection."""
        while self.read():
            pass
        return self.frames

    def open_local(self, arena: Arena | None = None) -> LocalPeer:
        """Passes an arena on, and maps the one that comes in return."""
        assert self.settings()[LOCAL_SETTING] == VERSION
        self.arena = arena or Arena()
        self.send(frame(ARENA, 0, 0), self.arena.fd)
        assert self.take(ARENA).flags == ACK
        assert self.take(ARENA).flags == 0
        assert len(self.fds) == 1
        self.theirs = mmap.mmap(self.fds[0], os.fstat(self.fds[0]).st_size, mmap.MAP_SHARED, mmap.PROT_READ)
        self.send(frame(ARENA, ACK, 0))
        return self

    def call(self, path: str) -> int:
        self.stream += 2
        self.send(head(self.stream, [*POST, (b":path", path.encode()), *GRPC], END_HEADERS))
        return self.stream

    def local(self, stream: int, offset: int, size: int, flags: int = END_STREAM) -> None:
        self.send(frame(LOCAL_DATA, flags, stream, struct.pack("!II", offset, size)))

    def ask(self, path: str, message: bytes, offset: int = 0) -> int:
        """A unary call whose message lies at `offset` of the arena."""
        stream = self.call(path)
        body = b"\0" + struct.pack("!I", len(message)) + message
        assert self.arena is not None
        self.arena.memory[offset : offset + len(body)] = body
        self.local(stream, offset, len(body))
        return stream

    def ask_plain(self, path: str, message: bytes) -> int:
        stream = self.call(path)
        body = b"\0" + struct.pack("!I", len(message)) + message
        pieces = [body[at : at + 16384] for at in range(0, len(body), 16384)]
        self.send(b"".join(frame(DATA, END_STREAM if p is pieces[-1] else 0, stream, p) for p in pieces))
        return stream

    def answer(self, stream: int, release: bool = True) -> Answer:
        """The answer's message, without gRPC's prefix."""
        body, places = b"", []
        while True:
            for one in [f for f in self.frames if f.stream == stream]:
                self.frames.remove(one)
                if one.kind == DATA:
                    body += one.payload
                elif one.kind == LOCAL_DATA:
                    offset, size = struct.unpack("!II", one.payload)
                    assert self.theirs is not None
                    body += self.theirs[offset : offset + size]
                    places.append((offset, size))
                    if release:
                        self.release(offset)
                assert one.kind != 3, one
                if one.flags & END_STREAM and one.kind in (DATA, HEADERS, LOCAL_DATA):
                    assert not body or len(body) == 5 + int.from_bytes(body[1:5], "big")
                    return Answer(body[5:], places)
            assert self.read(), self.frames

    def release(self, offset: int) -> None:
        self.send(frame(RELEASE, 0, 0, struct.pack("!I", offset)))

    def close(self) -> None:
        self.sock.close()
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()
        if self.theirs is not None:
            self.theirs.close()
        if self.arena is not None:
            self.arena.close()
            self.arena = None

    def __enter__(self) -> LocalPeer:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()
