"""Where a listener below HTTP sends a connection: rules of `tls` listeners, and pools that share connections."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from lb.config.advice.literal import token_list_advice
from lb.config.schema.base import Model, advised, problem
from lb.config.schema.listeners.tcp import Network, ServerName, one_or_more
from lb.config.schema.pools.pool import KeyConfig
from lb.config.schema.routes.route import ShareConfig

Shares = Annotated[list[ShareConfig], Field(max_length=64)]
"""Pools that share something by weight."""


class SniRouteConfig(Model):
    """One rule of a `tls` listener; all that is given has to hold. Among rules that fit, the one with the most exact
    name decides: the name itself, then the longest `*.` pattern, then rules without a name; then the order in the
    file. Exactly one of `pool`, `pools` and `listener` says where the connection goes."""

    sni: Annotated[list[ServerName], BeforeValidator(one_or_more, json_schema_input_type=str | list[ServerName])] = []
    """Names that the client asks for in its ClientHello (SNI): `example.org`, or `*.example.org` for any name below
    `example.org`. Default: any, and clients that name none."""
    alpn: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=255), advised(token_list_advice)]],
        BeforeValidator(one_or_more, json_schema_input_type=str | list[str]),
    ] = []
    """Application protocols, such as `h2`, of which the client offers at least one. Default: any."""
    source: Annotated[list[Network], BeforeValidator(one_or_more, json_schema_input_type=str | list[Network])] = []
    """Networks of the client's address. Default: any."""
    tls: Literal["passthrough", "terminate"] = "passthrough"
    """`passthrough` leaves TLS to the endpoint. `terminate` ends it here, with the certificates of the listener's
    section `tls`, and passes on the bytes inside; a pool with a section `tls` of its own gets them encrypted anew."""
    pool: str | None = None
    """Name of the pool that takes the connections."""
    pools: Shares = []
    """Pools that share the connections by weight, for canaries and splits."""
    sticky: KeyConfig | None = None
    """What keeps a client with one of the `pools`: `source: true`, or its network. Default: each connection goes to one
    of them at random."""
    listener: str | None = None
    """Name of a listener of protocol `https`, which takes the connection as if it had come to its own address: with its
    certificates, routes, limits and timeouts. The connection stays in the worker; there is no hop in between. One that
    would be more than that listener's `max_connections` is refused with the alert `internal_error`."""

    @model_validator(mode="after")
    def _one_place(self) -> SniRouteConfig:
        given = [key for key in ("pool", "pools", "listener") if getattr(self, key)]
        if len(given) != 1:
            raise problem("sni_route", "exactly one of pool, pools and listener says where the connection goes")
        if self.listener is not None and "tls" in self.model_fields_set:
            raise problem("sni_route", "tls has no effect with listener, which ends TLS itself")
        return self
