"""Load reports of endpoints (ORCA): how they are read, by each protocol to endpoints, and what is made of them."""

from __future__ import annotations

import asyncio
import base64
import struct
from typing import Any

import pytest
from datapath import Gate, Site, settle
from oip_site import OIP, ModelServer, ask, echo, plain
from test_grpc import Service, channel_to

from lb.config.plan.plan import PolicyPlan
from lb.upstream.load import load_report

POLICY = {"policy": PolicyPlan("client_side_weighted_round_robin", options={"blackout_period": "0s"})}


def double(number: int, value: float) -> bytes:
    return bytes([number << 3 | 1]) + struct.pack("<d", value)


def message(cpu: float = 0, rps: float = 0, eps: float = 0, application: float = 0) -> bytes:
    """An xds.data.orca.v3.OrcaLoadReport, its fields by their numbers."""
    pairs = ((1, cpu), (6, rps), (7, eps), (9, application))
    return b"".join(double(number, value) for number, value in pairs if value)


def binary(data: bytes) -> bytes:
    return base64.b64encode(data)


NAME, BINARY = b"endpoint-load-metrics", b"endpoint-load-metrics-bin"
FULL = message(0.25, 120.5, 2, 0.75)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (BINARY, binary(FULL), (0.75, 120.5, 2)),
        (BINARY, binary(FULL).rstrip(b"="), (0.75, 120.5, 2)),
        (b"Endpoint-Load-Metrics-Bin", b" " + binary(FULL), (0.75, 120.5, 2)),
        (BINARY, binary(message(0.25, 10)), (0.25, 10, 0)),
        (BINARY, binary(message(0.25) + b"\x18\x0a"), (0.25, 10, 0)),  # rps, from before it was fractional
        (BINARY, binary(message(0.25, 12) + b"\x18\x0a"), (0.25, 12, 0)),
        (BINARY, binary(message(1, 5) + b"\x42\x0c\n\x01k\x11" + struct.pack("<d", 9)), (1, 5, 0)),  # a named metric
        (BINARY, binary(message(1, 5)) + b"," + binary(message(2, 6)), (2, 6, 0)),
        (NAME, b"BIN " + binary(FULL), (0.75, 120.5, 2)),
        (NAME, b"TEXT cpu_utilization=0.3,rps_fractional=12, eps=1.5,named_metrics.k=7", (0.3, 12, 1.5)),
        (NAME, b"TEXT application_utilization=0.5, cpu_utilization=0.3", (0.5, 0, 0)),
        (NAME, b'JSON {"cpu_utilization": 0.3, "rps_fractional": 12, "named_metrics": {"k": 1}}', (0.3, 12, 0)),
        (NAME, b'JSON {"applicationUtilization": 1.5, "rps": "10", "eps": 1}', (1.5, 10, 1)),
    ],
)
def test_reports(name, value, expected):
    assert load_report.parse(name, value)[:3] == pytest.approx(expected)


def metric(name: bytes, value: float) -> bytes:
    """An entry of the map `named_metrics`."""
    entry = b"\n" + bytes([len(name)]) + name + b"\x11" + struct.pack("<d", value)
    return b"\x42" + bytes([len(entry)]) + entry


@pytest.mark.parametrize(
    ("name", "value", "rif", "latency"),
    [
        (BINARY, binary(FULL), -1, -1),
        (BINARY, binary(FULL + metric(b"rif", 12) + metric(b"latency_ms", 7.5)), 12, 7.5),
        (BINARY, binary(metric(b"rif", 3)), 3, -1),  # without a utilization
        (BINARY, binary(metric(b"rif", 0) + metric(b"k", -5) + metric(b"latency_ms.", 2)), 0, -1),
        (BINARY, binary(metric(b"rif", 3) + b"\x42\x05\n\x03rif"), 0, -1),  # the last of a name, with its default
        (NAME, b"TEXT rif=1, named_metrics.rif=4, named_metrics.latency_ms = 1e1", 4, 10),
        (NAME, b"TEXT named_metrics.rif=+.5e1,named_metrics.rifs=9", 5, -1),
        (NAME, b'JSON {"named_metrics": {"rif": 4, "latency_ms": 2.5, "k": "x"}}', 4, 2.5),
        (NAME, b'JSON {"namedMetrics": {"rif": 6}}', 6, -1),
        (NAME, b'JSON {"cpuUtilization": 0.5, "namedMetrics": []}', -1, -1),
    ],
)
def test_what_probes_ask_for(name: bytes, value: bytes, rif: float, latency: float) -> None:
    found = load_report.parse(name, value)
    assert found is not None
    assert (found.rif, found.latency_ms) == (rif, latency)


