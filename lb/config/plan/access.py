"""Of the plan, who may ask: what credentials are checked against, and what a route makes of them.

Workers get the content of files, never their names, as with TLS (lb.config.plan.tls).
"""

from __future__ import annotations

import hashlib
from typing import ClassVar

import msgpack
from msgspec import Struct

from lb.config.plan.discreet import Discreet
from lb.config.plan.wire import plain

IDENTITY = "x-tidegate-identity"
"""The header that names who a request is from: for the endpoint, and for all that goes by headers."""


class ServerPlan(Struct, frozen=True):
    """What an authorization server is asked, and what of its answer counts. Names of headers are in lower case."""

    pool: str  # name
    path: str = ""  # http
    host: str = ""  # http; "" = the endpoint's address
    headers: tuple[str, ...] | None = None  # of the request, that it is told; None = all
    set_request_headers: tuple[str, ...] = ()
    set_response_headers: tuple[str, ...] = ()  # http
    denied_headers: tuple[str, ...] = ()  # http
    identity_header: str = ""
    timeout_ns: int = 0
    cache_ns: int = 0
    cache_by: str = "request"  # request | credentials
    max_answer: int = 0
    failure_mode_allow: bool = False


class ProviderPlan(Discreet, frozen=True):
    """One way to prove who a request is from."""

    HIDDEN: ClassVar[tuple[str, ...]] = ("keys", "content")

    name: str
    type: str  # api_key | basic | grpc | http | jwt | mtls
    header: str = ""  # api_key, jwt: lower case; `authorization` = as a bearer token
    query: str = ""  # api_key: name of the parameter
    keys: tuple[tuple[str, bytes, tuple[str, ...]], ...] = ()  # api_key: names, SHA-256 of their keys, and scopes
    content: bytes = b""  # basic: of the htpasswd file; jwt: a JWK set
    issuer: str = ""  # jwt
    audience: tuple[str, ...] = ()  # jwt: one of these
    audience_claim: str = "aud"  # jwt: a name, or a JSON Pointer, as the two below
    algorithms: tuple[str, ...] = ()  # jwt
    leeway_s: int = 0  # jwt
    claim: str = ""  # jwt: that names the identity
    kept_claims: tuple[str, ...] = ()  # jwt: those that routes ask for
    names: tuple[str, ...] = ()  # mtls: names that certificates may have, "*.example.org", "spiffe://td/*"; () = any
    server: ServerPlan | None = None  # grpc, http

    @property
    def digest(self) -> str:
        """Of all its content: another one tells workers that routes with it are new."""
        return hashlib.sha256(msgpack.packb(plain(self))).hexdigest()


class AccessPlan(Struct, frozen=True):
    """What a route makes of credentials. Without providers the route asks for none: `trusted` says whether the identity
    that its requests bring is believed, or removed."""

    providers: tuple[str, ...] = ()  # names
    digests: tuple[str, ...] = ()  # of ProviderPlan, in the order of `providers`
    allow: tuple[str, ...] = ()  # identities; () = all
    scopes: tuple[str, ...] = ()  # all of them
    claims: tuple[tuple[str, tuple[str, ...]], ...] = ()  # name, and values of which one is needed
    forward_identity: bool = True
    forward_credential: bool = False
    trusted: bool = False
