"""Requests that wait for an endpoint: in what order they are served, and when they are refused."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from datapath import ROUTE, SECOND, Gate, Site, listening_socket, settle
from h2_client import h2_client
from oip_site import OIP, ModelServer, echo, plain
from oip_site import ask as ask_model
from ports import free_port

from lb.config.plan import QueuePlan
from lb.core.segment import Segment
from lb.proxy.proxy import Proxy
from lb.telemetry.series import Series
from lb.wire import grpc_service_pb2 as wire

QUEUE = QueuePlan(series=300, max=100, timeout_ns=10 * SECOND, overload_after_ns=60 * SECOND, overload_share=0.25)
MILLISECOND = 1_000_000


class Held:
    """An endpoint that answers a request with its path, one at a time and when told to; `seen` are their paths."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.bodies: list[bytes] = []
        self.active = 0
        self.peak = 0
        self.turns = asyncio.Semaphore(0)

    def answer(self, count: int = 1) -> None:
        for _ in range(count):
            self.turns.release()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split()[1]
            length = re.search(r"(?i)content-length: (\d+)", head)
            self.active += 1
            self.peak = max(self.peak, self.active)
            self.seen.append(path)
            self.bodies.append(await reader.readexactly(int(length[1])) if length else b"")
            await self.turns.acquire()
            self.active -= 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(path), path.encode()))
            await writer.drain()


class Once:
    """An endpoint that closes its first connection without an answer, and answers at once from then on."""

    def __init__(self) -> None:
        self.failed = False

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            if not self.failed:
                self.failed = True
                writer.close()
                return
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()


def line(gate: Gate, series: int = QUEUE.series) -> Series:
    return Series.of(gate.segment.series_total(series))


def waiting(gate: Gate) -> int:
    return line(gate).started - line(gate).finished


async def ask(gate: Gate, path: str) -> bytes:
    return await gate.exchange(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())


async def wait(gate: Gate, path: str) -> asyncio.Task[bytes]:
    """A request that has joined the queue."""
    before = waiting(gate)
    task = asyncio.create_task(ask(gate, path))
    await settle(lambda: waiting(gate) == before + 1, f"{path} does not wait")
    return task


async def hold(gate: Gate, endpoint: Held, path: str = "/first") -> asyncio.Task[bytes]:
    """A request that has the endpoint."""
    task = asyncio.create_task(ask(gate, path))
    await settle(lambda: path in endpoint.seen, f"{path} does not get there")
    return task


def routes(*settings: dict[str, Any]) -> tuple[Any, ...]:
    """A route for each, by the prefix `name`."""
    return tuple(
        replace(ROUTE, series=2 + i, path_kind="prefix", path=f"/{one['name']}", **one)
        for i, one in enumerate(settings)
    )


async def capped(site: Site, endpoint: Held, queue: QueuePlan | None = QUEUE, **settings: Any) -> Gate:
    pool = {"queue": queue, **settings.pop("pool", {})}
    return await site.gate([await site.endpoint(endpoint)], cap=1, pool=pool, **settings)


async def test_first_come_first_served_one_at_a_time(site: Site) -> None:
    endpoint = Held()
    gate = await capped(site, endpoint)
    tasks = [await hold(gate, endpoint), *[await wait(gate, f"/{i}") for i in range(6)]]
    endpoint.answer(7)
    answers = await asyncio.gather(*tasks)
    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)
    assert endpoint.seen == ["/first", *(f"/{i}" for i in range(6))]
    assert endpoint.peak == 1
    assert gate.in_flight() == 0
    found = line(gate)
    assert (found.started, found.finished, found.rejected, found.timeouts) == (6, 6, 0, 0)
    assert sum(found.buckets) == 6
    assert found.duration_ns > 0


async def test_a_newcomer_does_not_pass_those_who_wait(site: Site) -> None:
    endpoint = Held()
    gate = await capped(site, endpoint)
    first, second = await hold(gate, endpoint), await wait(gate, "/second")
    newcomers = [asyncio.create_task(ask(gate, "/new")) for _ in range(4)]
    endpoint.answer(6)
    await asyncio.gather(first, second, *newcomers)
    assert endpoint.seen[:2] == ["/first", "/second"]


