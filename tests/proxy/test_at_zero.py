"""A pool without an endpoint whose endpoints the master starts: requests wait for one, and the master is told."""

from __future__ import annotations

import asyncio
from time import monotonic_ns
from typing import Any

import grpc
import pytest
from affinity_site import DRAIN, ENABLED
from datapath import SECOND, Gate, Site, settle
from msgspec.structs import replace
from oip_site import ModelServer, plain
from oip_site import ask as infer
from queue_site import LONG, MILLISECOND, QUEUE, Held, ask, line, wait, waiting
from tcp_site import echo, read_all
from test_grpc import Service

from lb.config.plan.plan import EndpointPlan, MirrorPlan, SequencePlan
from lb.proxy.exchange.explain.described import Described
from lb.shared.words import ENDPOINT
from lb.telemetry.series import Series
from lb.upstream.start import Start
from lb.wire import grpc_service_pb2 as wire

ON_DEMAND: dict[str, Any] = {"on_demand": True, "awaits_start": True, "queue": QUEUE, "response_timeout_ns": LONG}


async def at_zero(site: Site, pool: dict[str, Any] | None = None, **settings: Any) -> Gate:
    return await site.gate([], pool={**ON_DEMAND, **(pool or {})}, **settings)


def endpoint_at(gate: Gate, address: str) -> EndpointPlan:
    """What the master has done when an endpoint is ready."""
    gate.segment.set_key(0, address)
    gate.segment.set_health(0, True, 0)
    gate.segment.set_weight(0, 1)
    return EndpointPlan(address, 0, 10, 1)


def start(site: Site, gate: Gate, address: str) -> None:
    site.reload_pool(gate, endpoints=(endpoint_at(gate, address),))


def tell(gate: Gate, **start: Any) -> None:
    gate.proxy.tell_start("pool", Start(**start))


async def test_requests_wait_for_the_start_of_an_endpoint(site: Site) -> None:
    gate, endpoint = await at_zero(site), Held()
    first, second = await wait(gate, "/1"), await wait(gate, "/2")
    assert gate.master.woken == ["pool"]  # once for both
    start(site, gate, await site.endpoint(endpoint))
    endpoint.answer(2)
    assert (await first).endswith(b"/1")
    assert (await second).endswith(b"/2")
    assert waiting(gate) == 0
    assert gate.master.woken == ["pool"]


async def test_two_hundred_first_requests_are_all_answered(site: Site) -> None:
    gate, endpoint = await at_zero(site, {"queue": replace(QUEUE, max=1024)}), Held()
    requests = [asyncio.create_task(ask(gate, f"/{i}")) for i in range(200)]
    await settle(lambda: waiting(gate) == 200, "not all wait")
    endpoint.answer(200)
    start(site, gate, await site.endpoint(endpoint))
    answers = await asyncio.gather(*requests)
    assert [answer.rpartition(b"/")[2] for answer in answers] == [b"%d" % i for i in range(200)]


async def test_a_pool_that_is_not_on_demand_refuses_at_once(site: Site) -> None:
    gate = await site.gate([], pool={"queue": QUEUE})
    assert b"no endpoint of pool pool is available" in await ask(gate, "/")
    assert gate.master.woken == []


async def test_a_pool_with_a_fixed_number_of_endpoints_waits_for_one_that_is_coming(site: Site) -> None:
    gate, endpoint = await at_zero(site, {"on_demand": False}), Held()
    first = await wait(gate, "/1")
    tell(gate, takes=SECOND)
    start(site, gate, await site.endpoint(endpoint))
    endpoint.answer()
    assert (await first).endswith(b"/1")
    gate.segment.set_health(0, False, 0)
    second = await wait(gate, "/2")
    tell(gate, trouble="it is broken")
    assert b"it is broken" in await second
    assert b"it is broken" in await ask(gate, "/3")


async def test_probes_of_a_pool_with_a_fixed_number_do_not_wait(site: Site) -> None:
    gate = await at_zero(site, {"protocol": "oip", "on_demand": False})

    async def seen() -> list[int]:
        return [(await infer(gate, path=f"/v2/health/{what}", method="GET")).status for what in ("live", "ready")]

    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        health = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert (await seen(), await health(b"")) == ([200, 400], b"\x08\x02")
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        watching = asyncio.ensure_future(anext(aiter(watch)))
        await settle(lambda: waiting(gate) == 1, "what can be watched is waited for")
        server = ModelServer()
        start(site, gate, await site.model(server))
        with pytest.raises(grpc.aio.AioRpcError):
            await watching
        await seen()
        assert Series(ENDPOINT, gate.segment.series_total(10))["started"] == 3, "it answers for itself"


