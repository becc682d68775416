"""The stub server at the level of frames: flow control, memory, and plain HTTP/2."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import h2.settings
import psutil
import pytest

from lb.wire import grpc_service_pb2 as oip

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


@contextmanager
def stub(*options: str) -> Iterator[tuple[int, int]]:
    """Its port and its process's number."""
    command = [sys.executable, "-m", "bench.stub_grpc", "--listen", "127.0.0.1:0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline().rpartition(":")[2]), process.pid
        finally:
            process.terminate()
        assert process.wait(20) == 0


class Client:
    """A client that gives the windows it is told to and no more."""

    def __init__(self, port: int, window: int = 65_535) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.connection.local_settings = h2.settings.Settings(
            client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        )
        self.connection.initiate_connection()
        self.flush()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def flush(self) -> None:
        self.socket.sendall(self.connection.data_to_send())

    def ask(self, path: str, method: str = "GET", body: bytes = b"", content_type: str = "", end: bool = True) -> int:
        """The stream's number."""
        stream = self.connection.get_next_available_stream_id()
        headers = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "x")]
        headers += [("content-type", content_type)] if content_type else []
        self.connection.send_headers(stream, headers, end_stream=end and not body)
        if body:
            self.connection.send_data(stream, body, end_stream=end)
        self.flush()
        return stream

    def events(self) -> list[h2.events.Event]:
        """What the next bytes mean. Raises EOFError, TimeoutError."""
        if not (data := self.socket.recv(1 << 20)):
            raise EOFError
        found = self.connection.receive_data(data)
        self.flush()
        return found

    def settled(self) -> list[h2.events.Event]:
        """All that comes before the answer to a ping, which the stub sends after what it could send before."""
        self.connection.ping(b"settled?")
        self.flush()
        found: list[h2.events.Event] = []
        while not any(isinstance(event, h2.events.PingAckReceived) for event in found):
            found += self.events()
        return found


def received(events: list[h2.events.Event]) -> bytes:
    parts: list[bytes] = [event.data or b"" for event in events if isinstance(event, h2.events.DataReceived)]
    return b"".join(parts)


def message(size: int) -> bytes:
    request = oip.ModelInferRequest(model_name="m", raw_input_contents=[bytes(size)])
    request.inputs.add(name="A", datatype="UINT8", shape=[size])
    data: bytes = request.SerializeToString()
    return struct.pack(">BI", 0, len(data)) + data


@pytest.mark.parametrize("options", [("--answer", "4096", "--stream-messages", "25"), ("--answer", "100000")])
def test_no_more_is_sent_than_the_window_allows(options: tuple[str, ...]) -> None:
    body = message(4)
    with stub(*options) as (port, _), Client(port, window=1000) as client:
        stream = client.ask(STREAM, "POST", body, "application/grpc", end=len(options) > 2)
        data = b""
        while len(data) < 1000:
            data += received(client.events())
        data += received(client.settled())
        assert len(data) == 1000
        client.connection.increment_flow_control_window(500, stream)
        data += received(client.settled())
        assert len(data) == 1500
        size = struct.unpack(">I", data[1:5])[0]
        assert size > (100_000 if len(options) == 2 else 4096)


def test_a_thousand_slow_streams_cost_no_memory() -> None:
    """Each is owed 100 MB, of which its window lets a little through."""
    with stub("--answer", "1000000", "--stream-messages", "100") as (port, number), Client(port, window=10) as client:
        before = psutil.Process(number).memory_info().rss
        for _ in range(1000):
            client.ask(STREAM, "POST", message(4), "application/grpc")
        assert len(received(client.settled())) <= 10_000
        assert psutil.Process(number).memory_info().rss - before < 20 << 20


