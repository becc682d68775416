"""Explanations of requests that the data path balances: by every policy, and for every way to an endpoint."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from compiled.endpoint_set import acquire, release
from datapath import SECOND, Gate, Site, settle
from h2_client import h2_client
from msgspec.structs import replace
from oip_site import OIP, ModelServer, plain
from oip_site import ask as ask_model
from queue_site import QUEUE, Held, hold, waiting
from routing_site import routing_gate

from lb.balancing.policies.first import First
from lb.balancing.registry import GROUP, POLICIES
from lb.config.plan.plan import ExplainPlan, PolicyPlan
from lb.endpoints.candidates import candidates
from lb.endpoints.choice import Choice
from lb.proxy.exchange.explain.explanation import HEADER_BYTES, LOG_BYTES, Explanation

ASKED = ExplainPlan(0, ("127.0.0.1",))
FIRST = PolicyPlan("first", options={"fill": 9})
ROUTE = {"expose_endpoint": True}


async def named(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.readuntil(b"\r\n\r\n"):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def explain_of(answer: bytes) -> dict[str, Any]:
    found = re.search(rb"(?im)^x-tidegate-explain: (.*)\r$", answer)
    assert found, answer
    document: dict[str, Any] = json.loads(found[1])
    return document


def endpoint_of(answer: bytes) -> str:
    found = re.search(rb"(?im)^x-tidegate-endpoint: (.*)\r$", answer)
    assert found, answer
    return found[1].decode()


async def ask(gate: Gate, path: str = "/", fields: str = "") -> bytes:
    text = f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Tidegate-Explain: 1\r\n{fields}\r\n"
    return await gate.exchange(text.encode())


@pytest.mark.parametrize("policy", sorted(POLICIES))
async def test_the_choice_that_is_explained_is_the_one_that_was_made(site: Site, policy: str) -> None:
    addresses = [await site.endpoint(named) for _ in range(5)]
    key = ("header", "x-key") if POLICIES[policy].needs_key else ("", "")
    options = {"fill": 9} if policy == "first" else None
    pool = {"policy": PolicyPlan(policy, *key, options=options)}
    gate = await site.gate(addresses, pool=pool, route=ROUTE, listener={"explain": ASKED})
    gate.segment.set_admin(4, 1)
    for weight, slot in ((3, 0), (1, 1), (2, 2), (1, 3)):
        gate.segment.set_weight(slot, weight)
    for turn in range(40):
        answer = await ask(gate, fields=f"X-Key: {turn}\r\n")
        explain = explain_of(answer)
        (choice,) = explain["choices"]
        assert choice["endpoint"] == explain["endpoint"] == endpoint_of(answer)
        rows = choice["candidates"]
        assert rows[0]["address"] == choice["endpoint"]
        scores = [row["score"] for row in rows if "score" in row]
        assert len(scores) == 4
        random = policy in ("random", "power_of_two", "peak_ewma")
        assert random or rows[0]["score"] == min(scores), choice
        assert choice["why"].startswith("it was drawn") == random
        (drained,) = [row for row in rows if "score" not in row]
        assert (drained["address"], drained["not"]) == (addresses[4], "draining")
        assert all(row["in_flight"] == 0 for row in rows), "the request counts itself"


async def test_over_http2_and_for_inference(site: Site) -> None:
    gate = await site.gate([await site.endpoint(named)], listener={"explain": ASKED})
    async with h2_client(gate.port) as client:
        answer = await client.fetch("/", fields=[("x-tidegate-explain", "1")])
        found = answer.field_of("x-tidegate-explain")
        assert found is not None
        assert json.loads(found)["choices"][0]["why"] == "no other endpoint takes requests now"
    model = ModelServer()
    gate = await site.gate([await site.model(model)], pool=OIP, listener={"explain": ASKED}, cache_size=1 << 20)
    address = gate.plan.pools[0].endpoints[0].address
    asks = {"X-Tidegate-Explain": "1"}
    for known in (False, True):  # the second time by the cache
        answer = await ask_model(gate, plain(), headers=asks)
        choices = json.loads(answer.headers["x-tidegate-explain"])["choices"]
        assert [choice["endpoint"] for choice in choices] == ([] if known else [address])
    ready = await ask_model(gate, path="/v2/health/ready", method="GET", headers=asks)
    assert json.loads(ready.headers["x-tidegate-explain"])["choices"][0]["for"] == "first attempt"


async def test_a_retry_says_what_was_tried(site: Site) -> None:
    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    addresses = [await site.endpoint(broken), await site.endpoint(named)]
    pool = {"policy": FIRST}
    gate = await site.gate(addresses, pool=pool, route=ROUTE, listener={"explain": ASKED})
    explain = explain_of(await ask(gate))
    first, second = explain["choices"]
    assert (first["endpoint"], first["for"]) == (addresses[0], "first attempt")
    assert (second["endpoint"], second["for"], explain["endpoint"]) == (addresses[1], "retry", addresses[1])
    assert second["steps"] == [f"retry: other than {addresses[0]}"]
    assert second["candidates"][1]["not"] == "it has just been asked"


async def test_a_hedge_says_for_whom_it_went(site: Site) -> None:
    go = asyncio.Event()

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await go.wait()

    addresses = [await site.endpoint(late), await site.endpoint(named)]
    routes = [{"pool": "app", "hedge": {"after": "20ms", "budget": 100}, **ROUTE}]
    pools = {"app": {"endpoints": addresses, "policy": {"type": "first", "fill": 9}}}
    gate = await routing_gate(site, routes, pools, explain={"trusted": ["127.0.0.1"]})
    explain = explain_of(await ask(gate))
    first, hedge = explain["choices"]
    assert (first["endpoint"], hedge["endpoint"], explain["endpoint"]) == (addresses[0], addresses[1], addresses[1])
    assert hedge["for"] == "hedge"
    assert re.fullmatch(rf"hedge: {addresses[0]} has not answered for \d+\.\d+ ms", hedge["steps"][0])
    go.set()


async def test_the_queue_says_how_long_it_was(site: Site) -> None:
    endpoint = Held()
    address = await site.endpoint(endpoint)
    gate = await site.gate([address], cap=1, pool={"queue": QUEUE}, listener={"explain": ASKED})
    first = await hold(gate, endpoint)
    second = asyncio.create_task(ask(gate, "/second"))
    await settle(lambda: waiting(gate) == 1, "it does not wait")
    endpoint.answer(2)
    (choice,) = explain_of(await second)["choices"]
    assert re.fullmatch(r"queue: it waited \d+\.\d+ ms", choice["steps"][0])
    assert (choice["endpoint"], choice["candidates"][0]["in_flight"]) == (address, 0)
    await first


async def test_nobody_and_late(site: Site) -> None:
    endpoint = Held()
    queue = replace(QUEUE, timeout_ns=SECOND // 20)
    gate = await site.gate([await site.endpoint(endpoint)], cap=1, pool={"queue": queue}, listener={"explain": ASKED})
    first = await hold(gate, endpoint)
    assert explain_of(await ask(gate))["choices"][0]["why"] == "it has waited as long as one may"
    endpoint.answer()
    await first
    gate.segment.set_health(0, False, 1)
    (choice,) = explain_of(await ask(gate))["choices"]
    assert (choice["endpoint"], choice["why"]) == (None, "no endpoint takes requests now")
    assert choice["candidates"][0]["not"] == "down"


async def test_a_plug_in_s_fault_is_no_fault_of_the_request(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = await site.gate([await site.endpoint(named)], listener={"explain": ASKED})

    class View:
        @staticmethod
        def of(*arguments: object) -> None:
            raise RuntimeError("no view")

    monkeypatch.setattr("lb.proxy.exchange.exchange.View", View)
    assert explain_of(await ask(gate))["choices"][0]["why"] == "the policy chose it"


async def test_a_policy_that_always_fails(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither its explanation nor a line of the log for each request may hide why nobody is chosen."""

    class Broken(First):
        def pick(self, choice: Choice) -> int:
            raise RuntimeError("no idea")

    monkeypatch.setitem(POLICIES, "broken", Broken)
    pool = {"policy": PolicyPlan("broken", options={"fill": 9})}
    gate = await site.gate([await site.endpoint(named)], pool=pool, listener={"explain": ASKED})
    answers = [await ask(gate) for _ in range(50)]
    assert {answer.split()[1] for answer in answers} == {b"503"}
    (choice,) = explain_of(answers[-1])["choices"]
    assert choice["why"] == "the policy chose none of those that take requests, or failed: see the log"
    lines = [one.message for one in caplog.records if one.name == "tidegate.balancing"]
    assert lines[0] == f"pool {gate.plan.pools[0].name}: the policy failed: RuntimeError('no idea')"
    assert len(lines) < 25, "a line for each request"


