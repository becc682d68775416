"""Clients that keep a daemon busy and count every request that failed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import ssl
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon import DIGITS


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        length = self.headers.get("inference-header-content-length")
        return json.loads(self.body if length is None else self.body[: int(length)])

    @property
    def binary(self) -> bytes:
        return self.body[int(self.headers["inference-header-content-length"]) :]

    @property
    def cache(self) -> str | None:
        said = self.headers.get("cache-status")
        return said if said is None else "; ".join(p for p in said.split("; ") if not p.startswith(("ttl=", "key=")))


class Client:
    """One connection, which is made on first use and never made again."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.port = port
        self.tls = tls
        self.local_port = 0
        self.answers = 0

    async def connect(self) -> Client:
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", self.port, limit=1 << 24, ssl=self.tls, server_hostname="example.org" if self.tls else None
        )
        self.local_port = self.writer.get_extra_info("sockname")[1]
        return self

    async def ask(self, request: bytes) -> Answer:
        if not self.local_port:
            await self.connect()
        self.writer.write(request)
        status, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        if headers.get("transfer-encoding") == "chunked":
            body = await self._chunks()
        else:
            body = await self.reader.readexactly(int(headers["content-length"]))
        self.answers += 1
        return Answer(int(status.split()[1]), headers, body)

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self.reader.readline(), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)
        return body

    def close(self) -> None:
        if self.local_port:
            self.writer.close()


def request(method: str, path: str, body: bytes | Any = b"", **headers: str) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Host": "test", "Content-Length": str(len(data))}
    fields.update({name.replace("_", "-"): value for name, value in headers.items()})
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + data


async def ask_once(port: int, message: bytes) -> Answer:
    client = Client(port)
    try:
        return await asyncio.wait_for(client.ask(message), 60)
    finally:
        client.close()


DIGITS_INFER = "/v2/models/digits/infer"


def digit_samples() -> list[dict[str, Any]]:
    samples: list[dict[str, Any]] = json.loads((DIGITS / "samples.json").read_text())
    return samples


def digit_request(image: list[float]) -> bytes:
    inputs = [{"name": "image", "datatype": "FP32", "shape": [1, 64], "data": image}]
    return request("POST", DIGITS_INFER, {"inputs": inputs})


@dataclass
class Load:
    """What the clients of `load` saw. A failure is an answer other than 200, a wrong one, or none."""

    clients: list[Client]
    failures: list[tuple[Client, str]] = field(default_factory=list)
    seen: Counter[bytes] = field(default_factory=Counter)

    @property
    def answers(self) -> int:
        return sum(client.answers for client in self.clients)

    @property
    def reasons(self) -> list[str]:
        return [reason for _, reason in self.failures]

    async def until(self, more: int) -> None:
        """Waits for so many more answers."""
        target = self.answers + more
        async with asyncio.timeout(60):
            while self.answers < target:
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def load(
    port: int, messages: list[bytes], clients: int = 16, bodies: bool = False, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Load]:
    """`clients` connections, each with one of `messages` under way at any time. A client that fails once is out.

    `bodies` counts the answers by their bodies. At the end every client finishes what it is doing.
    """
    running = Load([Client(port, tls) for _ in range(clients)])
    stop = asyncio.Event()

    async def work(client: Client, turn: int) -> None:
        while not stop.is_set():
            turn += 1
            try:
                answer = await asyncio.wait_for(client.ask(messages[turn % len(messages)]), 60)
            except (OSError, EOFError, TimeoutError) as error:
                running.failures.append((client, repr(error)))
                return
            if answer.status != 200:
                running.failures.append((client, f"{answer.status} {answer.body[:200]!r}"))
            if bodies:
                running.seen[answer.body] += 1

    tasks = [asyncio.create_task(work(client, i * 7)) for i, client in enumerate(running.clients)]
    try:
        yield running
    finally:
        stop.set()
        await asyncio.gather(*tasks)
        for client in running.clients:
            client.close()


_WRK_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local bodies = {%s}
local turn = 0
request = function()
  turn = turn + 1
  return wrk.format(nil, nil, nil, bodies[turn %% #bodies + 1])
end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("outcome %%d %%d %%d %%d %%d %%d\\n", summary.requests, e.connect, e.read, e.write, e.status,
    e.timeout))
end
"""


class Wrk:
    """wrk on a path with JSON bodies; `finish` gives (requests, failures by kind)."""

    def __init__(self, folder: Path, port: int, path: str, bodies: list[Any], seconds: int, clients: int = 32) -> None:
        script, url = folder / "load.lua", f"http://127.0.0.1:{port}{path}"
        script.write_text(_WRK_SCRIPT % ", ".join(f"[==[{json.dumps(body)}]==]" for body in bodies))
        self.process = subprocess.Popen(
            ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "60s", "-s", str(script), url],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self) -> tuple[int, dict[str, int]]:
        output, _ = self.process.communicate(timeout=120)
        found = re.search(r"^outcome ((?:\d+ ?)+)$", output, re.MULTILINE)
        assert found, output
        requests, *errors = map(int, found[1].split())
        names = ("connect", "read", "write", "status", "timeout")
        return requests, {name: n for name, n in zip(names, errors, strict=True) if n}

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def wrk(*arguments: Any, **options: Any) -> Iterator[Wrk]:
    running = Wrk(*arguments, **options)
    try:
        yield running
    finally:
        running.kill()


HAVE_WRK = shutil.which("wrk") is not None
