"""What scenarios work out for themselves."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from bench.emulated import Emulated
from bench.emulator.spec import Antagonist, Batched, Constant, Failure, Lognormal, Parallel, Serial, Service, Stall
from bench.errors import BenchError
from bench.generator import Target
from bench.load.arrivals import Poisson, schedule
from bench.load.histogram import Recording, encode
from bench.load.invoke import MARK
from bench.load.report import Report, Series
from bench.open_loop import report_of, share_above
from bench.scenarios import SCENARIOS, autoscale_trace, failing_endpoint, uneven_endpoints, untuned_changes
from bench.scenarios.inference import grpc_message, json_request
from bench.scenarios.latency import Goodput, latencies
from bench.scenarios.untuned_changes import Phase
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
    assert Emulated((Service(Parallel(Constant(10), 4)),)).capacity == pytest.approx(400)
    batched = Service(Batched(16, max_wait_ms=5, fixed_ms=40, per_item_ms=2.5))
    assert Emulated((batched, batched)).capacity == pytest.approx(2 * 16 / 0.08)


@pytest.mark.parametrize(
    "service",
    [
        Service(),
        Service(Batched(4, max_wait_ms=1, fixed_ms=0, per_item_ms=0)),
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


def counted(**series: list[int]) -> Report:
    """A report in bins of half a second."""
    empty = encode(Recording().histogram())
    return Report(
        sent=sum(series["sent"]),
        completed=0,
        failed={},
        dropped=0,
        retried=0,
        began_ns=10_000_000_000,
        duration_ns=len(series["sent"]) * 500_000_000,
        cpu_ns=1,
        bytes_in=1,
        bytes_out=1,
        latency=empty,
        service=empty,
        lateness=empty,
        failure=empty,
        series=Series(bin_ns=500_000_000, **series),
    )


def test_each_second_is_held_against_what_was_possible() -> None:
    report = counted(sent=[50, 50, 100, 100, 30, 10], in_time=[40, 50, 50, 40, 20, 20])
    assert untuned_changes.shares(report, [Phase(0, 100)]) == [None, 0.9, 1.0]  # 90 of 100; 40 of 40
    assert untuned_changes.shares(report, [Phase(0, 180)]) == [None, 0.5, 1.0]
    # The second in which a change falls does not count, nor do those that begin within two seconds of it.
    assert untuned_changes.shares(report, [Phase(0, 1000), Phase(0.5, 90)]) == [None, None, None]
    longer = counted(sent=[50] * 10, in_time=[50] * 6 + [20] * 4)
    assert untuned_changes.shares(longer, [Phase(0, 1000), Phase(1.5, 50)]) == [None, None, None, None, 0.8]
    # Nothing came, and so nothing was missed.
    assert untuned_changes.shares(counted(sent=[0] * 6, in_time=[0] * 6), [Phase(0, 100)]) == [None, 1.0, 1.0]


def test_a_proxy_that_refuses_all_has_no_latencies_and_one_that_is_silent_has_failed() -> None:
    refused = replace(counted(sent=[10, 10], failed=[10, 10]), failed={"status_502": 19, "timeout": 1})
    found = uneven_endpoints.PACE.parse(MARK + refused.to_json())
    assert found.operations == 0
    assert latencies(report_of(found)) == {}
    silent = replace(refused, failed={"timeout": 20})
    with pytest.raises(BenchError, match="no request at the fixed rate was answered"):
        uneven_endpoints.PACE.parse(MARK + silent.to_json())


def test_errors_of_a_phase_count_from_its_second_second_on() -> None:
    report = counted(sent=[10] * 6 + [20] * 6, failed=[9, 9, 9, 9, 0, 1, 4, 4, 4, 4, 4, 4])
    # Begun half a second into the run: what counts is 1.5 to 4.5 s.
    assert failing_endpoint.errors_pct(report, 10_500_000_000) == pytest.approx(100 * (9 + 0 + 1 + 4 + 4 + 4) / 90)
    for begun in (9_900_000_000, 12_500_000_000):
        with pytest.raises(BenchError, match="not within the measured time"):
            failing_endpoint.errors_pct(report, begun)


def test_each_phase_has_one_server_that_fails() -> None:
    for when in ("start", "joining"):
        services = failing_endpoint.fleet(when).services
        assert [one.failures[0].how for one in services if one.failures] == list(failing_endpoint.KINDS)
    assert all(len(services) == 8 for services in (failing_endpoint.fleet("late").services,))
    assert not any(one.failures for one in failing_endpoint.fleet("start").services[:8])


def test_what_nobody_tunes_has_its_limits_by_the_best_of_those_who_do() -> None:
    untuned = [scenario for scenario in SCENARIOS.values() if scenario.name.startswith("untuned-")]
    assert len(untuned) == 14
    for scenario in untuned:
        assert scenario.task.untuned
        assert scenario.task_for("haproxy").untuned
        assert not scenario.task.policy
        assert not scenario.task.endpoint_limit
        assert not scenario.task.cost
        assert scenario.task.deadline
        assert not scenario.row("haproxy-tuned").task.untuned


def test_the_load_is_shared_out_among_several_proxies(tmp_path: Path) -> None:
    pace = uneven_endpoints.PACE
    one, two = pace.specs(Target(1001, 1, tmp_path, more_ports=(1002,)), 10)
    assert (one.address, two.address) == ("127.0.0.1:1001", "127.0.0.1:1002")
    assert one.arrivals == two.arrivals == Poisson(350)
    assert one.connections == two.connections == 128
    assert one.seed != two.seed, "they would send at the same moments"
    assert len(pace.command(Target(1001, 1, tmp_path, more_ports=(1002,)), 10)) == 5
    with pytest.raises(BenchError, match="only a rate"):
        untuned_changes.CROWD_PACE.specs(Target(1001, 1, tmp_path, more_ports=(1002,)), 10)


def test_the_default_run_is_part_of_the_suite() -> None:
    default = [scenario.name for scenario in SCENARIOS.values() if scenario.default]
    assert {"proxy-http1", "uneven-endpoints", "cache-hit"} <= set(default) < set(SCENARIOS)
