"""One port for TLS that is passed through, TLS that ends here, and HTTPS; and connections shared among pools."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from authority import Authority, server_context
from daemon import Daemon, eventually, route
from datagrams import UdpClient, echoes
from ports import free_port
from proxy_peers import find, nginx

Start = Callable[..., Daemon]
AUTHORITY = Authority()
NAMES = ("ended.example", "anew.example", "web.example")


@contextlib.asynccontextmanager
async def saying(name: str, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """The address of a server that says its name and then gives back what comes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name.encode() + b"\n")
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def told(port: int, name: str, sent: bytes = b"x" * 70_000) -> tuple[str, str]:
    """The first line that comes back through TLS for `name`, and whose certificate it was; `sent` comes back whole."""
    context = AUTHORITY.client_context()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    line = await asyncio.wait_for(reader.readline(), 20)
    writer.write(sent)
    assert await asyncio.wait_for(reader.readexactly(len(sent)), 20) == sent
    (((_, owner),), *_) = writer.get_extra_info("peercert")["subject"]
    writer.close()
    return line.decode().strip(), owner


async def curl(port: int, name: str, folder: Path, *options: str) -> str:
    (folder / "ca.pem").write_bytes(AUTHORITY.pem)
    command = ["curl", "-sS", "--cacert", str(folder / "ca.pem"), "--resolve", f"{name}:{port}:127.0.0.1", *options]
    done = await asyncio.to_thread(
        subprocess.run, [*command, f"https://{name}:{port}/"], capture_output=True, text=True, timeout=60
    )
    return done.stdout + done.stderr


def in_records(hello: bytes, size: int) -> bytes:
    """A ClientHello in records of `size` bytes each (RFC 8446 section 5.1 allows it)."""
    body = hello[5:]
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(hello[:3] + len(part).to_bytes(2, "big") + part for part in parts)


