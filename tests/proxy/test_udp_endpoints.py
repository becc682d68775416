"""UDP sessions while endpoints, listeners and descriptors come and go."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
import tempfile

import psutil
import pytest
from datapath import SECOND, settle
from msgspec.structs import replace
from ports import free_port
from udp_site import UdpSite, address_of, bound, silent
from udp_site import site as site

from lb.config.plan.plan import EndpointPlan, PolicyPlan
from lb.shared.words import UDP_LISTENER
from lb.telemetry.series import Series


async def test_an_endpoint_that_is_not_there_is_passed_over(site: UdpSite) -> None:
    dead = f"127.0.0.1:{free_port()}"
    gate = site.gate([dead, site.endpoint().address])
    for _ in range(20):
        client = site.client(gate.target)
        for _ in range(3):  # a datagram that found nobody is lost; the sender's next one goes elsewhere
            client.send(b"hello")
            try:
                assert await client.receive(0.3) == b"hello"
            except TimeoutError:
                continue
            break
        else:
            raise AssertionError("no answer")
    counts = gate.counts()
    assert counts["ended.refused"] == 1  # and then nobody is sent there for a while
    assert gate.total(10)["connect_errors"] == 1
    assert gate.in_flight() == [0, 20]


async def test_two_endpoints_that_are_not_there_are_passed_over(site: UdpSite) -> None:
    dead = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    policy = PolicyPlan("first", options={"fill": 9})  # of which they are the first
    gate = site.gate([*dead, site.endpoint().address], pool={"policy": policy})
    client = site.client(gate.target)
    for _ in range(2):
        client.send(b"hello")
        with pytest.raises(TimeoutError):
            await client.receive(0.5)
    for _ in range(5):
        assert await client.ask(b"hello") == b"hello"
    assert gate.counts()["ended.refused"] == 2
    assert gate.in_flight() == [0, 0, 1]


async def test_a_burst_to_an_endpoint_that_died_goes_elsewhere(site: UdpSite) -> None:
    first = site.endpoint()
    gate = site.gate([first.address, site.endpoint().address])
    client = site.client(gate.target)
    assert await client.ask(b"x") == b"x"
    victim = next(e for e in site.endpoints if e.received)
    victim.close()
    got = []
    for number in range(20):
        client.send(b"%d" % number)
        await asyncio.sleep(0.005)
    while len(got) < 19:
        got.append(await client.receive())
    assert got == [b"%d" % number for number in range(1, 20)]  # only the first was lost
    await settle(lambda: sorted(gate.in_flight()) == [0, 1], "in-flight counts")


async def test_the_only_endpoint_is_asked_again(site: UdpSite) -> None:
    port = free_port()
    gate = site.gate([f"127.0.0.1:{port}"])
    client = site.client(gate.target)
    client.send(b"anybody?")
    await settle(lambda: gate.counts()["ended.refused"] == 1, "the refusal")
    site.endpoint(port=port)
    assert await client.ask(b"now?") == b"now?"
    # It has answered: nothing is held against it any more.
    assert (await site.client(gate.target).ask(b"x")) == b"x"


async def test_nobody_takes_sessions(site: UdpSite) -> None:
    gate = site.gate([site.endpoint().address])
    gate.segment.set_weight(0, 0)
    client = site.client(gate.target)
    client.send(b"x")
    assert await client.nothing()
    assert gate.counts()["dropped.no_endpoint"] == 1
    gate.segment.set_weight(0, 1)
    assert await client.ask(b"x") == b"x"


async def test_an_endpoint_that_is_found_down_loses_its_sessions(site: UdpSite) -> None:
    endpoints = [site.endpoint(lambda data, name=name: [name]) for name in (b"a", b"b")]
    gate = site.gate([e.address for e in endpoints])
    client = site.client(gate.target)
    name = await client.ask(b"?")
    gate.segment.set_health(0 if name == b"a" else 1, False, 1)
    assert await client.ask(b"?") != name
    assert gate.counts()["ended.down"] == 1
    # Draining is another thing: what is there goes on.
    gate.segment.set_admin(1 if name == b"a" else 0, 1)
    assert await client.ask(b"?") != name


async def test_a_reload_keeps_sessions_and_lets_removed_endpoints_drain(site: UdpSite) -> None:
    endpoints = [site.endpoint(lambda data, name=name: [name]) for name in (b"a", b"b")]
    gate = site.gate([endpoints[0].address])
    old = site.client(gate.target)
    assert await old.ask(b"?") == b"a"
    gate.segment.set_health(1, True, 0)
    gate.segment.set_weight(1, 1)
    pool = replace(gate.plan.pools[0], endpoints=(EndpointPlan(endpoints[1].address, 1, 11, 1, datagrams=201),))
    (listener,) = gate.plan.listeners
    assert listener.udp is not None
    limited = replace(listener, udp=replace(listener.udp, max_sessions=2), idle_timeout_ns=SECOND)
    gate.apply(replace(gate.plan, generation=2, pools=(pool,), listeners=(limited,)))
    assert await old.ask(b"?") == b"a"
    assert await site.client(gate.target).ask(b"?") == b"b"
    late = site.client(gate.target)
    late.send(b"?")
    assert await late.nothing()  # the new limit counts the old session
    await settle(lambda: gate.segment.inflight(0) == gate.segment.inflight(1) == 0, "the new timeout")


async def test_a_larger_limit_after_a_reload(site: UdpSite) -> None:
    gate = site.gate([site.endpoint().address], udp={"max_sessions": 10})
    clients = [site.client(gate.target) for _ in range(300)]
    for client in clients[:10]:
        await client.ask(b"x")
    (listener,) = gate.plan.listeners
    assert listener.udp is not None
    wide = replace(listener, udp=replace(listener.udp, max_sessions=300))
    gate.apply(replace(gate.plan, generation=2, listeners=(wide,)))
    for client in clients:
        assert await client.ask(b"y") == b"y"
    assert gate.counts()["started"] == 300


async def test_a_listener_that_goes_away_ends_its_sessions(site: UdpSite) -> None:
    gate = site.gate([site.endpoint().address], names=("dgram", "other"))
    other = gate.listener("other")
    with socket.socket(fileno=os.dup(gate.sockets["other"])) as view:
        port = view.getsockname()[1]
    first, second = site.client(gate.target), site.client(("127.0.0.1", port))
    assert await first.ask(b"x") == b"x"
    assert await second.ask(b"x") == b"x"
    sockets = {"dgram": gate.sockets["dgram"]}
    os.close(gate.sockets["other"])
    gate.apply(replace(gate.plan, generation=2, listeners=gate.plan.listeners[:1]), sockets)
    assert gate.proxy.busy() == 1
    assert other.udp is not None
    gone = Series(UDP_LISTENER, gate.segment.series_total(other.udp.series))
    assert gone["ended.closed"] == 1
    assert await first.ask(b"x") == b"x"


async def test_two_listeners_share_the_buffers(site: UdpSite) -> None:
    gate = site.gate([site.endpoint().address], names=("dgram", "other"))
    ports = [gate.port]
    with socket.socket(fileno=os.dup(gate.sockets["other"])) as view:
        ports.append(view.getsockname()[1])
    clients = [site.client(("127.0.0.1", port)) for port in ports for _ in range(40)]
    for turn in range(5):
        for number, client in enumerate(clients):
            client.send(b"%d %d" % (turn, number))
        for number, client in enumerate(clients):
            assert await client.receive() == b"%d %d" % (turn, number)
    assert gate.counts("dgram")["sent"] == gate.counts("other")["sent"] == 200


async def test_many_senders_leave_memory_and_others_alone(site: UdpSite) -> None:
    gate = site.gate([site.endpoint(silent).address], udp={"max_sessions": 100})
    site.endpoints[0].answer = lambda data: [data] if data == b"mine" else []
    client = site.client(gate.target)
    assert await client.ask(b"mine") == b"mine"
    files = len(os.listdir("/proc/self/fd"))
    before = psutil.Process().memory_info().rss
    for number in range(4000):
        with bound(f"127.{number % 200}.{number // 200}.1") as stranger:
            stranger.sendto(b"x" * 64, gate.target)
        if number % 50 == 0:
            await asyncio.sleep(0)
    assert await client.ask(b"mine") == b"mine"
    assert gate.proxy.busy() == 100
    assert gate.counts()["dropped.sessions"] > 3000
    assert len(os.listdir("/proc/self/fd")) <= files + 100
    assert psutil.Process().memory_info().rss - before < 8 << 20


async def test_out_of_descriptors(site: UdpSite) -> None:
    gate = site.gate([site.endpoint().address])
    client, late = site.client(gate.target), site.client(gate.target)
    assert await client.ask(b"x") == b"x"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
    holes = [os.open(os.devnull, os.O_RDONLY) for _ in range(highest)]  # so that no number below the limit is free
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(*holes, highest) + 1, hard))
    try:
        late.send(b"x")
        await settle(lambda: gate.counts()["dropped.resources"] == 1, "the drop")
        assert await client.ask(b"y") == b"y"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in holes:
            os.close(fd)
    assert await late.ask(b"x") == b"x"
    assert gate.in_flight() == [2]


async def test_sessions_take_half_of_the_descriptors_at_most(site: UdpSite, caplog: pytest.LogCaptureFixture) -> None:
    endpoint = site.endpoint()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    half = max(map(int, os.listdir("/proc/self/fd"))) + 100  # other tests may have left much open
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * half, hard))
    try:
        gate = site.gate([endpoint.address], udp={"max_sessions": 2 * half})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert f"half of its open files are {half}" in caplog.text
    *clients, late = [site.client(gate.target) for _ in range(half + 1)]
    for client in clients:
        assert await client.ask(b"x") == b"x"
    late.send(b"x")
    assert await late.nothing()
    assert gate.counts()["dropped.resources"] == 1


async def test_a_drain_lets_sessions_finish(site: UdpSite) -> None:
    gate = site.gate([site.endpoint().address])
    client, late = site.client(gate.target), site.client(gate.target)
    assert await client.ask(b"x") == b"x"
    gate.proxy.stop_accepting()
    gate.proxy.drain()
    late.send(b"x")
    assert await late.nothing()
    assert gate.counts()["dropped.draining"] == 1
    for _ in range(5):  # longer than what an idle session has
        assert await client.ask(b"y") == b"y"
        await asyncio.sleep(0.3)
    assert gate.proxy.busy() == 1
    await settle(gate.closed, "an idle session holds up the end")


async def test_the_access_log_has_a_line_for_each_session(site: UdpSite) -> None:
    endpoint = site.endpoint()
    with tempfile.TemporaryFile() as log:
        gate = site.gate([endpoint.address], udp={"responses": 2}, access_log=log.fileno())
        client = site.client(gate.target)
        assert await client.ask(b"12345") == b"12345"
        endpoint.sock.sendto(b"678", endpoint.senders[0])
        assert await client.receive() == b"678"
        await settle(gate.closed, "the session is left")
        await settle(lambda: os.fstat(log.fileno()).st_size > 0, "the log line")
        log.seek(0)
        (line,) = map(json.loads, log.read().splitlines())
    assert (line["method"], line["listener"], line["pool"]) == ("UDP", "dgram", "pool")
    assert (line["client"], line["port"]) == client.sock.getsockname()
    assert line["endpoint"] == endpoint.address
    assert (line["bytes_in"], line["bytes_out"], line["reason"]) == (5, 8, "")
    assert line["total_us"] >= line["upstream_us"] + line["transfer_us"] - 1


async def test_the_end_leaves_nothing_open(site: UdpSite) -> None:
    files = len(os.listdir("/proc/self/fd"))
    gate = site.gate([site.endpoint().address], names=("dgram", "other"))
    clients = [site.client(gate.target) for _ in range(50)]
    for client in clients:
        await client.ask(b"x")
    site.close()
    site.clients, site.endpoints, site.gates = [], [], []
    gate.segment.close()
    assert not gate.proxy.busy()
    del gate, clients
    assert len(os.listdir("/proc/self/fd")) <= files + 1  # the worker's view of the segment


def test_the_helpers_spell_addresses() -> None:
    with bound("::1") as six, bound() as four:
        assert address_of(six).startswith("[::1]:")
        assert address_of(four).startswith("127.0.0.1:")
