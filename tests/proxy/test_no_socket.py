"""Connections that this host cannot begin, as no source port is left: no endpoint is blamed for them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from datapath import Gate, Site, settle
from hedge_site import Multiplexed, call
from oip_site import ModelServer, ask, plain, tensor
from routing_site import curl, routing_gate, shown
from tcp_site import TCP, echo
from test_http1 import GET, Recorder
from test_outlier import WELL, ejections, pool
from udp_site import UdpSite

from lb.config.plan.plan import SourcePlan

IP_BIND_ADDRESS_NO_PORT, IP_LOCAL_PORT_RANGE = 24, 51  # linux/in.h
TOLD = b"no source port, descriptor or memory left"


@contextlib.contextmanager
def last_port(address: str, kind: int = socket.SOCK_STREAM) -> Iterator[SourcePlan]:
    """A source with one port, which somebody else has for as long as this lasts."""
    host, port = address.split(":")
    while True:
        source = SourcePlan(f"127.{random.randrange(1, 255)}.7.7", *[random.randrange(40_000, 50_000)] * 2)
        with contextlib.suppress(OSError), socket.socket(type=kind) as other:
            if kind == socket.SOCK_STREAM:
                # The port is taken towards this address alone, and free at once: it is closed by a reset.
                other.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
                other.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("HH", source.first, source.last))
                other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            other.bind((source.address, 0 if kind == socket.SOCK_STREAM else source.first))
            other.connect((host, int(port)))
            yield source
            return


async def one_exchange(gate: Gate, protocol: str) -> bool:
    """Whether it went well; else it has failed as it should."""
    if protocol == "tcp":
        reader, writer = await gate.connect()
        writer.write(b"hello")
        answer = await reader.read(5)
        writer.close()
        return answer == b"hello"
    if protocol in ("http", "http2"):
        answer = await gate.exchange(GET)
        assert answer.startswith(b"HTTP/1.1 200 ") or (answer.startswith(b"HTTP/1.1 503 ") and TOLD in answer)
        return answer.startswith(b"HTTP/1.1 200 ")
    if protocol == "oip":
        got = await ask(gate, plain(tensor([1.0])))
        assert got.status == 200 or (got.status == 503 and TOLD in got.body)
        return got.status == 200
    try:
        await call(gate)
    except grpc.aio.AioRpcError as error:
        code, told = error.code(), str(error.details())
    else:
        return True
    assert (code, TOLD.decode() in told) == (grpc.StatusCode.UNAVAILABLE, True)
    return False


@pytest.mark.parametrize("protocol", ["http", "http2", "grpc", "oip", "tcp"])
async def test_no_endpoint_is_blamed(site: Site, protocol: str) -> None:
    if protocol == "oip":
        address = await site.model(ModelServer())
    else:
        handlers: dict[str, Any] = {"http": Recorder(), "tcp": echo}
        address = await site.endpoint(handlers.get(protocol) or Multiplexed("a", ["answer"]))
    with last_port(address) as source:
        settings = pool(1, 1, protocol=protocol, source=source)
        gate = await site.gate([address], pool=settings, listener=TCP if protocol == "tcp" else None)
        for _ in range(3):
            assert not await one_exchange(gate, protocol)
        found = gate.total(10)
        assert found["local_connect_errors"] == 3
        assert (found["connect_errors"], found["response_errors"], found["errors"]) == (0, 0, 0)
        assert found.values("judged") == {"good": 0, "fault": 0}
        assert ejections(gate).state(0)[0] == WELL
        assert gate.in_flight() == 0

    async with asyncio.timeout(20):
        while not await one_exchange(gate, protocol):
            await asyncio.sleep(0.05)  # a shared connection is tried again after a pause


async def test_another_endpoint_has_ports_of_its_own(site: Site) -> None:
    full, free = Recorder(), Recorder()
    address = await site.endpoint(full)
    with last_port(address) as source:
        gate = await site.gate([address, await site.endpoint(free)], pool=pool(1, 1, source=source, retries=1))
        for _ in range(4):
            assert (await gate.exchange(GET)).startswith(b"HTTP/1.1 200 ")
        assert len(free.requests) == 4
        assert ejections(gate).state(0)[0] == WELL
        assert gate.total(10)["local_connect_errors"] == 2


async def test_copies_of_a_mirror(site: Site) -> None:
    _, pools = await shown(site, "main", "copy")
    with last_port(pools["copy"][0]) as source:
        copy = {"endpoints": pools["copy"], "source": f"{source.address}:{source.first}-{source.last}"}
        route = {"pool": "main", "mirror": {"pool": "copy"}}
        gate = await routing_gate(site, [route], {"main": pools["main"], "copy": copy})
        for _ in range(3):
            assert (await curl(gate, "/")).body == "main"
        found = gate.total(gate.plan.pools[1].endpoints[0].series)
        assert [found[word] for word in ("local_connect_errors", "connect_errors", "errors")] == [3, 0, 0]
        assert gate.in_flight() == 0


async def test_datagrams() -> None:
    made = UdpSite()
    try:
        endpoint = made.endpoint()
        with last_port(endpoint.address, socket.SOCK_DGRAM) as source:
            gate = made.gate([endpoint.address], pool={"source": source})
            client = made.client(gate.target)
            client.send(b"a")
            await settle(lambda: gate.counts()["dropped.resources"] == 1, "the datagram is dropped")
        assert await client.ask(b"b") == b"b"
    finally:
        made.close()