def test_requests_in_flight_alone_are_no_utilization() -> None:
    found = load_report.parse(NAME, b"TEXT named_metrics.rif=4")
    assert found is not None
    assert found.utilization == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"endpoint-load-metric", b"TEXT cpu_utilization=1"),
        (b"endpoint-load-metrics-txt", b"TEXT cpu_utilization=1"),
        (NAME, b""),
        (NAME, b"cpu_utilization=1"),
        (NAME, b"YAML cpu_utilization: 1"),
        (NAME, b"TEXT cpu_utilization"),
        (NAME, b"TEXT cpu_utilization=much"),
        (NAME, b"TEXT cpu_utilization=\xff"),
        (NAME, b"TEXT rps=5"),  # no utilization
        (NAME, b"TEXT cpu_utilization=0, rps=5"),
        (NAME, b"TEXT cpu_utilization=-1"),
        (NAME, b"TEXT cpu_utilization=nan"),
        (NAME, b"TEXT cpu_utilization=1, eps=inf"),
        (NAME, b"TEXT cpu_utilization=1, rps=1e300"),
        (NAME, b"TEXT cpu_utilization=1," + b"x=1," * 1100 + b"x=1"),  # over 4 KiB
        (NAME, b"JSON [0.3]"),
        (NAME, b'JSON {"cpu_utilization": null}'),
        (NAME, b'JSON {"cpu_utilization": {"k": 1}}'),
        (NAME, b"JSON {"),
        (NAME, b"JSON " + b"[" * 3000),
        (BINARY, b"TEXT cpu_utilization=1"),
        (BINARY, binary(FULL[:-1])),  # cut off
        (BINARY, binary(message(float("nan")))),
        (BINARY, binary(message(1, -5))),
        (BINARY, binary(FULL + b"\x08" + b"\xff" * 11)),  # a number without end
        (BINARY, b"="),
        (BINARY, b"AA-A"),
        (BINARY, b"AAAAA"),
        (BINARY, b" , "),
        (BINARY, binary(FULL + b"\x42\x02\n\x09")),  # a metric that is cut off
        (BINARY, binary(metric(b"rif", float("nan")))),
        (NAME, b"TEXT named_metrics.rif=-1"),
        (NAME, b"TEXT cpu_utilization=0x1"),
        (NAME, b"TEXT cpu_utilization=1_0"),
        (NAME, b"TEXT cpu_utilization=1e999"),
        (NAME, b"TEXT cpu_utilization=" + b"1" * 100),
        (NAME, b"TEXT cpu_utilization=1 2"),
        (NAME, b"TEXT cpu_utilization=1\x00"),
    ],
)
def test_no_reports(name, value):
    assert load_report.parse(name, value) is None


def reports(gate: Gate) -> list[tuple[float, float, float]]:
    return [gate.segment.load_report(endpoint.slot)[:3] for endpoint in gate.plan.pools[0].endpoints]


