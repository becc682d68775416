"""Hedges: a second try at another endpoint while the first is late, and what becomes of the loser."""

from __future__ import annotations

import asyncio
import contextlib
import json
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
from h2_client import h2_client
from oip_site import INFER, OIP, ModelServer, echo, plain
from oip_site import ask as ask_model
from routing_site import routing_gate

from lb.core.segment import Segment
from lb.endpoints.set import EndpointSet
from lb.telemetry.series import Series
from lb.wire import grpc_service_pb2 as wire

HEDGE = {"after": "40ms", "budget": 100}


def series(gate: Gate, index: int | None = None) -> Series:
    """Of the only route."""
    number = gate.plan.listeners[0].routes[0].series if index is None else index
    return Series.of(gate.segment.series_total(number))


def results(gate: Gate) -> tuple[int, int, int, int]:
    """Hedges begun, won, lost, refused."""
    found = series(gate)
    return found.hedges, found.hedges_won, found.hedges_lost, found.hedges_refused


async def idle(gate: Gate) -> None:
    await settle(lambda: gate.in_flight() == 0 and gate.proxy.busy() == 0, "something is left")
    for pool in gate.plan.pools:
        for endpoint in pool.endpoints:
            found = series(gate, endpoint.series)
            assert found.started == found.finished


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
    """Speaks HTTP/2, or gRPC where it is told a code of it."""

    name: str
    turns: list[str]
    seen: list[bytes] = field(default_factory=list)
    fields: list[dict[str, str]] = field(default_factory=list)
    resets: list[int] = field(default_factory=list)  # codes of RST_STREAM
    go: asyncio.Event = field(default_factory=asyncio.Event)
    pushback: str = ""

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
            self.answer(connection, stream, "answer", rpc, body)
            writer.write(connection.data_to_send())

    def answer(self, connection: Any, stream: int, turn: str, rpc: bool, body: bytes) -> None:
        if not rpc:
            status = "200" if turn == "answer" else turn
            connection.send_headers(stream, [(":status", status), ("content-length", str(len(self.name)))])
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


@BOTH
async def test_the_hedge_answers_and_the_first_try_is_cancelled(site: Site, protocol: str) -> None:
    gate, a, b = await two(site, protocol, ["hang"], ["answer"])
    assert await get(gate) == (200, b"b")
    await settle(lambda: lost(a), "the first endpoint was not told")
    assert results(gate) == (1, 1, 0, 0)
    await idle(gate)
    assert len(a.seen) == len(b.seen) == 1
    words = [series(gate, endpoint.series) for endpoint in gate.plan.pools[0].endpoints]
    assert [word.codes for word in words] == [(0, 0, 0, 0, 0, 1), (0, 1, 0, 0, 0, 0)]


@BOTH
async def test_the_first_try_answers_and_the_hedge_is_cancelled(site: Site, protocol: str) -> None:
    gate, a, b = await two(site, protocol, ["hang"], ["hang"])
    task = asyncio.create_task(get(gate))
    await settle(lambda: len(b.seen) == 1, "no hedge")
    assert gate.in_flight() == 2
    a.go.set()
    assert await task == (200, b"a")
    await settle(lambda: lost(b), "the hedge's endpoint was not told")
    assert results(gate) == (1, 0, 1, 0)
    await idle(gate)


@BOTH
async def test_a_quick_answer_has_no_hedge(site: Site, protocol: str) -> None:
    gate, _a, _b = await two(site, protocol, ["answer"], ["answer"])
    assert [(await get(gate))[1] for _ in range(4)] == [b"a", b"b", b"a", b"b"]
    await asyncio.sleep(0.15)
    assert results(gate) == (0, 0, 0, 0)
    await idle(gate)


@BOTH
async def test_both_answer_at_the_same_moment(site: Site, protocol: str) -> None:
    gate, a, b = await two(site, protocol, ["hang"], ["hang"])
    b.go = a.go
    for _ in range(20):
        before = len(a.seen) + len(b.seen)
        task = asyncio.create_task(get(gate))
        await settle(lambda before=before: len(a.seen) + len(b.seen) == before + 2, "no hedge")  # type: ignore[misc]
        a.go.set()
        status, body = await task
        assert (status, body in (b"a", b"b")) == (200, True)
        a.go.clear()
    await idle(gate)
    begun, won, gone, refused = results(gate)
    assert (begun, won + gone, refused) == (20, 20, 0)


