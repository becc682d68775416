"""Bandwidth of answers: never faster than allowed, in every form of answer, and nothing left of clients that leave.

Times are lower bounds only, which a busy machine keeps."""

from __future__ import annotations

import asyncio
import functools
import gc
import time
import zlib
from typing import Any

import grpc
import pytest
from datapath import SECOND, Gate, Site, settle, sharing
from h2_client import h2_client
from http_cache_site import Origin, Reply, ask, cached_gate, read_answer
from infer_site import gate_to
from msgspec.structs import replace
from oip_site import ModelServer, plain, tensor
from oip_site import ask as infer
from pydantic import ValidationError
from routing_site import Numbers, marked, plan_of
from test_grpc import GRPC_POOL, Service

from lb.config.checks.file import check_config
from lb.config.plan.routes import BandwidthPlan, CompressionPlan
from lb.config.schema.file import Config

KIB = 1024
SLACK = 0.25  # seconds of which the bytes may come at once
BODY = bytes(i * 7 % 251 for i in range(200 * KIB))
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
RELAYS = ("Pacer", "Compressor", "Exchange")


def per_request(rate: int, after: int = 0) -> BandwidthPlan:
    return BandwidthPlan(rate, after, 0, "source", "")


def per_key(rate: int, key: str = "header", name: str = "x-tenant") -> BandwidthPlan:
    return BandwidthPlan(0, 0, rate, key, name)


async def paced(site: Site, plan: BandwidthPlan, origin: Origin | None = None, **options: Any) -> Gate:
    origin = origin or Origin(lambda asked: Reply(200, [], BODY))
    route = {"bandwidth": plan, **options.pop("route", {})}
    return await site.gate([await site.endpoint(origin.serve)], route=route, **options)


async def arrivals(gate: Gate, request: bytes = GET, size: int = len(BODY)) -> list[tuple[float, int]]:
    """Of an answer with a length: seconds since the request, and the bytes of the body that had come by then."""
    reader, writer = await gate.connect()
    began = time.monotonic()
    writer.write(request)
    body = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)) and b""
    came = []
    while len(body) < size:
        body += await asyncio.wait_for(reader.read(1 << 20), 20)
        came.append((time.monotonic() - began, len(body)))
    assert BODY.startswith(body)
    writer.close()
    return came


def assert_paced(came: list[tuple[float, int]], rate: int, after: int = 0) -> None:
    for seconds, size in came:
        assert size <= after + rate * (seconds + SLACK) + 1, came


async def idle(gate: Gate) -> None:
    await settle(lambda: gate.proxy.busy() == 0 and gate.in_flight() == 0, "requests are left")
    gc.collect()
    # One whose client left behind a cache is dropped when its next piece is due.
    await settle(lambda: not [each for each in gc.get_objects() if type(each).__name__ in RELAYS], "objects are left")


async def test_an_answer_comes_no_faster_than_its_rate(site: Site) -> None:
    gate = await paced(site, per_request(250 * KIB))
    came = await arrivals(gate)
    assert_paced(came, 250 * KIB)
    assert len(came) > 5  # piece by piece, not in bursts
    # Answers do not share it, and a connection goes on behind one.
    reader, writer = await gate.connect()
    began = time.monotonic()
    writer.write(GET * 2)
    for _ in range(2):
        assert (await read_answer(reader)).body == BODY
    assert time.monotonic() - began >= 2 * (200 / 250 - SLACK)
    writer.close()
    await idle(gate)
    assert gate.total(2)["requests.2xx"] == 3
    assert gate.total(2)["sent_bytes"] == 3 * len(BODY)


async def test_the_beginning_of_an_answer_is_free(site: Site) -> None:
    gate = await paced(site, per_request(64 * KIB, after=160 * KIB))
    assert_paced(await arrivals(gate), 64 * KIB, after=160 * KIB)


@pytest.mark.parametrize("protocol", ["http", "http2"])
async def test_over_http2_from_either_endpoint(site: Site, protocol: str) -> None:
    address = await site.endpoint(Origin(lambda asked: Reply(200, [], BODY)).serve)
    if protocol == "http2":  # a gate is the endpoint that speaks it
        address = f"127.0.0.1:{(await site.gate([address])).port}"
    gate = await site.gate([address], route={"bandwidth": per_request(300 * KIB)}, pool={"protocol": protocol})
    async with h2_client(gate.port) as client:
        began = time.monotonic()
        answers = await asyncio.gather(client.fetch(), client.fetch())
        assert time.monotonic() - began >= 200 / 300 - SLACK
        assert [answer.body == BODY for answer in answers] == [True, True]
    await idle(gate)


