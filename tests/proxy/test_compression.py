"""Compression of answers: which, in what coding, and that streams and slow clients are as they were."""

from __future__ import annotations

import asyncio
import gc
import os
import zlib
from typing import Any

import brotli
import h2.config
import h2.connection
import h2.events
import pytest
import zstandard
from datapath import Gate, Site, settle
from h2_client import h2_client
from http_cache_site import Fields, Got, Origin, Reply, ask, cached_gate, read_answer
from pydantic import ValidationError
from routing_site import Numbers, plan_of, routing_gate

from lb.config.checks.file import check_config
from lb.config.plan.routes import CompressionPlan, ErrorPagePlan
from lb.config.schema.file import Config

JSON = ("Content-Type", "application/json; charset=utf-8")
RELAYS = ("Compressor", "Intercepted", "Exchange")
TEXT = b'{"name": "a text that repeats itself"}, ' * 100
ALL = {"codings": ["zstd", "br", "gzip"]}


def decoded(got: Got) -> bytes:
    coding = got.get("content-encoding")
    if coding == "gzip":
        stream = zlib.decompressobj(31)
        body = stream.decompress(got.body)
        assert stream.eof
        assert not stream.unused_data
        return body
    if coding == "br":
        return bytes(brotli.decompress(got.body))
    if coding == "zstd":
        return bytes(zstandard.ZstdDecompressor().decompressobj().decompress(got.body))
    assert coding is None
    return got.body


async def compressing(site: Site, origin: Origin, rules: Any = True, **route: Any) -> Gate:
    address = await site.endpoint(origin.serve)
    return await routing_gate(site, [{"pool": "a", "compression": rules, **route}], {"a": [address]})