@BOTH
@pytest.mark.parametrize("turn", ["503", "500", "429", "break"])
async def test_a_hedge_that_fails_does_not_win(site: Site, protocol: str, turn: str) -> None:
    gate, a, _b = await two(site, protocol, ["hang"], [turn])
    task = asyncio.create_task(get(gate))
    await settle(lambda: results(gate)[2] == 1, "the hedge is not lost")
    assert gate.in_flight() == 1
    a.go.set()
    assert await task == (200, b"a")
    await idle(gate)


@BOTH
async def test_a_first_try_that_breaks_leaves_it_to_the_hedge(site: Site, protocol: str) -> None:
    gate, a, b = await two(site, protocol, ["snap"], ["hang"])
    task = asyncio.create_task(get(gate))
    await settle(lambda: len(b.seen) == 1, "no hedge")
    a.go.set()
    await settle(lambda: gate.in_flight() == 1, "it is not noticed")
    b.go.set()
    assert await task == (200, b"b")
    await idle(gate)
    assert results(gate) == (1, 1, 0, 0)
    assert series(gate).retries == 0


@BOTH
async def test_the_client_leaves_during_a_hedge(site: Site, protocol: str) -> None:
    gate, a, b = await two(site, protocol, ["hang"], ["hang"])
    _, writer = await gate.connect()
    writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
    await settle(lambda: len(b.seen) == 1, "no hedge")
    writer.transport.abort()
    await settle(lambda: lost(a) and lost(b), "the endpoints were not told")
    await idle(gate)
    assert results(gate) == (1, 0, 1, 0)


@BOTH
async def test_the_deadline_passes_during_a_hedge(site: Site, protocol: str) -> None:
    gate, a, b = await two(site, protocol, ["hang"], ["hang"], route={"timeout": 300_000_000})
    assert (await get(gate))[0] == 504
    await settle(lambda: lost(a) and lost(b), "the endpoints were not told")
    await idle(gate)


@BOTH
async def test_a_reload_during_a_hedge(site: Site, protocol: str) -> None:
    gate, a, b = await two(site, protocol, ["hang"], ["hang"])
    task = asyncio.create_task(get(gate))
    await settle(lambda: len(b.seen) == 1, "no hedge")
    gate.proxy.apply(gate.plan, dict(gate.proxy.descriptors))
    b.go.set()
    assert await task == (200, b"b")
    await settle(lambda: lost(a), "the first endpoint was not told")
    await idle(gate)
    assert await get(gate) == (200, b"b")


@BOTH
async def test_what_may_not_be_repeated_has_no_hedge(site: Site, protocol: str) -> None:
    gate, a, _b = await two(site, protocol, ["hang"], ["answer"])
    task = asyncio.create_task(get(gate, "POST", b"body"))
    await asyncio.sleep(0.2)
    a.go.set()
    assert await task == (200, b"a")
    assert results(gate) == (0, 0, 0, 0)


@BOTH
async def test_a_route_may_say_that_its_posts_can(site: Site, protocol: str) -> None:
    gate, a, b = await two(site, protocol, ["hang"], ["answer"], route={"idempotent": True})
    assert await get(gate, "POST", b"body") == (200, b"b")
    assert b.seen[0].endswith(b"body")
    assert a.seen[0].endswith(b"body")
    await idle(gate)


@BOTH
async def test_what_is_not_kept_has_no_hedge(site: Site, protocol: str) -> None:
    gate, a, b = await two(site, protocol, ["hang"], ["answer"], retry_buffer=1000)
    # Kept while it is not connected; so a connection first.
    warm = asyncio.create_task(get(gate))
    assert await warm == (200, b"b")
    task = asyncio.create_task(get(gate, "PUT", bytes(200_000)))
    await settle(lambda: len(a.seen) == 2 or len(b.seen) == 2, "no request")
    await asyncio.sleep(0.2)
    begun = results(gate)[0]
    a.go.set()
    assert (await task)[0] == 200
    assert begun == 1
    await idle(gate)


