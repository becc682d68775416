"""Sequences that begin, go on and end in messages of a stream (ModelStreamInfer), and are used elsewhere meanwhile."""

from __future__ import annotations

import asyncio
import random
import struct
import time
from typing import Any

import pytest
from datapath import SECOND, Gate, Site, settle
from h2_client import H2Client, frame, h2_client
from oip_site import Answer, ModelServer, ask, echo, plain
from queue_site import QUEUE, waiting

from lb.config.plan.plan import PolicyPlan, SequencePlan
from lb.shared.affinity_table import AffinityTable
from lb.wire import grpc_service_pb2 as wire

SEQUENCES = SequencePlan(idle_ns=20 * SECOND, drain_ns=SECOND)
POOL = {"protocol": "oip", "sequence": SEQUENCES, "policy": PolicyPlan("least_request")}
FIELDS = [("content-type", "application/grpc"), ("te", "trailers")]
PATH = "/inference.GRPCInferenceService/ModelStreamInfer"


def framed(key: int | str, start: bool = False, end: bool = False, size: int = 4) -> bytes:
    """A message of the sequence `key` (0: of none)."""
    made = wire.ModelInferRequest(model_name="m", raw_input_contents=[bytes(size)])
    if isinstance(key, str):
        made.parameters["sequence_id"].string_param = key
    elif key:
        made.parameters["sequence_id"].int64_param = key
    made.parameters["sequence_start"].bool_param = start
    made.parameters["sequence_end"].bool_param = end
    made.inputs.add(name="x", datatype="UINT8", shape=[size])
    data = made.SerializeToString()
    return struct.pack(">BI", 0, len(data)) + data


async def sequence_gate(site: Site, *servers: ModelServer, **pool: Any) -> Gate:
    return await site.gate([await site.model(server) for server in servers], pool={**POOL, **pool})


def opened(gate: Gate) -> dict[int, int]:
    """How many sequences are open at each endpoint that has any."""
    return AffinityTable(gate.segment).open(time.monotonic_ns())


async def step(gate: Gate, key: int | str, **flags: bool) -> Answer:
    """A request of a sequence by itself, over another connection and protocol."""
    parameters = {"sequence_id": key, **{f"sequence_{name}": value for name, value in flags.items()}}
    return await ask(gate, plain(parameters=parameters))


async def say(client: H2Client, stream: int, server: ModelServer, *messages: bytes, end: bool = False) -> None:
    """Sends them, and waits until the server has them all."""
    count = len(server.requests) + len(messages)
    await client.send(stream, b"".join(messages), end=end)
    await settle(lambda: len(server.requests) >= count, "the messages came")


async def test_what_begins_in_a_later_message_is_found_from_elsewhere(site: Site) -> None:
    busy, other = ModelServer(), ModelServer()
    gate = await sequence_gate(site, busy, other, policy=PolicyPlan("round_robin"))
    async with h2_client(gate.port) as client:
        stream = client.request(PATH, method="POST", fields=FIELDS, end=False)
        await client.send(stream, framed(0), end=False)
        await settle(lambda: bool(busy.requests or other.requests), "the stream has an endpoint")
        home, away = (busy, other) if busy.requests else (other, busy)
        await say(client, stream, home, framed(7, start=True), framed("s", start=True))
        for _ in range(4):
            assert (await step(gate, 7)).status == 200
            assert (await step(gate, "s")).status == 200
        await say(client, stream, home, framed("s", end=True))
        answer = await step(gate, "s")
        assert (answer.status, "not open" in answer.json["error"]) == (409, True)
        await say(client, stream, home, framed(7), end=True)
        assert (await client.answer(stream)).trailers
    assert (await step(gate, 7, end=True)).status == 200  # it outlives the stream that it began in
    assert (await step(gate, 7)).status == 409
    assert not away.requests
    assert opened(gate) == {}
    assert gate.segment.inflight(0) == gate.segment.inflight(1) == 0