async def test_a_pool_without_limits_has_requests_wait_at_zero_only(site: Site) -> None:
    gate = await at_zero(site)
    first = await wait(gate, "/1")
    endpoint = Held()
    start(site, gate, await site.endpoint(endpoint))
    more = [asyncio.create_task(ask(gate, f"/{i}")) for i in range(20)]
    await settle(lambda: endpoint.active == 21, "a request waits although no limit is set")
    endpoint.answer(21)
    await asyncio.gather(first, *more)


async def test_a_failed_start_refuses_those_who_wait_and_says_why(site: Site) -> None:
    gate = await at_zero(site)
    requests = [await wait(gate, f"/{i}") for i in range(3)]
    tell(gate, ready_at=monotonic_ns() + 30 * SECOND, trouble="its model server ended")
    for request in requests:
        answer = await request
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"no endpoint of pool pool is available: its model server ended" in answer
        assert 30 <= retry_after(answer) <= 46
    # Until something else is told, nobody waits; the master hears of each all the same.
    gate.master.woken.clear()
    await asyncio.sleep(0.1)
    assert b"its model server ended" in await ask(gate, "/4")
    assert gate.master.woken == ["pool"]
    tell(gate)
    await wait(gate, "/5")
    assert waiting(gate) == 1


async def test_a_trouble_whose_end_nobody_knows_names_a_time_all_the_same(site: Site) -> None:
    gate = await at_zero(site)
    tell(gate, trouble="its model server waits for free GPUs")
    answer = await ask(gate, "/1")
    assert b"no endpoint of pool pool is available: its model server waits for free GPUs" in answer
    assert 2 <= retry_after(answer) <= 4


@pytest.mark.parametrize("queue", [QUEUE, None])
async def test_a_pool_that_always_has_some_says_why_it_has_none(site: Site, queue: Any) -> None:
    """Nobody waits there: with `min` of 1 or more model servers start without a request."""
    gate = await site.gate([], pool={"queue": queue, "managed": True})
    assert retry_after(await ask(gate, "/1")) == 1  # nothing is known yet
    tell(gate, trouble="its model server waits for free GPUs")
    answer = await ask(gate, "/2")
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"no endpoint of pool pool is available: its model server waits for free GPUs" in answer
    assert 2 <= retry_after(answer) <= 4
    # A reload keeps it, and a start that is under way has a time.
    site.reload_pool(gate, retries=3)
    assert b"waits for free GPUs" in await ask(gate, "/3")
    tell(gate, ready_at=monotonic_ns() + 30 * SECOND, takes=SECOND)
    answer = await ask(gate, "/4")
    assert b"no endpoint of pool pool is available" in answer
    assert b"GPUs" not in answer
    assert 30 <= retry_after(answer) <= 46
    # It is not run by the master any more.
    site.reload_pool(gate, managed=False)
    assert retry_after(await ask(gate, "/5")) == 1
    assert gate.master.woken == []


async def test_what_is_known_of_a_start_is_nothing_to_those_who_find_an_endpoint(site: Site) -> None:
    endpoint = Held()
    gate = await site.gate([await site.endpoint(endpoint)], pool={"managed": True})
    tell(gate, trouble="its model server waits for free GPUs")
    endpoint.answer()
    assert (await ask(gate, "/1")).endswith(b"/1")


@pytest.mark.parametrize("queue", [QUEUE, None])
async def test_a_grpc_call_of_a_pool_that_always_has_some_is_told_why(site: Site, queue: Any) -> None:
    gate = await site.gate([], pool={"protocol": "grpc", "queue": queue, "managed": True})
    tell(gate, trouble="its model server waits for free cores", ready_at=monotonic_ns() + 5 * SECOND)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await channel.unary_unary("/test.Kinds/Unary")(b"hello")
    assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
    assert failed.value.details() == "no endpoint of pool pool is available: its model server waits for free cores"
    assert int(dict(failed.value.trailing_metadata() or ())["grpc-retry-pushback-ms"]) > 4_000


async def test_a_start_that_is_put_off_refuses_those_for_whom_it_comes_too_late(site: Site) -> None:
    """As where the process that they waited for has died, and the next start comes after a long pause."""
    gate = await at_zero(site, {"queue": replace(QUEUE, timeout_ns=60 * SECOND)}, route={"timeout_ns": 20 * SECOND})
    hurried = await wait(gate, "/1")
    tell(gate, ready_at=monotonic_ns() + 10 * SECOND, takes=SECOND)
    await settle(lambda: waiting(gate) == 1, "it goes on waiting")
    tell(gate, ready_at=monotonic_ns() + 30 * SECOND, takes=SECOND)
    answer = await hurried
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"whose start takes too long to answer in time" in answer
    assert 30 <= retry_after(answer) <= 46
    assert line(gate)["ended.late"] == 1


