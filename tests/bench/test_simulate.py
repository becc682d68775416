"""The simulator: the same seed gives the same run, no request is lost, and queues are as long as theory says."""

from __future__ import annotations

import gc
import io
import json
import math
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from bench.cli import app
from bench.emulator.spec import Exponential, Failure, Normal, Parallel, Serial, Service, Stall
from bench.errors import BenchError
from bench.load.arrivals import Constant, Poisson, Steps, Trace
from bench.scenarios import SCENARIOS as REAL
from bench.scenarios import untuned_changes
from bench.simulate import SCENARIOS, Kind, Result, Scenario, agreement, simulate
from bench.simulate._engine import Request, Simulation, Worker
from bench.simulate.daemon import Daemon, configuration, read_file
from bench.simulate.drawn import drawn
from bench.simulate.result import GONE, answers_of
from bench.simulate.scenario import capacity, capacity_per_second, scaled
from bench.simulate.show import Figures, figures, regrets
from lb.balancing.registry import GROUP
from lb.proxy.exchange.exchange import Exchange
from lb.shared.segment import Segment
from lb.shared.words import ENDPOINT
from lb.telemetry.series import Series

DELAYS_MS = 0.4  # of an answer without a queue: four times the network's


def scenario(services: Sequence[Service], rate: float, **others: object) -> Scenario:
    made = Scenario("test", "a test", tuple(services), Poisson(rate), capacity(services), seconds=20)
    return replace(made, **others)  # type: ignore[arg-type]


def mean_wait_ms(result: Result, service_ms: float) -> float:
    return result.mean_ms - DELAYS_MS - service_ms


def erlang_c(servers: int, load: float) -> float:
    """The chance of a wait in M/M/c with `load` = arrival rate * service time (Erlang 1917)."""
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(load**k / math.factorial(k) for k in range(servers)) + last)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_one_server_is_an_mm1_queue(load: float) -> None:
    one = scenario([Service(Serial(Exponential(10.0)))], load * 100, seconds=2000.0, warmup_s=50)
    expected = 10 * load / (1 - load)
    found = [mean_wait_ms(simulate(one, seed=seed), 10.0) for seed in (1, 2)]
    assert sum(found) / 2 == pytest.approx(expected, rel=0.06)


def test_a_server_of_several_slots_is_an_mmc_queue() -> None:
    slots, load = 4, 3.2
    one = scenario([Service(Parallel(Exponential(40.0), slots))], load * 25, seconds=4000.0, warmup_s=50)
    expected = erlang_c(slots, load) * 40 / (slots - load)
    assert mean_wait_ms(simulate(one), 40.0) == pytest.approx(expected, rel=0.06)


def test_the_pool_queue_makes_one_mmc_queue_of_several_servers() -> None:
    """Each server has one request at a time, and who waits does so in the pool: the line of M/M/c. What it loses is the
    network's time in which a server has nothing to do."""
    servers, load = 4, 3.2
    one = scenario([Service(Serial(Exponential(40.0)))] * servers, load * 25, seconds=4000.0, warmup_s=50)
    found = simulate(one, "{max_in_flight: 1, queue: {timeout: 60s, max: 10000}}", workers=2, delay_ms=0.001)
    expected = erlang_c(servers, load) * 40 / (servers - load)
    assert found.most_in_flight == (1,) * servers
    assert found.mean_ms - 40.0 == pytest.approx(expected, rel=0.06)


def test_the_same_seed_gives_the_same_run() -> None:
    one = replace(SCENARIOS["overload"], seconds=3.0)
    pool = "{policy: power_of_two, max_in_flight: 2}"
    first, again = (simulate(one, pool, seed=3, workers=2) for _ in range(2))
    assert first.records.tobytes() == again.records.tobytes()
    assert simulate(one, pool, seed=4, workers=2).records.tobytes() != first.records.tobytes()


