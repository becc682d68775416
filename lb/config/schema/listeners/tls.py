"""TLS in the configuration: what listeners show and ask for, what pools ask of their endpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from msgspec import Struct, field
from pydantic import Field

from lb.config.advice.literal import token_list_advice
from lb.config.forms import by_form, members_of
from lb.config.plan.discreet import Discreet
from lb.config.plan.tls import CertificatePlan, PoolTlsPlan, TlsPlan
from lb.config.schema.access import ProviderConfig, provider_files
from lb.config.schema.base import Boolean, FilePath, Model, ServerPattern, advised, text
from lb.config.sources import Ranges
from lb.config.units import MILLISECOND, SECOND, Duration

if TYPE_CHECKING:
    from lb.config.schema.file import Config
    from lb.config.schema.routes.error_pages import ErrorPageConfig
    from lb.config.schema.tier import TierConfig

# What a listener of protocol https speaks, most wanted first.
HTTPS_ALPN = ("h2", "http/1.1")
# What pools are spoken to in, so that a server which knows ALPN can say that it cannot.
_POOL_ALPN = {"http": ("http/1.1",), "http2": ("h2",), "grpc": ("h2",), "oip": ("h2",)}

MinVersion = Literal["tls1.2", "tls1.3"]
Alpn = Annotated[
    str,
    *text(r"[!-~]{1,255}", "is not the name of a protocol: visible characters, at most 255"),
    advised(token_list_advice),
]


class CertificateConfig(Model):
    """A certificate with its key, and the names it is for."""

    cert: FilePath
    """File with the certificate and the intermediate ones behind it, in PEM."""
    key: FilePath
    """File with the private key, in PEM and without a passphrase. It may be the same file."""
    ocsp_file: FilePath | None = None
    """File with an OCSP response for the certificate, in DER (as HAProxy's `.ocsp` and nginx's `ssl_stapling_file`). It
    is given to clients that ask (stapling), until it is due for a newer one; whatever fetches that replaces the file.
    The issuer has to stand second in `cert`. A response that is about another certificate, wrongly signed or not good
    is an error; one that is too old is left out, and said so in log and status."""
    names: list[ServerPattern] = []
    """Server names that get this certificate: exact, or `*.example.org` for any one label below. An exact name goes
    before a wildcard, and of equal ones the certificate that stands first has it. Default: the DNS names in the
    certificate."""


class TlsConfig(Model):
    """TLS at a listener: versions 1.2 and 1.3, forward secrecy only (Mozilla's "intermediate")."""

    certificates: list[CertificateConfig] = Field(min_length=1)
    """The certificates. The first also serves clients that send no server name, or one that none is
    for. The files are read again on reload and when they change; a new one that cannot be used leaves the old one in
    force, with a message in log and status."""
    min_version: MinVersion = "tls1.2"
    """Oldest version that is spoken: `tls1.2` or `tls1.3`."""
    ciphers: str = Field(default="", max_length=4096)
    """Cipher suites of TLS 1.2 in OpenSSL's spelling, for rules that ask for others. Those of TLS 1.3 are all good.
    Default: ECDHE with AES-GCM or ChaCha20-Poly1305."""
    alpn: list[Alpn] | None = None
    """Protocols offered by ALPN, most wanted first; a client that asks for others only is refused. Default: all that a
    listener of protocol `https` speaks; none for `tcp`."""
    client_auth: Literal["none", "optional", "required"] = "none"
    """Whether clients show a certificate: `none` asks for none, `optional` lets those without one in, `required` does
    not. One that is shown must come from `client_ca`. Endpoints learn of it in `X-Forwarded-Client-Cert` (in Envoy's
    format); a field of that name from a client is always removed."""
    client_ca: FilePath | None = None
    """File with the authorities of the clients' certificates, in PEM. Needed by `client_auth`."""
    crl_file: FilePath | None = None
    """File with revocation lists (CRLs) of `client_ca`'s authorities, in PEM: certificates in them are refused, also to
    clients that resume a session. Each authority up to the one that is trusted needs a list, and one that is past its
    next update refuses all. The file is read again when it changes."""
    handshake_timeout: Duration = Field(default=10 * SECOND, ge=100 * MILLISECOND)
    """Longest time from a connection to the end of its handshake; then it is closed."""


class PoolTlsConfig(Model):
    """TLS towards endpoints, which have to prove who they are."""

    ca_file: FilePath | None = None
    """File with the authorities that are trusted, in PEM. Default: those of the system."""
    crl_file: FilePath | None = None
    """File with revocation lists (CRLs) of these authorities, in PEM: endpoints with a certificate in them are refused.
    Each authority up to the one that is trusted needs a list, and one that is past its next update refuses all."""
    server_name: ServerPattern | None = None
    """Name that is asked for (SNI) and that the certificates must be for. Default: the host name of each endpoint as it
    is written, or its IP address. Needed for endpoints on Unix sockets."""
    cert: FilePath | None = None
    """File with our own certificate, for endpoints that ask for one (mutual TLS), in PEM."""
    key: FilePath | None = None
    """File with its key, in PEM and without a passphrase."""
    min_version: MinVersion = "tls1.2"
    """Oldest version that is spoken: `tls1.2` or `tls1.3`."""
    insecure_skip_verify: Boolean = False
    """Takes any certificate. Whoever can get between Tidegate and an endpoint can then read and change everything; it
    is logged at every start and reload."""


class TlsFile(Struct, frozen=True):
    """A file that a TLS section names, the key of a cookie, a secret of a cache tier, who may ask or connect, a map,
    or the body of an answer; `key_of` is the certificate's file where it is a key, or a response about it."""

    where: str
    path: Path
    kind: Literal[
        "certificate",
        "key",
        "authorities",
        "secret",
        "password",
        "staple",
        "revocations",
        "access",
        "map",
        "body",
        "networks",
    ]
    key_of: Path | None = None
    served: bool = False  # a listener's, so that it needs a name
    default: bool = False  # the listener's first
    named: bool = False  # the configuration says which names it is for
    provider: ProviderConfig | None = None  # that it is of, where it says who may ask


def tls_files(config: Config) -> Iterator[TlsFile]:
    """Every file that the TLS sections, the lists of networks, the cookies, the cache tier, the sections `auth` and
    `maps` and the answers of routes of `config` name; a certificate comes before its key."""
    for name, listener in config.listeners.items():
        for key in ("allow_file", "deny_file"):
            if getattr(listener, key) is not None:
                yield TlsFile(f"listeners.{name}.{key}", getattr(listener, key), "networks")
        if listener.tls is None:
            continue
        where = f"listeners.{name}.tls"
        for i, one in enumerate(listener.tls.certificates):
            place = f"{where}.certificates[{i}]"
            yield TlsFile(f"{place}.cert", one.cert, "certificate", None, True, i == 0, bool(one.names))
            yield TlsFile(f"{place}.key", one.key, "key", one.cert)
            if one.ocsp_file is not None:
                yield TlsFile(f"{place}.ocsp_file", one.ocsp_file, "staple", one.cert)
        if listener.tls.client_ca is not None and listener.tls.client_auth != "none":
            yield TlsFile(f"{where}.client_ca", listener.tls.client_ca, "authorities")
            if listener.tls.crl_file is not None:
                yield TlsFile(f"{where}.crl_file", listener.tls.crl_file, "revocations")
    for name, pool in config.pools.items():
        if pool.tls is not None:
            yield from _files_towards(f"pools.{name}.tls", pool.tls)
        if pool.health is not None and pool.health.tls is not None:
            yield from _files_towards(f"pools.{name}.health.tls", pool.health.tls)
        if pool.affinity.cookie is not None:
            where = f"pools.{name}.affinity.cookie.key_file"
            files = pool.affinity.cookie.key_file
            for i, path in enumerate(files):
                yield TlsFile(f"{where}[{i}]" if len(files) > 1 else where, path, "secret")
    if config.cache is not None and config.cache.tier is not None:
        yield from _files_of_tier("cache.tier", config.cache.tier)
    for where, path, provider in provider_files(config.auth):
        yield TlsFile(where, path, "access", provider=provider)
    for name, of_map in config.maps.items():
        if of_map.file is not None:
            yield TlsFile(f"maps.{name}.file", of_map.file, "map")
    yield from answer_files(config)


def answer_files(config: Config) -> Iterator[TlsFile]:
    """Files that have the bodies of routes' answers, and of error pages."""
    for name, listener in config.listeners.items():
        yield from _page_files(f"listeners.{name}", listener.error_pages)
        for first, places in by_form(members_of(listener.routes)):
            if first.respond is not None and first.respond.file is not None:
                yield TlsFile(f"listeners.{name}.routes[{places[0]}].respond.file", first.respond.file, "body")
            yield from _page_files(f"listeners.{name}.routes[{places[0]}]", first.error_pages)


def _page_files(where: str, pages: Sequence[ErrorPageConfig]) -> Iterator[TlsFile]:
    for i, page in enumerate(pages):
        if page.file is not None:
            yield TlsFile(f"{where}.error_pages[{i}].file", page.file, "body")


def _files_of_tier(where: str, tier: TierConfig) -> Iterator[TlsFile]:
    yield TlsFile(f"{where}.secret_file", tier.secret_file, "secret")
    if tier.password_file is not None:
        yield TlsFile(f"{where}.password_file", tier.password_file, "password")
    if tier.tls is not None and tier.tls.ca_file is not None:
        yield TlsFile(f"{where}.tls.ca_file", tier.tls.ca_file, "authorities")
    if tier.tls is not None and tier.tls.cert is not None and tier.tls.key is not None:
        yield TlsFile(f"{where}.tls.cert", tier.tls.cert, "certificate")
        yield TlsFile(f"{where}.tls.key", tier.tls.key, "key", tier.tls.cert)


def _files_towards(where: str, tls: PoolTlsConfig) -> Iterator[TlsFile]:
    if tls.ca_file is not None:
        yield TlsFile(f"{where}.ca_file", tls.ca_file, "authorities")
    if tls.crl_file is not None:
        yield TlsFile(f"{where}.crl_file", tls.crl_file, "revocations")
    if tls.cert is not None and tls.key is not None:
        yield TlsFile(f"{where}.cert", tls.cert, "certificate")
        yield TlsFile(f"{where}.key", tls.key, "key", tls.cert)


class Material(Discreet, frozen=True):
    """What the files of the TLS sections and the cookies held when they were read together."""

    HIDDEN: ClassVar[tuple[str, ...]] = ("files", "key_sets", "maps", "sources")

    files: Mapping[Path, bytes] = field(default_factory=dict)
    names: Mapping[Path, tuple[str, ...]] = field(default_factory=dict)  # in the certificate of a file
    staples: Mapping[Path, int] = field(default_factory=dict)  # OCSP responses: until when, in Unix seconds
    key_sets: Mapping[str, bytes] = field(default_factory=dict)  # of issuers of tokens, by URL; b"" = none is known
    maps: Mapping[str, bytes] = field(default_factory=dict)  # blocks of lb.proxy.routing.values.lookup, by name
    sources: Mapping[str, Ranges] = field(default_factory=dict)  # of listeners that list who may connect, by name


NOTHING = Material()


def tls_plan(protocol: str, tls: TlsConfig, http2: bool, material: Material) -> TlsPlan:
    """The plan of a listener's TLS; `http2` says whether it speaks that. Raises KeyError when `material` was read for
    another configuration."""
    spoken = HTTPS_ALPN if http2 else HTTPS_ALPN[1:]
    alpn = tls.alpn if tls.alpn is not None else spoken if protocol == "https" else ()
    asks = tls.client_ca is not None and tls.client_auth != "none"
    return TlsPlan(
        certificates=tuple(
            CertificatePlan(
                names=tuple(one.names) or material.names[one.cert],
                chain=material.files[one.cert],
                key=material.files[one.key],
                staple=material.files[one.ocsp_file] if one.ocsp_file is not None else b"",
                staple_until=material.staples[one.ocsp_file] if one.ocsp_file is not None else 0,
            )
            for one in tls.certificates
        ),
        min_version=tls.min_version,
        ciphers=tls.ciphers,
        alpn=tuple(alpn),
        client_auth=tls.client_auth,
        client_ca=material.files[tls.client_ca] if tls.client_ca is not None and asks else b"",
        handshake_timeout_ns=tls.handshake_timeout,
        crl=material.files[tls.crl_file] if tls.crl_file is not None and asks else b"",
    )


def pool_tls_plan(protocol: str, tls: PoolTlsConfig, material: Material) -> PoolTlsPlan:
    """The plan of a pool's TLS. Raises KeyError when `material` was read for another configuration."""
    return PoolTlsPlan(
        ca=material.files[tls.ca_file] if tls.ca_file is not None else b"",
        certificate=material.files[tls.cert] if tls.cert is not None else b"",
        key=material.files[tls.key] if tls.key is not None else b"",
        server_name=tls.server_name or "",
        min_version=tls.min_version,
        alpn=_POOL_ALPN.get(protocol, ()),
        verify=not tls.insecure_skip_verify,
        crl=material.files[tls.crl_file] if tls.crl_file is not None else b"",
    )
