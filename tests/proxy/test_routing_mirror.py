"""Copies of requests: they arrive, and whatever becomes of them, the original goes on as if there were none."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc
import pytest
from datapath import Gate, Site, settle
from hedge_site import Multiplexed, Plain, call, series
from oip_site import INFER, ModelServer, echo, failing
from ports import free_port
from routing_site import curl, routing_gate, shown

from lb.telemetry.series import Series
from lb.wire import grpc_service_pb2 as wire


async def mirrored(site: Site, main: list[str], copy: Any, **mirror: Any) -> Gate:
    pools = {"main": main, "copy": copy}
    return await routing_gate(site, [{"pool": "main", "mirror": {"pool": "copy", **mirror}}], pools)


def stat(gate: Gate, name: str) -> int:
    return gate.proxy.stats()[name]


async def test_a_copy_is_the_same_request(site: Site) -> None:
    made, pools = await shown(site, "main", "copy")
    gate = await mirrored(site, pools["main"], pools["copy"])
    before = stat(gate, "mirrored")
    assert (await curl(gate, "/x?y", "-d", "body", "-H", "X-A: 1")).body == "main"
    await settle(lambda: len(made["copy"].requests) == 1, "the copy arrives")
    assert made["copy"].last == made["main"].last
    assert (await curl(gate, "/", "-I")).status == 200
    assert (await curl(gate, "/")).body == "main"
    await settle(lambda: len(made["copy"].requests) == 3, "the copies arrive")
    await settle(lambda: gate.in_flight() == 0, "the copies' endpoints are given back")
    assert stat(gate, "mirrored") - before == 3
    copy = gate.plan.pools[1].endpoints[0]
    assert gate.total(copy.series)["started"] == gate.total(copy.series)["finished"] == 3


async def test_a_share_of_the_requests(site: Site) -> None:
    made, pools = await shown(site, "main", "copy")
    gate = await mirrored(site, pools["main"], pools["copy"], percent=25, max_in_flight=10_000)
    reader, writer = await gate.connect()
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 800)
    for _ in range(800):
        await reader.readuntil(b"\r\n\r\nmain")
    writer.close()
    await settle(lambda: gate.in_flight() == 0, "the copies are over")
    # 800 draws at 1/4: 200, with a standard deviation of 12.2; 5 of them either way.
    assert 139 <= len(made["copy"].requests) <= 261


@pytest.mark.parametrize("fault", ["dead", "silent", "closing", "not-http", "no-endpoint"])
async def test_a_bad_mirror_harms_nobody(site: Site, fault: str) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def not_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 smtp\r\n")
        await reader.read(-1)

    _, pools = await shown(site, "main")
    handlers = {"silent": silent, "closing": closing, "not-http": not_http}
    address = await site.endpoint(handlers[fault]) if fault in handlers else f"127.0.0.1:{free_port()}"
    copy: dict[str, Any] = {"endpoints": [address], "response_timeout": 200_000_000}
    if fault == "no-endpoint":
        copy["endpoints"] = [{"address": address, "weight": 0}]
    gate = await mirrored(site, pools["main"], copy)
    before, made = stat(gate, "mirror_failed"), stat(gate, "mirrored")
    for _ in range(5):
        assert (await curl(gate, "/")).body == "main"
    await settle(lambda: stat(gate, "mirror_failed") - before == 5, "every copy is counted as failed")
    assert stat(gate, "mirrored") - made == 5, "none fails that was not made"
    await settle(lambda: gate.in_flight() == 0, "the copies' endpoints are given back")
    assert gate.proxy.busy() == 0


async def test_a_huge_answer_is_not_read_to_its_end(site: Site) -> None:
    written = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            writer.write(bytes(65536))
            await writer.drain()
            written += 65536

    _, pools = await shown(site, "main")
    gate = await mirrored(site, pools["main"], [await site.endpoint(endless)])
    assert (await curl(gate, "/")).body == "main"
    await settle(lambda: written > 0 and gate.in_flight() == 0, "the copy is over")
    assert written < 32 << 20


async def test_limits_of_copies(site: Site) -> None:
    made, pools = await shown(site, "main", "copy")
    made["copy"].delay = 600
    gate = await mirrored(site, pools["main"], pools["copy"], max_in_flight=2)
    before = stat(gate, "mirrored"), stat(gate, "mirror_skipped")
    for _ in range(5):
        assert (await curl(gate, "/")).body == "main"
    assert (stat(gate, "mirrored") - before[0], stat(gate, "mirror_skipped") - before[1]) == (2, 3)


async def test_a_request_that_was_not_kept_is_not_copied(site: Site) -> None:
    made, pools = await shown(site, "main", "copy")
    gate = await mirrored(site, pools["main"], pools["copy"])
    before = stat(gate, "mirror_skipped")
    reader, writer = await gate.connect()
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n")
    for _ in range(30):
        writer.write(bytes(10_000))
        await writer.drain()
        await asyncio.sleep(0.005)
    await reader.readuntil(b"\r\n\r\nmain")
    writer.close()
    await settle(lambda: stat(gate, "mirror_skipped") - before == 1, "the copy is counted as skipped")
    assert made["copy"].requests == []


# Inferences.

BODY = '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}]}'


async def inference_gate(site: Site, main: ModelServer, copy: str, **of_copy: Any) -> Gate:
    """`of_copy` are settings of the mirror's pool."""
    pools = {
        "main": {"protocol": "oip", "endpoints": [await site.model(main)]},
        "copy": {"protocol": "oip", "endpoints": [copy], **of_copy},
    }
    return await routing_gate(site, [{"pool": "main", "mirror": {"pool": "copy"}}], pools)


