"""Who may ask: providers of identities, and what routes ask for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from lb.config.plan.access import IDENTITY, AccessPlan, ProviderPlan, ServerPlan
from lb.config.schema.base import AskedPath, Boolean, FieldName, FilePath, Model, Name, problem, text
from lb.config.schema.pools.platforms import RareModel, WholeUrl
from lb.config.units import KIB, MIB, MINUTE, SECOND, Duration, Size

if TYPE_CHECKING:
    from lb.config.schema.listeners.tls import Material

IdentityName = Annotated[
    str,
    *text(
        r"[!-~](?:[ -~]{0,253}[!-~])?",
        "is not the name of an identity: 1 to 255 printable ASCII characters, the outer ones no spaces",
    ),
]
"""Who a request is from."""

ServerField = Annotated[
    str, *text(r"[A-Za-z0-9-]{1,128}", "is not the name of a header here: letters, digits and hyphens only")
]
"""A header of the answer of an authorization server, which no other spelling can stand for."""

ClaimName = Annotated[
    str,
    *text(
        r"[!-.0-~][!-~]{0,127}|(?:/(?:[!-.0-}]|~[01]){1,128}){1,8}",
        "is not the name of a claim, nor a JSON Pointer to one: printable ASCII, `~0` and `~1` for `~` and `/`",
    ),
]
"""A claim of a token by its name, or inside of objects by a JSON Pointer (RFC 6901), `/realm_access/roles`."""

_DEFAULT_HEADER = "X-Api-Key"
_TOLD = ("Authorization", "Cookie")
_DENIED = ("Content-Type", "Location", "Retry-After", "Set-Cookie", "WWW-Authenticate")
# What a server of type http is told of each request.
_OURS = frozenset(
    f"x-{name}"
    for name in (
        "forwarded-for", "forwarded-host", "forwarded-method", "forwarded-proto", "forwarded-uri", "original-method",
        "original-uri",
    )
)  # fmt: skip
_OF_TYPE = {
    "header": ("api_key", "jwt"),
    "query": ("api_key",),
    "file": ("api_key", "basic", "jwt"),
    "url": ("jwt",),
    "refresh": ("jwt",),
    "issuer": ("jwt",),
    "audience": ("jwt",),
    "audience_claim": ("jwt",),
    "algorithms": ("jwt",),
    "leeway": ("jwt",),
    "claim": ("jwt",),
    "names": ("mtls",),
    "pool": ("http", "grpc"),
    "path": ("http",),
    "host": ("http",),
    "headers": ("http", "grpc"),
    "set_request_headers": ("http", "grpc"),
    "set_response_headers": ("http",),
    "denied_headers": ("http",),
    "identity_header": ("http", "grpc"),
    "timeout": ("http", "grpc"),
    "failure_mode_allow": ("http", "grpc"),
    "cache": ("http", "grpc"),
    "cache_by": ("http", "grpc"),
    "max_answer": ("http", "grpc"),
}


Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA"]
"""A signature of RFC 7518, RFC 8037 or RFC 9864."""


class ProviderConfig(RareModel):
    """One way to prove who a request is from. Its name is the realm that clients are told."""

    type: Literal["api_key", "jwt", "basic", "mtls", "http", "grpc"]
    """`api_key`: a secret that the client sends in a header or in the query. `jwt`: a signed token that the client
    sends as a bearer token. `basic`: a user's name and password. `mtls`: the certificate that the client has shown in
    the handshake, which `client_auth` of the listener's `tls` asks for and verifies. `http`: an authorization server
    decides about each request, asked over HTTP as by NGINX's `auth_request` and Traefik's ForwardAuth. `grpc`: the same
    by Envoy's `envoy.service.auth.v3.Authorization/Check`. `jwt` and `basic` need the extra `tidegate[auth]`."""
    file: FilePath | None = None
    """`api_key`: file with a line `NAME:sha256:HEX` for each key, as `tidegate key NAME` prints it, with `:` and its
    scopes behind it if it has any, spaces between them; a name may have several keys. `basic`: an htpasswd file with
    bcrypt (`htpasswd -B`) or argon2. In both, lines that begin with `#` are comments. `jwt`: the
    issuer's public keys, as a JWK set. The file is read again when it changes."""
    url: (
        Annotated[WholeUrl, *text(r"https://.*|http://(127\.0\.0\.1|localhost|\[::1\])[:/].*", "is not https")] | None
    ) = None
    """`jwt`: where the issuer publishes its keys, in place of a file, as `jwks_uri` of its metadata says: `https`, or
    `http` on this machine. The master fetches it; redirects are not followed. What cannot be fetched, or is no JWK set,
    leaves the keys in force that were fetched last; while none was, tokens are answered with 503."""
    refresh: Duration = Field(default=1 * MINUTE, ge=1 * SECOND)
    """`jwt`: time from one fetch of `url` to the next. A new key should be in the set for longer before it signs."""
    issuer: Annotated[str, *text(r"[!-~]{1,1024}", "is not the name of an issuer")] | None = None
    """`jwt`: the issuer (`iss`) that tokens have to be of."""
    audience: Annotated[list[Annotated[str, *text(r"[!-~]{1,1024}", "is not an audience")]], Field(max_length=64)] = []
    """`jwt`: audiences, of which a token has to be for one (`aud`): that of this service, not of others that take
    tokens of the same issuer."""
    audience_claim: ClaimName = "aud"
    """`jwt`: the claim that has the audience. Another one is for issuers whose tokens have no `aud`, such as the access
    tokens of Cognito (`client_id`)."""
    algorithms: Annotated[list[Algorithm], Field(min_length=1)] = ["RS256", "PS256", "ES256", "Ed25519", "EdDSA"]
    """`jwt`: signatures that are accepted. There are none with a shared secret, and none without a signature."""
    leeway: Duration = Field(default=30 * SECOND, le=10 * MINUTE)
    """`jwt`: what clocks may differ by, for `exp`, which a token has to have, and `nbf`."""
    claim: ClaimName = "sub"
    """`jwt`: the claim that has the identity. A token without it, or where it is not 1 to 255 printable ASCII
    characters, is refused."""
    header: FieldName | None = None
    """`api_key`, `jwt`: request header (metadata of gRPC) that has the key or the token. In `Authorization` it is a
    bearer token, in any other it stands alone. Default: `X-Api-Key` for `api_key`, `Authorization` for `jwt`."""
    query: Annotated[str, *text(r"[A-Za-z0-9_.-]{1,64}", "is not the name of a parameter")] | None = None
    """`api_key`: parameter of the query that has the key, in place of a header. URLs stay in histories and in the logs
    of others; Tidegate's own log leaves the key out."""
    names: list[IdentityName] = Field(default=[], max_length=1000)
    """`mtls`: names that are accepted: of the certificate's URIs, its DNS names and its common name, in this order, the
    first that one of these equals is the identity. `*.example.org` accepts any name of a host below,
    `spiffe://example.org/*` any URI that begins so. Default: any name."""

    pool: str | None = None
    """`http`, `grpc`: name of the pool of the authorization servers, of protocol `http` or `grpc`. Its health checks,
    TLS, timeouts of connections and policy are theirs."""
    path: AskedPath = "/"
    """`http`: path that is asked for, by `GET`. The server reads what the request is in `X-Forwarded-Method`, `-Proto`,
    `-Host`, `-Uri` and `-For`, and in `X-Original-Method` and `X-Original-URI`; it gets no body."""
    host: Annotated[str, *text(r"[A-Za-z0-9._:\[\]-]{1,255}", "is not a host")] | None = None
    """`http`: the `Host` of the question. Default: the endpoint's address."""
    headers: list[FieldName] | None = Field(default=None, max_length=64)
    """`http`, `grpc`: headers of the request that the server is told. Default: `Authorization` and `Cookie` for `http`,
    all for `grpc`, but for what clients say of where they are (`X-Forwarded-…`, `Forwarded`), in place of which the
    server is told what is known. A request with two lines of `Authorization` is refused where the
    server would be told both."""
    set_request_headers: list[ServerField] = Field(default=[], max_length=32)
    """`http`, `grpc`: headers of the server's answer that the endpoint gets. What clients send under these names is
    never passed on, in whatever spelling."""
    set_response_headers: list[ServerField] = Field(default=[], max_length=32)
    """`http`: headers of the server's answer that the client gets with the endpoint's. With `grpc` they are the
    `response_headers_to_add` of the answer."""
    denied_headers: list[ServerField] = Field(default=list(_DENIED), max_length=32)
    """`http`: headers of the server's answer that the client gets where the request is denied. With `grpc` they are
    those of the `denied_response`."""
    identity_header: ServerField | None = None
    """`http`, `grpc`: header of the server's answer that says who the request is from, as 1 to 255 printable ASCII
    characters. An answer without it decides nothing then. Default: requests have no identity."""
    timeout: Duration = Field(default=1 * SECOND, ge=1_000_000)
    """`http`, `grpc`: longest time for the decision, its second attempt included."""
    failure_mode_allow: Boolean = False
    """`http`, `grpc`: whether requests are let through, without an identity, while the server does not decide. Default:
    `false`, they are answered with 503."""
    cache: Duration = Field(default=0, le=60 * MINUTE)
    """`http`, `grpc`: time that a decision is remembered in each worker, good or bad. It holds however the server
    changes its mind. Default: `0s`, each request is asked about."""
    cache_by: Literal["request", "credentials"] = "request"
    """`http`, `grpc`: what a remembered decision holds for. `request`: requests about which the server would be told
    exactly the same, the path and the client's address included. `credentials`: all requests that have the same
    `headers`, for servers that look at nothing else."""
    max_answer: Size = Field(default=64 * KIB, le=1 * MIB)
    """`http`, `grpc`: most bytes of the server's answer. Of a longer one the status counts, without the body."""

    @model_validator(mode="after")
    def _of_type(self) -> ProviderConfig:
        for name in self.model_fields_set & _OF_TYPE.keys():
            if self.type not in _OF_TYPE[name] and getattr(self, name) not in (None, []):
                raise problem(name, f"{name} is only for type {' and '.join(_OF_TYPE[name])}")
        if self.type == "jwt" and (self.issuer is None or not self.audience):
            raise problem("jwt", "issuer and audience are required for type jwt: without them tokens for others pass")
        if self.type == "jwt" and (self.file is None) == (self.url is None):
            raise problem("jwt", "file or url: exactly one has the keys of type jwt")
        if self.type in _OF_TYPE["file"] and self.file is None and self.url is None:
            raise problem("file", f"file is required for type {self.type}")
        if self.type in _OF_TYPE["pool"]:
            self._check_server()
        if self.header is not None and self.query is not None:
            raise problem("header", "header and query each have the key: one of them is enough")
        return self

    def _check_server(self) -> None:
        from lb.config.schema.routes.bodies import FRAMING
        from lb.config.schema.routes.route import FORWARDED  # which needs this module

        if self.pool is None:
            raise problem("pool", f"pool is required for type {self.type}: the authorization servers")
        if self.cache_by == "credentials" and not self.cache:
            raise problem("cache_by", "cache_by has no effect without cache")
        if self.cache_by == "credentials" and self.headers is None and self.type == "grpc":
            raise problem("cache_by", "cache_by: credentials needs headers, which have the credentials")
        for name in self.headers or ():
            if name.lower() in FRAMING or (self.type == "http" and name.lower() in _OURS):
                raise problem("headers", f"headers: {name} is set by Tidegate itself")
        for name in (*self.set_request_headers, *([self.identity_header] if self.identity_header else ())):
            if name.lower() in FRAMING | FORWARDED or name.lower() == IDENTITY:
                raise problem("headers", f"{name} is set by Tidegate itself")
        for name in (*self.set_response_headers, *self.denied_headers):
            if name.lower() in FRAMING:
                raise problem("headers", f"{name} is set by Tidegate itself")

    def server_plan(self) -> ServerPlan:
        """Of a provider that asks a server."""
        assert self.pool is not None
        told = self.headers if self.headers is not None or self.type == "grpc" else list(_TOLD)
        return ServerPlan(
            pool=self.pool,
            path=self.path,
            host=self.host or "",
            headers=None if told is None else _lowered(told),
            set_request_headers=_lowered(self.set_request_headers),
            set_response_headers=_lowered(self.set_response_headers),
            denied_headers=_lowered(self.denied_headers),
            identity_header=(self.identity_header or "").lower(),
            timeout_ns=self.timeout,
            cache_ns=self.cache,
            cache_by=self.cache_by,
            max_answer=self.max_answer,
            failure_mode_allow=self.failure_mode_allow,
        )


