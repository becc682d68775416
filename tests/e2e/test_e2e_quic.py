"""QUIC through the daemon: clients that change their address keep their connection, by learned connection ids where a
NAT has moved them, by server ids where they move themselves; and workers that die."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme
from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.quic.configuration import QuicConfiguration
from daemon import Daemon, eventually
from datagrams import UdpClient, echoes
from ports import free_port

Start = Callable[..., Daemon]
SERVERS = {"a": "00a1", "b": "00b2", "c": "ffc3"}
CLIENTS = 6


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[dict[str, Any]]]:
    """The endpoints, by address and server id."""
    trustme.CA().issue_cert("quic.test").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    processes, endpoints = [], []
    for name, server_id in SERVERS.items():
        port = free_port()
        command = [sys.executable, str(Path(__file__).with_name("quic_server.py")), str(port), name, server_id]
        files = [str(tmp_path / "both.pem")] * 2
        processes.append(subprocess.Popen([*command, *files], stdout=subprocess.PIPE, text=True))
        endpoints.append({"address": f"127.0.0.1:{port}", "server_id": server_id})
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield endpoints
    finally:
        for process in processes:
            process.kill()
            process.communicate()


async def ask(client: QuicConnectionProtocol, text: bytes) -> str:
    """The name of the endpoint that answers."""
    async with asyncio.timeout(10):
        reader, writer = await client.create_stream()
        writer.write(text)
        writer.write_eof()
        answer = await reader.read()
    assert answer[1:] == text
    return answer[:1].decode()


async def move(client: QuicConnectionProtocol) -> None:
    """The client goes on from another port."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", 0))
    before: asyncio.DatagramTransport = client._transport  # type: ignore[assignment]
    await asyncio.get_running_loop().create_datagram_endpoint(lambda: client, sock=sock)  # becomes its transport
    before.close()


async def kill_workers(daemon: Daemon) -> None:
    """Each of them, and waits until others are there."""
    victims = set(daemon.worker_pids())
    for pid in victims:
        os.kill(pid, signal.SIGKILL)

    def replaced() -> bool:
        return all(w["state"] == "running" and w["pid"] not in victims for w in daemon.status()["workers"])

    await asyncio.to_thread(eventually, replaced, "the workers were not replaced")


async def test_connections_outlive_addresses_and_workers(start: Start, servers: list[dict[str, Any]]) -> None:
    quic = {"affinity": {"quic": {}}}
    named = {"affinity": {"quic": {"server_id_length": 2, "max": 10}}}
    plain = [{"address": each["address"]} for each in servers]
    pool = {"protocol": "udp", "policy": "round_robin"}
    daemon = start(
        {
            "workers": 2,
            "listeners": {
                name: {"bind": "127.0.0.1:0", "protocol": "udp", "pool": name} for name in ("learned", "named")
            },
            "pools": {
                "learned": {**pool, **quic, "endpoints": plain},
                "named": {**pool, **named, "endpoints": servers},
            },
        }
    )
    async with AsyncExitStack() as stack:

        async def come(name: str) -> QuicConnectionProtocol:
            settings = QuicConfiguration(is_client=True, alpn_protocols=["echo"], server_name="quic.test")
            settings.verify_mode = ssl.CERT_NONE
            return await stack.enter_async_context(connect("127.0.0.1", daemon.port(name), configuration=settings))

        learned = [await come("learned") for _ in range(CLIENTS)]
        by_id = [await come("named") for _ in range(CLIENTS)]
        clients = [*learned, *by_id]
        before = await asyncio.gather(*(ask(client, b"1") for client in clients))
        assert set(before[:CLIENTS]) == set(before[CLIENTS:]) == set(SERVERS)
        for turn in range(3):
            for client in clients:
                await move(client)
            for client in by_id:
                client.change_connection_id()  # as a client that moves itself has to (RFC 9000 section 9.5)
            assert await asyncio.gather(*(ask(client, b"%d" % turn) for client in clients)) == before
        await kill_workers(daemon)
        assert await asyncio.gather(*(ask(client, b"later") for client in clients)) == before
        for client in clients:
            await move(client)
        assert await asyncio.gather(*(ask(client, b"last") for client in clients)) == before
        for client in clients:
            client.close()  # all at once: each waits a while for packets that are late


async def test_a_session_outlives_its_worker(start: Start) -> None:
    with echoes(b"a", b"b") as endpoints:
        listener = {"bind": "127.0.0.1:0", "protocol": "udp", "pool": "echo", "idle_timeout": "2s"}
        addresses = [each.address for each in endpoints]
        pool: dict[str, Any] = {"protocol": "udp", "endpoints": addresses, "policy": "random"}
        daemon = start({"workers": 2, "listeners": {"echo": listener}, "pools": {"echo": pool}})
        clients = [UdpClient(daemon.port("echo")) for _ in range(24)]
        before = [(await client.ask(b"x"))[:1] for client in clients]
        assert set(before) == {b"a", b"b"}
        for _ in range(2):
            await kill_workers(daemon)
            assert [(await client.ask(b"x"))[:1] for client in clients] == before
        # The endpoint of an entry has left: its sessions begin anew elsewhere.
        pool["endpoints"] = addresses[:1]
        daemon.write({"workers": 2, "listeners": {"echo": listener}, "pools": {"echo": pool}})
        assert (await asyncio.to_thread(daemon.reload))["ok"]
        await kill_workers(daemon)
        assert {(await client.ask(b"x"))[:1] for client in clients} == {b"a"}
        for client in clients:
            client.close()
