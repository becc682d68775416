"""What a guarded path is: a configuration, a client and a server, put together when the path is to be run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from bench.errors import BenchError
from bench.guard.rig import Rig
from bench.guard.upstreams import Server


class Client(Protocol):
    def exchange(self) -> None:
        """One request and its answer. Raises BenchError when the answer is not the right one."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Run:
    """A path that is ready: every `client.exchange` is one request through the data path of `rig`."""

    rig: Rig
    client: Client
    server: Server
    cached: bool = False  # only the first request reaches the server

    def repeat(self, count: int) -> None:
        """`count` requests. Raises BenchError when one of them goes wrong or did not take the path."""
        before = self.server.requests
        for _ in range(count):
            self.client.exchange()
        reached = self.server.requests - before
        if reached != (int(before == 0) if self.cached else count):
            raise BenchError(f"of {count} requests {reached} reached the server: this is not the path to be counted")

    def close(self) -> None:
        self.client.close()
        self.rig.close()
        self.server.close()


@dataclass(frozen=True)
class Path:
    """A way through the data path whose instructions are guarded. `start` raises BenchError or lb's TidegateError."""

    name: str
    title: str
    start: Callable[[], Run]


def http_config(address: str, protocol: str = "http", extra: str = "") -> str:
    """An HTTP listener with one route to the server at `address`; `protocol` is its pool's."""
    return f"""workers: 1
listeners:
  front: {{bind: "127.0.0.1:1", protocol: http, routes: [{{pool: servers}}]}}
pools:
  servers: {{protocol: {protocol}, endpoints: ["{address}"]}}
{extra}"""
