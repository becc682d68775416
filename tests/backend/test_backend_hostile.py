"""Clients of gRPC that no client's library is like: the server bounds what it keeps for them, and others go on."""

from __future__ import annotations

import asyncio
import gzip
import struct
from typing import Any

import backend_models
import grpc
import h2.settings
import numpy as np
import pytest
from backend_process import Backend, infer_request
from grpc_health.v1 import health_pb2, health_pb2_grpc
from raw_peer import INFER, LIVE, STREAM, Peer, framed, messages

from lb.wire import grpc_service_pb2 as wire


def image(rows: int = 1) -> bytes:
    return infer_request("digits", ("image", "FP32", np.zeros((rows, 64), "f4"))).SerializeToString()


@pytest.fixture
async def peer(server):
    made = await Peer().connect(server.targets[0])
    yield made
    made.writer.close()


async def good(peer: Peer) -> None:
    stream = peer.open(INFER)
    peer.h2.send_data(stream, framed(image()), end_stream=True)
    peer.flush()
    assert await peer.status(stream) == "0"


async def test_calls_that_are_given_up_do_not_end_the_connection(peer):
    for _ in range(8000):
        stream = peer.open(INFER, grpc_timeout="1m")
        peer.h2.reset_stream(stream, 8)
    peer.flush()
    await good(peer)


async def test_a_stream_whose_answers_are_not_read_is_not_read_either(server):
    peer = await Peer(window=0).connect(server.targets[0])
    stream = peer.open(STREAM)
    rows = np.random.default_rng(1).standard_normal((4096, 3)).astype("<f4")
    message = infer_request("echo_fp32", ("x", "FP32", rows)).SerializeToString()
    piece, sent, data = framed(message), 0, b""
    while sent < 64 << 20:
        data += piece
        room = min(peer.h2.local_flow_control_window(stream), len(data))
        while room:
            part = min(room, peer.h2.max_outbound_frame_size)
            peer.h2.send_data(stream, data[:part])
            data, room, sent = data[part:], room - part, sent + part
        peer.flush()
        if len(data) > 1 << 20 and not await peer.take(1):
            break
    assert sent < 16 << 20, "it took everything"
    assert not peer.over
    await asyncio.sleep(0)
    peer.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 24})
    peer.flush()
    expected = sent // len(piece)
    while len(peer.data.get(stream, b"")) < expected * len(rows.tobytes()):
        assert await peer.take()
    while len(messages(peer.data[stream])) < expected:
        assert await peer.take()
    answers = [wire.ModelStreamInferResponse.FromString(one) for one in messages(peer.data[stream])[:expected]]
    assert {answer.infer_response.raw_output_contents[0] for answer in answers} == {rows.tobytes()}
    peer.writer.close()


async def test_a_client_that_takes_no_answers_is_refused_more(server):
    """Calls beyond a quarter of a gibibyte of answers are refused; whoever takes them goes on."""
    peer = await Peer(window=0).connect(server.targets[0])
    peer.h2.increment_flow_control_window(1 << 30)
    rows = np.zeros((1 << 20, 3), "<f4")
    message = framed(infer_request("echo_fp32", ("x", "FP32", rows)).SerializeToString())
    streams: list[int] = []
    while not any(stream in peer.ended for stream in streams) and len(streams) < 60:
        stream = peer.open(INFER)
        streams.append(stream)
        sent = 0
        while sent < len(message) and stream not in peer.ended:
            left = len(message) - sent
            room = min(peer.h2.local_flow_control_window(stream), peer.h2.max_outbound_frame_size, left)
            if room:
                peer.h2.send_data(stream, message[sent : sent + room], end_stream=room == left)
                sent += room
                peer.flush()
            if (not room or (left - room) % (1 << 20) < 1 << 14) and not await peer.take(0.05):
                assert not peer.over
    assert 18 < len(streams) < 40
    assert streams[-1] not in peer.heads  # refused: another server may be asked
    for stream in streams[:-1]:
        peer.h2.increment_flow_control_window(1 << 25, stream)
        peer.flush()
        assert await peer.status(stream) == "0"
        peer.data.pop(stream)
    peer.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 20})
    await good(peer)
    peer.writer.close()


