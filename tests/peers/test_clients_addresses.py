"""Clients' addresses: forwarded headers and the PROXY protocol."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
from daemon import Daemon
from peer_site import Echo, Speaker, ask, talk
from scenarios import from_haproxy, from_nginx

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
UNIQUE_ID = 5  # the type of the field in version 2


def version_2(source: str, target: str, more: bytes = b"", command: int = 1) -> bytes:
    """A header of version 2 for TCP over IPv4."""
    addresses = socket.inet_aton(source) + socket.inet_aton(target) + struct.pack("!HH", 123, 5678)
    return SIGNATURE + struct.pack("!BBH", 0x20 | command, 0x11, len(addresses + more)) + addresses + more


@pytest.fixture(scope="module")
def heard() -> list[bytes]:
    return []


@pytest.fixture(scope="module")
def daemon(run: Callable[..., Daemon], heard: list[bytes]) -> Daemon:
    def hear(connection: socket.socket) -> None:
        data = b""
        while part := connection.recv(4096):
            data += part
        heard.append(data)
        connection.sendall(b"heard")

    echo = Echo("one")
    names = {"${client.address}": "X-IP"}
    routes = [{"pool": "one", "request_headers": {"set": {header: value for value, header in names.items()}}}]

    def listener(**settings: Any) -> dict[str, Any]:
        return {"bind": "127.0.0.1:0", "protocol": "http", "routes": routes, **settings}

    endpoint = Speaker(talk=hear)
    tcp = {"bind": "127.0.0.1:0", "protocol": "tcp"}
    listeners = {
        "append": listener(trusted_proxies=["127.0.0.0/8", "10.0.1.0/24", "192.0.2.1/32"]),
        "preserve": listener(forwarded="preserve", trusted_proxies=["127.0.0.0/8"]),
        "open": listener(forwarded_header=True, forwarded="replace"),
        "proxy": listener(proxy_protocol={"from": ["127.0.0.0/8"]}),
        "v1": {**tcp, "pool": "v1"},
        "v2": {**tcp, "pool": "v2", "proxy_protocol": {"from": ["127.0.0.0/8"], "required": False}},
    }
    pools = {
        "one": {"protocol": "http", "endpoints": [echo.address]},
        "v1": {"protocol": "tcp", "endpoints": [endpoint.address], "send_proxy": "v1"},
        "v2": {
            "protocol": "tcp",
            "endpoints": [endpoint.address],
            "send_proxy": {"version": "v2", "unique_id": True},
        },
    }
    return run({"listeners": listeners, "pools": pools})


@from_haproxy(
    "http-rules/ifnone-forwardfor.vtc",
    differs=(
        "`forwarded` is one key of the listener; several lines become one with commas, which means the same "
        "(RFC 9110 section 5.3)."
    ),
)
def test_addresses_are_added(daemon: Daemon) -> None:
    """The client's address is added to X-Forwarded-For that came from a trusted proxy; with `preserve` only where
    there is none."""
    sent = "X-Forwarded-For: 127.0.0.1"
    for listener, fields, got in (
        ("append", [sent], "127.0.0.1, 127.0.0.1"),
        ("append", [], "127.0.0.1"),
        ("preserve", [sent], "127.0.0.1"),
        ("preserve", [], "127.0.0.1"),
    ):
        assert ", ".join(ask(daemon.port(listener), "/", *fields).seen("x-forwarded-for")) == got


@from_haproxy(
    "http-rules/except-forwardfor-originalto.vtc",
    differs=(
        "A listener drops or keeps what came (`forwarded`, `trusted_proxies`); no client's own address is left out."
    ),
)
def test_the_word_of_strangers_is_dropped(daemon: Daemon) -> None:
    """With `replace` what a client says of addresses does not reach the endpoint; only its own does."""
    got = ask(daemon.port("open"), "/", "X-Forwarded-For: 10.0.0.1", "Forwarded: for=10.0.0.1", source="127.0.0.9")
    assert got.seen("x-forwarded-for") == ["127.0.0.9"]
    assert "10.0.0.1" not in json.dumps(got.got["fields"])


@from_haproxy("http-rules/forwarded-header-7239.vtc")
def test_forwarded(daemon: Daemon) -> None:
    """The endpoint gets Forwarded (RFC 7239) with the address of the client, the scheme and the host."""
    (value,) = ask(daemon.port("open"), "/", host="a.org:8080").seen("forwarded")
    parts = dict(part.strip().split("=", 1) for part in value.split(";"))
    assert parts["for"] == "127.0.0.1"
    assert parts["proto"] == "http"
    assert parts["host"].strip('"') == "a.org:8080"


@from_nginx(
    "realip.t", differs="Always as with `real_ip_recursive on`: without it a client could write the address itself."
)
@pytest.mark.parametrize(
    ("sent", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("10.0.0.1, 192.0.2.7", "192.0.2.7"),
        ("192.0.2.7, 10.0.1.1, 192.0.2.1", "192.0.2.7"),
        ("10.0.1.2, 10.0.1.1", "10.0.1.2"),
    ],
)
def test_the_client_behind_proxies(daemon: Daemon, sent: str, client: str) -> None:
    """The client is the right-most address in X-Forwarded-For that is no trusted proxy's."""
    assert ask(daemon.port("append"), "/", f"X-Forwarded-For: {sent}").seen("x-ip") == [client]


