"""The simulator takes the steps of the data path: the same requests, to servers that do the same, have the same counts.

One side is a data path with real sockets and scripted servers, the other the simulator with servers of the same script.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import grpc
import numpy as np
import pytest
from datapath import Gate, Site, settle
from hedge_site import Plain
from infer_site import gate_to
from oip_site import OIP, Dying, ModelServer, ask, echo, plain
from routing_site import curl, routing_gate

from bench.emulator.model import Executor, Job
from bench.emulator.spec import Instant
from bench.emulator.timeline import NEVER, Timeline
from bench.simulate._engine import Server, Simulation
from bench.simulate.daemon import POOL, Daemon, read
from bench.simulate.result import RECORD
from lb.config.plan.plan import Plan
from lb.shared.words import ENDPOINT, HISTOGRAM, ROUTE
from lb.telemetry.series import Series

SECOND = 1_000_000_000
FAILURES = {"503": "unavailable", "500": "error", "429": "limited", "break": "reset"}
UNTOLD = {"received_bytes", "sent_bytes", "request_duration"}
ONE_RETRY = {"attempts": 1, "budget": 100, "backoff": {"base": "0s"}}


class Script(Executor):
    """What a simulated server does with each request: "answer", "hang", a status, or "break"; the last for ever."""

    def __init__(self, turns: list[str]) -> None:
        super().__init__(Instant(), Timeline(), Random(1))
        self.turns = turns
        self.turn = ""

    def at(self, now: int) -> tuple[bool, int]:
        """The next request has come; it does not fail by itself."""
        self.turn = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
        return False, NEVER

    def arrive(self, job: Job, now: int) -> bool:
        return self.turn == "hang" or super().arrive(job, now)


@dataclass
class Failing:
    script: Script
    turn: str

    def at(self, now: int) -> tuple[bool, int]:
        return self.script.turn == self.turn, NEVER


def simulated(
    scripts: Sequence[list[str]], requests: int, route: Mapping[str, Any], pool: Mapping[str, Any], method: int = 1
) -> tuple[list[int], list[dict[str, int]]]:
    """The statuses that clients are told, and the counts of the route and of each endpoint."""
    simulation = Simulation(1000 * SECOND, 100_000, 1, method)
    addresses = [f"192.0.2.1:{9000 + i}" for i in range(len(scripts))]
    for i, turns in enumerate(scripts):
        script = Script(list(turns))
        failures = [(script, ""), *((Failing(script, turn), how) for turn, how in FAILURES.items())]
        simulation.servers[addresses[i]] = Server(simulation, i, script, failures, False)
    daemon = Daemon(simulation, 1)
    listener = {"bind": "127.0.0.1:1", "protocol": "http", "routes": [{"pool": POOL, **route}]}
    sections = {POOL: {"avoid_failing": False, "endpoints": addresses, **pool}}
    daemon.apply(read({"listeners": {"front": listener}, "pools": sections}))
    simulation.daemons.append(daemon.workers)
    times = array("q", [(1001 + 5 * i) * SECOND for i in range(requests)])  # each after the one before
    simulation.run(times, [(0, 1, 0)], 2000 * SECOND)
    statuses = np.frombuffer(simulation.answers(), RECORD)["status"].tolist()
    assert daemon.plan is not None
    found = [counts(Series(kind, daemon.total(number))) for kind, number in numbers(daemon.plan)]
    simulation.clean()
    daemon.close()
    return statuses, found


def numbers(plan: Plan) -> list[tuple[Any, int]]:
    route = (ROUTE, next(iter(plan.listeners[0].routes)).series)
    return [route, *((ENDPOINT, endpoint.series) for endpoint in plan.pools[0].endpoints)]


def counts(series: Series) -> dict[str, int]:
    """All counters that are not 0, but for bytes and durations."""
    found = {}
    for at, _, word in series.kind.rows():
        if word.type != HISTOGRAM and word.name not in UNTOLD:
            for i in range(word.size):
                name = word.name + (f".{'.'.join(word.values[i])}" if word.values else "")
                if series.words[at + i]:
                    found[name] = series.words[at + i]
    return found


async def counted(gate: Gate) -> list[dict[str, int]]:
    await settle(lambda: gate.in_flight() == 0 and gate.proxy.busy() == 0, "something is left")
    return [counts(gate.total(number)) for _, number in numbers(gate.plan)]


CASES: dict[str, tuple[list[list[str]], dict[str, Any], dict[str, Any]]] = {
    "answers": ([["answer"], ["answer"]], {}, {}),
    "a fault": ([["500"], ["answer"]], {}, {}),
    "a fault, judged": ([["500"], ["answer"]], {}, {"outlier": {"consecutive_5xx": 2}}),
    "refusals": ([["429"], ["answer"]], {}, {}),
    "not retried": ([["503"], ["answer"]], {}, {"retries": 1}),
    "retried": ([["503"], ["answer"]], {"retry": {**ONE_RETRY, "on": ["5xx"]}}, {}),
    "retried in vain": ([["503"], ["503"]], {"retry": {**ONE_RETRY, "on": ["5xx"]}}, {}),
    "broken": ([["break"], ["answer"]], {}, {"retries": 0}),
    "broken, retried": ([["break"], ["answer"]], {}, {"retries": 1}),
    "late": ([["hang", "answer"], ["answer"]], {"timeout": "1s"}, {}),
    "late, retried": (
        [["hang", "answer"], ["answer"]],
        {"timeout": "5s", "retry": {**ONE_RETRY, "on": ["timeout"], "per_attempt_timeout": "1s"}},
        {},
    ),
    "hedged": ([["hang", "answer"], ["answer"]], {"hedge": {"after": "50ms", "budget": 100}}, {}),
    "hedge in vain": ([["hang", "answer"], ["503", "answer"]], {"timeout": "1s", "hedge": {"after": "50ms"}}, {}),
    "limited": ([["answer"], ["503", "answer"]], {}, {"max_in_flight": 1, "queue": {"timeout": "1s"}}),
}


@pytest.mark.parametrize("case", CASES)
async def test_requests_of_http(site: Site, case: str) -> None:
    scripts, route, pool = CASES[case]
    endpoints = [await site.endpoint(Plain(str(i), list(turns))) for i, turns in enumerate(scripts)]
    section = {"protocol": "http", "policy": "round_robin", **pool}
    gate = await routing_gate(site, [{"pool": "p", **route}], {"p": {**section, "endpoints": endpoints}})
    # Hedges would follow on a busy machine, and an endpoint that was given up is left alone for a time.
    requests = 1 if "hedge" in route else 6
    told = [(await curl(gate)).status for _ in range(requests)]
    statuses, found = simulated(scripts, requests, route, section)
    assert statuses == told
    assert found == await counted(gate)


CODES = {
    "503": grpc.StatusCode.UNAVAILABLE,
    "500": grpc.StatusCode.INTERNAL,
    "429": grpc.StatusCode.RESOURCE_EXHAUSTED,
}


def scripted(turns: list[str]) -> ModelServer:
    left = list(turns)

    async def behave(request: Any, context: grpc.aio.ServicerContext) -> Any:
        turn = left.pop(0) if len(left) > 1 else left[0]
        if turn != "answer":
            await context.abort(CODES[turn], "as the test says")
        return await echo(request, context)

    return ModelServer(behave)


@pytest.mark.parametrize("turns", [["answer"], ["500"], ["503"], ["429"], ["503", "answer"]], ids=" ".join)
async def test_inferences(site: Site, turns: list[str]) -> None:
    gate = await gate_to(site, scripted(turns), scripted(["answer"]))
    told = [(await ask(gate, plain())).status for _ in range(6)]
    section = {**OIP, "policy": "round_robin", "retries": 1, "outlier": "off"}
    statuses, found = simulated([turns, ["answer"]], 6, {}, section, method=3)
    assert statuses == told
    assert found == await counted(gate)


async def test_inferences_of_a_server_that_dies(site: Site) -> None:
    addresses = [await site.endpoint(Dying()), await site.model(ModelServer())]
    gate = await site.gate(addresses, pool={**OIP})
    told = [(await ask(gate, plain())).status for _ in range(4)]
    statuses, found = simulated(
        [["break"], ["answer"]], 4, {}, {**OIP, "policy": "round_robin", "retries": 1, "outlier": "off"}, method=3
    )
    assert statuses == told
    assert found == await counted(gate)
