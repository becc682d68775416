"""Decompression of answers: who gets them decoded, what bounds them, and that they still stream."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import os
import socket
from typing import Any

import pytest
from datapath import Gate, Site, settle
from h2_client import h2_client
from http_cache_site import Got, Origin, Reply, ask, cached_gate
from pydantic import ValidationError
from routing_site import curl, routing_gate
from test_decompression import MIB, PACK, TEXT, file_of, resident

from lb.config.plan.routes import DecompressionPlan
from lb.http.decoders import CODINGS

ALL = {"codings": list(CODINGS), "answers": True}
NOISE = os.urandom(200_000).hex().encode()  # more than one turn and one read


async def gate_to(site: Site, reply: Reply, rules: Any = None, **route: Any) -> tuple[Gate, Origin]:
    origin = Origin(lambda asked: reply)
    pools = {"a": [await site.endpoint(origin.serve)]}
    return await routing_gate(site, [{"pool": "a", "decompression": rules or ALL, **route}], pools), origin


def packed(coding: str, body: bytes, *fields: tuple[str, str], **more: Any) -> Reply:
    return Reply(200, [("Content-Type", "text/plain"), ("Content-Encoding", coding), *fields], body, **more)


async def test_who_gets_what(site: Site) -> None:
    reply = packed("gzip", b"")
    gate, _ = await gate_to(site, reply)
    for coding, name in [*((c, c) for c in CODINGS), ("gzip", "X-GZip")]:
        for body in (b"", TEXT, NOISE):
            for chunked in (False, True):
                reply.chunked, reply.body = chunked, PACK[coding](body)
                reply.fields = packed(name, b"", ("ETag", '"1"'), ("Content-Digest", "sha-256=:x:")).fields
                got = await ask(gate)
                assert (got.status, got.body) == (200, body)
                names = ("content-encoding", "content-length", "content-digest", "etag", "vary")
                assert [got.get(each) for each in names] == [None, None, None, 'W/"1"', "Accept-Encoding"]
        for accepted in (coding, f"{coding};q=0.1, identity", "*", f"identity;q=0, {coding};q=0", "*;q=0"):
            got = await ask(gate, Accept_Encoding=accepted)
            assert (got.body, got.get("content-encoding")) == (reply.body, name)
            assert (got.get("etag"), got.get("vary")) == ('"1"', "Accept-Encoding")
        for accepted in ("", "identity", f"{coding};q=0", "compress", "*;q=0, identity"):
            assert (await ask(gate, Accept_Encoding=accepted)).body == NOISE


async def test_what_stays_as_it_is(site: Site) -> None:
    body = gzip.compress(TEXT)
    reply = Reply()
    gate, _ = await gate_to(site, reply)
    for status, fields in (
        (200, [("Content-Encoding", "gzip"), ("Cache-Control", "max-age=9, no-transform")]),
        (206, [("Content-Encoding", "gzip"), ("Content-Range", f"bytes 0-{len(body) - 1}/99999")]),
        (200, [("Content-Encoding", "compress")]),
        (200, [("Content-Encoding", "gzip, br")]),
        (200, [("Content-Encoding", "gzip"), ("Content-Encoding", "br")]),
        (200, []),
    ):
        reply.status, reply.fields, reply.body = status, [*fields, ("ETag", '"1"')], body
        got = await ask(gate)
        assert (got.body, got.get("etag"), got.get("vary")) == (body, '"1"', None)
    # A 304 is about the answer that its client has.
    reply.status, reply.fields, reply.body = 304, [("ETag", '"1"')], b""
    assert (await ask(gate, If_None_Match='"1"')).fields[-1] != ("Vary", "Accept-Encoding")
    got = await ask(gate, If_None_Match='W/"1"')
    assert (got.get("etag"), got.get("vary")) == ('W/"1"', "Accept-Encoding")
    # An answer to a HEAD has the head that a GET's would have.
    reply.status, reply.fields, reply.body = 200, [("Content-Encoding", "gzip"), ("ETag", '"1"')], body
    got = await ask(gate, method="HEAD")
    assert [got.get(n) for n in ("content-encoding", "content-length", "etag")] == [None, None, 'W/"1"']
    # A client of HTTP/1.0 has no chunks.
    raw = await gate.exchange(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
    assert raw.partition(b"\r\n\r\n")[2] == TEXT
    # Without `answers` nothing changes.
    gate, _ = await gate_to(site, reply, rules=True)
    got = await ask(gate)
    assert (got.body, got.get("vary")) == (body, None)


async def test_limits_and_bad_data_cut_the_answer_off(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    reply = Reply()
    gate, _ = await gate_to(site, reply, {**ALL, "max_ratio": 50})
    for coding in CODINGS:
        reply.fields = packed(coding, b"").fields
        for chunked in (False, True):
            reply.chunked = chunked
            for body in (PACK[coding](bytes(4 * MIB)), PACK[coding](TEXT)[:-1], b"no such data at all"):
                reply.body = body
                with pytest.raises(asyncio.IncompleteReadError):
                    await ask(gate)
            reply.body = PACK[coding](bytes(MIB))  # of so little the ratio does not matter
            assert (await ask(gate)).body == bytes(MIB)
    await settle(lambda: gate.in_flight() == 0 and gate.proxy.busy() == 0, "an exchange is left")


async def test_an_event_goes_out_when_it_comes(site: Site) -> None:
    go = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        stream = gzip_stream()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n")
        for event in (b"data: 1\n\n", b"data: 2\n\n"):
            piece = stream.compress(event) + stream.flush(2)  # Z_SYNC_FLUSH
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await go.wait()
        writer.write(b"%x\r\n%s\r\n0\r\nX-End: yes\r\n\r\n" % (len(end := stream.flush()), end))

    gate = await routing_gate(site, [{"pool": "a", "decompression": ALL}], {"a": [await site.endpoint(serve)]})
    reader, writer = await gate.connect()
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await asyncio.wait_for(reader.readuntil(b"9\r\ndata: 1\n\n\r\n"), 10)
    go.set()
    assert await reader.readuntil(b"yes\r\n\r\n") == b"9\r\ndata: 2\n\n\r\n0\r\nX-End: yes\r\n\r\n"
    writer.close()


def gzip_stream() -> Any:
    import zlib

    return zlib.compressobj(wbits=31)


async def test_a_slow_client_holds_its_endpoint_back(site: Site) -> None:
    total = 48 * MIB
    small = gzip.compress(bytes(total))  # 48 KiB: all of it is here while next to nothing is with the client
    reply = packed("gzip", small, chunked=True)
    gate, _ = await gate_to(site, reply, {**ALL, "max_ratio": 2000})
    memory = resident()
    reader, writer = await gate.connect()
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await asyncio.sleep(0.4)
    assert resident() - memory < 16 * MIB
    writer.transport.resume_reading()  # type: ignore[attr-defined]
    await reader.readuntil(b"\r\n\r\n")
    received = 0
    while size := int(await asyncio.wait_for(reader.readuntil(b"\r\n"), 20), 16):
        assert await reader.readexactly(size + 2) == bytes(size) + b"\r\n"
        received += size
    assert received == total
    writer.close()
    reply.body = gzip.compress(bytes(3 * MIB))
    async with h2_client(gate.port) as client:
        answers = await asyncio.gather(*(client.fetch() for _ in range(2)))
        assert [answer.body for answer in answers] == [bytes(3 * MIB)] * 2
    assert gate.proxy.busy() == 0


async def test_beside_compression(site: Site) -> None:
    reply = packed("gzip", gzip.compress(TEXT), ("Cache-Control", "max-age=60"), ("ETag", '"1"'))
    gate, origin = await gate_to(site, reply, compression={"codings": ["br"]})
    for accepted, coding in (("", None), ("br", "br"), ("gzip", "gzip"), ("br, gzip", "gzip")):
        got = await ask(gate, Accept_Encoding=accepted)
        assert (got.get("content-encoding"), got.get("vary")) == (coding, "Accept-Encoding"), accepted
        assert unpacked(got) == TEXT
    assert len(origin.asked) == 4


async def test_a_cache_keeps_what_the_endpoint_gave(site: Site) -> None:
    reply = packed("gzip", gzip.compress(NOISE), ("Cache-Control", "max-age=600"), ("ETag", '"1"'))
    origin = Origin(lambda asked: reply)
    gate = await cached_gate(site, origin, route={"decompression": DecompressionPlan(tuple(CODINGS), answers=True)})
    for accepted in ("", "gzip", "br", "gzip;q=0.5"):
        coding = "gzip" if "gzip" in accepted else None
        got = await ask(gate, Accept_Encoding=accepted)
        assert (got.status, got.get("content-encoding"), got.get("vary")) == (200, coding, "Accept-Encoding")
        assert (unpacked(got), got.get("etag")) == (NOISE, '"1"' if coding else 'W/"1"')
    got = await ask(gate, If_None_Match='W/"1"')
    assert (got.status, got.get("etag")) == (304, 'W/"1"')
    got = await ask(gate, Range="bytes=0-9")  # a part of what nobody can unpack alone
    assert (got.status, got.body, got.get("content-encoding")) == (206, reply.body[:10], "gzip")
    assert len(origin.asked) == 1
    async with h2_client(gate.port) as client:
        answers = await asyncio.gather(*(client.fetch() for _ in range(5)))
    assert [answer.body for answer in answers] == [NOISE] * 5
    _, writer = await gate.connect()  # a client that leaves in the middle takes nobody with it
    writer.write(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n" * 2)
    await asyncio.sleep(0.01)
    writer.transport.abort()
    assert (await ask(gate)).body == NOISE
    assert len(origin.asked) == 1
    await settle(lambda: gate.proxy.busy() == 0, "an exchange is not over")


def unpacked(got: Got) -> bytes:
    import brotli

    coding = got.get("content-encoding")
    return gzip.decompress(got.body) if coding == "gzip" else brotli.decompress(got.body) if coding else got.body


async def test_nothing_holds_itself(site: Site) -> None:
    hold = asyncio.Event()
    reply = packed("gzip", gzip.compress(NOISE))
    gate, origin = await gate_to(site, reply, {**ALL, "max_ratio": 10_000})
    gc.collect()
    gc.disable()
    try:
        await ask(gate)
        reply.body = reply.body[:-1]
        with contextlib.suppress(asyncio.IncompleteReadError):
            await ask(gate)
        reply.gate = hold
        _, writer = await gate.connect()  # a client that leaves in the middle
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await settle(lambda: gate.in_flight() == 1, "the request did not come")
        writer.transport.abort()
        await settle(lambda: gate.in_flight() == 0, "the exchange is not over")
        # The endpoint has given all, and this client has not taken it when it leaves; with a cache, too.
        reply.body, reply.gate = gzip.compress(bytes(40 * MIB)), None
        rules = DecompressionPlan(tuple(CODINGS), answers=True, max_ratio=10_000)
        cached = await cached_gate(site, origin, route={"decompression": rules})
        for one in (gate, cached):
            before = len(origin.asked)
            with socket.create_connection(("127.0.0.1", one.port)) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")
                await settle(lambda before=before: len(origin.asked) > before, "the endpoint was not asked")
                await settle(lambda one=one: one.in_flight() == 0, "the endpoint is held")
                await asyncio.sleep(0.1)
                assert one.proxy.busy() == 1
            await settle(lambda one=one: one.proxy.busy() == 0, "the client is there")
        names = [type(each).__name__ for each in gc.get_objects()]
        assert [name for name in names if name in ("AnswerDecoder", "Exchange")] == []
    finally:
        gc.enable()
        hold.set()


async def test_curl_without_compressed(site: Site) -> None:
    gate, _ = await gate_to(site, packed("gzip", gzip.compress(TEXT)), {"requests": False, "answers": True})
    assert (await curl(gate, "/")).body == TEXT.decode()


def test_rules_that_decode_nothing() -> None:
    with pytest.raises(ValidationError, match="neither requests nor answers are decompressed"):
        file_of({"requests": False})
