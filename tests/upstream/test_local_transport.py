"""Local transport towards an endpoint that does as a test says (docs/adr/local-transport.md)."""

from __future__ import annotations

import asyncio
import gc
import mmap
import os
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from grpc_peers import SERVICE, channel_to, start
from h2_frames import DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PREFACE, SETTINGS, frame, head
from local_peer import ACK, ARENA, LOCAL_DATA, LOCAL_SETTING, RELEASE, SHRINK, SIZE, VERSION, Arena, Ended, LocalPeer
from waiting import until

from lb.upstream.connections.grpc_py import unary
from lb.upstream.connections.http2 import Http2Channel

Script = Callable[[LocalPeer], None]
LARGE = os.urandom(1_000_000)
PING = 6
ANSWER_HEAD = [(b":status", b"200"), (b"content-type", b"application/grpc")]
TRAILERS = [(b"grpc-status", b"0")]


def framed(message: bytes) -> bytes:
    return b"\0" + struct.pack("!I", len(message)) + message


class Endpoint:
    """A listening Unix socket. Each connection is served by `script`; `problems` are its failures."""

    def __init__(self, folder: Path, script: Script) -> None:
        self.address = f"unix:{folder}/s"
        self.script = script
        self.problems: list[BaseException] = []
        self.peers: list[LocalPeer] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{folder}/s")
        self._listener.listen()
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            peer = LocalPeer(sock, client=False)
            self.peers.append(peer)
            thread = threading.Thread(target=self._serve, args=(peer,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, peer: LocalPeer) -> None:
        try:
            while len(peer.data) < len(PREFACE):
                peer.data += peer.sock.recv(len(PREFACE) - len(peer.data))
            assert peer.data == PREFACE
            peer.data = b""
            self.script(peer)
            peer.wait_over()
        except (ConnectionError, Ended):
            pass
        except BaseException as problem:
            self.problems.append(problem)
        finally:
            peer.sock.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        for thread in self._threads:
            thread.join()
        for peer in self.peers:
            peer.close()
        assert self.problems == []


@pytest.fixture
def endpoint() -> Iterator[Callable[[Script], Endpoint]]:
    made: list[Endpoint] = []
    with tempfile.TemporaryDirectory() as folder:

        def make(script: Script) -> Endpoint:
            made.append(Endpoint(Path(folder), script))
            return made[-1]

        yield make
        for one in made:
            one.close()


def settings(version: int = VERSION) -> bytes:
    return frame(SETTINGS, 0, 0, struct.pack("!HIHI", LOCAL_SETTING, version, 4, 1 << 24)) + frame(
        8, 0, 0, struct.pack("!I", 1 << 30)
    )


def take_arena(peer: LocalPeer) -> None:
    """The client's."""
    assert peer.take(ARENA).flags == 0
    assert len(peer.fds) == 1
    peer.theirs = mmap.mmap(peer.fds[0], SIZE, mmap.MAP_SHARED, mmap.PROT_READ)
    peer.send(frame(ARENA, ACK, 0))


def agree(peer: LocalPeer) -> None:
    peer.send(settings())
    take_arena(peer)
    peer.arena = Arena()
    peer.send(frame(ARENA, 0, 0), peer.arena.fd)
    assert peer.take(ARENA).flags == ACK


class Request:
    """The next one of a connection, as it came."""

    def __init__(self, peer: LocalPeer) -> None:
        self.stream = peer.take(HEADERS).stream
        self.body = b""
        self.places: list[int] = []
        self.ended = False
        while not self.ended:
            for one in [f for f in peer.frames if f.stream == self.stream]:
                peer.frames.remove(one)
                if one.kind == LOCAL_DATA:
                    offset, size = struct.unpack("!II", one.payload)
                    assert peer.theirs is not None
                    self.body += peer.theirs[offset : offset + size]
                    assert (offset + size) % 64 == 0
                    self.places.append(offset)
                elif one.kind == DATA:
                    self.body += one.payload
                self.ended = self.ended or bool(one.flags & END_STREAM)
            if not self.ended and not peer.read():
                raise Ended


def answer(peer: LocalPeer, stream: int, message: bytes, offset: int | None = None) -> None:
    """By DATA, or from a place in the arena."""
    peer.send(head(stream, ANSWER_HEAD))
    body = framed(message)
    if offset is None:
        for at in range(0, len(body), 16384):
            peer.send(frame(DATA, 0, stream, body[at : at + 16384]))
    else:
        assert peer.arena is not None
        peer.arena.memory[offset : offset + len(body)] = body
        peer.local(stream, offset, len(body), flags=0)
    peer.send(head(stream, TRAILERS, END_HEADERS | END_STREAM))


async def echo(channel: Http2Channel, message: bytes = LARGE) -> None:
    assert await asyncio.wait_for(unary(channel, SERVICE + b"Echo", message), 30) == (0, "", message)


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


async def test_messages_go_there_and_back(endpoint: Callable[[Script], Endpoint]) -> None:
    ways: list[tuple[int, bool]] = []

    def script(peer: LocalPeer) -> None:
        agree(peer)
        while True:
            request = Request(peer)
            for place in request.places:
                peer.release(place)
            ways.append((len(request.body), bool(request.places)))
            answer(peer, request.stream, request.body[5:], 12345)
            if request.places:
                assert struct.unpack("!I", peer.take(RELEASE).payload) == (12345,)

    before = descriptors()
    async with channel_to(endpoint(script).address) as channel:
        for size in (1_000_000, 65_531, 65_530, 1000):
            await echo(channel, LARGE[:size])
        assert channel.stats()["local"]
        assert channel.local_transport() == ""
        await asyncio.gather(*(echo(channel, LARGE[:300_000]) for _ in range(1)))
    by_memory = dict(ways)
    # The first may be sent before the endpoint has mapped the memory.
    assert (by_memory[65_536], by_memory[65_535], by_memory[1005], by_memory[300_005]) == (True, False, False, True)
    assert descriptors() <= before + 8  # those of the endpoint's side, in this process


async def test_what_is_never_released_ends_in_the_socket(endpoint: Callable[[Script], Endpoint]) -> None:
    ways: list[bool] = []

    def script(peer: LocalPeer) -> None:
        agree(peer)
        while True:
            request = Request(peer)
            ways.append(bool(request.places))
            answer(peer, request.stream, request.body[5:])

    async with channel_to(endpoint(script).address) as channel:
        for _ in range(75):
            await echo(channel)
    assert not any(ways[-3:])
    assert sum(ways) == SIZE // (62 * 16 * 1024)


async def test_many_at_once(endpoint: Callable[[Script], Endpoint]) -> None:
    def script(peer: LocalPeer) -> None:
        agree(peer)
        turn = 0
        while True:
            request = Request(peer)
            turn += 1
            answer(peer, request.stream, request.body[5:], turn % 40 * 1_000_000)
            for place in request.places:
                peer.release(place)

    async with channel_to(endpoint(script).address) as channel:
        for _ in range(3):
            await asyncio.gather(*(echo(channel, LARGE[: 100_000 + turn]) for turn in range(30)))


def no_seals(peer: LocalPeer) -> None:
    peer.arena = Arena(seals=0)
    peer.send(frame(ARENA, 0, 0), peer.arena.fd)


def no_descriptor(peer: LocalPeer) -> None:
    peer.send(frame(ARENA, 0, 0))


def a_file(peer: LocalPeer) -> None:
    with tempfile.TemporaryFile() as file:
        file.truncate(SIZE)
        peer.send(frame(ARENA, 0, 0), file.fileno())


def three_at_once(peer: LocalPeer) -> None:
    peer.arena = Arena(1 << 20, SHRINK)
    peer.send(frame(ARENA, 0, 0), peer.arena.fd, peer.arena.fd, peer.arena.fd)


def nothing(peer: LocalPeer) -> None:
    pass


@pytest.mark.parametrize("bad", [no_seals, no_descriptor, a_file, three_at_once, nothing])
async def test_other_memory_is_not_used_and_calls_go_on(
    endpoint: Callable[[Script], Endpoint], bad: Script, caplog: pytest.LogCaptureFixture
) -> None:
    def script(peer: LocalPeer) -> None:
        peer.send(settings())
        take_arena(peer)
        bad(peer)
        while True:
            request = Request(peer)
            for place in request.places:
                peer.release(place)
            answer(peer, request.stream, request.body[5:])

    async with channel_to(endpoint(script).address) as channel:
        assert channel.local_transport() == "there is no connection"
        for _ in range(3):
            await echo(channel)
        why = channel.local_transport()
    if bad in (three_at_once, nothing):  # it has mapped what was passed on to it
        assert why == ""
    else:
        assert why
        assert f"messages go through the socket, not through shared memory: {why}\n" in caplog.text


@pytest.mark.parametrize("version", [0, 2, 0xFFFFFFFF])
async def test_another_version_is_not_spoken(endpoint: Callable[[Script], Endpoint], version: int) -> None:
    def script(peer: LocalPeer) -> None:
        peer.send(settings(version))
        while True:
            request = Request(peer)
            assert request.places == []
            assert peer.fds == []
            answer(peer, request.stream, request.body[5:])

    async with channel_to(endpoint(script).address) as channel:
        await echo(channel)
        assert channel.local_transport() == "the endpoint does not offer it"


async def test_an_endpoint_on_a_port() -> None:
    async with channel_to("127.0.0.1:1") as channel:
        assert channel.local_transport() == "the endpoint is not on a Unix socket"


def released_twice(peer: LocalPeer, request: Request) -> None:
    peer.release(request.places[0])
    peer.release(request.places[0])


def released_beside(peer: LocalPeer, request: Request) -> None:
    peer.release(request.places[0] + 64)


def released_outside(peer: LocalPeer, request: Request) -> None:
    peer.release(0xFFFFFFFF)


def data_outside(peer: LocalPeer, request: Request) -> None:
    peer.send(head(request.stream, ANSWER_HEAD))
    peer.local(request.stream, SIZE - 5, 6)


def data_of_nothing(peer: LocalPeer, request: Request) -> None:
    peer.send(head(request.stream, ANSWER_HEAD))
    peer.local(request.stream, 0, 0)


def data_of_nobody(peer: LocalPeer, request: Request) -> None:
    peer.local(request.stream + 2, 0, 10)


def another_memory(peer: LocalPeer, request: Request) -> None:
    assert peer.arena is not None
    peer.send(frame(ARENA, 0, 0), peer.arena.fd)


def mapped_again(peer: LocalPeer, request: Request) -> None:
    peer.send(frame(ARENA, ACK, 0))


HOSTILE = [
    released_twice, released_beside, released_outside, data_outside, data_of_nothing, data_of_nobody, another_memory,
    mapped_again,
]  # fmt: skip


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_a_hostile_endpoint_loses_its_connection(
    endpoint: Callable[[Script], Endpoint], hostile: Callable[[LocalPeer, Request], None]
) -> None:
    """The call fails, and the next connection is as good as a first one."""
    ended: list[int] = []

    def script(peer: LocalPeer) -> None:
        agree(peer)
        while True:
            request = Request(peer)
            if request.places and len(server.peers) == 1:
                hostile(peer, request)
                ended.append(next(one.code for one in peer.wait_over() if one.kind == GOAWAY))
                return
            for place in request.places:
                peer.release(place)
            answer(peer, request.stream, request.body[5:], 0)

    server = endpoint(script)
    async with channel_to(server.address) as channel:
        for _ in range(20):
            outcome = start(channel, b"Echo", LARGE)
            if await outcome.wait() != (0, 0, "", LARGE):
                break
        for _ in range(5):
            await echo(channel)
        assert channel.stats()["connects"] == 2
    await until(lambda: ended, "the endpoint sees the end of its connection")
    assert ended[0] in (1, 3)


async def test_descriptors_that_nobody_asked_for_are_closed(endpoint: Callable[[Script], Endpoint]) -> None:
    def script(peer: LocalPeer) -> None:
        peer.send(frame(SETTINGS, 0, 0, struct.pack("!HI", 4, 1 << 24)) + frame(8, 0, 0, struct.pack("!I", 1 << 30)))
        while True:
            request = Request(peer)
            answer(peer, request.stream, request.body[5:])
            peer.send(frame(PING, 0, 0, bytes(8)), 0, 1, 2)

    async with channel_to(endpoint(script).address) as channel:
        await echo(channel)
        before = descriptors()
        for _ in range(5):
            await echo(channel)
        assert descriptors() == before