async def test_a_full_queue(site: Site) -> None:
    endpoint = Held()
    gate = await capped(site, endpoint, replace(QUEUE, max=2))
    tasks = [await hold(gate, endpoint), await wait(gate, "/1"), await wait(gate, "/2")]
    answer = await ask(gate, "/3")
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 1\r\n" in answer
    assert b"queue is full" in answer
    assert line(gate).rejected == 1
    endpoint.answer(3)
    await asyncio.gather(*tasks)
    assert "/3" not in endpoint.seen


async def test_without_a_queue(site: Site) -> None:
    endpoint = Held()
    gate = await capped(site, endpoint, None)
    first = await hold(gate, endpoint)
    assert (await ask(gate, "/2")).startswith(b"HTTP/1.1 503 ")
    endpoint.answer()
    await first


async def test_the_longest_wait(site: Site) -> None:
    endpoint = Held()
    gate = await capped(site, endpoint, replace(QUEUE, timeout_ns=50 * MILLISECOND))
    first, second = await hold(gate, endpoint), await wait(gate, "/2")
    answer = await second
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert waiting(gate) == 0
    assert line(gate).timeouts == 1
    endpoint.answer()
    await first
    assert endpoint.seen == ["/first"]


async def test_a_deadline_passes_while_it_waits(site: Site) -> None:
    endpoint = Held()
    listener = {"routes": routes({"name": "soon", "timeout_ns": 50 * MILLISECOND}, {"name": ""})}
    gate = await capped(site, endpoint, listener=listener)
    first = await hold(gate, endpoint)
    answer = await ask(gate, "/soon")
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert waiting(gate) == 0
    assert line(gate).timeouts == 1
    endpoint.answer()
    await first
    assert endpoint.seen == ["/first"]


async def test_a_client_that_leaves(site: Site) -> None:
    endpoint = Held()
    gate = await capped(site, endpoint)
    first = await hold(gate, endpoint)
    _, writer = await gate.connect()
    writer.write(b"GET /gone HTTP/1.1\r\nHost: a\r\n\r\n")
    await settle(lambda: waiting(gate) == 1, "it does not wait")
    third = await wait(gate, "/third")
    writer.close()
    await settle(lambda: waiting(gate) == 1, "it still waits")
    assert line(gate).cache_collapsed == 1  # TG_S_QUEUE_LEFT
    endpoint.answer(2)
    await asyncio.gather(first, third)
    assert endpoint.seen == ["/first", "/third"]


async def test_priorities(site: Site) -> None:
    endpoint = Held()
    listener = {"routes": routes(*({"name": name, "priority": i} for i, name in enumerate(("high", "normal", "low"))))}
    gate = await capped(site, endpoint, listener=listener)
    paths = ("/low/1", "/normal/1", "/high/1", "/low/2", "/normal/2", "/high/2")
    tasks = [await hold(gate, endpoint, "/low"), *[await wait(gate, path) for path in paths]]
    endpoint.answer(7)
    await asyncio.gather(*tasks)
    assert endpoint.seen[1:] == ["/high/1", "/high/2", "/normal/1", "/normal/2", "/low/1", "/low/2"]


async def test_a_higher_priority_takes_the_last_place(site: Site) -> None:
    endpoint = Held()
    listener = {"routes": routes({"name": "high", "priority": 0}, {"name": "low", "priority": 2})}
    gate = await capped(site, endpoint, replace(QUEUE, max=2), listener=listener)
    tasks = [await hold(gate, endpoint, "/low"), await wait(gate, "/low/1")]
    last = await wait(gate, "/low/2")
    tasks.append(asyncio.create_task(ask(gate, "/high/1")))
    assert (await last).startswith(b"HTTP/1.1 503 ")
    assert (await ask(gate, "/low/3")).startswith(b"HTTP/1.1 503 ")
    endpoint.answer(3)
    await asyncio.gather(*tasks)
    assert endpoint.seen == ["/low", "/high/1", "/low/1"]


