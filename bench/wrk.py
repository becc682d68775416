"""The load generator wrk: HTTP/1.1 and HTTPS on keep-alive or new connections, one request or many.

wrk is a closed loop (a connection sends its next request when the answer is there), so it finds the highest rate, and
its latencies are those at that rate; a stall delays requests that it then does not count. They compare proxies under
the same load and are no promise for a fixed rate.

It does not verify certificates, and on a new connection it resumes the TLS session of the one before: nginx's
`$ssl_session_reused` says so of all but the first, with tickets and without. New connections with TLS are therefore
`bench.handshakes`' job and refused here.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from bench.errors import BenchError
from bench.generator import Counted, Target
from bench.load.request import Request
from bench.marked import MARK, result_line
from bench.peers.base import version_of
from bench.processes import require

SEQUENCE = 1 << 16  # draws of a popularity that are repeated from then on
_ZIPF = re.compile(r"zipf:(\d+(?:\.\d+)?)")

# Written by wrk's own `done` hook, because its text rounds to three digits. Times are in µs.
_DONE = f"""
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{MARK}{{"requests":%.0f,"duration_us":%.0f,"bytes":%.0f,"connect":%.0f,"read":%.0f,"write":%.0f,"status":%.0f,'
    .. '"timeout":%.0f,"p50":%.0f,"p90":%.0f,"p99":%.0f,"p999":%.0f,"max":%.0f,"mean":%.1f}}\\n',
    summary.requests, summary.duration, summary.bytes, e.connect, e.read, e.write, e.status, e.timeout,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency:percentile(99.9), latency.max,
    latency.mean))
end
"""

# Requests are made once; each thread goes through the same sequence from a place of its own.
_MANY = """
local threads, ready, place = 0, {}, 0
setup = function(thread)
  thread:set("number", threads)
  threads = threads + 1
end
init = function()
  for i, r in ipairs(requests) do
    local headers = {}
    for name, value in pairs(r[3]) do headers[name] = value end
    ready[i] = wrk.format(r[1], r[2], headers, r[4])
  end
  place = (number * 7919) % #sequence
end
request = function()
  place = place % #sequence + 1
  return ready[sequence[place]]
end
"""


@dataclass(frozen=True)
class Wrk:
    """wrk as a Generator.

    Several requests are sent round robin (`popularity` ""), or drawn at random with a Zipf distribution of exponent s,
    the first most often ("zipf:0.99"); the draws are the same in every run. `close` = a new connection for each
    request, as long as the other side heeds `Connection: close`. Raises ValueError for what makes no sense.
    """

    requests: Request | Sequence[Request]
    connections: int = 32
    close: bool = False
    popularity: str = ""

    def __post_init__(self) -> None:
        if not self.all_requests():
            raise ValueError("wrk needs a request")
        if self.popularity and not _ZIPF.fullmatch(self.popularity):
            raise ValueError(f"a popularity is '' or 'zipf:EXPONENT', not {self.popularity!r}")
        if self.connections < 1:
            raise ValueError("wrk needs a connection")

    @property
    def name(self) -> str:
        return "wrk"

    def all_requests(self) -> tuple[Request, ...]:
        return (self.requests,) if isinstance(self.requests, Request) else tuple(self.requests)

    def version(self) -> str | None:
        return version_of(["wrk", "-v"], r"wrk \S*?([\d.][\w.-]*)")

    def script(self) -> str:
        """The Lua script. One request is built once, by wrk itself, since then no `request` function is defined."""
        requests = self.all_requests()
        if len(requests) == 1:
            request = requests[0]
            lines = [f"wrk.method = {quote(request.method.encode())}"]
            lines += [f"wrk.headers[{_text(k)}] = {_text(v)}" for k, v in self._headers(request).items()]
            lines += [f"wrk.body = {quote(request.body)}"] if request.body else []
            return "\n".join(lines) + "\n" + _DONE
        table = "".join(self._entry(request) for request in requests)
        sequence = ",".join(str(i + 1) for i in self.sequence())
        return f"requests = {{\n{table}}}\nsequence = {{{sequence}}}\n{_MANY}{_DONE}"

    def sequence(self) -> list[int]:
        """The order in which the requests are sent, over and over: indices from 0."""
        count = len(self.all_requests())
        found = _ZIPF.fullmatch(self.popularity)
        if found is None:
            return list(range(count))
        weights = list(accumulate((rank + 1) ** -float(found[1]) for rank in range(count)))
        return random.Random(1).choices(range(count), cum_weights=weights, k=SEQUENCE)

    def command(self, target: Target, seconds: float) -> list[str]:
        """wrk takes whole seconds only: a part of one counts as one. Raises BenchError: not installed, or see above."""
        if self.close and target.authority is not None:
            raise BenchError("wrk resumes TLS sessions on new connections; use bench.handshakes for full handshakes")
        path = target.directory / "wrk.lua"
        path.write_text(self.script())
        threads = min(target.threads, self.connections)  # it refuses a thread without a connection
        options = ["-t", str(threads), "-c", str(self.connections), "-d", f"{math.ceil(seconds)}s", "-s", str(path)]
        scheme = "http" if target.authority is None else "https"
        return [require("wrk", "wrk"), *options, f"{scheme}://{target.address}{self.all_requests()[0].path}"]

    def parse(self, output: str) -> Counted:
        """`raw["wrk"]` has all of its numbers: times in µs, failures by kind.

        `operations` are answers with a status below 400; a request that failed otherwise was never counted as one.
        """
        found = result_line(self.name, output)
        try:
            errors = {kind: int(found[kind]) for kind in ("connect", "read", "write", "status", "timeout")}
            operations = int(found["requests"]) - errors["status"]
            duration_us, received = int(found["duration_us"]), int(found["bytes"])
            times = [float(found[key]) for key in ("p50", "p90", "p99", "p999", "max", "mean")]
        except (ValueError, KeyError, TypeError) as error:
            raise BenchError(f"wrk's result cannot be read: {found!r} ({error!r})") from error
        errors = {kind: count for kind, count in errors.items() if count}
        if operations <= 0 or duration_us <= 0 or min(times) < 0:
            raise BenchError(f"wrk got no answer in {duration_us / 1e6:.1f} s (errors: {errors or 'none'})")
        return Counted(operations, duration_us * 1000, errors, received, {"wrk": found})

    def _headers(self, request: Request) -> dict[str, str]:
        return {**request.headers, "Connection": "close"} if self.close else dict(request.headers)

    def _entry(self, request: Request) -> str:
        headers = ",".join(f"[{_text(k)}]={_text(v)}" for k, v in self._headers(request).items())
        body = quote(request.body) if request.body else "nil"
        return f"{{{_text(request.method)},{_text(request.path)},{{{headers}}},{body}}},\n"


def quote(data: bytes) -> str:
    """`data` as a Lua string literal; what is not plain ASCII becomes a decimal escape of three digits."""
    return '"' + "".join(_LITERAL[byte] for byte in data) + '"'


def _text(text: str) -> str:
    return quote(text.encode())


_PLAIN = re.compile(r"[ !#-\[\]-~]")
_LITERAL = [chr(b) if _PLAIN.fullmatch(chr(b)) else f"\\{b:03d}" for b in range(256)]
