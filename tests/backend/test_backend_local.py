"""Messages in shared memory: a model server and its peers over a Unix socket, honest and hostile."""

from __future__ import annotations

import fcntl
import mmap
import os
import random
import signal
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import backend_models
import grpc
import numpy as np
import pytest
from backend_process import Backend, infer_request, until
from local_peer import (
    ACK,
    ARENA,
    F_GET_SEALS,
    FUTURE_WRITE,
    LOCAL_DATA,
    LOCAL_SETTING,
    RELEASE,
    SEAL,
    SHRINK,
    SIZE,
    VERSION,
    Arena,
    LocalPeer,
)
from onnx import helper

from lb.wire import grpc_service_pb2 as wire

GOAWAY, RST_STREAM, PING, UNKNOWN = 7, 3, 6, 0xFA
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR = 1, 3, 5, 6
INFER = "/inference.GRPCInferenceService/ModelInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"


@pytest.fixture(scope="module")
def server() -> Iterator[Backend]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "models"
        for datatype in ("FP32", "INT64", "BYTES", "BOOL", "UINT8", "FP16"):
            backend_models.echo(root, datatype)
        backend_models.save(
            root,
            "two",
            [helper.make_node("Abs", ["x"], ["y"]), helper.make_node("Neg", ["i"], ["j"])],
            [("x", "FP32", ("N", 3)), ("i", "INT64", ("N", 3))],
            [("y", "FP32", ("N", 3)), ("j", "INT64", ("N", 3))],
        )
        backend_models.pick(root)
        with Backend(root, "--threads", "1", listen=(f"unix:{folder}/s", "127.0.0.1:0")) as backend:
            yield backend.wait_ready()


@pytest.fixture
def peer(server: Backend) -> Iterator[LocalPeer]:
    with LocalPeer.connect(server.targets[0]) as peer:
        yield peer


def floats(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).standard_normal((rows, 3)).astype(np.float32)


def message(model: str, *arrays: tuple[str, str, np.ndarray]) -> bytes:
    made: bytes = infer_request(model, *arrays).SerializeToString()
    return made


def outputs(answer: bytes) -> list[bytes]:
    return list(wire.ModelInferResponse.FromString(answer).raw_output_contents)


def descriptors(server: Backend) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def maps(server: Backend) -> int:
    return Path(f"/proc/{server.process.pid}/maps").read_text().count("arena")


def still_serves(server: Backend) -> None:
    with grpc.insecure_channel(server.targets[1]) as channel:
        call = channel.unary_unary(INFER)
        rows = floats(4)
        assert outputs(call(message("echo_fp32", ("x", "FP32", rows)), timeout=30)) == [rows.tobytes()]


@pytest.fixture
def nothing_left(server: Backend) -> Iterator[None]:
    """What a test opens on the server is closed with its connection."""
    still_serves(server)
    before = descriptors(server), maps(server)
    yield
    still_serves(server)
    until(
        lambda: descriptors(server) <= before[0] and maps(server) <= before[1],
        "the server keeps descriptors, or memory",
    )


def test_only_a_unix_socket_is_asked(server: Backend) -> None:
    with LocalPeer.connect(server.targets[0]) as peer:
        assert peer.settings()[LOCAL_SETTING] == VERSION
    host, _, port = server.targets[1].rpartition(":")
    with socket.create_connection((host, int(port))) as sock:
        peer = LocalPeer(sock)
        peer.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        assert LOCAL_SETTING not in peer.settings()


@pytest.mark.usefixtures("nothing_left")
def test_a_message_goes_there_and_back(peer: LocalPeer) -> None:
    peer.open_local()
    assert peer.theirs is not None
    assert fcntl.fcntl(peer.fds[0], F_GET_SEALS) & (SHRINK | SEAL | FUTURE_WRITE) == SHRINK | SEAL | FUTURE_WRITE
    for rows in (1, 5000, 20_000, 400_000):
        x = floats(rows)
        answer = peer.answer(peer.ask(INFER, message("echo_fp32", ("x", "FP32", x)), 4096))
        assert outputs(answer.body) == [x.tobytes()]
        assert bool(answer.by_arena) == (x.nbytes >= 64 * 1024)
        assert struct.unpack("!I", peer.take(RELEASE).payload) == (4096,)
    assert not peer.over


