"""What the ends of tries do to an endpoint's ejection_state, in the data path."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from datapath import SECOND, Gate, Site, settle
from oip_site import ModelServer, ask, failing, plain
from ports import free_port
from test_grpc import channel_to
from test_http1 import GET, Recorder

from lb.config.plan.plan import OutlierPlan
from lb.endpoints.ejection_state import EjectionStates

WELL, EJECTED, PROBATION = 0, 1, 2
FIVE, GATEWAY, ON_PROBATION = 1, 2, 3  # enum tg_ejection
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def answer(status: int) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status


def pool(five: int = 3, gateway: int = 0, most: int = 1, probes: int = 1, **settings: Any) -> dict[str, Any]:
    return {"shaped": True, "outlier": OutlierPlan(five, gateway, most, probes), "retries": 0, **settings}


def ejections(gate: Gate) -> EjectionStates:
    return EjectionStates(gate.segment, [e.slot for e in gate.plan.pools[0].endpoints])


async def states(gate: Gate, endpoint: Recorder, *statuses: int) -> list[int]:
    """Standing of the only endpoint after each of its answers."""
    seen = []
    for status in statuses:
        endpoint.answer = answer(status)
        await gate.exchange(GET)
        seen.append(ejections(gate).state(0)[0])
    return seen


async def test_failures_in_a_row_eject(site: Site) -> None:
    endpoint = Recorder()
    gate = await site.gate([await site.endpoint(endpoint)], pool=pool())
    assert await states(gate, endpoint, 500, 503, 404, 500, 500) == [WELL] * 5
    assert await states(gate, endpoint, 501) == [EJECTED]
    assert ejections(gate).state(0) == (EJECTED, FIVE)
    assert (await gate.exchange(GET)).startswith(b"HTTP/1.1 503 ")
    assert gate.total(10).values("judged") == {"good": 1, "fault": 5}


async def test_gateway_failures_are_counted_apart(site: Site) -> None:
    endpoint = Recorder()
    gate = await site.gate([await site.endpoint(endpoint)], pool=pool(five=0, gateway=3))
    assert await states(gate, endpoint, 502, 503, 500, 504, 502, 200, 502, 503) == [WELL] * 8
    assert await states(gate, endpoint, 504) == [EJECTED]
    assert ejections(gate).state(0) == (EJECTED, GATEWAY)


async def test_no_connection_no_answer_and_half_an_answer_are_failures(site: Site) -> None:
    for kind in ("refused", "closed", "half"):

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kind: str = kind) -> None:
            await reader.readuntil(b"\r\n\r\n")
            if kind == "half":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            writer.close()

        address = f"127.0.0.1:{free_port()}" if kind == "refused" else await site.endpoint(handler)
        gate = await site.gate([address], pool=pool(five=0, gateway=2))
        await gate.exchange(GET)
        assert ejections(gate).state(0)[0] == WELL, kind
        await gate.exchange(GET)
        assert ejections(gate).state(0) == (EJECTED, GATEWAY), kind


async def test_a_timeout_is_a_failure(site: Site) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    gate = await site.gate([await site.endpoint(silent)], pool=pool(1, response_timeout_ns=SECOND // 10))
    assert (await gate.exchange(GET)).startswith(b"HTTP/1.1 504 ")
    assert ejections(gate).state(0)[0] == EJECTED


async def test_a_client_that_leaves_says_nothing(site: Site) -> None:
    """It neither counts as a failure nor ends a row of them."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/bad" in head:
            writer.write(answer(500))
        else:
            await reader.read(-1)

    gate = await site.gate([await site.endpoint(silent)], pool=pool(2))
    bad = GET.replace(b"/x?y=1", b"/bad")
    await gate.exchange(bad)
    for _ in range(3):
        _, writer = await gate.connect()
        writer.write(GET)
        await settle(lambda: gate.in_flight() == 1, "the request")
        writer.close()
        await settle(lambda: gate.in_flight() == 0, "its end")
    assert ejections(gate).state(0)[0] == WELL
    assert gate.total(10).values("judged") == {"good": 0, "fault": 1}
    await gate.exchange(bad)
    assert ejections(gate).state(0)[0] == EJECTED