@BOTH
async def test_the_budget(site: Site, protocol: str) -> None:
    gate, a, b = await two(site, protocol, ["hang"], ["hang"], hedge={"after": "20ms", "budget": 0, "budget_min": 1})
    tasks = [asyncio.create_task(get(gate)) for _ in range(4)]
    await settle(lambda: results(gate)[3] == 3, "nothing was refused")
    a.go.set()
    b.go.set()
    await asyncio.gather(*tasks)
    assert results(gate)[0] == 1
    await idle(gate)


@BOTH
async def test_no_hedge_without_another_endpoint(site: Site, protocol: str) -> None:
    gate, a, b = await two(site, protocol, ["hang"], ["answer"])
    gate.segment.set_health(gate.plan.pools[0].endpoints[1].slot, False, 0)
    task = asyncio.create_task(get(gate))
    await asyncio.sleep(0.15)
    assert (len(a.seen), len(b.seen), gate.in_flight()) == (1, 0, 1)
    a.go.set()
    assert await task == (200, b"a")
    await idle(gate)


@BOTH
async def test_caps_hold_for_hedges_and_none_waits(site: Site, protocol: str) -> None:
    gate, a, b = await two(site, protocol, ["hang"], ["hang"], pool={"max_in_flight": 1})
    tasks = [asyncio.create_task(get(gate)) for _ in range(3)]
    await asyncio.sleep(0.3)
    assert results(gate) == (0, 0, 0, 0)
    assert (len(a.seen), len(b.seen)) == (1, 1)  # the third waits in the queue
    a.go.set()
    b.go.set()
    assert [status for status, _ in await asyncio.gather(*tasks)] == [200] * 3
    await idle(gate)


async def test_an_endpoint_that_lost_is_left_alone_for_a_while(site: Site) -> None:
    gate, a, _b = await two(site, "http", ["hang"], ["answer"], hedge={"after": "100ms", "budget": 100})
    assert await get(gate) == (200, b"b")
    # Round robin's next is a; but it has kept one waiting just now.
    assert [(await get(gate))[1] for _ in range(4)] == [b"b"] * 4
    assert len(a.seen) == 1
    a.go.set()
    await asyncio.sleep(0.15)
    assert {(await get(gate))[1] for _ in range(4)} == {b"a", b"b"}
    await idle(gate)


def averages(gate: Gate, *seconds: float) -> None:
    """What a policy would have learned of the endpoints of the only pool."""
    endpoints = gate.plan.pools[0].endpoints
    worker = Segment.attach(os.dup(gate.segment.fd), 0)
    known = EndpointSet(worker, [e.address for e in endpoints], [e.slot for e in endpoints])
    for i, average in enumerate(seconds):
        known.set_latency_checked(i, average * 1e9, time.monotonic_ns())


async def test_one_that_has_answered_nobody_for_long_is_left_alone_for_longer(site: Site) -> None:
    gate, a, _b = await two(site, "http", ["hang"], ["answer"], hedge={"after": "100ms", "budget": 100})
    averages(gate, 0.001, 0.001)
    assert await get(gate) == (200, b"b")
    a.go.set()
    await asyncio.sleep(0.2)  # twice as long as it was waited for
    assert [(await get(gate))[1] for _ in range(4)] == [b"b"] * 4
    await asyncio.sleep(1)
    assert {(await get(gate))[1] for _ in range(4)} == {b"a", b"b"}
    await idle(gate)


async def test_what_is_slow_by_nature_has_twice_its_average(site: Site) -> None:
    hedge = {"after": "p90", "budget": 100, "samples": 20}
    gate, a, _b = await two(site, "http", ["answer"], ["answer"], hedge=hedge)
    for _ in range(20):
        assert (await get(gate))[0] == 200
    a.turns = ["hang"]
    await asyncio.sleep(0.1)  # until the quantile is looked at again
    averages(gate, 0.3, 0.3)
    began = asyncio.get_running_loop().time()
    assert [(await get(gate))[1] for _ in range(2)] == [b"b"] * 2  # one of them by a hedge
    assert asyncio.get_running_loop().time() - began >= 0.6
    assert results(gate)[1] == 1
    await idle(gate)


