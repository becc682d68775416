"""Recorded requests, sent to a listener so that their answers are in the cache.

A line of the file is a JSON object:

    {"path": "/v2/models/digits/infer", "body": {"inputs": [...]}}
    {"method": "POST", "path": "/…", "headers": {"X-Tenant": "a"}, "body": "text as it is", "body_base64": "…"}

`method` is POST by default, or GET without a body. A body that is no text is sent as JSON; `body_base64` is for binary
tensors. Empty lines are passed by.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

import aiohttp
from msgspec import Struct, field

from lb.cli.admin import AdminClient, AdminError
from lb.config.schema.base import listed

_TIMEOUT = 300.0  # seconds for an answer: models may have to be loaded
_SHOWN = 10  # problems that are told one by one
_PROGRESS = 1.0  # seconds between two lines of progress


class Request(Struct, frozen=True):
    """A request of the file, by the number of its line."""

    line: int
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Target(Struct, frozen=True):
    """Where requests go: `base` is scheme and authority of a URL; `socket` the path of a Unix socket, or None."""

    base: str
    socket: str | None = None


class Outcome(Struct):
    """What became of the requests: by what their `Cache-Status` says, and the first that failed."""

    requests: int = 0
    failed: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    problems: list[tuple[int, str]] = field(default_factory=list)

    def fail(self, line: int, problem: str) -> None:
        self.failed += 1
        if len(self.problems) < _SHOWN:
            self.problems.append((line, problem))

    def __str__(self) -> str:
        return ", ".join(f"{n} {kind}" for kind, n in [*sorted(self.kinds.items()), ("failed", self.failed)])


def target_of(wanted: str | None, client: AdminClient) -> Target:
    """The listener of that name, or the URL; by default the only one that speaks HTTP. Raises AdminError."""
    if wanted is not None and "://" in wanted:
        parts = urlsplit(wanted)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            raise AdminError(f"--listener {wanted}: write http://HOST:PORT or https://HOST:PORT")
        return Target(f"{parts.scheme}://{parts.netloc}")
    rows = {row["name"]: row for row in client.status()["listeners"] if row["protocol"] in ("http", "https")}
    if wanted is None and len(rows) != 1:
        raise AdminError(f"--listener: which one of {listed(rows) if rows else 'no HTTP listeners'}?")
    name = next(iter(rows)) if wanted is None else wanted
    if name not in rows:
        raise AdminError(f"there is no HTTP listener {name!r}; there is {listed(rows)}")
    if rows[name]["protocol"] == "https":
        raise AdminError(f"listener {name} speaks TLS: write --listener https://HOST:PORT, as its certificate has it")
    address: str = rows[name]["address"]
    if address.startswith("unix:"):
        return Target("http://localhost", address.removeprefix("unix:"))
    host, _, port = address.rpartition(":")
    return Target(f"http://{_ANY.get(host, host)}:{port}")


_ANY = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "*": "127.0.0.1", "": "127.0.0.1"}  # noqa: S104


@contextlib.contextmanager
def recorded(file: Path) -> Iterator[Iterator[Request]]:
    """The requests of a file, read as they are asked for; `-` is standard input. Raises AdminError, for a line that is
    no request when it is asked for."""
    if str(file) == "-":
        yield _requests(sys.stdin, "standard input")
        return
    try:
        lines = open(file, encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise AdminError(f"{file}: cannot be read: {error.strerror}") from error
    with lines:
        yield _requests(lines, str(file))


def _requests(lines: TextIO, name: str) -> Iterator[Request]:
    number = 0
    try:
        for number, text in enumerate(lines, 1):
            if text.strip():
                yield _request(number, json.loads(text))
    except (ValueError, TypeError) as error:  # of JSON, base64 and UTF-8 too
        raise AdminError(f"{name}:{number}: no request: {error}") from error


def _request(line: int, found: Any) -> Request:
    """Raises ValueError."""
    if not isinstance(found, dict):
        raise ValueError("a line is a JSON object with path and body")
    unknown = found.keys() - {"method", "path", "headers", "body", "body_base64"}
    if unknown:
        raise ValueError(f"unknown key {min(unknown)!r}; there are method, path, headers, body and body_base64")
    path, headers, body = found.get("path"), found.get("headers", {}), found.get("body")
    if not isinstance(path, str) or not path.startswith("/"):
        raise ValueError("path: is text that begins with /")
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise ValueError("headers: is an object of texts")
    if "body_base64" in found:
        if body is not None:
            raise ValueError("body and body_base64: one of them")
        try:
            sent = base64.b64decode(found["body_base64"], validate=True)
        except binascii.Error as error:
            raise ValueError(f"body_base64: {error}") from error
    else:
        sent = b"" if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        if body is not None and not any(name.lower() == "content-type" for name in headers):
            headers = {**headers, "Content-Type": "application/json"}
    method = found.get("method", "POST" if sent else "GET")
    if not isinstance(method, str) or not method.isalpha():
        raise ValueError("method: is a word such as POST")
    return Request(line, method, path, headers, sent)


def send(requests: Iterator[Request], target: Target, concurrency: int) -> Outcome:
    """Sends them, so many at once at most, and says on a terminal how far it is. Raises AdminError when a line is no
    request; what was sent before stays sent."""
    return asyncio.run(_send(requests, target, concurrency))


async def _send(requests: Iterator[Request], target: Target, concurrency: int) -> Outcome:
    outcome = Outcome()
    connector = (
        aiohttp.UnixConnector(target.socket, limit=concurrency)
        if target.socket is not None
        else aiohttp.TCPConnector(limit=concurrency)
    )
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def work() -> None:
            for request in requests:  # shared by all: each takes the next
                await _one(session, target, request, outcome)

        workers = [asyncio.create_task(work()) for _ in range(concurrency)]
        progress = asyncio.create_task(_tell(outcome)) if sys.stderr.isatty() else None
        try:
            await asyncio.gather(*workers)
        finally:
            for task in (*workers, progress):
                if task is not None:
                    task.cancel()
            await asyncio.gather(*workers, *([progress] if progress else []), return_exceptions=True)
    return outcome


async def _one(session: aiohttp.ClientSession, target: Target, request: Request, outcome: Outcome) -> None:
    from yarl import URL

    url = URL(target.base + request.path, encoded=True)  # as it was recorded
    outcome.requests += 1
    try:
        async with session.request(
            request.method, url, data=request.body or None, headers=request.headers, allow_redirects=False
        ) as answer:
            await answer.read()
            if answer.status >= 400:
                outcome.fail(request.line, f"answered with {answer.status}")
            else:
                outcome.kinds[_kind(answer.headers.get("Cache-Status", ""))] += 1
    except TimeoutError:
        outcome.fail(request.line, f"no answer within {_TIMEOUT:g} s")
    except aiohttp.ClientError as error:
        outcome.fail(request.line, str(error) or type(error).__name__)


def _kind(status: str) -> str:
    """What a `Cache-Status` (RFC 9211) says, in a word: of the cache that is nearest to us, the last of the list."""
    words = {word.strip() for word in status.rpartition(",")[2].split(";")}
    if "hit" in words:
        return "hits"
    if "stored" in words:
        return "stored"
    if "collapsed" in words:
        return "collapsed"
    return "not kept" if status else "not cached"


async def _tell(outcome: Outcome) -> None:
    begun = time.monotonic()
    while True:
        await asyncio.sleep(_PROGRESS)
        passed = time.monotonic() - begun
        print(f"{outcome.requests} requests in {passed:.0f} s: {outcome}", file=sys.stderr)