def _lowered(names: list[str]) -> tuple[str, ...]:
    return tuple(sorted({name.lower() for name in names}))


def _short(value: Any) -> Any:
    """A name, or a list of names, stands for a mapping."""
    if value == "none":
        return NO_AUTH
    if isinstance(value, str):
        return {"providers": [value]}
    if isinstance(value, list):
        return {"providers": value}
    return value


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Scope = Annotated[
    str, *text(r"[!#-\[\]-~]{1,128}", "is not a scope: printable ASCII without spaces, quotes and backslashes")
]
"""A scope-token of RFC 6749 section 3.3."""
ClaimValues = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=256)]],
    BeforeValidator(_listed, json_schema_input_type=str | list[str]),
    Field(min_length=1, max_length=256),
]


class AccessConfig(Model):
    """Who may send requests of a route. A name, or a list of names, is short for a mapping with `providers`."""

    providers: list[Name] = Field(min_length=1, max_length=16)
    """Names of providers of the section `auth`. The first that accepts what the request brings says who it is from."""
    allow: list[IdentityName] = Field(default=[], max_length=10_000)
    """Identities that may use the route; others are answered with 403. Default: all."""
    scopes: list[Scope] = Field(default=[], max_length=32)
    """Scopes that the credential needs, all of them: of a token those of its claims `scope` and `scp`, of an API key
    those in its line of the file. Others are answered with 403, and a bearer token is told `insufficient_scope`.
    Default: none."""
    claims: dict[ClaimName, ClaimValues] = Field(default={}, max_length=16)
    """Claims that a token needs, each with the values of which one is enough: `{groups: [ml, admins], tier: gold}`. A
    claim inside of another one is named by a JSON Pointer: `/realm_access/roles`. A claim may be a string, a boolean,
    or a list of these; of a list one value has to be among them. Others are answered with 403. Default: none."""
    forward_identity: Boolean = True
    """Whether the endpoint is told who the request is from, in `X-Tidegate-Identity`. With a section `auth` no route
    passes on what clients send under that name."""
    forward_credential: Boolean = False
    """Whether the endpoint gets the key, too."""


