"""HTTP/2 on a listener: what one connection may take, and what it may not do."""

from __future__ import annotations

from pydantic import Field

from lb.config.schema.base import Boolean, Integer, Model
from lb.config.units import KIB, MIB, Duration, Size


class Http2Config(Model):
    """HTTP/2 with clients. Without TLS it is spoken by prior knowledge (h2c): a connection that begins with HTTP/2's
    preface speaks it, any other HTTP/1.1."""

    enabled: Boolean = True
    """Whether HTTP/2 is spoken at all."""
    max_streams: Integer = Field(default=128, ge=1, le=10_000)
    """Most requests that a client may have open on one connection; more are refused with `REFUSED_STREAM`, which
    clients take as leave to try again."""
    stream_window: Size = Field(default=256 * KIB, ge=16 * KIB, le=16 * MIB)
    """Bytes of a request's body that a client may send ahead of what the endpoint has taken. It bounds the memory of
    one request, and the rate of one that comes from far away."""
    connection_window: Size = Field(default=4 * MIB, ge=64 * KIB, le=256 * MIB)
    """Bytes that may be on their way on a connection, over all its requests."""
    max_connection_age: Duration = 0
    """Age at which a connection is asked to go (GOAWAY), give or take a tenth; its requests are finished. It makes
    long-lived clients spread anew over the workers. `0s`: never."""
    control_rate: Integer = Field(default=200, ge=1, le=1_000_000)
    """PING, SETTINGS and empty DATA frames that a connection may send each second, over five seconds; WINDOW_UPDATE,
    and resets of what is over, count a sixteenth. For each DATA frame of an answer four PINGs or WINDOW_UPDATEs are
    free, since that calls them forth. A connection that sends more is ended with `ENHANCE_YOUR_CALM`."""
    reset_rate: Integer = Field(default=200, ge=1, le=1_000_000)
    """Requests that a client may cancel each second, over five seconds (rapid reset, CVE-2023-44487). Not counted are
    those of whose time, as `grpc-timeout` or the route says, a quarter or less is left, and as many others as there are
    requests that were not cancelled. A request that breaks the protocol, so that the daemon resets it (CVE-2025-8671),
    counts as 25, without these exceptions. More end the connection with `ENHANCE_YOUR_CALM`."""