ENDING = """
import os
from lb.balancing.policy import Policy
class Panic(BaseException):
    pass
def end():
    raise {one.__name__: one for one in (SystemExit, Panic, KeyboardInterrupt)}[os.environ["ENDS_BY"]]("no idea")
class Ending(Policy):
    def pick(self, choice):
        return end() if os.environ["ENDS_IN"] == "pick" else 1
    def observe(self, index, now, latency_ns, ok):
        end()
    def explain(self, choice):
        end()
"""


@pytest.mark.parametrize("raised", ["SystemExit", "Panic", "KeyboardInterrupt"])
@pytest.mark.parametrize("method", ["pick", "observe"])
async def test_a_plug_in_that_would_end_the_program_has_failed(
    site: Site,
    install_plugin: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
    raised: str,
) -> None:
    install_plugin(GROUP, "ending", ENDING, ending="Ending")
    monkeypatch.setenv("ENDS_IN", method)
    monkeypatch.setenv("ENDS_BY", raised)
    addresses = [await site.endpoint(named), await site.endpoint(named)]
    name = f"{method}-{raised}"  # the log has one line a second of each
    pools = {name: {"endpoints": addresses, "policy": "ending"}}
    gate = await routing_gate(site, [{"pool": name}], pools, explain={"trusted": ["127.0.0.1"]})
    answer = await ask(gate)
    assert answer.split()[1] == (b"503" if method == "pick" else b"200")
    (choice,) = explain_of(answer)["choices"]
    assert choice["rule"] == f"the policy failed to explain itself: {raised}: no idea"
    await settle(lambda: gate.in_flight() == 0, "something is left")
    lines = [one.message for one in caplog.records if one.name == "tidegate.balancing"]
    assert lines == [f"pool {name}: the policy failed: {raised}('no idea')"]