# What `none` stands for, which no mapping can say: anybody, whatever the listener asks for.
NO_AUTH = AccessConfig.model_construct(providers=[])


def access_of(listener: AccessConfig | None, route: AccessConfig | None) -> AccessConfig | None:
    """What is asked of those who send a route requests: as it says itself, else as its listener does."""
    access = listener if route is None else route
    return None if access is None or access == NO_AUTH else access


RouteAccess = Annotated[
    AccessConfig | None, BeforeValidator(_short, json_schema_input_type=AccessConfig | str | list[str] | None)
]


def access_plan(
    access: AccessConfig | None, providers: Mapping[str, ProviderPlan], trusted: bool = False
) -> AccessPlan | None:
    """`providers` are those of the file. `trusted`: requests come from ourselves, and bring their identity."""
    if not providers:
        return None
    forward = access is None or access.forward_identity
    if access is None or trusted:
        return AccessPlan(forward_identity=forward, trusted=trusted)
    return AccessPlan(
        providers=tuple(access.providers),
        digests=tuple(providers[name].digest for name in access.providers),
        allow=tuple(access.allow),
        scopes=tuple(sorted(set(access.scopes))),
        claims=tuple(sorted((name, tuple(sorted(set(values)))) for name, values in access.claims.items())),
        forward_identity=forward,
        forward_credential=access.forward_credential,
    )


