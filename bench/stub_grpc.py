"""A stub model server for benchmarks and tests: `python -m bench.stub_grpc --listen 127.0.0.1:0`.

Prints `listening on ADDRESS` when it serves; ends with SIGTERM or SIGINT. It speaks gRPC over cleartext HTTP/2 on one
thread and answers ModelInfer at once, by default with the request's inputs as outputs, and ModelStreamInfer with as
many messages as told or with one for each that comes. Plain HTTP/2 requests get the body of `--http-answer`. At its end
it prints how many requests it was sent.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import stat
import struct
import sys
from pathlib import Path

from bench import _stub
from bench.marked import print_result


def fixed_answer(size: int) -> bytes:
    """A ModelInferResponse with one FP32 output of `size` bytes (a multiple of 4)."""
    values = struct.pack(f"<{size // 4}f", *(0.5 for _ in range(size // 4)))
    shape = _varint(1) + _varint(size // 4)
    output = _part(1, b"OUTPUT0") + _part(2, b"FP32") + _part(3, shape)
    return _part(1, b"stub") + _part(2, b"1") + _part(5, output) + _part(6, values)


def stream_message(answer: bytes) -> bytes:
    """A ModelStreamInferResponse around a ModelInferResponse."""
    return _part(2, answer)


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def _part(number: int, data: bytes) -> bytes:
    """A field of a message: bytes, text, a message or packed numbers."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def listen(address: str) -> tuple[socket.socket, str]:
    """A listening socket on "HOST:PORT" (IPv6 in brackets) or "unix:PATH", and the address clients use."""
    if address.startswith("unix:"):
        path = address[5:]
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(path).st_mode):
                os.unlink(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        name = address
    else:
        host, _, port = address.rpartition(":")
        listener = socket.create_server(
            (host.strip("[]"), int(port)), family=socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        )
        name = f"{host}:{listener.getsockname()[1]}"
    listener.listen(1024)
    listener.setblocking(False)
    return listener, name


def read_text(text: str | None) -> bytes | None:
    """The text, or what the file says that comes after an @. Raises OSError."""
    if text is None:
        return None
    return Path(text[1:]).read_bytes() if text.startswith("@") else text.encode()


def stop(_signal: int, _frame: object) -> None:
    raise SystemExit(0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.stub_grpc", description="a gRPC stub model server")
    parser.add_argument("--listen", required=True, help="HOST:PORT or unix:PATH")
    parser.add_argument("--answer", type=int, metavar="BYTES", help="answer with one FP32 tensor of this size, no echo")
    parser.add_argument(
        "--stream-messages", type=int, default=0, metavar="K", help="that answer a stream, of --answer each (0: echo)"
    )
    parser.add_argument("--http-answer", metavar="TEXT", help="JSON that answers plain HTTP/2; @FILE reads it")
    parser.add_argument("--max-streams", type=int, default=1000, help="concurrent streams per connection (1000)")
    options = parser.parse_args()
    if options.answer is not None and (options.answer < 0 or options.answer % 4):
        parser.error("--answer must be a multiple of 4")
    if options.stream_messages < 0 or (options.stream_messages and options.answer is None):
        parser.error("--stream-messages is not negative and needs --answer")
    fixed = None if options.answer is None else fixed_answer(options.answer)
    streamed = None if fixed is None else stream_message(fixed)
    try:
        http = read_text(options.http_answer)
    except OSError as error:
        sys.exit(f"bench.stub_grpc: {options.http_answer}: {error.strerror}")
    try:
        listener, name = listen(options.listen)
    except (OSError, ValueError) as error:
        sys.exit(f"bench.stub_grpc: {options.listen}: {error}")
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    print(f"listening on {name}", flush=True)
    try:
        _stub.serve(listener.fileno(), fixed, options.max_streams, streamed, options.stream_messages, http)
    finally:
        print_result({"requests": _stub.served()})


if __name__ == "__main__":
    main()
