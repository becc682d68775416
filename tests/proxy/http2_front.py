"""A gate that speaks HTTP/2, and endpoints behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from datapath import Gate, Site


async def read_request(reader: asyncio.StreamReader) -> tuple[str, list[tuple[str, str]], bytes]:
    """One HTTP/1.1 request: its first line, fields and body; trailers are appended to the fields."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.split("\r\n")[:-2]
    fields = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
    named = {name.lower(): value for name, value in fields}
    body = b""
    if "content-length" in named:
        body = await reader.readexactly(int(named["content-length"]))
    elif named.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        while (line := await reader.readline()) != b"\r\n":
            name, _, value = line.decode().strip().partition(": ")
            fields.append((name, value))
    return first, fields, body


def plain(body: bytes, fields: bytes = b"", status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 " + status + b"\r\n" + fields + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers each request with its body, or with what it was as JSON where it has none."""
    while True:
        first, fields, body = await read_request(reader)
        writer.write(plain(body or json.dumps([first, fields]).encode(), b"X-Upper: Yes\r\n"))


def answering(answer: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(answer)

    return handler


async def gate_to(site: Site, handler: Any = echo, **options: Any) -> Gate:
    return await site.gate([await site.endpoint(handler)], **options)