async def test_a_stream_of_grpc(site: Site) -> None:
    service = Service()
    await service.start()
    gate = await site.gate([service.address], route={"bandwidth": per_request(200 * KIB)}, pool=GRPC_POOL)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}") as channel:
        began = time.monotonic()
        call = channel.unary_stream("/test.Kinds/Down")(b"500")
        got = [message async for message in call]
        assert time.monotonic() - began >= sum(len(one) + 5 for one in got) / (200 * KIB) - SLACK
        assert got == [b"%d" % i * 100 for i in range(500)]
        assert await call.code() is grpc.StatusCode.OK
    await idle(gate)
    await service.server.stop(None)


async def test_a_key_shares_its_rate_over_workers_and_a_reload(site: Site) -> None:
    address = await site.endpoint(Origin(lambda asked: Reply(200, [], BODY)).serve)
    make = functools.partial(site.gate, [address], route={"bandwidth": per_key(1000 * KIB)})
    async with sharing(site, 2, make) as gates:

        async def told(gate: Gate, tenant: bytes) -> list[tuple[float, int]]:
            return await arrivals(gate, b"GET / HTTP/1.1\r\nHost: a\r\nX-Tenant: %s\r\n\r\n" % tenant)

        began = time.monotonic()
        asked = [asyncio.create_task(told(gates[i % 2], b"one")) for i in range(4)]
        await asyncio.sleep(0.1)
        (listener,) = gates[0].plan.listeners
        (route,) = listener.routes
        changed = replace(listener, routes=(replace(route, max_body=1 << 20),))
        site.reload(gates[0], listeners=(changed,))
        alone = await told(gates[0], b"two")
        got = await asyncio.gather(*asked)
        assert time.monotonic() - began >= 800 / 1000 - SLACK
        # At each moment all that the four have is within it; another key has its own.
        for seconds, _ in got[0]:
            all_of_it = sum(max((size for when, size in one if when <= seconds), default=0) for one in got)
            assert all_of_it <= 1000 * KIB * (seconds + 0.02 + SLACK)
        assert_paced(alone, 1000 * KIB)
        # They take turns: none is done while another has nothing.
        first = min(one[-1][0] for one in got)
        assert all(one[0][0] < first for one in got)
        for gate in gates:
            await settle(lambda gate=gate: gate.proxy.busy() == 0, "requests are left")  # type: ignore[misc]


async def test_clients_that_leave_give_back_their_turns(site: Site) -> None:
    gate = await paced(site, per_key(32 * KIB, "", ""))
    left = [await gate.connect() for _ in range(300)]
    for _, writer in left:
        writer.write(GET)
    await settle(lambda: len([1 for each in gc.get_objects() if type(each).__name__ == "Pacer"]) == 300, "they wait")
    await asyncio.sleep(0.1)
    for _, writer in left:
        writer.transport.abort()
    await idle(gate)
    # The 300 had 434 KB under way, 13 seconds' worth; whoever comes now waits for what went before only.
    began = time.monotonic()
    assert_paced(await arrivals(gate, size=12 * KIB), 32 * KIB)
    assert time.monotonic() - began < 9
    await idle(gate)


