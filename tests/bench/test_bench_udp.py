"""UDP load and echo server against each other, and against a server that answers wrongly."""

from __future__ import annotations

import itertools
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench import _udp, _udp_echo
from bench.errors import BenchError
from bench.generator import Counted, Target
from bench.marked import result_line
from bench.scenarios.udp import wait_echo
from bench.udp import Udp, percentile


class Echo:
    """The echo server as a process; `counted` after its end."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "bench.udp", "echo", "--port", "0", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.port = int(line.removeprefix("listening on 127.0.0.1:").partition(",")[0])
        self.counted: dict[str, Any] = {}

    def __enter__(self) -> Echo:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        output, _none = self.process.communicate(timeout=20)
        assert self.process.returncode == 0
        self.counted = result_line("echo", output)


def run(load: Udp, port: int, directory: Path, seconds: float = 0.3, threads: int = 1) -> Counted:
    command = load.command(Target(port, threads, directory), seconds)
    return load.parse(subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout)


@pytest.mark.parametrize(("connections", "size", "threads"), [(8, 16, 1), (3, 65_507, 2), (2000, 1200, 2)])
def test_both_sides_count_the_same(connections: int, size: int, threads: int, tmp_path: Path) -> None:
    with Echo("--workers", "2") as server:
        counted = run(Udp(connections, size, timeout=5), server.port, tmp_path, threads=threads)
    found = counted.raw["udp"]
    assert not counted.errors
    assert counted.bytes == counted.operations * size
    assert sum(count for _, count in found["histogram"]) == counted.operations
    assert found["sent"] - counted.operations <= connections  # those in flight at the end
    assert found["sent"] == server.counted["received"] == server.counted["sent"]
    assert server.counted["bytes"] == found["sent"] * size
    assert 0 < found["p50_ns"] <= found["p99_ns"] <= found["max_ns"] * 1.01


def test_loss_is_counted_and_does_not_stop_a_client(tmp_path: Path) -> None:
    with Echo("--drop-every", "10") as server:
        counted = run(Udp(4, 64, timeout=0.02), server.port, tmp_path, seconds=0.5)
    assert server.counted["dropped"] > 4  # so some client was answered again after a loss
    assert 0 <= server.counted["dropped"] - counted.errors["lost"] <= 4


def test_nobody_there(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        with pytest.raises(BenchError, match=r"no answer in 0.3 s .*lost"):
            run(Udp(2, timeout=0.05), port, tmp_path)
    with pytest.raises(BenchError, match=r"no answer in 0.3 s .*refused"):
        run(Udp(2, timeout=0.05), port, tmp_path)


@contextmanager
def server(answer: Callable[[bytes], list[bytes]]) -> Iterator[int]:
    """A server that sends what `answer` makes of each datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        ended = threading.Event()

        def serve() -> None:
            while True:
                data, sender = bound.recvfrom(65536)
                if ended.is_set():
                    return
                for reply in answer(data):
                    bound.sendto(reply, sender)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield bound.getsockname()[1]
        finally:
            ended.set()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", bound.getsockname())
            thread.join()


def drive(port: int, seconds: float, timeout: float) -> dict[str, Any]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", port))
        return _udp.drive([client.fileno()], 32, seconds, timeout)


@pytest.mark.parametrize("wrong", [lambda d: d[:-1], lambda d: d[:-1] + b"?", lambda d: d + b"x", lambda d: b""])
def test_what_was_not_sent_is_no_answer(wrong: Callable[[bytes], bytes]) -> None:
    with server(lambda data: [wrong(data)]) as port:
        found = drive(port, 0.2, 0.02)
    assert found["answered"] == 0
    assert found["corrupt"] > 0
    assert found["lost"] > 0


def test_an_answer_after_its_time_is_late_and_is_not_another_ones() -> None:
    held: list[bytes] = []

    def previous(data: bytes) -> list[bytes]:
        held.append(data)
        return held[-2:-1] if struct.unpack_from("=Q", data)[0] % 2 == 0 else []

    with server(previous) as port:
        found = drive(port, 0.3, 0.02)
    assert found["answered"] == 0
    assert found["late"] > 0
    assert found["corrupt"] == 0