# A mirror's pool whose copies end before they are answered; what others say in time is not a matter of the machine.
IMPATIENT = {"response_timeout": "300ms"}


async def test_an_inference_is_copied(site: Site) -> None:
    main, copy = ModelServer(), ModelServer()
    gate = await inference_gate(site, main, await site.model(copy))
    for _ in range(3):
        assert (await curl(gate, INFER, "-d", BODY)).status == 200
    await settle(lambda: len(copy.requests) == 3 and gate.in_flight() == 0, "the copies arrive and end")
    assert copy.requests == main.requests
    await curl(gate, "/v2/health/live")
    assert len(copy.requests) == 3  # questions about the server are not copied


@pytest.mark.parametrize("fault", ["dead", "slow", "huge"])
async def test_a_bad_mirror_harms_no_inference(site: Site, fault: str) -> None:
    async def slow(request: Any, context: Any) -> Any:
        await asyncio.sleep(600)

    async def huge(request: Any, context: Any) -> Any:
        answer = await echo(request, context)
        answer.raw_output_contents.append(bytes(3 << 20))
        return answer

    copy = f"127.0.0.1:{free_port()}"
    if fault != "dead":
        copy = await site.model(ModelServer(slow if fault == "slow" else huge))
    gate = await inference_gate(site, ModelServer(), copy, **(IMPATIENT if fault == "slow" else {}))
    before = stat(gate, "mirrored"), stat(gate, "mirror_failed")
    for _ in range(3):
        assert (await curl(gate, INFER, "-d", BODY)).status == 200
    await settle(lambda: gate.in_flight() == 0, "the copies are over")
    assert stat(gate, "mirrored") - before[0] == 3
    assert stat(gate, "mirror_failed") - before[1] == (0 if fault == "huge" else 3)


# Over HTTP/2, and gRPC.


async def streamed(site: Site, protocol: str, **mirror: Any) -> tuple[Gate, Multiplexed, Multiplexed]:
    main, copy = Multiplexed("main", ["answer"]), Multiplexed("copy", ["answer"])
    pools = {
        name: {"protocol": protocol, "endpoints": [await site.endpoint(one)], "retries": 0}
        for name, one in (("main", main), ("copy", copy))
    }
    gate = await routing_gate(site, [{"pool": "main", "mirror": {"pool": "copy", **mirror}}], pools)
    return gate, main, copy