async def test_the_earliest_deadline_goes_first(site: Site) -> None:
    endpoint = Held()
    limits = (("c", 30), ("b", 20), ("a", 10))
    listener = {"routes": routes(*({"name": name, "timeout_ns": seconds * SECOND} for name, seconds in limits))}
    gate = await capped(site, endpoint, replace(QUEUE, timeout_ns=60 * SECOND), listener=listener)
    tasks = [await hold(gate, endpoint, "/c"), *[await wait(gate, path) for path in ("/c/1", "/b/1", "/a/1")]]
    endpoint.answer(4)
    await asyncio.gather(*tasks)
    assert endpoint.seen[1:] == ["/a/1", "/b/1", "/c/1"]


async def test_who_could_not_be_answered_in_time_is_refused_at_once(site: Site) -> None:
    endpoint = Held()
    listener = {"routes": routes({"name": "soon", "timeout_ns": 350 * MILLISECOND}, {"name": ""})}
    gate = await capped(site, endpoint, listener=listener)
    first = await hold(gate, endpoint)
    await asyncio.sleep(0.2)
    endpoint.answer()
    await first  # one request takes 200 ms, as far as anybody knows
    tasks = [await hold(gate, endpoint, "/second"), await wait(gate, "/third")]
    began = asyncio.get_running_loop().time()
    answer = await ask(gate, "/soon")
    assert asyncio.get_running_loop().time() - began < 0.3, "it waited for its deadline"
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"too long to answer in time" in answer
    assert line(gate).cache_miss == 1  # TG_S_QUEUE_HOPELESS
    endpoint.answer(2)
    await asyncio.gather(*tasks)
    assert "/soon" not in endpoint.seen


async def test_an_overload_that_lasts_keeps_the_queue_short(site: Site) -> None:
    endpoint = Held()
    queue = replace(QUEUE, timeout_ns=2 * SECOND, overload_after_ns=50 * MILLISECOND, overload_share=0.2)
    gate = await capped(site, endpoint, queue)
    first = await hold(gate, endpoint)
    await asyncio.sleep(0.2)
    endpoint.answer()
    await first  # one request takes 200 ms
    tasks = [
        await hold(gate, endpoint, "/second"),
        await wait(gate, "/1"),
        await wait(gate, "/2"),
        await wait(gate, "/3"),
    ]
    await asyncio.sleep(0.1)
    answer = await ask(gate, "/4")  # it would wait for 800 ms; a fifth of two seconds is left for that
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"overloaded" in answer
    assert line(gate).cache_stored == 1  # TG_S_QUEUE_SHED
    endpoint.answer(4)
    await asyncio.gather(*tasks)
    # The queue was empty for a moment: no overload any more.
    tasks = [await hold(gate, endpoint, "/again"), *[await wait(gate, f"/again/{i}") for i in range(3)]]
    endpoint.answer(4)
    assert all(a.startswith(b"HTTP/1.1 200 ") for a in await asyncio.gather(*tasks))


