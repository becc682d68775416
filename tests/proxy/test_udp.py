"""Datagrams through the gate: who talks to whom, for how long, and what is dropped."""

from __future__ import annotations

import asyncio
import random
import socket
from pathlib import Path

import pytest
from datapath import SECOND, settle
from msgspec.structs import replace
from ports import free_port
from udp_site import UdpSite, address_of, bound, silent
from udp_site import site as site

from lb.config.plan.plan import PolicyPlan

MAGLEV = PolicyPlan("maglev", "source", "", None)


@pytest.mark.parametrize("size", [0, 1, 512, 1472, 9000, 65507])
async def test_datagrams_pass_both_ways(site: UdpSite, size: int) -> None:
    endpoint = site.endpoint()
    gate = site.gate([endpoint.address])
    client = site.client(gate.target)
    data = random.Random(size).randbytes(size)
    for _ in range(3):
        assert await client.ask(data) == data
    assert gate.in_flight() == [1]
    assert gate.proxy.busy() == 1
    counts = gate.counts()
    assert counts["received"] == counts["sent"] == 3
    assert counts["received_bytes"] == counts["sent_bytes"] == 3 * size
    assert (counts["started"], counts["finished"]) == (1, 0)
    there = gate.endpoint_counts(0)
    assert there["received"] == there["sent"] == 3
    assert there["received_bytes"] == there["sent_bytes"] == 3 * size


async def test_each_client_gets_its_own_answers(site: UdpSite) -> None:
    endpoints = [site.endpoint(lambda data, name=name: [name + data]) for name in (b"a", b"b", b"c")]
    gate = site.gate([e.address for e in endpoints])
    clients = [site.client(gate.target) for _ in range(200)]
    for turn in range(5):
        for number, client in enumerate(clients):
            client.send(b"%d/%d" % (turn, number))
        for number, client in enumerate(clients):
            assert (await client.receive())[1:] == b"%d/%d" % (turn, number)
    counts = gate.counts()
    assert counts["received"] == counts["sent"] == 1000
    assert counts["reads"] < 500  # batches, not single datagrams
    assert counts["writes"] < 500
    assert sum(gate.in_flight()) == 200
    assert {len(e.senders) for e in endpoints} <= {66, 67}  # round robin, a socket for each session


async def test_a_burst_keeps_its_order(site: UdpSite) -> None:
    gate = site.gate([site.endpoint(lambda data: [data, data + b"!"]).address])
    client = site.client(gate.target)
    for number in range(100):  # more than a batch; the answers still fit into the kernel's buffer of the session
        client.send(b"%d" % number)
    expected = [answer for number in range(100) for answer in (b"%d" % number, b"%d!" % number)]
    assert [await client.receive() for _ in expected] == expected
    assert gate.endpoint_counts(0)["writes"] < 50  # a share of a batch with one system call


async def test_a_session_stays_with_its_endpoint(site: UdpSite) -> None:
    endpoints = [site.endpoint(lambda data, name=name: [name]) for name in (b"a", b"b")]
    gate = site.gate([e.address for e in endpoints])
    first, second = site.client(gate.target), site.client(gate.target)
    names = {await first.ask(b"?") for _ in range(5)}, {await second.ask(b"?") for _ in range(5)}
    assert sorted(names, key=sorted) == [{b"a"}, {b"b"}]


async def test_affinity_by_source(site: UdpSite) -> None:
    endpoints = [site.endpoint(lambda data, name=name: [name]) for name in (b"a", b"b", b"c")]
    gate = site.gate([e.address for e in endpoints], pool={"policy": MAGLEV})
    for source in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
        assert len({await site.client(gate.target, source).ask(b"?") for _ in range(8)}) == 1
    assert len({await site.client(gate.target, f"127.0.1.{i}").ask(b"?") for i in range(1, 30)}) == 3


async def test_affinity_by_tuple(site: UdpSite) -> None:
    endpoints = [site.endpoint(lambda data, name=name: [name]) for name in (b"a", b"b", b"c")]

    async def seen(policy: PolicyPlan, sources: list[tuple[str, int]], hosts: list[str]) -> list[bytes]:
        """The endpoint for each way from one of `sources` to one of `hosts`."""
        gate = site.gate([e.address for e in endpoints], "0.0.0.0", pool={"policy": policy})
        found = []
        for source, port in sources:
            for host in hosts:
                client = site.client((host, gate.port), source, port)
                found.append(await client.ask(b"?"))
                client.close()
        return found

    free = [free_port() for _ in range(20)]
    here, there = ["127.0.0.1"], [f"127.0.3.{i}" for i in range(1, 21)]
    by_port, three, five = (
        replace(MAGLEV, source_port=port, source_destination=destination)
        for port, destination in ((True, False), (False, True), (True, True))
    )
    assert len(set(await seen(by_port, [("127.0.0.9", port) for port in free], here))) == 3
    assert len(set(await seen(by_port, [("127.0.0.9", free[0])], there))) == 1
    assert len(set(await seen(three, [("127.0.0.9", port) for port in free], here))) == 1
    assert len(set(await seen(three, [("127.0.0.9", free[0])], there))) == 3
    assert len(set(await seen(five, [("127.0.0.9", port) for port in free], here))) == 3
    assert len(set(await seen(five, [("127.0.0.9", free[0])], there))) == 3