async def test_a_start_that_is_put_off_beyond_the_time_of_the_queue(site: Site) -> None:
    gate = await at_zero(site, {"queue": replace(QUEUE, timeout_ns=20 * SECOND)})
    request = await wait(gate, "/1")
    tell(gate, ready_at=monotonic_ns() + 30 * SECOND, takes=SECOND)
    assert b"whose start takes too long to answer in time" in await request


async def test_a_trouble_that_does_not_last_is_that_of_those_who_wait(site: Site) -> None:
    gate = await at_zero(site)
    request = await wait(gate, "/1")
    tell(gate, trouble="an operator keeps requests away", lasts=False)
    assert b"an operator keeps requests away" in await request
    await wait(gate, "/2")
    assert waiting(gate) == 1


def retry_after(answer: bytes) -> int:
    return int(answer.partition(b"Retry-After: ")[2].partition(b"\r\n")[0])


async def test_a_deadline_that_no_start_could_meet_is_refused_at_once(site: Site) -> None:
    gate = await at_zero(site, route={"timeout_ns": 5 * SECOND})
    await wait(gate, "/unknown")  # nothing is known of a start yet
    tell(gate, takes=20 * SECOND)
    answer = await ask(gate, "/hopeless")
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"whose start takes too long to answer in time" in answer
    assert 20 <= retry_after(answer) <= 31
    assert line(gate)["ended.late"] == 1
    # A start that is nearly over can be waited for.
    tell(gate, ready_at=monotonic_ns() + SECOND, takes=20 * SECOND)
    await wait(gate, "/soon")
    assert waiting(gate) == 2


async def test_a_refused_request_has_an_endpoint_started_all_the_same(site: Site) -> None:
    gate = await at_zero(site, route={"timeout_ns": SECOND})
    tell(gate, takes=20 * SECOND)
    assert b"Retry-After" in await ask(gate, "/hopeless")
    assert gate.master.woken == ["pool"]


async def test_a_request_without_a_deadline_waits_no_longer_than_the_queue_allows(site: Site) -> None:
    gate = await at_zero(site, {"queue": replace(QUEUE, timeout_ns=50 * MILLISECOND)})
    answer = await ask(gate, "/1")
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"no endpoint of pool pool was ready for too long" in answer
    assert line(gate)["ended.timeout"] == 1


async def test_a_deadline_that_passes_meanwhile_is_a_timeout(site: Site) -> None:
    gate = await at_zero(site, route={"timeout_ns": 50 * MILLISECOND})
    answer = await ask(gate, "/1")
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert b"no endpoint of pool pool was ready in time" in answer


