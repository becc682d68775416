"""A GiB each way through the TCP listener."""

from __future__ import annotations

import random
import socket
import threading
import zlib
from collections.abc import Callable
from typing import Any

import psutil
from daemon import Daemon, eventually

Start = Callable[..., Daemon]
BLOCK = 1 << 20
BLOCKS = 1024
SLACK = 16 << 20


def pour(connection: socket.socket, seed: int) -> int:
    """Sends BLOCKS blocks, no two alike, and returns the checksum."""
    pattern = bytearray(random.Random(seed).randbytes(BLOCK))
    crc = 0
    for number in range(BLOCKS):
        pattern[:8] = number.to_bytes(8, "big")
        crc = zlib.crc32(pattern, crc)
        connection.sendall(pattern)
    return crc


def take(connection: socket.socket, limit: int) -> tuple[int, int]:
    """Reads until the end or `limit` bytes: their checksum and number."""
    buffer = memoryview(bytearray(BLOCK))
    crc = got = 0
    while got < limit:
        n = connection.recv_into(buffer, min(BLOCK, limit - got))
        if n == 0:
            break
        crc, got = zlib.crc32(buffer[:n], crc), got + n
    return crc, got


class Endpoint(threading.Thread):
    """Takes one connection: sends its own GiB while it reads until the end, and then says what it has read."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listening.getsockname()[1]}"
        self.sent = 0

    def run(self) -> None:
        connection, _ = self.listening.accept()

        def send() -> None:
            self.sent = pour(connection, 1)

        with connection:
            sending = threading.Thread(target=send, daemon=True)
            sending.start()
            crc, got = take(connection, BLOCKS * BLOCK + 1)
            sending.join()
            connection.sendall(b"%d %d" % (crc, got))


class Watch(threading.Thread):
    """The most memory that any of the processes has while it runs, above what each had at the beginning."""

    def __init__(self, pids: list[int]) -> None:
        super().__init__(daemon=True)
        self.processes = [psutil.Process(pid) for pid in pids]
        self.before = [p.memory_info().rss for p in self.processes]
        self.growth = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.05):
            now = [p.memory_info().rss for p in self.processes]
            self.growth = max(self.growth, *(n - b for n, b in zip(now, self.before, strict=True)))


def test_a_gib_each_way_arrives_intact_with_bounded_memory(start: Start) -> None:
    endpoint = Endpoint()
    endpoint.start()
    config: dict[str, Any] = {
        "workers": 2,
        "listeners": {"raw": {"bind": "127.0.0.1:0", "protocol": "tcp", "pool": "raw"}},
        "pools": {"raw": {"protocol": "tcp", "endpoints": [endpoint.address]}},
    }
    daemon = start(config)
    watch = Watch([daemon.process.pid, *daemon.worker_pids()])
    watch.start()
    client = socket.create_connection(("127.0.0.1", daemon.port("raw")))
    client.settimeout(60)
    sums: dict[str, int] = {}

    def send() -> None:
        sums["sent"] = pour(client, 2)
        client.shutdown(socket.SHUT_WR)

    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    crc, got = take(client, BLOCKS * BLOCK)
    sending.join(60)
    # The endpoint saw our end, and can still speak.
    trailer = b""
    while data := client.recv(100):
        trailer += data
    client.close()
    endpoint.join(20)
    watch.over.set()
    watch.join()
    assert got == BLOCKS * BLOCK
    assert crc == endpoint.sent
    assert trailer == b"%d %d" % (sums["sent"], BLOCKS * BLOCK)
    assert watch.growth < SLACK
    eventually(lambda: daemon.in_flight() == 0, "in-flight counts")
    assert sum(daemon.metrics("tidegate_listener_received_bytes_total").values()) == BLOCKS * BLOCK
    assert sum(daemon.metrics("tidegate_listener_sent_bytes_total").values()) == BLOCKS * BLOCK + len(trailer)
