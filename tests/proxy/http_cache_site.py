"""What the tests of HTTP caching share: an endpoint that answers as it is told, and a gate that keeps its answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from datapath import Gate, Site

from lb.config.plan.routes import HttpCachePlan

MIB = 1 << 20
Fields = list[tuple[str, str]]


@dataclass
class Asked:
    """A request as the endpoint got it."""

    method: str
    target: str
    fields: Fields
    body: bytes = b""

    def get(self, name: str) -> str | None:
        values = [value for key, value in self.fields if key.lower() == name.lower()]
        return ", ".join(values) if values else None


@dataclass
class Reply:
    """What the endpoint answers. `pieces`: the body in chunks; `gate`: it waits for that behind the head; `cut`: it
    closes behind what it has of the body."""

    status: int = 200
    fields: Fields = field(default_factory=list)
    body: bytes = b""
    gate: asyncio.Event | None = None
    before: asyncio.Event | None = None
    chunked: bool = False
    cut: int | None = None
    silent: bool = False  # it closes without an answer


@dataclass
class Got:
    """An answer as the client got it."""

    status: int
    fields: Fields
    body: bytes

    def get(self, name: str) -> str | None:
        values = [value for key, value in self.fields if key.lower() == name.lower()]
        return ", ".join(values) if values else None

    @property
    def cache(self) -> str:
        """What our own Cache-Status says behind the name."""
        said = [value for key, value in self.fields if key.lower() == "cache-status" and value.startswith("tidegate")]
        assert len(said) == 1, self.fields
        return said[0].removeprefix("tidegate; ")


class Origin:
    """An HTTP/1.1 server that answers each request by `behave`."""

    def __init__(self, behave: Callable[[Asked], Awaitable[Reply] | Reply]) -> None:
        self.behave = behave
        self.asked: list[Asked] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head[:-4].split("\r\n")
                method, target, _ = first.split(" ")
                asked = Asked(method, target, [(n, v) for n, _, v in (line.partition(": ") for line in lines)])
                length = asked.get("content-length")
                if asked.get("transfer-encoding") == "chunked":
                    asked.body = await reader.readuntil(b"\r\n0\r\n\r\n")
                elif length:
                    asked.body = await reader.readexactly(int(length))
                self.asked.append(asked)
                reply = self.behave(asked)
                if not isinstance(reply, Reply):
                    reply = await reply
                if not await self.answer(writer, asked, reply):
                    break
        finally:
            writer.close()

    async def answer(self, writer: asyncio.StreamWriter, asked: Asked, reply: Reply) -> bool:
        if reply.before is not None:
            await reply.before.wait()
        if reply.silent:
            return False
        lines = [f"HTTP/1.1 {reply.status} Told", *(f"{name}: {value}" for name, value in reply.fields)]
        bodiless = reply.status in (204, 304) or asked.method == "HEAD"
        if reply.chunked:
            lines.append("Transfer-Encoding: chunked")
        elif reply.status not in (204, 304):
            lines.append(f"Content-Length: {len(reply.body)}")
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        body = reply.body if reply.cut is None else reply.body[: reply.cut]
        if bodiless:
            return True
        half = len(body) // 2
        for piece in (body[:half], body[half:]):
            if piece:
                writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if reply.chunked else piece)
            if reply.gate is not None:
                await writer.drain()
                await reply.gate.wait()
        if reply.chunked and reply.cut is None:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return reply.cut is None


async def cached_gate(site: Site, origin: Origin, **options: Any) -> Gate:
    """A gate to `origin` whose route keeps answers; `rules` are of its HttpCachePlan."""
    rules = HttpCachePlan(**options.pop("rules", {}))
    route = {"http_cache": rules, **options.pop("route", {})}
    return await site.gate([await site.endpoint(origin.serve)], route=route, cache_size=8 * MIB, **options)


async def read_answer(reader: asyncio.StreamReader, head_only: bool = False) -> Got:
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).decode("latin-1")
    first, *lines = head[:-4].split("\r\n")
    got = Got(int(first.split()[1]), [(n, v) for n, _, v in (line.partition(": ") for line in lines)], b"")
    if head_only or got.status in (204, 304):
        return got
    if got.get("transfer-encoding") == "chunked":
        while size := int((await reader.readuntil(b"\r\n")), 16):
            got.body += await reader.readexactly(size)
            await reader.readuntil(b"\r\n")
        await reader.readuntil(b"\r\n")
    else:
        got.body = await asyncio.wait_for(reader.readexactly(int(got.get("content-length") or 0)), 20)
    return got


async def ask(
    gate: Gate, target: str = "/", method: str = "GET", body: bytes = b"", framing: str = "length", **fields: str
) -> Got:
    """One request on a connection of its own; `_` in names of `fields` is `-`. `framing`: "length", or "chunked", as
    `body` is then."""
    reader, writer = await gate.connect()
    lines = [f"{method} {target} HTTP/1.1", f"Host: {fields.pop('Host', 'example.org')}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    if framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
    elif body:
        lines.append(f"Content-Length: {len(body)}")
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
    try:
        return await read_answer(reader, method == "HEAD")
    finally:
        writer.close()


def counted(gate: Gate) -> dict[str, int]:
    """Requests of the route by what the cache did with them, of those that there were."""
    return {name: count for name, count in gate.total(2).values("cache").items() if count}