@pytest.mark.usefixtures("nothing_left")
def test_no_one_may_write_into_the_servers_memory(peer: LocalPeer) -> None:
    peer.open_local()
    with pytest.raises(PermissionError):
        mmap.mmap(peer.fds[0], SIZE)
    with pytest.raises(PermissionError):
        os.pwrite(peer.fds[0], b"x", 0)


REQUESTS = {
    "INT64, which may be indices": message("echo_int64", ("x", "INT64", np.arange(60_000).reshape(-1, 3))),
    "BOOL of other bytes": message("echo_bool", ("x", "BOOL", np.full((40_000, 3), 7, np.uint8))),
    "UINT8": message("echo_uint8", ("x", "UINT8", np.arange(120_000).astype(np.uint8).reshape(-1, 3))),
    "FP16": message("echo_fp16", ("x", "FP16", np.ones((40_000, 3), np.float16))),
    "one that stays, one that does not": message(
        "two", ("x", "FP32", floats(9000)), ("i", "INT64", np.arange(27_000).reshape(-1, 3))
    ),
    "a small one behind": message("two", ("x", "FP32", floats(1)), ("i", "INT64", np.arange(3).reshape(-1, 3))),
    "text": infer_request("echo_bytes").SerializeToString(),
    "an unknown model": message("nobody", ("x", "FP32", floats(30_000))),
    "a wrong name": message("echo_fp32", ("z", "FP32", floats(30_000))),
    "a wrong size": message("echo_fp32", ("x", "FP32", floats(30_000)))[:-1],
    "no message of the protocol": os.urandom(100_000),
    "nothing": b"",
}
_TEXT = wire.ModelInferRequest(model_name="echo_bytes")
_TEXT.inputs.add(name="x", datatype="BYTES", shape=[3000, 3])
_TEXT.raw_input_contents.append(b"".join(struct.pack("<I", 30) + b"t" * 30 for _ in range(9000)))
REQUESTS["text"] = _TEXT.SerializeToString()
_TYPED = wire.ModelInferRequest(model_name="echo_fp32", id="an id")
_TYPED.inputs.add(name="x", datatype="FP32", shape=[10_000, 3]).contents.fp32_contents.extend([1.5] * 30_000)
REQUESTS["typed contents"] = _TYPED.SerializeToString()
_FIRST = infer_request("echo_fp32", ("x", "FP32", floats(30_000)))
REQUESTS["tensors before their names"] = (
    wire.ModelInferRequest(raw_input_contents=_FIRST.raw_input_contents).SerializeToString()
    + wire.ModelInferRequest(model_name="echo_fp32", inputs=_FIRST.inputs).SerializeToString()
)
_EXTRA = infer_request("echo_fp32", ("x", "FP32", floats(30_000)), id="7")
_EXTRA.outputs.add(name="y").parameters["classification"].int64_param = 2
REQUESTS["more than tensors"] = _EXTRA.SerializeToString()