async def test_after_a_quantile(site: Site) -> None:
    hedge = {"after": "p90", "budget": 100, "samples": 20}
    gate, a, b = await two(site, "http", ["answer"], ["answer"], hedge=hedge)
    a.turns = ["hang"]
    a.go.set()
    for _ in range(20):
        assert (await get(gate))[0] == 200
    assert results(gate)[0] == 0
    a.go.clear()
    b.turns = ["answer"]
    await asyncio.sleep(0.1)
    answers = [await asyncio.wait_for(get(gate), 5) for _ in range(2)]
    assert answers == [(200, b"b")] * 2
    assert results(gate)[1] >= 1
    await idle(gate)


# HTTP/2 in front.


@BOTH
async def test_http2_in_front(site: Site, protocol: str) -> None:
    gate, a, _b = await two(site, protocol, ["hang"], ["answer"])
    async with h2_client(gate.port) as client:
        answer = await client.fetch("/x")
        assert (answer.status, answer.body) == (200, b"b")
        stream = client.request("/x")
        await settle(lambda: lost(a), "the first endpoint was not told")
        assert (await asyncio.wait_for(client.answer(stream), 5)).body == b"b"
    await idle(gate)


# gRPC.


async def call(gate: Gate, method: str = "/test.Kinds/Unary", message: bytes = b"hello", **more: Any) -> Any:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        return await channel.unary_unary(method)(message, timeout=10, **more)


async def test_a_grpc_method_that_the_route_declares_safe(site: Site) -> None:
    gate, a, b = await two(site, "grpc", ["hang"], ["answer"], route={"idempotent": True})
    assert await call(gate) == b"b"
    assert a.seen == b.seen
    await settle(lambda: lost(a), "the first endpoint was not told")
    await idle(gate)


async def test_other_grpc_methods_have_none(site: Site) -> None:
    gate, a, _b = await two(site, "grpc", ["hang"], ["answer"])
    task = asyncio.create_task(call(gate))
    await asyncio.sleep(0.2)
    a.go.set()
    assert await task == b"a"
    assert results(gate)[0] == 0


async def test_a_grpc_error_of_the_hedge_does_not_win(site: Site) -> None:
    gate, a, _b = await two(site, "grpc", ["hang"], ["14"], route={"idempotent": True})
    task = asyncio.create_task(call(gate))
    await settle(lambda: results(gate)[2] == 1, "the hedge is not lost")
    a.go.set()
    assert await task == b"a"
    await idle(gate)


async def test_a_stream_that_is_still_sent_has_no_hedge(site: Site) -> None:
    gate, a, _b = await two(site, "grpc", ["hang"], ["answer"], route={"idempotent": True})
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        both = channel.stream_stream("/test.Kinds/Both")()
        await both.write(b"one")
        await settle(lambda: len(a.fields) == 1, "no request")
        await asyncio.sleep(0.2)
        assert results(gate)[0] == 0
        both.cancel()
    await idle(gate)


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


async def test_an_inference_has_a_hedge(site: Site) -> None:
    gate, (a, b) = await models(site, True, False)
    answer = await ask_model(gate, plain())
    assert answer.status == 200
    assert answer.json["outputs"][0]["data"] == [1.5, -2.0]
    assert len(a.requests) == len(b.requests) == 1
    await settle(lambda: a.cancelled == 1, "the first server was not told")
    await idle(gate)
    assert results(gate) == (1, 1, 0, 0)


async def test_the_first_server_answers_and_the_hedge_is_cancelled(site: Site) -> None:
    gate, (a, b) = await models(site, True, True)
    task = asyncio.create_task(ask_model(gate, plain()))
    await settle(lambda: len(b.requests) == 1, "no hedge")
    a.go.set()
    assert (await task).status == 200
    await settle(lambda: b.cancelled == 1, "the hedge's server was not told")
    await idle(gate)
    assert results(gate) == (1, 0, 1, 0)


