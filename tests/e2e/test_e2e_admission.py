"""Who may connect and how often, by network, over two workers; TCP, TLS, HTTP, UDP, and behind the PROXY protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from compiled.bytes_to_values import proxy_header
from daemon import Daemon, eventually, http_listener
from datagrams import UdpClient, echoes

Start = Callable[..., Daemon]
HELLO = b"\x16\3\1\2\0\1\0\1\xfc\3\3"  # the beginning of a ClientHello
ALLOWED, DENIED = "127.0.2.1", "127.0.2.5"


@contextlib.asynccontextmanager
async def saying(line: bytes) -> AsyncIterator[str]:
    """The address of a server that says `line` and waits for the client's end."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(line)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def enter(port: int, source: str, first: bytes = b"", answer: bool = True) -> asyncio.StreamWriter | None:
    """A connection from `source` that stays open, after the answer's first byte unless there is none; None if it was
    closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    writer.write(first)
    try:
        got = await asyncio.wait_for(reader.read(1), 20 if answer else 0.3)
    except TimeoutError:
        return None if answer else writer
    except ConnectionError:
        got = b""
    if got:
        return writer
    writer.close()
    return None


async def entered(port: int, sources: list[str], *arguments: Any) -> list[asyncio.StreamWriter]:
    made = await asyncio.gather(*(enter(port, source, *arguments) for source in sources))
    return [writer for writer in made if writer is not None]


def refused(daemon: Daemon) -> dict[str, int]:
    found = daemon.metrics("tidegate_connections_refused_total")
    reasons = ("denied", "connection-rate", "source-limit")
    return {r: int(sum(n for labels, n in found.items() if ("reason", r) in labels)) for r in reasons}


def counted(daemon: Daemon, expected: dict[str, int]) -> None:
    """Workers tell their counts every second."""
    eventually(lambda: refused(daemon) == expected, f"the counts {expected}, not {refused(daemon)}", 20)


def dropped(daemon: Daemon, reason: str) -> int:
    found = daemon.metrics("tidegate_udp_dropped_datagrams_total")
    return int(sum(n for labels, n in found.items() if ("reason", reason) in labels))


def quiet(daemon: Daemon) -> None:
    eventually(
        lambda: sum(daemon.metrics("tidegate_listener_open_connections").values()) == 0 == daemon.in_flight(),
        "the end of all connections",
    )


async def test_lists_decide_who_may_connect(start: Start, endpoint: Callable[..., Any], tmp_path: Path) -> None:
    site = await endpoint("site")
    deny, log = tmp_path / "deny.txt", tmp_path / "access.log"
    deny.write_text(f"# abuse\n{DENIED}\n203.0.113.0/24\n")
    lists = {"bind": "127.0.0.1:0", "allow": ["127.0.0.0/8", "203.0.113.9"], "deny_file": str(deny)}
    async with saying(b"x") as server:
        with echoes(b"e") as (echo,):
            config: dict[str, Any] = {
                "log": {"access": str(log)},
                "listeners": {
                    "raw": {"protocol": "tcp", "pool": "raw", **lists},
                    "secure": {"protocol": "tls", "pool": "raw", **lists},
                    "behind": {
                        "protocol": "tcp", "pool": "raw", **lists,
                        "proxy_protocol": {"from": ["127.0.0.1"], "required": False, "timeout": "300ms"},
                    },
                    "web": http_listener({"pool": "site"}, **lists),
                    "udp": {"protocol": "udp", "pool": "udp", **lists},
                },
                "pools": {
                    "raw": {"protocol": "tcp", "endpoints": [server]},
                    "site": {"protocol": "http", "endpoints": [site.address]},
                    "udp": {"protocol": "udp", "endpoints": [echo.address]},
                },
            }  # fmt: skip
            daemon = await asyncio.to_thread(start, config)
            ports = {name: await asyncio.to_thread(daemon.port, name) for name in config["listeners"]}
            get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

            assert await enter(ports["raw"], ALLOWED)
            assert await enter(ports["raw"], DENIED) is None
            assert await enter(ports["web"], ALLOWED, get)
            assert await enter(ports["web"], DENIED, get) is None
            # Before a byte of the ClientHello is awaited.
            assert await enter(ports["secure"], ALLOWED, HELLO, False)
            assert await enter(ports["secure"], DENIED, b"", False) is None
            # The client that a trusted proxy names; a header that others send does not count.
            for source, client, may in (
                ("127.0.0.1", "203.0.113.9", True),  # the most exact network decides
                ("127.0.0.1", "203.0.113.8", False),
                ("127.0.0.1", "198.51.100.1", False),  # in no list, and there is one of those who may
                (ALLOWED, "203.0.113.9", False),
            ):
                header = proxy_header(2, (client, 9), ("203.0.113.1", 443))
                assert (await enter(ports["behind"], source, header) is not None) == may, (source, client)
            await asyncio.to_thread(counted, daemon, {"denied": 5, "connection-rate": 0, "source-limit": 0})

            async def asks(source: str) -> bytes | None:
                client = UdpClient(ports["udp"])
                client.sock.close()
                client.sock = socket.socket(type=socket.SOCK_DGRAM)
                client.sock.bind((source, 0))
                client.sock.connect(("127.0.0.1", ports["udp"]))
                client.sock.setblocking(False)
                with contextlib.closing(client), contextlib.suppress(TimeoutError):
                    return await client.ask(b"q", 0.5)
                return None

            assert await asks(ALLOWED) == b"eq"
            assert await asks(DENIED) is None
            assert await asyncio.to_thread(dropped, daemon, "denied") == 1

            # The file is read again when it changes; one that is wrong leaves the old one in force.
            deny.write_text(f"{ALLOWED}\n")
            async with asyncio.timeout(20):
                while (writer := await enter(ports["raw"], DENIED)) is None:
                    await asyncio.sleep(0.2)
                writer.close()
            assert await enter(ports["raw"], ALLOWED) is None
            deny.write_text("nonsense\n")
            await asyncio.to_thread(eventually, lambda: "line 1: 'nonsense' is not a network" in daemon.log, "a line")
            outcome = await asyncio.to_thread(daemon.reload)
            assert not outcome["ok"]
            assert "line 1: 'nonsense' is not a network" in outcome["error"]
            assert await enter(ports["raw"], ALLOWED) is None

            def logged() -> bool:
                lines = [json.loads(line) for line in log.read_text().splitlines()]
                seen = {
                    (line["listener"], line["client"], line["method"]) for line in lines if line["reason"] == "denied"
                }
                return {
                    ("raw", DENIED, "TCP"), ("web", DENIED, "TCP"), ("secure", DENIED, "TLS"),
                    ("behind", "203.0.113.8", "TCP"),
                } <= seen  # fmt: skip

            await asyncio.to_thread(eventually, logged, "lines of the access log")


async def test_rates_and_limits_of_networks_are_exact_over_workers(start: Start) -> None:
    async with saying(b"x") as server:
        with echoes(b"e") as (echo,):
            network = {"bind": "127.0.0.1:0", "source_network": {"ipv4_prefix": 24}}
            config: dict[str, Any] = {
                "workers": 2,
                "listeners": {
                    "rate": {
                        "protocol": "tcp", "pool": "raw", **network,
                        "connection_rate_per_source": {"rate": "1/h", "burst": 7},
                    },
                    "few": {"protocol": "tcp", "pool": "raw", **network, "max_connections_per_source": 5},
                    "secure": {
                        "protocol": "tls", "pool": "raw", **network, "max_connections_per_source": 5,
                        "header_timeout": "1h",
                    },
                    "udp": {
                        "protocol": "udp", "pool": "udp", **network,
                        "connection_rate_per_source": {"rate": "1/h", "burst": 7},
                    },
                },
                "pools": {
                    "raw": {"protocol": "tcp", "endpoints": [server]},
                    "udp": {"protocol": "udp", "endpoints": [echo.address]},
                },
            }  # fmt: skip
            daemon = await asyncio.to_thread(start, config)
            ports = {name: await asyncio.to_thread(daemon.port, name) for name in config["listeners"]}
            first, second = ([f"127.0.{n}.{i}" for i in range(1, 31)] for n in (3, 4))

            assert len(await entered(ports["rate"], first)) == 7
            assert len(await entered(ports["rate"], second)) == 7
            assert await entered(ports["rate"], first) == []
            held = await entered(ports["few"], first)
            assert len(held) == 5
            assert len(await entered(ports["few"], second[:3])) == 3
            # Halves of a ClientHello hold places, too: nobody gets more of them than of sessions.
            halves = await entered(ports["secure"], first, HELLO, False)
            assert len(halves) == 5
            await asyncio.to_thread(counted, daemon, {"denied": 0, "connection-rate": 76, "source-limit": 50})

            async def asks(source: str) -> bool:
                client = UdpClient(ports["udp"], "127.0.0.1")
                client.close()
                client.sock = socket.socket(type=socket.SOCK_DGRAM)
                client.sock.bind((source, 0))
                client.sock.connect(("127.0.0.1", ports["udp"]))
                client.sock.setblocking(False)
                with contextlib.closing(client), contextlib.suppress(TimeoutError):
                    return bool(await client.ask(b"q", 1))
                return False

            assert sum(await asyncio.gather(*map(asks, first))) == 7
            assert await asyncio.to_thread(dropped, daemon, "rate") == 23

            # Workers that die give back what their connections held; rates stay.
            for pid in await asyncio.to_thread(daemon.worker_pids):
                os.kill(pid, signal.SIGKILL)
            await asyncio.to_thread(quiet, daemon)
            assert await entered(ports["rate"], first) == []
            held = await entered(ports["few"], first)
            assert len(held) == 5
            # Another size of networks begins the count anew; those that are open go on, and leave no trace.
            config["listeners"]["few"]["source_network"] = {"ipv4_prefix": 16}
            assert (await asyncio.to_thread(daemon.reload, config))["ok"]
            again = await entered(ports["few"], first + second)
            assert len(again) == 5
            for writer in (*held, *again):
                writer.close()
            await asyncio.to_thread(quiet, daemon)
            assert len(await entered(ports["few"], first + second)) == 5


async def test_clients_of_a_unix_socket_have_no_address(start: Start, tmp_path: Path) -> None:
    """With the PROXY protocol in front they are whom it names; a header that names nobody (LOCAL) may connect."""
    path = f"{tmp_path}/front.sock"
    async with saying(b"x") as server:
        listener = {
            "bind": f"unix:{path}", "protocol": "tcp", "pool": "raw", "deny": ["203.0.113.0/24"],
            "proxy_protocol": {"from": ["unix"]},
        }  # fmt: skip
        pools = {"raw": {"protocol": "tcp", "endpoints": [server]}}
        await asyncio.to_thread(start, {"listeners": {"raw": listener}, "pools": pools})
        local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"
        for header, may in (
            (proxy_header(2, ("203.0.113.8", 9), ("203.0.113.1", 443)), False),
            (proxy_header(2, ("198.51.100.8", 9), ("203.0.113.1", 443)), True),
            (local, True),
        ):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(header)
            with contextlib.suppress(ConnectionError):
                assert (await asyncio.wait_for(reader.read(1), 20) == b"x") == may
            writer.close()
