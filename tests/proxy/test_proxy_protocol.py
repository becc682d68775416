"""The PROXY protocol in front and behind: who is believed, what is refused, and that nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Any

import pytest
from compiled.bytes_to_values import parse_proxy_header, proxy_header
from datapath import SECOND, Gate, Site, settle

from lb.config.plan.plan import PolicyPlan, ProxyProtocolPlan

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter

TRUSTED = ProxyProtocolPlan(("127.0.0.0/8",), False, True, 5 * SECOND)
OPTIONAL = ProxyProtocolPlan(("127.0.0.0/8",), False, False, 5 * SECOND)
STRANGERS = ProxyProtocolPlan(("10.0.0.0/8",), False, True, 5 * SECOND)
STRANGERS_MAY = ProxyProtocolPlan(("10.0.0.0/8",), False, False, 5 * SECOND)
TCP: dict[str, Any] = {"protocol": "tcp", "proxy_protocol": TRUSTED}
CLIENT = ("203.0.113.9", 4711)
SITE = ("198.51.100.1", 443)
HEADERS = [
    proxy_header(1, CLIENT, SITE),
    proxy_header(2, CLIENT, SITE),
    proxy_header(2, CLIENT, SITE, authority=b"a.example", checksum=True),
]


async def echo(reader: Reader, writer: Writer) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


async def who(reader: Reader, writer: Writer) -> None:
    """An HTTP endpoint that answers with the X-Forwarded-For it was given."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        found = next((line.partition(":")[2].strip() for line in lines if line.startswith("x-forwarded-for")), "")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(found), found.encode()))


def header_keeper(heads: list[dict[str, Any]]) -> Any:
    """An endpoint that takes a PROXY header and then echoes."""

    async def handler(reader: Reader, writer: Writer) -> None:
        data = b""
        while (found := parse_proxy_header(data)) is None:
            data += await reader.readexactly(1)
        heads.append(found[1])
        await echo(reader, writer)

    return handler


async def idle(gate: Gate) -> None:
    await settle(lambda: gate.in_flight() == 0 and gate.proxy.busy() == 0, "a session is left")
    await settle(lambda: gate.proxy.stats()["connections"] == 0, "a connection is left")
    series = gate.total(1)
    assert series["started"] == series["finished"]


def refused(gate: Gate) -> dict[str, int]:
    """The reasons for which connections were refused."""
    stats = gate.proxy.stats()
    return {key.removeprefix("refused_"): n for key, n in stats.items() if key.startswith("refused_") and n}


async def read_all(reader: Reader) -> bytes:
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(reader.read(-1), 20)
    return b""


@pytest.mark.parametrize("header", HEADERS, ids=["v1", "v2", "v2-tlv"])
@pytest.mark.parametrize("apart", [False, True])
async def test_http_sees_the_client_of_the_header(site: Site, header: bytes, apart: bool) -> None:
    gate = await site.gate([await site.endpoint(who)], listener={"proxy_protocol": TRUSTED})
    reader, writer = await gate.connect()
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    if apart:
        writer.write(header)
        await asyncio.sleep(0.05)
        writer.write(request)
    else:
        writer.write(header + request)
    for _ in range(3):  # the header counts for the whole connection
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        assert answer.startswith(b"HTTP/1.1 200")
        assert await reader.readexactly(len(CLIENT[0])) == CLIENT[0].encode()
        writer.write(request)
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    writer.close()
    await idle(gate)
    assert refused(gate) == {}


@pytest.mark.parametrize("header", HEADERS, ids=["v1", "v2", "v2-tlv"])
async def test_a_header_byte_by_byte(site: Site, header: bytes) -> None:
    gate = await site.gate([await site.endpoint(echo)], listener=TCP)
    reader, writer = await gate.connect()
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for i in range(len(header)):
        writer.write(header[i : i + 1])
        await asyncio.sleep(0.002)
    writer.write(b"data")
    assert await asyncio.wait_for(reader.readexactly(4), 20) == b"data"
    writer.close()
    await idle(gate)


