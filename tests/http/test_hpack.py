"""The encoder of header fields against the decoder of the `hpack` library (RFC 7541)."""

from __future__ import annotations

from collections.abc import Sequence

import hpack
import pytest
from compiled.http2_sessions import Http2Probe
from h2_frames import CONTINUATION, END_HEADERS, GET, HEADERS, PREFACE, SETTINGS, Field, frame, frames, setting
from hypothesis import given
from hypothesis import strategies as st
from property import examples

NAMES = st.one_of(
    st.sampled_from([b":path", b"accept", b"authorization", b"cookie", b"date", b"x-request-id", b"www-authenticate"]),
    st.from_regex(rb"[a-z][a-z0-9-]{0,40}", fullmatch=True),
)
VALUES = st.one_of(st.sampled_from([b"", b"/", b"GET", b"gzip, deflate"]), st.binary(max_size=300))


class Wire:
    """A client that encodes, and a decoder that follows it."""

    def __init__(self) -> None:
        self.probe = Http2Probe()
        assert self.probe.start() == 0
        self.decoder = hpack.Decoder(max_header_list_size=1 << 24)
        self.blocks: list[bytes] = []

    def limit(self, size: int) -> None:
        """The peer's SETTINGS_HEADER_TABLE_SIZE."""
        assert self.probe.receive(setting(1, size)) == 0

    def send(self, fields: list[Field], place: int = 0, in_block: Sequence[Field] = ()) -> list[Field]:
        """The fields as they are understood."""
        self.probe.request(fields, b"", [], place, in_block)
        rc, first, _ = self.probe.gather(1 << 24)
        assert rc == 1
        taken = [f for f in frames(first.removeprefix(PREFACE)) if f.kind in (HEADERS, CONTINUATION)]
        assert [f.kind for f in taken] == [HEADERS] + [CONTINUATION] * (len(taken) - 1)
        assert [bool(f.flags & END_HEADERS) for f in taken] == [False] * (len(taken) - 1) + [True]
        assert all(len(f.payload) == 16384 for f in taken[:-1])
        self.blocks.append(b"".join(f.payload for f in taken))
        return [(bytes(name), bytes(value)) for name, value in self.decoder.decode(self.blocks[-1], raw=True)]


@pytest.mark.slow
@examples(150)
@given(
    pool=st.lists(st.tuples(NAMES, VALUES), min_size=1, max_size=60),
    requests=st.lists(st.lists(st.integers(0, 59), max_size=20), max_size=12),
    limits=st.dictionaries(st.integers(0, 11), st.lists(st.sampled_from([0, 31, 33, 200, 4096, 65536]), max_size=3)),
)
def test_what_is_encoded_is_what_is_understood(
    pool: list[Field], requests: list[list[int]], limits: dict[int, list[int]]
) -> None:
    wire = Wire()
    for number, chosen in enumerate(requests):
        for size in limits.get(number, []):
            wire.limit(size)
            wire.decoder.max_allowed_table_size = size
        fields = [pool[i % len(pool)] for i in chosen]
        assert wire.send(fields) == fields


def test_names_are_lowered() -> None:
    long = b"X-" + b"Long" * 100
    assert Wire().send([(b"Content-Type", b"A/B"), (long, b"C")]) == [(b"content-type", b"A/B"), (long.lower(), b"C")]


def test_a_field_is_kept_from_its_second_time_on() -> None:
    wire = Wire()
    sizes = []
    for _ in range(4):
        wire.send([*GET, (b"x-model", b"digits")])
        sizes.append(len(wire.blocks[-1]))
    assert sizes[0] == sizes[1]
    assert sizes[2] == sizes[3] == len(GET) + 1


@pytest.mark.slow
@examples(200)
@given(
    kinds=st.lists(st.lists(st.tuples(NAMES, VALUES), max_size=12), min_size=1, max_size=12),
    more=st.lists(st.tuples(NAMES, VALUES), max_size=3),
    order=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 12), st.integers(0, 3)), max_size=60),
    limits=st.dictionaries(st.integers(0, 59), st.lists(st.sampled_from([0, 100, 400, 4096]), max_size=2), max_size=4),
)
def test_blocks_that_come_again_are_understood(
    kinds: list[list[Field]], more: list[Field], order: list[tuple[int, int, int]], limits: dict[int, list[int]]
) -> None:
    wire = Wire()
    for number, (kind, length, place) in enumerate(order):
        for size in limits.get(number, []):
            wire.limit(size)
            wire.decoder.max_allowed_table_size = size
        block = kinds[kind % len(kinds)][:length]
        at = min(place, len(more))
        assert wire.send(more, at, block) == [*more[:at], *block, *more[at:]]


