"""Health checks by HTTP judge answers as the data path does."""

from __future__ import annotations

import asyncio

import pytest
from datapath import Site

from lb.config.schema.file import HealthConfig
from lb.health.check import CheckFailed
from lb.health.registry import build

HEAD = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 2\r\n"

GOOD = [
    HEAD + LENGTH + b"\r\nok",
    HEAD + b"\r\nok",
    b"HTTP/1.1 103 Early Hints\r\n\r\n" + HEAD + LENGTH + b"\r\nok",
    b"HTTP/1.0 200\r\n" + LENGTH + b"\r\nok",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;a\r\nok\r\n0\r\n\r\n",
]
BAD = [
    HEAD[:-2] + b"\n" + LENGTH + b"\r\nok",  # bare line feeds
    HEAD + LENGTH[:-2] + b"\n\r\nok",
    HEAD + LENGTH + b"\nok",
    HEAD + LENGTH + b"X: a\r\n b\r\n\r\nok",  # a field folded over lines
    HEAD + LENGTH + b"X : a\r\n\r\nok",
    HEAD + LENGTH + b"X: \x01\r\n\r\nok",
    HEAD + LENGTH + LENGTH + b"\r\nok",
    HEAD + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 099 OK\r\n" + LENGTH + b"\r\nok",
    b"HTTP/1.1 000 OK\r\n" + LENGTH + b"\r\nok",
    b"ICY 200 OK\r\n" + LENGTH + b"\r\nok",
    HEAD + b"X: " + b"y" * 70_000,
    HEAD[:-2],
]


@pytest.mark.parametrize(("answer", "good"), [*((a, True) for a in GOOD), *((a, False) for a in BAD)])
async def test_whoever_is_judged_well_is_understood(site: Site, answer: bytes, good: bool) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    address = await site.endpoint(handler)
    gate = await site.gate([address])
    passed_on = await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert (b"HTTP/1.1 200 " if good else b"HTTP/1.1 502 ") in passed_on
    check = build(HealthConfig(type="http", body={"contains": "ok"}))
    if good:
        await asyncio.wait_for(check.run(address), 20)
    else:
        with pytest.raises(CheckFailed, match="no valid HTTP answer"):
            await asyncio.wait_for(check.run(address), 20)
