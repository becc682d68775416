"""Which endpoint a datagram of QUIC goes to, packet by packet, and what strangers can make of it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest
from udp_site import UdpGate, UdpSite
from udp_site import site as site

from lb.config.plan.plan import EndpointPlan, PolicyPlan, QuicPlan
from lb.shared.affinity_table import AffinityTable

V1, V2 = (1).to_bytes(4, "big"), (0x6B3343CF).to_bytes(4, "big")
INITIAL, HANDSHAKE, HANDSHAKE_V2 = 0xC0, 0xE0, 0xF0
QUIC = QuicPlan(key_length=8, server_id_length=2, idle_ns=60_000_000_000)
IDS = ("0a01", "0a02", "0a03")


def long(first: int, destination: bytes, source: bytes = b"", version: bytes = V1) -> bytes:
    """A packet with a long header (RFC 8999 section 5.1)."""
    return b"%c%b%c%b%c%b%b" % (first, version, len(destination), destination, len(source), source, b"\0" * 30)


def short(destination: bytes) -> bytes:
    return b"\x40" + destination + b"\0" * 30


def chosen(number: str) -> bytes:
    """A connection id with this server id."""
    return os.urandom(1) + bytes.fromhex(number) + os.urandom(7)


def server(cid: bytes) -> Callable[[bytes], list[bytes]]:
    """Answers long headers by its own connection id, and everything else by none."""
    return lambda data: [long(INITIAL, b"client", cid)] if data[:1] >= b"\x80" else [b"\x40late"]


def quic_gate(site: UdpSite, cids: list[bytes]) -> UdpGate:
    """Each endpoint has one of `cids`; the one that begins is the policy's next, in their order."""
    addresses = [site.endpoint(server(cid)).address for cid in cids]
    endpoints = tuple(
        EndpointPlan(a, i, 10 + i, 1, datagrams=200 + i, server_id=number)
        for i, (a, number) in enumerate(zip(addresses, IDS, strict=False))
    )
    return site.gate(addresses, pool={"quic": QUIC, "policy": PolicyPlan("round_robin"), "endpoints": endpoints})


def received(site: UdpSite) -> list[int]:
    return [len(each.received) for each in site.endpoints]


async def test_a_connection_id_is_learned_when_the_client_has_used_it(site: UdpSite) -> None:
    cids = [os.urandom(8), os.urandom(20)]
    gate = quic_gate(site, cids)
    table = AffinityTable(gate.segment, True)
    clients = [site.client(gate.target) for _ in cids]
    for client in clients:
        await client.ask(long(INITIAL, os.urandom(8), b"client"))
    flows = table.opened
    for client, each in zip(clients, site.endpoints, strict=True):
        cid = cids[site.endpoints.index(each)]
        assert each.received
        await client.ask(long(HANDSHAKE, cid, b"client"))
        await client.ask(short(cid))
    assert table.opened == flows + len(cids)
    assert [len(set(each.received)) for each in site.endpoints] == [3, 3]
    # From other addresses, whichever endpoint the policy would take next.
    for _ in range(2):
        for each, cid in zip(site.endpoints, cids, strict=True):
            before = len(each.received)
            await site.client(gate.target).ask(short(cid))
            assert len(each.received) == before + 1


async def test_forged_senders_fill_no_table(site: UdpSite) -> None:
    gate = quic_gate(site, [os.urandom(8)])
    clients = [site.client(gate.target) for _ in range(20)]
    for client in clients:
        for _ in range(3):
            await client.ask(long(INITIAL, os.urandom(8), b"client"))
    assert AffinityTable(gate.segment, True).opened == len(clients)  # flows, of which there are max_sessions at most


@pytest.mark.parametrize(
    ("packet", "named"),
    [
        (short, True),
        (lambda cid: long(HANDSHAKE, cid), True),
        (lambda cid: long(HANDSHAKE_V2, cid, version=V2), True),
        (lambda cid: long(INITIAL, cid), False),
        (lambda cid: long(0xD0, cid), False),
        (lambda cid: long(0xD0, cid, version=V2), False),
        (lambda cid: long(HANDSHAKE, cid, version=b"\xfa\xce\xb0\x0c"), False),
    ],
)
async def test_a_server_id_counts_where_the_client_did_not_make_it_up(
    site: UdpSite, packet: Callable[[bytes], bytes], named: bool
) -> None:
    gate = quic_gate(site, [os.urandom(8) for _ in IDS])
    for _ in range(3):
        await site.client(gate.target).ask(packet(chosen(IDS[1])))
    assert received(site) == ([0, 3, 0] if named else [1, 1, 1])


async def test_one_address_with_connections_to_two_endpoints(site: UdpSite) -> None:
    gate = quic_gate(site, [os.urandom(8) for _ in IDS])
    client = site.client(gate.target)
    one, two = chosen(IDS[0]), chosen(IDS[2])
    for _ in range(10):
        for cid in (one, two):
            await client.ask(short(cid))
    assert received(site) == [10, 0, 10]
    assert gate.proxy.busy() == 2  # a session for each endpoint, and not one for each change
    gate.segment.set_health(2, False, 0)
    await client.ask(short(two))  # its endpoint is down: the flow's own session has it
    assert received(site) == [11, 0, 10]


async def test_an_unknown_server_id_is_no_endpoint(site: UdpSite) -> None:
    gate = quic_gate(site, [os.urandom(8) for _ in IDS])
    for number in ("0000", "0a00", "0a04", "ffff"):
        await site.client(gate.target).ask(short(chosen(number)))
    assert sorted(received(site)) == [1, 1, 2]


async def test_what_is_no_packet_goes_by_its_address(site: UdpSite) -> None:
    dice = random.Random(9)
    gate = quic_gate(site, [os.urandom(8), os.urandom(8)])
    client = site.client(gate.target)
    whole = long(HANDSHAKE, os.urandom(20), os.urandom(20))
    sent = [b"", b"\x40", b"\xc0", *(whole[:n] for n in range(1, 50)), long(0xC0, os.urandom(255), os.urandom(255))]
    sent += [bytes([dice.randrange(256)]) + dice.randbytes(dice.randrange(60)) for _ in range(500)]
    for data in sent:
        if data:
            await client.ask(data)
        else:
            client.send(data)
    assert sorted(received(site))[:1] == [0]
    assert gate.proxy.busy() == 1
