"""HTTP checks over HTTP/2, against nghttp2's own server, servers of HTTP/1.1, and servers that only pretend."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from authority import Authority
from health_servers import speaking
from ports import free_port, wait_for_port

from lb.config.plan.tls import PoolTlsPlan
from lb.config.schema.file import HealthConfig
from lb.config.schema.pools.pool import PoolConfig
from lb.health.check import CheckFailed
from lb.health.checks.tls import CheckTls
from lb.health.registry import build

AUTHORITY = Authority()
TLS = CheckTls(
    PoolTlsPlan(ca=AUTHORITY.pem, certificate=b"", key=b"", server_name="", min_version="tls1.2", alpn=(), verify=True),
    "models.test",
)


def http2(**keys: Any) -> HealthConfig:
    return HealthConfig(type="http", protocol="http2", **keys)


async def ask(config: HealthConfig, address: str, tls: CheckTls | None = None) -> None:
    await asyncio.wait_for(build(config, tls).run(address), 20)


@contextlib.asynccontextmanager
async def nghttpd(folder: Path, *options: str) -> AsyncIterator[str]:
    """nghttpd over `folder`; with options of TLS last: the key and the certificate."""
    binary = shutil.which("nghttpd")
    assert binary, "nghttpd is missing: apt-get install nghttp2-server"
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        binary, *(["--no-tls"] if not options else []), "-d", str(folder), "-a", "127.0.0.1", str(port), *options,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await asyncio.to_thread(wait_for_port, port)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def test_status_and_body(tmp_path: Path) -> None:
    (tmp_path / "ready").write_text('{"ready": true}' + " " * 200_000)
    async with nghttpd(tmp_path) as address:
        await ask(http2(path="/ready"), address)
        await ask(http2(path="/ready", method="HEAD"), address)
        await ask(http2(path="/ready", body={"contains": '"ready": true'}), address)
        await ask(http2(path="/none", status=["200-299", 404]), address)
        with pytest.raises(CheckFailed, match="status 404"):
            await ask(http2(path="/none"), address)
        with pytest.raises(CheckFailed, match="'false' was not found in the body"):
            await ask(http2(path="/ready", body={"contains": "false"}), address)


async def test_tls(tmp_path: Path) -> None:
    chain, key = AUTHORITY.issue("models.test").write(tmp_path)
    (tmp_path / "ready").write_text("yes")
    async with nghttpd(tmp_path, key, chain) as address:
        await ask(http2(path="/ready", host="models.test"), address, TLS)


async def test_servers_of_the_other_version(tmp_path: Path) -> None:
    async with speaking(socket.AF_INET, tmp_path, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n") as (
        address,
        _,
    ):
        with pytest.raises(CheckFailed, match=r"speaks HTTP/1\.1; write protocol: http1"):
            await ask(http2(), address)
    async with nghttpd(tmp_path) as address:
        with pytest.raises(CheckFailed, match="speaks HTTP/2, write protocol: http2"):
            await ask(HealthConfig(type="http"), address)


async def test_an_answer_behind_a_goodbye(tmp_path: Path) -> None:
    """nginx says it before the answer to the last request of a connection (RFC 9113 section 6.8)."""
    port = free_port()
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}}\n"
        + f"http {{ access_log off; client_body_temp_path {tmp_path}; proxy_temp_path {tmp_path};"
        + f" fastcgi_temp_path {tmp_path}; uwsgi_temp_path {tmp_path}; scgi_temp_path {tmp_path};\n"
        + f"server {{ listen 127.0.0.1:{port}; http2 on; keepalive_requests 1; return 200 ready; }} }}\n"
    )
    nginx = await asyncio.create_subprocess_exec(
        "nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await asyncio.to_thread(wait_for_port, port)
        await ask(http2(body={"contains": "ready"}), f"127.0.0.1:{port}")
    finally:
        nginx.terminate()
        await nginx.wait()


SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
ANSWER = b"\0\0\x01\x01\x05\0\0\0\x01\x88"  # 200, and the end
HOSTILE = {
    "closes": b"",
    "settings and no more": SETTINGS,
    "settings without end": SETTINGS * 300_000,
    "pings without end": SETTINGS + (b"\0\0\x08\x06\0\0\0\0\0" + bytes(8)) * 100_000,
    "a reset": SETTINGS + b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x07",
    "a goodbye": SETTINGS + b"\0\0\x08\x07\0\0\0\0\0" + bytes(8),
    "a head that is no head": SETTINGS + b"\0\0\x04\x01\x05\0\0\0\x01\xff\xff\xff\xff",
    "a huge frame": b"\xff\xff\xff\0\0\0\0\0\x01" + bytes(2_000_000),
    "a status that is no number": SETTINGS + b"\0\0\x05\x01\x05\0\0\0\x01\x08\x03abc",
    "empty pieces of a body without end": SETTINGS
    + b"\0\0\x05\x01\x04\0\0\0\x01\x08\x03200"
    + b"\0\0\0\0\0\0\0\0\x01" * 100_000,
    "a goodbye that leaves the request out": SETTINGS + b"\0\0\x08\x07\0\0\0\0\0" + bytes(8) + ANSWER,
    "a goodbye with an error": SETTINGS + b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x01\0\0\0\x02" + ANSWER,
    "a goodbye that is too short": SETTINGS + b"\0\0\x04\x07\0\0\0\0\0" + bytes(4) + ANSWER,
    "text": b"220 mail.example ESMTP\r\n" * 1000,
}


@pytest.mark.parametrize("said", HOSTILE)
async def test_what_is_no_answer(said: str) -> None:
    """The check fails, or waits for the rest; it raises nothing else, and lets others run."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read(100)
            writer.write(HOSTILE[said])
            await writer.drain()
            if said != "closes":
                await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        with pytest.raises((CheckFailed, TimeoutError)):
            async with asyncio.timeout(2):
                await build(http2(body={"contains": "ready"})).run(f"127.0.0.1:{listening.sockets[0].getsockname()[1]}")


@pytest.mark.parametrize(
    ("protocol", "health", "spoken"),
    [
        ("http2", {}, "http2"),
        ("http2", {"port": 8080}, "http1"),
        ("http2", {"protocol": "http1"}, "http1"),
        ("http", {}, "http1"),
        ("http", {"protocol": "http2"}, "http2"),
        ("grpc", {}, "http1"),
    ],
)
def test_what_is_spoken(protocol: str, health: dict[str, Any], spoken: str) -> None:
    """As HAProxy's `check-proto`: what the server's requests speak, unless the check asks elsewhere."""
    pool = PoolConfig.model_validate(
        {"protocol": protocol, "endpoints": ["127.0.0.1:1"], "health": {"type": "http", **health}}
    )
    assert pool.checks is not None
    assert pool.checks.protocol == spoken
