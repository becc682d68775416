"""The part of the plan that is about TLS: what the master read from the files, so that every worker has the same.

Workers get the content of files, never their names: all of them hold the same certificate at every moment, also those
that start while a file on disk is broken, and none needs the right to read a key. Keys stay out of every `repr`.
"""

from __future__ import annotations

from dataclasses import field

from lb.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class CertificatePlan:
    """A certificate that a listener has; PEM."""

    names: tuple[str, ...]  # server names it is for, "*.example.org" = one label below
    chain: bytes = field(repr=False)
    key: bytes = field(repr=False)
    staple: bytes = field(default=b"", repr=False)  # an OCSP response, DER; b"" = none
    staple_until: int = 0  # Unix seconds until which it is good


@dataclass(frozen=True, slots=True)
class TlsPlan:
    """TLS of a listener. The first certificate serves clients that ask for no name, or for one that nobody has."""

    certificates: tuple[CertificatePlan, ...]
    min_version: str  # tls1.2 | tls1.3
    ciphers: str  # of TLS 1.2 in OpenSSL's spelling, "" = our choice
    alpn: tuple[str, ...]
    client_auth: str  # none | optional | required
    client_ca: bytes
    handshake_timeout_ns: int
    crl: bytes = field(default=b"", repr=False)  # of clients' certificates, PEM; b"" = none


@dataclass(frozen=True, slots=True)
class PoolTlsPlan:
    """TLS towards the endpoints of a pool."""

    ca: bytes  # PEM; b"" = the system's authorities
    certificate: bytes = field(repr=False)  # ours; b"" = none
    key: bytes = field(repr=False)
    server_name: str  # "" = each endpoint's own
    min_version: str
    alpn: tuple[str, ...]
    verify: bool
    crl: bytes = field(default=b"", repr=False)  # PEM; b"" = none
