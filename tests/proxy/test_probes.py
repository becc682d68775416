"""Prequal's probes at the wire: to whom they go and when, what becomes of them, and what they are good for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import pytest
from datapath import Gate, Site, settle
from probe_peers import PATH, HttpPeer, request, start

from lb.config.plan.plan import PolicyPlan

ALL = pytest.mark.parametrize("protocol", ["http", "http2", "grpc", "oip"])
MULTIPLEXED = pytest.mark.parametrize("protocol", ["http2", "grpc", "oip"])
# Nothing here is about speed: an answer that takes a second on a busy machine is as good as any.
PATIENT: dict[str, Any] = {"timeout": "1s", "max_age": "60s", "max_idle": "0s"}


def prequal(protocol: str, **probes: Any) -> dict[str, Any]:
    asked = {"path": PATH} if protocol in ("http", "http2") else {}
    options = {"probes": {**PATIENT, **asked, **probes}}
    return {"protocol": protocol, "policy": PolicyPlan("prequal", options=options)}


async def site_of(site: Site, protocol: str, count: int = 2, **probes: Any) -> tuple[Gate, list[Any]]:
    peers = [await start(site, protocol) for _ in range(count)]
    gate = await site.gate([address for _, address in peers], pool=prequal(protocol, **probes), route={"cache": False})
    return gate, [peer for peer, _ in peers]


def sent(gate: Gate) -> list[int]:
    return [gate.total(endpoint.series)["probes"] for endpoint in gate.plan.pools[0].endpoints]


def failures(gate: Gate) -> tuple[int, int, int]:
    """Late, failed, without a report."""
    found = [gate.total(endpoint.series).values("probe_failures") for endpoint in gate.plan.pools[0].endpoints]
    return sum(s["timeout"] for s in found), sum(s["failed"] for s in found), sum(s["no_report"] for s in found)


def prober(gate: Gate) -> Any:
    return gate.proxy.pools[0].prober


async def at_rest(gate: Gate) -> None:
    await settle(lambda: prober(gate).under_way == 0, "a probe is under way")


@ALL
async def test_a_choice_is_followed_by_probes(site: Site, protocol: str) -> None:
    gate, peers = await site_of(site, protocol, 4, rate=3)
    await request(gate, protocol)
    await settle(lambda: sum(len(peer.asked) for peer in peers) == 3, "not three were asked")
    await at_rest(gate)
    assert sorted(len(peer.asked) for peer in peers) == [0, 1, 1, 1]
    assert sorted(sent(gate)) == [0, 1, 1, 1]
    assert failures(gate) == (0, 0, 0)
    assert gate.proxy.pools[0].policy.pool.count == 3
    # They are no requests.
    assert sum(gate.total(e.series)["started"] for e in gate.plan.pools[0].endpoints) == 1
    assert gate.in_flight() == 0


@ALL
async def test_requests_go_by_the_answers(site: Site, protocol: str) -> None:
    gate, peers = await site_of(site, protocol, 3, rate=3)
    for peer, rif in zip(peers, (4, 4, 4), strict=True):
        peer.rif, peer.latency_ms = rif, 50
    peers[1].latency_ms = 5
    for _ in range(3):
        await request(gate, protocol)
        await settle(lambda: gate.proxy.pools[0].policy.pool.count == 3, "not all have answered")
        await at_rest(gate)
    before = peers[1].requests
    for _ in range(20):
        await request(gate, protocol)
    assert peers[1].requests == before + 20


@ALL
async def test_fractions_of_a_probe(site: Site, protocol: str) -> None:
    gate, _ = await site_of(site, protocol, 2, rate=0.25)
    for count in range(1, 9):
        await request(gate, protocol)
        await at_rest(gate)
        await settle(lambda count=count: sum(sent(gate)) == count // 4, "the rate is wrong")  # type: ignore[misc]


@ALL
async def test_over_the_connections_of_requests(site: Site, protocol: str) -> None:
    gate, peers = await site_of(site, protocol, 1, rate=1)
    for _ in range(5):
        await request(gate, protocol)
        await at_rest(gate)
    await settle(lambda: len(peers[0].asked) == 5, "probes are missing")
    if protocol in ("http", "http2"):
        assert peers[0].connections <= 2 if protocol == "http" else peers[0].connections == 1
    else:
        assert gate.proxy.pools[0].channels[0].stats()["connects"] == 1


@ALL
async def test_one_at_a_time_to_an_endpoint_that_hangs(site: Site, protocol: str) -> None:
    gate, peers = await site_of(site, protocol, 2, rate=2, timeout="300ms")
    peers[0].turn = "hang"
    for _ in range(5):
        await request(gate, protocol)
    assert sent(gate)[0] == 1
    await settle(lambda: failures(gate) == (1, 0, 0), "it was not given up")
    await at_rest(gate)
    assert [gate.proxy.pools[0].policy.pool.count, len(peers[0].asked)] == [1, 1]
    await request(gate, protocol)  # and the connection of the others is well
    await settle(lambda: sent(gate)[0] == 2, "it is never asked again")
    peers[0].turn = "answer"


@ALL
async def test_an_answer_that_is_late_does_not_count(site: Site, protocol: str) -> None:
    """It comes before the wheel, which turns in steps of 20 ms, gives it up."""
    gate, peers = await site_of(site, protocol, 1, rate=1, timeout="1ms")
    peers[0].turn = "late"
    for count in range(1, 4):
        await request(gate, protocol)
        await at_rest(gate)
        assert failures(gate) == (count, 0, 0)
    assert gate.proxy.pools[0].policy.pool.count == 0


@ALL
async def test_a_connection_that_breaks(site: Site, protocol: str) -> None:
    gate, peers = await site_of(site, protocol, 2, rate=2)
    for peer in peers:
        peer.turn = "break"
    with contextlib.suppress(AssertionError):  # over HTTP/2 it has the same connection
        await request(gate, protocol)
    await settle(lambda: all(peer.asked for peer in peers), "they were not asked")
    await at_rest(gate)
    late, failed, without = failures(gate)
    assert late == 0
    assert failed + without == sum(sent(gate)) >= 2
    assert gate.proxy.pools[0].policy.pool.count == 0
    for peer in peers:
        peer.turn = "answer"
    with contextlib.suppress(AssertionError):  # it may meet the connection that is just being closed
        await request(gate, protocol)
    await request(gate, protocol)
    await settle(lambda: gate.proxy.pools[0].policy.pool.count == 2, "they are not asked any more")


async def test_nobody_there(site: Site) -> None:
    _, address = await start(site, "http")
    site.servers[0].close()
    await site.servers[0].wait_closed()
    gate = await site.gate([address], pool=prequal("http", rate=1))
    answer = await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert b" 502 " in answer
    await settle(lambda: failures(gate)[1] > 0, "the probe has not failed")
    await at_rest(gate)


@ALL
async def test_an_answer_that_does_not_say_is_told_once(
    site: Site, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    gate, peers = await site_of(site, protocol, 2, rate=2)
    for peer in peers:
        peer.turn = "mute"
    with caplog.at_level(logging.WARNING, "tidegate.upstream"):
        for _ in range(3):
            await request(gate, protocol)
            await at_rest(gate)
    await settle(lambda: failures(gate)[2] >= 2, "nothing is missing")
    assert sum("without a load report" in record.getMessage() for record in caplog.records) == 1


@ALL
async def test_those_that_take_no_requests_are_not_asked(site: Site, protocol: str) -> None:
    gate, peers = await site_of(site, protocol, 3, rate=3)
    slots = [endpoint.slot for endpoint in gate.plan.pools[0].endpoints]
    gate.segment.set_health(slots[0], False, 1)
    gate.segment.set_admin(slots[1], 1)
    for _ in range(5):
        await request(gate, protocol)
        await at_rest(gate)
    assert [len(peer.asked) for peer in peers[:2]] == [0, 0]
    assert sent(gate)[2] == 5


@ALL
async def test_while_there_are_no_requests(site: Site, protocol: str) -> None:
    gate, _ = await site_of(site, protocol, 2, rate=1.5, max_idle="40ms")
    await settle(lambda: gate.proxy.pools[0].policy.pool.count == 2, "nobody was asked")
    before = sum(sent(gate))
    await settle(lambda: sum(sent(gate)) >= before + 4, "they are not asked again")
    assert gate.in_flight() == 0


@MULTIPLEXED
async def test_a_reload_ends_them(site: Site, protocol: str) -> None:
    gate, _ = await site_of(site, protocol, 2, rate=2, max_idle="40ms")
    await settle(lambda: sum(sent(gate)) > 2, "nobody was asked")
    old = prober(gate)
    site.reload_pool(gate, policy=PolicyPlan("prequal"))
    assert prober(gate) is None
    await settle(lambda: old.under_way == 0, "a probe is under way")
    before = sum(sent(gate))
    await asyncio.sleep(0.15)
    await request(gate, protocol)
    assert sum(sent(gate)) == before


async def test_a_reload_that_changes_nothing_lets_them_be(site: Site) -> None:
    gate, _ = await site_of(site, "http2", 2, rate=2)
    old = prober(gate)
    site.reload(gate)
    assert prober(gate) is old
    await request(gate, "http2")
    await settle(lambda: sum(sent(gate)) == 2, "nobody was asked")


@ALL
async def test_a_worker_ends_while_they_are_under_way(site: Site, protocol: str) -> None:
    gate, peers = await site_of(site, protocol, 2, rate=2, timeout="1s")
    for peer in peers:
        peer.turn = "hang"
    await request(gate, protocol)
    await settle(lambda: len(peers[0].asked) + len(peers[1].asked) == 2, "they were not asked")
    found = prober(gate)
    gate.proxy.close()
    await asyncio.sleep(0.05)
    if protocol != "http":  # of which the loop's end takes the connection
        assert found.under_way == 0


async def test_the_service_that_is_asked_for(site: Site) -> None:
    gate, peers = await site_of(site, "grpc", 1, rate=1, service="shop.Prices")
    await request(gate, "grpc")
    await settle(lambda: peers[0].asked == [b"\x0a\x0bshop.Prices"], "it was not asked for that")


async def test_a_get(site: Site) -> None:
    gate, peers = await site_of(site, "http", 1, rate=1)
    await request(gate, "http")
    await settle(lambda: len(peers[0].asked) == 1, "it was not asked")
    address = gate.plan.pools[0].endpoints[0].address
    line, host, agent, *rest = peers[0].asked[0].split(b"\r\n")
    assert (line, host, rest) == (b"GET /load HTTP/1.1", b"Host: " + address.encode(), [b"", b""])
    assert agent.startswith(b"User-Agent: tidegate/")


@pytest.mark.parametrize("probes", [True, False])
async def test_what_another_balancer_sends_is_seen_by_probes_only(site: Site, probes: bool) -> None:
    """Two balancers in front of eight endpoints; one of these is busy with what the other one sends."""
    go = asyncio.Event()
    peers: list[HttpPeer] = []
    addresses = []
    for _ in range(8):
        peer, address = await start(site, "http")
        peers.append(peer)
        addresses.append(address)
    pool = prequal("http", rate=8, max_idle="40ms") if probes else {"policy": PolicyPlan("prequal")}
    gate = await site.gate(addresses, pool=pool)
    other = await site.gate(addresses[:1])
    peers[0].go = go
    tasks = [asyncio.create_task(request(other, "http")) for _ in range(10)]
    await settle(lambda: peers[0].in_flight == 10, "the other balancer has not sent them")
    if probes:
        before = len(peers[0].asked)
        await settle(lambda: len(peers[0].asked) > before + 1, "it was not asked")
        await settle(lambda: gate.proxy.pools[0].policy.pool.count == 8, "not all have answered")
    mine = [asyncio.create_task(request(gate, "http")) for _ in range(8)]
    await settle(lambda: sum(peer.requests for peer in peers) == 18, "they were not sent")
    for _ in range(40):
        await request(gate, "http")
    went = peers[0].requests - 10
    go.set()
    await asyncio.gather(*tasks, *mine)
    if probes:
        assert went == 0
    else:
        assert went >= 1
