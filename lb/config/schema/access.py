"""Who may ask: providers of identities, and what routes ask for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from lb.config.plan.access import AccessPlan, ProviderPlan
from lb.config.schema.base import Boolean, FieldName, FilePath, Model, Name, problem, text
from lb.config.schema.pools.platforms import RareModel

if TYPE_CHECKING:
    from lb.config.schema.listeners.tls import Material

IdentityName = Annotated[
    str,
    *text(
        r"[!-~](?:[ -~]{0,126}[!-~])?",
        "is not the name of an identity: 1 to 128 printable ASCII characters, the outer ones no spaces",
    ),
]
"""Who a request is from."""

_DEFAULT_HEADER = "X-Api-Key"
_OF_TYPE = {
    "header": ("api_key",),
    "query": ("api_key",),
    "file": ("api_key", "basic", "jwt"),
    "issuer": ("jwt",),
    "audience": ("jwt",),
    "algorithms": ("jwt",),
    "leeway": ("jwt",),
    "claim": ("jwt",),
    "names": ("mtls",),
}


class ProviderConfig(RareModel):
    """One way to prove who a request is from. Its name is the realm that clients are told."""

    type: Literal["api_key", "mtls"]
    """`api_key`: a secret that the client sends in a header or in the query. `mtls`: the certificate that the client
    has shown in the handshake, which `client_auth` of the listener's `tls` asks for and verifies."""
    file: FilePath | None = None
    """`api_key`: file with a line `NAME:sha256:HEX` for each key, as `tidegate key NAME` prints it. Lines that begin
    with `#` are comments. A name may have several keys. The file is read again when it changes."""
    header: FieldName | None = None
    """`api_key`: request header (metadata of gRPC) that has the key. In `Authorization` the key is a bearer token.
    Default: `X-Api-Key`."""
    query: Annotated[str, *text(r"[A-Za-z0-9_.-]{1,64}", "is not the name of a parameter")] | None = None
    """`api_key`: parameter of the query that has the key, in place of a header. URLs stay in histories and in the logs
    of others; Tidegate's own log leaves the key out."""
    names: list[IdentityName] = Field(default=[], max_length=1000)
    """`mtls`: names that are accepted: of the certificate's URIs, its DNS names and its common name, in this order, the
    first that one of these equals is the identity. `*.example.org` accepts any name below, `spiffe://example.org/*` any
    URI that begins so. Default: any name."""

    @model_validator(mode="after")
    def _of_type(self) -> ProviderConfig:
        for name in self.model_fields_set & _OF_TYPE.keys():
            if self.type not in _OF_TYPE[name] and getattr(self, name) not in (None, []):
                raise problem(name, f"{name} is only for type {' and '.join(_OF_TYPE[name])}")
        if self.type in _OF_TYPE["file"] and self.file is None:
            raise problem("file", f"file is required for type {self.type}")
        if self.header is not None and self.query is not None:
            raise problem("header", "header and query each have the key: one of them is enough")
        return self


def _short(value: Any) -> Any:
    """A name, or a list of names, stands for a mapping."""
    if isinstance(value, str):
        return {"providers": [value]}
    if isinstance(value, list):
        return {"providers": value}
    return value


class AccessConfig(Model):
    """Who may send requests of a route. A name, or a list of names, is short for a mapping with `providers`."""

    providers: list[Name] = Field(min_length=1, max_length=16)
    """Names of providers of the section `auth`. The first that accepts what the request brings says who it is from."""
    allow: list[IdentityName] = Field(default=[], max_length=10_000)
    """Identities that may use the route; others are answered with 403. Default: all."""
    forward_identity: Boolean = True
    """Whether the endpoint is told who the request is from, in `X-Tidegate-Identity`. With a section `auth` no route
    passes on what clients send under that name."""
    forward_credential: Boolean = False
    """Whether the endpoint gets the key, too."""


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
        forward_identity=forward,
        forward_credential=access.forward_credential,
    )


def provider_plan(name: str, provider: ProviderConfig, material: Material) -> ProviderPlan:
    """Raises KeyError when `material` was read for another configuration."""
    content = material.files[provider.file] if provider.file is not None else b""
    if provider.type == "api_key":
        header = (provider.header or _DEFAULT_HEADER).lower() if provider.query is None else ""
        return ProviderPlan(name, "api_key", header, provider.query or "", tuple(read_keys(content)))
    return ProviderPlan(name, "mtls", names=tuple(provider.names))


_KEY = re.compile(r"([!-9;-~]{1,128}):sha256:([0-9A-Fa-f]{64})", re.ASCII)


def read_keys(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and digests of a file of API keys. Raises ValueError, which shows nothing of a key."""
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        found = _KEY.fullmatch(line)
        if found is None:
            raise ValueError(f"line {number} is not NAME:sha256:HEX")
        yield found[1], bytes.fromhex(found[2])


def check_content(provider: ProviderConfig, content: bytes) -> None:
    """Whether a provider's file can be used. Raises ValueError."""
    if not any(True for _ in read_keys(content)):
        raise ValueError("has no keys")


def provider_files(providers: Mapping[str, ProviderConfig]) -> Iterator[tuple[str, Path, ProviderConfig]]:
    """Place, path and provider of each file."""
    for name, provider in providers.items():
        if provider.file is not None:
            yield f"auth.{name}.file", provider.file, provider
