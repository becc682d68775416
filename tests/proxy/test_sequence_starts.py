"""The first request of a sequence goes on to another endpoint when its own does not take it; later ones never do."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from datapath import Gate, Site, settle
from h2_client import Answer, H2Client, h2_client
from hedge_site import series
from oip_site import ModelServer, echo, plain
from queue_site import QUEUE, waiting
from scripted_peer import Peer
from test_sequence_streams import FIELDS, PATH, POOL, framed, opened, step

from lb.config.plan.plan import PolicyPlan
from lb.shared.affinity_table import AffinityTable
from lb.wire import grpc_service_pb2 as wire

REFUSED_STREAM = 7
INFER = "/inference.GRPCInferenceService/ModelInfer"
REST = "/v2/models/m/infer"
FIRST = PolicyPlan("first", options={"fill": 9})
KINDS = pytest.mark.parametrize("kind", ["rest", "grpc", "stream"])


@pytest.fixture
def dead() -> Iterator[str]:
    """An address that takes no connection."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def body_of(kind: str, key: int, start: bool = False, size: int = 4) -> bytes:
    if kind != "rest":
        return framed(key, start, size=size)
    return json.dumps(plain(parameters={"sequence_id": key, "sequence_start": start})).encode()


def head_of(kind: str) -> list[tuple[str, str]]:
    path = {"rest": REST, "grpc": INFER, "stream": PATH}[kind]
    fields = [("content-type", "application/json")] if kind == "rest" else FIELDS
    return [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", path), *fields]


async def result(client: H2Client, stream: int) -> str:
    """`ok`, or the status in words."""
    answer = await client.answer(stream)
    rpc = dict([*answer.fields, *answer.trailers]).get("grpc-status")
    if rpc is None:
        return {200: "ok", 409: "lost", 502: "not connected"}[answer.status]
    return {"0": "ok", "10": "lost", "14": "not connected"}[rpc]


async def send(gate: Gate, kind: str, key: int, start: bool = False, size: int = 4) -> str:
    async with h2_client(gate.port) as client:
        stream = client.open(head_of(kind), end=False)
        await client.send(stream, body_of(kind, key, start, size))
        return await result(client, stream)


async def gate_to(site: Site, *addresses: str, **pool: Any) -> Gate:
    return await site.gate(list(addresses), pool={**POOL, "policy": FIRST, **pool})


async def stop(gate: Gate, home: ModelServer) -> None:
    """The first endpoint goes away, and the gate has noticed."""
    await home.server.stop(None)
    channel = gate.proxy.pools[0].channels[0]
    await settle(lambda: channel.stats()["state"] != "up", "its connection stays")


def refusing(by: str) -> Any:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        await peer.settle()
        while True:
            stream, _, _ = await peer.request()
            if by == "GOAWAY":
                peer.goaway(0)
            else:
                peer.reset(stream, REFUSED_STREAM)

    return refuse


@KINDS
@pytest.mark.parametrize("by", ["connect", "GOAWAY", "RST_STREAM"])
async def test_the_first_goes_on_and_the_sequence_is_where_it_went(site: Site, dead: str, kind: str, by: str) -> None:
    server = ModelServer()
    first = dead if by == "connect" else await site.endpoint(refusing(by))
    gate = await gate_to(site, first, await site.model(server))
    assert await send(gate, kind, 7, start=True) == "ok"
    assert opened(gate) == {1: 1}
    for later in ("rest", "grpc", "stream"):
        assert await send(gate, later, 7) == "ok"
    assert len(server.requests) == 4
    assert (AffinityTable(gate.segment).opened, AffinityTable(gate.segment).lost) == (1, 0)
    assert series(gate)["retries"] == 1
    assert (await step(gate, 7, end=True)).status == 200
    assert opened(gate) == {}
    assert gate.in_flight() == 0


@pytest.mark.parametrize("kind", ["grpc", "stream"])
async def test_so_does_a_large_one(site: Site, dead: str, kind: str) -> None:
    server = ModelServer()
    gate = await gate_to(site, dead, await site.model(server))
    assert await send(gate, kind, 7, start=True, size=1_000_000) == "ok"
    assert len(server.requests[0].raw_input_contents[0]) == 1_000_000
    assert opened(gate) == {1: 1}


@KINDS
async def test_it_is_begun_anew_elsewhere_where_its_endpoint_is_gone(site: Site, kind: str) -> None:
    home, other = ModelServer(), ModelServer()
    gate = await gate_to(site, await site.model(home), await site.model(other))
    assert await send(gate, kind, 7, start=True) == "ok"
    assert opened(gate) == {0: 1}
    await stop(gate, home)
    assert await send(gate, kind, 7, start=True) == "ok"
    assert opened(gate) == {1: 1}
    assert await send(gate, kind, 7) == "ok"
    assert (len(home.requests), len(other.requests)) == (1, 2)
    assert AffinityTable(gate.segment).lost == 0


@KINDS
async def test_a_later_one_does_not(site: Site, kind: str) -> None:
    home, other = ModelServer(), ModelServer()
    gate = await gate_to(site, await site.model(home), await site.model(other), retries=5)
    assert await send(gate, kind, 7, start=True) == "ok"
    await stop(gate, home)
    assert await send(gate, kind, 7) == "lost"
    assert await send(gate, kind, 7) == "lost"  # as it is not open any more
    assert AffinityTable(gate.segment).lost == 1
    assert not other.requests


@KINDS
async def test_nor_does_the_first_where_nothing_is_tried_again(site: Site, dead: str, kind: str) -> None:
    server = ModelServer()
    gate = await gate_to(site, dead, await site.model(server), retries=0)
    for _ in range(2):
        assert await send(gate, kind, 7, start=True) == "not connected"
        assert opened(gate) == {}
    assert AffinityTable(gate.segment).lost == 0
    assert not server.requests


async def send_at_once(gate: Gate, kind: str, count: int = 3) -> list[str]:
    """The beginning of a sequence in one write: each has a byte more of tensor than the one before."""
    async with h2_client(gate.port) as client:
        streams = range(1, 2 * count, 2)
        for size, stream in enumerate(streams):
            client.answers[stream] = Answer()
            client.h2.send_headers(stream, head_of(kind))
            client.h2.send_data(stream, body_of(kind, 7, start=size == 0, size=size), end_stream=True)
        client.flush()
        return [await result(client, stream) for stream in streams]


@pytest.mark.parametrize("kind", ["rest", "grpc"])
async def test_those_that_came_right_behind_the_first_go_with_it(site: Site, dead: str, kind: str) -> None:
    """They wait for the same connection when it fails. Their sequence has nothing there."""
    server = ModelServer()
    gate = await gate_to(site, dead, await site.model(server))
    assert await send_at_once(gate, kind) == ["ok"] * 3
    assert [r.parameters["sequence_start"].bool_param for r in server.requests] == [True, False, False]
    assert opened(gate) == {1: 1}
    assert (AffinityTable(gate.segment).opened, AffinityTable(gate.segment).lost) == (1, 0)


@pytest.mark.parametrize("by", ["GOAWAY", "RST_STREAM"])
async def test_streams_that_are_refused_are_sent_again_in_their_order(site: Site, by: str) -> None:
    """The first of a sequence before the others, or its server refuses them."""
    sizes: list[int] = []

    async def refuse_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        await peer.settle()
        streams: list[int] = []
        while True:
            stream, _, body = await peer.request()
            sizes.append(len(body))
            streams.append(stream)
            if len(sizes) > 5:
                peer.answer(stream, wire.ModelInferResponse(model_name="m").SerializeToString())
            elif len(sizes) == 5 and by == "GOAWAY":
                peer.goaway(0)
            elif len(sizes) == 5:
                for one in streams:
                    peer.reset(one, REFUSED_STREAM)

    gate = await gate_to(site, await site.endpoint(refuse_once))
    assert await send_at_once(gate, "grpc", 5) == ["ok"] * 5
    assert sizes[5:] == sizes[:5] == sorted(sizes[:5])


async def test_all_of_them_go_on_where_an_endpoint_goes_away(site: Site) -> None:
    """It has not taken them, and takes no further connection."""
    other = ModelServer()

    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        await peer.settle()
        for _ in range(3):
            await peer.request()
        server.close()
        peer.goaway(0)
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(leave, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    gate = await gate_to(site, address, await site.model(other))
    assert await send_at_once(gate, "grpc") == ["ok"] * 3
    assert [r.parameters["sequence_start"].bool_param for r in other.requests] == [True, False, False]
    assert opened(gate) == {1: 1}
    assert AffinityTable(gate.segment).lost == 0


async def test_what_begins_in_later_messages_goes_with_its_stream(site: Site, dead: str) -> None:
    server = ModelServer()
    gate = await gate_to(site, dead, await site.model(server))
    async with h2_client(gate.port) as client:
        stream = client.open(head_of("stream"), end=False)
        await client.send(stream, framed(7, True) + framed(8, True) + framed(8) + framed(9, True), end=False)
        await settle(lambda: len(server.requests) == 4, "the messages came")
        await client.send(stream, framed(9, end=True) + framed(10, True))
        assert await result(client, stream) == "ok"
    assert opened(gate) == {1: 3}
    assert AffinityTable(gate.segment).opened == 4
    assert [(await step(gate, key)).status for key in (7, 8, 9, 10)] == [200, 200, 409, 200]


class Held(ModelServer):
    """Answers what belongs to a sequence at once, and else when told."""

    def __init__(self) -> None:
        super().__init__(self._behave)
        self.go = asyncio.Event()

    async def _behave(self, request: Any, context: Any) -> Any:
        if "sequence_id" not in request.parameters:
            await self.go.wait()
        return await echo(request, context)


@KINDS
@pytest.mark.parametrize("why", ["down", "removed"])
async def test_a_first_one_that_waits_for_the_endpoint_of_its_old_self(site: Site, kind: str, why: str) -> None:
    """Which goes away meanwhile."""
    home, other = Held(), Held()
    addresses = [await site.model(home), await site.model(other)]
    gate = await site.gate(addresses, cap=1, pool={**POOL, "policy": FIRST, "queue": QUEUE})
    assert await send(gate, kind, 7, start=True) == "ok"
    async with h2_client(gate.port) as client:
        busy = client.open(head_of("grpc"), end=False)
        await client.send(busy, framed(0))
        await settle(lambda: len(home.requests) == 2, "it does not get there")
        again = asyncio.create_task(send(gate, kind, 7, start=True))
        await settle(lambda: waiting(gate) == 1, "it does not wait")
        if why == "down":
            gate.segment.set_health(0, False, 0)
        else:
            site.reload_pool(gate, endpoints=gate.plan.pools[0].endpoints[1:])
        assert await again == "ok"
        assert opened(gate) == {1: 1}
        home.go.set()
        assert await result(client, busy) == "ok"
    assert (len(home.requests), len(other.requests)) == (2, 1)
    assert AffinityTable(gate.segment).lost == 0