def answering(head: bytes, trailers: bytes | None = None) -> Any:
    """An endpoint whose answers have those lines; the trailers behind a chunked body."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            if trailers is None:
                writer.write(b"HTTP/1.1 200 OK\r\n" + head + b"Content-Length: 2\r\n\r\nok")
            else:
                start = b"HTTP/1.1 200 OK\r\n" + head + b"Transfer-Encoding: chunked\r\n\r\n"
                writer.write(start + b"2\r\nok\r\n0\r\n" + trailers + b"\r\n")

    return handler


GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTE: trailers\r\n\r\n"


@pytest.mark.parametrize("where", ["head", "trailers"])
async def test_http1(site: Site, where: str) -> None:
    line = BINARY + b": " + binary(FULL) + b"\r\n"
    endpoint = await site.endpoint(answering(line) if where == "head" else answering(b"", line))
    gate = await site.gate([endpoint], pool=POLICY)
    answer = await gate.exchange(GET)
    assert b" 200 " in answer
    assert reports(gate) == [(0.75, 120.5, 2)]


async def test_the_last_of_several_counts_and_a_wrong_one_does_not(site: Site) -> None:
    lines = NAME + b": TEXT cpu_utilization=0.5\r\n" + NAME + b": TEXT cpu_utilization=0.7\r\n" + NAME + b": what\r\n"
    gate = await site.gate([await site.endpoint(answering(lines))], pool=POLICY)
    await gate.exchange(GET)
    assert reports(gate) == [(0.7, 0, 0)]


async def test_other_policies_do_not_look(site: Site) -> None:
    gate = await site.gate([await site.endpoint(answering(NAME + b": TEXT cpu_utilization=0.5\r\n"))])
    answer = await gate.exchange(GET)
    assert NAME + b": TEXT cpu_utilization=0.5" in answer
    assert reports(gate) == [(0, 0, 0)]


async def test_requests_follow_the_reports(site: Site) -> None:
    """200 and 600 requests/s at half their power: a quarter and three."""
    seen = [0, 0]

    def counting(index: int, rps: int) -> Any:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                seen[index] += 1
                report = NAME + f": TEXT cpu_utilization=0.5, rps_fractional={rps}\r\n".encode()
                writer.write(b"HTTP/1.1 200 OK\r\n" + report + b"Content-Length: 0\r\n\r\n")

        return handler

    addresses = [await site.endpoint(counting(0, 200)), await site.endpoint(counting(1, 600))]
    policy = PolicyPlan(
        "client_side_weighted_round_robin", options={"blackout_period": "0s", "weight_update_period": "100ms"}
    )
    gate = await site.gate(addresses, pool={"policy": policy})
    for _ in range(4):
        await gate.exchange(GET)
    assert seen == [2, 2]
    await asyncio.sleep(0.2)
    for _ in range(40):
        await gate.exchange(GET)
    assert seen == pytest.approx([12, 32], abs=1)


async def test_trailing_metadata_of_a_grpc_server(site: Site) -> None:
    """As gRPC's own servers send it: grpcio does the base64."""

    class Reporting(Service):
        async def unary(self, request: bytes, context: Any) -> bytes:
            context.set_trailing_metadata((("endpoint-load-metrics-bin", FULL),))
            return request

    service = Reporting()
    await service.start()
    try:
        gate = await site.gate([service.address], pool={"protocol": "grpc", **POLICY})
        async with channel_to(gate) as channel:
            assert await channel.unary_unary("/test.Kinds/Unary")(b"hello") == b"hello"
        await settle(lambda: reports(gate) == [(0.75, 120.5, 2)], "no report was read")
    finally:
        await service.server.stop(None)


@pytest.mark.parametrize("when", ["initial", "trailing"])
async def test_a_model_server_behind_rest(site: Site, when: str) -> None:
    async def reporting(request: Any, context: Any) -> Any:
        if when == "initial":
            await context.send_initial_metadata((("endpoint-load-metrics", "TEXT cpu_utilization=0.5,rps=7"),))
        else:
            context.set_trailing_metadata((("endpoint-load-metrics-bin", message(0.5, 7)),))
        return await echo(request, context)

    gate = await site.gate([await site.model(ModelServer(reporting))], pool={**OIP, **POLICY}, route={"cache": False})
    answer = await ask(gate, plain())
    assert answer.status == 200
    assert reports(gate) == [(0.5, 7, 0)]