@settings(max_examples=25)
@given(
    load=st.floats(0.2, 2.5),
    workers=st.integers(1, 3),
    pool=st.sampled_from(
        [
            "",
            "policy: prequal",
            "max_in_flight: 1",
            "{max_in_flight: 2, policy: {type: first, fill: 2}}",
            "policy: shortest_expected_delay",
        ]
    ),
    how=st.sampled_from(["unavailable", "error", "limited", "reset", None]),
    protocol=st.sampled_from(["http", "http2", "grpc", "oip"]),
    retry=st.sampled_from(["", "retry: {attempts: 2, on: [connect, reset, 5xx]}", "hedge: {after: 20ms}"]),
    patience=st.sampled_from([None, 100.0]),
    daemons=st.integers(1, 2),
)
def test_every_request_ends_once(
    load: float,
    workers: int,
    pool: str,
    how: str | None,
    protocol: str,
    retry: str,
    patience: float | None,
    daemons: int,
) -> None:
    fails = (Failure(500, 800, how=how),) if how else ()  # type: ignore[arg-type]
    services = [Service(Serial(Normal(10, 0.2)), failures=fails), *[Service(Serial(Normal(10, 0.2)))] * 3]
    one = scenario(
        services, load * 400, seconds=2.0, warmup_s=0.5, protocol=protocol, daemons=daemons,
        kinds=(Kind(deadline_ms=200, patience_ms=patience),),
    )  # fmt: skip
    found = simulate(one, pool, workers=workers, route=retry)
    everything = answers_of(found.records)
    assert found.sent == len(everything)
    assert sum(answer.good for answer in found.answers) + sum(found.errors.values()) == len(found.answers)
    assert all(answer.ended >= answer.intended for answer in everything)
    assert patience is not None or not any(answer.status == GONE for answer in everything)


def test_a_limit_holds_over_all_workers() -> None:
    found = simulate(SCENARIOS["overload"], "policy: least_request\nmax_in_flight: 3", seconds=5, workers=4)
    assert max(found.most_in_flight) == 3


def test_nothing_is_left_of_a_run() -> None:
    def run() -> None:
        simulate(
            SCENARIOS["overload-two-daemons"], "max_in_flight: 2", seconds=1, workers=2, route="hedge: {after: 50ms}"
        )

    def left() -> tuple[int, int]:
        gc.collect()
        kinds = (Worker, Request, Exchange, Segment)
        return len(os.listdir("/proc/self/fd")), sum(isinstance(one, kinds) for one in gc.get_objects())

    run()
    before = left()
    run()
    assert left() == before


def test_hedges_are_simulated_as_a_file_has_them_that_says_nothing() -> None:
    servers = (Service(Serial(Normal(10, 0.2))),) * 5
    servers += (replace(servers[0], stalls=(Stall(1000, 2000),)),)
    usual = simulate(scenario(servers, 200, seconds=4), "")
    assert any(answer.attempts == 2 for answer in usual.answers)
    assert usual.percentile(100) < 500
    without = simulate(scenario(servers, 200, seconds=4), "", route="hedge: 'off'")
    assert all(answer.attempts == 1 for answer in without.answers)
    assert without.percentile(100) > 1500


def test_a_server_joins() -> None:
    found = simulate(SCENARIOS["cold"], "policy: round_robin", seconds=15)
    joined = SCENARIOS["cold"].join
    assert joined is not None
    early = [one.server for one in found.answers if one.ended < found.began + joined.at_s * 1e9]
    assert set(early) == set(range(7))
    assert found.shares[7] > 0


def test_two_daemons_share_the_requests() -> None:
    one = simulate(SCENARIOS["uneven"], seconds=10)
    two = simulate(SCENARIOS["uneven-two-daemons"], seconds=10)
    assert len(one.answers) == len(two.answers)
    assert two.percentile(99) > one.percentile(99)


def test_a_deadline_is_kept_and_told() -> None:
    """With a limit the queue refuses what it could not answer in time; and what it takes is in time."""
    found = simulate(SCENARIOS["overload"], "max_in_flight: 2", seconds=10)
    assert found.goodput > 0.97 * SCENARIOS["overload"].capacity
    assert set(found.errors) <= {"queue-late", "queue-shed", "timeout"}


def test_capacity_follows_what_is_planned() -> None:
    halved = SCENARIOS["halved"]
    able = capacity_per_second(halved)
    change = untuned_changes.HALVING
    assert able[0] == able[-1] == pytest.approx(halved.capacity)
    assert able[round(change.after)] == able[round(change.after + change.seconds) - 1] == pytest.approx(able[0] / 2)


def test_every_scenario_runs() -> None:
    for each in SCENARIOS.values():
        found = simulate(each, seconds=1)
        assert found.answers, each.name


