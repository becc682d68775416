"""Endpoints that a test tells what to do with each request, for hedges and retries."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from dataclasses import dataclass, field
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
from datapath import Gate, Site, settle
from oip_site import OIP, ModelServer, echo
from routing_site import routing_gate

from lb.endpoints.set import EndpointSet
from lb.shared.segment import Segment
from lb.telemetry.series import Series

HEDGE = {"after": "40ms", "budget": 100}
HTTP_STATUS = 3  # digits


def series(gate: Gate, index: int | None = None) -> Series:
    """Of the only route."""
    return gate.total(gate.plan.listeners[0].routes[0].series if index is None else index)


def results(gate: Gate) -> tuple[int, int, int, int]:
    """Hedges begun, won, lost, refused."""
    found = series(gate)
    return found["hedges"], *(found[f"hedge_results.{result}"] for result in ("won", "lost", "refused"))


async def idle(gate: Gate) -> None:
    await settle(lambda: gate.in_flight() == 0 and gate.proxy.busy() == 0, "something is left")
    for pool in gate.plan.pools:
        for endpoint in pool.endpoints:
            found = series(gate, endpoint.series)
            assert found["started"] == found["finished"]


# Endpoints, told by the test what to do with each request: "answer", "hang" until it is told to
# go on, "snap" then, "break" at once, or a status.


@dataclass
class Plain:
    """Speaks HTTP/1.1."""

    name: str
    turns: list[str]
    seen: list[bytes] = field(default_factory=list)
    resets: int = 0
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            self.seen.append(head + (await reader.readexactly(int(length[1])) if length else b""))
            turn = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
            if turn in ("hang", "snap"):
                waiter = asyncio.create_task(self.go.wait())
                gone = asyncio.create_task(reader.read(1))
                await asyncio.wait([waiter, gone], return_when=asyncio.FIRST_COMPLETED)
                waiter.cancel()
                if gone.done():
                    self.resets += isinstance(gone.exception(), ConnectionResetError)
                    return
                gone.cancel()
                turn = "answer" if turn == "hang" else "break"
            if turn == "break":
                writer.close()
                return
            status = b"200 OK" if turn == "answer" else turn.encode() + b" Status"
            body = self.name.encode()
            writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
            await writer.drain()


@dataclass
class Multiplexed:
    """Speaks HTTP/2; gRPC where it is told a code of it, or to answer: statuses of HTTP are of a proxy before it."""

    name: str
    turns: list[str]
    seen: list[bytes] = field(default_factory=list)
    fields: list[dict[str, str]] = field(default_factory=list)
    resets: list[int] = field(default_factory=list)  # codes of RST_STREAM
    go: asyncio.Event = field(default_factory=asyncio.Event)
    pushback: str = ""
    retry_after: str = ""  # of answers that are a status
    later_turn: str = "answer"  # of those that hang

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        connection.initiate_connection()
        bodies: dict[int, bytes] = {}
        kinds: dict[int, str] = {}
        while True:
            writer.write(connection.data_to_send())
            data = await reader.read(1 << 16)
            if not data:
                return
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    bodies[event.stream_id] = b""
                    self.fields.append(dict(event.headers))
                    kinds[event.stream_id] = self.fields[-1].get("content-type", "")
                elif isinstance(event, h2.events.DataReceived):
                    bodies[event.stream_id] += event.data
                    connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamReset):
                    self.resets.append(event.error_code)
                elif isinstance(event, h2.events.StreamEnded):
                    self.seen.append(bodies[event.stream_id])
                    turn = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
                    rpc = kinds[event.stream_id].startswith("application/grpc")
                    if turn in ("hang", "snap"):
                        asyncio.get_running_loop().create_task(
                            self.later(connection, writer, event.stream_id, rpc, bodies[event.stream_id], turn)
                        )
                    elif turn == "break":
                        writer.close()
                        return
                    else:
                        self.answer(connection, event.stream_id, turn, rpc, bodies[event.stream_id])

    async def later(self, connection: Any, writer: Any, stream: int, rpc: bool, body: bytes, turn: str) -> None:
        await self.go.wait()
        if turn == "snap":
            writer.close()
            return
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self.answer(connection, stream, self.later_turn, rpc, body)
            writer.write(connection.data_to_send())

    def answer(self, connection: Any, stream: int, turn: str, rpc: bool, body: bytes) -> None:
        if not rpc or (turn != "answer" and len(turn) == HTTP_STATUS):
            status = "200" if turn == "answer" else turn
            more = [("retry-after", self.retry_after)] if self.retry_after and turn != "answer" else []
            connection.send_headers(stream, [(":status", status), ("content-length", str(len(self.name))), *more])
            connection.send_data(stream, self.name.encode(), end_stream=True)
            return
        head = [(":status", "200"), ("content-type", "application/grpc")]
        if turn != "answer":
            more = [("grpc-retry-pushback-ms", self.pushback)] if self.pushback else []
            connection.send_headers(stream, [*head, ("grpc-status", turn), *more], end_stream=True)
            return
        reply = self.name.encode()
        connection.send_headers(stream, head)
        connection.send_data(stream, b"\0" + len(reply).to_bytes(4, "big") + reply)
        connection.send_headers(stream, [("grpc-status", "0")], end_stream=True)


ENDPOINTS: dict[str, Any] = {"http": Plain, "http2": Multiplexed}


async def two(
    site: Site, protocol: str, first: list[str], second: list[str], *, hedge: dict[str, Any] | None = None, **more: Any
) -> tuple[Gate, Any, Any]:
    """A route with hedges to a pool of two, of which the first gets the first request."""
    kind = ENDPOINTS.get(protocol, Multiplexed)
    a, b = kind("a", first), kind("b", second)
    addresses = [await site.endpoint(a), await site.endpoint(b)]
    pool = {"protocol": protocol, "endpoints": addresses, "policy": "round_robin", **more.pop("pool", {})}
    route = {"pool": "both", "hedge": HEDGE if hedge is None else hedge, **more.pop("route", {})}
    return await routing_gate(site, [route], {"both": pool}, **more), a, b


async def get(gate: Gate, method: str = "GET", body: bytes = b"") -> tuple[int, bytes]:
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    answer = await gate.exchange(
        b"%s /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n%s\r\n%s" % (method.encode(), length, body)
    )
    head, _, content = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), content


def lost(endpoint: Any) -> bool:
    """Whether the endpoint was told that nobody waits for it any more."""
    return endpoint.resets == 1 if isinstance(endpoint, Plain) else endpoint.resets == [8]  # CANCEL


BOTH = pytest.mark.parametrize("protocol", ["http", "http2"])


def averages(gate: Gate, *seconds: float) -> None:
    """What a policy would have learned of the endpoints of the only pool."""
    endpoints = gate.plan.pools[0].endpoints
    worker = Segment.attach(os.dup(gate.segment.fd), 0)
    known = EndpointSet(worker, [e.address for e in endpoints], [e.slot for e in endpoints])
    for i, average in enumerate(seconds):
        known.record_latency(i, average * 1e9, time.monotonic_ns())


# gRPC.


async def call(gate: Gate, method: str = "/test.Kinds/Unary", message: bytes = b"hello", **more: Any) -> Any:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        return await channel.unary_unary(method)(message, timeout=10, **more)


# The Open Inference Protocol.


class Told(ModelServer):
    """Hangs until told, or answers."""

    def __init__(self, hangs: bool) -> None:
        super().__init__(self._behave)
        self.hangs = hangs
        self.go = asyncio.Event()

    async def _behave(self, request: Any, context: Any) -> Any:
        if self.hangs:
            await self.go.wait()
        return await echo(request, context)


async def models(site: Site, *hangs: bool, policy: str = "round_robin", **route: Any) -> tuple[Gate, list[Told]]:
    servers = [Told(hang) for hang in hangs]
    addresses = [await site.model(server) for server in servers]
    pools = {"models": {**OIP, "endpoints": addresses, "policy": policy}}
    return await routing_gate(site, [{"pool": "models", "hedge": HEDGE, **route}], pools), servers
