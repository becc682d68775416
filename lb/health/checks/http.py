"""HTTP check: a request is answered with one of the expected status codes, and a body that says the right thing."""

from __future__ import annotations

import contextlib

from lb.config.schema.file import HealthConfig
from lb.config.schema.pools.health import BodyMatchConfig, status_codes
from lb.health.check import CheckFailed, explain
from lb.health.checks.tls import CheckTls
from lb.health.checks.wire import Wire, connected
from lb.http.http1_reader import AnswerReader
from lb.http.regex import Regex

_HEAD = 65_536  # bytes of an answer's head, as towards the workers (lb/upstream/connections/http1.pyx)
_READ = 65_536
_BODILESS = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))  # methods that need not say that there is no body


class HttpCheck:
    """Passes on an HTTP/1.1 answer whose status is in `status` and whose body has what `body` says.

    Redirects are answers. The body is only read where it matters, as it is on the wire, and only up to a limit. What no
    worker would take for an answer is none here either.
    """

    def __init__(self, config: HealthConfig, tls: CheckTls | None = None) -> None:
        self._tls = tls
        self._method = config.method
        self._status = frozenset(code for entry in config.status for code in status_codes(entry))
        self._host = config.host
        self._body = BodyMatch(config.body) if config.body is not None else None
        own = {"User-Agent": "tidegate-health", "Accept": "*/*"}
        if config.method not in _BODILESS:
            own["Content-Length"] = "0"
        named = {name.lower() for name in config.headers}
        fields = {**{name: value for name, value in own.items() if name.lower() not in named}, **config.headers}
        # The path is sent as it was configured, not normalised; a fragment is no part of it (RFC 9110 section 7.1).
        self._line = f"{config.method} {config.path.partition('#')[0]} HTTP/1.1\r\n"
        self._fields = "".join(f"{name}: {value}\r\n" for name, value in fields.items())

    async def run(self, address: str) -> None:
        host = self._host or ("localhost" if address.startswith("unix:") else address)
        request = f"{self._line}Host: {host}\r\n{self._fields}Connection: close\r\n\r\n".encode()
        try:
            # A connection of its own, so that each check also proves that the endpoint still accepts.
            async with connected(address, self._tls, ("http/1.1",)) as wire:
                # It need not read: it may have answered and closed by now.
                with contextlib.suppress(ConnectionError):
                    await wire.send(request)
                answer = Answer(wire, self._method == "HEAD")
                status = await answer.begin()
                found = status not in self._status or self._body is None or await self._body.found_in(answer)
        except OSError as e:
            raise CheckFailed(explain(e)) from e
        if status not in self._status:
            raise CheckFailed(f"status {status}")
        if not found:
            raise CheckFailed(f"status {status}, but {self._body} was not found in the body")


class Answer:
    """What comes over a wire, as an answer. Raises OSError and CheckFailed."""

    def __init__(self, wire: Wire, headless: bool) -> None:
        self._wire = wire
        self._reader = AnswerReader(headless, _HEAD)
        self._came = False
        self._body = b""

    async def begin(self) -> int:
        """The status."""
        while not self._reader.status:
            await self._receive()
        return self._reader.status

    async def read(self, size: int) -> bytes:
        """At most `size` bytes of the body; none at its end."""
        while not self._body and not self._reader.complete:
            await self._receive()
        piece, self._body = self._body[:size], self._body[size:]
        return piece

    async def _receive(self) -> None:
        data = await self._wire.receive(_READ)
        if not data and not self._came:
            raise CheckFailed("connection closed without an answer")
        self._came = True
        try:
            if data:
                self._body += self._reader.feed(data)
            else:
                self._reader.end()
        except ValueError as e:
            raise CheckFailed(f"no valid HTTP answer: {e}") from None


class BodyMatch:
    """What a body has to contain, looked for in its first bytes."""

    def __init__(self, config: BodyMatchConfig) -> None:
        self._limit = config.limit
        self._text = config.contains.encode() if config.contains is not None else b""
        self._regex = Regex(config.regex.encode()) if config.regex is not None else None
        self._name = repr(config.contains if config.contains is not None else config.regex)

    def __str__(self) -> str:
        return self._name

    async def found_in(self, body: Answer) -> bool:
        """Reads no further than it has to where plain text is looked for, and never past the limit."""
        came = bytearray()
        while len(came) < self._limit:
            piece = await body.read(self._limit - len(came))
            if not piece:
                break
            came += piece
            if self._regex is None and self._text in came:
                return True
        return self._text in came if self._regex is None else self._regex.matches(bytes(came))