async def test_messages_that_are_refused_wait_for_a_slow_one_in_bounds(server, second):
    peer = await Peer().connect(server.targets[0])
    stream = peer.open(STREAM)
    slow = infer_request("slow", ("count", "INT64", np.array(second, "<i8"))).SerializeToString()
    peer.h2.send_data(stream, framed(slow))
    data = framed(b"") * 3000
    sent = 0
    for _ in range(600):
        room = peer.h2.local_flow_control_window(stream)
        if room < len(data):
            peer.flush()
            if not await peer.take(0.2):
                break
            continue
        peer.h2.send_data(stream, data)
        sent += len(data)
    assert sent < 9 << 20
    await peer.take(0.01)
    peer.writer.close()


async def test_a_flood_of_empty_messages_lets_others_have_their_turn(server):
    peer = await Peer().connect(server.targets[0])
    stream = peer.open(STREAM)
    count = 20_000
    data = framed(b"") * count
    for at in range(0, len(data), 16_000):
        while peer.h2.local_flow_control_window(stream) < 16_000:
            await peer.take()
        peer.h2.send_data(stream, data[at : at + 16_000])
    peer.flush()
    await peer.writer.drain()
    other = await Peer().connect(server.targets[0])
    live = other.open(LIVE)
    other.h2.send_data(live, framed(b""), end_stream=True)
    other.flush()
    assert await other.status(live) == "0"
    while await peer.take(0.001):
        pass
    assert len(messages(peer.data.get(stream, b""))) < count
    peer.h2.end_stream(stream)
    peer.flush()
    assert await peer.status(stream) == "0"
    assert len(messages(peer.data[stream])) == count
    for made in (peer, other):
        made.writer.close()


@pytest.mark.parametrize(
    ("data", "fields", "status"),
    [
        (b"", {}, "13"),
        (framed(b"")[:3], {}, "13"),
        (framed(image())[:-1], {}, "13"),
        (framed(image()) * 2, {}, "13"),
        (framed(image(), flag=2), {}, "13"),
        (framed(image(), flag=1), {}, "12"),
        (framed(image(), flag=1), {"grpc_encoding": "\xff"}, "12"),
        (framed(image(), flag=1), {"grpc_encoding": "gzip"}, "3"),
        (framed(gzip.compress(bytes(65 << 20)), flag=1), {"grpc_encoding": "gzip"}, "3"),
        (struct.pack(">BI", 0, 0xFFFFFFFF), {}, "8"),
        (framed(b"\xff" * 20), {}, "3"),
        (framed(image()), {"content_type": "application/grpc-web"}, "415"),
        (framed(image()), {"content_type": "application/json"}, "415"),
        (framed(image()), {"content_type": "application/grpc+proto"}, "0"),
        (framed(image()), {"grpc_timeout": "nonsense"}, "0"),
    ],
)
async def test_a_unary_call_that_is_none_has_its_status(peer, data, fields, status):
    stream = peer.open(INFER, **fields)
    while True:
        part, data = data[:16_000], data[16_000:]
        while peer.h2.local_flow_control_window(stream) < len(part):
            peer.flush()
            assert await peer.take()
        peer.h2.send_data(stream, part, end_stream=not data)
        if not data:
            break
    peer.flush()
    assert await peer.status(stream) == status
    await good(peer)


async def test_a_message_octet_by_octet(peer):
    stream = peer.open(INFER)
    for octet in framed(image()):
        peer.h2.send_data(stream, bytes([octet]))
    peer.h2.send_data(stream, b"", end_stream=True)
    peer.flush()
    assert await peer.status(stream) == "0"


async def test_a_deadline_ends_a_call_whose_message_never_ends(peer):
    stream = peer.open(INFER, grpc_timeout="50m")
    peer.h2.send_data(stream, framed(image())[:-1])
    peer.flush()
    assert await peer.status(stream) == "4"
    await good(peer)


async def test_connections_that_end_anywhere_leave_nothing(server):
    body = framed(infer_request("slow", ("count", "INT64", np.array(20_000, "<i8"))).SerializeToString())
    for cut in range(0, len(body) + 1, 7):
        made = await Peer().connect(server.targets[0])
        for path in (INFER, STREAM, INFER):
            stream = made.open(path)
            made.h2.send_data(stream, body[:cut], end_stream=cut == len(body))
        made.flush()
        await made.writer.drain()
        made.writer.transport.abort()
    last = await Peer().connect(server.targets[0])
    await good(last)
    last.writer.close()


