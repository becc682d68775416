"""Large messages are read to where they belong, whatever frames they come in and whatever comes between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import numpy as np
import pytest
from backend_process import infer_request
from raw_peer import INFER, STREAM, Peer, framed, messages

from lb.wire import grpc_service_pb2 as wire

MODEL = "echo_fp32"


def request(values: np.ndarray) -> bytes:
    return framed(infer_request(MODEL, ("x", "FP32", values)).SerializeToString())


def values(size: int, seed: int) -> np.ndarray:
    """Distinct values of about `size` bytes."""
    return np.random.default_rng(seed).standard_normal((max(size // 12, 1), 3)).astype("<f4")


def echoed(data: bytes) -> list[bytes]:
    return [wire.ModelInferResponse.FromString(message).raw_output_contents[0] for message in messages(data)]


@pytest.fixture
async def peer(server):
    made = await connected(server)
    yield made
    made.writer.close()


async def connected(server) -> Peer:
    """With the server's windows known."""
    made = await Peer(window=1 << 24).connect(server.targets[0])
    while made.h2.remote_settings.initial_window_size < 1 << 22 or made.h2.outbound_flow_control_window < 1 << 22:
        assert await made.take()
    return made


def frames(body: bytes, sizes: Iterator[int]) -> list[bytes]:
    found = []
    while body:
        size = next(sizes)
        found.append(body[:size])
        body = body[size:]
    return found


def same(size: int) -> Iterator[int]:
    while True:
        yield size


def mixed(choice: random.Random) -> Iterator[int]:
    while True:
        yield choice.choice([1, 5, 9, 100, 4096, 16383, 16384, 16384, 16384, 16384])


async def send(peer: Peer, choice: random.Random, chunk: int) -> None:
    """What waits to be sent, in pieces of up to `chunk` bytes."""
    data = peer.h2.data_to_send()
    while data:
        size = choice.randint(1, chunk)
        peer.writer.write(data[:size])
        await peer.writer.drain()
        data = data[size:]
        if choice.random() < 0.2:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("chunk", [3_000, 70_000, 1 << 22])
@pytest.mark.parametrize("size", [5, 1000, 4096, 8192, 16384, None])
async def test_frames_of_any_size(peer, size, chunk):
    choice = random.Random(f"{size} {chunk}")
    for seed in range(6):
        sent = values(300_000 + choice.randint(0, 40_000), seed)
        stream = peer.open(INFER)
        parts = frames(request(sent), same(size) if size else mixed(choice))
        for number, part in enumerate(parts):
            peer.h2.send_data(stream, part, end_stream=number == len(parts) - 1)
        await send(peer, choice, chunk)
        assert await peer.status(stream) == "0"
        assert echoed(peer.data[stream]) == [sent.tobytes()]


@pytest.mark.parametrize("seed", range(8))
async def test_what_comes_between(peer, seed):
    """Several large calls whose frames take turns, small calls, pings, padding, calls that are given up half way."""
    choice = random.Random(seed)
    waiting: dict[int, list[bytes]] = {}
    sent: dict[int, np.ndarray] = {}
    for number in range(30):
        stream = peer.open(INFER)
        sent[stream] = values(choice.choice([16, 70_000, 200_000]), number)
        waiting[stream] = frames(request(sent[stream]), mixed(choice) if choice.random() < 0.3 else same(16384))
        while len(waiting) >= 3 or (number == 29 and waiting):
            stream = choice.choice(list(waiting))
            for _ in range(choice.choice([1, 1, 3, 20])):
                part = waiting[stream].pop(0)
                padding = choice.randint(0, 9) if choice.random() < 0.1 and len(part) < 16000 else None
                peer.h2.send_data(stream, part, end_stream=not waiting[stream], pad_length=padding)
                if not waiting[stream]:
                    del waiting[stream]
                    break
            if choice.random() < 0.1:
                peer.h2.ping(b"12345678")
            if choice.random() < 0.02 and stream in waiting:
                peer.h2.reset_stream(stream, 8)
                del waiting[stream], sent[stream]
            if choice.random() < 0.3:
                await send(peer, choice, 300_000)
    await send(peer, choice, 300_000)
    for stream, expected in sent.items():
        assert await peer.status(stream) == "0"
        assert echoed(peer.data[stream]) == [expected.tobytes()]


async def test_a_stream_of_large_messages(peer):
    """The frames that follow a message are another message's."""
    choice = random.Random(3)
    stream = peer.open(STREAM)
    sent = [values(choice.choice([16, 70_000, 150_000]), number) for number in range(20)]
    for part in frames(b"".join(request(one) for one in sent), same(16384)):
        peer.h2.send_data(stream, part)
        if choice.random() < 0.1:
            await send(peer, choice, 1 << 20)
    peer.h2.end_stream(stream)
    await send(peer, choice, 1 << 20)
    assert await peer.status(stream) == "0"
    answers = [wire.ModelStreamInferResponse.FromString(message) for message in messages(peer.data[stream])]
    assert [answer.infer_response.raw_output_contents[0] for answer in answers] == [one.tobytes() for one in sent]


@pytest.mark.parametrize("how", ["reset", "close", "end"])
async def test_a_large_message_that_never_comes_whole(server, how):
    """Its memory goes with its call, and others go on."""
    other = await connected(server)
    for number in range(20):
        peer = await connected(server)
        body = request(values(200_000, number))
        stream = peer.open(INFER)
        peer.h2.send_data(stream, body[:16384])
        peer.h2.send_data(stream, body[16384 : 20_000 + 500 * number], end_stream=how == "end")
        if how == "reset":
            peer.h2.reset_stream(stream, 8)
        peer.flush()
        if how == "end":
            assert await peer.status(stream) == "13"
        elif how == "reset":
            second = peer.open(INFER)
            for part in frames(request(values(100_000, number)), same(16384)):
                peer.h2.send_data(second, part)
            peer.h2.end_stream(second)
            peer.flush()
            assert await peer.status(second) == "0"
        peer.writer.close()
    sent = values(60_000, 5)
    stream = other.open(INFER)
    for part in frames(request(sent), same(16384)):
        other.h2.send_data(stream, part)
    other.h2.end_stream(stream)
    other.flush()
    assert await other.status(stream) == "0"
    assert echoed(other.data[stream]) == [sent.tobytes()]
    other.writer.close()