async def test_answers_come_from_the_address_that_was_asked(site: UdpSite) -> None:
    gate = site.gate([site.endpoint().address], bind="0.0.0.0")
    port = free_port()
    for host in ("127.0.0.1", "127.0.0.2", "127.1.2.3"):
        # Connected sockets: an answer from elsewhere would never arrive. One port of theirs, so only the address that
        # was asked tells the sessions apart.
        client = site.client((host, gate.port), "127.0.0.9", port)
        assert await client.ask(host.encode()) == host.encode()
        client.close()
    assert gate.counts()["started"] == 3


async def test_ipv6(site: UdpSite) -> None:
    endpoint = site.endpoint(host="::1")
    for bind in ("::1", "::"):
        gate = site.gate([endpoint.address, site.endpoint().address], bind=bind)
        for _ in range(4):
            assert await site.client(("::1", gate.port)).ask(b"six") == b"six"
        assert sum(gate.in_flight()) == 4


async def test_ipv4_clients_of_an_ipv6_socket_are_counted_apart(site: UdpSite) -> None:
    """As `::ffff:127.0.0.1` they are all in one /64."""
    gate = site.gate([site.endpoint().address], bind="::", udp={"max_sessions_per_source": 1})
    for host in ("127.0.0.1", "127.0.0.2"):
        assert await site.client(gate.target, host).ask(b"x") == b"x"
    late = site.client(gate.target)
    late.send(b"x")
    assert await late.nothing()
    assert gate.counts()["dropped.source"] == 1