@pytest.mark.parametrize("sequence", [7, "talk"])
async def test_a_sequence_has_none(site: Site, sequence: int | str) -> None:
    gate, (a, b) = await models(site, True, False)
    task = asyncio.create_task(ask_model(gate, plain(parameters={"sequence_id": sequence, "sequence_start": True})))
    await asyncio.sleep(0.2)
    a.go.set()
    assert (await task).status == 200
    assert (len(a.requests), len(b.requests), results(gate)[0]) == (1, 0, 0)
    await idle(gate)


def infer_request(sequence: int = 0) -> bytes:
    made = wire.ModelInferRequest(model_name="m")
    if sequence:
        made.parameters["sequence_id"].int64_param = sequence
        made.parameters["sequence_start"].bool_param = True
    return made.SerializeToString()


@pytest.mark.parametrize(("sequence", "hedges"), [(0, 1), (7, 0)])
async def test_an_inference_over_grpc(site: Site, sequence: int, hedges: int) -> None:
    gate, (a, b) = await models(site, True, False)
    method = "/inference.GRPCInferenceService/ModelInfer"
    task = asyncio.create_task(call(gate, method, infer_request(sequence)))
    await settle(lambda: len(a.requests) == 1 and results(gate)[0] == hedges, "no request, or no hedge")
    await asyncio.sleep(0.2)
    a.go.set()
    await task
    assert results(gate)[0] == len(b.requests) == hedges
    await idle(gate)


async def test_the_client_of_an_inference_leaves_during_its_hedge(site: Site) -> None:
    gate, (a, b) = await models(site, True, True)
    _reader, writer = await gate.connect()
    body = json.dumps(plain()).encode()
    writer.write(b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (INFER.encode(), len(body), body))
    await settle(lambda: len(b.requests) == 1, "no hedge")
    writer.transport.abort()
    await settle(lambda: a.cancelled == b.cancelled == 1, "the servers were not told")
    await idle(gate)


# Retries, beside what tests/proxy/test_routing_actions.py and test_infer.py have.


async def retried(
    site: Site, protocol: str, first: list[str], second: list[str], **retry: Any
) -> tuple[Gate, Any, Any]:
    retry = {"budget": 100, **retry}
    return await two(site, protocol, first, second, hedge={"after": "30s"}, route={"retry": retry})


CODES = {"unavailable": "14", "resource-exhausted": "8", "cancelled": "1", "internal": "13", "deadline-exceeded": "4"}


@pytest.mark.parametrize("name", CODES)
async def test_grpc_codes_by_envoys_names(site: Site, name: str) -> None:
    code = CODES[name]
    gate, a, b = await retried(site, "grpc", [code], ["answer"], on=[name])
    assert await call(gate) == b"b"
    assert a.seen == b.seen
    assert series(gate).retries == 1
    await idle(gate)
    gate, a, b = await retried(site, "grpc", [code], ["answer"], on=["reset"])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(gate)
    assert caught.value.code().value[0] == int(code)
    assert len(b.seen) == 0
    await idle(gate)


@pytest.mark.parametrize(("pushback", "tries"), [("-1", 1), ("50", 2), ("x", 1)])
async def test_pushback_of_a_grpc_server(site: Site, pushback: str, tries: int) -> None:
    gate, a, b = await retried(site, "grpc", ["14"], ["answer"], on=["unavailable"], backoff={"base": 0})
    a.pushback = pushback
    started = asyncio.get_running_loop().time()
    if tries == 1:
        with pytest.raises(grpc.aio.AioRpcError):
            await call(gate)
    else:
        assert await call(gate) == b"b"
        assert asyncio.get_running_loop().time() - started >= 0.05
    assert len(a.seen) + len(b.seen) == tries
    await idle(gate)