async def test_the_coding_that_a_client_wants_most(site: Site) -> None:
    gate = await compressing(site, Origin(lambda asked: Reply(200, [JSON], TEXT)), ALL)
    for accepted, coding in [
        ("gzip", "gzip"),
        ("GZIP, deflate", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip, br", "br"),
        ("gzip;q=1.0, br;q=0.9, zstd;q=0.1", "gzip"),
        ("*", "zstd"),
        ("zstd;q=0, *;q=0.5", "br"),
        ("gzip;q=0.5, identity", None),
        ("identity;q=0.5, gzip;q=0.5", "gzip"),
        ("gzip;q=0", None),
        ("deflate", None),
        ("gzip;q=2", None),
        ("", None),
    ]:
        got = await ask(gate, Accept_Encoding=accepted)
        assert got.get("content-encoding") == coding, accepted
        assert got.get("vary") == "Accept-Encoding"
        assert decoded(got) == TEXT
        assert got.get("content-length") == (None if coding else str(len(TEXT)))
    assert (await ask(gate)).body == TEXT


LEFT: list[tuple[int, Fields, bytes]] = [
    (200, [JSON, ("Content-Encoding", "br")], TEXT),
    (200, [JSON, ("Cache-Control", "max-age=1, No-Transform")], TEXT),
    (206, [JSON, ("Content-Range", f"bytes 0-{len(TEXT) - 1}/9999")], TEXT),
    (200, [("Content-Type", "image/png")], TEXT),
    (200, [("Content-Type", "application/jsonish")], TEXT),
    (200, [("Content-Type", "x" * 500)], TEXT),
    (200, [], TEXT),
    (200, [JSON], b"short"),
    (200, [JSON, ("Set-Cookie", "a=b")], TEXT),
    (204, [JSON], b""),
    (304, [JSON, ("ETag", '"a"')], b""),
]


async def test_what_stays_as_it_is(site: Site) -> None:
    told: list[tuple[int, Fields, bytes]] = []
    gate = await compressing(site, Origin(lambda asked: Reply(*told[-1])))
    for reply in LEFT:
        told.append(reply)
        got = await ask(gate, Accept_Encoding="gzip")
        assert (got.status, got.body) == (reply[0], reply[2]), reply
        for name, value in reply[1]:
            assert got.get(name) == value
        assert got.get("content-encoding") in (None, "br"), reply
    told.append((200, [JSON, ("ETag", '"a"')], TEXT))
    for fields in ({"Cookie": "a=b"}, {"Authorization": "Bearer x"}):
        got = await ask(gate, Accept_Encoding="gzip", **fields)
        assert (got.body, got.get("etag"), got.get("vary")) == (TEXT, '"a"', "Accept-Encoding")
    got = await ask(gate, "/", "HEAD", Accept_Encoding="gzip")
    assert (got.get("content-length"), got.get("content-encoding")) == (str(len(TEXT)), None)
    reader, writer = await gate.connect()
    writer.write(b"GET / HTTP/1.0\r\nAccept-Encoding: gzip\r\n\r\n")
    assert (await reader.read()).endswith(TEXT)
    writer.close()


async def test_the_head_says_what_became_of_the_body(site: Site) -> None:
    fields = [
        JSON, ("ETag", '"a"'), ("Accept-Ranges", "bytes"), ("Content-Digest", "sha-256=:x:"), ("Vary", "Origin"),
        ("Set-Cookie", "a=b"),
    ]  # fmt: skip
    origin = Origin(lambda asked: Reply(404, fields, TEXT))
    rules = {"private": True, "min_length": len(TEXT), "types": ["application/*"]}
    hidden = {"request_headers": {"remove": ["accept-encoding"]}}
    gate = await compressing(site, origin, rules, **hidden)
    got = await ask(gate, Accept_Encoding="gzip", Cookie="a=b", Authorization="x")
    assert (got.status, decoded(got), got.get("content-encoding")) == (404, TEXT, "gzip")
    assert [got.get(name) for name in ("etag", "accept-ranges", "content-digest", "content-length")] == [
        'W/"a"', None, None, None,
    ]  # fmt: skip
    assert sorted((got.get("vary") or "").split(", ")) == ["Accept-Encoding", "Origin"]
    assert origin.asked[-1].get("accept-encoding") is None
    fields[:] = [JSON, ("ETag", 'W/"a"'), ("Vary", "accept-encoding"), ("Content-Encoding", "identity")]
    got = await ask(gate, Accept_Encoding="gzip")
    assert (got.get("etag"), got.get("vary"), decoded(got)) == ('W/"a"', "accept-encoding", TEXT)
    assert [name.lower() for name, _ in got.fields].count("content-encoding") == 1


async def test_the_shortest_answer_that_is_compressed(site: Site) -> None:
    body = b"a"
    gate = await compressing(site, Origin(lambda asked: Reply(200, [JSON], body)), {"min_length": 0})
    got = await ask(gate, Accept_Encoding="gzip")
    assert (got.get("content-encoding"), decoded(got)) == ("gzip", body)
    body = b""
    got = await ask(gate, Accept_Encoding="gzip")
    assert (got.get("content-encoding"), got.get("content-length"), got.body) == (None, "0", b"")


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
async def test_an_event_arrives_when_it_is_sent(site: Site, coding: str) -> None:
    events = [b"data: %d %s\n\n" % (i, b"x" * i * 50) for i in range(5)]
    asked = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for event in events:
            await asked.wait()
            asked.clear()
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
        await asked.wait()
        writer.write(b"0\r\n\r\n")

    rules = {"codings": [coding]}
    gate = await routing_gate(site, [{"pool": "a", "compression": rules}], {"a": [await site.endpoint(serve)]})
    streams = {"gzip": lambda: zlib.decompressobj(31), "zstd": lambda: zstandard.ZstdDecompressor().decompressobj()}
    async with h2_client(gate.port) as client:
        stream = client.request(fields=[("accept-encoding", coding)])
        answer = client.answers[stream]
        decoder: Any = streams[coding]() if coding in streams else brotli.Decompressor()
        decode = decoder.process if coding == "br" else decoder.decompress
        taken, found = 0, b""
        for i in range(len(events)):
            asked.set()
            async with asyncio.timeout(10):
                while found != b"".join(events[: i + 1]):
                    await asyncio.sleep(0.005)
                    pieces = answer.pieces[taken:]
                    taken += len(pieces)
                    found += b"".join(map(decode, pieces))
        asked.set()
        await client.answer(stream)
        assert answer.reset is None
        assert answer.field_of("content-encoding") == coding


async def test_an_answer_of_known_length_that_pauses_is_flushed(site: Site) -> None:
    held = asyncio.Event()
    gate = await compressing(site, Origin(lambda asked: Reply(200, [JSON], TEXT, gate=held)))
    reader, writer = await gate.connect()
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"chunked" in head
    stream, found = zlib.decompressobj(31), b""
    while len(found) < len(TEXT) // 2:
        found += stream.decompress(await asyncio.wait_for(chunk(reader), 10))
    held.set()
    while piece := await asyncio.wait_for(chunk(reader), 10):
        found += stream.decompress(piece)
    assert (found, stream.eof) == (TEXT, True)
    writer.close()


async def chunk(reader: asyncio.StreamReader) -> bytes:
    size = int(await reader.readuntil(b"\r\n"), 16)
    return (await reader.readexactly(size + 2))[:-2]


async def test_a_cut_answer_is_cut_for_the_client(site: Site) -> None:
    gate = await compressing(site, Origin(lambda asked: Reply(200, [JSON], TEXT, cut=2000)))
    raw = await gate.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
    assert b"Content-Encoding: gzip" in raw
    assert not raw.endswith(b"0\r\n\r\n")
    body = raw.partition(b"\r\n\r\n")[2]
    stream, found = zlib.decompressobj(31), b""
    while body:
        size, _, body = body.partition(b"\r\n")
        found += stream.decompress(body[: int(size, 16)])
        body = body[int(size, 16) + 2 :]
    assert (found, stream.eof) == (TEXT[:2000], False)


async def test_a_large_answer_goes_in_pieces_and_a_slow_client_holds_the_endpoint_back(site: Site) -> None:
    """Random digits do not get much smaller: of 40 MiB most waits at the endpoint while the client does not read."""
    sent = 0
    total = 40 << 20

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % total)
        while sent < total:
            noise = os.urandom(1 << 15).hex().encode()
            writer.write(noise)
            await writer.drain()
            sent += len(noise)

    gate = await routing_gate(
        site, [{"pool": "a", "compression": {"gzip_level": 1}}], {"a": [await site.endpoint(serve)]}
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.port, limit=1 << 12)
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    before = -1
    while sent != before:
        before = sent
        await asyncio.sleep(0.5)
    assert sent < total - (8 << 20)
    stream, found = zlib.decompressobj(31), 0
    while piece := await asyncio.wait_for(chunk(reader), 20):
        found += len(stream.decompress(piece))
    assert (found, stream.eof) == (total, True)
    writer.close()
    await settle(lambda: gate.in_flight() == 0, "the endpoint is not given back")


