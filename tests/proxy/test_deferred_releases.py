"""A place at a capped endpoint over HTTP/2: that of a stream which we reset is free when the endpoint has read that."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from datapath import Gate, Site, settle
from hyperframe.frame import Frame, HeadersFrame, RstStreamFrame, SettingsFrame
from oip_site import OIP
from queue_site import QUEUE, ask, waiting
from scripted_peer import Peer, Scripted

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
INFER_BODY = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}'
INFER = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (len(INFER_BODY), INFER_BODY)
POOLS = {"http2": ({"protocol": "http2"}, GET), "oip": (OIP, INFER)}
ACK = SettingsFrame(0, flags=["ACK"])


class Slow:
    """A peer that answers nothing and acknowledges nothing but our first SETTINGS; `seen` are the frames it has got."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.scripted = Scripted(self.script)

    async def script(self, peer: Peer) -> None:
        self.peers.append(peer)
        await peer.settle()
        while True:
            await peer.next_frame()

    @property
    def peer(self) -> Peer:
        return self.peers[-1]

    def seen(self, kind: type[Frame]) -> list[Frame]:
        """Those of one kind, without the first SETTINGS and acknowledgements."""
        found = [f for peer in self.peers for f in peer.frames if isinstance(f, kind) and "ACK" not in f.flags]
        return [f for f in found if not (isinstance(f, SettingsFrame) and f.settings)]


async def given_up(gate: Gate, slow: Slow, request: bytes) -> None:
    """A request comes to the endpoint, its client leaves, and so does the reset."""
    resets = len(slow.seen(RstStreamFrame))
    requests = len(slow.seen(HeadersFrame))
    _, writer = await gate.connect()
    writer.write(request)
    await settle(lambda: len(slow.seen(HeadersFrame)) == requests + 1, "the request did not come")
    assert gate.in_flight() == 1
    writer.close()
    await settle(lambda: len(slow.seen(RstStreamFrame)) == resets + 1, "the reset did not come")


@pytest.mark.parametrize("name", list(POOLS))
async def test_it_is_free_when_the_endpoint_has_read_the_reset(site: Site, name: str) -> None:
    pool, request = POOLS[name]
    slow = Slow()
    async with slow.scripted as address:
        gate = await site.gate([address], cap=1, pool=pool)
        await given_up(gate, slow, request)
        await settle(lambda: bool(slow.seen(SettingsFrame)), "it was not asked")
        frames = [type(f) for f in slow.peer.frames]
        assert frames.index(RstStreamFrame) < len(frames) - 1 - frames[::-1].index(SettingsFrame)
        assert gate.in_flight() == 1
        slow.peer.send(ACK)
        await settle(lambda: gate.in_flight() == 0, "the place is not free")


async def test_who_waits_gets_it_then(site: Site) -> None:
    slow = Slow()
    async with slow.scripted as address:
        gate = await site.gate([address], cap=1, pool={"protocol": "http2", "queue": QUEUE})
        _, writer = await gate.connect()
        writer.write(GET)
        await settle(lambda: len(slow.seen(HeadersFrame)) == 1, "the request did not come")
        next_one = asyncio.create_task(ask(gate, "/next"))
        await settle(lambda: waiting(gate) == 1, "it does not wait")
        writer.close()
        await settle(lambda: bool(slow.seen(SettingsFrame)), "it was not asked")
        assert waiting(gate) == 1
        assert len(slow.seen(HeadersFrame)) == 1
        slow.peer.send(ACK)
        await settle(lambda: len(slow.seen(HeadersFrame)) == 2, "it did not get there")
        assert gate.in_flight() == 1
        slow.peer.headers(slow.seen(HeadersFrame)[1].stream_id, (":status", "204"), end=True)
        assert b" 204 " in await next_one
        await settle(lambda: gate.in_flight() == 0, "the place is not free")


async def test_it_is_free_in_a_second_all_the_same(site: Site) -> None:
    slow = Slow()
    async with slow.scripted as address:
        gate = await site.gate([address], cap=1, pool={"protocol": "http2"})
        for _ in range(3):
            await given_up(gate, slow, GET)
            await settle(lambda: gate.in_flight() == 0, "the place is not free")
        for _ in range(3):  # late, and for what is given back already
            slow.peer.send(ACK)
        await given_up(gate, slow, GET)
        slow.peer.send(ACK)
        await settle(lambda: gate.in_flight() == 0, "the place is not free")


async def test_it_is_free_when_the_connection_is_over(site: Site) -> None:
    slow = Slow()
    async with slow.scripted as address:
        gate = await site.gate([address], cap=1, pool={"protocol": "http2"})
        await given_up(gate, slow, GET)
        slow.peer.writer.close()
        await settle(lambda: gate.in_flight() == 0, "the place is not free")


async def test_others_on_the_connection_are_not_held_up(site: Site) -> None:
    slow = Slow()
    async with slow.scripted as address:
        gate = await site.gate([address], cap=2, pool={"protocol": "http2", "queue": QUEUE})
        await given_up(gate, slow, GET)
        assert gate.in_flight() == 1
        other = asyncio.create_task(ask(gate, "/other"))
        await settle(lambda: len(slow.seen(HeadersFrame)) == 2, "it did not get there")
        slow.peer.headers(slow.seen(HeadersFrame)[1].stream_id, (":status", "204"), end=True)
        assert b" 204 " in await other
        slow.peer.send(ACK)
        await settle(lambda: gate.in_flight() == 0, "the places are not free")


@pytest.mark.parametrize("answer", ["early", "broken"])
async def test_an_answer_after_which_we_reset(site: Site, answer: str) -> None:
    slow = Slow()
    async with slow.scripted as address:
        gate = await site.gate([address], cap=1, pool={"protocol": "http2"}, route={"max_body": 1 << 20})
        reader, writer = await gate.connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nx")
        await settle(lambda: len(slow.seen(HeadersFrame)) == 1, "the request did not come")
        stream = slow.seen(HeadersFrame)[0].stream_id
        if answer == "early":
            slow.peer.headers(stream, (":status", "403"), ("content-length", "0"), end=True)
        else:
            slow.peer.headers(stream, (":status", "what"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 403 " if answer == "early" else b"HTTP/1.1 502 ")
        await settle(lambda: bool(slow.seen(SettingsFrame)), "it was not asked")
        assert len(slow.seen(RstStreamFrame)) == 1
        assert gate.in_flight() == 1
        slow.peer.send(ACK)
        await settle(lambda: gate.in_flight() == 0, "the place is not free")
        writer.close()


@pytest.mark.parametrize("pool", [{"protocol": "http2"}, OIP])
async def test_without_a_cap_nobody_is_asked(site: Site, pool: dict[str, Any]) -> None:
    slow = Slow()
    async with slow.scripted as address:
        gate = await site.gate([address], pool=pool)
        for _ in range(3):
            await given_up(gate, slow, GET if pool is not OIP else INFER)
            await settle(lambda: gate.in_flight() == 0, "the place is not free")
        assert not slow.seen(SettingsFrame)