async def test_http2_pools_have_5xx_and_timeouts_too(site: Site) -> None:
    gate, a, b = await retried(site, "http2", ["503"], ["answer"], on=["5xx"])
    assert await get(gate) == (200, b"b")
    b.turns = ["503"]
    assert (await get(gate, "POST", b"x"))[0] == 503
    assert len(a.seen) + len(b.seen) == 3  # not repeated
    await idle(gate)
    retry = {"on": ["timeout"], "per_try_timeout": 600_000_000}
    gate, a, b = await retried(site, "http2", ["hang"], ["answer"], **retry)
    assert await get(gate) == (200, b"b")
    assert a.resets == [8]
    await idle(gate)


SLOW = {"base": 400_000_000, "max": 400_000_000}


@BOTH
async def test_the_pause_before_a_retry_holds_nothing_and_ends_with_the_client(site: Site, protocol: str) -> None:
    gate, a, b = await retried(site, protocol, ["503"], ["503"], on=["5xx"], attempts=10, backoff=SLOW)
    paused = 0
    _, writer = await gate.connect()
    writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
    for _ in range(200):
        await asyncio.sleep(0.005)
        paused += gate.in_flight() == 0 and gate.proxy.busy() == 1
        if paused > 5:
            break
    assert paused > 5
    writer.transport.abort()
    await idle(gate)
    seen = len(a.seen) + len(b.seen)
    await asyncio.sleep(0.5)
    assert len(a.seen) + len(b.seen) == seen


@BOTH
async def test_a_deadline_that_would_pass_in_the_pause(site: Site, protocol: str) -> None:
    """The answer that there is goes to the client, rather than a 504 later."""
    gate, _a, _b = await two(
        site, protocol, ["503"], ["answer"], hedge={"after": "30s"},
        route={"retry": {"on": ["5xx"], "backoff": {"base": 60_000_000_000}, "budget": 100}, "timeout": 200_000_000},
    )  # fmt: skip
    assert (await get(gate))[0] == 503
    await idle(gate)


@BOTH
async def test_a_body_that_comes_in_the_pause_is_kept(site: Site, protocol: str) -> None:
    gate, _a, _b = await two(
        site, protocol, ["answer"], ["answer"], hedge={"after": "30s"},
        pool={"endpoints": ["127.0.0.1:1", await site.endpoint(Plain("c", ["answer"]) if protocol == "http"
                                                              else (c := Multiplexed("c", ["answer"])))]},
        route={"retry": {"on": ["connect"], "attempts": 5, "backoff": SLOW, "budget": 100}},
    )  # fmt: skip
    for _ in range(2):
        reader, writer = await gate.connect()
        writer.write(b"POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbo")
        await asyncio.sleep(0.02)
        writer.write(b"dy")
        answer = await asyncio.wait_for(reader.read(-1), 10)
        assert answer.startswith(b"HTTP/1.1 200 ")
    if protocol == "http2":
        assert set(c.seen) == {b"body"}
    await idle(gate)


async def test_the_retry_budget(site: Site) -> None:
    gate, _a, _b = await retried(site, "http", ["503"], ["503"], on=["5xx"], budget=0, budget_min=2)
    answers = [await get(gate) for _ in range(5)]
    assert [status for status, _ in answers] == [503] * 5
    found = series(gate)
    assert found.retries + found.retries_refused == 5
    assert 2 <= found.retries <= 3  # a token comes back every half second


async def test_an_inference_after_resource_exhausted(site: Site) -> None:
    async def exhausted(request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")

    servers = ModelServer(exhausted), ModelServer()
    pool = {**OIP, "endpoints": [await site.model(one) for one in servers], "policy": "round_robin"}
    for on, status in ((["resource-exhausted"], 200), (["reset"], 429)):
        route = {"pool": "models", "retry": {"on": on, "budget": 100}}
        gate = await routing_gate(site, [route], {"models": pool})
        assert (await ask_model(gate, plain())).status == status
        await idle(gate)
    sequence = plain(parameters={"sequence_id": 9, "sequence_start": True})
    gate = await routing_gate(site, [{"pool": "models", "retry": {"on": ["resource-exhausted"]}}], {"models": pool})
    assert (await ask_model(gate, sequence)).status == 429
