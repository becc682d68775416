"""What scenarios work out for themselves."""

import math
from pathlib import Path

import pytest

from bench.emulated import Emulated
from bench.emulator.spec import Antagonist, Constant, Failure, Lognormal, Parallel, Serial, Service, Stall
from bench.errors import BenchError
from bench.generator import Target
from bench.load.arrivals import schedule
from bench.load.histogram import Recording, encode
from bench.load.report import Report, Series
from bench.open_loop import share_above
from bench.scenarios import SCENARIOS, autoscale_trace, uneven_endpoints
from bench.scenarios.inference import grpc_message, json_request
from bench.scenarios.latency import Goodput
from lb.wire import grpc_service_pb2 as wire


def test_any_trace_lasts_as_long_and_asks_as_much(tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("kind,minute,requests\n" + "".join(f"{'ab'[m % 2]},{m},{m}\n" for m in range(100)))
    for where in (None, "kind=b"):
        pace = autoscale_trace.played(own, where)
        spec = pace.spec(Target(1, 1, tmp_path), autoscale_trace.SECONDS)
        offsets = schedule(spec.arrivals, spec.seed, 0.0, autoscale_trace.SECONDS)
        assert len(offsets) == pytest.approx(autoscale_trace.RATE * autoscale_trace.SECONDS, rel=0.1)
        assert 0.95 * autoscale_trace.SECONDS < offsets[-1] / 1e9 <= autoscale_trace.SECONDS
        # It rises: the second half has three quarters of the requests.
        late = sum(offset > autoscale_trace.SECONDS * 5e8 for offset in offsets)
        assert late / len(offsets) == pytest.approx(0.75, abs=0.05)


def test_a_trace_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"nothing\.csv"):
        autoscale_trace.scenario(tmp_path / "nothing.csv")


def test_requests_that_are_to_differ_do() -> None:
    bodies = {json_request(700, seed).body for seed in range(200)}
    assert len(bodies) == 200
    assert {len(body) for body in bodies} == {700}


def test_the_grpc_message_has_a_tensor_of_its_size() -> None:
    message = wire.ModelInferRequest.FromString(grpc_message(4096))
    assert len(message.raw_input_contents[0]) == 4096
    assert list(message.inputs[0].shape) == [1024]


def test_the_share_of_late_answers() -> None:
    recording = Recording()
    assert share_above(recording.histogram(), 1) == 0.0
    for us in range(1, 101):
        recording.record(us * 1000)
    assert share_above(recording.histogram(), 90) == pytest.approx(0.1)
    assert share_above(recording.histogram(), 1000) == 0.0


def test_what_the_servers_can_do_is_the_sum_of_their_rates() -> None:
    assert uneven_endpoints.SERVERS.capacity == pytest.approx(8 * 100 + 4 * 100 / 3)
    lognormal = Service(Serial(Lognormal(10, 0.2)))
    assert Emulated((lognormal,)).capacity == pytest.approx(100 * math.exp(-0.02))


@pytest.mark.parametrize(
    "service",
    [
        Service(),
        Service(Parallel(Constant(10), 4)),
        Service(Serial(Constant(10), per_item=True)),
        Service(Serial(Constant(10)), stalls=(Stall(0, 10),)),
        Service(Serial(Constant(10)), antagonists=(Antagonist(10, 0.5, 2),)),
        Service(Serial(Constant(10)), failures=(Failure(0, 10),)),
    ],
)
def test_servers_whose_rate_is_not_fixed_have_no_capacity(service: Service) -> None:
    with pytest.raises(ValueError, match="no fixed rate"):
        _ = Emulated((*uneven_endpoints.SERVICES, service)).capacity


def test_goodput_counts_answers_in_time_against_what_the_servers_can_do() -> None:
    recording = Recording()
    for us in (100, 100, 200_000, 300_000):
        recording.record(us * 1000)
    empty = encode(Recording().histogram())
    report = Report(
        sent=6,
        completed=4,
        failed={"status": 1, "reset": 1},
        dropped=0,
        retried=0,
        began_ns=1,
        duration_ns=2_000_000_000,
        cpu_ns=1,
        bytes_in=1,
        bytes_out=1,
        latency=encode(recording.histogram()),
        service=empty,
        lateness=empty,
        failure=empty,
        series=Series(),
    )
    assert Goodput(250, 2.0).values(report) == {"late_pct": 50.0, "goodput": 1.5, "capacity_pct": 75.0}


def test_the_default_run_is_part_of_the_suite() -> None:
    default = [scenario.name for scenario in SCENARIOS.values() if scenario.default]
    assert {"proxy-http1", "uneven-endpoints", "cache-hit"} <= set(default) < set(SCENARIOS)
