"""A certificate for the proxies' TLS listeners, and the authority that the load generators trust."""

from __future__ import annotations

import os
from pathlib import Path

import trustme

from bench.peers.base import Certificate


def make_certificate(directory: Path) -> Certificate:
    """Writes a fresh ECDSA P-256 certificate for `localhost` and 127.0.0.1 into the directory, the key for us alone.

    P-256 is the curve that handshakes of today are made with; with RSA the signature alone would be what is measured.
    """
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    issued = authority.issue_cert("localhost", "127.0.0.1", key_type=trustme.KeyType.ECDSA)
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    key = issued.private_key_pem.bytes()
    files = Certificate(
        chain=directory / "chain.pem",
        key=directory / "key.pem",
        both=directory / "both.pem",
        authority=directory / "authority.pem",
    )
    files.chain.write_bytes(chain)
    files.authority.write_bytes(authority.cert_pem.bytes())
    _write_private(files.key, key)
    _write_private(files.both, chain + key)
    return files


def _write_private(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
