"""An HTTP endpoint that writes down each request before it works on it, and again when it has answered: what it was
asked is known after a kill -9, too.

    python journal_endpoint.py PORT JOURNAL

The path says what to do: /work/KIND/NAME. The answer names the path and has a digest of the body.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

WORK = 0.02  # seconds of work
LONG = 0.3  # of what takes long enough to be cancelled


@dataclass(frozen=True)
class Run:
    """A request for a job: when it began and was answered, seconds of the machine's monotonic clock; `ended` is None
    and `status` 0 where it was not."""

    key: str
    began: float
    ended: float | None = None
    status: int = 0


def answer_to(target: str, body: bytes) -> bytes:
    """What the endpoint answers."""
    return f"{hashlib.sha256(body).hexdigest()} {target}".encode()


def runs(journal: Path) -> dict[str, list[Run]]:
    """All requests by path, in the order of their beginnings."""
    begun: dict[str, tuple[str, str, float]] = {}
    ended: dict[str, tuple[float, int]] = {}
    for line in journal.read_text().splitlines():
        match line.split(" "):
            case ["begin", number, target, key, when]:
                begun[number] = target, key, float(when)
            case ["end", number, when, status]:
                ended[number] = float(when), int(status)
    found: dict[str, list[Run]] = {}
    for number, (target, key, when) in begun.items():
        found.setdefault(target, []).append(Run(key, when, *ended.get(number, (None, 0))))
    return found


def _asked_before(journal: Path) -> Counter[str]:
    def targets() -> Iterator[str]:
        for line in journal.read_text().splitlines():
            if line.startswith("begin "):
                yield line.split(" ")[2]

    return Counter(targets()) if journal.exists() else Counter()


class Endpoint:
    """Answers, and writes to the journal."""

    def __init__(self, journal: Path) -> None:
        self._asked = _asked_before(journal)
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._number = 0

    async def answer(self, request: web.Request) -> web.Response:
        target, kind = request.raw_path, request.path.split("/")[2]
        self._number += 1
        number = f"{os.getpid()}-{self._number}"
        self._write(f"begin {number} {target} {request.headers['Idempotency-Key']} {time.monotonic():.6f}")
        self._asked[target] += 1
        body = await request.read()
        await asyncio.sleep(LONG if kind == "cancelled" else WORK)
        status = 200
        if kind == "refused":
            status = 422
        elif kind == "dead" or (kind == "repeated" and self._asked[target] == 1):
            status = 500
        self._write(f"end {number} {time.monotonic():.6f} {status}")
        return web.Response(status=status, body=answer_to(target, body))

    def _write(self, line: str) -> None:
        os.write(self._journal, f"{line}\n".encode())


def main() -> None:
    """The command line."""
    port, journal = sys.argv[1:]
    app = web.Application(client_max_size=1 << 20)
    app.router.add_post("/work/{kind}/{name}", Endpoint(Path(journal)).answer)
    web.run_app(app, host="127.0.0.1", port=int(port), print=None, access_log=None, reuse_address=True)


if __name__ == "__main__":
    main()