async def test_a_copy_over_http2_is_the_same_request(site: Site) -> None:
    gate, main, copy = await streamed(site, "http2")
    before = stat(gate, "mirrored"), stat(gate, "mirror_failed")
    body = b"x" * 40_000
    answer = await gate.exchange(
        b"POST /x?y HTTP/1.1\r\nHost: a.test\r\nX-A: 1\r\nConnection: close\r\nContent-Length: 40000\r\n\r\n" + body
    )
    assert answer.endswith(b"main")
    await settle(lambda: len(copy.seen) == 1, "the copy arrives")
    assert copy.seen == main.seen == [body]
    assert copy.fields == main.fields
    assert copy.fields[0][":authority"] == "a.test"
    assert (await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).endswith(b"main")
    await settle(lambda: len(copy.seen) == 2 and gate.in_flight() == 0, "the copies are over")
    assert (stat(gate, "mirrored") - before[0], stat(gate, "mirror_failed") - before[1]) == (2, 0)
    found = series(gate, gate.plan.pools[1].endpoints[0].series)
    assert (found["started"], found["finished"]) == (2, 2)


@pytest.mark.parametrize("web", [False, True])
async def test_a_copy_of_a_grpc_call(site: Site, web: bool) -> None:
    gate, main, copy = await streamed(site, "grpc")
    if web:
        head = (
            b"POST /test.Kinds/Unary HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc-web\r\nContent-Length: 8\r\n"
        )
        assert b"main" in await gate.exchange(head + b"Connection: close\r\n\r\n\0\0\0\0\3abc")
    else:
        assert await call(gate, metadata=(("x-own", "1"),)) == b"main"
    await settle(lambda: len(copy.seen) == 1 and gate.in_flight() == 0, "the copy is over")
    assert copy.seen == main.seen
    sent, copied = main.fields[0], copy.fields[0]
    assert copied.pop("grpc-timeout")[-1] in "mSun"
    sent.pop("grpc-timeout", None)
    assert copied == sent


@pytest.mark.parametrize("turn", ["14", "4", "503", "break"])
async def test_a_bad_mirror_over_grpc_harms_nobody(site: Site, turn: str) -> None:
    gate, _, copy = await streamed(site, "grpc")
    copy.turns[:] = [turn]
    before = stat(gate, "mirror_failed")
    assert await call(gate) == b"main"
    await settle(lambda: len(copy.seen) == 1 and gate.in_flight() == 0, "the copy is over")
    assert stat(gate, "mirror_failed") - before == (turn != "503"), "503 is an answer"


async def test_streams_are_copied_when_their_client_has_said_all(site: Site) -> None:
    gate, main, copy = await streamed(site, "grpc")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        up = channel.stream_unary("/test.Kinds/Up")()
        await up.write(b"one")
        await up.write(b"two")
        assert copy.seen == []
        await up.done_writing()
        assert await up == b"main"
    await settle(lambda: len(copy.seen) == 1 and gate.in_flight() == 0, "the copy is over")
    assert copy.seen == main.seen == [b"\0\0\0\0\3one\0\0\0\0\3two"]


async def test_a_stream_that_was_not_kept_is_not_copied(site: Site) -> None:
    gate, _main, copy = await streamed(site, "http2")
    before = stat(gate, "mirror_skipped")
    reader, writer = await gate.connect()
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n")
    for _ in range(30):
        writer.write(bytes(10_000))
        await writer.drain()
    await reader.readuntil(b"main")
    writer.close()
    await settle(lambda: stat(gate, "mirror_skipped") - before == 1, "the copy is counted as skipped")
    assert copy.seen == []


