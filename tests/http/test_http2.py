"""Http2Session against the `h2` library in memory: no sockets."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from compiled.http2_sessions import Http2Probe
from hypothesis import given
from hypothesis import strategies as st
from property import examples

FIELDS = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/a.B/C"),
    (b":authority", b"x"),
    (b"te", b"trailers"),
]
COPY_BELOW = 2048


class Wire:
    """A probe and an h2 server that exchange bytes when told to."""

    def __init__(self, **local: int) -> None:
        self.probe = Http2Probe()
        assert self.probe.start() == 0
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        self.server = h2.connection.H2Connection(config)
        self.server.initiate_connection()
        if local:
            self.server.update_settings(
                {getattr(h2.settings.SettingCodes, name): value for name, value in local.items()}
            )
        self.seen: list[h2.events.Event] = []

    def to_server(self, budget: int = 1 << 20) -> list[tuple[bool, bytes]]:
        """Everything the client wants to send; returns the gathered pieces."""
        gathered = []
        while True:
            rc, head, pieces = self.probe.gather(budget)
            assert rc >= 0
            if not rc:
                return gathered
            gathered += pieces
            self.seen += self.server.receive_data(head + b"".join(data for _, data in pieces))

    def to_client(self, cut: int | None = None) -> int:
        data = self.server.data_to_send()
        step = cut or max(1, len(data))
        return max((abs(self.probe.receive(data[i : i + step])) for i in range(0, len(data), step)), default=0)

    def exchange(self) -> None:
        self.to_server()
        self.to_client()
        self.to_server()

    def body(self, stream: int) -> bytes:
        return b"".join(e.data for e in self.seen if isinstance(e, h2.events.DataReceived) and e.stream_id == stream)

    def of(self, kind: type) -> list:
        return [e for e in self.seen if isinstance(e, kind)]


def test_announces_its_settings() -> None:
    wire = Wire()
    wire.exchange()
    changed = wire.of(h2.events.RemoteSettingsChanged)[0].changed_settings
    codes = h2.settings.SettingCodes
    assert changed[codes.INITIAL_WINDOW_SIZE].new_value == 1 << 20
    assert changed[codes.ENABLE_PUSH].new_value == 0
    assert wire.server.outbound_flow_control_window == 16 << 20
    assert ("settings",) in wire.probe.events


@examples(40)
@given(
    prefix=st.binary(max_size=8),
    sizes=st.lists(
        st.one_of(st.integers(0, 9), st.integers(COPY_BELOW - 2, COPY_BELOW + 2), st.integers(0, 70000)), max_size=6
    ),
    budget=st.sampled_from([1, 1000, 20000, 1 << 20]),
)
def test_a_body_arrives_as_it_was(prefix: bytes, sizes: list[int], budget: int) -> None:
    parts = [bytes([i % 251]) * n for i, n in enumerate(sizes)]
    wire = Wire(INITIAL_WINDOW_SIZE=1 << 24)
    wire.exchange()
    probe = wire.probe.request(FIELDS, prefix, parts)
    expected = prefix + b"".join(parts)
    for _ in range(200):
        known = len(wire.seen)
        wire.to_server(budget)
        for event in wire.seen[known:]:
            if isinstance(event, h2.events.DataReceived):
                wire.server.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        if wire.of(h2.events.StreamEnded):
            break
        wire.to_client()
    assert wire.body(1) == expected
    assert probe.sent
    assert len(wire.of(h2.events.StreamEnded)) == 1


def test_large_pieces_are_not_copied() -> None:
    wire = Wire()
    wire.exchange()
    wire.probe.request(FIELDS, b"\0\0\0\0\5", [b"a" * 10, b"b" * 10000, b"c" * 10])
    _, head, pieces = wire.probe.gather(1 << 20)
    assert head.endswith(b"\0\0\0\0\5" + b"a" * 10)
    assert pieces == [(False, b"b" * 10000), (True, b"c" * 10)]


def test_the_peers_window_is_respected() -> None:
    wire = Wire(INITIAL_WINDOW_SIZE=1000)
    wire.exchange()
    probe = wire.probe.request(FIELDS, b"", [b"x" * 5000])
    wire.to_server()
    assert len(wire.body(1)) == 1000
    assert not probe.sent
    wire.server.increment_flow_control_window(4000, 1)
    wire.to_client()
    wire.to_server()
    assert wire.body(1) == b"x" * 5000
    assert probe.sent


@pytest.mark.parametrize("cut", [None, 1, 7])
def test_an_answer_gives_events_in_order(cut: int | None) -> None:
    wire = Wire()
    wire.exchange()
    wire.probe.request(FIELDS, b"", [b"q"])
    wire.to_server()
    wire.probe.events.clear()
    wire.server.send_headers(1, [(b":status", b"200"), (b"content-type", b"application/grpc")])
    wire.server.send_data(1, b"answer")
    wire.server.send_headers(1, [(b"grpc-status", b"0")], end_stream=True)
    assert wire.to_client(cut) == 0
    events = wire.probe.events
    data = b"".join(e[2] for e in events if e[0] == "data")
    assert data == b"answer"
    assert [e for e in events if e[0] != "data"] == [
        ("field", 1, b":status", b"200"),
        ("field", 1, b"content-type", b"application/grpc"),
        ("fields_end", 1, False),
        ("field", 1, b"grpc-status", b"0"),
        ("fields_end", 1, True),
        ("end", 1),
        ("close", 1, 0, False),
    ]
    assert wire.probe.streams == 0


def test_a_reset_stream_is_silent_and_its_body_stops() -> None:
    wire = Wire(INITIAL_WINDOW_SIZE=10)
    wire.exchange()
    probe = wire.probe.request(FIELDS, b"", [b"x" * 5000])
    wire.to_server()
    wire.probe.reset_stream(probe, 8)
    wire.probe.events.clear()
    wire.server.send_headers(1, [(b":status", b"200")])
    wire.server.increment_flow_control_window(10000, 1)
    assert wire.to_client() == 0
    wire.to_server()
    assert wire.body(1) == b"x" * 10
    assert [e.error_code for e in wire.of(h2.events.StreamReset)] == [8]
    assert wire.probe.events == []
    assert wire.probe.streams == 0


def test_a_reset_before_the_request_was_sent_sends_no_body() -> None:
    wire = Wire()
    wire.exchange()
    wire.probe.reset_stream(wire.probe.request(FIELDS, b"", [b"x"]), 8)
    wire.to_server()
    assert wire.of(h2.events.DataReceived) == []
    assert [e.error_code for e in wire.of(h2.events.StreamReset)] == [8]
    assert wire.probe.streams == 0
    wire.probe.request(FIELDS, b"", [b"y"])
    wire.to_server()
    assert wire.body(3) == b"y"


def test_a_reset_by_the_peer_is_told_apart() -> None:
    wire = Wire()
    wire.exchange()
    wire.probe.request(FIELDS, b"", [b"x"])
    wire.to_server()
    wire.server.reset_stream(1, 11)
    wire.to_client()
    assert wire.probe.events[-1] == ("close", 1, 11, True)


def test_goaway_refuses_the_streams_above() -> None:
    wire = Wire()
    wire.exchange()
    for _ in range(3):
        wire.probe.request(FIELDS, b"", [b"x"])
    wire.to_server()
    wire.server.close_connection(0, last_stream_id=1)
    wire.to_client()
    assert ("goaway", 1, 0) in wire.probe.events
    assert sorted(e for e in wire.probe.events if e[0] == "close") == [("close", 3, 7, False), ("close", 5, 7, False)]
    assert wire.probe.streams == 1
    with pytest.raises(RuntimeError, match="submit: -2"):
        wire.probe.request(FIELDS, b"", [b"x"])
    assert wire.probe.streams == 1


def test_a_malformed_answer_resets_its_stream() -> None:
    wire = Wire()
    wire.exchange()
    wire.probe.request(FIELDS, b"", [b"x"])
    wire.to_server()
    wire.server.config.validate_outbound_headers = False
    wire.server.config.normalize_outbound_headers = False
    wire.server.send_headers(1, [(b":status", b"200"), (b"content-length", b"3")])
    wire.server.send_data(1, b"too long", end_stream=True)
    wire.to_client()
    wire.to_server()
    assert wire.probe.events[-1] == ("close", 1, 1, False)


@pytest.mark.parametrize("limit", [0, 1, 1000])
def test_the_stream_limit_is_the_peers(limit: int) -> None:
    wire = Wire(MAX_CONCURRENT_STREAMS=limit)
    wire.exchange()
    assert wire.probe.stream_limit == limit


def test_goodbye_ends_the_session() -> None:
    wire = Wire()
    wire.exchange()
    assert not wire.probe.is_ended()
    wire.probe.say_goodbye(0)
    wire.to_server()
    assert wire.of(h2.events.ConnectionTerminated)
    assert wire.probe.is_ended()


@examples(200)
@given(garbage=st.binary(max_size=300), after_settings=st.booleans())
def test_garbage_ends_the_session_or_is_waited_on(garbage: bytes, after_settings: bool) -> None:
    wire = Wire()
    if after_settings:
        wire.exchange()
        wire.probe.request(FIELDS, b"", [b"x" * 3000])
        wire.to_server()
    if wire.probe.receive(garbage) == 0:
        rc, _, _ = wire.probe.gather(1 << 20)
        assert rc >= 0
    assert all(e[0] != "end" for e in wire.probe.events) or after_settings


@examples(100)
@given(data=st.data())
def test_a_damaged_answer_never_harms(data: st.DataObject) -> None:
    wire = Wire()
    wire.exchange()
    wire.probe.request(FIELDS, b"", [b"x"])
    wire.to_server()
    wire.server.send_headers(1, [(b":status", b"200"), (b"content-type", b"application/grpc")])
    wire.server.send_data(1, b"\0\0\0\0\6answer")
    wire.server.send_headers(1, [(b"grpc-status", b"0")], end_stream=True)
    damaged = bytearray(wire.server.data_to_send())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    if wire.probe.receive(bytes(damaged)) == 0:
        rc, _, _ = wire.probe.gather(1 << 20)
        assert rc >= 0
    assert len([e for e in wire.probe.events if e[0] == "close"]) <= 1
