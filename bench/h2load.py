"""The load generator h2load: HTTP/2 with many streams on a connection, in clear or TLS, gRPC among it; HTTP/1.1 too.

Like wrk it is a closed loop: each stream sends its next request when its answer is there. In clear it speaks HTTP/2 by
prior knowledge (RFC 9113, section 3.3), with TLS what ALPN chooses; it does not verify certificates.

It judges an answer by `:status` alone. A gRPC call that fails has the status 200 and its `grpc-status` in the trailers,
which h2load does not read: it counts as succeeded here, and only a functional check of the answer tells. A call that
is reset counts as failed.

When it runs for a time and a connection is closed on it, it says nothing of it and goes on with the others. Its rates
tell all the same: those of the connections cover the time that each was open, that of the whole covers all of it.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass

from bench.errors import BenchError
from bench.generator import Counted, Target
from bench.load.request import Request
from bench.peers.base import version_of
from bench.processes import require

_FINISHED = re.compile(r"^finished in ([\d.]+)(us|ms|s|m|h), ", re.MULTILINE)
_NS = {"us": 1e3, "ms": 1e6, "s": 1e9, "m": 60e9, "h": 3600e9}
_REQUESTS = re.compile(
    r"^requests: (\d+) total, (\d+) started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout$",
    re.MULTILINE,
)
_REQUEST_KEYS = ("total", "started", "done", "succeeded", "failed", "errored", "timeout")
_STATUS = re.compile(r"^status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx$", re.MULTILINE)
_TRAFFIC = re.compile(r"^traffic: \S+ \((\d+)\) total, \S+ \((\d+)\) headers .*?, \S+ \((\d+)\) data$", re.MULTILINE)
_TIMES = re.compile(r"^time (for request|for connect|to 1st byte): +(\S+) +(\S+) +(\S+) +(\S+) +(\S+)%$", re.MULTILINE)
_TIME = re.compile(r"([\d.]+)(us|ms|s|m|h)")
_RATE = re.compile(r"^finished in \S+ ([\d.]+) req/s, ", re.MULTILINE)
_MEAN_RATE = re.compile(r"^req/s +: +[\d.]+ +[\d.]+ +([\d.]+) ", re.MULTILINE)
_PROTOCOL = re.compile(r"^(?:Application protocol|Cipher|TLS Protocol): .+$", re.MULTILINE)


@dataclass(frozen=True)
class H2load:
    """h2load as a Generator: `connections` with `streams` requests in flight on each.

    `grpc`: the body is one message, which gets its prefix of five bytes, and the headers of a call are added.
    `http1`: HTTP/1.1, where `streams` must be 1, as it would pipeline. Raises ValueError for what makes no sense.
    """

    request: Request
    connections: int = 8
    streams: int = 8
    grpc: bool = False
    http1: bool = False

    def __post_init__(self) -> None:
        if self.connections < 1 or self.streams < 1:
            raise ValueError("h2load needs a connection and a stream")
        if self.http1 and (self.grpc or self.streams > 1):
            raise ValueError("HTTP/1.1 has neither gRPC nor streams")
        if self._body() and self.request.method != "POST":
            raise ValueError(f"h2load sends a body with POST only, not with {self.request.method}")
        if not self._body() and self.request.method != "GET":
            raise ValueError(f"h2load sends GET, or POST with a body, not an empty {self.request.method}")

    @property
    def name(self) -> str:
        return "h2load"

    def version(self) -> str | None:
        return version_of(["h2load", "--version"], r"nghttp2/([\d.]\S*)")

    def command(self, target: Target, seconds: float) -> list[str]:
        """Raises BenchError if h2load is not installed."""
        words = [require("h2load", "nghttp2-client"), "-D", f"{math.ceil(seconds * 1000)}ms", "--warm-up-time", "0"]
        words += ["-t", str(min(target.threads, self.connections)), "-c", str(self.connections)]
        words += ["-m", str(self.streams)]
        if self.http1:
            words.append("--h1")
        for name, value in self._headers().items():
            words += ["-H", f"{name}: {value}"]
        if body := self._body():
            path = target.directory / "h2load.body"
            path.write_bytes(body)
            words += ["-d", str(path)]
        scheme = "http" if target.authority is None else "https"
        return [*words, f"{scheme}://{target.address}{self.request.path}"]

    def parse(self, output: str) -> Counted:
        """`raw["h2load"]` has what it printed: counts of requests, statuses and bytes, and its times in µs.

        `operations` are answers of 2xx and 3xx. What was in flight at the end is in no count.
        """
        finished, requests = _FINISHED.search(output), _REQUESTS.search(output)
        status, traffic, rates = _STATUS.search(output), _TRAFFIC.search(output), _rates(output)
        if finished is None or requests is None or status is None or traffic is None or rates is None:
            raise BenchError(f"h2load reported no result: {output.strip().splitlines()[-1:] or 'it printed nothing'}")
        counts = dict(zip(_REQUEST_KEYS, map(int, requests.groups()), strict=True))
        codes = dict(zip(("2xx", "3xx", "4xx", "5xx"), map(int, status.groups()), strict=True))
        sizes = dict(zip(("total", "headers", "data"), map(int, traffic.groups()), strict=True))
        operations = counts["succeeded"]
        duration = round(float(finished[1]) * _NS[finished[2]])
        found = {"4xx": codes["4xx"], "5xx": codes["5xx"], "errored": counts["errored"]}
        found["reset"] = counts["failed"] - sum(found.values())  # it includes the three above
        found |= {"timeout": counts["timeout"], "connections closed": self._closed(rates)}
        errors = {kind: count for kind, count in found.items() if count > 0}
        if operations <= 0 or duration <= 0:
            raise BenchError(f"h2load got no answer in {duration / 1e9:.1f} s (errors: {errors or 'none'})")
        raw = {"requests": counts, "status": codes, "bytes": sizes, "times_us": _times(output)}
        raw["protocol"] = _PROTOCOL.findall(output)
        return Counted(operations, duration, errors, sizes["total"], {"h2load": raw})

    def _closed(self, rates: tuple[float, float]) -> int:
        """How many connections' worth of time was lost, at least, if more than a tenth was."""
        whole, mean = rates
        lost = 1 - whole / (mean * self.connections) if mean else 0.0
        return max(1, int(lost * self.connections)) if lost > 0.1 else 0

    def _body(self) -> bytes:
        """As it is sent; gRPC's prefix is a byte for "not compressed" and the length (gRPC over HTTP/2)."""
        body = self.request.body
        return struct.pack(">BI", 0, len(body)) + body if self.grpc else body

    def _headers(self) -> dict[str, str]:
        headers = {name.lower(): value for name, value in self.request.headers.items()}
        return headers | ({"content-type": "application/grpc", "te": "trailers"} if self.grpc else {})


def _rates(output: str) -> tuple[float, float] | None:
    """Requests per second of the whole and, on average, of a connection while it was open."""
    whole, mean = _RATE.search(output), _MEAN_RATE.search(output)
    return None if whole is None or mean is None else (float(whole[1]), float(mean[1]))


def _times(output: str) -> dict[str, dict[str, float]]:
    """Least, greatest, mean and deviation in µs, by what was timed."""
    found: dict[str, dict[str, float]] = {}
    for what, *words in _TIMES.findall(output):
        values = [_TIME.fullmatch(word) for word in words[:4]]
        found[what] = {
            key: float(value[1]) * _NS[value[2]] / 1e3
            for key, value in zip(("min", "max", "mean", "sd"), values, strict=True)
            if value is not None
        }
    return found