def test_a_block_is_written_anew_once_the_table_has_changed() -> None:
    wire = Wire()
    block = [(b"x-a", b"1"), (b"x-b", b"2")]
    for _ in range(4):
        assert wire.send(GET, 1, block) == [GET[0], *block, *GET[1:]]
    known = wire.blocks[-1]
    for _ in range(2):
        wire.send([*GET, (b"x-new", b"3")])
    assert wire.send(GET, 1, block) == [GET[0], *block, *GET[1:]]
    assert wire.blocks[-1] != known
    wire.limit(0)
    wire.decoder.max_allowed_table_size = 0
    assert wire.send(GET, 1, block) == [GET[0], *block, *GET[1:]]


def test_what_follows_a_run_of_indices_is_written_each_time() -> None:
    wire = Wire()
    block = [(b"x-a", b"1"), (b"x-b", b"2")]
    for number in range(6):
        fields = [*block, (b"authorization", b"secret"), (b"x-id", b"%d" % number)]
        assert wire.send([], 0, fields) == fields
    assert wire.blocks[-1][:2] == wire.blocks[-2][:2]
    assert wire.blocks[-1][2] & 0xF0 == 0x10


# What a gate says of a call: of these, five shared two places where what had come before was looked for.
CALL = [
    (b":scheme", b"http"),
    (b":method", b"POST"),
    (b":path", b"/test/Guarded"),
    (b":authority", b"tidegate.example"),
    (b"x-forwarded-for", b"127.0.0.1"),
    (b"x-forwarded-proto", b"http"),
    (b"x-forwarded-host", b"tidegate.example"),
    (b"x-forwarded-port", b"1"),
    (b"via", b"2.0 tidegate"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
]


def test_fields_that_come_with_every_request_are_all_kept() -> None:
    wire = Wire()
    for _ in range(3):
        assert wire.send(CALL) == CALL
    assert len(wire.blocks[-1]) == len(CALL)


@pytest.mark.slow
@examples(100)
@given(st.lists(st.tuples(st.from_regex(rb"x-[a-z]{1,12}", fullmatch=True), st.binary(max_size=60)), max_size=8))
def test_any_eight_fields_are_kept(fields: list[Field]) -> None:
    wire = Wire()
    for _ in range(3):
        assert wire.send(fields) == fields
    assert len(wire.blocks[-1]) == len(fields)


def test_values_that_never_repeat_drive_nothing_out() -> None:
    wire = Wire()
    for number in range(300):
        wire.send([(b"x-model", b"digits"), (b"x-request-id", b"%040d" % number)])
    assert wire.blocks[-1][:1] == bytes([0x80 | 62])
    assert wire.decoder.header_table_size == 4096


def test_the_oldest_go_when_there_is_no_room() -> None:
    wire = Wire()
    for number in range(60):
        field = (b"x-%d" % number, b"v" * 200)
        for _ in range(3):
            assert wire.send([field]) == [field]
    assert len(wire.blocks[-1]) == 1
    wire.send([(b"x-0", b"v" * 200)])
    assert len(wire.blocks[-1]) > 200


@pytest.mark.parametrize("name", [b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"])
def test_credentials_are_never_kept(name: bytes) -> None:
    wire = Wire()
    for _ in range(3):
        assert wire.send([(name, b"secret")]) == [(name, b"secret")]
        assert wire.blocks[-1][0] & 0xF0 == 0x10
    assert len({len(block) for block in wire.blocks}) == 1


def test_a_smaller_table_is_told_at_the_next_block() -> None:
    wire = Wire()
    for _ in range(3):
        wire.send([(b"x-model", b"digits")])
    wire.limit(0)
    wire.limit(100)
    wire.decoder.max_allowed_table_size = 100
    assert wire.send([(b"x-model", b"digits")]) == [(b"x-model", b"digits")]
    # Section 4.2: the least size in between, then the last.
    assert wire.blocks[-1].startswith(bytes([0x20, 0x3F, 100 - 31]))
    wire.send([(b"x-model", b"digits")])
    assert wire.blocks[-1][0] & 0xE0 != 0x20


@pytest.mark.parametrize("size", [16383, 16384, 16385, 40000, 70000])
def test_a_large_block_is_sent_in_pieces(size: int) -> None:
    wire = Wire()
    fields = [*GET, (b"x", b"v" * size), (b"y", b"z")]
    assert wire.send(fields) == fields
    assert wire.send(GET) == GET


def test_settings_are_acknowledged() -> None:
    probe = Http2Probe()
    assert probe.start() == 0
    probe.gather(1 << 20)
    assert probe.receive(setting(1, 100)) == 0
    assert probe.gather(1 << 20)[1] == frame(SETTINGS, 1, 0)
