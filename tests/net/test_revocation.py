"""Revocation lists and OCSP responses: what is taken, and what is wrong with the others."""

from __future__ import annotations

import time

import pytest
from authority import Authority, Pair
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp

from lb.net.tls.context import ServerContext, TicketKeys
from lb.net.tls.peer import ClientContext
from lb.net.tls.revocation import revocations_until, staple_until

AUTHORITY = Authority()
OTHER = Authority("Other")
PAIR = AUTHORITY.issue("a.test")
DAY = 24 * 3600


@pytest.mark.parametrize("algorithm", [hashes.SHA1(), hashes.SHA256()])
@pytest.mark.parametrize("days", [3, -1])
def test_a_response_says_until_when_it_is_good(algorithm: hashes.HashAlgorithm, days: int) -> None:
    der = AUTHORITY.staple(PAIR, days=days, algorithm=algorithm)
    assert abs(staple_until(der, PAIR.chain) - time.time() - days * DAY) < 60


WRONG = {
    "is about another certificate": AUTHORITY.staple(AUTHORITY.issue("a.test")),
    "is not signed for the certificate's issuer": AUTHORITY.staple(PAIR, signer=OTHER),
    "says that the certificate is revoked": AUTHORITY.staple(PAIR, ocsp.OCSPCertStatus.REVOKED),
    "says that the certificate is not known": AUTHORITY.staple(PAIR, ocsp.OCSPCertStatus.UNKNOWN),
    "is not valid yet": AUTHORITY.staple(PAIR, start=1, days=2),
    "holds no OCSP response": b"nothing",
    "is the responder's error": ocsp.OCSPResponseBuilder.build_unsuccessful(
        ocsp.OCSPResponseStatus.TRY_LATER
    ).public_bytes(serialization.Encoding.DER),
}


@pytest.mark.parametrize("said", WRONG)
def test_a_response_that_is_wrong(said: str) -> None:
    with pytest.raises(ValueError, match=said):
        staple_until(WRONG[said], PAIR.chain)


def test_a_response_that_was_changed() -> None:
    der = AUTHORITY.staple(PAIR)
    for at in range(0, len(der), 7):
        changed = der[:at] + bytes([der[at] ^ 1]) + der[at + 1 :]
        try:
            until = staple_until(changed, PAIR.chain)
        except ValueError:
            continue
        assert until == staple_until(der, PAIR.chain), at  # outside of what is signed


def test_the_issuer_is_needed() -> None:
    alone = PAIR.chain.removesuffix(AUTHORITY.pem)
    for chain in (alone, alone + OTHER.pem):
        with pytest.raises(ValueError, match="has to stand behind"):
            staple_until(AUTHORITY.staple(PAIR), chain)
    with pytest.raises(ValueError, match="no certificate"):
        staple_until(AUTHORITY.staple(PAIR), b"")


def test_lists() -> None:
    one, two = AUTHORITY.revoke(PAIR, days=3), OTHER.revoke(days=-1)
    assert abs(revocations_until(one) - time.time() - 3 * DAY) < 60
    assert abs(revocations_until(one + two) - time.time() + DAY) < 60
    for pem, said in ((b"", "holds no"), (AUTHORITY.pem, "holds no"), (one[:200] + one[300:], "broken")):
        with pytest.raises(ValueError, match=said):
            revocations_until(pem)
        with pytest.raises(ValueError, match=said):
            ClientContext(ca=AUTHORITY.pem, crl=pem or b" ")


def context(pair: Pair, staple: bytes, previous: ServerContext | None = None) -> ServerContext:
    return ServerContext([(pair.chain, pair.key, ("a.test",))], KEYS, staples=[(staple, 1 << 40)], previous=previous)


KEYS = TicketKeys()


def test_what_has_not_changed_is_taken_from_the_context_before() -> None:
    staple = AUTHORITY.staple(PAIR)
    old = context(PAIR, staple)
    assert context(PAIR, staple, old).identities == old.identities
    assert context(PAIR, AUTHORITY.staple(PAIR), old).identities != old.identities
    assert context(PAIR, b"", old).identities != old.identities