async def test_the_endpoint_is_held_back_and_its_timeouts_wait(site: Site) -> None:
    written = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 << 20))
        while written < 64 << 20:
            writer.write(bytes(1 << 18))
            await writer.drain()
            written += 1 << 18

    gate = await site.gate(
        [await site.endpoint(flood)],
        route={"bandwidth": per_request(64 * KIB)},
        pool={"response_timeout_ns": SECOND // 4},
    )
    reader, writer = await gate.connect()
    writer.write(GET)
    await reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(1)
    before = written
    assert before < 24 << 20  # what the sockets hold
    await reader.readexactly(48 * KIB)  # it goes on behind four times the endpoint's timeout
    assert written == before
    writer.transport.abort()
    await idle(gate)


async def test_chunks_trailers_and_an_answer_that_is_cut(site: Site) -> None:
    async def endpoint(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\n\r\n")
        writer.write(b"%x\r\n%s\r\n" % (60 * KIB, BODY[: 60 * KIB]))
        if b"/cut" not in head:
            writer.write(b"0\r\nX-End: yes\r\n\r\n")
        await writer.drain()
        writer.close()

    gate = await site.gate([await site.endpoint(endpoint)], route={"bandwidth": per_request(100 * KIB)})
    began = time.monotonic()
    request = b"GET /%s HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close\r\n\r\n"
    whole, cut = await asyncio.gather(gate.exchange(request % b""), gate.exchange(request % b"cut"))
    assert time.monotonic() - began >= 60 / 100 - SLACK
    assert whole.endswith(b"\r\n0\r\nX-End: yes\r\n\r\n")
    assert b"0\r\n\r\n" not in cut[-8:]
    assert len(cut) > 60 * KIB  # what had come goes out before the end
    await idle(gate)


async def test_an_upload_that_outlasts_its_answer(site: Site) -> None:
    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (40 * KIB) + BODY[: 40 * KIB])
        await reader.read(-1)

    gate = await site.gate([await site.endpoint(early)], route={"bandwidth": per_request(100 * KIB)})
    reader, writer = await gate.connect()
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n" + bytes(1000))
    await reader.readuntil(b"\r\n\r\n")
    writer.write(bytes(299_000))
    assert await reader.readexactly(40 * KIB) == BODY[: 40 * KIB]
    await idle(gate)
    writer.close()


async def test_compressed_and_cached_answers_are_paced_as_the_client_gets_them(site: Site) -> None:
    noise = b"".join(b"%d " % (i * i * 7919 % 100_003) for i in range(40_000))
    kind = ("Content-Type", "text/plain")
    origin = Origin(lambda asked: Reply(200, [kind, ("Cache-Control", "max-age=60")], noise))
    route = {
        "bandwidth": per_request(160 * KIB),
        "compression": CompressionPlan((("gzip", 1),), ("text/plain",), 1, False),
    }
    gate = await cached_gate(site, origin, route=route)
    for _ in range(2):
        began = time.monotonic()
        got = await ask(gate, Accept_Encoding="gzip")
        assert time.monotonic() - began >= len(got.body) / (160 * KIB) - SLACK
        assert zlib.decompress(got.body, 31) == noise
    assert len(got.body) < len(noise) * 0.8
    assert got.cache.startswith("hit")
    assert len(origin.asked) == 1
    began = time.monotonic()
    assert (await ask(gate)).body == noise
    assert time.monotonic() - began >= len(noise) / (160 * KIB) - SLACK
    # A client that leaves when the cache has all, and it has not; one over HTTP/2 that resets its stream.
    _, writer = await gate.connect()
    writer.write(b"GET /other HTTP/1.1\r\nHost: example.org\r\n\r\n")
    async with h2_client(gate.port) as client:
        stream = client.request("/third")
        await settle(lambda: len(origin.asked) == 3 and gate.in_flight() == 0, "the cache has all")
        await client.answers[stream].begun.wait()
        client.h2.reset_stream(stream)
        client.flush()
        writer.transport.abort()
        await idle(gate)


async def test_results_of_inferences_are_paced_too(site: Site) -> None:
    gate = await gate_to(site, ModelServer(), route={"bandwidth": per_request(128 * KIB)})
    began = time.monotonic()
    answer = await infer(gate, plain(tensor([0.25] * 15_000)))
    assert time.monotonic() - began >= len(answer.body) / (128 * KIB) - SLACK
    assert answer.json["outputs"][0]["data"] == [0.25] * 15_000
    # What an error says is within what may come at once.
    assert (await infer(gate, b"{")).status == 400
    await idle(gate)


# The file.


def config(bandwidth: Any, **route: Any) -> dict[str, Any]:
    routes = [{"pool": "a", "bandwidth": bandwidth, **route}]
    listener = {"bind": "127.0.0.1:8080", "protocol": "http", "routes": routes}
    return {
        "listeners": {"web": listener},
        "pools": {"a": {"protocol": "http", "endpoints": ["127.0.0.1:9000"]}},
    }


def test_what_the_file_says_reaches_the_plan() -> None:
    for said, planned in [
        ({"per_request": "1MiB"}, BandwidthPlan(1 << 20, 0, 0, "source", "")),
        (
            {"per_request": "1KiB", "after": "64KiB", "per_key": "10MiB", "key": {"header": "X-Tenant"}},
            BandwidthPlan(1024, 65536, 10 << 20, "header", "x-tenant"),
        ),
        ({"per_key": "10MiB", "key": {"route": True}}, BandwidthPlan(0, 0, 10 << 20, "", "")),
    ]:
        plan = plan_of([{"pool": "a", "bandwidth": said}], {"a": ["127.0.0.1:9000"]}, Numbers())
        assert plan.listeners[0].routes[0].bandwidth == planned


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ({}, "per_request or per_key is needed"),
        ({"after": "1KiB", "per_key": "1MiB"}, "after counts for per_request"),
        ({"per_request": "1MiB", "key": {"route": True}}, "key counts for per_key"),
        ({"per_request": "100B"}, "per_request"),
        ({"per_request": "2TiB"}, "per_request"),
        ({"per_key": "1MiB", "key": {"text": "${error.status}"}}, "for error_pages only"),
    ],
)
def test_what_makes_no_sense_is_refused(said: Any, wrong: str) -> None:
    with pytest.raises(ValidationError, match=wrong):
        Config.model_validate(marked(config(said)))


def test_a_key_by_identity_needs_auth_and_own_answers_have_no_bandwidth() -> None:
    made = Config.model_validate(config({"per_key": "1MiB", "key": {"identity": True}}))
    said = "needs auth, which finds out who a request is from"
    assert check_config(made) == [("listeners.web.routes[0].bandwidth.key.identity", said)]
    with pytest.raises(ValidationError, match="bandwidth is only for routes with a pool"):
        Config.model_validate(config({"per_request": "1MiB"}, pool=None, respond={"status": 200}))
