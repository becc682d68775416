"""Certificates and keys in PEM: what they say, and what is wrong with those that cannot be used."""

from __future__ import annotations

import time

import pytest
from authority import Authority

from lb.net.tls.certificate import count_authorities, inspect
from lb.net.tls.context import ServerContext, TicketKeys, check_ciphers
from lb.net.tls.peer import ClientContext, Peer

AUTHORITY = Authority()
ISSUED = time.time()
PAIR = AUTHORITY.issue("example.org", "*.example.org", subject='a "quoted", name', uris=("spiffe://test/web",), days=10)
OTHER = AUTHORITY.issue("other.test", use_rsa=True)
KEYS = TicketKeys([bytes(80)])


def test_a_certificate_says_whom_it_is_for_and_how_long() -> None:
    info = inspect(PAIR.chain, PAIR.key)
    assert info.dns == ["example.org", "*.example.org"]
    assert info.uris == ["spiffe://test/web"]
    assert info.subject == r"CN=a \"quoted\"\, name"
    assert info.issuer == "CN=Test authority"
    assert abs(info.not_before - (ISSUED - 86400)) < 60
    assert abs(info.not_after - (ISSUED + 10 * 86400)) < 60
    assert len(info.fingerprint) == 64
    assert "quoted" in repr(info)


def test_certificate_and_key_may_share_a_file() -> None:
    both = PAIR.key + PAIR.chain
    assert inspect(both, both).dns[0] == "example.org"


@pytest.mark.parametrize(
    ("chain", "key", "message"),
    [
        (b"", None, "holds no certificate in PEM"),
        (b"nonsense\n", None, "holds no certificate in PEM"),
        (PAIR.key, None, "holds no certificate in PEM"),
        (PAIR.chain[:200] + b"\n-----END CERTIFICATE-----\n", None, "holds a broken certificate"),
        (
            PAIR.chain + b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            None,
            "holds a broken certificate",
        ),
        (PAIR.chain, OTHER.key, "the key does not belong to the certificate"),
        (PAIR.chain, b"", "holds no private key"),
        (PAIR.chain, PAIR.chain, "holds no private key"),
        (
            PAIR.chain,
            b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "the key is encrypted",
        ),
    ],
)
def test_what_cannot_be_used_is_named(chain: bytes, key: bytes | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inspect(chain, key)
    if key is not None:
        with pytest.raises(ValueError, match=message):
            ServerContext([(chain, key, ())], KEYS)


def test_authorities_are_counted() -> None:
    assert count_authorities(AUTHORITY.pem + Authority("Second").pem) == 2
    with pytest.raises(ValueError, match="holds no certificate"):
        count_authorities(b"# empty\n")


def test_contexts_refuse_what_openssl_refuses() -> None:
    with pytest.raises(ValueError, match="ciphers"):
        ServerContext([(PAIR.chain, PAIR.key, ())], KEYS, ciphers="none of these")
    with pytest.raises(ValueError, match="at least one certificate"):
        ServerContext([], KEYS)
    with pytest.raises(ValueError, match="holds no certificate"):
        ServerContext([(PAIR.chain, PAIR.key, ())], KEYS, client_auth="required", client_ca=b"")
    with pytest.raises(ValueError, match="80 bytes"):
        TicketKeys([b"short"])
    with pytest.raises(ValueError, match="server_name"):
        Peer(ClientContext(), "")
    with pytest.raises(ValueError, match="names no cipher suite"):
        check_ciphers("nonsense")
    check_ciphers("ECDHE+AESGCM")


def test_what_has_not_changed_is_taken_over() -> None:
    one, two, three = (AUTHORITY.issue(f"{i}.test") for i in "123")
    old = ServerContext([(p.chain, p.key, ("a.test",)) for p in (one, two)], KEYS, alpn=["h2"])
    new = ServerContext([(p.chain, p.key, ("b.test",)) for p in (three, two)], KEYS, alpn=["h2"], previous=old)
    assert new.identities[1] is old.identities[1]
    assert new.identities[0] is not old.identities[0]
    others = (
        ServerContext([(two.chain, two.key, ())], KEYS, alpn=["http/1.1"], previous=new),
        ServerContext([(two.chain, two.key, ())], KEYS, alpn=["h2"], name="other", previous=new),
        ServerContext([(two.chain, two.key, ())], TicketKeys([bytes(80)]), alpn=["h2"], previous=new),
        ServerContext(
            [(two.chain, two.key, ())], KEYS, alpn=["h2"], client_auth="optional", client_ca=AUTHORITY.pem, previous=new
        ),
    )
    assert all(other.identities[0] is not new.identities[1] for other in others)


def test_contexts_say_what_they_have() -> None:
    context = ServerContext(
        [(PAIR.chain, PAIR.key, ("example.org", "*.example.org")), (OTHER.chain, OTHER.key, ("other.test",))], KEYS
    )
    assert context.stats() == {"certificates": 2, "names": 3}
    assert not context.client_auth
    assert Peer(ClientContext(server_name="b.test"), "a.test").name == "b.test"
    assert Peer(ClientContext(verify=False), "").name == ""
