"""Servers behind the proxies: quick enough that the proxy is what is measured."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.nginx_conf import http_defaults, main_section
from bench.processes import require

_TOKEN = 2000  # nginx takes words of up to 4,096 bytes


class Server(Protocol):
    """A server a scenario needs."""

    @property
    def name(self) -> str:
        """What its process is called in messages."""

    def command(self, directory: Path, port: int, workers: int, connections: int) -> list[str]:
        """Writes what it needs into `directory`; returns the command that serves 127.0.0.1:`port` in the foreground."""


@dataclass(frozen=True)
class FixedHttp:
    """nginx that answers every HTTP/1.1 request with the same body (printable ASCII without $, ' and backslash)."""

    body: str
    content_type: str = "application/json"
    name: str = "http-server"

    def __post_init__(self) -> None:
        if not self.body.isascii() or not self.body.isprintable() or any(c in self.body for c in "$'\\"):
            raise ValueError("the body of a fixed answer is printable ASCII without $, ' and backslash")

    def config(self, directory: Path, port: int, workers: int, connections: int) -> str:
        parts = [self.body[i : i + _TOKEN] for i in range(0, len(self.body), _TOKEN)]
        variables = "".join(f"        set $part{i} '{part}';\n" for i, part in enumerate(parts))
        answer = "".join(f"$part{i}" for i in range(len(parts)))
        return f"""{main_section(directory, workers, connections)}http {{
{http_defaults(directory)}    client_max_body_size 0;
    client_body_buffer_size 64k;
    server {{
        listen 127.0.0.1:{port} backlog=4096 reuseport;
        default_type {self.content_type};
{variables}        return 200 "{answer}";
    }}
}}
"""

    def command(self, directory: Path, port: int, workers: int, connections: int) -> list[str]:
        path = directory / "http-server.conf"
        path.write_text(self.config(directory, port, workers, connections))
        return [require("nginx", "nginx-light"), "-e", str(directory / "error.log"), "-c", str(path)]


@dataclass(frozen=True)
class GrpcStub:
    """`bench.stub_grpc`: answers ModelInfer with the request's tensors, or a fixed FP32 tensor of `answer` bytes."""

    answer: int | None = None
    name: str = "grpc-server"

    def command(self, directory: Path, port: int, workers: int, connections: int) -> list[str]:
        fixed = [] if self.answer is None else ["--answer", str(self.answer)]
        return [sys.executable, "-m", "bench.stub_grpc", "--listen", f"127.0.0.1:{port}", *fixed]