@pytest.mark.parametrize("protocol", ["http", "http2"])
async def test_a_body_that_comes_while_it_waits(site: Site, protocol: str) -> None:
    endpoint = Held()
    gate = await capped(site, endpoint)
    first = await hold(gate, endpoint)
    body = bytes(range(256)) * 150
    if protocol == "http":
        reader, writer = await gate.connect()
        writer.write(b"POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body))
        await settle(lambda: waiting(gate) == 1, "it does not wait")
        for start in range(0, len(body), 10_000):
            writer.write(body[start : start + 10_000])
            await asyncio.sleep(0.005)
        endpoint.answer(2)
        answer = await asyncio.wait_for(reader.read(-1), 20)
        writer.close()
        assert answer.endswith(b"/post")
    else:
        async with h2_client(gate.port) as client:
            fields = [("content-length", str(len(body)))]
            stream = client.request("/post", method="POST", fields=fields, end=False)
            await settle(lambda: waiting(gate) == 1, "it does not wait")
            await client.send(stream, body, end=True)
            endpoint.answer(2)
            found = await client.answer(stream)
            assert found.body == b"/post"
    await first
    assert endpoint.bodies[1] == body


class HeldModel(ModelServer):
    """A model server that answers one request at a time when told to; `active` are those it has."""

    def __init__(self) -> None:
        super().__init__(self.wait)
        self.active = 0
        self.peak = 0
        self.turns = asyncio.Semaphore(0)

    async def wait(self, request: Any, context: Any) -> Any:
        self.active += 1
        self.peak = max(self.peak, self.active)
        await self.turns.acquire()
        self.active -= 1
        return await echo(request, context)


async def test_inferences_wait_however_they_come(site: Site) -> None:
    model = HeldModel()
    gate = await site.gate([await site.model(model)], cap=1, pool={**OIP, "queue": QUEUE})
    tasks = [asyncio.create_task(ask_model(gate, plain()))]
    await settle(lambda: model.active == 1, "it does not get there")
    tasks.append(asyncio.create_task(ask_model(gate, plain())))
    await settle(lambda: waiting(gate) == 1, "it does not wait")
    request = wire.ModelInferRequest(model_name="m", raw_input_contents=[bytes(50_000)])
    request.inputs.add(name="x", datatype="UINT8", shape=[50_000])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=wire.ModelInferRequest.SerializeToString,
            response_deserializer=wire.ModelInferResponse.FromString,
        )
        call = infer(request, timeout=20)
        await settle(lambda: waiting(gate) == 2, "it does not wait")
        given_up = infer(request, timeout=20)
        await settle(lambda: waiting(gate) == 3, "it does not wait")
        given_up.cancel()
        await settle(lambda: waiting(gate) == 2, "it still waits")
        late = infer(request, timeout=0.1)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await late
        assert failure.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        for _ in range(3):
            model.turns.release()
        answer = await call
    assert answer.raw_output_contents[0] == bytes(50_000)
    assert [(await task).status for task in tasks] == [200, 200]
    assert (model.peak, len(model.requests)) == (1, 3)
    assert waiting(gate) == 0
    assert gate.in_flight() == 0


async def test_a_full_queue_is_said_to_grpc_clients(site: Site) -> None:
    model = HeldModel()
    gate = await site.gate([await site.model(model)], cap=1, pool={**OIP, "queue": None})
    first = asyncio.create_task(ask_model(gate, plain()))
    await settle(lambda: model.active == 1, "it does not get there")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"", timeout=20)
    assert failure.value.code() == grpc.StatusCode.UNAVAILABLE
    model.turns.release()
    assert (await first).status == 200


async def test_the_timeout_of_an_inference_is_its_deadline(site: Site) -> None:
    model = HeldModel()
    gate = await site.gate([await site.model(model)], cap=1, pool={**OIP, "queue": QUEUE})
    first = asyncio.create_task(ask_model(gate, plain()))
    await settle(lambda: model.active == 1, "it does not get there")
    answer = await ask_model(gate, plain(parameters={"timeout": 50_000}))
    assert answer.status == 504
    model.turns.release()
    assert (await first).status == 200
    assert len(model.requests) == 1


async def test_none_is_up(site: Site) -> None:
    endpoint = Held()
    gate = await capped(site, endpoint)
    first = await hold(gate, endpoint)
    gate.segment.set_health(0, False, 0)
    answer = await ask(gate, "/2")
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"no endpoint" in answer
    endpoint.answer()
    await first


async def test_the_last_endpoint_fails_while_requests_wait(site: Site) -> None:
    endpoint = Held()
    gate = await capped(site, endpoint)
    first, second = await hold(gate, endpoint), await wait(gate, "/2")
    gate.segment.set_health(0, False, 0)
    assert b"no endpoint" in await second
    endpoint.answer()
    await first


async def test_an_endpoint_comes_up_while_requests_wait(site: Site) -> None:
    endpoint, other = Held(), Held()
    addresses = [await site.endpoint(endpoint), await site.endpoint(other)]
    gate = await site.gate(addresses, cap=1, pool={"queue": QUEUE})
    gate.segment.set_health(1, False, 0)
    first, second = await hold(gate, endpoint), await wait(gate, "/2")
    gate.segment.set_health(1, True, 0)
    other.answer()
    assert (await second).endswith(b"/2")
    endpoint.answer()
    await first


