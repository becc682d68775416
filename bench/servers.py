"""Servers behind the proxies: quick enough that the proxy is what is measured."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.nginx_conf import http_defaults, main_section
from bench.processes import require

_TOKEN = 2000  # nginx takes words of up to 4,096 bytes
_INLINE = 32 << 10  # a longer answer is cheaper as a file


@dataclass(frozen=True)
class Place:
    """Where a server is to run: a directory of its own, its ports on 127.0.0.1, and how much it may need.

    `extra_ports` are for purposes of the server's own (an admin port, say), as many as it asked for.
    """

    directory: Path
    ports: tuple[int, ...]
    workers: int
    connections: int
    extra_ports: tuple[int, ...] = ()


class Server(Protocol):
    """A server a scenario needs."""

    @property
    def name(self) -> str:
        """What its process is called in messages."""

    @property
    def ports(self) -> int:
        """How many endpoints it opens. On each of their ports something listens on TCP once it serves."""

    @property
    def extra_ports(self) -> int:
        """How many further ports it needs."""

    def command(self, place: Place) -> list[str]:
        """Writes what it needs into the directory; returns the command that serves in the foreground.

        Raises BenchError if a program is missing.
        """


@dataclass(frozen=True)
class FixedHttp:
    """nginx that answers every HTTP/1.1 request with the same body, on `ports` ports.

    By default it answers as soon as it has the headers and throws the request's body away, which costs least but is
    right only if the body comes with them (some KiB). With `reads` the body is read whole before the answer, as a real
    server does, in memory up to 2 MiB; that takes a subrequest inside nginx. A body that nginx can keep in its
    configuration (at most 32 KiB of printable ASCII without $, ' and backslash) comes from there, others from a file,
    which is in memory if the directory is.
    """

    body: str | bytes
    content_type: str = "application/json"
    ports: int = 1
    reads: bool = False
    name: str = "http-server"
    extra_ports: int = field(default=0, init=False)

    def inline(self) -> str | None:
        """The body as nginx's configuration can say it; None if it cannot."""
        try:
            text = self.body if isinstance(self.body, str) else self.body.decode("ascii")
        except UnicodeDecodeError:
            return None
        plain = text.isascii() and (text.isprintable() or not text) and not any(c in text for c in "$'\\")
        return text if plain and len(text) <= _INLINE else None

    def config(self, place: Place) -> str:
        listens = "".join(f"        listen 127.0.0.1:{port} backlog=4096 reuseport;\n" for port in place.ports)
        text = None if self.reads else self.inline()
        answer = self._from_file(place.directory) if text is None else _from_words(text)
        return f"""{main_section(place.directory, place.workers, place.connections)}http {{
{http_defaults(place.directory)}    client_max_body_size 0;
    client_body_buffer_size {"2m" if self.reads else "64k"};
    server {{
{listens}        default_type {self.content_type};
{answer}    }}
}}
"""

    def command(self, place: Place) -> list[str]:
        path = place.directory / "http-server.conf"
        path.write_text(self.config(place))
        (place.directory / "answer").write_bytes(self.body.encode() if isinstance(self.body, str) else self.body)
        return [require("nginx", "nginx-light"), "-e", str(place.directory / "error.log"), "-c", str(path)]

    def _from_file(self, directory: Path) -> str:
        # A file is no answer to POST (405), but an error page may be one with any status. Of what an nginx without
        # modules can do, mirroring reads the body without passing it on to a server.
        mirror = "/read" if self.reads else "off"
        return f"""        root {directory};
        sendfile on;
        etag off;
        max_ranges 0;
        if_modified_since off;
        open_file_cache max=10 inactive=1h;
        open_file_cache_valid 1h;
        error_page 405 =200 /answer;
        location / {{
            mirror {mirror};
            rewrite ^ /answer break;
        }}
        location = /answer {{
        }}
        location = /read {{
            internal;
            return 204;
        }}
"""


def _from_words(text: str) -> str:
    parts = [text[i : i + _TOKEN] for i in range(0, len(text), _TOKEN)]
    variables = "".join(f"        set $part{i} '{part}';\n" for i, part in enumerate(parts))
    answer = "".join(f"$part{i}" for i in range(len(parts)))
    return f'{variables}        return 200 "{answer}";\n'


@dataclass(frozen=True)
class GrpcStub:
    """`bench.stub_grpc`: answers ModelInfer with the request's tensors, or a fixed FP32 tensor of `answer` bytes.

    A ModelStreamInfer gets `stream_messages` such answers, or (0) one for each of its messages.
    """

    answer: int | None = None
    stream_messages: int = 0
    name: str = "grpc-server"
    ports: int = field(default=1, init=False)
    extra_ports: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.stream_messages and self.answer is None:
            raise ValueError("a stream of answers needs their size")

    def command(self, place: Place) -> list[str]:
        fixed = [] if self.answer is None else ["--answer", str(self.answer)]
        if self.stream_messages:
            fixed += ["--stream-messages", str(self.stream_messages)]
        return [sys.executable, "-m", "bench.stub_grpc", "--listen", f"127.0.0.1:{place.ports[0]}", *fixed]


@dataclass(frozen=True)
class FixedHttp2:
    """`bench.stub_grpc` as a server that answers every HTTP/2 request (prior knowledge, in clear) with the same JSON.

    nghttpd would be the usual choice. On one core behind h2load, a 36-byte answer cost it 1.7 times the stub's CPU with
    8 connections of 8 streams, and 1.3 times with 32 connections of one.
    """

    body: str
    name: str = "http2-server"
    ports: int = field(default=1, init=False)
    extra_ports: int = field(default=0, init=False)

    def command(self, place: Place) -> list[str]:
        path = place.directory / "answer"
        path.write_text(self.body)
        listen = ["--listen", f"127.0.0.1:{place.ports[0]}", "--http-answer", f"@{path}"]
        return [sys.executable, "-m", "bench.stub_grpc", *listen]


@dataclass(frozen=True)
class UdpEcho:
    """`bench.udp echo`: sends every datagram back."""

    name: str = "udp-server"
    ports: int = field(default=1, init=False)
    extra_ports: int = field(default=0, init=False)

    def command(self, place: Place) -> list[str]:
        options = ["--port", str(place.ports[0]), "--workers", str(place.workers)]
        return [sys.executable, "-m", "bench.udp", "echo", *options]


@dataclass(frozen=True)
class BulkServer:
    """`bench.bulk serve`: sends zeros, or takes what comes."""

    name: str = "bulk-server"
    ports: int = field(default=1, init=False)
    extra_ports: int = field(default=0, init=False)

    def command(self, place: Place) -> list[str]:
        return [sys.executable, "-m", "bench.bulk", "serve", "--port", str(place.ports[0])]
