"""What a run of the load generator is to do, as JSON and back."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from bench.errors import BenchError
from bench.load.arrivals import Arrivals
from bench.load.request import Request

ProtocolName = Literal["http", "grpc", "tcp"]


@dataclass(frozen=True)
class Tls:
    """TLS of the client: `ca` is a file of trusted certificates (default: the system's)."""

    ca: str | None = None
    server_name: str | None = None
    verify: bool = True

    __pydantic_config__ = ConfigDict(extra="forbid")

    def context(self, protocol: ProtocolName) -> ssl.SSLContext:
        """Raises BenchError if `ca` cannot be used."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise BenchError(f"{self.ca}: no certificates: {error}") from error
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if protocol != "tcp":
            context.set_alpn_protocols(["h2" if protocol == "grpc" else "http/1.1"])
        return context


@dataclass(frozen=True)
class Spec:
    """A run. Its JSON has bodies in base64 (RFC 4648; the URL-safe alphabet is written, both are read).

    `address` is "HOST:PORT" (IPv6 in brackets) or "unix:PATH". `requests` are sent in turn or, with `zipf`, by
    popularity. `connections` is the most that are open; with `new_connections` each request has one of its own. A
    request has `timeout_s` from its intended time. Requests of the warm-up, and of the cool-down at the end,
    are sent and not recorded. `duration_s` may be left out for step and trace arrivals, which then have no cool-down.
    What exceeds `max_outstanding` unanswered requests is dropped and counted. Answers within `deadline_s` of the
    intended time are counted by themselves over time.
    Raises BenchError on construction for values that cannot be.
    """

    protocol: ProtocolName
    address: str
    requests: tuple[Request, ...]
    arrivals: Annotated[Arrivals, Field(discriminator="kind")]
    zipf: float | None = None
    connections: int = 32
    new_connections: bool = False
    timeout_s: float = 10.0
    deadline_s: float | None = None
    warmup_s: float = 1.0
    duration_s: float | None = None
    cooldown_s: float = 0.0
    seed: int = 1
    max_outstanding: int = 100_000
    tls: Tls | None = None

    __pydantic_config__ = ConfigDict(extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    def __post_init__(self) -> None:
        target(self.address)
        if not self.requests:
            raise BenchError("a run needs at least one request")
        for request in self.requests:
            request.check(self.protocol)
        if self.connections < 1 or self.max_outstanding < 1:
            raise BenchError("connections and max_outstanding must be 1 or more")
        if self.timeout_s <= 0 or self.warmup_s < 0 or (self.duration_s is not None and self.duration_s <= 0):
            raise BenchError("timeout and duration must be above 0, and the warm-up 0 or more seconds")
        if self.deadline_s is not None and self.deadline_s <= 0:
            raise BenchError("a deadline must be above 0 seconds")
        if self.cooldown_s < 0 or (self.cooldown_s and self.duration_s is None):
            raise BenchError("a cool-down takes 0 or more seconds, and comes after a duration")
        if self.new_connections and self.protocol == "grpc":
            raise BenchError("a new connection per request is for http and tcp")

    def to_json(self) -> str:
        return _ADAPTER.dump_json(self).decode()

    @staticmethod
    def from_json(text: str | bytes) -> Spec:
        """Raises BenchError naming the first thing that is wrong."""
        try:
            return _ADAPTER.validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the document"
            raise BenchError(f"the specification is wrong at {where}: {first['msg']}") from error


def target(address: str) -> tuple[str, int]:
    """Host (without brackets) and port, or the path of a Unix socket and 0. Raises BenchError if it is neither."""
    if address.startswith("unix:") and len(address) > 5:
        return address[5:], 0
    host, sign, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host or not sign or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise BenchError(f"an address is HOST:PORT or unix:PATH: {address!r}")
    return host, int(port)


_ADAPTER = TypeAdapter(Spec)
