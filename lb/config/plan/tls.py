"""The part of the plan that is about TLS: what the master read from the files, so that every worker has the same.

Workers get the content of files, never their names: all of them hold the same certificate at every moment, also those
that start while a file on disk is broken, and none needs the right to read a key. Keys stay out of every `repr`.
"""

from __future__ import annotations

from typing import ClassVar

from lb.config.plan.discreet import Discreet


class CertificatePlan(Discreet, frozen=True):
    """A certificate that a listener has; PEM."""

    HIDDEN: ClassVar[tuple[str, ...]] = ("chain", "key", "staple")

    names: tuple[str, ...]  # server names it is for, "*.example.org" = one label below
    chain: bytes
    key: bytes
    staple: bytes = b""  # an OCSP response, DER; b"" = none
    staple_until: int = 0  # Unix seconds until which it is good


class TlsPlan(Discreet, frozen=True):
    """TLS of a listener. The first certificate serves clients that ask for no name, or for one that nobody has."""

    HIDDEN: ClassVar[tuple[str, ...]] = ("crl",)

    certificates: tuple[CertificatePlan, ...]
    min_version: str  # tls1.2 | tls1.3
    ciphers: str  # of TLS 1.2 in OpenSSL's spelling, "" = our choice
    alpn: tuple[str, ...]
    client_auth: str  # none | optional | required
    client_ca: bytes
    handshake_timeout_ns: int
    crl: bytes = b""  # of clients' certificates, PEM; b"" = none


class PoolTlsPlan(Discreet, frozen=True):
    """TLS towards the endpoints of a pool."""

    HIDDEN: ClassVar[tuple[str, ...]] = ("certificate", "key", "crl")

    ca: bytes  # PEM; b"" = the system's authorities
    certificate: bytes  # ours; b"" = none
    key: bytes
    server_name: str  # "" = each endpoint's own
    min_version: str
    alpn: tuple[str, ...]
    verify: bool
    crl: bytes = b""  # PEM; b"" = none
