"""TLS that is passed through: the name in the ClientHello leads to the pool, and not a byte is changed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
from typing import Any

import pytest
from compiled.bytes_to_values import parse_hello, parse_proxy_header, proxy_header
from datapath import SECOND, Gate, Site, settle

from lb.config.plan.plan import ProxyProtocolPlan, SniRoutePlan

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter

ROUTES = (
    SniRoutePlan(1, ("a.example",)),
    SniRoutePlan(2, ("*.example",)),
    SniRoutePlan(3, ("*.b.example", "c.example")),
    SniRoutePlan(4, ("d.example",), ("h2",)),
    SniRoutePlan(5, ("e.example",), (), ("10.0.0.0/8",)),
    SniRoutePlan(6, ("e.example",), (), ("127.0.0.0/8",)),
)
ALERT = b"\x15\3\3\0\2\2"


def hello(name: str | None, *protocols: str) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def named(name: bytes) -> Any:
    """Says its name and gives back what it got."""

    async def handler(reader: Reader, writer: Writer) -> None:
        writer.write(name)
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    return handler


async def gate_of(site: Site, routes: tuple[SniRoutePlan, ...] = ROUTES, pool: int = -1, **listener: Any) -> Gate:
    """A gate with seven pools; that of number n has one endpoint, which says `n`."""
    addresses = [[await site.endpoint(named(b"%d" % i))] for i in range(7)]
    settings = {"protocol": "tls", "sni_routes": routes, "pool": pool, **listener}
    return await site.gate(addresses[0], listener=settings, more_pools=addresses[1:])


async def idle(gate: Gate) -> None:
    await settle(lambda: gate.in_flight() == 0 and gate.proxy.busy() == 0, "a session is left")
    await settle(lambda: gate.proxy.stats()["connections"] == 0, "a connection is left")
    series = gate.total(1)
    assert series["started"] == series["finished"]


async def ask(gate: Gate, data: bytes) -> bytes:
    """What comes back for `data` and an end."""
    reader, writer = await gate.connect()
    writer.write(data)
    writer.write_eof()
    answer = b""
    with contextlib.suppress(ConnectionError):
        answer = await asyncio.wait_for(reader.read(-1), 20)
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("name", "protocols", "pool"),
    [
        ("a.example", (), 1),
        ("A.Example", (), 1),
        ("x.example", (), 2),
        ("x.a.example", (), 2),
        ("x.b.example", (), 3),
        ("b.example", (), 2),
        ("y.x.b.example", (), 3),
        ("c.example", (), 3),
        ("d.example", ("h2", "http/1.1"), 4),
        ("d.example", ("http/1.1",), 2),  # the exact rule does not fit, the pattern does
        ("e.example", (), 6),
    ],
)
async def test_routes(site: Site, name: str, protocols: tuple[str, ...], pool: int) -> None:
    gate = await gate_of(site)
    sent = hello(name, *protocols)
    assert await ask(gate, sent) == b"%d" % pool + sent
    await idle(gate)


@pytest.mark.parametrize("name", ["other.test", "example", "aexample", None])
async def test_no_route(site: Site, name: str | None) -> None:
    gate = await gate_of(site)
    reader, writer = await gate.connect()
    writer.write(hello(name))
    assert await asyncio.wait_for(reader.read(-1), 20) == ALERT + b"\x70"  # unrecognized_name
    writer.close()
    await idle(gate)
    assert gate.proxy.stats()["refused_no-route"] == 1


async def test_the_rest_has_a_pool(site: Site) -> None:
    gate = await gate_of(site, pool=0)
    for name in ("other.test", None):
        sent = hello(name)
        assert await ask(gate, sent) == b"0" + sent
    await idle(gate)


async def test_a_rule_without_a_name_takes_what_no_name_does(site: Site) -> None:
    gate = await gate_of(site, (SniRoutePlan(1, (), ("h2",)), SniRoutePlan(2, ("a.example",)), SniRoutePlan(3)))
    cases = (("a.example", ("h2",), 2), ("b.example", ("h2",), 1), ("b.example", (), 3), (None, (), 3))
    for name, protocols, pool in cases:
        assert (await ask(gate, hello(name, *protocols)))[:1] == b"%d" % pool
    await idle(gate)


async def test_a_hello_in_pieces(site: Site) -> None:
    gate = await gate_of(site)
    sent = hello("a.example")
    reader, writer = await gate.connect()
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for i in range(0, len(sent), 40):
        writer.write(sent[i : i + 40])
        await asyncio.sleep(0.002)
    assert await asyncio.wait_for(reader.readexactly(1 + len(sent)), 20) == b"1" + sent
    writer.close()
    await idle(gate)


@pytest.mark.parametrize(
    ("sent", "reason", "answer"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "not-tls", b""),
        (b"\x80\x2e\1\0\2", "not-tls", b""),
        (b"\x16\3\1\0\0", "bad-client-hello", ALERT + b"\x32"),
        (b"\x16\3\1\0\4\1\xff\xff\xff", "bad-client-hello", ALERT + b"\x32"),
        (b"\x16\3\1\0\4\2\0\0\0" + bytes(100_000), "bad-client-hello", None),
    ],
)
async def test_what_is_no_client_hello(site: Site, sent: bytes, reason: str, answer: bytes | None) -> None:
    gate = await gate_of(site)
    reader, writer = await gate.connect()
    writer.write(sent)
    with contextlib.suppress(ConnectionError):
        got = await asyncio.wait_for(reader.read(-1), 20)
        assert answer is None or got == answer
    writer.close()
    await idle(gate)
    assert gate.proxy.stats()[f"refused_{reason}"] == 1


async def test_random_bytes_are_refused_and_nothing_is_left(site: Site) -> None:
    gate = await gate_of(site, header_timeout_ns=SECOND // 2)
    rng = random.Random(2)
    good = hello("a.example")

    async def one() -> None:
        data = bytearray(good[: rng.randrange(len(good))])
        if data:
            data[rng.randrange(len(data))] = rng.randrange(256)
        with contextlib.suppress(ConnectionError):
            await ask(gate, bytes(data))

    await asyncio.gather(*(one() for _ in range(100)))
    await idle(gate)


async def test_a_slow_hello_ends(site: Site) -> None:
    gate = await gate_of(site, header_timeout_ns=SECOND // 5)
    reader, writer = await gate.connect()
    writer.write(hello("a.example")[:50])
    with contextlib.suppress(ConnectionError):  # a reset, since there are bytes that nobody read
        assert await asyncio.wait_for(reader.read(-1), 20) == b""
    writer.close()
    await idle(gate)
    assert gate.proxy.stats()["refused_first-bytes-timeout"] == 1


async def test_behind_and_in_front_of_the_proxy_protocol(site: Site) -> None:
    """The header's client is matched with `source`, and the endpoint is told it and the name."""
    heads: list[tuple[dict[str, Any], bytes]] = []

    async def keep(reader: Reader, writer: Writer) -> None:
        data = b""
        while (found := parse_proxy_header(data)) is None:
            data += await reader.readexactly(1)
        record = await reader.readexactly(5)
        heads.append((found[1], record + await reader.readexactly(int.from_bytes(record[3:], "big"))))
        writer.write(b"done")
        writer.close()

    endpoint = await site.endpoint(keep)
    gate = await site.gate(
        [await site.endpoint(named(b"wrong"))],
        listener={
            "protocol": "tls", "pool": 0,
            "sni_routes": (SniRoutePlan(1, ("a.example",), (), ("203.0.113.0/24",)),),
            "proxy_protocol": ProxyProtocolPlan(("127.0.0.1/32",), False, True, SECOND),
        },
        pool={"send_proxy": "v2"},
        more_pools=[[endpoint]],
    )  # fmt: skip
    sent = hello("a.example")
    header = proxy_header(2, ("203.0.113.5", 99), ("203.0.113.1", 443), unique_id=b"u")
    assert await ask(gate, header + sent) == b"done"
    ((said, record),) = heads
    assert said["source"] == ("203.0.113.5", 99)
    assert (said["authority"], said["unique_id"]) == (b"a.example", b"u")
    assert parse_hello(record) == ("a.example", [])
    await idle(gate)


async def test_thousands_of_names(site: Site) -> None:
    names = [SniRoutePlan(1 + i % 6, (f"n{i}.example", f"*.n{i}.example")) for i in range(5000)]
    gate = await gate_of(site, tuple(names))
    for i in (0, 1, 17, 2500, 4999):
        for name in (f"n{i}.example", f"x.y.n{i}.example"):
            assert (await ask(gate, hello(name)))[:1] == b"%d" % (1 + i % 6)
    await idle(gate)