def test_a_client_that_does_not_read_may_not_send_without_end() -> None:
    with stub() as (port, number), Client(port, window=0) as client:
        stream = client.ask(STREAM, "POST", b"", "application/grpc", end=False)
        client.settled()
        before = psutil.Process(number).memory_info().rss
        piece = message(10_000)
        sent = 0
        while (room := client.connection.local_flow_control_window(stream)) >= len(piece):
            for start in range(0, len(piece), 16_000):
                client.connection.send_data(stream, piece[start : start + 16_000])
            sent += len(piece)
            client.flush()
            if room < 3 * len(piece):
                client.settled()  # a window that is to come is here
            assert sent < 64 << 20
        assert sent > 1 << 20
        assert psutil.Process(number).memory_info().rss - before < 40 << 20
        # When it reads after all, all is answered.
        client.connection.increment_flow_control_window(1 << 30, stream)
        client.connection.increment_flow_control_window(1 << 30)
        client.connection.end_stream(stream)
        client.flush()
        data, ended = b"", False
        while not ended:
            events = client.events()
            data += received(events)
            ended = any(isinstance(event, h2.events.StreamEnded) for event in events)
        count = 0
        while data:
            size = struct.unpack(">BI", data[:5])[1]
            answer = oip.ModelStreamInferResponse.FromString(data[5 : 5 + size])
            assert len(answer.infer_response.raw_output_contents[0]) == 10_000
            data, count = data[5 + size :], count + 1
        assert count * len(piece) == sent


def whole(client: Client, stream: int) -> tuple[dict[str, str], bytes]:
    headers: dict[str, str] = {}
    data = b""
    while True:
        for event in client.events():
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                headers |= {str(name): str(value) for name, value in event.headers or []}
            elif isinstance(event, h2.events.DataReceived):
                data += event.data
                client.connection.acknowledge_received_data(event.flow_controlled_length, stream)
            elif isinstance(event, h2.events.StreamEnded):
                return headers, data
        client.flush()


def test_plain_http(tmp_path: Path) -> None:
    big = '{"x":"' + "y" * 300_000 + '"}'
    (tmp_path / "answer").write_text(big)
    for option, text in (('{"ok":true}', '{"ok":true}'), (f"@{tmp_path}/answer", big), ("", "")):
        with stub("--http-answer", option) as (port, _), Client(port) as client:
            for method, body in (("GET", b""), ("POST", b"x" * 16_000)):
                headers, data = whole(client, client.ask("/any", method, body, "text/plain" if body else ""))
                assert (headers[":status"], headers["content-type"]) == ("200", "application/json")
                assert data == text.encode()
                assert headers["content-length"] == str(len(text))
            headers, data = whole(client, client.ask("/any", "HEAD"))
            assert (headers["content-length"], data) == (str(len(text)), b"")
            # gRPC is still answered as such.
            headers, data = whole(client, client.ask("/x/ServerLive", "POST", b"\0\0\0\0\0", "application/grpc+proto"))
            assert (headers["grpc-status"], data) == ("0", b"\0\0\0\0\2\x08\x01")


def test_plain_http_without_an_answer() -> None:
    with stub() as (port, _), Client(port) as client:
        headers, data = whole(client, client.ask("/", "GET"))
        assert (headers[":status"], data) == ("415", b"")


def test_a_stream_cut_off_in_a_message() -> None:
    with stub() as (port, _), Client(port) as client:
        headers, data = whole(client, client.ask(STREAM, "POST", message(4)[:-1], "application/grpc"))
        assert (headers["grpc-status"], data) == ("13", b"")
        headers, data = whole(client, client.ask(STREAM, "POST", b"\1" + message(4)[1:], "application/grpc"))
        assert headers["grpc-status"] == "13"  # said to be compressed
    with stub("--answer", "4", "--stream-messages", "2") as (port, _), Client(port) as client:
        headers, data = whole(client, client.ask(STREAM, "POST", b"", "application/grpc"))
        assert headers["grpc-status"] == "13"


def test_each_byte_of_a_stream_alone() -> None:
    with stub() as (port, _), Client(port) as client:
        stream = client.ask(STREAM, "POST", b"", "application/grpc", end=False)
        for byte in message(30) * 2:
            client.connection.send_data(stream, bytes([byte]))
            client.flush()
        client.connection.end_stream(stream)
        client.flush()
        headers, data = whole(client, stream)
        assert headers["grpc-status"] == "0"
        assert data[: len(data) // 2] == data[len(data) // 2 :] != b""