async def one_byte_after_the_other(port: int, name: str) -> bytes:
    """The line that comes back when the ClientHello comes in records of 16 bytes, byte by byte."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = AUTHORITY.client_context().wrap_bio(incoming, outgoing, server_hostname=name)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    first = True
    while True:
        try:
            return tls.read(100)
        except ssl.SSLWantReadError:
            data = outgoing.read()
            if first:
                for byte in in_records(data, 16):
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0)
            elif data:
                writer.write(data)
            first = False
            got = await asyncio.wait_for(reader.read(65536), 20)
            assert got, "closed"
            incoming.write(got)


async def test_one_port_passes_through_ends_and_serves(
    start: Start, endpoint: Callable[..., Any], tmp_path: Path
) -> None:
    pairs = {name: AUTHORITY.issue(name) for name in (*NAMES, "passed.example", "inside")}
    files = {name: pair.write(tmp_path, name) for name, pair in pairs.items()}
    certificates = {name: {"cert": cert, "key": key} for name, (cert, key) in files.items()}
    site = await endpoint("site")
    log, ca = tmp_path / "access.log", tmp_path / "inside.pem"
    ca.write_bytes(AUTHORITY.pem)
    rules: list[dict[str, Any]] = [
        {"sni": "passed.example", "pool": "passed"},
        {"sni": "ended.example", "tls": "terminate", "pool": "plain"},
        {"sni": "anew.example", "tls": "terminate", "pool": "encrypted"},
        {"sni": "web.example", "listener": "web"},
    ]

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in log.read_text().splitlines()]

    def all_told() -> bool:
        found = lines()
        seen = {(line["listener"], line["host"], line["reason"]) for line in found}
        return (
            any(line["pool"] == "site" for line in found)
            and {
                ("secure", "passed.example", ""),
                ("secure", "ended.example", ""),
                ("secure", "ended.example", "tls"),
                ("secure", "anew.example", ""),
                ("secure", "other.example", "no-route"),
                ("secure", "web.example", "listener-full"),
            }
            <= seen
        )

    async with (
        saying("passed", server_context(pairs["passed.example"], tmp_path)) as passed,
        saying("plain") as plain,
        saying("encrypted", server_context(pairs["inside"], tmp_path)) as encrypted,
    ):
        config: dict[str, Any] = {
            "workers": 2,
            "log": {"access": str(log)},
            "listeners": {
                "secure": {
                    "bind": "127.0.0.1:0", "protocol": "tls", "sni_routes": rules, "header_timeout": "2s",
                    "tls": {"certificates": [certificates[name] for name in NAMES[:2]], "handshake_timeout": "2s"},
                },
                "web": {
                    "bind": f"unix:{tmp_path}/web.sock", "protocol": "https", "max_connections": 2,
                    "tls": {"certificates": [certificates["web.example"]]}, "routes": [route("/", "site")],
                },
            },
            "pools": {
                "passed": {"protocol": "tcp", "endpoints": [passed]},
                "plain": {"protocol": "tcp", "endpoints": [plain]},
                "encrypted": {
                    "protocol": "tcp", "endpoints": [encrypted], "tls": {"ca_file": str(ca), "server_name": "inside"},
                },
                "site": {"protocol": "http", "endpoints": [site.address]},
            },
        }  # fmt: skip
        daemon = await asyncio.to_thread(start, config)
        port = await asyncio.to_thread(daemon.port, "secure")
        # Whose certificate it was says who has ended TLS.
        assert await told(port, "passed.example") == ("passed", "passed.example")
        assert await told(port, "ended.example") == ("plain", "ended.example")
        assert await told(port, "anew.example") == ("encrypted", "anew.example")
        assert await curl(port, "web.example", tmp_path) == "site"
        assert "HTTP/2" in await curl(port, "web.example", tmp_path, "--http2", "-I")
        assert await one_byte_after_the_other(port, "ended.example") == b"plain\n"
        with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
            await told(port, "other.example")

        # A client that stops within its ClientHello, or behind it, or says nothing that TLS knows, holds nothing.
        halves = []
        hello = b"\x16\3\1\2\0\1\0\1\xfc\3\3"
        for half in (b"", hello, b"\x16\3\1\0\5", b"GET / HTTP/1.1\r\n\r\n"):
            halves.append(await asyncio.open_connection("127.0.0.1", port))
            halves[-1][1].write(half)
        context = AUTHORITY.client_context()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        unfinished = context.wrap_bio(incoming, outgoing, server_hostname="ended.example")
        with pytest.raises(ssl.SSLWantReadError):
            unfinished.do_handshake()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(outgoing.read())
        while await asyncio.wait_for(reader.read(65536), 20):
            pass
        for reader, _ in halves:
            with contextlib.suppress(ConnectionError):  # a reset, since there are bytes that nobody read
                await asyncio.wait_for(reader.read(), 20)

        # The limit of the listener that serves is the sum over its own connections and those that came this way.
        held = [
            await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="web.example")
            for _ in range(2)
        ]
        with pytest.raises(ssl.SSLError, match=r"(?i)internal.error"):
            await told(port, "web.example")
        # All before the workers are killed, with the lines that they have not written yet.
        await asyncio.to_thread(eventually, all_told, "lines of the access log")
        for pid in await asyncio.to_thread(daemon.worker_pids):
            os.kill(pid, signal.SIGKILL)
        for reader, _ in held:
            await asyncio.wait_for(reader.read(), 20)
        rules[1]["tls"] = "passthrough"
        rules[3:] = []
        config["listeners"]["secure"]["sni_routes"] = rules
        assert (await asyncio.to_thread(daemon.reload, config))["ok"]
        with pytest.raises(ssl.SSLError):  # what answers is no TLS
            await told(port, "ended.example")
        assert await told(port, "anew.example") == ("encrypted", "anew.example")

        def settled() -> bool:
            return sum(daemon.metrics("tidegate_listener_open_connections").values()) == 0 == daemon.in_flight()

        await asyncio.to_thread(eventually, settled, "the end of all connections")

    assert {line["tls"] for line in lines() if line["host"] == "passed.example"} == {""}
    assert {line["tls"] for line in lines() if line["host"] == "anew.example"} == {"TLSv1.3"}
    assert {line["listener"] for line in lines() if line["pool"] == "site"} == {"web"}


async def test_a_reload_that_removes_both_listeners_refuses_who_is_between_them(
    start: Start, endpoint: Callable[..., Any], tmp_path: Path
) -> None:
    cert, key = AUTHORITY.issue("web.example").write(tmp_path)
    site = await endpoint("site")
    listeners: dict[str, Any] = {
        "secure": {
            "bind": "127.0.0.1:0", "protocol": "tls", "sni_routes": [{"sni": "web.example", "listener": "web"}],
        },
        "web": {
            "bind": "127.0.0.1:0", "protocol": "https", "routes": [route("/", "site")],
            "tls": {"certificates": [{"cert": cert, "key": key}]},
        },
        "rest": {"bind": "127.0.0.1:0", "protocol": "http", "routes": [route("/rest", "site")]},
    }  # fmt: skip
    del listeners["rest"]["routes"][0]["name"]
    config = {"listeners": listeners, "pools": {"site": {"protocol": "http", "endpoints": [site.address]}}}
    daemon = await asyncio.to_thread(start, config)
    port = await asyncio.to_thread(daemon.port, "secure")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = AUTHORITY.client_context().wrap_bio(incoming, outgoing, server_hostname="web.example")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outgoing.read()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(hello[:100])
    del listeners["secure"], listeners["web"]
    assert (await asyncio.to_thread(daemon.reload, config))["ok"]
    writer.write(hello[100:])
    assert await asyncio.wait_for(reader.read(), 20) == b"\x15\3\3\0\2\2\x70"  # unrecognized_name
    assert "Traceback" not in daemon.log


async def test_pools_share_connections_and_sessions_by_weight(start: Start) -> None:
    async with saying("old") as old, saying("new") as new:
        with echoes(b"o", b"n") as (old_udp, new_udp):
            shares: list[dict[str, Any]] = [{"pool": "old", "weight": 3}, {"pool": "new", "weight": 1}]
            pools: dict[str, Any] = {
                "old": {"protocol": "tcp", "endpoints": [old]},
                "new": {"protocol": "tcp", "endpoints": [new]},
                "old-udp": {"protocol": "udp", "endpoints": [old_udp.address]},
                "new-udp": {"protocol": "udp", "endpoints": [new_udp.address]},
            }
            datagrams = [{**share, "pool": f"{share['pool']}-udp"} for share in shares]
            listeners = {
                "raw": {"bind": "127.0.0.1:0", "protocol": "tcp", "pools": shares},
                "stuck": {"bind": "127.0.0.1:0", "protocol": "tcp", "pools": shares, "sticky": {"source": True}},
                "udp": {"bind": "127.0.0.1:0", "protocol": "udp", "pools": datagrams, "udp": {"responses": 1}},
            }
            config = {"workers": 2, "listeners": listeners, "pools": pools}
            daemon = await asyncio.to_thread(start, config)
            ports = {name: await asyncio.to_thread(daemon.port, name) for name in listeners}

            async def pool_of(name: str, source: str = "127.0.0.1") -> str:
                reader, writer = await asyncio.open_connection("127.0.0.1", ports[name], local_addr=(source, 0))
                line = await asyncio.wait_for(reader.readline(), 20)
                writer.close()
                return line.decode().strip()

            async def udp_of() -> str:
                client = UdpClient(ports["udp"])
                answer = await client.ask(b"x")
                client.close()
                return answer[:1].decode()

            # A share of a quarter: 50 of 200, whose standard deviation is 6.
            seen = Counter([await pool_of("raw") for _ in range(200)])
            assert 14 < seen["new"] < 86, seen
            seen = Counter([await udp_of() for _ in range(200)])
            assert 14 < seen["n"] < 86, seen
            sources = [f"127.0.0.{i}" for i in range(2, 42)]
            before = {source: await pool_of("stuck", source) for source in sources}
            assert set(before.values()) == {"old", "new"}
            assert all([await pool_of("stuck", source) == pool for source, pool in before.items()])

            # More for the second: whoever is with it stays; all of it: nobody is with the first.
            for old_weight in (1, 0):
                for share in (*shares, *datagrams):
                    share["weight"] = old_weight if share["pool"].startswith("old") else 1
                assert (await asyncio.to_thread(daemon.reload, config))["ok"]
                after = {source: await pool_of("stuck", source) for source in sources}
                assert all(after[source] == "new" for source in sources if before[source] == "new")
                before = after
            assert set(after.values()) == {"new"} == {await pool_of("raw") for _ in range(20)}
            assert {await udp_of() for _ in range(20)} == {"n"}


async def test_nginx_takes_the_same_ways(start: Start, endpoint: Callable[..., Any], tmp_path: Path) -> None:
    """ssl_preread with an internal server is what a rule with `listener` is, without the hop."""
    find("nginx")
    pair = AUTHORITY.issue("web.example", "passed.example")
    cert, key = pair.write(tmp_path, "web")
    site = await endpoint("site")
    inner, outer = free_port(), free_port()
    async with saying("passed", server_context(pair, tmp_path)) as passed:
        config = {
            "listeners": {
                "secure": {
                    "bind": "127.0.0.1:0",
                    "protocol": "tls",
                    "sni_routes": [{"sni": "web.example", "listener": "web"}],
                    "pool": "passed",
                },
                "web": {
                    "bind": f"127.0.0.1:{inner}",
                    "protocol": "https",
                    "tls": {"certificates": [{"cert": cert, "key": key}]},
                    "routes": [route("/", "site")],
                },
            },
            "pools": {
                "passed": {"protocol": "tcp", "endpoints": [passed]},
                "site": {"protocol": "http", "endpoints": [site.address]},
            },
        }
        daemon = await asyncio.to_thread(start, config)
        body = (
            f"map $ssl_preread_server_name $to {{ web.example 127.0.0.1:{inner}; default {passed}; }}"
            f"server {{ listen 127.0.0.1:{outer}; ssl_preread on; proxy_pass $to; }}"
        )
        with nginx(tmp_path, body, outer, stream=True):
            for port in (await asyncio.to_thread(daemon.port, "secure"), outer):
                assert await told(port, "passed.example") == ("passed", "web.example")
                assert await curl(port, "web.example", tmp_path) == "site"
