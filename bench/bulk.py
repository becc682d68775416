"""Bytes in bulk over TCP and their server: `python -m bench.bulk serve --port P` and `python -m bench.bulk load …`.

A connection's first byte says what it is for. `d` (down): the server sends zeros until the client closes. `u` (up): it
throws away what it gets and sends one byte back for every `BLOCK` it has taken, so the client counts what has arrived,
not what it has put into buffers. A client ends by closing: no half-closed connection, which not every proxy passes on.

Both ends spare themselves the work that is not the proxy's: they send from a memfd with sendfile, and receive with
MSG_TRUNC, for which TCP counts bytes and does not copy them (tcp(7)). They are acknowledged, flow-controlled and put on
the wire like any others, and it is the same for every proxy.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from bench.errors import BenchError
from bench.generator import Counted, Target
from bench.marked import print_result, result_line

Direction = Literal["down", "up", "both"]
DIRECTIONS: tuple[Direction, ...] = ("down", "up", "both")
BLOCK = 4 << 20
_CHUNK = 1 << 20
_GRACE = 5.0  # seconds without a byte after which a connection counts as stalled


@dataclass(frozen=True)
class Bulk:
    """Our bulk clients as a Generator. `both`: every second connection goes up, so a proxy has both at once.

    An operation is a MiB that has arrived; down those bytes are counted as they come, up as the server confirms them.
    """

    connections: int = 8
    direction: Direction = "down"

    def __post_init__(self) -> None:
        if self.connections < 1 or self.direction not in DIRECTIONS:
            raise ValueError("a connection is needed, and a direction: down, up or both")

    @property
    def name(self) -> str:
        return "bench.bulk"

    def version(self) -> str | None:
        return "of this revision"

    def command(self, target: Target, seconds: float) -> list[str]:
        """One process whatever `target.threads` says: nearly all of its time is spent in system calls, in threads.

        Raises BenchError if TLS is asked for.
        """
        if target.authority is not None:
            raise BenchError("bench.bulk sends in clear")
        words = [sys.executable, "-m", "bench.bulk", "load", "--port", str(target.port), "--seconds", str(seconds)]
        return [*words, "--connections", str(self.connections), "--direction", self.direction]

    def parse(self, output: str) -> Counted:
        """`raw["bulk"]` has bytes by direction and by connection."""
        found = result_line(self.name, output)
        try:
            moved, duration = int(found["down"]) + int(found["up"]), int(found["duration_ns"])
            errors = {kind: int(count) for kind, count in found["errors"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BenchError(f"bench.bulk's result cannot be read: {found!r} ({error!r})") from error
        if moved < _CHUNK or duration <= 0:
            raise BenchError(f"bench.bulk moved {moved} bytes in {duration / 1e9:.1f} s (errors: {errors or 'none'})")
        return Counted(moved >> 20, duration, errors, moved, {"bulk": found})


def zeros() -> int:
    """A descriptor of a memory file with `_CHUNK` zeros, which its pages really have."""
    descriptor = os.memfd_create("zeros")
    os.write(descriptor, bytes(_CHUNK))
    return descriptor


# ---- the server


class Server:
    """Serves on a listening socket, a thread per connection; `served` counts bytes sent and taken."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._zeros = zeros()
        self._lock = threading.Lock()
        self.served = {"connections": 0, "sent": 0, "taken": 0}

    def run(self) -> None:
        """Until a signal handler raises."""
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        sent = taken = 0
        with connection, contextlib.suppress(ConnectionError):  # a client that goes is the end of it
            purpose = connection.recv(1)
            if purpose == b"d":
                sent = self._send(connection)
            elif purpose == b"u":
                taken = self._take(connection)
        with self._lock:
            for key, count in (("connections", 1), ("sent", sent), ("taken", taken)):
                self.served[key] += count

    def _send(self, connection: socket.socket) -> int:
        total = 0
        with contextlib.suppress(ConnectionError):  # how a client ends it
            while True:
                total += os.sendfile(connection.fileno(), self._zeros, 0, _CHUNK)
        return total

    def _take(self, connection: socket.socket) -> int:
        total = confirmed = 0
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        scratch = bytearray(_CHUNK)
        with contextlib.suppress(ConnectionError):  # the client has closed with confirmations unread
            while count := connection.recv_into(scratch, _CHUNK, socket.MSG_TRUNC):
                total += count
                if (blocks := total // BLOCK) > confirmed:
                    connection.sendall(bytes(blocks - confirmed))
                    confirmed = blocks
        return total


# ---- the load


@dataclass
class Moved:
    """What one connection has moved, and why it ended early, if it did."""

    direction: Direction
    bytes: int = 0
    error: str = ""


def load(port: int, connections: int, direction: Direction, seconds: float) -> dict[str, Any]:
    """Moves bytes through 127.0.0.1:`port` for some seconds, from the moment all connections are there.

    Raises BenchError if a connection cannot be had.
    """
    ways: list[Direction] = [direction if direction != "both" else ("down", "up")[i % 2] for i in range(connections)]
    with contextlib.ExitStack() as stack:
        try:
            sockets = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 5)) for _ in ways]
        except OSError as error:
            raise BenchError(f"cannot connect to 127.0.0.1:{port}: {error.strerror or error}") from error
        source = zeros()
        stack.callback(os.close, source)
        pool = stack.enter_context(ThreadPoolExecutor(connections))
        began = time.monotonic()
        end = began + seconds
        running = [
            pool.submit(_receive, s, end) if way == "down" else pool.submit(_send, s, source, end)
            for s, way in zip(sockets, ways, strict=True)
        ]
        parts = [part.result() for part in running]
        duration = time.monotonic() - began
    errors: dict[str, int] = {}
    for part in parts:
        if part.error:
            errors[part.error] = errors.get(part.error, 0) + 1
    total = {way: sum(part.bytes for part in parts if part.direction == way) for way in ("down", "up")}
    by_connection = [part.bytes for part in parts]
    return {**total, "duration_ns": round(duration * 1e9), "errors": errors, "connections": by_connection}