async def test_inferences_over_grpc_are_copied_and_nothing_else(site: Site) -> None:
    main, copy = ModelServer(), ModelServer()
    pools = {
        "main": {"protocol": "oip", "endpoints": [await site.model(main)]},
        "copy": {"protocol": "oip", "endpoints": [await site.model(copy)]},
    }
    gate = await routing_gate(site, [{"pool": "main", "mirror": {"pool": "copy"}}], pools)
    before = stat(gate, "mirrored")
    request = wire.ModelInferRequest(model_name="m")
    await call(gate, "/inference.GRPCInferenceService/ModelInfer", request.SerializeToString())
    with contextlib.suppress(grpc.aio.AioRpcError):
        await call(gate, "/inference.GRPCInferenceService/ServerLive", b"")
    await settle(lambda: len(copy.requests) == 1 and gate.in_flight() == 0, "the copy is over")
    assert copy.requests == main.requests == [request]
    assert stat(gate, "mirrored") - before == 1


# What copies are in the metrics: attempts at the mirror's endpoints, and no requests of clients.


def counted(gate: Gate) -> Series:
    return series(gate, gate.plan.pools[1].endpoints[0].series)


def statuses(found: Series) -> dict[int, int]:
    """Calls by gRPC status."""
    return {code: n for code, n in enumerate(found.values("grpc").values()) if n}


async def unlike_a_client(gate: Gate, copies: int = 1) -> Series:
    """The series of the mirror's endpoint, when the copies are over: the route and the listener have only originals."""
    await settle(lambda: gate.in_flight() == 0 and counted(gate)["started"] == copies, "the copies are over")
    found, route = counted(gate), series(gate)
    assert found["requests"] == found["request_duration"] == found["finished"] == copies
    assert found.sum_ns("request_duration") > 0
    assert (route["requests"], route["requests.2xx"], route["started"], route["errors"]) == (copies, copies, copies, 0)
    return found


async def with_turn(site: Site, protocol: str, turn: str) -> Gate:
    """A route whose mirror's only endpoint does `turn` with each copy: see hedge_site."""
    if protocol == "http":
        main, copy = Plain("main", ["answer"]), Plain("copy", [turn])
        pools = {
            name: {"endpoints": [await site.endpoint(one)], "retries": 0}
            for name, one in (("main", main), ("copy", copy))
        }
    else:
        main, copy = Multiplexed("main", ["answer"]), Multiplexed("copy", [turn])
        pools = {
            name: {"protocol": protocol, "endpoints": [await site.endpoint(one)], "retries": 0}
            for name, one in (("main", main), ("copy", copy))
        }
    if turn == "hang":
        pools["copy"].update(IMPATIENT)
    return await routing_gate(site, [{"pool": "main", "mirror": {"pool": "copy"}}], pools)


@pytest.mark.parametrize("protocol", ["http", "http2"])
@pytest.mark.parametrize(
    ("turn", "code", "fault"),
    [
        ("answer", "2xx", 0),
        ("404", "4xx", 0),
        ("429", "429", 0),
        ("500", "5xx", 1),
        ("503", "5xx", 1),
        ("break", "5xx", 1),
        ("hang", "5xx", 1),
    ],
)
async def test_copies_count_by_status(site: Site, protocol: str, turn: str, code: str, fault: int) -> None:
    gate = await with_turn(site, protocol, turn)
    for _ in range(3):
        assert (await curl(gate, "/")).body == "main"
    found = await unlike_a_client(gate, 3)
    assert (found[f"requests.{code}"], found["errors"]) == (3, 3 * fault)
    assert found["timeouts"] == (3 if turn == "hang" else 0)
    assert found["response_errors"] == (3 if turn == "break" else 0)
    assert statuses(found) == {}


