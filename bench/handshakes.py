"""TLS handshakes as a load: a new connection with a full handshake for each request, whose session is never resumed.

wrk and h2load keep their TLS session across connections and resume it, so what they measure on new connections is not
a full handshake. Here every connection has its own TLS object without a session, and one that was resumed all the same
is an error (`SSLSocket.session_reused`). Certificates are checked against the authority on the first connection of
each process only: that is the client's work, and it is what limits the load.

`python -m bench.handshakes --port P --authority FILE`: blocking sockets, a process per CPU with its share of the
connections as threads; OpenSSL works without the GIL. A closed loop, as wrk is.

A full handshake costs a client more than a server: measured here, about 1.4 times what `openssl s_time -new` takes,
which itself takes more than nginx. With as many CPUs for the load as for the proxy, the load is saturated first; CPU
time per handshake is then still the proxy's own, the rate is not.
"""

from __future__ import annotations

import argparse
import multiprocessing
import signal
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.errors import BenchError
from bench.generator import Counted, Target
from bench.marked import print_result, result_line

_TIMEOUT = 5.0
_PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


@dataclass(frozen=True)
class Handshakes:
    """The load as a Generator: `connections` at a time, each closed after one GET of `path` (HTTP/1.1).

    An operation is a full handshake and an answer with status 200, read to the connection's end.
    """

    path: str = "/"
    connections: int = 16

    def __post_init__(self) -> None:
        if self.connections < 1 or not self.path.startswith("/"):
            raise ValueError("a connection is needed, and a path")

    @property
    def name(self) -> str:
        return "bench.handshakes"

    def version(self) -> str | None:
        return f"of this revision, {ssl.OPENSSL_VERSION}"

    def command(self, target: Target, seconds: float) -> list[str]:
        """Raises BenchError if the target does not speak TLS."""
        if target.authority is None:
            raise BenchError("bench.handshakes needs a target that speaks TLS")
        words = [sys.executable, "-m", "bench.handshakes", "--port", str(target.port), "--path", self.path]
        words += ["--authority", str(target.authority), "--seconds", str(seconds)]
        return [*words, "--connections", str(self.connections), "--processes", str(target.threads)]

    def parse(self, output: str) -> Counted:
        """`raw["handshakes"]` has percentiles of whole connections in ns, and protocol and cipher."""
        found = result_line(self.name, output)
        try:
            operations, duration = int(found["answered"]), int(found["duration_ns"])
            received = int(found["bytes"])
            errors = {kind: int(count) for kind, count in found["errors"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BenchError(f"bench.handshakes' result cannot be read: {found!r} ({error!r})") from error
        if operations <= 0 or duration <= 0:
            raise BenchError(f"bench.handshakes got no answer in {duration / 1e9:.1f} s (errors: {errors or 'none'})")
        return Counted(operations, duration, errors, received, {"handshakes": found})


@dataclass(frozen=True)
class Plan:
    """What a process does."""

    port: int
    path: str
    authority: str
    seconds: float
    connections: int


class Tally:
    """What the threads of a process count."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.times_ns: list[int] = []
        self.bytes = 0
        self.errors: Counter[str] = Counter()
        self.protocols: Counter[str] = Counter()
        self.duration_ns = 0

    def add(self, elapsed_ns: int, received: int, protocol: str) -> None:
        with self._lock:
            self.times_ns.append(elapsed_ns)
            self.bytes += received
            self.protocols[protocol] += 1

    def fail(self, kind: str) -> None:
        with self._lock:
            self.errors[kind] += 1


def once(port: int, context: ssl.SSLContext, request: bytes, tally: Tally) -> None:
    """One connection, from its first packet to its last."""
    began = time.monotonic_ns()
    try:
        with (
            socket.create_connection(("127.0.0.1", port), _TIMEOUT) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            connection.sendall(request)
            answer = bytearray()
            while data := connection.recv(65536):
                answer += data
            resumed, cipher = connection.session_reused, connection.cipher()
    except TimeoutError:
        return tally.fail("timeout")
    except ssl.SSLError as error:
        return tally.fail(f"TLS: {error.reason or error}")
    except OSError as error:
        return tally.fail(type(error).__name__)
    if resumed:
        return tally.fail("resumed")
    if not answer.startswith(b"HTTP/1.1 200 "):
        return tally.fail("status")
    return tally.add(time.monotonic_ns() - began, len(answer), f"{cipher[1]} {cipher[0]}" if cipher else "unknown")


def work(plan: Plan) -> Tally:
    """Keeps `plan.connections` connections going for so long. Raises BenchError if the first one fails."""
    request = f"GET {plan.path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    try:
        checking = ssl.create_default_context(cafile=plan.authority)
    except OSError as error:
        raise BenchError(f"{plan.authority} holds no certificate: {error}") from error
    first = Tally()
    once(plan.port, checking, request, first)
    if first.errors:
        raise BenchError(f"no connection to 127.0.0.1:{plan.port} with TLS: {next(iter(first.errors))}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    tally = Tally()
    began = time.monotonic_ns()
    end = began + round(plan.seconds * 1e9)

    def repeat() -> None:
        while time.monotonic_ns() < end:
            once(plan.port, context, request, tally)

    threads = [threading.Thread(target=repeat) for _ in range(plan.connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tally.duration_ns = time.monotonic_ns() - began
    return tally


def load(port: int, path: str, authority: str, seconds: float, connections: int, processes: int) -> dict[str, Any]:
    """Makes connections to 127.0.0.1:`port` for some seconds; what has begun then is finished and counted.

    Raises BenchError.
    """
    processes = min(processes, connections)
    shares = [connections // processes + (i < connections % processes) for i in range(processes)]
    plans = [Plan(port, path, authority, seconds, share) for share in shares]
    if processes == 1:
        parts = [_counted(plans[0])]
    else:
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            parts = pool.map(_counted, plans, chunksize=1)
    times = sorted(t for part in parts for t in part["times_ns"])
    errors: Counter[str] = Counter()
    protocols: Counter[str] = Counter()
    for part in parts:
        errors.update(part["errors"])
        protocols.update(part["protocols"])
    found = {f"{name}_ns": times[int(share * (len(times) - 1))] for name, share in _PERCENTILES.items() if times}
    return {
        "answered": len(times),
        "duration_ns": max(part["duration_ns"] for part in parts),
        "bytes": sum(part["bytes"] for part in parts),
        "errors": errors,
        "protocols": protocols,
        **found,
    }


def _counted(plan: Plan) -> dict[str, Any]:
    """A tally as it goes from one process to another."""
    tally = work(plan)
    return {
        "times_ns": tally.times_ns,
        "bytes": tally.bytes,
        "errors": dict(tally.errors),
        "protocols": dict(tally.protocols),
        "duration_ns": tally.duration_ns,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench.handshakes", description="full TLS handshakes as a load")
    parser.add_argument("--port", type=int, required=True, help="of 127.0.0.1")
    parser.add_argument("--authority", required=True, metavar="FILE", help="PEM of the authority of its certificate")
    parser.add_argument("--path", default="/")
    parser.add_argument("--connections", type=int, default=16, help="at a time (16)")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    o = parser.parse_args(arguments)
    if o.connections < 1 or o.processes < 1 or o.seconds <= 0:
        parser.error("a connection, a process and some seconds are needed")
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # or it would wait for the threads
    try:
        print_result(load(o.port, o.path, o.authority, o.seconds, o.connections, o.processes))
    except BenchError as error:
        sys.exit(f"bench.handshakes: {error}")


if __name__ == "__main__":
    main()
