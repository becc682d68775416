"""HTTP check: a request is answered with one of the expected status codes, and a body that says the right thing."""

from __future__ import annotations

import contextlib

from lb.config.schema.file import HealthConfig
from lb.config.schema.pools.health import BodyMatchConfig, status_codes
from lb.health.check import CheckFailed, Means, explain
from lb.health.checks.plain import inquire
from lb.health.checks.tls import CheckTls
from lb.health.checks.wire import connected
from lb.http.http1_reader import AnswerReader
from lb.http.regex import Regex

_HEAD = 65_536  # bytes of an answer's head, as towards the workers (lb/upstream/connections/http1.pyx)
_READ = 65_536
_SETTINGS = b"\x04\x00\x00\x00\x00\x00"  # type, flags and stream of the frame that begins HTTP/2 (RFC 9113 section 3.4)
_BODILESS = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))  # methods that need not say that there is no body


class HttpCheck:
    """Passes on an answer whose status is in `status` and whose body has what `body` says.

    Redirects are answers. The body is only read where it matters, as it is on the wire, and only up to a limit. What no
    worker would take for an answer is none here either.
    """

    def __init__(self, config: HealthConfig, tls: CheckTls | None = None, means: Means | None = None) -> None:
        self._tls = tls
        self._poller = means.poller if means is not None else None
        self._method = config.method
        self._status = frozenset(code for entry in config.status for code in status_codes(entry))
        self._host = config.host
        self._body = BodyMatch(config.body) if config.body is not None else None
        self._http2 = config.protocol == "http2"
        own = {"User-Agent": "tidegate-health", "Accept": "*/*"}
        if config.method not in _BODILESS:
            own["Content-Length"] = "0"
        named = {name.lower() for name in config.headers}
        self._fields = {**{name: value for name, value in own.items() if name.lower() not in named}, **config.headers}
        # The path is sent as it was configured, not normalised; a fragment is no part of it (RFC 9110 section 7.1).
        self._path = config.path.partition("#")[0]
        self._composed: dict[str, bytes] = {}

    def _authority(self, address: str) -> str:
        return self._host or ("localhost" if address.startswith("unix:") else address)

    async def run(self, address: str) -> None:
        try:
            # A connection of its own, so that each check also proves that the endpoint still accepts.
            await (self._run_http2(address) if self._http2 else self._run_http1(address))
        except OSError as e:
            raise CheckFailed(explain(e)) from e

    async def _run_http1(self, address: str) -> None:
        request = self._request(address)
        answer = Answer(self._method == "HEAD", self._status, self._body)
        if self._tls is None:
            await inquire(address, request, answer.receive, self._poller)
        else:
            async with connected(address, self._tls, ("http/1.1",)) as wire:
                # It need not read: it may have answered and closed by now.
                with contextlib.suppress(ConnectionError):
                    await wire.send(request)
                while not answer.receive(await wire.receive(_READ)):
                    pass
        answer.judge()

    def _request(self, address: str) -> bytes:
        """What is sent to `address` over HTTP/1.1, composed once."""
        found = self._composed.get(address)
        if found is None:
            line = f"{self._method} {self._path} HTTP/1.1\r\nHost: {self._authority(address)}\r\n"
            fields = "".join(f"{name}: {value}\r\n" for name, value in self._fields.items())
            found = f"{line}{fields}Connection: close\r\n\r\n".encode()
            self._composed[address] = found
        return found

    async def _run_http2(self, address: str) -> None:
        from lb.health.checks.http2 import ask  # the library h2, which other daemons need not load

        head = [
            (":method", self._method),
            (":scheme", "http" if self._tls is None else "https"),
            (":path", self._path),
            (":authority", self._authority(address)),
            *((name.lower(), value) for name, value in self._fields.items()),
        ]
        limit = self._body.limit if self._body is not None else 0
        judge(*await ask(address, self._tls, head, self._enough, limit), self._status, self._body)

    def _enough(self, status: int, body: bytes) -> bool:
        return self._body is None or status not in self._status or self._body.needs_no_more(body)


class Answer:
    """What comes over a connection, as an answer that is to have one of the codes `status`, and a body by `body`. A
    method raises CheckFailed."""

    def __init__(self, headless: bool, status: frozenset[int], body: BodyMatch | None) -> None:
        self._reader = AnswerReader(headless, _HEAD)
        self._status = status
        self._wanted = body
        self._body = bytearray()
        self._came = False

    def receive(self, data: bytes) -> bool:
        """The next bytes that came, none at the end; whether that is enough to judge by."""
        if not data and not self._came:
            raise CheckFailed("connection closed without an answer")
        self._came = True
        try:
            if data:
                piece = self._reader.feed(data)
            else:
                self._reader.end()
                return True
        except ValueError as e:
            hint = "; the server speaks HTTP/2, write protocol: http2" if data[3:9] == _SETTINGS else ""
            raise CheckFailed(f"no valid HTTP answer: {e}{hint}") from None
        status = self._reader.status
        if not status:
            return False
        if self._wanted is None or status not in self._status or self._reader.complete:
            self._body += piece
            return True
        self._body += piece
        return self._wanted.needs_no_more(self._body)

    def judge(self) -> None:
        judge(self._reader.status, self._body, self._status, self._wanted)


def judge(status: int, body: bytes | bytearray, good: frozenset[int], wanted: BodyMatch | None) -> None:
    """Raises CheckFailed unless `status` is `good` and what is `wanted` is in the body."""
    if status not in good:
        raise CheckFailed(f"status {status}")
    if wanted is not None and not wanted.found_in(body):
        raise CheckFailed(f"status {status}, but {wanted} was not found in the body")


class BodyMatch:
    """What a body has to contain, looked for in its first bytes."""

    def __init__(self, config: BodyMatchConfig) -> None:
        self.limit = config.limit
        self._text = config.contains.encode() if config.contains is not None else b""
        self._regex = Regex(config.regex.encode()) if config.regex is not None else None
        self._name = repr(config.contains if config.contains is not None else config.regex)

    def __str__(self) -> str:
        return self._name

    def needs_no_more(self, came: bytes | bytearray) -> bool:
        """Whether it is known by now: plain text is there, or the limit is reached."""
        if len(came) >= self.limit:
            return True
        return self._regex is None and self._text in came

    def found_in(self, came: bytes | bytearray) -> bool:
        """Whether it is in the first bytes of a body, up to the limit."""
        seen = bytes(came[: self.limit])
        return self._text in seen if self._regex is None else self._regex.matches(seen)