def through(daemon: Daemon, header: bytes) -> dict[str, Any] | None:
    """What the endpoint got of a request behind `header`; None where the connection was closed."""
    request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answer = talk(daemon.port("proxy"), header + request)
    return json.loads(answer.partition(b"\r\n\r\n")[2]) if answer else None


def address(got: dict[str, Any] | None) -> str | None:
    return None if got is None else dict(got["fields"]).get("x-ip")


@from_nginx("proxy_protocol.t", "proxy_protocol_ipv6.t")
def test_version_1(daemon: Daemon) -> None:
    """The address in a header of version 1 is the client's; UNKNOWN leaves that of the connection."""
    assert address(through(daemon, b"PROXY TCP4 192.0.2.1 192.0.2.2 123 5678\r\n")) == "192.0.2.1"
    assert address(through(daemon, b"PROXY TCP6 2001:db8::1 2001:db8::2 123 5678\r\n")) == "2001:db8::1"
    assert address(through(daemon, b"PROXY UNKNOWN 1 2 3\r\n")) == "127.0.0.1"


@from_nginx("proxy_protocol2.t", "proxy_protocol2_tlv.t")
def test_version_2(daemon: Daemon) -> None:
    """So is that in a header of version 2, with further fields behind it; LOCAL leaves that of the connection."""
    assert address(through(daemon, version_2("192.0.2.1", "192.0.2.2"))) == "192.0.2.1"
    assert address(through(daemon, version_2("192.0.2.1", "192.0.2.2", b"\xe0\0\x03abc"))) == "192.0.2.1"
    assert address(through(daemon, version_2("192.0.2.1", "192.0.2.2", command=0))) == "127.0.0.1"


@from_haproxy("connection/proxy_protocol_tlv_validation.vtc")
@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 192.0.2.1 192.0.2.2 123\r\n",
        b"PROXY TCP5 192.0.2.1 192.0.2.2 123 5678\r\n",
        version_2("192.0.2.1", "192.0.2.2", b"\xe0\0\x09abc"),
        version_2("192.0.2.1", "192.0.2.2", b"\xe0\0"),
        b"",
    ],
)
def test_a_malformed_header_closes_the_connection(daemon: Daemon, header: bytes) -> None:
    """A header that is cut, wrong, or has a field that is longer than the header, ends the connection; so does none."""
    assert through(daemon, header) is None


@from_nginx("stream_proxy_protocol.t")
def test_a_header_for_a_tcp_server(daemon: Daemon, heard: list[bytes]) -> None:
    """A TCP server gets the client's address in a header of version 1, in front of what the client says."""
    assert talk(daemon.port("v1"), b"hello", shut=True) == b"heard"
    head, _, rest = heard[-1].partition(b"\r\n")
    assert head.startswith(b"PROXY TCP4 127.0.0.1 127.0.0.1 ")
    assert head.endswith(b" %d" % daemon.port("v1"))
    assert rest == b"hello"


def fields_of(header: bytes) -> tuple[bytes, dict[int, bytes]]:
    """The source address of a header of version 2, and its fields."""
    assert header.startswith(SIGNATURE)
    (length,) = struct.unpack_from("!H", header, 14)
    at, found = 28, {}
    while at < 16 + length:
        kind, size = struct.unpack_from("!BH", header, at)
        found[kind] = header[at + 3 : at + 3 + size]
        at += 3 + size
    return header[16:20], found


@from_haproxy(
    "connection/proxy_protocol_send_unique_id.vtc",
    "connection/proxy_protocol_send_generic.vtc",
    differs="Fields of other types are those of the header that came in; a pool has none of its own.",
)
def test_an_id_in_the_header(daemon: Daemon, heard: list[bytes]) -> None:
    """A TCP server gets a unique id in version 2, each connection its own; one that came in, and the client's address,
    are passed on."""
    ids = []
    for data in (b"a", b"b"):
        assert talk(daemon.port("v2"), data, shut=True) == b"heard"
        ids.append(fields_of(heard[-1])[1][UNIQUE_ID])
    assert ids[0] != ids[1]
    came = version_2("192.0.2.1", "192.0.2.2", struct.pack("!BH", UNIQUE_ID, 3) + b"abc" + b"\xe5\0\x02xy")
    assert talk(daemon.port("v2"), came + b"c", shut=True) == b"heard"
    source, found = fields_of(heard[-1])
    assert socket.inet_ntoa(source) == "192.0.2.1"
    assert (found[UNIQUE_ID], found[0xE5]) == (b"abc", b"xy")
