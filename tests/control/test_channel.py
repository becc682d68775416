"""Framing, descriptors and backpressure between master and worker."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from waiting import until

from lb.control.workers import channel
from lb.control.workers.channel import MAX_FDS, Channel, ChannelError, Decoder, encode

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.lists(st.dictionaries(st.text(), plain), max_size=5), st.lists(st.integers(1, 40), max_size=20))
def test_messages_survive_any_chunking(messages: list[dict[str, Any]], sizes: list[int]) -> None:
    data = b"".join(map(encode, messages))
    decoder = Decoder()
    seen = []
    while data:
        size = sizes.pop() if sizes else len(data)
        seen += [message for message, _ in decoder.feed(data[:size])]
        data = data[size:]
    assert seen == messages


def test_descriptors_go_to_the_messages_that_brought_them() -> None:
    first, second = os.pipe()
    frames = encode({"n": 0}) + encode({"n": 1}, 1) + encode({"n": 2}, 1)
    got = Decoder().feed(frames, [first, second])
    assert got == [({"n": 0}, []), ({"n": 1}, [first]), ({"n": 2}, [second])]
    os.close(first)
    os.close(second)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff\x00",
        b"\x00\x00\x00\x01" + bytes([MAX_FDS + 1]) + b"\x80",
        b"\x00\x00\x00\x01\x00\xc1",
        b"\x00\x00\x00\x01\x00\x01",
        b"\x00\x00\x00\x01\x01\x80",
        b"\x00\x00\x00\x00\x00",
    ],
    ids=["too large", "too many descriptors", "no msgpack", "no map", "a descriptor is missing", "empty"],
)
def test_broken_frames_are_refused(data: bytes) -> None:
    with pytest.raises(ChannelError):
        Decoder().feed(data)


def test_a_frame_too_large_for_the_peer_is_not_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "MAX_FRAME", 100)
    with pytest.raises(ChannelError):
        encode({"x": "y" * 100})


class Peers:
    """Two channels, with what each got."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.got: list[tuple[dict[str, Any], list[int]]] = []
        self.ends: list[str] = []
        self.left_socket, right = socket.socketpair()
        self.left = Channel(
            loop, self.left_socket, lambda m, f: None, lambda reason: self.ends.append(f"left {reason}")
        )
        self.right = Channel(
            loop, right, lambda m, f: self.got.append((m, f)), lambda r: self.ends.append(f"right {r}")
        )

    async def until(self, probe: Callable[[], object]) -> None:
        await until(probe)

    def close(self) -> None:
        self.left.close()
        self.right.close()


def run(test: Callable[[Peers], Any]) -> None:
    """Both loops: the daemon runs on uvloop, and nothing here may depend on which."""

    async def body() -> None:
        before = os.listdir("/proc/self/fd")
        peers = Peers()
        try:
            await test(peers)
        finally:
            peers.close()
        assert len(os.listdir("/proc/self/fd")) <= len(before)

    uvloop.run(body())
    asyncio.run(body())


def test_descriptors_arrive_with_large_frames_in_order() -> None:
    async def test(peers: Peers) -> None:
        reads, writes = zip(*(os.pipe() for _ in range(30)), strict=True)
        for n, fd in enumerate(writes):
            peers.left.send({"n": n, "fill": b"x" * 400_000}, [fd] * (n % 3))
            os.close(fd)  # the channel has its own until it is sent
        await peers.until(lambda: len(peers.got) == 30)
        for n, (message, fds) in enumerate(peers.got):
            assert message["n"] == n
            assert len(fds) == n % 3
            for fd in fds:
                assert not os.get_inheritable(fd)
                os.write(fd, b"%d" % n)
                os.close(fd)
        for n, fd in enumerate(reads):
            assert os.read(fd, 100) == b"%d" % n * (n % 3)
            os.close(fd)

    run(test)


def test_the_end_of_the_peer_is_reported_once() -> None:
    async def test(peers: Peers) -> None:
        peers.left.send({"last": 1})
        peers.left.close()
        await peers.until(lambda: peers.ends)
        assert peers.got == [({"last": 1}, [])]
        assert peers.ends == ["right closed by the peer"]
        peers.right.send({"to": "nobody"})
        await asyncio.sleep(0)
        assert len(peers.ends) == 1

    run(test)


def test_garbage_ends_the_channel() -> None:
    async def test(peers: Peers) -> None:
        peers.left_socket.send(b"\xff" * 10)
        await peers.until(lambda: peers.ends)
        assert "too large" in peers.ends[0]

    run(test)


def test_a_peer_that_reads_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "MAX_UNSENT", 3 << 20)

    async def test(peers: Peers) -> None:
        asyncio.get_running_loop().remove_reader(peers.right._fd)
        pipe = os.pipe()
        for _ in range(5):
            peers.left.send({"fill": b"x" * (1 << 20)}, [pipe[0]])
        os.close(pipe[0])
        os.close(pipe[1])
        await peers.until(lambda: peers.ends)
        assert peers.ends == ["left the peer does not read"]

    run(test)