def test_a_planted_delay_is_what_is_measured() -> None:
    def slow(data: bytes) -> list[bytes]:
        time.sleep(0.03)
        return [data]

    with server(slow) as port:
        found = drive(port, 0.3, 1.0)
    least = min(found["buckets"])
    assert 30e6 <= _udp.bucket_value(least) < 300e6
    assert found["answered"] <= 10


def test_a_server_that_is_bound_is_waited_for_until_it_echoes() -> None:
    first = iter(([], [b"something else"], []))
    with server(lambda datagram: next(first, [datagram])) as port:
        wait_echo(port, 20.0, lambda: None)
    assert next(first, None) is None
    with server(lambda _: []) as port, pytest.raises(BenchError, match="sends no datagram back"):
        wait_echo(port, 0.2, lambda: None)


def test_a_proxy_that_ended_is_not_waited_for() -> None:
    def ended() -> None:
        raise BenchError("it ended with code 1")

    with server(lambda _: []) as port, pytest.raises(BenchError, match="it ended with code 1"):
        wait_echo(port, 60.0, ended)


@pytest.mark.parametrize(("size", "seconds", "timeout"), [(15, 1, 1), (65508, 1, 1), (64, 0, 1), (64, 1, 0)])
def test_nonsense_is_refused(size: int, seconds: float, timeout: float) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client, pytest.raises(ValueError, match="needed"):
        _udp.drive([client.fileno()], size, seconds, timeout)
    with pytest.raises(ValueError, match="needed"):
        _udp.drive([], 64, 1, 1)


def test_descriptors_that_are_no_sockets() -> None:
    with Path("/dev/null").open("rb") as file:
        with pytest.raises(OSError, match="permitted"):
            _udp.drive([file.fileno()], 64, 0.1, 0.1)
        with pytest.raises(OSError, match="non-socket"):
            _udp_echo.echo(file.fileno(), _udp_echo.Halt())
    with pytest.raises(ValueError, match="socket"):
        _udp_echo.echo(-1, _udp_echo.Halt())


def test_a_signal_ends_the_load_and_the_server() -> None:
    class Ended(Exception):
        pass

    def end(*_: object) -> None:
        raise Ended

    before = signal.signal(signal.SIGALRM, end)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(Ended):
                drive(silent.getsockname()[1], 60, 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
            bound.bind(("127.0.0.1", 0))
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(Ended):
                _udp_echo.echo(bound.fileno(), _udp_echo.Halt())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_the_buckets_cover_all_values_closely() -> None:
    values = [_udp.bucket_value(index) for index in range(256 + 56 * 128)]
    assert values[:256] == list(range(256))
    assert values[-1] == 2**64 - 1
    for below, value in itertools.pairwise(values[255:]):
        assert 0 < value - below <= value / 128


def test_percentiles() -> None:
    histogram = [(10, 90), (20, 9), (30, 1)]
    assert [percentile(histogram, share) for share in (0.5, 0.9, 0.91, 0.99, 0.999, 1)] == [10, 10, 20, 20, 30, 30]
    assert percentile([], 0.5) == 0


@pytest.mark.parametrize("output", ["", "bench-result {}", "bench-result nonsense"])
def test_parse_refuses_what_is_no_result(output: str) -> None:
    with pytest.raises(BenchError, match=r"no result|cannot be read"):
        Udp().parse(output)


def test_a_taken_port_and_tls(tmp_path: Path) -> None:
    with Echo() as server:
        command = [sys.executable, "-m", "bench.udp", "echo", "--port", str(server.port)]
        again = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert again.returncode == 1
    assert str(server.port) in again.stderr
    assert again.stderr.count("\n") == 1
    with pytest.raises(BenchError, match="in clear"):
        Udp().command(Target(1, 1, tmp_path, authority=tmp_path), 1)