def test_the_twins_of_real_scenarios_take_their_configuration() -> None:
    for name, (twin, _) in agreement.TWINS.items():
        task = REAL[name].task
        (found,) = agreement._simulated(name, task, 1)
        assert found.scenario.name == twin
        assert set(agreement._figures(found)) >= {"p50_ms", "p99_ms", "goodput", "late_pct"}
        if task.endpoint_limit:
            assert max(found.most_in_flight) == task.endpoint_limit


def test_the_ratio_of_a_figure_is_of_medians() -> None:
    one = agreement.Agreement("overload", "tidegate", "p99_ms", (10.0, 20.0, 90.0), (30.0, 10.0))
    assert one.ratio == 1.0
    assert agreement.Agreement("overload", "tidegate", "failed", (0.0,), (3.0,)).ratio == 0.0


def test_pools_are_watched_as_time_goes() -> None:
    seen: list[tuple[float, int]] = []

    def watch(seconds: float, daemons: Sequence[Sequence[Worker]]) -> None:
        ((worker,),) = daemons
        (pool,) = worker.pools
        seen.append((seconds, sum(pool.endpoints.inflight(i) for i in range(pool.endpoints.size))))

    simulate(SCENARIOS["overload"], "max_in_flight: 2", seconds=3, watch=watch, every_ms=500)
    assert seen[0] == (-2.0, 0)
    assert [seconds for seconds, _ in seen[:10]] == [-2.0 + 0.5 * i for i in range(10)]
    assert max(running for _, running in seen) == 2 * 12


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    text = """
        listeners: {web: {bind: "127.0.0.1:8080", protocol: http, routes: [{pool: p, timeout: 250ms}]}}
        pools: {p: {protocol: oip, max_in_flight: 1, health: {type: grpc, initial: down}, endpoints: [%s]}}
    """
    file = tmp_path / "own.yaml"
    file.write_text(text % ", ".join(f'"10.0.0.{i}:1"' for i in range(1, 13)))
    found = simulate(SCENARIOS["overload"], seconds=3, config=read_file(file))
    assert found.goodput > 800
    assert set(found.most_in_flight) == {1}
    file.write_text(text % '"10.0.0.1:1"')
    with pytest.raises(BenchError, match="overload has 12 servers, and the file 1 endpoints"):
        simulate(SCENARIOS["overload"], config=read_file(file))