async def test_what_follows_the_header_is_all_there(site: Site) -> None:
    """More than the header's look takes in at once, and a half-close right behind it."""
    gate = await site.gate([await site.endpoint(echo)], listener=TCP)
    reader, writer = await gate.connect()
    body = bytes(range(256)) * 4096
    writer.write(HEADERS[1] + body)
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(-1), 20) == body
    writer.close()
    await idle(gate)


@pytest.mark.parametrize("command", [b"\x20\x00\x00\x00", b"\x21\x00\x00\x00"], ids=["local", "unspec"])
async def test_without_an_address_the_peer_counts(site: Site, command: bytes) -> None:
    gate = await site.gate([await site.endpoint(who)], listener={"proxy_protocol": TRUSTED})
    answer = await gate.exchange(
        b"\r\n\r\n\0\r\nQUIT\n" + command + b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )
    assert answer.endswith(b"127.0.0.1")
    await idle(gate)


@pytest.mark.parametrize(
    ("settings", "sent", "reason"),
    [
        (TRUSTED, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "proxy-missing"),
        (TRUSTED, b"PROXY TCP4 1.2.3.4\r\n", "proxy-malformed"),
        (TRUSTED, b"PROXY " + b"x" * 5000, "proxy-malformed"),
        (TRUSTED, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff" + bytes(5000), "proxy-malformed"),
        (TRUSTED, HEADERS[2][:-1] + b"?", "proxy-malformed"),
        (OPTIONAL, b"PROXY TCP4 1.2.3.4\r\n", "proxy-malformed"),
        (STRANGERS, HEADERS[0], "proxy-untrusted"),
        (STRANGERS, HEADERS[1], "proxy-untrusted"),
        (STRANGERS, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "proxy-untrusted"),
        (STRANGERS_MAY, HEADERS[0], "proxy-untrusted"),
        (STRANGERS_MAY, HEADERS[1], "proxy-untrusted"),
    ],
)
@pytest.mark.parametrize("protocol", ["http", "tcp"])
async def test_what_is_refused(site: Site, protocol: str, settings: Any, sent: bytes, reason: str) -> None:
    reached: list[int] = []

    async def never(reader: Reader, writer: Writer) -> None:
        reached.append(1)
        writer.close()

    gate = await site.gate([await site.endpoint(never)], listener={"protocol": protocol, "proxy_protocol": settings})
    reader, writer = await gate.connect()
    writer.write(sent)
    assert await read_all(reader) == b""
    writer.close()
    await idle(gate)
    assert refused(gate) == {reason: 1}
    assert gate.total(1)["rejected"] == 1
    assert not reached


@pytest.mark.parametrize("settings", [OPTIONAL, STRANGERS_MAY])
async def test_optional_headers(site: Site, settings: ProxyProtocolPlan) -> None:
    gate = await site.gate([await site.endpoint(who)], listener={"proxy_protocol": settings})
    plain = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert (await gate.exchange(plain)).endswith(b"127.0.0.1")
    assert (await gate.exchange(b"P" + b"UT" + plain[3:])).endswith(b"127.0.0.1")  # begins as version 1 does
    if settings is OPTIONAL:
        assert (await gate.exchange(HEADERS[0] + plain)).endswith(CLIENT[0].encode())
    await idle(gate)


async def test_a_slow_header_ends(site: Site) -> None:
    settings = ProxyProtocolPlan(("127.0.0.0/8",), False, True, SECOND // 5)
    gate = await site.gate([await site.endpoint(echo)], listener={**TCP, "proxy_protocol": settings})
    ends = [await gate.connect() for _ in range(20)]
    for i, (_, writer) in enumerate(ends):
        writer.write(HEADERS[i % 3][: 1 + i % 10])
    assert set(await asyncio.gather(*(read_all(reader) for reader, _ in ends))) == {b""}
    for _, writer in ends:
        writer.close()
    await idle(gate)
    assert refused(gate) == {"first-bytes-timeout": 20}
    assert gate.total(1)["timeouts"] == 20


async def test_a_header_cut_short_is_malformed_and_silence_is_nothing(site: Site) -> None:
    gate = await site.gate([await site.endpoint(echo)], listener=TCP)
    for sent in (HEADERS[0][:10], b""):
        reader, writer = await gate.connect()
        writer.write(sent)
        writer.write_eof()
        assert await read_all(reader) == b""
        writer.close()
    await idle(gate)
    assert refused(gate) == {"proxy-malformed": 1}


async def test_a_flood_without_headers_is_bounded_by_the_connection_limit(site: Site) -> None:
    settings = ProxyProtocolPlan(("127.0.0.0/8",), False, True, SECOND)
    gate = await site.gate(
        [await site.endpoint(echo)], listener={**TCP, "proxy_protocol": settings, "max_connections": 10}
    )
    silent = [await gate.connect() for _ in range(30)]
    await settle(lambda: gate.proxy.stats()["connections"] == 10, "not bounded")
    reader, writer = await gate.connect()
    writer.write(HEADERS[0] + b"data")
    assert await asyncio.wait_for(reader.readexactly(4), 20) == b"data"  # once the silent ones have timed out
    for _, each in [*silent, (reader, writer)]:
        each.close()
    await idle(gate)


async def test_the_limit_per_source_counts_the_client_of_the_header(site: Site) -> None:
    gate = await site.gate([await site.endpoint(echo)], listener={**TCP, "max_connections_per_source": 2})

    async def opened(source: str) -> Writer | None:
        reader, writer = await gate.connect()
        writer.write(proxy_header(2, (source, 1), ("::1" if ":" in source else "10.0.0.1", 2)) + b"x")
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            assert await asyncio.wait_for(reader.readexactly(1), 20) == b"x"
            return writer
        writer.close()
        return None

    first = [await opened("203.0.113.1") for _ in range(2)]
    assert None not in first
    assert await opened("203.0.113.1") is None
    assert await opened("::ffff:203.0.113.1") is None
    six = [await opened("2001:db8::1"), await opened("2001:db8::2"), await opened("2001:db8:0:1::1")]
    assert None not in six
    assert await opened("2001:db8::3") is None
    first[0].close()
    await settle(lambda: gate.proxy.busy() == 4, "the session goes on")
    again = await opened("203.0.113.1")
    assert again is not None
    assert refused(gate) == {"source-limit": 3}
    for writer in (*first, *six, again):
        writer.close()
    await idle(gate)


async def test_the_limit_per_source_without_a_header(site: Site) -> None:
    gate = await site.gate([await site.endpoint(who)], listener={"max_connections_per_source": 3})
    held = [await gate.connect() for _ in range(3)]
    await settle(lambda: gate.proxy.stats()["connections"] == 3, "not accepted")
    reader, writer = await gate.connect()
    assert await read_all(reader) == b""
    writer.close()
    held[0][1].close()
    await settle(lambda: gate.proxy.stats()["connections"] == 2, "not closed")
    assert (await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).startswith(b"HTTP/1.1 200")
    for _, each in held:
        each.close()
    await idle(gate)


async def test_affinity_follows_the_client_of_the_header(site: Site) -> None:
    def named(name: bytes) -> Any:
        async def handler(reader: Reader, writer: Writer) -> None:
            writer.write(name)
            writer.close()

        return handler

    gate = await site.gate(
        [await site.endpoint(named(b"%d" % i)) for i in range(5)],
        listener=TCP,
        pool={"policy": PolicyPlan("maglev", "source")},
    )
    seen: dict[str, set[bytes]] = {}
    for i in range(20):
        for _ in range(3):
            reader, writer = await gate.connect()
            source = f"203.0.113.{i}"
            writer.write(proxy_header(1, (source, 1), SITE))
            seen.setdefault(source, set()).add(await read_all(reader))
            writer.close()
    assert all(len(names) == 1 for names in seen.values())
    assert len(set.union(*seen.values())) > 1
    await idle(gate)


# Towards endpoints.


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_the_client_of_the_header_is_passed_on(site: Site, version: str) -> None:
    heads: list[dict[str, Any]] = []
    gate = await site.gate([await site.endpoint(header_keeper(heads))], listener=TCP, pool={"send_proxy": version})
    for client, target in ((CLIENT, SITE), (("2001:db8::1", 1), ("2001:db8::2", 2))):
        reader, writer = await gate.connect()
        writer.write(
            proxy_header(2, client, target, authority=b"a.example", alpn=b"h2", unique_id=b"me", ssl=bytes(5)) + b"x"
        )
        assert await asyncio.wait_for(reader.readexactly(1), 20) == b"x"
        writer.close()
        said = heads.pop()
        assert (said["source"], said["target"]) == (client, target)
        told = (said["authority"], said["alpn"], said["unique_id"], said["ssl"])
        assert told == ((b"a.example", b"h2", b"me", bytes(5)) if version == "v2" else (b"", b"", b"", b""))
    await idle(gate)


async def test_unique_ids_and_checksums_are_made_when_asked_for(site: Site) -> None:
    heads: list[dict[str, Any]] = []
    gate = await site.gate(
        [await site.endpoint(header_keeper(heads))],
        listener={"protocol": "tcp"},
        pool={"send_proxy": "v2", "send_unique_id": True, "send_checksum": True},
    )
    for _ in range(3):
        reader, writer = await gate.connect()
        name = writer.get_extra_info("sockname")
        writer.write(b"x")
        assert await asyncio.wait_for(reader.readexactly(1), 20) == b"x"
        writer.close()
        assert heads[-1]["source"] == name
        assert heads[-1]["target"] == ("127.0.0.1", gate.port)
    assert {len(said["unique_id"]) for said in heads} == {16}
    assert len({said["unique_id"] for said in heads}) == 3
    await idle(gate)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_dual_stack_socket_tells_ipv4_as_ipv4(site: Site, host: str) -> None:
    heads: list[dict[str, Any]] = []
    gate = await site.gate(
        [await site.endpoint(header_keeper(heads))],
        listener={"protocol": "tcp", "max_connections_per_source": 1},
        pool={"send_proxy": "v1"},
        dual_stack=True,
    )
    reader, writer = await asyncio.open_connection(host, gate.port)
    writer.write(b"x")
    assert await asyncio.wait_for(reader.readexactly(1), 20) == b"x"
    assert heads[0]["source"] == writer.get_extra_info("sockname")[:2]
    assert heads[0]["target"] == (host, gate.port)
    again, _ = await asyncio.open_connection(host, gate.port)
    assert await read_all(again) == b""
    assert refused(gate) == {"source-limit": 1}
    writer.close()
    await idle(gate)


async def test_the_endpoint_may_speak_first_behind_a_header(site: Site) -> None:
    async def banner(reader: Reader, writer: Writer) -> None:
        data = b""
        while parse_proxy_header(data) is None:
            data += await reader.readexactly(1)
        writer.write(b"220 hello\r\n")
        writer.close()

    gate = await site.gate([await site.endpoint(banner)], listener={"protocol": "tcp"}, pool={"send_proxy": "v2"})
    reader, writer = await gate.connect()
    assert await read_all(reader) == b"220 hello\r\n"
    writer.close()
    await idle(gate)


async def test_a_drain_ends_what_has_said_nothing(site: Site) -> None:
    gate = await site.gate([await site.endpoint(echo)], listener=TCP)
    silent, _ = await gate.connect()
    begun_reader, begun = await gate.connect()
    begun.write(HEADERS[1][:20])
    await settle(lambda: gate.proxy.stats()["connections"] == 2, "not accepted")
    await asyncio.sleep(0.1)
    gate.proxy.stop_accepting()
    gate.proxy.drain()
    assert await read_all(silent) == b""
    assert gate.proxy.busy() == 1
    begun.write(HEADERS[1][20:] + b"data")
    begun.write_eof()
    assert await read_all(begun_reader) == b"data"
    await idle(gate)


async def test_a_reset_in_the_header_frees_everything(site: Site) -> None:
    gate = await site.gate([await site.endpoint(echo)], listener=TCP)
    for n in (0, 5, 20):
        _, writer = await gate.connect()
        writer.write(HEADERS[1][:n])
        await asyncio.sleep(0.02)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
    await idle(gate)