@pytest.mark.parametrize("protocol", ["grpc", "oip"])
@pytest.mark.parametrize(
    ("turn", "code", "status", "fault"),
    [
        ("answer", 2, 0, 0),
        ("3", 2, 3, 0),
        ("8", 2, 8, 0),
        ("2", 2, 2, 1),
        ("4", 2, 4, 1),
        ("14", 2, 14, 1),
        ("503", 5, 14, 1),
        ("break", 5, 14, 1),
        ("hang", 5, 4, 1),
    ],
)
async def test_copies_of_calls_count_by_grpc_status(
    site: Site, protocol: str, turn: str, code: int, status: int, fault: int
) -> None:
    gate = await with_turn(site, protocol, turn)
    assert await call(gate, "/inference.GRPCInferenceService/ModelInfer", b"\n\1m") == b"main"
    found = await unlike_a_client(gate)
    assert (found[f"requests.{code}xx"], statuses(found), found["errors"]) == (1, {status: 1}, fault)
    assert found["timeouts"] == (turn == "hang")
    assert found["response_errors"] == (turn == "break")


@pytest.mark.parametrize(
    ("status", "code", "fault"),
    [
        (None, 2, 0),
        (grpc.StatusCode.INVALID_ARGUMENT, 4, 0),
        (grpc.StatusCode.UNKNOWN, 4, 1),
        (grpc.StatusCode.CANCELLED, 4, 1),
        (grpc.StatusCode.INTERNAL, 5, 1),
        (grpc.StatusCode.UNAVAILABLE, 5, 1),
    ],
)
async def test_copies_of_rest_inferences_count_by_grpc_status(
    site: Site, status: grpc.StatusCode | None, code: int, fault: int
) -> None:
    copy = await site.model(ModelServer(failing(status, "no") if status else echo))
    gate = await inference_gate(site, ModelServer(), copy)
    assert (await curl(gate, INFER, "-d", BODY)).status == 200
    found = await unlike_a_client(gate)
    number = status.value[0] if status else 0
    assert (found[f"requests.{code}xx"], statuses(found), found["errors"]) == (1, {number: 1}, fault)


@pytest.mark.parametrize("fault", ["dead", "slow"])
async def test_copies_of_rest_inferences_without_an_answer(site: Site, fault: str) -> None:
    async def slow(request: Any, context: Any) -> Any:
        await asyncio.sleep(600)

    copy = await site.model(ModelServer(slow)) if fault == "slow" else f"127.0.0.1:{free_port()}"
    gate = await inference_gate(site, ModelServer(), copy, **(IMPATIENT if fault == "slow" else {}))
    assert (await curl(gate, INFER, "-d", BODY)).status == 200
    found = await unlike_a_client(gate)
    assert (found["requests.5xx"], statuses(found), found["errors"]) == (1, {4 if fault == "slow" else 14: 1}, 1)
    assert (found["connect_errors"], found["response_errors"]) == (fault == "dead", 0)


@pytest.mark.parametrize("protocol", ["http", "http2", "grpc"])
async def test_copies_without_a_connection(site: Site, protocol: str) -> None:
    main = Plain("main", ["answer"]) if protocol == "http" else Multiplexed("main", ["answer"])
    pools = {
        "main": {"protocol": protocol, "endpoints": [await site.endpoint(main)]},
        "copy": {"protocol": protocol, "endpoints": [f"127.0.0.1:{free_port()}"]},
    }
    gate = await routing_gate(site, [{"pool": "main", "mirror": {"pool": "copy"}}], pools)
    if protocol == "grpc":
        assert await call(gate) == b"main"
    else:
        assert (await curl(gate, "/")).body == "main"
    found = await unlike_a_client(gate)
    assert (found["requests.5xx"], found["errors"], found["connect_errors"]) == (1, 1, 1)
    assert statuses(found) == ({14: 1} if protocol == "grpc" else {})


async def test_an_answer_that_is_cut_off_for_its_length_is_no_error(site: Site) -> None:
    async def huge(request: Any, context: Any) -> Any:
        answer = await echo(request, context)
        answer.raw_output_contents.append(bytes(3 << 20))
        return answer

    gate = await inference_gate(site, ModelServer(), await site.model(ModelServer(huge)))
    assert (await curl(gate, INFER, "-d", BODY)).status == 200
    found = await unlike_a_client(gate)
    assert (found["requests.2xx"], found["errors"], statuses(found)) == (1, 0, {}), "its gRPC status is not known"