def _receive(connection: socket.socket, end: float) -> Moved:
    moved = Moved("down")
    scratch = bytearray(_CHUNK)
    try:
        connection.sendall(b"d")
        connection.settimeout(_GRACE)
        # The first bytes are looked at: whoever answers must be the server.
        first = connection.recv(65536)
        if first.strip(b"\0"):
            moved.error = "other bytes than sent"
            return moved
        moved.bytes = len(first)
        while count := connection.recv_into(scratch, _CHUNK, socket.MSG_TRUNC):
            moved.bytes += count
            if time.monotonic() >= end:
                return moved
        moved.error = "closed"
    except TimeoutError:
        moved.error = "stalled"
    except ConnectionError as error:
        moved.error = type(error).__name__
    return moved


def _send(connection: socket.socket, source: int, end: float) -> Moved:
    """Sends while it can and reads confirmations; the socket does not block, since each may come first."""
    moved = Moved("up")
    try:
        connection.sendall(b"u")
        connection.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
            while (now := time.monotonic()) < end:
                ready = selector.select(min(_GRACE, end - now))
                if not ready and end - now > _GRACE:
                    moved.error = "stalled"
                    break
                for _, events in ready:
                    with contextlib.suppress(BlockingIOError):  # ready, and then not
                        if events & selectors.EVENT_READ:
                            if not (confirmed := connection.recv(65536)):
                                moved.error = "closed"
                                return moved
                            moved.bytes += BLOCK * len(confirmed)
                        if events & selectors.EVENT_WRITE:
                            os.sendfile(connection.fileno(), source, 0, _CHUNK)
    except ConnectionError as error:
        moved.error = type(error).__name__
    return moved


def _stop(_signal: int, _frame: object) -> None:
    raise SystemExit(0)


def serve(port: int) -> None:
    """Serves on 127.0.0.1:`port` until SIGTERM or SIGINT, then prints what it counted. Raises BenchError."""
    try:
        listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    except OSError as error:
        raise BenchError(f"127.0.0.1:{port}: {error.strerror}") from error
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    server = Server(listener)
    print(f"listening on 127.0.0.1:{listener.getsockname()[1]}", flush=True)
    try:
        server.run()
    finally:
        print_result(server.served)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.bulk", description="bytes in bulk over TCP: server and load")
    commands = parser.add_subparsers(dest="command", required=True)
    server = commands.add_parser("serve", help="send zeros, or take what comes")
    server.add_argument("--port", type=int, required=True, help="of 127.0.0.1; 0 = any")
    client = commands.add_parser("load", help="move bytes for some seconds")
    client.add_argument("--port", type=int, required=True, help="of 127.0.0.1")
    client.add_argument("--connections", type=int, default=8)
    client.add_argument("--seconds", type=float, default=2.0)
    client.add_argument("--direction", choices=DIRECTIONS, default="down")
    options = parser.parse_args()
    try:
        if options.command == "serve":
            serve(options.port)
        else:
            if options.connections < 1 or options.seconds <= 0:
                parser.error("a connection is needed, and some seconds")
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # or it would wait for the threads
            print_result(load(options.port, options.connections, options.direction, options.seconds))
    except BenchError as error:
        sys.exit(f"bench.bulk: {error}")


if __name__ == "__main__":
    main()