async def test_a_cache_keeps_one_object_for_all_codings(site: Site) -> None:
    body = TEXT * 200  # goes in pieces, and the next request on the connection waits for its end
    origin = Origin(lambda asked: Reply(200, [JSON, ("Cache-Control", "max-age=600"), ("ETag", '"a"')], body))
    plan = CompressionPlan((("gzip", 3), ("br", 3)), ("application/json",), 100)
    gate = await cached_gate(site, origin, route={"compression": plan})
    for accepted in ("gzip", "br", "identity", "gzip"):
        got = await ask(gate, Accept_Encoding=accepted)
        assert decoded(got) == body
        assert got.get("content-encoding") == (None if accepted == "identity" else accepted)
    assert len(origin.asked) == 1
    # What the client has goes on under the ETag that it has: a strong one would let it join ranges of the endpoint's
    # bytes with compressed ones.
    for named, etag in (('W/"a"', 'W/"a"'), ('"b", W/"a"', 'W/"a"'), ('"a"', '"a"')):
        got = await ask(gate, Accept_Encoding="gzip", If_None_Match=named)
        assert (got.status, got.get("etag"), got.get("vary")) == (304, etag, "Accept-Encoding")
    got = await ask(gate, Accept_Encoding="gzip", Range="bytes=0-9")
    assert (got.status, got.body, got.get("content-encoding")) == (206, body[:10], None)
    async with h2_client(gate.port) as client:
        answers = await asyncio.gather(*(client.fetch(fields=[("accept-encoding", "gzip")]) for _ in range(5)))
    for answer in answers:
        assert zlib.decompress(answer.body, 31) == body
    reader, writer = await gate.connect()
    writer.write(b"GET / HTTP/1.1\r\nHost: example.org\r\nAccept-Encoding: gzip\r\n\r\n" * 3)
    for _ in range(3):
        assert decoded(await read_answer(reader)) == body
    # A client that leaves in the middle takes nobody with it.
    writer.write(b"GET / HTTP/1.1\r\nHost: example.org\r\nAccept-Encoding: gzip\r\n\r\n" * 2)
    await reader.read(100)
    writer.transport.abort()
    assert decoded(await ask(gate, Accept_Encoding="gzip")) == body