async def test_who_watches_does_not_hold_up_the_end(tmp_path):
    backend_models.scale(tmp_path, 2.0, version=1)
    with Backend(tmp_path, "--grace", "5m") as backend:
        backend.wait_ready()
        async with grpc.aio.insecure_channel(backend.targets[0]) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            watches: list[Any] = [
                stub.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("", "nothing that is there")
            ]
            for watch in watches:
                await watch.read()
            backend.signal()
            assert (await watches[0].read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            for watch in watches:
                assert await watch.read() is grpc.aio.EOF
        assert await asyncio.to_thread(backend.wait) == 0


def field(number: int, data: bytes) -> bytes:
    size, head = len(data), bytearray([number << 3 | 2])
    while size >= 0x80:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*head, size]) + data


async def send(peer: Peer, stream: int, data: bytes) -> None:
    """All that the client says, as fast as the server takes it."""
    while data:
        room = min(peer.h2.local_flow_control_window(stream), peer.h2.max_outbound_frame_size, len(data))
        if not room:
            peer.flush()
            assert await peer.take()
            continue
        peer.h2.send_data(stream, data[:room], end_stream=room == len(data))
        data = data[room:]
    peer.flush()


MANY = 6 << 20  # bytes

BOMBS = [
    ("64 dimensions", field(5, field(3, b"\x01" * MANY))),
    ("64 dimensions", field(5, b"\x18\x01" * (MANY // 2))),
    ("500 inputs", b"\x2a\x00" * (MANY // 2)),
    ("500 outputs", b"\x32\x00" * (MANY // 2)),
    ("500 raw_input_contents", b"\x3a\x00" * (MANY // 2)),
    ("2048 parameters", b"\x22\x00" * (MANY // 2)),
    ("2048 parameters", field(5, b"\x22\x00" * (MANY // 2))),
    ("16384 fields", b"\x78\x00" * (MANY // 2)),
    ("16384 fields", field(5, field(5, b"\x10\x01" * (MANY // 2)))),
    ("16384 fields", field(4, field(2, b"\x08\x01" * (MANY // 2)))),
    ("131072 elements", field(5, field(5, b"\x42\x00" * (MANY // 2)))),
    ("malformed", b"\x7b" + b"\x2a\x00" * (MANY // 2)),
]


@pytest.mark.parametrize("path", [INFER, STREAM])
@pytest.mark.parametrize(("counted", "bomb"), BOMBS)
async def test_a_message_that_has_too_much_is_refused_while_others_are_answered(server, path, counted, bomb):
    peer = await Peer().connect(server.targets[0])
    other = await Peer().connect(server.targets[0])
    stream = peer.open(path)
    await send(peer, stream, framed(field(1, b"digits") + bomb))
    await peer.writer.drain()
    await good(other)
    status = await peer.status(stream)
    if path == INFER:
        assert status == "3"
        said = peer.heads[stream]["grpc-message"]
    else:
        said = wire.ModelStreamInferResponse.FromString(messages(peer.data[stream])[0]).error_message
    assert counted in said
    await good(other)
    for made in (peer, other):
        made.writer.close()


async def test_typed_contents_of_16_mib_are_taken(server):
    peer = await Peer().connect(server.targets[0])
    values = np.arange(3 * 1_400_000, dtype="<f4")
    request = wire.ModelInferRequest(model_name="echo_fp32")
    given = request.inputs.add(name="x", datatype="FP32", shape=[len(values) // 3, 3])
    given.contents.fp32_contents.extend(values)
    stream = peer.open(INFER)
    await send(peer, stream, framed(request.SerializeToString()))
    assert await peer.status(stream) == "0"
    answer = wire.ModelInferResponse.FromString(messages(peer.data[stream])[0])
    assert answer.raw_output_contents[0] == values.tobytes()
    peer.writer.close()


async def test_a_large_message_of_another_method_is_refused(peer):
    stream = peer.open(LIVE)
    peer.h2.send_data(stream, struct.pack(">BI", 0, 1 << 20))
    peer.flush()
    assert await peer.status(stream) == "8"
    await good(peer)