async def test_the_first_message_may_begin_and_end_one(site: Site) -> None:
    server = ModelServer()
    gate = await sequence_gate(site, server)
    async with h2_client(gate.port) as client:
        stream = client.request(PATH, method="POST", fields=FIELDS, end=False)
        await say(client, stream, server, framed(7, start=True, end=True))
        assert opened(gate) == {}
        assert (await step(gate, 7)).status == 409
        await say(client, stream, server, framed(7, start=True))
        assert (await step(gate, 7)).status == 200
        await client.send(stream, b"", end=True)
        await client.answer(stream)
    assert AffinityTable(gate.segment).opened == 2
    assert (await step(gate, 7)).status == 200  # the one that began anew, not that of the first message


async def test_an_end_counts_once_all_of_its_message_was_sent(site: Site) -> None:
    server = ModelServer()
    gate = await sequence_gate(site, server)
    async with h2_client(gate.port) as client:
        stream = client.request(PATH, method="POST", fields=FIELDS, end=False)
        await say(client, stream, server, framed(0), framed(7, start=True))
        last = framed(7, end=True, size=40_000)
        await client.send(stream, last[:-1], end=False)
        await asyncio.sleep(0.1)
        assert (await step(gate, 7)).status == 200
        await say(client, stream, server, last[-1:])
        assert (await step(gate, 7)).status == 409