def kept_claims(providers: Mapping[str, ProviderConfig], asked: Iterable[AccessConfig]) -> dict[str, tuple[str, ...]]:
    """For each provider of tokens, the claims that are to be kept: those that somebody asks for."""
    found: dict[str, set[str]] = {}
    for access in asked:
        for name in access.providers if access.claims else ():
            if name in providers and providers[name].type == "jwt":
                found.setdefault(name, set()).update(access.claims)
    return {name: tuple(sorted(claims)) for name, claims in found.items()}


def provider_plan(name: str, provider: ProviderConfig, material: Material) -> ProviderPlan:
    """Raises KeyError when `material` was read for another configuration."""
    content = (
        material.files[provider.file] if provider.file is not None else material.key_sets.get(provider.url or "", b"")
    )
    if provider.type == "api_key":
        header = (provider.header or _DEFAULT_HEADER).lower() if provider.query is None else ""
        return ProviderPlan(name, "api_key", header, provider.query or "", tuple(read_keys(content)))
    if provider.type == "basic":
        return ProviderPlan(name, "basic", "authorization", content=content)
    if provider.type == "jwt":
        return ProviderPlan(
            name,
            "jwt",
            (provider.header or "Authorization").lower(),
            content=content,
            issuer=provider.issuer or "",
            audience=tuple(provider.audience),
            audience_claim=provider.audience_claim,
            algorithms=tuple(provider.algorithms),
            leeway_s=provider.leeway // SECOND,
            claim=provider.claim,
        )
    if provider.type in ("http", "grpc"):
        return ProviderPlan(name, provider.type, server=provider.server_plan())
    return ProviderPlan(name, "mtls", names=tuple(provider.names))


