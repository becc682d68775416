"""A stub model server for benchmarks and tests: `python -m bench.stub_grpc --listen 127.0.0.1:0`.

Prints `listening on ADDRESS` when it serves; ends with SIGTERM or SIGINT. It speaks gRPC over cleartext HTTP/2 on one
thread and answers ModelInfer at once, by default with the request's inputs as outputs.
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

from bench import _stub


def fixed_answer(size: int) -> bytes:
    """A ModelInferResponse with one FP32 output of `size` bytes (a multiple of 4)."""

    def varint(n: int) -> bytes:
        out = bytearray()
        while n > 127:
            out.append(n & 127 | 128)
            n >>= 7
        out.append(n)
        return bytes(out)

    def part(number: int, data: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(data)) + data

    values = struct.pack(f"<{size // 4}f", *(0.5 for _ in range(size // 4)))
    shape = varint(1) + varint(size // 4)
    output = part(1, b"OUTPUT0") + part(2, b"FP32") + part(3, shape)
    return part(1, b"stub") + part(2, b"1") + part(5, output) + part(6, values)


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


def stop(_signal: int, _frame: object) -> None:
    raise SystemExit(0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.stub_grpc", description="a gRPC stub model server")
    parser.add_argument("--listen", required=True, help="HOST:PORT or unix:PATH")
    parser.add_argument("--answer", type=int, metavar="BYTES", help="answer with one FP32 tensor of this size, no echo")
    parser.add_argument("--max-streams", type=int, default=1000, help="concurrent streams per connection (1000)")
    options = parser.parse_args()
    if options.answer is not None and (options.answer < 0 or options.answer % 4):
        parser.error("--answer must be a multiple of 4")
    try:
        listener, name = listen(options.listen)
    except (OSError, ValueError) as error:
        sys.exit(f"bench.stub_grpc: {options.listen}: {error}")
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    print(f"listening on {name}", flush=True)
    _stub.serve(
        listener.fileno(), None if options.answer is None else fixed_answer(options.answer), options.max_streams
    )


if __name__ == "__main__":
    main()