async def test_a_reload_takes_those_who_wait_along(site: Site) -> None:
    endpoint, other = Held(), Held()
    gate = await capped(site, endpoint)
    first, second, third = await hold(gate, endpoint), await wait(gate, "/2"), await wait(gate, "/3")
    (pool,) = gate.plan.pools
    (old,) = pool.endpoints
    new = replace(old, address=await site.endpoint(other), slot=1, series=20)
    gate.segment.set_weight(1, 1)
    gate.segment.set_health(1, True, 0)
    site.reload_pool(gate, endpoints=(new,))
    other.answer(2)
    assert (await second).endswith(b"/2")
    assert (await third).endswith(b"/3")
    endpoint.answer()
    await first
    assert other.peak == 1


async def test_a_reload_lifts_the_limit(site: Site) -> None:
    endpoint = Held()
    gate = await capped(site, endpoint)
    tasks = [await hold(gate, endpoint), *[await wait(gate, f"/{i}") for i in range(3)]]
    (pool,) = gate.plan.pools
    free = tuple(replace(e, max_in_flight=0) for e in pool.endpoints)
    site.reload_pool(gate, queue=None, endpoints=free)
    await settle(lambda: endpoint.active == 4, "they still wait")
    endpoint.answer(4)
    await asyncio.gather(*tasks)


async def test_a_further_try_waits_for_another_endpoint_than_the_one_that_failed(site: Site) -> None:
    """The one that refuses all has room, always."""
    endpoint = Held()
    gate = await site.gate(
        [await site.endpoint(endpoint), f"127.0.0.1:{free_port()}"], cap=1, pool={"queue": QUEUE, "retries": 1}
    )
    first = await hold(gate, endpoint)
    tasks = [asyncio.create_task(ask(gate, "/1"))]
    await settle(lambda: waiting(gate) == 1, "it does not wait")
    endpoint.answer(2)
    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in await asyncio.gather(first, *tasks))
    assert gate.total(11)[11] == 1, "one connection failed"  # TG_S_CONNECT_ERRORS
    assert gate.in_flight() == 0


async def test_a_further_try_does_not_wait_for_ever_for_another_endpoint(site: Site) -> None:
    """Nobody else is held up for it either."""
    stuck, once = Held(), Once()
    gate = await site.gate(
        [await site.endpoint(stuck), await site.endpoint(once)], cap=1, pool={"queue": QUEUE, "retries": 1}
    )
    first = await hold(gate, stuck)
    answers = await asyncio.wait_for(asyncio.gather(ask(gate, "/1"), ask(gate, "/2")), 5)
    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)
    stuck.answer()
    await first


async def test_a_further_try_goes_where_it_failed_rather_than_nowhere(site: Site) -> None:
    stuck, once = Held(), Once()
    gate = await site.gate(
        [await site.endpoint(stuck), await site.endpoint(once)],
        cap=1, pool={"queue": replace(QUEUE, max=0), "retries": 1},
    )  # fmt: skip
    first = await hold(gate, stuck)
    assert (await ask(gate, "/1")).startswith(b"HTTP/1.1 200 ")
    stuck.answer()
    await first


async def test_tcp_sessions_wait(site: Site) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    gate = await site.gate([await site.endpoint(echo)], cap=1, pool={"queue": QUEUE}, listener={"protocol": "tcp"})
    reader, writer = await gate.connect()
    writer.write(b"one")
    assert await reader.readexactly(3) == b"one"
    other_reader, other_writer = await gate.connect()
    other_writer.write(b"two")
    await settle(lambda: waiting(gate) == 1, "it does not wait")
    writer.close()
    assert await asyncio.wait_for(other_reader.readexactly(3), 20) == b"two"
    other_writer.close()
    await settle(lambda: gate.in_flight() == 0, "the session stays")


