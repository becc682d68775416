"""Decompression of requests: what the endpoint gets, limits, bad data, and that bodies still stream."""

from __future__ import annotations

import asyncio
import gc
import gzip
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import brotli
import h2.config
import h2.connection
import h2.events
import pytest
import zstandard
from datapath import Gate, Site, settle
from h2_client import h2_client
from http_cache_site import Asked, Origin, Reply, ask, read_answer
from pydantic import ValidationError
from routing_site import routing_gate

from lb.config.checks.file import check_config
from lb.config.schema.file import Config
from lb.http.decoders import CODINGS, Decoder, decoders

MIB = 1 << 20
TEXT = b'{"name": "a text that repeats itself"}, ' * 1000
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": lambda body: bytes(brotli.compress(body, quality=1)),
    "zstd": zstandard.ZstdCompressor().compress,
}
ALL = {"codings": list(CODINGS)}


def unpacked(decoder: Decoder, data: bytes) -> bytes:
    found, at = [], 0
    while decoder.holds or at < len(data):
        piece = b"" if decoder.holds else data[at : at + decoder.step]
        at += len(piece)
        found.append(decoder.decode(piece))
        assert len(found[-1]) <= 5 * MIB
    return b"".join(found)


@pytest.mark.parametrize("coding", CODINGS)
def test_decoders(coding: str) -> None:
    noise = os.urandom(300_000).hex().encode()
    for body in (b"", b"a", TEXT, noise, bytes(20 * MIB)):
        decoder = decoders(coding)()
        packed = PACK[coding](body)
        assert unpacked(decoder, packed) == body
        assert decoder.whole
        if coding in ("gzip", "zstd"):  # members and frames are one body
            assert unpacked(decoder, packed) == body
        else:
            with pytest.raises(ValueError, match=r"follow|failed"):
                unpacked(decoder, b"x")
        decoder = decoders(coding)()
        assert body.startswith(unpacked(decoder, packed[:-1]))
        assert not decoder.whole
    with pytest.raises(ValueError, match=r"."):
        unpacked(decoders(coding)(), b"this is no such data" * 100)
    if coding == "gzip":
        members = gzip.compress(b"") * 3000 + gzip.compress(b"end")
        assert unpacked(decoders("gzip")(), members) == b"end"