async def test_a_page_in_the_place_of_an_error_is_compressed_by_its_own_type(site: Site) -> None:
    errors = {
        "/picture": [("Content-Type", "image/png"), ("Content-Encoding", "gzip")],
        "/bare": [],
        "/kept": [JSON, ("Cache-Control", "max-age=600")],
        "/plain": [JSON, ("Cache-Control", "no-transform, max-age=600")],
    }
    origin = Origin(lambda asked: Reply(404, errors[asked.target], b"no"))
    page = ErrorPagePlan((404,), (("Content-Type", "text/html"),), TEXT, intercept=True)
    plan = CompressionPlan((("gzip", 3),), ("text/html",), 100)
    gate = await cached_gate(site, origin, route={"compression": plan, "error_pages": (page,)})
    for target in errors:
        for _ in range(2):  # by the endpoint, and where it is kept by the cache
            got = await ask(gate, target, Accept_Encoding="gzip")
            assert (got.status, decoded(got)) == (404, TEXT)
            wanted = (None, None) if target == "/plain" else ("gzip", "Accept-Encoding")
            assert (got.get("content-encoding"), got.get("vary")) == wanted, target


async def test_nothing_holds_itself(site: Site) -> None:
    """A worker's collector looks rarely: an exchange that is over, however it ended, goes at once."""
    held = asyncio.Event()
    told = {
        "/": Reply(200, [JSON], TEXT),
        "/error": Reply(500, [JSON], TEXT),
        "/cut": Reply(200, [JSON], TEXT, cut=100),
        "/silent": Reply(silent=True),
        "/held": Reply(200, [JSON], TEXT, gate=held),
    }
    pages = [{"on": [500], "body": "page", "intercept": True}]
    gate = await compressing(site, Origin(lambda asked: told[asked.target]), retry="off", error_pages=pages)
    gc.collect()
    gc.disable()
    try:
        for target in told:
            reader, writer = await gate.connect()
            writer.write(f"GET {target} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
            if target != "/held":  # of which the client leaves in the middle
                await settle(lambda: gate.in_flight() == 0, "the exchange is not over")
            writer.transport.abort()
        await settle(lambda: gate.in_flight() == 0, "the exchange is not over")
        held.set()
        left = [name for name in (type(each).__name__ for each in gc.get_objects()) if name in RELAYS]
        assert left == []
    finally:
        gc.enable()


async def flooding(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An endpoint that speaks HTTP/2: 64 KiB at once, as the window lets it."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
    connection.initiate_connection()
    while True:
        writer.write(connection.data_to_send())
        data = await reader.read(65536)
        if not data:
            return
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                connection.send_headers(event.stream_id, [(":status", "200"), ("content-type", "text/plain")])
                for i in range(4):
                    connection.send_data(event.stream_id, b"%d" % i * 16000, end_stream=i == 3)


async def test_http2_on_both_sides(site: Site) -> None:
    pools = {"a": {"protocol": "http2", "endpoints": [await site.endpoint(flooding)]}}
    gate = await routing_gate(site, [{"pool": "a", "compression": True}], pools)
    async with h2_client(gate.port) as client:
        for _ in range(3):
            answer = await client.fetch(fields=[("accept-encoding", "gzip")])
            assert zlib.decompress(answer.body, 31) == b"".join(b"%d" % i * 16000 for i in range(4))
            assert answer.field_of("content-encoding") == "gzip"


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"codings": []}, "at least 1 item"),
        ({"codings": ["deflate"]}, "codings"),
        ({"codings": ["gzip", "gzip"]}, "one is named twice"),
        ({"types": ["json"]}, "is not a type"),
        ({"gzip_level": 0}, "gzip_level"),
        ("on", "true or false, or a mapping"),
    ],
)
def test_what_is_no_rule_is_refused(rules: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        plan_of([{"pool": "a", "compression": rules}], {"a": ["127.0.0.1:1"]}, Numbers())


def test_a_coding_whose_package_is_missing_is_an_error_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lb.config.schema.routes.compression.find_spec", lambda name: None if name == "brotli" else 1)
    route: dict[str, Any] = {"pool": "a", "compression": {"codings": ["gzip", "zstd"]}}
    plan_of([route], {"a": ["127.0.0.1:1"]}, Numbers())
    route["compression"]["codings"].append("br")
    with pytest.raises(ValidationError, match="br needs the package brotli: pip install brotli"):
        plan_of([route], {"a": ["127.0.0.1:1"]}, Numbers())


def test_answers_of_model_servers_have_compression_of_their_own() -> None:
    web = {"bind": "127.0.0.1:0", "protocol": "http", "routes": [{"pool": "a", "compression": True}]}
    pools = {"a": {"protocol": "oip", "endpoints": ["127.0.0.1:1"]}}
    config = Config.model_validate({"listeners": {"web": web}, "pools": pools})
    said = "only for pools of protocol http or http2, not oip"
    assert check_config(config) == [("listeners.web.routes[0].compression", said)]
