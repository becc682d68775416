"""Certificates for tests: an authority that issues whatever is asked, good or not."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)
# RFC 5280, 4.2.1.3: asked of an authority by clients that verify strictly, as Python's do from 3.13 on.
_SIGNS = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True)
class Pair:
    """A certificate with its chain, and its key; PEM."""

    chain: bytes
    key: bytes

    def write(self, folder: Path, name: str = "server") -> tuple[str, str]:
        """The paths of both, written as name.pem and name.key."""
        chain, key = folder / f"{name}.pem", folder / f"{name}.key"
        for path, content in ((chain, self.chain), (key, self.key)):
            new = path.with_suffix(path.suffix + ".new")
            new.write_bytes(content)
            new.chmod(0o600)
            new.rename(path)
        return str(chain), str(key)


class Authority:
    """A root of its own; `pem` is what clients trust."""

    def __init__(self, name: str = "Test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 400 * DAY)
            .not_valid_after(now + 400 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_SIGNS, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.pem = self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        *names: str,
        subject: str = "",
        uris: tuple[str, ...] = (),
        start: float = -1,
        days: float = 30,
        client: bool = False,
        use_rsa: bool = False,
    ) -> Pair:
        """A certificate for names and IP addresses, valid from `start` days from now until `days` from now."""
        key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
        key = rsa.generate_private_key(65537, 2048) if use_rsa else ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject or (names or ("none",))[0])]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + start * DAY)
            .not_valid_after(now + days * DAY)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        alternatives: list[x509.GeneralName] = [_general(name) for name in names]
        alternatives += [x509.UniformResourceIdentifier(uri) for uri in uris]
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return Pair(
            certificate.public_bytes(serialization.Encoding.PEM) + self.pem,
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )

    def revoke(self, *pairs: Pair, days: float = 1) -> bytes:
        """A revocation list with `pairs`, due for a newer one in `days`; PEM."""
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(now - 10 * DAY)
            .next_update(now + days * DAY)
        )
        for pair in pairs:
            revoked = x509.RevokedCertificateBuilder().serial_number(_certificate(pair).serial_number)
            builder = builder.add_revoked_certificate(revoked.revocation_date(now - DAY).build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def staple(
        self,
        pair: Pair,
        status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
        *,
        start: float = -10,
        days: float = 1,
        algorithm: hashes.HashAlgorithm | None = None,
        signer: Authority | None = None,
    ) -> bytes:
        """An OCSP response about a certificate, valid from `start` days from now until `days` from now; DER."""
        now = datetime.datetime.now(datetime.UTC)
        revoked = status == ocsp.OCSPCertStatus.REVOKED
        builder = ocsp.OCSPResponseBuilder().add_response(
            cert=_certificate(pair),
            issuer=self._certificate,
            algorithm=algorithm or hashes.SHA1(),
            cert_status=status,
            this_update=now + start * DAY,
            next_update=now + days * DAY,
            revocation_time=now - DAY if revoked else None,
            revocation_reason=None,
        )
        by = signer or self
        builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, by._certificate)
        return builder.sign(by._key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    def client_context(self) -> ssl.SSLContext:
        """A client that trusts this authority and nobody else."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.pem.decode())
        return context


def server_context(pair: Pair, folder: Path, client_authority: Authority | None = None) -> ssl.SSLContext:
    """A server with a certificate, which asks for one of `client_authority` if there is one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair.write(folder, "endpoint"))
    if client_authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=client_authority.pem.decode())
    return context


def _certificate(pair: Pair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.chain)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