async def test_probation_counts_what_began_in_it(site: Site) -> None:
    endpoint = Recorder()
    gate = await site.gate([await site.endpoint(endpoint)], pool=pool(1))
    assert await states(gate, endpoint, 500) == [EJECTED]
    judged = ejections(gate)
    judged.begin_probation(0, 1)
    assert await states(gate, endpoint, 200, 404) == [PROBATION] * 2
    assert judged.answered_well(0) == 2
    assert await states(gate, endpoint, 500) == [EJECTED]
    assert judged.state(0) == (EJECTED, ON_PROBATION)
    judged.begin_probation(0, 1 << 62)
    assert await states(gate, endpoint, 500, 200) == [PROBATION] * 2
    assert judged.answered_well(0) == 0


async def test_probation_gets_no_more_than_its_probes_while_others_are_there(site: Site) -> None:
    hold = asyncio.Event()
    running = [0, 0]

    def endpoint(i: int) -> Any:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            running[i] += 1
            await hold.wait()
            writer.write(OK)
            writer.close()

        return handler

    gate = await site.gate([await site.endpoint(endpoint(i)) for i in range(2)], pool=pool(probes=2))
    judged = ejections(gate)
    judged.eject_endpoint(0, FIVE, 1)
    judged.begin_probation(0, 1)
    asked = [asyncio.create_task(gate.exchange(GET)) for _ in range(12)]
    await settle(lambda: sum(running) == 12, "the requests")
    assert running == [2, 10]
    # When the other is gone, the one on probation takes what comes.
    gate.segment.set_health(gate.plan.pools[0].endpoints[1].slot, False, 1)
    asked.append(asyncio.create_task(gate.exchange(GET)))
    await settle(lambda: running == [3, 10], "a request to the last one")
    hold.set()
    assert all(a.endswith(b"ok") for a in await asyncio.gather(*asked))


async def test_no_more_than_the_most_are_ejected(site: Site) -> None:
    endpoints = [Recorder(answer(500)) for _ in range(4)]
    gate = await site.gate([await site.endpoint(e) for e in endpoints], pool=pool(1, most=2))
    for _ in range(12):
        assert (await gate.exchange(GET)).startswith(b"HTTP/1.1 500 ")
    assert ejections(gate).ejected() == 2


async def test_a_panic_uses_whom_it_would_leave_out(site: Site) -> None:
    endpoint = Recorder()
    gate = await site.gate([await site.endpoint(endpoint)], pool=pool(1))
    assert await states(gate, endpoint, 500) == [EJECTED]
    ejections(gate).hold_back(0, 0, True)
    endpoint.answer = OK
    assert (await gate.exchange(GET)).endswith(b"ok")


async def test_connections_of_a_tcp_pool_that_are_not_made(site: Site) -> None:
    gate = await site.gate([f"127.0.0.1:{free_port()}"], listener={"protocol": "tcp"}, pool=pool(2))
    for _ in range(2):
        assert ejections(gate).state(0)[0] == WELL
        await gate.exchange(b"hello")
    assert ejections(gate).state(0)[0] == EJECTED


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (grpc.StatusCode.INTERNAL, EJECTED),
        (grpc.StatusCode.UNAVAILABLE, EJECTED),
        (grpc.StatusCode.INVALID_ARGUMENT, WELL),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, WELL),
    ],
)
async def test_a_model_servers_status(site: Site, code: grpc.StatusCode, state: int) -> None:
    address = await site.model(ModelServer(failing(code, "no")))
    gate = await site.gate([address], pool=pool(1, protocol="oip"))
    await ask(gate, plain())
    assert ejections(gate).state(0)[0] == state
    native = await site.gate([address], pool=pool(1, protocol="grpc"))
    async with channel_to(native) as channel:
        with pytest.raises(grpc.RpcError) as failure:
            await channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"")
    assert failure.value.code() == code  # type: ignore[attr-defined]
    assert ejections(native).state(0)[0] == state
