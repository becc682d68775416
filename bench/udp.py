"""UDP load and its server: `python -m bench.udp echo --port P` and `python -m bench.udp load --port P`.

The load is a closed loop: a client sends its next datagram when the last is back unchanged, or lost. Its latencies are
those of that rate, and lost datagrams have none; they compare proxies under the same load.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import socket
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from bench import _udp, _udp_echo
from bench.errors import BenchError
from bench.generator import Counted, Target
from bench.machine import raise_descriptor_limit
from bench.marked import print_result, result_line

LARGEST = 65_507  # bytes of data in a datagram over IPv4
_BUFFER = 32 << 20
_SO_RCVBUFFORCE = 33  # not in Python's socket module; see socket(7)
_PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
_FAILURES = ("lost", "corrupt", "refused", "unsent")


@dataclass(frozen=True)
class Udp:
    """Our UDP clients as a Generator: `connections` sockets, datagrams of `size` bytes (16 to 65,507).

    A datagram that is not back after `timeout` seconds counts as lost. An operation is one that came back unchanged.
    """

    connections: int = 32
    size: int = 64
    timeout: float = 0.1

    def __post_init__(self) -> None:
        if self.connections < 1 or not 16 <= self.size <= LARGEST or self.timeout <= 0:
            raise ValueError(f"a client, 16 to {LARGEST} bytes and a timeout are needed")

    @property
    def name(self) -> str:
        return "bench.udp"

    def version(self) -> str | None:
        return "of this revision"

    def command(self, target: Target, seconds: float) -> list[str]:
        """Raises BenchError if TLS is asked for."""
        if target.authority is not None:
            raise BenchError("bench.udp sends in clear; DTLS is not supported")
        words = [sys.executable, "-m", "bench.udp", "load", "--port", str(target.port), "--seconds", str(seconds)]
        words += ["--connections", str(self.connections), "--threads", str(target.threads)]
        return [*words, "--size", str(self.size), "--timeout", str(self.timeout)]

    def parse(self, output: str) -> Counted:
        """`raw["udp"]` has the counts, percentiles of the round trip in ns and its histogram (greatest, count)."""
        found = result_line(self.name, output)
        try:
            operations, duration, size = int(found["answered"]), int(found["duration_ns"]), int(found["size"])
            errors = {kind: int(found[kind]) for kind in _FAILURES if int(found[kind])}
        except (ValueError, KeyError, TypeError) as error:
            raise BenchError(f"bench.udp's result cannot be read: {found!r} ({error!r})") from error
        if operations <= 0 or duration <= 0:
            raise BenchError(f"bench.udp got no answer in {duration / 1e9:.1f} s (errors: {errors or 'none'})")
        return Counted(operations, duration, errors, operations * size, {"udp": found})


def drive(port: int, connections: int, size: int, seconds: float, threads: int, timeout: float) -> dict[str, Any]:
    """Sends to 127.0.0.1:`port` and returns the counts. Raises BenchError if sockets cannot be had or used."""
    raise_descriptor_limit()
    with contextlib.ExitStack() as stack:
        try:
            sockets = [stack.enter_context(_connected(port)) for _ in range(connections)]
            threads = min(threads, connections)
            shares = [[s.fileno() for s in sockets[i::threads]] for i in range(threads)]
            with ThreadPoolExecutor(threads) as pool:
                running = [pool.submit(_udp.drive, share, size, seconds, timeout) for share in shares]
                parts = [part.result() for part in running]
        except OSError as error:
            raise BenchError(f"cannot send datagrams to 127.0.0.1:{port}: {error}") from error
    return _merged(parts, size, seconds)


def _connected(port: int) -> socket.socket:
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        client.connect(("127.0.0.1", port))
    except OSError:
        client.close()
        raise
    return client


def _merged(parts: Sequence[dict[str, Any]], size: int, seconds: float) -> dict[str, Any]:
    buckets: Counter[int] = Counter()
    found: dict[str, Any] = {"size": size, "duration_ns": round(seconds * 1e9)}
    for part in parts:
        buckets.update(part.pop("buckets"))
    for key in ("sent", "answered", "late", *_FAILURES, "total_ns"):
        found[key] = sum(part[key] for part in parts)
    found["max_ns"] = max(part["max_ns"] for part in parts)
    found["mean_ns"] = found.pop("total_ns") / found["answered"] if found["answered"] else 0
    histogram = [(_udp.bucket_value(index), buckets[index]) for index in sorted(buckets)]
    found |= {f"{name}_ns": percentile(histogram, share) for name, share in _PERCENTILES.items()}
    return {**found, "histogram": histogram}


def percentile(histogram: Sequence[tuple[int, int]], share: float) -> int:
    """The value that so large a share of the counts does not exceed; 0 without any."""
    wanted = share * sum(count for _, count in histogram)
    seen = 0
    for value, count in histogram:
        seen += count
        if seen >= wanted:
            return value
    return 0


def echo(port: int, workers: int, drop_every: int) -> None:
    """Serves on 127.0.0.1:`port` with a thread per worker until SIGTERM or SIGINT, then prints what it counted.

    A client is one worker's, chosen by the kernel from its address. Once it serves, it listens on the TCP port of the
    same number too, so that whoever waits for a server can see it by connecting. Raises BenchError.
    """
    stopping = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stopping)  # before the threads, which inherit it
    halt = _udp_echo.Halt()
    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", port), backlog=1))
            port = listener.getsockname()[1]
            sockets = [stack.enter_context(_bound(port)) for _ in range(workers)]
        except OSError as error:
            raise BenchError(f"127.0.0.1:{port}: {error.strerror}") from error
        with ThreadPoolExecutor(workers) as pool:
            # A worker that fails must not leave the others waiting for a signal that nobody sends.
            running = [pool.submit(_serve, s.fileno(), halt, drop_every) for s in sockets]
            room = min(s.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) for s in sockets)
            print(f"listening on 127.0.0.1:{port}, {room >> 10} KiB to receive into", flush=True)
            signal.sigwait(stopping)
            halt.set()
            parts = [part.result() for part in running]
    print_result({key: sum(part[key] for part in parts) for key in parts[0]})


def _serve(descriptor: int, halt: _udp_echo.Halt, drop_every: int) -> dict[str, int]:
    try:
        return _udp_echo.echo(descriptor, halt, drop_every)
    except (OSError, MemoryError):
        signal.raise_signal(signal.SIGTERM)
        raise


def _bound(port: int) -> socket.socket:
    """Its buffer holds a datagram of each of many thousand clients, where the kernel allows it."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            server.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        except PermissionError:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)  # at most net.core.rmem_max
        server.bind(("127.0.0.1", port))
    except OSError:
        server.close()
        raise
    return server


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.udp", description="UDP echo server and load")
    commands = parser.add_subparsers(dest="command", required=True)
    server = commands.add_parser("echo", help="send every datagram back")
    server.add_argument("--port", type=int, required=True, help="of 127.0.0.1; 0 = any")
    server.add_argument("--workers", type=int, default=1, help="threads, each with a socket of its own (1)")
    server.add_argument("--drop-every", type=int, default=0, metavar="N", help="do not send back every Nth (0: never)")
    load = commands.add_parser("load", help="send datagrams and wait for them")
    load.add_argument("--port", type=int, required=True, help="of 127.0.0.1")
    load.add_argument("--connections", type=int, default=32, help="sockets, one datagram in flight on each (32)")
    load.add_argument("--size", type=int, default=64, help=f"bytes of a datagram, 16 to {LARGEST} (64)")
    load.add_argument("--seconds", type=float, default=2.0)
    load.add_argument("--timeout", type=float, default=0.1, help="seconds after which one is lost (0.1)")
    load.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    try:
        if options.command == "echo":
            if options.workers < 1 or options.drop_every < 0:
                parser.error("a worker is needed, and no negative number")
            echo(options.port, options.workers, options.drop_every)
        else:
            if options.threads < 1 or options.seconds <= 0:
                parser.error("a thread is needed, and some seconds")
            try:
                Udp(options.connections, options.size, options.timeout)
            except ValueError as error:
                parser.error(str(error))
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # or it would wait for the threads
            o = options
            print_result(drive(o.port, o.connections, o.size, o.seconds, o.threads, o.timeout))
    except BenchError as error:
        sys.exit(f"bench.udp: {error}")


if __name__ == "__main__":
    main()
