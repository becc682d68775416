"""The load generator wrk: its script, its command line and what it reports.

wrk is a closed loop (a connection sends its next request when the answer is there), so it finds the highest rate, and
its latencies are those at that rate; a stall delays requests that it then does not count. They compare proxies under
the same load and are no promise for a fixed rate.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.errors import BenchError

_MARK = "bench-result "

# Written by wrk's own `done` hook, because its text rounds to three digits. Times are in µs. MARK stands for _MARK.
_DONE = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'MARK{"requests":%.0f,"duration_us":%.0f,"bytes":%.0f,"connect":%.0f,"read":%.0f,"write":%.0f,"status":%.0f,'
    .. '"timeout":%.0f,"p50":%.0f,"p90":%.0f,"p99":%.0f,"p999":%.0f,"max":%.0f,"mean":%.1f}\\n',
    summary.requests, summary.duration, summary.bytes, e.connect, e.read, e.write, e.status, e.timeout,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency:percentile(99.9), latency.max,
    latency.mean))
end
""".replace("MARK", _MARK)


@dataclass(frozen=True)
class Load:
    """One request that is repeated on `connections` keep-alive connections."""

    path: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    connections: int = 32


@dataclass(frozen=True)
class Result:
    """What wrk counted: times in µs, `errors` by kind (only those that happened)."""

    requests: int
    duration_us: int
    bytes: int
    p50: int
    p90: int
    p99: int
    p999: int
    max: int
    mean: float
    errors: dict[str, int]

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests * 1e6 / self.duration_us


def quote(data: bytes) -> str:
    """`data` as a Lua string literal; what is not plain ASCII becomes a decimal escape of three digits."""
    plain = re.compile(rb"[ !#-\[\]-~]")
    return '"' + "".join(chr(b) if plain.fullmatch(bytes([b])) else f"\\{b:03d}" for b in data) + '"'


def script(load: Load) -> str:
    """The Lua script for a load: the request is built once, since it defines no `request` function."""
    lines = [f"wrk.method = {quote(load.method.encode())}"]
    lines += [f"wrk.headers[{quote(k.encode())}] = {quote(v.encode())}" for k, v in load.headers.items()]
    if load.body:
        lines.append(f"wrk.body = {quote(load.body)}")
    return "\n".join(lines) + "\n" + _DONE


def command(load: Load, script_path: Path, address: str, threads: int, seconds: int) -> list[str]:
    """wrk's command line; it takes whole seconds only."""
    options = ["-t", str(threads), "-c", str(load.connections), "-d", f"{seconds}s", "-s", str(script_path)]
    return ["wrk", *options, f"http://{address}{load.path}"]


def parse(output: str) -> Result:
    """Raises BenchError if the script's line is missing or malformed, or wrk counted no request."""
    lines = [line for line in output.splitlines() if line.startswith(_MARK)]
    if len(lines) != 1:
        raise BenchError(f"wrk reported no result: {output.strip().splitlines()[-1:] or 'it printed nothing'}")
    try:
        found = json.loads(lines[0].removeprefix(_MARK))
        errors = {kind: found.pop(kind) for kind in ("connect", "read", "write", "status", "timeout")}
        result = Result(**found, errors={kind: count for kind, count in errors.items() if count})
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(f"wrk's result cannot be read: {lines[0]!r} ({error})") from error
    if result.requests <= 0 or result.duration_us <= 0:
        raise BenchError(f"wrk got no answer in {result.duration_us / 1e6:.1f} s (errors: {result.errors or 'none'})")
    return result