async def test_a_tcp_session_waits_rather_than_try_the_endpoint_again_that_failed(site: Site) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    addresses = [await site.endpoint(echo), f"127.0.0.1:{free_port()}"]
    gate = await site.gate(addresses, cap=1, pool={"queue": QUEUE, "retries": 1}, listener={"protocol": "tcp"})
    reader, writer = await gate.connect()
    writer.write(b"one")
    assert await reader.readexactly(3) == b"one"
    other_reader, other_writer = await gate.connect()
    other_writer.write(b"two")
    await settle(lambda: waiting(gate) == 1, "it does not wait")
    writer.close()
    assert await asyncio.wait_for(other_reader.readexactly(3), 20) == b"two"
    other_writer.close()
    await settle(lambda: gate.in_flight() == 0, "the session stays")


@contextlib.asynccontextmanager
async def two_workers(
    site: Site, endpoint: Held, queue: QueuePlan = QUEUE, **settings: Any
) -> AsyncIterator[tuple[Gate, Gate]]:
    bells = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2)]
    gate = await capped(site, endpoint, queue, workers=2, bells=bells, **settings)
    other = Proxy(asyncio.get_running_loop(), Segment.attach(os.dup(gate.segment.fd), 1), -1, bells)
    fd, port = listening_socket()
    other.apply(gate.plan, {"web": fd})
    try:
        yield gate, Gate(other, gate.segment, gate.plan, port)
    finally:
        other.close()
        os.close(fd)
        for bell in bells:
            os.close(bell)


async def test_one_queue_over_two_workers(site: Site) -> None:
    endpoint = Held()
    async with two_workers(site, endpoint) as gates:
        tasks = [await hold(gates[0], endpoint), *[await wait(gates[i % 2], f"/{i}") for i in range(6)]]
        endpoint.answer(7)
        await asyncio.gather(*tasks)
        assert endpoint.seen[1:] == [f"/{i}" for i in range(6)]
        assert endpoint.peak == 1
        assert waiting(gates[0]) == 0


async def learn(gate: Gate, endpoint: Held, seconds: float) -> None:
    """From now on a request takes so long, as far as the gate knows."""
    path = f"/learn/{len(endpoint.seen)}"
    task = await hold(gate, endpoint, path)
    await asyncio.sleep(seconds)
    endpoint.answer()
    await task


@pytest.mark.parametrize(("others", "probe"), [("/low/{}", "/high/x"), ("/late/{}", "/soon/x")])
@pytest.mark.parametrize("own", [0, 1])
async def test_who_comes_before_all_in_another_worker_is_not_refused_for_them(
    site: Site, others: str, probe: str, own: int
) -> None:
    """By priority as by deadline: 40 wait, for 50 ms each, and the newcomer has less time than all of them take."""
    endpoint = Held()
    served = routes(
        {"name": "high", "priority": 0, "timeout_ns": SECOND},
        {"name": "low", "priority": 2},
        {"name": "late", "timeout_ns": 60 * SECOND},
        {"name": "soon", "timeout_ns": SECOND},
        {"name": "learn"},
    )
    queue = replace(QUEUE, timeout_ns=60 * SECOND)
    async with two_workers(site, endpoint, queue, listener={"routes": served}) as gates:
        await learn(gates[1], endpoint, 0.05)
        await learn(gates[0], endpoint, 0.05)
        tasks = [await hold(gates[0], endpoint, "/learn/held")]
        tasks += [await wait(gates[1 if i < own else 0], others.format(i)) for i in range(40)]
        newcomer = await wait(gates[1], probe)
        endpoint.answer(42)
        assert (await newcomer).startswith(b"HTTP/1.1 200 ")
        await asyncio.gather(*tasks)
        assert endpoint.seen[3] == probe