_KEY = re.compile(
    r"([!-9;-~]{1,128}):sha256:([0-9A-Fa-f]{64})(?::([!#-\[\]-~]{1,128}(?: [!#-\[\]-~]{1,128}){0,31}))?", re.ASCII
)


def read_keys(content: bytes) -> Iterator[tuple[str, bytes, tuple[str, ...]]]:
    """Names, digests and scopes of a file of API keys. Raises ValueError, which shows nothing of a key."""
    for number, line in enumerate(content.decode("utf-8-sig", "replace").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        found = _KEY.fullmatch(line)
        if found is None:
            raise ValueError(f"line {number} is not NAME:sha256:HEX, or that with :SCOPES behind it")
        yield found[1], bytes.fromhex(found[2]), tuple((found[3] or "").split())


def credential_headers(providers: Mapping[str, ProviderConfig]) -> frozenset[str]:
    """Names, in lower case, of the headers that have keys and tokens."""
    return frozenset(
        (each.header or (_DEFAULT_HEADER if each.type == "api_key" else "Authorization")).lower()
        for each in providers.values()
    )


def provider_files(providers: Mapping[str, ProviderConfig]) -> Iterator[tuple[str, Path, ProviderConfig]]:
    """Place, path and provider of each file."""
    for name, provider in providers.items():
        if provider.file is not None:
            yield f"auth.{name}.file", provider.file, provider
