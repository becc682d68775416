"""A listener with TLS, its certificates, and clients of it."""

from __future__ import annotations

import asyncio
import random
import re
import secrets
import ssl
from typing import Any

from authority import Authority, Pair
from datapath import SECOND, Gate
from msgspec.structs import replace

from lb.config.plan.tls import CertificatePlan, TlsPlan

AUTHORITY = Authority()


CLIENTS = Authority("Clients")


DEFAULT = AUTHORITY.issue("default.test")


EXACT = AUTHORITY.issue("a.example.org", use_rsa=True)


WILDCARD = AUTHORITY.issue("*.example.org")


BLOCK = random.Random(5).randbytes(1 << 20)


KEY = secrets.token_bytes(80)


def certificate(pair: Pair, *names: str) -> CertificatePlan:
    return CertificatePlan(names, pair.chain, pair.key)


TLS = TlsPlan(
    certificates=(
        certificate(DEFAULT, "default.test"),
        certificate(WILDCARD, "*.example.org"),
        certificate(EXACT, "a.example.org"),
    ),
    min_version="tls1.2",
    ciphers="",
    alpn=("http/1.1",),
    client_auth="none",
    client_ca=b"",
    handshake_timeout_ns=10 * SECOND,
)


def https(**changes: Any) -> dict[str, Any]:
    return {"protocol": "https", "tls": replace(TLS, **changes)}


async def answer_ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with the head of the request as the body."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        if length := re.search(rb"(?i)content-length: (\d+)", head):
            await reader.readexactly(int(length[1]))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(head), head))


async def echo_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        body = await reader.readexactly(int(length[1])) if length else b""
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        for i in range(0, len(body), 100_000):
            writer.write(body[i : i + 100_000])
            await writer.drain()


async def connect(
    gate: Gate, context: ssl.SSLContext, name: str = "default.test"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(
        "127.0.0.1", gate.port, ssl=context, server_hostname=name, limit=1 << 24, ssl_handshake_timeout=20
    )


async def get(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, extra: str = "") -> str:
    writer.write(f"GET / HTTP/1.1\r\nHost: default.test\r\n{extra}\r\n".encode())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    assert head.startswith(b"HTTP/1.1 200"), head
    length = re.search(rb"(?i)content-length: (\d+)", head)
    assert length is not None
    return (await reader.readexactly(int(length[1]))).decode()


def version(name: str) -> ssl.SSLContext:
    context = AUTHORITY.client_context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion[name]
    return context
