"""Where a client is, by the word of trusted proxies alone: for `match.source`, limits and quotas, in every protocol."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from compiled.bytes_to_values import proxy_header
from daemon import Daemon, http_listener
from traffic import ask_once, request
from waiting import eventually

Start = Callable[..., Daemon]

INSIDE, OUTSIDE = "203.0.113.9", "198.51.100.1"
V6_INSIDE = "2001:db8::9"
LOCAL = "127.0.0.1"


def listener(**settings: Any) -> dict[str, Any]:
    inside = ["203.0.113.0/24", "2001:db8::/32"]
    once = {"rate": "1/d", "burst": 1}
    return {
        **http_listener(
            {"match": {"path": {"prefix": "/limit"}}, "respond": {"body": "ok"}, "rate_limit": once, "quota": "one"},
            {"match": {"path": {"prefix": "/not"}, "not_source": inside}, "respond": {"body": "outside"}},
            {"match": {"path": {"prefix": "/not"}}, "respond": {"body": "inside"}},
            {"match": {"source": inside}, "respond": {"body": "inside", "headers": {"x-place": "inside"}}},
            {"respond": {"body": "outside", "headers": {"x-place": "outside"}}},
        ),
        **settings,
    }


@pytest.fixture
def daemon(start: Start) -> Daemon:
    trusts = {"trusted_proxies": ["127.0.0.0/8", "192.0.2.0/24"]}
    header = {"proxy_protocol": {"from": ["127.0.0.0/8"]}}
    return start(
        {
            "quotas": {"one": {"requests": 1, "per": "month", "key": {"source": True}}},
            "listeners": {
                "plain": listener(), "behind": listener(**trusts), "header": listener(**header),
                "both": listener(**trusts, **header),
                "few": {**listener(**trusts), "routes": [{"match": {"path": {"exact": "/x"}}, "respond": {}}]},
            },
            "log": {"access": "access.log"},
        }
    )  # fmt: skip


# What comes before the head (the source that a PROXY header of version 2 names), X-Forwarded-For, and the place.
CASES: list[tuple[str, str, tuple[str, ...], str]] = [
    ("plain", "", (), "outside"),
    ("plain", "", (INSIDE,), "outside"),  # nobody's word is taken
    ("behind", "", (INSIDE,), "inside"),
    ("behind", "", (f"{V6_INSIDE}, {LOCAL}",), "inside"),
    ("behind", "", (f"[{V6_INSIDE}]:80",), "inside"),
    ("behind", "", (OUTSIDE,), "outside"),
    ("behind", "", (f"{INSIDE}, {OUTSIDE}",), "outside"),  # the client's own word
    ("behind", "", (INSIDE, OUTSIDE), "outside"),  # in a line of its own
    ("behind", "", (f"{OUTSIDE}, {INSIDE}, 192.0.2.7",), "inside"),  # past another proxy of ours
    ("behind", "", (f"{INSIDE}, nonsense",), "outside"),
    ("behind", "", (), "outside"),
    ("header", INSIDE, (), "inside"),
    ("header", V6_INSIDE, (), "inside"),
    ("header", OUTSIDE, (INSIDE,), "outside"),
    ("both", "192.0.2.7", (INSIDE,), "inside"),  # the header names a proxy that is believed
    ("both", OUTSIDE, (INSIDE,), "outside"),  # and one that is not
    ("both", INSIDE, (OUTSIDE,), "inside"),
]


def header_of(source: str) -> bytes:
    if not source:
        return b""
    made: bytes = proxy_header(2, (source, 1000), ("::1" if ":" in source else LOCAL, 80))
    return made


async def test_http1(daemon: Daemon) -> None:
    for name, source, forwarded, place in CASES:
        for path in ("/", "/not"):
            fields = "".join(f"X-Forwarded-For: {each}\r\n" for each in forwarded)
            reader, writer = await asyncio.open_connection(LOCAL, daemon.port(name))
            head = f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n"
            writer.write(header_of(source) + head.encode())
            answer = await asyncio.wait_for(reader.read(), 30)
            writer.close()
            assert answer.endswith(f"\r\n\r\n{place}".encode()), (name, source, forwarded, path, answer)

    # Other spellings of the field are nobody's word, not even a trusted proxy's.
    port = daemon.port("behind")
    for spelling in ("X_Forwarded_For", "X-Forwarded_For"):
        message = f"GET / HTTP/1.1\r\nHost: a\r\n{spelling}: {INSIDE}\r\nContent-Length: 0\r\n\r\n".encode()
        answer = await ask_once(port, message)
        assert answer.status in (200, 400)
        assert answer.body != b"inside"

    # Limits and quotas count the same client.
    statuses = [
        (await ask_once(port, request("GET", "/limit", X_Forwarded_For=where))).status
        for where in (INSIDE, INSIDE, OUTSIDE, f"{INSIDE}, {OUTSIDE}", "2001:db8:1:2::1", "2001:db8:1:2::2")
    ]
    assert statuses == [200, 429, 200, 429, 200, 429]
    document = json.loads(daemon.admin("/api/v1/quotas?quota=one")[1])
    assert {row["key"] for row in document["clients"]} == {INSIDE, OUTSIDE, "2001:db8:1:2::/64"}

    # The log names it, also of a request that no route takes.
    few = daemon.port("few")
    assert (await ask_once(few, request("GET", "/none", X_Forwarded_For=f"{OUTSIDE}, {INSIDE}"))).status == 404
    assert (await ask_once(few, request("GET", "/x", X_Forwarded_For=INSIDE))).status == 200
    log = daemon.folder / "access.log"
    await asyncio.to_thread(eventually, lambda: log.read_text().count('"few"') == 2, "the log")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["client"] for line in lines if line["listener"] == "few"] == [INSIDE, INSIDE]


async def test_http2_and_grpc(daemon: Daemon) -> None:
    for name, source, forwarded, place in CASES:
        if source:
            continue  # gRPC's client cannot send such a header; a connection of HTTP/2 has one below
        async with grpc.aio.insecure_channel(f"{LOCAL}:{daemon.port(name)}") as channel:
            call = channel.unary_unary("/test.A/B")(
                b"", metadata=tuple(("x-forwarded-for", each) for each in forwarded), timeout=30
            )
            with pytest.raises(grpc.aio.AioRpcError):
                await call
            head = dict(await call.initial_metadata()) | dict(await call.trailing_metadata())
        assert head["x-place"] == place, (name, forwarded)
    for name, source, forwarded, place in CASES:
        if source:
            status = await asyncio.to_thread(over_http2, daemon.port(name), source, forwarded)
            assert status == place, (name, source, forwarded)


def over_http2(port: int, source: str, forwarded: tuple[str, ...]) -> str:
    """The place that a GET of HTTP/2 behind a PROXY header is told."""
    import h2.connection
    import h2.events

    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    head = [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "a")]
    connection.send_headers(1, [*head, *(("x-forwarded-for", each) for each in forwarded)], end_stream=True)
    with socket.create_connection((LOCAL, port), timeout=30) as client:
        client.sendall(header_of(source) + connection.data_to_send())
        while True:
            for event in connection.receive_data(client.recv(65536)):
                if isinstance(event, h2.events.ResponseReceived):
                    fields = {bytes(name): bytes(value) for name, value in event.headers or ()}
                    return fields[b"x-place"].decode()
            client.sendall(connection.data_to_send())