async def test_who_comes_behind_those_of_another_worker_is_refused_for_them(site: Site) -> None:
    endpoint = Held()
    served = routes(
        {"name": "high", "priority": 0},
        {"name": "low", "priority": 2, "timeout_ns": SECOND},
        {"name": "learn"},
    )
    async with two_workers(site, endpoint, listener={"routes": served}) as gates:
        await learn(gates[1], endpoint, 0.05)
        tasks = [await hold(gates[0], endpoint, "/learn/held")]
        tasks += [await wait(gates[0], f"/high/{i}") for i in range(40)]
        assert b"too long to answer in time" in await ask(gates[1], "/low/x")
        endpoint.answer(41)
        await asyncio.gather(*tasks)


async def test_how_many_of_another_worker_come_before_is_known_roughly(site: Site) -> None:
    """Exactly for who comes before or behind all; else to a factor of two."""
    endpoint = Held()
    seconds = [10 * (i + 1) for i in range(8)]
    served = routes(*({"name": f"{n}s", "timeout_ns": n * SECOND} for n in seconds), {"name": "learn"})
    queue = replace(QUEUE, timeout_ns=1000 * SECOND)
    async with two_workers(site, endpoint, queue, listener={"routes": served}) as gates:
        tasks = [await hold(gates[0], endpoint, "/learn")]
        tasks += [await wait(gates[0], f"/{n}s/{i}") for i in range(10) for n in seconds]
        now = time.monotonic_ns()

        def before(priority: int, due: int) -> int:
            return int(gates[1].proxy.pools[0].queue.outlook(priority, now + due * SECOND, 0, now)["before"])

        assert before(0, 100) == 0
        assert before(1, 5) == 0
        assert before(1, 100) == 80
        assert before(2, 5) == 80
        for i, n in enumerate(seconds[:-1], 1):
            assert 5 * i <= before(1, n + 5) <= 20 * i, n
        endpoint.answer(81)
        await asyncio.gather(*tasks)


async def test_a_burst_is_no_overload_for_a_worker_that_had_another_one_before(site: Site) -> None:
    """Nobody waits between the two; the second begins in the other worker."""
    endpoint = Held()
    queue = replace(QUEUE, timeout_ns=2 * SECOND, overload_after_ns=400 * MILLISECOND, overload_share=0.2)
    async with two_workers(site, endpoint, queue) as gates:
        tasks = [await hold(gates[1], endpoint, "/before"), await wait(gates[1], "/before/1")]
        await asyncio.sleep(0.2)
        endpoint.answer(2)
        await asyncio.gather(*tasks)
        await asyncio.sleep(0.3)
        tasks = [await hold(gates[0], endpoint, "/0")]
        tasks += [await wait(gates[i], f"/{i}/{n}") for i in (0, 1) for n in range(4)]
        endpoint.answer(9)
        assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in await asyncio.gather(*tasks))
        assert line(gates[0]).cache_stored == 0  # TG_S_QUEUE_SHED


async def test_a_higher_priority_takes_the_last_place_in_another_worker(site: Site) -> None:
    endpoint = Held()
    served = routes({"name": "high", "priority": 0}, {"name": "low", "priority": 2})
    async with two_workers(site, endpoint, replace(QUEUE, max=2), listener={"routes": served}) as gates:
        tasks = [await hold(gates[0], endpoint, "/low"), await wait(gates[0], "/low/1")]
        last = await wait(gates[0], "/low/2")
        tasks.append(asyncio.create_task(ask(gates[1], "/high/1")))
        answer = await last
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"queue is full" in answer
        assert (await ask(gates[1], "/low/3")).startswith(b"HTTP/1.1 503 ")
        assert waiting(gates[0]) == 2
        endpoint.answer(3)
        await asyncio.gather(*tasks)
        assert endpoint.seen == ["/low", "/high/1", "/low/1"]


async def test_a_dead_worker_s_requests_still_count_for_a_moment(site: Site) -> None:
    endpoint = Held()
    async with two_workers(site, endpoint) as gates:
        first = await hold(gates[1], endpoint)
        second = await wait(gates[0], "/2")
        lost = gates[0].segment.clear_worker(1)
        await asyncio.sleep(0.1)
        assert endpoint.seen == ["/first"]
        gates[0].segment.forget(lost)
        await settle(lambda: endpoint.active == 2, "it still waits")
        endpoint.answer(2)
        await asyncio.gather(first, second)
