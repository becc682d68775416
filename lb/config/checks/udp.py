"""What a udp listener may not say, for lb.config.checks.file: problems as (path, message)."""

from __future__ import annotations

from collections.abc import Iterator

from lb.config.schema.base import only_for
from lb.config.schema.file import KeyConfig, ListenerConfig
from lb.config.schema.listeners.tcp import SendProxyConfig

Found = tuple[str, str]


def check_source_key(path: str, key: KeyConfig) -> Iterator[Found]:
    """What the `source` of a key, which stands at `path`, cannot say where requests or connections are balanced."""
    if key.source is not None:
        yield from only_for(key.source, f"{path}.source", ("port", "destination"), "only for pools of protocol udp")


def check_udp_send_proxy(path: str, proxy: SendProxyConfig) -> Iterator[Found]:
    """What `send_proxy`, which stands at `path`, cannot say of datagrams."""
    if proxy.version == "v1":
        yield path, "v1 is for connections only; write v2"
    yield from only_for(proxy, path, ("unique_id",), "only for protocol tcp: a datagram is no connection")


def check_udp_listener(path: str, listener: ListenerConfig) -> Iterator[Found]:
    """Problems of a listener of protocol udp that its fields alone do not show."""
    if listener.routes:
        yield f"{path}.routes", "only for protocol http; a udp listener has one pool"
    if listener.idle_timeout == 0:
        yield f"{path}.idle_timeout", "must be more than 0s for protocol udp: nothing else ends a session for sure"