async def test_silence_ends_a_session(site: UdpSite) -> None:
    endpoint = site.endpoint()
    gate = site.gate([endpoint.address], listener={"idle_timeout_ns": SECOND // 5})
    client = site.client(gate.target)
    for _ in range(4):  # longer than the timeout together
        assert await client.ask(b"x") == b"x"
        await asyncio.sleep(0.1)
    assert len(endpoint.senders) == 1
    await settle(gate.closed, "the session is left")
    assert gate.counts()["ended.idle"] == 1
    assert await client.ask(b"again") == b"again"
    assert len(endpoint.senders) == 2
    endpoint.answer = silent
    site.client(gate.target).send(b"anybody?")
    await settle(lambda: gate.counts()["finished"] == 3, "the sessions are left")
    assert gate.total(10)["timeouts"] == 1  # timeouts of the endpoint: the one that was never answered


async def test_a_session_ends_with_its_answers(site: UdpSite) -> None:
    gate = site.gate([site.endpoint().address], udp={"responses": 1})
    client = site.client(gate.target)
    assert await client.ask(b"one") == b"one"
    await settle(gate.closed, "the session is left")
    client.send(b"two")  # at once: the second question comes while the first is not answered yet
    client.send(b"three")
    assert {await client.receive(), await client.receive()} == {b"two", b"three"}
    await settle(gate.closed, "the session is left")
    assert gate.counts()["ended.answered"] == gate.counts()["started"]


async def test_more_than_one_answer(site: UdpSite) -> None:
    gate = site.gate([site.endpoint(lambda data: [b"1", b"2", b"3"]).address], udp={"responses": 3})
    client = site.client(gate.target)
    client.send(b"?")
    assert [await client.receive() for _ in range(3)] == [b"1", b"2", b"3"]
    await settle(gate.closed, "the session is left")


async def test_nothing_is_held_where_no_answer_is_expected(site: UdpSite) -> None:
    endpoints = [site.endpoint(silent) for _ in range(2)]
    gate = site.gate([e.address for e in endpoints], udp={"responses": 0})
    client = site.client(gate.target)
    for number in range(40):
        client.send(b"%d" % number)
        if number % 10 == 9:
            await asyncio.sleep(0.01)
    await settle(lambda: sum(len(e.received) for e in endpoints) == 40, "messages are missing")
    await settle(gate.closed, "a session is left")
    assert gate.total(10)["timeouts"] == gate.total(11)["timeouts"] == 0  # no timeouts


async def test_a_number_of_requests_ends_the_binding(site: UdpSite) -> None:
    endpoints = [site.endpoint(lambda data, name=name: [name]) for name in (b"a", b"b")]
    gate = site.gate([e.address for e in endpoints], udp={"requests": 2, "responses": 1})
    client = site.client(gate.target)
    names = [await client.ask(b"?") for _ in range(8)]
    assert names[0] == names[1] != names[2] == names[3] != names[4]
    await settle(gate.closed, "a session is left")
    for _ in range(9):  # in one batch: five sessions, the last of which waits for its second request
        client.send(b"?")
    assert len([await client.receive() for _ in range(9)]) == 9
    await settle(lambda: gate.proxy.busy() == 1, "sessions are left")


async def test_sessions_are_limited(site: UdpSite) -> None:
    gate = site.gate([site.endpoint().address], udp={"max_sessions": 3}, listener={"idle_timeout_ns": SECOND // 2})
    clients = [site.client(gate.target) for _ in range(4)]
    for client in clients[:3]:
        assert await client.ask(b"x") == b"x"
    clients[3].send(b"x")
    assert await clients[3].nothing()
    assert gate.counts()["dropped.sessions"] == 1
    assert gate.total(1)["rejected"] == 1
    await settle(lambda: gate.proxy.busy() == 0, "sessions are left")
    assert await clients[3].ask(b"x") == b"x"


async def test_sessions_of_one_address_are_limited(site: UdpSite) -> None:
    gate = site.gate([site.endpoint().address], udp={"max_sessions_per_source": 2, "responses": 1})
    endpoint = site.endpoints[0]
    endpoint.answer = silent
    for _ in range(2):
        site.client(gate.target).send(b"x")
    await settle(lambda: gate.proxy.busy() == 2, "the sessions did not begin")
    greedy = site.client(gate.target)
    greedy.send(b"x")
    assert await greedy.nothing()
    assert gate.counts()["dropped.source"] == 1
    endpoint.answer = lambda data: [data]
    assert await site.client(gate.target, "127.0.0.2").ask(b"y") == b"y"
    assert gate.proxy.busy() == 2  # that one is answered and over


@pytest.mark.parametrize("side", ["client", "endpoint"])
async def test_large_datagrams_are_dropped_whole(site: UdpSite, side: str) -> None:
    answer = (lambda data: [data]) if side == "client" else (lambda data: [b"a" * 101, b"short"])
    gate = site.gate([site.endpoint(answer).address], udp={"max_datagram": 100})
    client = site.client(gate.target)
    if side == "client":
        client.send(b"x" * 101)
        assert await client.nothing()
        assert await client.ask(b"x" * 100) == b"x" * 100
    else:
        assert await client.ask(b"?") == b"short"
        assert await client.nothing()
    assert gate.counts()["dropped.size"] == 1


@pytest.mark.parametrize("bind", ["127.0.0.1", "0.0.0.0", "::1", "::"])
async def test_each_datagram_has_a_proxy_header(site: UdpSite, bind: str) -> None:
    """Version 2 (proxy-protocol.txt 2.2): PROXY, datagrams, both ends."""
    endpoint = site.endpoint()
    gate = site.gate([endpoint.address], bind=bind, pool={"send_proxy": "v2"})
    host = "::1" if ":" in bind else "127.0.0.1"
    client = site.client((host, gate.port))
    family, ends = (b"\x22", 36) if ":" in bind else (b"\x12", 12)
    for data in (b"one", b"", b"x" * 9000):
        client.send(data)
        whole = await client.receive()
        head, rest = whole[: 16 + ends], whole[16 + ends :]
        assert head[:16] == b"\r\n\r\n\0\r\nQUIT\n\x21" + family + ends.to_bytes(2, "big")
        packed = socket.inet_pton(socket.AF_INET6 if ":" in bind else socket.AF_INET, host)
        ports = client.sock.getsockname()[1].to_bytes(2, "big") + gate.port.to_bytes(2, "big")
        assert head[16:] == packed + packed + ports
        assert rest == data
    for number in range(40):  # several with one system call
        client.send(b"%d" % number)
    assert [(await client.receive())[16 + ends :] for _ in range(40)] == [b"%d" % number for number in range(40)]


async def test_unix_endpoints(site: UdpSite, tmp_path: Path) -> None:
    """They answer to an address of the session's own; one that is gone, or was never there, is passed by."""
    one, two = (site.endpoint(host=str(tmp_path / name)) for name in ("one", "two"))
    gate = site.gate([one.address, two.address, f"unix:{tmp_path}/none"])
    data = random.Random(1).randbytes(9000)
    clients = [site.client(gate.target) for _ in range(12)]
    for client in clients:
        assert await client.ask(data) == data
    assert len(one.received) + len(two.received) == 12
    assert len(one.senders) == len(one.received) > 0  # each session has an address
    for path in tmp_path.iterdir():
        assert path.name in ("one", "two")  # and leaves no file
    one.close()
    for client in clients:
        assert await client.ask(b"again") == b"again"
    (tmp_path / "one").unlink()
    back = site.endpoint(host=str(tmp_path / "one"))
    two.close()
    for client in clients:
        assert await client.ask(b"back") == b"back"
    assert back.received


async def test_a_unix_endpoint_that_reads_nothing_holds_nobody_up(site: UdpSite, tmp_path: Path) -> None:
    full, other = bound(str(tmp_path / "full")), site.endpoint(host=str(tmp_path / "other"))
    with full:
        gate = site.gate([address_of(full), other.address])
        clients = [site.client(gate.target) for _ in range(2)]
        for _ in range(2000):
            for client in clients:
                client.send(b"x" * 1000)
            await asyncio.sleep(0)
        (asked,) = [client for client in clients if not await client.nothing()]
        assert len(asked.sock.recv(1 << 16)) == 1000
        assert gate.counts()["dropped.endpoint_full"] > 0
