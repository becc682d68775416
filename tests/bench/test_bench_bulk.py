"""Bytes in bulk: load and server against each other, and against servers that end, stall or send something else."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench import bulk
from bench.bulk import BLOCK, Bulk, Direction
from bench.errors import BenchError
from bench.generator import Counted, Target
from bench.marked import result_line


class Sink:
    """The server as a process; `counted` after its end."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "bench.bulk", "serve", "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().rpartition(":")[2])
        self.counted: dict[str, Any] = {}

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        output, _none = self.process.communicate(timeout=20)
        assert self.process.returncode == 0
        self.counted = result_line("serve", output)


def run(generator: Bulk, port: int, directory: Path) -> Counted:
    command = generator.command(Target(port, 1, directory), 0.4)
    return generator.parse(subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout)


@pytest.mark.parametrize("direction", ["down", "up", "both"])
def test_both_sides_count_the_same(direction: Direction, tmp_path: Path) -> None:
    with Sink() as server:
        counted = run(Bulk(4, direction), server.port, tmp_path)
    found = counted.raw["bulk"]
    assert not counted.errors
    assert counted.bytes == found["down"] + found["up"] == sum(found["connections"])
    assert counted.operations == counted.bytes >> 20
    assert (found["down"] > 0, found["up"] > 0) == (direction != "up", direction != "down")
    # What the kernel's buffers held at the end was sent and not counted, on each connection.
    assert 0 <= server.counted["sent"] - found["down"] <= 4 * (64 << 20)
    assert 0 <= server.counted["taken"] - found["up"] <= 4 * (64 << 20)
    assert found["up"] % BLOCK == 0


@contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that does `answer` with one connection and then closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1)
                answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def test_a_server_that_closes_early() -> None:
    with server(lambda connection: connection.sendall(bytes(3_000_000))) as port:
        found = bulk.load(port, 1, "down", 30)
    assert found["down"] == 3_000_000
    assert found["errors"] == {"closed": 1}
    with server(lambda connection: None) as port:
        found = bulk.load(port, 1, "up", 30)
    assert sum(found["errors"].values()) == 1  # closed or reset, as it comes


def test_other_bytes_are_not_counted() -> None:
    with server(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        found = bulk.load(port, 1, "down", 30)
    assert (found["down"], found["errors"]) == (0, {"other bytes than sent": 1})


@pytest.mark.parametrize("direction", ["down", "up"])
def test_a_stall_is_told(direction: Direction, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "_GRACE", 0.2)
    done = threading.Event()

    def wait(_: socket.socket) -> None:
        done.wait(20)

    with server(wait) as port:
        found = bulk.load(port, 1, direction, 3)
        done.set()
    assert (found["down"], found["up"], found["errors"]) == (0, 0, {"stalled": 1})


def test_nobody_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = Bulk().command(Target(port, 1, tmp_path), 0.1)
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert f"cannot connect to 127.0.0.1:{port}" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("", "it printed nothing"),
        ("bench-result {}", "cannot be read"),
        ('bench-result {"down":1,"up":0,"duration_ns":1,"errors":[]}', "cannot be read"),
        ('bench-result {"down":5,"up":0,"duration_ns":1000000000,"errors":{"closed":1}}', "moved 5 bytes in 1.0 s"),
    ],
)
def test_parse_refuses_what_is_no_result(output: str, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        Bulk().parse(output)


def test_nonsense_and_tls_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="direction"):
        Bulk(0)
    with pytest.raises(BenchError, match="in clear"):
        Bulk().command(Target(1, 1, tmp_path, authority=tmp_path), 1)