@pytest.mark.parametrize("case", REQUESTS)
def test_the_answer_is_the_same_either_way(server: Backend, peer: LocalPeer, case: str) -> None:
    """By DATA frames, and from the memory."""
    with LocalPeer.connect(server.targets[0]) as plain:
        expected = plain.answer(plain.ask_plain(INFER, REQUESTS[case]))
    peer.open_local()
    assert peer.answer(peer.ask(INFER, REQUESTS[case], 64 * 33)).body == expected.body
    # In two pieces, which are put together.
    body = b"\0" + struct.pack("!I", len(REQUESTS[case])) + REQUESTS[case]
    assert peer.arena is not None
    peer.arena.memory[100 : 100 + len(body)] = body
    stream = peer.call(INFER)
    half = max(1, len(body) // 2)
    peer.local(stream, 100, half, flags=0)
    peer.local(stream, 100 + half, len(body) - half)
    assert peer.answer(stream).body == expected.body


def test_a_call_of_python_takes_its_message_from_there(peer: LocalPeer) -> None:
    peer.open_local()
    assert wire.ServerLiveResponse.FromString(peer.answer(peer.ask(LIVE, b"")).body).live


@pytest.mark.usefixtures("nothing_left")
def test_a_cancelled_call_gives_its_memory_back(peer: LocalPeer) -> None:
    peer.open_local()
    for turn in range(20):
        stream = peer.ask(INFER, message("echo_fp32", ("x", "FP32", floats(100_000))), turn * 2_000_000)
        peer.send(bytes([0, 0, 4, RST_STREAM, 0]) + struct.pack("!II", stream, 8))
    given = {struct.unpack("!I", peer.take(RELEASE).payload)[0] for _ in range(20)}
    assert given == {turn * 2_000_000 for turn in range(20)}


@pytest.mark.usefixtures("nothing_left")
def test_memory_that_is_never_given_back_ends_in_the_socket(peer: LocalPeer) -> None:
    peer.open_local()
    x = floats(800_000)  # 9.6 MB: six of them fit
    ways = []
    for _ in range(9):
        answer = peer.answer(peer.ask(INFER, message("echo_fp32", ("x", "FP32", x))), release=False)
        assert outputs(answer.body) == [x.tobytes()]
        ways.append(answer.by_arena)
    assert [bool(places) for places in ways] == [True] * 6 + [False] * 3
    peer.release(ways[2][0][0])
    assert peer.answer(peer.ask(INFER, message("echo_fp32", ("x", "FP32", x)))).by_arena == ways[2]


def end_code(peer: LocalPeer) -> int:
    return next(one for one in peer.wait_over() if one.kind == GOAWAY).code


def test_what_is_not_inside_ends_the_connection(server: Backend, nothing_left: None) -> None:
    for offset, size in ((SIZE, 1), (SIZE - 10, 11), (0xFFFFFFFF, 0xFFFFFFFF), (0, SIZE + 1), (8, 0), (1, 0xFFFFFFFF)):
        with LocalPeer.connect(server.targets[0]).open_local() as peer:
            peer.local(peer.call(INFER), offset, size)
            assert end_code(peer) == FLOW_CONTROL_ERROR, (offset, size)


def test_more_than_the_memory_at_once_ends_the_connection(server: Backend, nothing_left: None) -> None:
    """The same bytes over and over: what is read in place counts until it is given back."""
    with LocalPeer.connect(server.targets[0]).open_local(Arena(1_300_000)) as peer:
        body = message("echo_fp32", ("x", "FP32", floats(100_000)))
        assert peer.arena is not None
        peer.arena.memory[: len(body) + 5] = b"\0" + struct.pack("!I", len(body)) + body
        asked = b""
        for stream in (1, 3):
            peer.call(INFER)
            asked += bytes([0, 0, 8, LOCAL_DATA, 1]) + struct.pack("!III", stream, 0, len(body) + 5)
        peer.send(asked)
        assert end_code(peer) == FLOW_CONTROL_ERROR


def frame_of(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


BROKEN = {
    "release of what was never given": (frame_of(RELEASE, 0, 0, struct.pack("!I", 4096)), PROTOCOL_ERROR),
    "release outside": (frame_of(RELEASE, 0, 0, struct.pack("!I", 0xFFFFFFFF)), PROTOCOL_ERROR),
    "release of a stream": (frame_of(RELEASE, 0, 1, struct.pack("!I", 0)), PROTOCOL_ERROR),
    "release without a place": (frame_of(RELEASE, 0, 0), FRAME_SIZE_ERROR),
    "another memory": (frame_of(ARENA, 0, 0), PROTOCOL_ERROR),
    "mapped twice": (frame_of(ARENA, ACK, 0), PROTOCOL_ERROR),
    "memory with a payload": (frame_of(ARENA, 0, 0, b"1234"), FRAME_SIZE_ERROR),
    "memory of a stream": (frame_of(ARENA, 0, 3), PROTOCOL_ERROR),
    "data of no stream": (frame_of(LOCAL_DATA, 0, 0, bytes(8)), PROTOCOL_ERROR),
    "data of a stream that nobody opened": (frame_of(LOCAL_DATA, 0, 99, struct.pack("!II", 0, 8)), PROTOCOL_ERROR),
    "data without a place": (frame_of(LOCAL_DATA, 0, 1, bytes(7)), FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_frame_ends_the_connection(server: Backend, nothing_left: None, case: str) -> None:
    sent, code = BROKEN[case]
    with LocalPeer.connect(server.targets[0]).open_local() as peer:
        peer.send(sent)
        assert end_code(peer) == code


def test_a_block_is_given_back_once(server: Backend, nothing_left: None) -> None:
    with LocalPeer.connect(server.targets[0]).open_local() as peer:
        answer = peer.answer(peer.ask(INFER, message("echo_fp32", ("x", "FP32", floats(30_000)))), release=False)
        (offset, _size) = answer.by_arena[0]
        peer.release(offset + 1)
        assert end_code(peer) == PROTOCOL_ERROR
    with LocalPeer.connect(server.targets[0]).open_local() as peer:
        answer = peer.answer(peer.ask(INFER, message("echo_fp32", ("x", "FP32", floats(30_000)))), release=False)
        peer.release(answer.by_arena[0][0])
        peer.release(answer.by_arena[0][0])
        assert end_code(peer) == PROTOCOL_ERROR


def test_data_without_memory_ends_the_connection(server: Backend, nothing_left: None) -> None:
    with LocalPeer.connect(server.targets[0]) as peer:
        peer.local(peer.call(INFER), 0, 8)
        assert end_code(peer) == PROTOCOL_ERROR
    with LocalPeer.connect(server.targets[0]) as peer:
        peer.send(frame_of(RELEASE, 0, 0, bytes(4)))
        assert end_code(peer) == PROTOCOL_ERROR
    with LocalPeer.connect(server.targets[0]) as peer:
        peer.send(frame_of(ARENA, ACK, 0))
        assert end_code(peer) == PROTOCOL_ERROR


def test_data_behind_the_end_of_a_stream(server: Backend, nothing_left: None) -> None:
    with LocalPeer.connect(server.targets[0]).open_local() as peer:
        stream = peer.ask(INFER, message("pick", ("index", "INT64", np.zeros(1, np.int64))))
        peer.local(stream, 0, 8)
        while not any(one.kind in (GOAWAY, RST_STREAM) for one in peer.frames):
            assert peer.read()
        found = next(one for one in peer.frames if one.kind in (GOAWAY, RST_STREAM))
        assert (found.code if found.kind == GOAWAY else found.number) == STREAM_CLOSED


def file_of_tmpfs() -> int:
    fd = os.open("/dev/shm", os.O_RDWR | os.O_TMPFILE)
    os.ftruncate(fd, SIZE)
    return fd


def plain_file() -> int:
    fd, path = tempfile.mkstemp()
    os.unlink(path)
    os.ftruncate(fd, SIZE)
    return fd


def sealed(size: int, seals: int) -> int:
    arena = Arena(size, seals) if size else None
    if arena is None:
        fd = os.memfd_create("test-arena", os.MFD_ALLOW_SEALING)
        fcntl.fcntl(fd, 1033, seals)
        return fd
    arena.memory.close()
    return arena.fd


BAD_MEMORY = {
    "a memory that may shrink": lambda: sealed(SIZE, 0),
    "a memory that may shrink, though it may not grow": lambda: sealed(SIZE, 4),
    "an empty memory": lambda: sealed(0, SHRINK),
    "a memory of 2 GiB": lambda: sealed(2 << 30, SHRINK),
    "a file": plain_file,
    "a file of tmpfs": file_of_tmpfs,
    "a folder": lambda: os.open("/", os.O_RDONLY),
    "a pipe": lambda: os.pipe()[0],
    "nothing": lambda: -1,
}


@pytest.mark.parametrize("case", BAD_MEMORY)
def test_other_memory_is_not_used_and_calls_go_on(server: Backend, nothing_left: None, case: str) -> None:
    fd = BAD_MEMORY[case]()
    with LocalPeer.connect(server.targets[0]) as peer:
        peer.settings()
        peer.send(frame_of(ARENA, 0, 0), *([fd] if fd >= 0 else []))
        x = floats(40_000)
        assert outputs(peer.answer(peer.ask_plain(INFER, message("echo_fp32", ("x", "FP32", x)))).body) == [x.tobytes()]
        assert not [one for one in peer.frames if one.kind == ARENA]
        assert peer.fds == []
    if fd >= 0:
        os.close(fd)
    until(lambda: "a client's shared memory cannot be used: " in server.log, "it is not in the log")


def test_descriptors_that_nobody_asked_for_are_closed(server: Backend, nothing_left: None) -> None:
    arena = Arena()
    with LocalPeer.connect(server.targets[0]) as peer:
        for _ in range(50):
            peer.send(frame_of(PING, 0, 0, bytes(8)), arena.fd, arena.fd, arena.fd)
        peer.take(PING)
        peer.open_local(arena)
        for _ in range(50):
            peer.send(frame_of(PING, 0, 0, bytes(8)), 0, 1, 2)
        x = floats(40_000)
        assert outputs(peer.answer(peer.ask(INFER, message("echo_fp32", ("x", "FP32", x)))).body) == [x.tobytes()]


def test_what_waits_behind_a_descriptor_is_read(server: Backend, nothing_left: None) -> None:
    """One read of a socket ends behind a descriptor, whatever else is there."""
    arena = Arena()
    with LocalPeer.connect(server.targets[0]) as peer:
        server.signal(signal.SIGSTOP)
        try:
            peer.send(frame_of(UNKNOWN, 0, 0), arena.fd)  # without an answer: writing one would have it look again
            peer.send(frame_of(PING, 0, 0, bytes(8)))
        finally:
            server.signal(signal.SIGCONT)
        peer.take(PING)
    arena.close()


def test_a_peer_that_dies_in_between(server: Backend, nothing_left: None) -> None:
    for turn in range(12):
        peer = LocalPeer.connect(server.targets[0])
        if turn % 3 == 0:
            peer.send(frame_of(PING, 0, 0, bytes(8)), 0)
        if turn % 3 == 1:
            arena = Arena()
            peer.send(frame_of(ARENA, 0, 0), arena.fd)
            arena.close()
        if turn % 3 == 2:
            peer.open_local()
            peer.ask(INFER, message("echo_fp32", ("x", "FP32", floats(400_000))))
        peer.close()


def test_memory_that_changes_while_it_is_read(server: Backend, nothing_left: None) -> None:
    """Lengths, names, texts, indices: whatever the peer does to them, others are served."""
    bodies = [
        REQUESTS["text"],
        REQUESTS["INT64, which may be indices"],
        REQUESTS["one that stays, one that does not"],
        message("pick", ("index", "INT64", np.zeros(200_000, np.int64))),
        message("echo_fp32", ("x", "FP32", floats(30_000))),
    ]
    with LocalPeer.connect(server.targets[0]).open_local() as peer:
        arena = peer.arena
        assert arena is not None
        stop = threading.Event()

        def spoil() -> None:
            chance = random.Random(5)
            while not stop.is_set():
                for _ in range(200):
                    at = chance.choice((chance.randrange(200), chance.randrange(1_700_000)))
                    was = arena.memory[at]
                    arena.memory[at] = chance.choice((0xFF, 0, 0x7F, was ^ 1))
                    arena.memory[at] = was

        spoiler = threading.Thread(target=spoil)
        spoiler.start()
        try:
            for turn in range(300):
                peer.answer(peer.ask(INFER, bodies[turn % len(bodies)]))
        finally:
            stop.set()
            spoiler.join()


def test_messages_that_are_spoilt(server: Backend, nothing_left: None) -> None:
    chance = random.Random(11)
    with LocalPeer.connect(server.targets[0]).open_local() as peer:
        for _turn in range(400):
            body = bytearray(REQUESTS[chance.choice(list(REQUESTS))])
            for _ in range(chance.randrange(1, 6)):
                if body:
                    at = chance.choice((chance.randrange(80), len(body) - 1))
                    body[min(len(body) - 1, at)] = chance.randrange(256)
            del body[len(body) - chance.choice((0, 0, 1, 5000)) :]
            peer.answer(peer.ask(INFER, bytes(body)))