async def test_clients_that_leave_free_their_places(site: Site) -> None:
    gate = await at_zero(site, {"queue": replace(QUEUE, max=1)})
    _, writer = await gate.connect()
    writer.write(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
    await settle(lambda: waiting(gate) == 1, "it does not wait")
    full = await ask(gate, "/2")
    assert b"its queue is full" in full
    writer.close()
    await settle(lambda: waiting(gate) == 0, "the place is not free")
    await wait(gate, "/3")
    assert line(gate)["ended.left"] == 1


async def test_an_endpoint_that_goes_down_and_comes_back(site: Site) -> None:
    endpoint = Held()
    gate = await site.gate([await site.endpoint(endpoint)], pool=ON_DEMAND)
    gate.segment.set_health(0, False, 0)
    request = await wait(gate, "/1")
    assert gate.master.woken == ["pool"]
    gate.segment.set_health(0, True, 0)
    endpoint.answer()
    assert (await request).endswith(b"/1")


async def test_a_retry_waits_for_the_next_endpoint_and_wakes_nobody(site: Site) -> None:
    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        gate.segment.set_health(0, False, 0)
        writer.close()

    gate = await site.gate([await site.endpoint(dies)], pool=ON_DEMAND)
    request = await wait(gate, "/1")
    assert gate.master.woken == []
    endpoint = Held()
    start(site, gate, await site.endpoint(endpoint))
    endpoint.answer()
    assert (await request).endswith(b"/1")


async def test_copies_of_a_mirror_wake_nobody(site: Site) -> None:
    endpoint = Held()
    mirror = MirrorPlan(pool=1, per_million=1_000_000, max_in_flight=10, max_bytes=1 << 20)
    gate = await site.gate([await site.endpoint(endpoint)], more_pools=[[]], route={"mirror": mirror})
    pools = (gate.plan.pools[0], replace(gate.plan.pools[1], **ON_DEMAND))
    site.reload(gate, pools=pools)
    endpoint.answer()
    assert (await ask(gate, "/1")).endswith(b"/1")
    assert gate.master.woken == []


async def test_a_reload_that_removes_the_pool_refuses_those_who_wait(site: Site) -> None:
    gate = await at_zero(site)
    request = await wait(gate, "/1")
    other = replace(gate.plan.pools[0], name="other", on_demand=False, awaits_start=False, queue=None)
    site.reload(gate, pools=(other,))
    assert b"a reload has removed the pool" in await request


async def test_a_reload_takes_those_who_wait_along(site: Site) -> None:
    gate, endpoint = await at_zero(site), Held()
    request = await wait(gate, "/1")
    site.reload_pool(gate, retries=3)
    assert waiting(gate) == 1
    start(site, gate, await site.endpoint(endpoint))
    endpoint.answer()
    assert (await request).endswith(b"/1")


async def test_a_pool_that_is_on_demand_no_more_refuses_those_who_wait(site: Site) -> None:
    gate = await at_zero(site)
    request = await wait(gate, "/1")
    site.reload_pool(gate, on_demand=False, awaits_start=False)
    assert b"no endpoint of pool pool is available" in await request


async def test_a_drain_refuses_those_who_wait(site: Site) -> None:
    gate = await at_zero(site)
    request = await wait(gate, "/1")
    gate.proxy.drain()
    assert b"the daemon is stopping" in await request


async def test_a_queue_that_is_made_later_knows_what_was_told(site: Site) -> None:
    gate = await site.gate([])
    tell(gate, trouble="it is broken")
    site.reload_pool(gate, **ON_DEMAND)
    assert b"it is broken" in await ask(gate, "/1")


async def test_sessions_wait_as_requests_do(site: Site) -> None:
    gate = await at_zero(site, {"protocol": "tcp"}, listener={"protocol": "tcp"})
    reader, writer = await gate.connect()
    writer.write(b"hello")
    await settle(lambda: waiting(gate) == 1, "it does not wait")
    start(site, gate, await site.endpoint(echo))
    writer.write_eof()
    assert await read_all(reader) == b"hello"
    writer.close()


async def test_a_session_ends_when_the_start_fails(site: Site) -> None:
    gate = await at_zero(site, {"protocol": "tcp"}, listener={"protocol": "tcp"})
    reader, writer = await gate.connect()
    await settle(lambda: waiting(gate) == 1, "it does not wait")
    tell(gate, trouble="it is broken")
    assert await read_all(reader) == b""
    writer.close()


async def test_grpc_calls_wait(site: Site) -> None:
    gate = await at_zero(site, {"protocol": "grpc"})
    service = Service()
    await service.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        call = channel.unary_unary("/test.Kinds/Unary")(b"hello")
        await settle(lambda: waiting(gate) == 1, "it does not wait")
        start(site, gate, service.address)
        assert await call == b"hello"
    await service.server.stop(None)


async def test_a_grpc_call_is_told_why_no_endpoint_starts(site: Site) -> None:
    gate = await at_zero(site, {"protocol": "grpc"})
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        call = channel.unary_unary("/test.Kinds/Unary")(b"hello")
        await settle(lambda: waiting(gate) == 1, "it does not wait")
        tell(gate, trouble="it is broken", ready_at=monotonic_ns() + 5 * SECOND)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call
        assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
        assert failed.value.details() == "no endpoint of pool pool is available: it is broken"
        pushback = dict(failed.value.trailing_metadata() or ())["grpc-retry-pushback-ms"]
        assert 4_000 < int(pushback) <= 7_501


async def test_inferences_wait_over_rest_and_grpc(site: Site) -> None:
    gate, server = await at_zero(site, {"protocol": "oip"}), ModelServer()
    rest = asyncio.create_task(infer(gate, plain()))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        request = wire.ModelInferRequest(model_name="m", id="7")
        over_grpc = call(request.SerializeToString())
        await settle(lambda: waiting(gate) == 2, "they do not wait")
        start(site, gate, await site.model(server))
        assert (await rest).status == 200
        assert wire.ModelInferResponse.FromString(await over_grpc).id == "7"


async def test_a_deadline_of_the_request_itself(site: Site) -> None:
    gate = await at_zero(site, {"protocol": "oip"})
    tell(gate, takes=20 * SECOND)
    answer = await infer(gate, plain(parameters={"timeout": 1_000_000}))
    assert (answer.status, int(answer.headers["retry-after"]) >= 20) == (503, True)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call(wire.ModelInferRequest(model_name="m").SerializeToString(), timeout=2)
        assert failed.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("kind", ["rest", "grpc"])
async def test_a_sequence_begins_at_zero_and_stays_where_it_began(site: Site, kind: str) -> None:
    sequence = SequencePlan(idle_ns=LONG, drain_ns=LONG)
    gate = await at_zero(site, {"protocol": "oip", "sequence": sequence, "queue": QUEUE})
    first, second = ModelServer(), ModelServer()

    async def step(begins: bool) -> None:
        if kind == "rest":
            parameters = {"sequence_id": 7, "sequence_start": begins}
            assert (await infer(gate, plain(parameters=parameters))).status == 200
            return
        request = wire.ModelInferRequest(model_name="m")
        request.parameters["sequence_id"].int64_param = 7
        request.parameters["sequence_start"].bool_param = begins
        async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
            await channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(request.SerializeToString())

    beginning = asyncio.create_task(step(True))
    await settle(lambda: waiting(gate) == 1, "it does not wait")
    one = endpoint_at(gate, await site.model(first))
    site.reload_pool(gate, endpoints=(one,))
    await beginning
    address = await site.model(second)
    gate.segment.set_key(1, address)
    gate.segment.set_health(1, True, 0)
    gate.segment.set_weight(1, 1)
    site.reload_pool(gate, generation=3, endpoints=(one, replace(one, address=address, slot=1, series=11)))
    for _ in range(4):
        await step(False)
    assert (len(first.requests), len(second.requests)) == (5, 0)


async def test_probes_of_the_server_are_answered_here(site: Site) -> None:
    gate = await at_zero(site, {"protocol": "oip"})

    async def seen() -> tuple[Any, ...]:
        rest = [(await infer(gate, path=f"/v2/health/{what}", method="GET")).status for what in ("live", "ready")]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:

            async def said(method: str) -> bytes:
                answer: bytes = await channel.unary_unary(method)(b"")
                return answer

            live = wire.ServerLiveResponse.FromString(await said("/inference.GRPCInferenceService/ServerLive")).live
            ready = wire.ServerReadyResponse.FromString(await said("/inference.GRPCInferenceService/ServerReady")).ready
            return *rest, live, ready, await said("/grpc.health.v1.Health/Check")

    assert await seen() == (200, 200, True, True, b"\x08\x01")
    tell(gate, trouble="it is broken")
    assert await seen() == (200, 400, True, False, b"\x08\x02")
    tell(gate)
    server = ModelServer()
    start(site, gate, await site.model(server))
    assert await seen() == (200, 200, True, True, b"\x08\x01")
    gate.segment.set_admin(0, DRAIN)  # on its way to zero, where the pool is ready, too
    assert await seen() == (200, 200, True, True, b"\x08\x01")
    tell(gate, trouble="it is broken")
    assert await seen() == (200, 400, True, False, b"\x08\x02")
    tell(gate)
    gate.segment.set_admin(0, ENABLED)
    gate.segment.set_health(0, False, 0)
    assert await seen() == (200, 400, True, False, b"\x08\x02")
    assert gate.master.woken == []
    # No probe has reached the model server.
    assert Series(ENDPOINT, gate.segment.series_total(10))["started"] == 0


@pytest.mark.parametrize("protocol", ["oip", "grpc", "http2"])
async def test_health_of_grpc_is_not_watched(site: Site, protocol: str) -> None:
    gate = await at_zero(site, {"protocol": protocol})
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        assert await channel.unary_unary("/grpc.health.v1.Health/Check")(b"") == b"\x08\x01"
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            async for _ in channel.unary_stream("/grpc.health.v1.Health/Watch")(b""):
                pass
    assert failed.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert gate.master.woken == []


async def test_a_worker_that_holds_requests_says_how_many_wait(site: Site) -> None:
    gate = await at_zero(site)
    await wait(gate, "/1")
    tell(gate, ready_at=monotonic_ns() + 4 * SECOND, takes=4 * SECOND)
    found = gate.proxy.explain(Described(listener="web", target="/2"))["pool"]
    assert found["queue"]["would_wait"]
    assert found["queue"]["at_zero"]
    assert 0 < found["queue"]["expected_wait_ms"] <= 4_000
    assert found["choice"]["why"] == "it has no endpoint: the request would wait while one starts"
    tell(gate, trouble="it is broken")
    refused = gate.proxy.explain(Described(listener="web", target="/2"))["pool"]
    assert refused["refused"] == 503
    assert "it is broken" in refused["choice"]["why"]
