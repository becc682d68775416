"""What the server says of its load with its answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import numpy as np
import pytest
from backend_process import Backend, infer_request
from hypothesis import given
from hypothesis import strategies as st

from backend.grpc.load_reports import METADATA
from backend.inference.load import WINDOW_NS, Load
from lb.upstream.load import load_report
from lb.wire import grpc_service_pb2 as wire
from lb.wire import orca_load_report_pb2
from lb.wire import orca_service_pb2 as orca
from lb.wire.services import LOAD_REPORTS, Stub

MS = 1_000_000


class Clocked:
    """A Load with a clock of its own."""

    def __init__(self, slots: int) -> None:
        self.now = 1_000 * MS
        self.load = Load(slots, self.now)

    def wait(self, milliseconds: float) -> None:
        self.now += round(milliseconds * MS)

    @contextmanager
    def request(self, failed: bool | None = None) -> Iterator[None]:
        """One that is answered; or fails by our fault, or by the client's."""
        started = self.now
        begun = self.load.begin(started)
        yield
        latency = self.now - started if failed is None else 0
        self.load.end(begun, self.now, latency, bool(failed))

    def report(self) -> Any:
        return orca_load_report_pb2.OrcaLoadReport.FromString(self.load.report(self.now))


def one(load: Clocked, milliseconds: float) -> None:
    with load.request():
        load.wait(milliseconds)


def test_requests_in_flight_are_counted_whatever_becomes_of_them() -> None:
    load = Clocked(2)
    assert load.report().named_metrics == {"rif": 0}
    with load.request(), load.request():
        assert load.report().named_metrics["rif"] == 2
    for failed in (True, False):
        with load.request(failed):
            assert load.report().named_metrics["rif"] == 1
    assert load.report().named_metrics == {"rif": 0}


def test_the_latency_is_the_median_at_the_number_in_flight_now() -> None:
    load = Clocked(1)
    for milliseconds in (10, 30, 11, 12, 13):
        one(load, milliseconds)
    assert load.report().named_metrics["latency_ms"] == 12
    with load.request():
        for milliseconds in (50, 60):
            one(load, milliseconds)
        one(load, 70)
        assert load.report().named_metrics["latency_ms"] == 12  # one is here, as then
        with load.request():
            assert load.report().named_metrics["latency_ms"] == 60
            with load.request():
                assert load.report().named_metrics["latency_ms"] == 60  # the nearest that was seen


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=40))
def test_the_median_is_that_of_the_recent_latencies(latencies: list[int]) -> None:
    load = Clocked(1)
    for latency in latencies:
        one(load, latency / MS)
    assert load.report().named_metrics["latency_ms"] == pytest.approx(median(latencies[-16:]) / MS)


def test_many_in_flight_have_ranges_of_their_own() -> None:
    load = Clocked(1)
    begun = [load.load.begin(load.now) for _ in range(100_000)]
    assert begun[:16] == list(range(1, 17))
    assert begun == sorted(begun)
    assert len(set(begun)) < 130
    for range_ in begun:
        load.load.end(range_, load.now)
    assert load.load.in_flight == 0


def test_only_recent_latencies_count() -> None:
    load = Clocked(1)
    for milliseconds in [500] * 40 + [10] * 16:
        one(load, milliseconds)
    assert load.report().named_metrics["latency_ms"] == 10


def test_failures_say_nothing_of_the_latency() -> None:
    load = Clocked(1)
    one(load, 20)
    for _ in range(5):
        with load.request(failed=True):
            pass
    assert load.report().named_metrics["latency_ms"] == 20


def test_rates_and_utilization_of_the_last_window() -> None:
    load = Clocked(2)
    for _ in range(10):
        one(load, 50)
    with load.request(failed=True):
        pass
    with load.request(failed=False):
        pass
    assert load.report().rps_fractional == 0  # the first window runs
    load.wait(500)
    report = load.report()
    assert (report.rps_fractional, report.eps) == (12, 1)
    assert report.application_utilization == pytest.approx(0.25)  # one of two places, half the time
    load.wait(WINDOW_NS / MS)
    assert load.report().application_utilization == 0


def test_what_waits_does_not_make_it_busier() -> None:
    load = Clocked(1)
    with load.request(), load.request(), load.request():
        load.wait(WINDOW_NS / MS)
        assert load.report().application_utilization == pytest.approx(1)


async def trailers(target: str, path: str, message: bytes = b"") -> dict[str, str]:
    """Of one unary call over a bare HTTP/2 connection: grpcio's clients keep load reports to themselves."""
    host, _, port = target.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    connection.initiate_connection()
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": target}
    connection.send_headers(1, [*fields.items(), ("te", "trailers"), ("content-type", "application/grpc")])
    connection.send_data(1, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=True)
    found: dict[str, str] = {}
    while "grpc-status" not in found:
        writer.write(connection.data_to_send())
        data = await reader.read(1 << 16)
        assert data, "the server closed the connection"
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.TrailersReceived | h2.events.ResponseReceived):
                found.update(event.headers)
    writer.close()
    return found


async def reported(target: str, path: str, message: bytes = b"") -> tuple[str, Any]:
    """The gRPC status, and the report as a balancer reads it."""
    found = await trailers(target, path, message)
    return found["grpc-status"], load_report.parse(METADATA.encode(), found[METADATA].encode())


SERVICE = "/inference.GRPCInferenceService/"
CHECK = "/grpc.health.v1.Health/Check"


def slow(count: int) -> Any:
    return infer_request("slow", ("count", "INT64", np.array(count, np.int64)))


async def test_every_unary_answer_has_a_report(server: Any) -> None:
    target = server.targets[0]
    status, report = await reported(target, SERVICE + "ModelInfer", slow(10).SerializeToString())
    assert status == "0"
    assert report.latency_ms > 0
    status, report = await reported(target, CHECK)
    assert (status, report.rif) == ("0", 0)
    assert report.latency_ms > 0
    status, report = await reported(
        target, SERVICE + "ModelMetadata", wire.ModelMetadataRequest(name="nobody").SerializeToString()
    )
    assert (status, report.rif) == ("5", 0)


async def test_a_stream_of_reports(repository: Any) -> None:
    """One at once, another a second later, and it does not hold up the end of the server."""
    with Backend(repository, "--grace", "60s") as backend:
        backend.wait_ready()
        async with grpc.aio.insecure_channel(backend.targets[0]) as channel:
            call = Stub(channel, LOAD_REPORTS).StreamCoreMetrics(orca.OrcaLoadReportRequest())
            for _ in range(2):
                assert (await call.read()).named_metrics["rif"] == 0
            backend.signal()
            while await call.read() is not grpc.aio.EOF:
                pass
        assert await asyncio.to_thread(backend.wait) == 0


async def test_a_health_check_tells_what_others_have_in_flight(server: Any, stub: Any) -> None:
    busy = [asyncio.ensure_future(stub.ModelInfer(slow(200_000))) for _ in range(3)]
    seen = 0.0
    while not any(each.done() for each in busy) and seen < 3:
        _, report = await reported(server.targets[0], CHECK)
        seen = max(seen, report.rif)
    await asyncio.gather(*busy)
    assert seen == 3


def test_a_moment_of_the_loop_older_than_the_last_look_at_the_clock_changes_no_rate() -> None:
    load = Clocked(1)
    one(load, 500)
    load.wait(500)
    assert load.report().rps_fractional == 1
    load.wait(-1)
    load.load.begin(load.now)
    assert load.report().rps_fractional == 1
    load.wait(1001)
    assert load.report().application_utilization == pytest.approx(1)