def test_the_command(tmp_path: Path) -> None:
    saved = tmp_path / "runs.json"
    policies = ["--policy", "default", "--policy", "{type: prequal}"]
    options = ["--seconds", "2", "--runs", "2", "--load", "0.5", "--endpoints", "--json", str(saved)]
    arguments = ["simulate", "uneven", "overload", *policies, *options]
    printed = CliRunner().invoke(app, arguments)
    assert printed.exit_code == 0, printed.output
    assert "uneven: twelve servers" in printed.output
    runs = json.loads(saved.read_text())
    assert [(one["scenario"], one["policy"], one["seed"]) for one in runs] == [
        (scenario, policy, seed)
        for scenario in ("uneven", "overload")
        for policy in ("default", "{type: prequal}")
        for seed in (1, 2)
    ]
    assert sum(runs[0]["shares"]) == pytest.approx(1)
    assert 300 < runs[0]["goodput"] < 400
    assert max(runs[0]["most_in_flight"]) > 1
    assert len(runs[0]["per_second"]) == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["simulate", "nothing"], "no such scenario: nothing"),
        (["simulate", "uneven", "--policy", "best"], "best"),
        (["simulate", "uneven", "--pool", "max_in_flite: 2"], "max_in_flite"),
    ],
)
def test_a_mistake_is_told(arguments: list[str], told: str) -> None:
    with pytest.raises(BenchError, match=told):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_more_requests_of_every_kind_of_arrivals(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text("second,requests\n0,100\n1,200\n2,100\n")
    base = SCENARIOS["uneven"]
    for arrivals in (Constant(100), Poisson(100), Steps(((100, 2.0), (200, 1.0))), Trace(str(file), mean_rate=100)):
        one = replace(base, arrivals=arrivals, seconds=3.0)
        found, more = (simulate(scaled(one, factor)).sent for factor in (1, 3))
        assert more == pytest.approx(3 * found, rel=0.15)


@pytest.mark.parametrize("seed", range(1, 31))
def test_drawn_scenarios_can_be_run(seed: int) -> None:
    one = drawn(seed)
    assert one == drawn(seed)
    assert one != drawn(seed + 1)
    found = simulate(one, seconds=1)
    assert 20 < one.capacity < 4000
    assert len(found.counted) > 0


def test_regret_is_the_distance_from_the_best() -> None:
    def run(scenario: str, policy: str, p99_ms: float, goodput: float) -> Figures:
        base = figures(simulate(SCENARIOS["uneven"], seconds=1), policy)
        return replace(base, scenario=scenario, p99_ms=p99_ms, goodput=goodput)

    runs = [run("late", "a", 10, 50), run("late", "b", 5, 100), run("slow", "a", 10, 90), run("slow", "b", 30, 100)]
    found = {(one.scenario, one.policy): one.ratio for one in regrets(runs, {"late": True, "slow": False})}
    assert found == {("late", "a"): 2, ("late", "b"): 1, ("slow", "a"): 1, ("slow", "b"): 3}


def test_servers_report_their_load() -> None:
    """By it a policy that goes by nothing else finds out who is slower."""
    weighted = "policy: {type: client_side_weighted_round_robin, blackout_period: 1s}"
    half = replace(scaled(SCENARIOS["uneven"], 0.5), warmup_s=20.0)
    silent, telling = (simulate(replace(half, reports=reports), weighted, seconds=20) for reports in (False, True))
    assert silent.shares[0] == pytest.approx(1 / 12, rel=0.1)
    assert telling.shares[0] == pytest.approx(3 * telling.shares[11], rel=0.3)


def test_servers_answer_probes() -> None:
    """All of them, at a policy that asks one for each request; in a stall nobody answers in time."""
    counted: dict[str, int] = {}

    def watch(seconds: float, daemons: Sequence[Sequence[Worker]]) -> None:
        words = [Series(ENDPOINT, daemons[0][0].segment.series_total(i)) for i in range(40)]
        counted["probes"] = sum(one["probes"] for one in words)
        counted["late"] = sum(one["probe_failures.timeout"] for one in words)

    one = replace(SCENARIOS["stalling"], reports=True)
    simulate(one, "policy: {type: prequal, probes: {rate: 1}}", seconds=5, watch=watch)
    assert counted["probes"] > 0.9 * 5 * 600
    assert 0 < counted["late"] < counted["probes"] / 10


def test_agreements_are_shown_with_their_spread() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    agreement.show([agreement.Agreement("overload", "tidegate", "p99_ms", (10.0, 20.0, 90.0), (30.0, 10.0))], console)
    assert "20.0 (10.0 to 90.0)" in console.export_text()


def test_a_plug_in_policy_is_simulated(install_plugin: Callable[..., None]) -> None:
    code = """
        from lb.balancing.policy import Policy

        class Last(Policy):
            def pick(self, choice):
                return max((i for i in range(self.endpoints.size) if choice.available(i)), default=-1)
    """
    install_plugin(GROUP, "backwards", code, backwards="Last")
    found = simulate(scaled(SCENARIOS["uneven"], 0.01), "policy: backwards", seconds=5)
    assert found.shares[-1] > 0.9


def test_requests_that_nobody_could_take_are_refused() -> None:
    simulation = Simulation(1000, 0, 1, 1)
    times = np.array([1000])
    with pytest.raises(ValueError, match="workers"):
        simulation.run(times, [(0, 1, 0)], 2000)
    daemon = Daemon(simulation, 1)
    simulation.daemons.append(daemon.workers)
    with pytest.raises(ValueError, match="workers"):
        simulation.run(times, [], 2000)
    daemon.apply(configuration(SCENARIOS["uneven"], ["192.0.2.1:1"], {}, {}, 1))
    with pytest.raises(ValueError, match="route"):
        simulation.run(times, [(1, 1, 0)], 2000)
    simulation.clean()
    daemon.close()


def test_runs_are_drawn_as_pictures(tmp_path: Path) -> None:
    arguments = ["simulate", "cold", "overload", "--policy", "auto", "--policy", "least_request", "--seconds", "2"]
    made = CliRunner().invoke(app, [*arguments, "--plots", str(tmp_path)])
    assert made.exit_code == 0, made.output
    pictures = {path.name: ET.parse(path).getroot() for path in tmp_path.iterdir()}
    assert set(pictures) == {"simulated-p99.svg", "simulated-cold.svg", "simulated-overload.svg"}
    for root in pictures.values():
        words = "".join(root.itertext())
        assert "auto" in words
        assert "least_request" in words
    assert re.search(r"overload: auto 1.00, least_request \d", "".join(pictures["simulated-p99.svg"].itertext()))