async def test_messages_of_a_stream_keep_a_sequence_open(site: Site) -> None:
    server = ModelServer()
    gate = await sequence_gate(site, server, sequence=SequencePlan(idle_ns=SECOND // 2, drain_ns=SECOND))
    async with h2_client(gate.port) as client:
        stream = client.request(PATH, method="POST", fields=FIELDS, end=False)
        await say(client, stream, server, framed(7, start=True), framed(8, start=True))
        for _ in range(6):
            await asyncio.sleep(0.2)
            await say(client, stream, server, framed(8))
        assert (await step(gate, 8)).status == 200
        assert (await step(gate, 7)).status == 409  # idle, though its stream was not


async def test_what_is_open_elsewhere_stays_there(site: Site) -> None:
    first, second = ModelServer(), ModelServer()
    gate = await sequence_gate(site, first, second)
    assert (await step(gate, 7, start=True)).status == 200
    assert len(first.requests) == 1
    gate.segment.set_weight(0, 0)  # it goes on with what it has
    async with h2_client(gate.port) as client:
        stream = client.request(PATH, method="POST", fields=FIELDS, end=False)
        await say(client, stream, second, framed(0), framed(7), framed(7, end=True))
        assert (await step(gate, 7)).status == 200
        assert len(first.requests) == 2
        await say(client, stream, second, framed(7, start=True))  # anew, where the stream is
        assert (await step(gate, 7)).status == 200
    assert len(first.requests) == 2


async def test_what_began_outlives_a_stream_that_breaks(site: Site) -> None:
    server = ModelServer()
    gate = await sequence_gate(site, server)
    async with h2_client(gate.port) as client:
        stream = client.request(PATH, method="POST", fields=FIELDS, end=False)
        await say(client, stream, server, framed(7, start=True), framed(8, start=True))
        await settle(lambda: client.answers[stream].body.count(b"m") >= 2, "both were answered")
        await client.send(
            stream, b"\0\0\0\0\2\xff\xff", end=True
        )  # no message of the protocol: the server breaks it off
        assert dict((await client.answer(stream)).trailers)["grpc-status"] != "0"
    for key in (7, 8):
        assert (await step(gate, key)).status == 200


async def test_a_compressed_message_is_passed_on_unread(site: Site) -> None:
    server = ModelServer()
    gate = await sequence_gate(site, server)
    async with h2_client(gate.port) as client:
        stream = client.request(PATH, method="POST", fields=[*FIELDS, ("grpc-encoding", "identity")], end=False)
        await say(client, stream, server, framed(7, start=True))
        await client.send(stream, b"\1" + framed(7, end=True)[1:] + framed(7, end=True), end=True)
        await client.answer(stream)  # the server takes no such message
    assert (await step(gate, 7)).status == 409  # the one behind it was read where it begins


@pytest.mark.parametrize("seed", range(6))
async def test_messages_may_be_cut_anywhere(site: Site, seed: int) -> None:
    dice = random.Random(seed)
    server = ModelServer()
    gate = await sequence_gate(site, server)
    open_: set[int | str] = set()
    keys: list[int | str] = [1, 2, 1 << 62, "a", "b" * 200]
    async with h2_client(gate.port) as client:
        stream = client.request(PATH, method="POST", fields=FIELDS, end=False)
        await say(client, stream, server, framed(0))  # the first may not go on with one that is not open
        for _ in range(12):
            batch = b""
            count = len(server.requests)
            for _ in range(dice.randint(1, 12)):
                key = dice.choice([0, *keys])
                start, end = dice.random() < 0.4, dice.random() < 0.3
                if key and start:
                    open_.add(key)
                if end:
                    open_.discard(key)
                batch += framed(key, start, end, dice.choice([0, 4, 4, 4, 100, 5000, 70_000, 200_000]))
                count += 1
            at = 0
            while at < len(batch):
                piece = dice.choice([1, 3, 6, 20, 100, 3000, 1 << 20])
                await client.send(stream, batch[at : at + piece], end=False)
                at += piece
                if dice.random() < 0.1:
                    await asyncio.sleep(0.002)
            await settle(lambda count=count: len(server.requests) == count, "the messages came")  # type: ignore[misc]
            assert opened(gate).get(0, 0) == len(open_)
        await client.send(stream, b"", end=True)
        await client.answer(stream)
    for key in keys:
        assert (await step(gate, key)).status == (200 if key in open_ else 409)


async def test_a_request_that_waits_when_a_reload_switches_sequences_off_is_as_good_as_any(site: Site) -> None:
    go = asyncio.Semaphore(0)

    async def held(request: Any, context: Any) -> Any:
        await go.acquire()
        return await echo(request, context)

    gate = await site.gate([await site.model(ModelServer(held))], cap=1, pool={**POOL, "queue": QUEUE})
    go.release()
    assert (await step(gate, 7, start=True)).status == 200
    first = asyncio.create_task(step(gate, 7))
    await settle(lambda: gate.in_flight() == 1, "the first has not begun")
    second = asyncio.create_task(step(gate, 7))
    await settle(lambda: waiting(gate) == 1, "the second does not wait")
    site.reload_pool(gate, sequence=None)
    go.release()
    go.release()
    assert [(await first).status, (await second).status] == [200, 200]


async def effort(gate: Gate, before: bytes, message: bytes) -> float:
    """Seconds of work that a message costs which comes byte by byte and is given up before its end."""
    data = struct.pack(">BI", 0, len(message) + 1) + message
    async with h2_client(gate.port) as client:
        stream = client.request(PATH, method="POST", fields=FIELDS, end=False)
        if before:
            await client.send(stream, before, end=False)
        await settle(lambda: gate.proxy.stats()["exchanges"] == 1, "the stream came")
        begun = time.process_time()
        client.raw(b"".join(frame(0, 0, stream, bytes([byte])) for byte in data))
        client.raw(frame(3, 0, stream, (8).to_bytes(4, "big")))
        await settle(lambda: gate.proxy.stats()["exchanges"] == 0, "the stream is over")
        return time.process_time() - begun


@pytest.mark.parametrize("before", [b"", framed(0)], ids=["first", "later"])
async def test_a_message_that_comes_byte_by_byte_is_not_read_over_and_over(site: Site, before: bytes) -> None:
    gate = await sequence_gate(site, ModelServer())
    one_field = b"\x0a\xff\xff\x03" + bytes(40_000)
    many_fields = b"\x10\x01" * 20_000
    least = await effort(gate, before, one_field)
    assert await effort(gate, before, many_fields) < 10 * least
