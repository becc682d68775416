"""Listeners with several addresses: lists, ranges of ports, both families, interfaces, abstract names; before and after
reloads, for streams and datagrams."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon import Daemon, eventually
from datagrams import UdpClient, echoes
from ports import free_port
from traffic import ask_once, request

Start = Callable[..., Daemon]


def streams(bind: Any) -> dict[str, Any]:
    routes = [{"respond": {"body": "${request.host} ${client.address}"}}]
    return {"bind": bind, "protocol": "http", "routes": routes}


def get(family: int, address: Any) -> str:
    """The body of an answer; raises OSError."""
    with socket.socket(family) as sock:
        sock.settimeout(10)
        sock.connect(address)
        sock.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := sock.recv(65536):
            answer += data
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return answer.partition(b"\r\n\r\n")[2].decode()


def addresses(daemon: Daemon, listener: str) -> list[str]:
    (row,) = [row for row in daemon.status()["listeners"] if row["name"] == listener]
    return [each["address"] for each in row["addresses"]]


def free_ports(count: int) -> int:
    """The first of `count` free ports in a row."""
    while True:
        first = free_port()
        try:
            for port in range(first, first + count):
                with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
                    stream.bind(("127.0.0.1", port))
                    datagram.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            continue
        return first


async def test_streams_on_many_addresses(start: Start) -> None:
    name = f"tidegate-test-{os.getpid()}"
    first, dual = free_ports(3), free_port()
    binds: list[Any] = [
        f"127.0.0.1:{first}-{first + 2}",
        {"address": f"[::]:{dual}", "ipv6only": False},
        {"address": "127.0.0.2:0", "interface": "lo"},
        f"unix:@{name}",
    ]

    def ask_all() -> None:
        for port in range(first, first + 3):
            assert get(socket.AF_INET, ("127.0.0.1", port)) == "h 127.0.0.1"
        assert get(socket.AF_INET, ("127.0.0.1", dual)) == "h 127.0.0.1"  # and not ::ffff:127.0.0.1
        assert get(socket.AF_INET6, ("::1", dual)) == "h ::1"
        assert get(socket.AF_INET, ("127.0.0.2", chosen)) == "h 127.0.0.1"
        assert get(socket.AF_UNIX, f"\0{name}").startswith("h ")

    daemon = start({"workers": 2, "listeners": {"web": streams(binds)}})
    shown = await asyncio.to_thread(addresses, daemon, "web")
    chosen = int(shown[4].rpartition(":")[2])
    assert shown == [
        *(f"127.0.0.1:{port}" for port in range(first, first + 3)), f"[::]:{dual}", f"127.0.0.2:{chosen}",
        f"unix:@{name}",
    ]  # fmt: skip
    (row,) = (await asyncio.to_thread(daemon.status))["listeners"]
    assert row["sockets"] == [
        f"127.0.0.1:{first}-{first + 2}", f"*:{dual}", f"127.0.0.2%lo:{chosen}", f"unix:@{name}",
    ]  # fmt: skip
    assert f"serving: web on {', '.join(row['sockets'])}\n" in daemon.log
    _, overview = await asyncio.to_thread(daemon.admin, "/api/v1/overview")
    assert json.loads(overview)["listeners"][0]["sockets"] == row["sockets"]
    await asyncio.to_thread(ask_all)
    # In another order all stay; without one, only that is closed.
    binds.reverse()
    assert (await asyncio.to_thread(daemon.reload, {"workers": 2, "listeners": {"web": streams(binds)}}))["ok"]
    assert sorted(await asyncio.to_thread(addresses, daemon, "web")) == sorted(shown)
    await asyncio.to_thread(ask_all)
    binds[-1] = f"127.0.0.1:{first + 1}-{first + 2}"
    assert (await asyncio.to_thread(daemon.reload, {"workers": 2, "listeners": {"web": streams(binds)}}))["ok"]

    def closed() -> bool:
        try:
            get(socket.AF_INET, ("127.0.0.1", first))
        except OSError:
            return True
        return False

    await asyncio.to_thread(eventually, closed, "the first port is still open")
    first += 1
    for port in (first, first + 1):
        assert get(socket.AF_INET, ("127.0.0.1", port)) == "h 127.0.0.1"
    # A second daemon on a part of them is told which.
    second = start({"workers": 1, "listeners": {"web": streams(["127.0.0.1:0", f"127.0.0.1:{first}"])}}, ready=False)
    assert second.process.wait(60) != 0
    assert f"cannot listen on 127.0.0.1:{first}: the address is in use" in second.log


async def test_datagrams_on_many_addresses(start: Start) -> None:
    with echoes(b"a", b"b") as endpoints:
        first, dual = free_ports(2), free_port()
        binds: list[Any] = [f"127.0.0.1:{first}-{first + 1}", {"address": f"[::]:{dual}", "ipv6only": False}]
        policy = {"type": "maglev", "key": {"source": True}}

        def config() -> dict[str, Any]:
            listener = {"bind": binds, "protocol": "udp", "pool": "echo", "udp": {"max_sessions": 4}}
            pool = {"protocol": "udp", "endpoints": [e.address for e in endpoints], "policy": policy}
            return {"workers": 2, "listeners": {"echo": listener}, "pools": {"echo": pool}}

        daemon = start(config())
        clients = [UdpClient(port) for port in (first, first + 1, dual)]
        names = {(await client.ask(b"x"))[:1] for client in clients}
        assert len(names) == 1  # an IPv4 client is the same at a socket of both families
        binds.reverse()
        assert (await asyncio.to_thread(daemon.reload, config()))["ok"]
        for client in clients:
            assert (await client.ask(b"x"))[:1] in names
        found = daemon.metrics("tidegate_udp_listener_sessions_total")
        assert sum(found.values()) == 3  # those of before the reload go on
        # The limit is that of all addresses.
        more = [UdpClient(dual) for _ in range(4)]
        for client in more:
            client.sock.send(b"x")
        dropped = lambda: sum(  # noqa: E731
            n for k, n in daemon.metrics("tidegate_udp_dropped_datagrams_total").items() if ("reason", "sessions") in k
        )
        await asyncio.to_thread(eventually, lambda: dropped() == 3, "the datagrams beyond the limit")
        victim = daemon.worker_pids()[0]
        os.kill(victim, signal.SIGKILL)
        await asyncio.to_thread(eventually, lambda: victim not in daemon.worker_pids(), "the worker's end")
        for client in (*clients, *more):
            client.close()


async def test_a_source_without_a_port_left(start: Start, endpoint: Callable[..., Any], tmp_path: Path) -> None:
    one, log = await endpoint("one"), tmp_path / "access.log"
    host, port = one.address.split(":")
    with socket.socket() as other:  # it has the only port
        other.bind(("127.77.7.7", 0))
        other.connect((host, int(port)))
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        source = "127.77.7.7:{0}-{0}".format(other.getsockname()[1])
        pools = {"app": {"protocol": "http", "endpoints": [one.address], "source": source, "outlier": {}}}
        web = {"bind": "127.0.0.1:0", "protocol": "http", "routes": [{"pool": "app"}]}
        daemon = start({"workers": 1, "listeners": {"web": web}, "pools": pools, "log": {"access": str(log)}})
        for _ in range(6):
            answer = await ask_once(daemon.port(), request("GET", "/"))
            assert (answer.status, b"no source port" in answer.body) == (503, True)
        (count,) = daemon.metrics("tidegate_endpoint_local_connect_errors_total").values()
        assert count >= 6
        assert sum(daemon.metrics("tidegate_endpoint_connect_errors_total").values()) == 0
        await asyncio.to_thread(eventually, lambda: log.read_text().count('"reason":"no-socket"') == 6, "six lines")
        assert daemon.log.count(f"{one.address}: this host cannot begin a connection: Cannot assign requested") == 1
    assert (await ask_once(daemon.port(), request("GET", "/"))).body == b"one"
