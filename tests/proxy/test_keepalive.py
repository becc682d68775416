"""TCP keepalive of accepted connections and of those to endpoints, as the kernel has it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from datapath import Gate, Site, settle
from msgspec.structs import replace
from tcp_site import TCP, Reader, Writer

from lb.config.plan.plan import KeepalivePlan

FIRST, SECOND = KeepalivePlan(61, 16, 5, 90_000), KeepalivePlan(62, 17, 6)
OFF = (0, 0)


async def hold(reader: Reader, writer: Writer) -> None:
    await reader.read(-1)
    writer.close()


def is_socket(fd: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:  # that of the listing itself
        return False


def options(local: int = 0, remote: int = 0) -> list[tuple[int, ...]]:
    """Of this process's connections with this port at their own end, or at the other."""
    found = []
    for fd in filter(is_socket, sorted(map(int, os.listdir("/proc/self/fd")))):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as sock:
            if sock.family != socket.AF_INET or sock.type != socket.SOCK_STREAM:
                continue
            peer = sock.getpeername()[1]  # a listening one has none
            if local not in (0, sock.getsockname()[1]) or remote not in (0, peer):
                continue
            user_timeout = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
                found.append((0, user_timeout))
                continue
            numbers = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            found.append((*(sock.getsockopt(socket.IPPROTO_TCP, n) for n in numbers), user_timeout))
    return found


def said(plan: KeepalivePlan) -> tuple[int, ...]:
    return plan.idle_s, plan.interval_s, plan.probes, plan.user_timeout_ms


async def connected(gate: Gate, number: int) -> Writer:
    """One more client; there are `number` then."""
    _, writer = await gate.connect()
    await settle(lambda: len(options(local=gate.port)) == number, "it was not accepted")
    return writer


@pytest.mark.parametrize("listener", [TCP, {}], ids=["tcp", "http"])
async def test_accepted_connections_have_what_their_listener_says(site: Site, listener: dict[str, Any]) -> None:
    """New ones what a reload says; those that are open keep what they have."""
    address = await site.endpoint(hold)
    gate = await site.gate([address], listener={**listener, "keepalive": FIRST})
    writers = [await connected(gate, 1)]
    for keepalive in (SECOND, None):
        listeners = (replace(gate.plan.listeners[0], keepalive=keepalive),)
        site.reload(gate, generation=2 + len(writers), listeners=listeners)
        writers.append(await connected(gate, len(writers) + 1))
    assert sorted(options(local=gate.port)) == sorted([said(FIRST), said(SECOND), OFF])
    for writer in writers:
        writer.close()


@pytest.mark.parametrize("protocol", ["tcp", "http", "http2"])
async def test_connections_to_endpoints_have_what_their_pool_says(site: Site, protocol: str) -> None:
    address = await site.endpoint(hold)
    port = int(address.rpartition(":")[2])
    listener = TCP if protocol == "tcp" else {}
    gate = await site.gate([address], listener=listener, pool={"protocol": protocol, "keepalive": FIRST})
    writers = []
    for number, keepalive in enumerate((FIRST, SECOND, None)):
        site.reload_pool(gate, generation=2 + number, keepalive=keepalive)
        _, writer = await gate.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        writers.append(writer)
        await settle(lambda: len(options(remote=port)) == number + 1, "no connection was made")  # noqa: B023
    wanted = sorted([said(FIRST), said(SECOND), OFF])
    if protocol != "tcp":
        assert sorted(options(remote=port)) == wanted
    # A TCP session's gets it when it has lasted for a second, by the form of the pool that it began under.
    await settle(lambda: sorted(options(remote=port)) == wanted, "not what the pool says")
    for writer in writers:
        writer.close()


async def test_unix_sockets_have_none_and_nobody_complains(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "endpoint"
    server = await asyncio.start_unix_server(hold, path)
    site.servers.append(server)
    listener = {**TCP, "keepalive": FIRST, "bind": f"unix:{tmp_path}/gate"}
    gate = await site.gate([f"unix:{path}"], listener=listener, pool={"keepalive": FIRST})
    _, writer = await gate.connect()
    await settle(lambda: gate.in_flight() == 1, "no session")
    assert options(local=gate.port) == [OFF]
    assert "tcp_keepalive" not in caplog.text
    writer.close()


async def test_what_the_kernel_refuses_is_said_once_and_costs_nothing_else(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing that a configuration can say; it stands for a kernel without these options."""
    address = await site.endpoint(hold)
    refused = KeepalivePlan(1_000_000, 1, 1)
    gate = await site.gate([address], listener={**TCP, "keepalive": refused}, pool={"keepalive": refused})
    writers = [(await gate.connect())[1] for _ in range(3)]
    await settle(lambda: gate.in_flight() == 3, "no sessions")
    assert caplog.text.count("listener web: tcp_keepalive: Invalid argument") == 1
    complaint = f"endpoint {address}: tcp_keepalive: Invalid argument"
    await settle(lambda: complaint in caplog.text, "nothing was said of the endpoint")
    await asyncio.sleep(0.1)  # the others are a second old as well
    assert caplog.text.count(complaint) == 1
    for writer in writers:
        writer.close()