async def test_of_many_endpoints_as_many_as_fit(site: Site) -> None:
    addresses = [await site.endpoint(named), *[f"127.0.{i // 250}.{i % 250 + 1}:9" for i in range(400)]]
    pool = {"policy": FIRST}
    gate = await site.gate(addresses, pool=pool, listener={"explain": ASKED})
    explain = explain_of(await ask(gate))
    (choice,) = explain["choices"]
    assert choice["of"] == 401
    assert 2 <= len(choice["candidates"]) <= 16
    assert len(json.dumps(explain, separators=(",", ":"))) <= HEADER_BYTES


@pytest.mark.parametrize("most", [HEADER_BYTES, LOG_BYTES])
def test_text_has_a_bound(most: int) -> None:
    explanation = Explanation(True)
    for index in range(20):
        explanation.choose(-1, {"endpoint": None, "why": "ü" * 50 + str(index)})
    text = explanation.text("p", "first", None, most)
    assert len(text) <= most
    assert text.isascii()
    document = json.loads(text)
    assert document["choices_left_out"] + len(document["choices"]) == 20


async def test_a_candidate_takes_requests_if_nothing_is_said_against_it(site: Site) -> None:
    gate = await site.gate([await site.endpoint(named) for _ in range(6)], cap=2)
    endpoints, segment = gate.proxy.pools[0].endpoints, gate.segment
    segment.set_health(0, False, 1)
    segment.set_admin(1, 1)
    segment.set_admin(2, 2)
    segment.set_weight(3, 0)
    for _ in range(2):
        acquire(endpoints, 4)
    segment.set_models_unready(5, 4)
    assert [one.why_not for one in candidates(Choice(endpoints, 1))] == [
        "down", "draining", "in maintenance", "its weight is 0", "it has its 2 requests in flight", "",
    ]  # fmt: skip
    assert candidates(Choice(endpoints, 1, models=4))[5].why_not == "the model is not ready there"
    assert candidates(Choice(endpoints, 1, models=2))[5].why_not == ""
    for i, one in enumerate(candidates(Choice(endpoints, 1))):
        assert endpoints.available(i) == Choice(endpoints, 1).available(i) == (one.why_not == "")
    for _ in range(2):
        release(endpoints, 4)