def resident() -> int:
    """Bytes of memory that this process, the gate with it, holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def dechunked(asked: Asked) -> bytes:
    if asked.get("transfer-encoding") != "chunked":
        return asked.body
    body, rest = b"", asked.body
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        n = int(size, 16)
        body, rest = body + rest[:n], rest[n + 2 :]
        if not n:
            break
    return body


def chunked(body: bytes, step: int, trailers: bytes = b"") -> bytes:
    pieces = [body[at : at + step] for at in range(0, len(body), step)]
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n" + trailers + b"\r\n"


async def gate_to(site: Site, rules: Any = True, **route: Any) -> tuple[Gate, Origin]:
    origin = Origin(lambda asked: Reply(200, [], str(len(dechunked(asked))).encode()))
    pool = {"protocol": "http", "endpoints": [await site.endpoint(origin.serve)]}
    return await routing_gate(site, [{"pool": "a", "decompression": rules, **route}], {"a": pool}), origin


async def test_what_the_endpoint_gets(site: Site) -> None:
    gate, origin = await gate_to(site, ALL)
    noise = os.urandom(200_000).hex().encode()  # more than one turn and one read
    for coding, name in [*((c, c) for c in CODINGS), ("gzip", "X-GZip"), ("gzip", "GZIP")]:
        for body in (TEXT, noise):
            fields = {"Content_Encoding": name, "Content_Digest": "sha-256=:x:", "Content_Type": "text/plain"}
            got = await ask(gate, "/", "POST", PACK[coding](body), **fields)
            asked = origin.asked[-1]
            assert (got.status, got.body, dechunked(asked)) == (200, str(len(body)).encode(), body)
            assert [asked.get(n) for n in ("content-encoding", "content-length", "content-digest", "content-type")] == [
                None, None, None, "text/plain",
            ]  # fmt: skip
            packed = chunked(PACK[coding](body), 777)
            assert (await ask(gate, "/", "POST", packed, "chunked", **fields)).body == got.body
    # What has no body, another coding or several stays as it is.
    await ask(gate, Content_Encoding="gzip")
    assert origin.asked[-1].get("content-encoding") == "gzip"
    for coding in ("compress", "gzip, gzip", "x" * 99, "identity", ""):
        await ask(gate, "/", "POST", b"as it is", Content_Encoding=coding)
        asked = origin.asked[-1]
        assert (asked.body, asked.get("content-encoding") or "") == (b"as it is", coding)


async def test_limits_and_bad_data(site: Site) -> None:
    gate, _ = await gate_to(site, {**ALL, "max_ratio": 50}, max_body="2MiB")

    async def status(coding: str, body: bytes) -> int:
        got = await ask(gate, "/", "POST", body, Content_Encoding=coding)
        return got.status

    for coding in CODINGS:
        packed = PACK[coding](TEXT)
        assert await status(coding, PACK[coding](bytes(MIB))) == 200  # of so little the ratio does not matter
        assert await status(coding, PACK[coding](bytes(2 * MIB - 1))) == 413
        noise = os.urandom(MIB * 3 // 4).hex().encode()
        assert await status(coding, PACK[coding](noise)) == 200
        assert await status(coding, PACK[coding](noise * 2)) == 413  # by max_body
        assert await status(coding, packed[:-1]) == 400
        assert await status(coding, b"no such data at all") == 400
        if coding not in ("gzip", "zstd"):
            assert await status(coding, packed + b"x") == 400
    # What is wrong in a whole request leaves the connection as it was.
    reader, writer = await gate.connect()
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    good = gzip.compress(TEXT)
    for body, expected in ((b"bad", 400), (good, 200), (good[:-1], 400), (good, 200)):
        writer.write(request % len(body) + body)
        assert (await read_answer(reader)).status == expected
    writer.close()
    await settle(lambda: gate.in_flight() == 0, "an endpoint is not given back")


async def test_bodies_stream_both_ways_and_http2(site: Site) -> None:
    gate, origin = await gate_to(site, ALL)
    packed = gzip.compress(os.urandom(200_000).hex().encode())
    async with h2_client(gate.port) as client:
        fields = [("content-encoding", "gzip")]
        answers = await asyncio.gather(*(client.fetch(method="POST", fields=fields, body=packed) for _ in range(5)))
    assert [answer.body for answer in answers] == [b"400000"] * 5
    # Pieces arrive as they come, and pipelined requests wait for their turn.
    reader, writer = await gate.connect()
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    writer.write((request + packed) * 4)
    for _ in range(4):
        assert (await read_answer(reader)).body == b"400000"
    writer.close()
    assert len(origin.asked) == 9


async def test_a_slow_endpoint_holds_its_client_back(site: Site) -> None:
    total, received, start = 48 * MIB, 0, asyncio.Event()
    early = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            early.set()
            await start.wait()
            writer.transport.resume_reading()  # type: ignore[attr-defined]
            while size := int(await reader.readuntil(b"\r\n"), 16):
                await reader.readexactly(size + 2)
                received += size
            trailers = b""
            while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
                trailers += line
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(trailers) + 2, trailers))

    pools = {"a": [await site.endpoint(serve)]}
    gate = await routing_gate(site, [{"pool": "a", "decompression": {"max_ratio": 2000}}], pools)
    packed = gzip.compress(bytes(total))  # 48 KiB: all of it is here while next to nothing is with the endpoint
    memory = resident()
    reader, writer = await gate.connect()
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(head + chunked(packed, 5000, b"X-End: yes\r\n"))
    await early.wait()
    await asyncio.sleep(0.3)
    assert resident() - memory < 16 * MIB
    start.set()
    got = await read_answer(reader)
    assert (received, got.body) == (total, b"X-End: yes\r\n\r\n")
    writer.write(head + b"0\r\n\r\n")  # empty is no bad data
    got = await read_answer(reader)
    assert (received, got.body) == (total, b"\r\n")
    writer.close()


async def counting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An endpoint that speaks HTTP/2, and says how many bytes each request had."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
    connection.initiate_connection()
    got: dict[int, int] = {}
    while True:
        writer.write(connection.data_to_send())
        data = await reader.read(65536)
        if not data:
            return
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                names = [str(name) for name, _ in event.headers]
                assert not {"content-encoding", "content-length"} & set(names)
                got[event.stream_id] = 0
            elif isinstance(event, h2.events.DataReceived):
                got[event.stream_id] += len(event.data)
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                connection.send_headers(event.stream_id, [(":status", "200"), ("content-length", "7")])
                connection.send_data(event.stream_id, b"%7d" % got[event.stream_id], end_stream=True)


async def test_an_endpoint_that_speaks_http2(site: Site) -> None:
    pools = {"a": {"protocol": "http2", "endpoints": [await site.endpoint(counting)]}}
    gate = await routing_gate(site, [{"pool": "a", "decompression": {"max_ratio": 2000}}], pools)
    for body in (b"x", bytes(3 * MIB), os.urandom(200_000).hex().encode()):
        got = await ask(gate, "/", "POST", gzip.compress(body), Content_Encoding="gzip")
        assert (got.status, int(got.body)) == (200, len(body))
    assert (await ask(gate, "/", "POST", gzip.compress(TEXT)[:-1], Content_Encoding="gzip")).status == 400
    assert gate.in_flight() == 0


async def test_nothing_holds_itself(site: Site) -> None:
    gate, _ = await gate_to(site)
    packed = gzip.compress(TEXT)
    gc.collect()
    gc.disable()
    try:
        await ask(gate, "/", "POST", packed, Content_Encoding="gzip")
        await ask(gate, "/", "POST", packed[:-1], Content_Encoding="gzip")
        _, writer = await gate.connect()  # a client that leaves in the middle
        writer.write(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: 999\r\n\r\n" + packed[:50]
        )
        await settle(lambda: gate.in_flight() == 1, "the request did not come")
        writer.transport.abort()
        await settle(lambda: gate.in_flight() == 0, "the exchange is not over")
        names = [type(each).__name__ for each in gc.get_objects()]
        assert [name for name in names if name in ("RequestDecoder", "DecodedBody", "Exchange")] == []
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"codings": []}, "at least 1 item"),
        ({"codings": ["lzma"]}, "codings"),
        ({"codings": ["gzip", "gzip"]}, "one is named twice"),
        ({"max_ratio": 1}, "max_ratio"),
    ],
)
def test_rules_that_are_none(rules: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        file_of(rules)


def file_of(rules: Any, protocol: str = "http") -> Config:
    routes = [{"pool": "a", "decompression": rules}]
    listener = {"bind": "127.0.0.1:0", "protocol": "http", "routes": routes}
    pools = {"a": {"protocol": protocol, "endpoints": ["127.0.0.1:1"]}}
    return Config.model_validate({"listeners": {"web": listener}, "pools": pools})


def test_only_for_plain_http() -> None:
    assert "only for pools of protocol http or http2, not oip" in str(check_config(file_of(True, "oip")))
    assert file_of(False).listeners["web"].routes[0].decompression is None  # type: ignore[union-attr]
